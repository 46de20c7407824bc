//! Performs revocation tasks: at once, and when they are due.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Revocation,
    task::{Performed, RevocationScope, SignedTarget, Task},
};
use crate::{
    ably::{ClientId, ReauthMargin, RestClient, RevokeOutcome, Target, retry_of_target},
    clock::{Clock, UnixMillis},
    store::{
        Claim, ClientIdDigest, DenialSource, LiveTokens, Restriction, RestrictionKind, StoredTask, Subject, Topic,
    },
    tenant::Tenant,
};

impl Revocation {
    const POLL_INTERVAL: Duration = Duration::from_secs(1);
    /// Enough tasks to fill calls to Ably, and few enough to finish within [`StoredTask::LEASE`].
    const MAX_CLAIMED: usize = 2 * RestClient::MAX_TARGETS;
    /// By then somebody may have fixed the cause.
    pub const REFUSED_RETRY: Duration = Duration::from_mins(10);

    /// Performs due tasks by a clock, forever.
    pub async fn perform_tasks(self: Arc<Self>, clock: Clock) {
        let mut ticks = interval(Self::POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (this, clock) = (Arc::clone(&self), Arc::clone(&clock));
            // A panic ends only this spawned task. Claimed tasks become due again after the lease.
            let performing = tokio::spawn(async move { this.perform_due_tasks(|| clock()).await });
            if performing.await.is_err() {
                tracing::error!("revocation tasks interrupted; retrying in 30 seconds");
            }
        }
    }

    /// Performs all due tasks. Reads the time for each batch, since the one before may have waited for Ably.
    pub(super) async fn perform_due_tasks(&self, now: impl Fn() -> UnixMillis) {
        loop {
            let claimed = self.store.claim_tasks(Claim::Due(Self::MAX_CLAIMED), now()).await.unwrap_or_default();
            if claimed.is_empty() {
                return;
            }
            future::join_all(claimed.into_iter().map(|claimed| self.perform(claimed, now()))).await;
        }
    }

    /// Claims the first task of a recorded event or request. `None`: it has been performed.
    pub(super) async fn claim_first(&self, first: &StoredTask, now: UnixMillis) -> Option<StoredTask> {
        let claimed = self.store.claim_tasks(Claim::Named(&first.id), now).await;
        // If the store fails, the task may be performed twice.
        claimed.map_or_else(|_| Some(first.clone()), |mut claimed| claimed.pop())
    }

    /// Performs a claimed task, and removes it or puts it back.
    pub(super) async fn perform(&self, claimed: StoredTask, now: UnixMillis) -> Performed {
        let Ok(mut task) = serde_json::from_str::<Task>(&claimed.payload) else {
            if claimed.due.after(StoredTask::UNREAD_FOR) < now {
                tracing::error!("unreadable revocation task dropped: no replica could read it for a day");
                let _ = self.store.end_claim(&claimed, None).await;
            } else {
                tracing::warn!("unreadable revocation task; leaving it to a replica of another version");
            }
            return Performed::NOTHING;
        };
        let performed = self.revoke(&mut task, now).await;
        let rest = task.split(&claimed);
        if !rest.is_empty() {
            // If Redis fails, this replica performs them.
            let _ = self.store.record(&[], &rest, now).await;
        }
        let left = StoredTask { payload: task.payload(), ..claimed };
        // If the store fails here, the task becomes due again after the lease.
        let _ = self.store.end_claim(&left, performed.retry_at).await;
        performed
    }

