//! Performs the revocation tasks that are due.

use std::{mem, sync::Arc, time::Duration};

use futures_util::future;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Revocation, RevocationScope,
    task::{Task, is_any_refused, retry_at},
};
use crate::{
    ably::{RestClient, Target},
    clock::{Clock, UnixMillis},
    store::{Coverage, DenialSource, StoredTask, Subject},
};

/// What is left of a task.
#[derive(Debug, PartialEq, Eq)]
enum Remainder {
    Nothing,
    /// Some of the targets, due at this time.
    Some(Task, UnixMillis),
    /// The whole task, due at this time.
    All(UnixMillis),
}

impl Revocation {
    const POLL_INTERVAL: Duration = Duration::from_secs(1);
    /// Enough tasks to fill calls to Ably, and few enough to finish within [`StoredTask::LEASE`].
    const MAX_CLAIMED: usize = 2 * RestClient::MAX_TARGETS;
    /// Another replica may have the task's tenant, or may be able to read the task.
    const UNKNOWN_TENANT_RETRY: Duration = Duration::from_secs(5);
    const UNREADABLE_RETRY: Duration = Duration::from_mins(1);

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
            self.enqueue_late_restrictions(now()).await;
            let claimed = self.store.claim_tasks(Self::MAX_CLAIMED, now()).await;
            let count = claimed.len();
            future::join_all(claimed.into_iter().map(|stored| self.perform_stored(stored, now()))).await;
            if count < Self::MAX_CLAIMED {
                return;
            }
        }
    }

    async fn perform_stored(&self, stored: StoredTask, now: UnixMillis) {
        let remainder = match serde_json::from_str::<Task>(&stored.payload) {
            Ok(task) => self.perform(task, stored.due, now).await,
            Err(_) if stored.due.after(StoredTask::UNREAD_FOR) < now => {
                tracing::error!("unreadable revocation task dropped: no replica could read it for a day");
                Remainder::Nothing
            }
            Err(_) => {
                tracing::warn!("unreadable revocation task; leaving it to a replica of another version");
                Remainder::All(now.after(Self::UNREADABLE_RETRY))
            }
        };
        // If the store fails here, the task becomes due again after the lease.
        let _ = match remainder {
            Remainder::Nothing => self.store.complete_task(&stored.id, stored.due).await,
            Remainder::All(due) => self.store.postpone_task(&stored.id, due).await,
            Remainder::Some(task, due) => match self.store.enqueue_task(task.stored_remainder(&stored, due)).await {
                Ok(()) => self.store.complete_task(&stored.id, stored.due).await,
                Err(_) => self.store.postpone_task(&stored.id, due).await,
            },
        };
    }

    async fn perform(&self, mut task: Task, first_due: UnixMillis, now: UnixMillis) -> Remainder {
        if task.until < now || self.is_lifted(&task) {
            tracing::info!(tenant = %task.tenant, "revocation task skipped: the tokens have expired, or the denial was lifted");
            return Remainder::Nothing;
        }
        let tenant = self.tenants.named(&task.tenant);
        let Some((tenant, queue)) = tenant.and_then(|tenant| Some((tenant, tenant.revocation_queue.as_ref()?))) else {
            tracing::warn!(tenant = %task.tenant, "no tenant here can revoke these tokens; leaving the task to another replica");
            return Remainder::All(now.after(Self::UNKNOWN_TENANT_RETRY));
        };
        let mut coverage = Coverage::AllReplicas;
        if task.looks_up {
            let (found, live) =
                self.make_task(tenant, task.scope.clone(), task.session_user.as_deref(), task.at, now).await;
            coverage = live.coverage;
            let new: Vec<_> = found.targets.into_iter().filter(|target| !task.targets.contains(target)).collect();
            task.targets.extend(new);
        }
        let targets = mem::take(&mut task.targets);
        task.targets = targets.into_iter().filter(|target| !self.is_current_client_id(&task, target)).collect();
        let outcomes = queue.revoke(&task.targets, task.margin, now).await;
        let retry_at = retry_at(&outcomes, first_due, now);
        let remainder = match (task.remaining(&outcomes), coverage) {
            (None, Coverage::AllReplicas) => Remainder::Nothing,
            // The known tokens are revoked, so looking for those of other replicas can wait.
            (None, Coverage::ThisReplica) => Remainder::All(now.after(Self::REPEAT_AFTER)),
            (Some(remaining), Coverage::AllReplicas) if remaining.targets.len() < task.targets.len() => {
                Remainder::Some(remaining, retry_at)
            }
            (Some(_), _) => Remainder::All(retry_at),
        };
        let is_done = remainder == Remainder::Nothing;
        if is_any_refused(&outcomes) {
            self.store.release(&task.idempotency_key()).await;
            self.mark_refused_rename(&task, now).await;
        } else if is_done && task.is_partly_refused {
            self.mark_refused_rename(&task, now).await;
        } else if is_done {
            // With a shared store, the event was done when this task was stored.
            if !self.store.is_shared() {
                self.store.mark_done(&task.idempotency_key(), task.remembered_until(now), now).await;
            }
            // What remained of a revocation may be of another event than the refused one.
            if task.looks_up {
                self.clear_refused_rename(&task).await;
            }
        }
        remainder
    }

    /// Whether the ban, or all of the operator's denials, were lifted since the event.
    fn is_lifted(&self, task: &Task) -> bool {
        let is_lifted = |subject: &Subject, source| {
            self.store.restrictions().is_lifted_since(&task.tenant, subject, source, task.at)
        };
        match &task.scope {
            _ if !task.denied.is_empty() => {
                task.denied.iter().all(|subject| is_lifted(subject, DenialSource::Operator))
            }
            RevocationScope::Of(Subject::User(user)) => is_lifted(&Subject::User(user.clone()), DenialSource::Clerk),
            _ => false,
        }
    }

    /// Whether a user's former client ID has become the current one again since the event.
    fn is_current_client_id(&self, task: &Task, target: &Target) -> bool {
        let (RevocationScope::FormerClientIds { user, .. }, Target::ClientId(client_id)) = (&task.scope, target) else {
            return false;
        };
        let current = self.store.restrictions().client_id(&task.tenant, user);
        current.is_some_and(|current| current.at > task.at && current.is(client_id.as_str()))
    }
}
