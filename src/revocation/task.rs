//! What is left to be done of a revocation, as it waits in the store, and the doing of it.

use std::{mem, sync::Arc, time::Duration};

use futures_util::future;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Authority, PendingRevocation, Revocation, RevocationQueue, RevocationScope, RevokeOutcome, queue::retry_of_target,
};
use crate::{
    ably::{ReauthMargin, RestClient, Target},
    clock::UnixMillis,
    store::{Coverage, DenialSource, Restriction, StoredTask, Subject},
    tenant::TenantName,
};

/// Tokens to be revoked, as it waits in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    tenant: TenantName,
    scope: RevocationScope,
    pub(super) margin: ReauthMargin,
    /// What was to be revoked when the event came.
    pub(super) targets: Vec<Target>,
    /// Whether what came after it is to be revoked too.
    look_up: LookUp,
    /// The event's timestamp.
    at: UnixMillis,
    /// When every token that it is about has ended by itself.
    over: UnixMillis,
    /// Whether it is the rest of a revocation of which Ably refused some.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_rest_of_refused: bool,
    /// RevocationScope an operator denied: when none of them is any more, it is not to be revoked again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    denied: Vec<Subject>,
}

/// Whether the tokens that are out are looked up when a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LookUp {
    /// They are, and revoked with what was known before.
    Again,
    /// What was known before is all.
    Never,
}

/// What became of a task.
#[derive(Debug, PartialEq, Eq)]
enum Performed {
    /// Nothing is left to be done.
    Whole,
    /// Ably did not take some of it, which is due at some time.
    Partly(Task, UnixMillis),
    /// It is to be done again, all of it, at some time.
    AgainAt(UnixMillis),
}

impl Task {
    /// A token that can be revoked lives for an hour at most (40003 above it).
    pub(super) const LONGEST_LIFE: Duration = Duration::from_hours(1);

    pub(super) fn new(authority: &Authority, pending: PendingRevocation, now: UnixMillis) -> Self {
        let PendingRevocation { scope, margin, targets, at, denied, any_known: _, coverage: _ } = pending;
        // For as long as the denial lasts, a replica that has not heard of it may issue more.
        let over = now.after(authority.tokens_end_within());
        let tenant = authority.tenant.clone();
        Self { tenant, scope, margin, targets, look_up: LookUp::Again, at, over, is_rest_of_refused: false, denied }
    }

    /// What is left of it by what Ably said of its targets; none if nothing is.
    pub(super) fn rest(&self, outcomes: &[RevokeOutcome]) -> Option<Self> {
        let unavailable = self
            .targets
            .iter()
            .zip(outcomes)
            .filter(|(_, outcomes)| matches!(outcomes, RevokeOutcome::Unavailable { .. }));
        let targets: Vec<_> = unavailable.map(|(target, _)| target.clone()).collect();
        let is_rest_of_refused = self.is_rest_of_refused || outcomes.iter().any(RevokeOutcome::is_refused);
        if targets.is_empty() {
            return None;
        }
        Some(Self { targets, look_up: LookUp::Never, is_rest_of_refused, ..self.clone() })
    }

    /// Under a name of its own, by the work whose rest it is.
    pub(super) fn as_rest_of(&self, work: &StoredTask, due: UnixMillis) -> StoredTask {
        let whole = work.id.split("/rest/").next().unwrap_or_default();
        StoredTask { id: format!("{whole}/rest/{}", due.0), ..self.as_work("", due) }
    }

    pub(super) fn as_work(&self, turn: &str, due: UnixMillis) -> StoredTask {
        let payload = serde_json::to_string(self).unwrap_or_default();
        StoredTask { id: format!("{}/{turn}", self.effect()), due, payload }
    }

    /// What this revocation is called, in whatever delivery and however often its event comes.
    pub(super) fn effect(&self) -> String {
        let scope = serde_json::to_string(&self.scope).unwrap_or_default();
        format!("{}/{scope}/{}", self.tenant, self.at.0)
    }

