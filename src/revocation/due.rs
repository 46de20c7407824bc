//! Does the revocation tasks that are due.

use std::{mem, sync::Arc, time::Duration};

use futures_util::future;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Revocation, RevocationScope,
    task::{LookUp, Task, retry_at},
};
use crate::{
    ably::{RestClient, RevocationQueue, RevokeOutcome, Target},
    clock::UnixMillis,
    store::{Coverage, DenialSource, StoredTask, Subject},
    tenant::{Tenant, TenantName},
};

/// The outcome of a task.
#[derive(Debug, PartialEq, Eq)]
enum Performed {
    /// All targets are done.
    Whole,
    /// Some targets remain, due at this time.
    Partly(Task, UnixMillis),
    /// All of it is due again at this time.
    AgainAt(UnixMillis),
}

impl Revocation {
    /// When to look again for a replica that can revoke tokens of this tenant.
    const OTHERS_AFTER: Duration = Duration::from_secs(5);
    /// How often the store is asked for work that is due.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    /// How much is done at once: enough to fill calls to Ably, and little enough to be done within [`StoredTask::LEASE`].
    const MOST_WORK_AT_ONCE: usize = 2 * RestClient::MAX_TARGETS;
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
            tracing::info!(tenant = %task.tenant, "revocation task skipped: the tokens have ended, or the denial was lifted");
            return Performed::Whole;
        }
        let Some((tenant, queue)) = self.revoking(&task.tenant) else {
            tracing::warn!(tenant = %task.tenant, "no tenant here can revoke these tokens; leaving the task to another replica");
            return Performed::AgainAt(now.after(Self::OTHERS_AFTER));
        };
        let mut coverage = Coverage::AllReplicas;
        if task.look_up == LookUp::Again {
            let found = self.pending(tenant, task.scope.clone(), task.at, now).await;
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

    fn revoking(&self, tenant: &TenantName) -> Option<(&Tenant, &RevocationQueue)> {
        let tenant = self.tenants.named(tenant)?;
        Some((tenant, tenant.revocation_queue.as_ref()?))
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