    /// Revokes the targets of a task, and notes those that Ably has not revoked.
    async fn revoke(&self, task: &mut Task, now: UnixMillis) -> Performed {
        if task.until < now || self.is_over(task, now) {
            tracing::info!(tenant = %task.tenant, "revocation task skipped: the tokens have expired, or the denial is over");
            return Performed::NOTHING;
        }
        let soon = retry_of_target(task.due, now);
        let Some(tenant) = self.tenants.named(&task.tenant).filter(|tenant| tenant.is_revocable()) else {
            tracing::warn!(tenant = %task.tenant, "no tenant here can revoke these tokens; leaving the task to another replica");
            return Performed { retry_at: Some(soon), ..Performed::NOTHING };
        };
        let is_first_search = task.unrevoked.is_none();
        let mut targets = task.unrevoked.take().unwrap_or_default();
        let mut live = LiveTokens::NONE;
        if is_first_search || task.others_unsearched {
            let found;
            (found, live) = self.look_up(tenant, task, now).await;
            let is_of_session = matches!(task.scope, RevocationScope::Of(Subject::Session(_)));
            if is_of_session && task.session_user.is_none() && live == LiveTokens::NONE {
                tracing::info!(tenant = %task.tenant, session = task.scope.id(), "no live token of this session is known");
            }
            // A replica's own tokens are revoked once, not each time that it cannot search for others'.
            if is_first_search || live.of_others.is_ok() {
                targets.extend(found);
            }
        }
        task.others_unsearched = live.of_others.is_err();
        if let RevocationScope::FormerClientIds { user, .. } = &task.scope {
            // A former client ID may have become the current one again.
            let current = self.newer(task, &Subject::User(user.clone()), Topic::ClientId).map(|newer| newer.kind);
            let is_current = |client_id: &ClientId| {
                current == Some(RestrictionKind::ClientId(Some(ClientIdDigest::of(client_id.as_str()))))
            };
            targets.retain(|signed| !matches!(&signed.target, Target::ClientId(client_id) if is_current(client_id)));
        }
        let outcomes = call_ably(tenant, task.scope.margin(tenant.format()), targets, now).await;
        let retries = outcomes.iter().filter_map(|(_, outcome)| match outcome {
            RevokeOutcome::Accepted { .. } => None,
            RevokeOutcome::Refused { .. } => Some(now.after(Self::REFUSED_RETRY)),
            RevokeOutcome::Unavailable { retry_at } => Some(retry_at.unwrap_or(soon)),
        });
        let unrevoked = outcomes.iter().filter(|(_, outcome)| !outcome.is_accepted());
        task.unrevoked = Some(unrevoked.map(|(target, _)| target.clone()).collect());
        // The known tokens are revoked, so looking for those of other replicas can wait.
        let look_up_at = task.others_unsearched.then(|| now.after(Self::REPEAT_AFTER));
        let retry_at = retries.chain(look_up_at).min();
        Performed { outcomes, live, retry_at }
    }

    /// The targets of a task, and the live tokens that were found.
    pub(super) async fn look_up(
        &self,
        tenant: &Tenant,
        task: &Task,
        now: UnixMillis,
    ) -> (BTreeSet<SignedTarget>, LiveTokens) {
        let find = async |scope: &RevocationScope| {
            let holder = scope.holder(task.session_user.as_deref());
            let mut live = self.store.live_tokens(&tenant.name, &holder, now).await;
            live.live_tokens.retain(|live_token| scope.includes(live_token));
            (scope.targets(tenant, &live.live_tokens), live)
        };
        let found = find(&task.scope).await;
        // Tokens that are not known may exist: for a whole user always; for a session only while tokens from before a restart may
        // live, since the user's other devices have to reconnect.
        let may_be_unknown = match task.scope {
            RevocationScope::Of(Subject::User(_)) => true,
            RevocationScope::Of(Subject::Session(_)) => {
                !self.store.is_shared()
                    && now < self.started_at.after(Task::LONGEST_TOKEN + Self::REPEAT_AFTER)
                    && now < task.at.after(tenant.tokens_end_within())
            }
            _ => false,
        };
        if !found.0.is_empty() || !may_be_unknown {
            return found;
        }
        match (&task.expected, &task.session_user) {
            (None, Some(user)) => find(&RevocationScope::Of(Subject::User(user.clone()))).await,
            (expected, _) => (SignedTarget::by_all_keys(tenant, expected.as_ref()), found.1),
        }
    }

    /// Whether all denials were lifted since the event, or replaced by an operator's that have ended.
    fn is_over(&self, task: &Task, now: UnixMillis) -> bool {
        let is_over = |(subject, source): &(Subject, DenialSource)| {
            self.newer(task, subject, Topic::Denial(*source)).is_some_and(|newer| {
                newer.kind == RestrictionKind::Lifted(*source)
                    || (*source == DenialSource::Operator && !newer.is_active(now))
            })
        };
        !task.denials.is_empty() && task.denials.iter().all(is_over)
    }

    /// The restriction that counts, if it is newer than the task's event.
    fn newer(&self, task: &Task, subject: &Subject, topic: Topic) -> Option<Restriction> {
        self.store.restrictions().latest(&task.tenant, subject, topic).filter(|latest| latest.at > task.at)
    }
}

/// Revokes targets at Ably, those of each key with that key.
async fn call_ably(
    tenant: &Tenant,
    margin: ReauthMargin,
    targets: BTreeSet<SignedTarget>,
    now: UnixMillis,
) -> Vec<(SignedTarget, RevokeOutcome)> {
    let signed: Vec<_> = targets.into_iter().collect();
    let calls = signed.chunk_by(|one, other| one.key == other.key).map(async |of_one_key| {
        let targets: Vec<_> = of_one_key.iter().map(|signed| signed.target.clone()).collect();
        if let Some(queue) = of_one_key.first().and_then(|signed| tenant.revocation_queue(&signed.key)) {
            return queue.revoke(&targets, margin, now).await;
        }
        tracing::warn!(tenant = %tenant.name, "no API key here signed these tokens; leaving them to another replica");
        vec![RevokeOutcome::Unavailable { retry_at: None }; targets.len()]
    });
    let outcomes = future::join_all(calls).await.concat();
    signed.into_iter().zip(outcomes).collect()
}