    /// What it is called that Ably refuses to revoke the tokens under a user's former names: the same for every event that
    /// tells the name.
    pub(super) fn refused_rename(&self) -> Option<String> {
        matches!(self.scope, RevocationScope::FormerClientIds { .. }).then(|| refused_rename(&self.tenant, &self.scope))
    }

    /// Until when the service knows that this revocation is done: as long as it knows the event's timestamp.
    pub(super) fn remembered_until(&self, now: UnixMillis) -> UnixMillis {
        self.over.max(now.after(Restriction::REMEMBERED_FOR))
    }
}

/// See [`Task::refused_rename`].
pub(super) fn refused_rename(tenant: &TenantName, scope: &RevocationScope) -> String {
    format!("{tenant}/refused/{}", serde_json::to_string(scope).unwrap_or_default())
}

/// When to retry what Ably did not take, first due at `first_due`.
pub(super) fn retry_at(outcomes: &[RevokeOutcome], first_due: UnixMillis, now: UnixMillis) -> UnixMillis {
    let next_calls = outcomes.iter().filter_map(|outcomes| match outcomes {
        RevokeOutcome::Unavailable { retry_at } => *retry_at,
        RevokeOutcome::Accepted { .. } | RevokeOutcome::Refused { .. } => None,
    });
    next_calls.max().unwrap_or_else(|| retry_of_target(first_due, now))
}

impl Revocation {
    /// When to look again for a replica that can revoke tokens of this tenant.
    const OTHERS_AFTER: Duration = Duration::from_secs(5);
    /// How often the store is asked for work that is due.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    /// How much is done at once: enough to fill calls to Ably, and little enough to be done within [`StoredTask::LEASE`].
    const MOST_WORK_AT_ONCE: usize = 2 * RestClient::MOST_TARGETS;
    /// How long work that nobody here can read is left to others.
    const UNREAD_FOR: Duration = Duration::from_hours(24);
    const UNREAD_AGAIN_AFTER: Duration = Duration::from_mins(1);

    /// Does what is due, for ever.
    pub async fn work(self: Arc<Self>) {
        let mut look = interval(Self::LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let this = Arc::clone(&self);
            // By itself: whatever ends it ends no more than this turn. What it had claimed comes again after the lease.
            let turn = tokio::spawn(async move { this.do_due_work(UnixMillis::now).await });
            if turn.await.is_err() {
                tracing::error!("due revocations were interrupted; they are tried again in half a minute");
            }
        }
    }

    /// Does all that is due. `now` is asked for each part, as the one before it may have waited for Ably.
    pub(super) async fn do_due_work(&self, now: impl Fn() -> UnixMillis) {
        loop {
            self.catch_up_after_outage(now()).await;
            let claimed = self.store.claim_tasks(Self::MOST_WORK_AT_ONCE, now()).await;
            let count = claimed.len();
            future::join_all(claimed.into_iter().map(|work| self.perform(work, now()))).await;
            if count < Self::MOST_WORK_AT_ONCE {
                return;
            }
        }
    }

    async fn perform(&self, work: StoredTask, now: UnixMillis) {
        let performed = match serde_json::from_str::<Task>(&work.payload) {
            Ok(task) => self.perform_task(task, work.due, now).await,
            Err(_) if work.due.after(Self::UNREAD_FOR) < now => {
                tracing::error!("giving up work in the store that no replica could read for a day");
                Performed::Whole
            }
            Err(_) => {
                tracing::warn!("work in the store is unreadable; leaving it to a replica of another version");
                Performed::AgainAt(now.after(Self::UNREAD_AGAIN_AFTER))
            }
        };
        // Work that stays claimed comes again when the lease is over.
        let _ = match performed {
            Performed::Whole => self.store.complete_task(&work.id).await,
            Performed::AgainAt(due) => self.store.postpone_task(&work.id, due).await,
            Performed::Partly(rest, due) => {
                // Under a name of its own, so that it can be stored before this is completed.
                match self.store.enqueue_task(rest.as_rest_of(&work, due), now).await {
                    Ok(()) => self.store.complete_task(&work.id).await,
                    Err(_) => self.store.postpone_task(&work.id, due).await,
                }
            }
        };
    }

    async fn perform_task(&self, mut task: Task, first_due: UnixMillis, now: UnixMillis) -> Performed {
        if task.over < now || self.is_lifted(&task) {
            tracing::info!(tenant = %task.tenant, "tokens need not be revoked any more: they have ended, or the denial is lifted");
            return Performed::Whole;
        }
        let Some((authority, queue)) = self.revoking(&task.tenant) else {
            tracing::warn!(tenant = %task.tenant, "tokens to be revoked are of no tenant here that can; it is left to others");
            return Performed::AgainAt(now.after(Self::OTHERS_AFTER));
        };
        let mut coverage = Coverage::AllReplicas;
        if task.look_up == LookUp::Again {
            let found = self.pending(authority, task.scope.clone(), task.at, now).await;
            coverage = found.coverage;
            let new: Vec<_> = found.targets.into_iter().filter(|target| !task.targets.contains(target)).collect();
            task.targets.extend(new);
        }
        let targets = mem::take(&mut task.targets);
        task.targets = targets.into_iter().filter(|target| !self.is_named_again(&task, target)).collect();
        let outcomes = queue.revoke(&task.targets, task.margin, now).await;
        let retry_at = retry_at(&outcomes, first_due, now);
        let performed = match (task.rest(&outcomes), coverage) {
            (None, Coverage::AllReplicas) => Performed::Whole,
            (Some(rest), Coverage::AllReplicas) if rest.targets.len() < task.targets.len() => {
                Performed::Partly(rest, retry_at)
            }
            (Some(_), _) => Performed::AgainAt(retry_at),
            // Not at once: what is known was revoked.
            (None, Coverage::ThisReplica) => Performed::AgainAt(now.after(Self::AGAIN_AFTER)),
        };
        if outcomes.iter().any(RevokeOutcome::is_refused) {
            self.store.release(&task.effect()).await;
            self.note_refused(&task, now).await;
        } else if performed == Performed::Whole && task.is_rest_of_refused {
            self.note_refused(&task, now).await;
        } else if performed == Performed::Whole {
            // In a shared store it was done when this task was stored.
            if !self.store.is_shared() {
                self.store.mark_done(&task.effect(), task.remembered_until(now), now).await;
            }
            // A rest may be of another event than the one that was refused.
            if task.look_up == LookUp::Again {
                self.forget_refused(&task).await;
            }
        }
        performed
    }

    /// Notes that Ably refuses a rename, so that the next event that tells the same name revokes the tokens.
    pub(super) async fn note_refused(&self, task: &Task, now: UnixMillis) {
        if let Some(refused) = task.refused_rename() {
            self.store.mark_done(&refused, task.remembered_until(now), now).await;
        }
    }

    pub(super) async fn forget_refused(&self, task: &Task) {
        if let Some(refused) = task.refused_rename() {
            self.store.release(&refused).await;
        }
    }

    fn revoking(&self, tenant: &TenantName) -> Option<(&Authority, &RevocationQueue)> {
        let authority = self.authority(tenant)?;
        Some((authority, authority.ably.as_ref()?))
    }

    /// Whether a ban was lifted since, or what an operator denied.
    fn is_lifted(&self, task: &Task) -> bool {
        let is_lifted = |subject: &Subject, source| {
            self.store.restrictions().is_lifted_since(&task.tenant, subject, source, task.at)
        };
        match &task.scope {
            _ if !task.denied.is_empty() => {
                task.denied.iter().all(|subject| is_lifted(subject, DenialSource::Operator))
            }
            RevocationScope::User(user) => is_lifted(&Subject::User(user.clone()), DenialSource::Clerk),
            _ => false,
        }
    }

    /// Whether a target is a client ID that was to end with a change of name, and has become the user's again.
    fn is_named_again(&self, task: &Task, target: &Target) -> bool {
        let (RevocationScope::FormerClientIds { user, .. }, Target::ClientId(client_id)) = (&task.scope, target) else {
            return false;
        };
        self.store
            .restrictions()
            .client_id(&task.tenant, user)
            .is_some_and(|name| name.at > task.at && name.is(client_id.as_str()))
    }
}
