//! Revocation: access that ends at Clerk, or by an operator request, ends at Ably.
//!
//! [`Revocation::apply`] takes an event from Clerk:
//! 1. It records restrictions, so that no new tokens are issued. This comes first, because clients ask for a new token as
//!    soon as theirs is revoked.
//! 2. It revokes the live tokens at Ably.
//! 3. It stores a task that revokes again after [`Revocation::REPEAT_AFTER`]: a client can exchange a token request for two
//!    minutes after it was signed, and the first revocation does not cover that token.
//!
//! [`Revocation::perform_tasks`] performs the stored tasks: repetitions, and retries of what Ably could not do.
//! [`operator`] has the same steps for operator requests.

mod due;
pub mod operator;
mod scope;
mod task;

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

pub use scope::RevocationScope;
use scope::{ended_by, restrictions_of};
use task::{Task, is_any_refused, refused_rename_key, retry_at};

use crate::{
    ably::{ClientId, RevocationQueue, RevokeOutcome, Target, TokenFormat},
    clerk::{Change, Event},
    clock::{self, UnixMillis},
    store::{
        Coverage, CurrentClientId, DenialSource, IdempotencyClaim, LiveTokens, RecordOutcome, Restriction,
        RestrictionKind, Store, StoreError, Subject,
    },
    tenant::{Tenant, TenantName, Tenants},
};

/// Ends access of the users of all tenants.
#[derive(Debug)]
pub struct Revocation {
    store: Arc<Store>,
    tenants: Arc<Tenants>,
    started_at: UnixMillis,
    /// Restrictions that this replica learned late, and whose tasks are not stored yet.
    late_restrictions: Mutex<Vec<Restriction>>,
}

/// The outcome of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The event took effect, or what is left of it is stored as tasks.
    InForce,
    /// A newer event came before it.
    Outdated,
}

/// Why Clerk has to deliver an event again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// A restriction or task is not stored, or other replicas may have issued tokens that this one does not know.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ably did not revoke the tokens yet, and the retry would be lost with this process.
    #[error("Ably cannot revoke tokens now")]
    Ably,
    /// Another delivery of the same event is in progress.
    #[error("another delivery of this event is in progress")]
    InProgress,
}

impl Revocation {
    /// How long after a revocation it is repeated. A token request can be exchanged for two minutes, and clocks differ.
    pub const REPEAT_AFTER: Duration = Duration::from_secs(150);

    /// Ends access with the restrictions and tasks of `store`. The service starts `now`.
    #[must_use]
    pub fn new(store: Arc<Store>, tenants: Arc<Tenants>, now: UnixMillis) -> Self {
        Self { store, tenants, started_at: now, late_restrictions: Mutex::default() }
    }

    /// Applies an event. After `Ok`, Clerk need not deliver it again.
    ///
    /// If one step fails, the others are still taken.
    pub async fn apply(&self, tenant: &TenantName, event: &Event, now: UnixMillis) -> Result<Applied, Incomplete> {
        let Some(tenant) = self.tenants.named(tenant) else { return Ok(Applied::InForce) };
        // The tokens that it ends have expired, and the store may have forgotten a newer event that undid it.
        if event.at.after(tenant.tokens_end_within().max(Restriction::REMEMBERED_FOR)) < now {
            return Ok(Applied::Outdated);
        }
        let restrictions = restrictions_of(event, tenant, now);
        let known = event.change.user_id().and_then(|user| self.store.restrictions().client_id(&tenant.name, user));
        let mut ended = self.ended_tokens(tenant, &restrictions, known, now).await;
        let mut result = Ok(());
        // Before the new client ID is recorded: a later delivery finds it known, and revokes nothing.
        if known.is_none_or(|known| known.at < event.at) {
            for (scope, at) in ended.iter().filter(|(scope, _)| scope.is_rename()) {
                result = result.and(self.enqueue_repetition(tenant, scope.clone(), *at, now).await);
            }
        }
        let (applied, recorded) = self.record(restrictions, now).await;
        result = result.and(recorded);
        // Before the user is removed from the cache.
        let expected = tenant.expected_target(&event.change);
        match applied {
            // The newer event decides which tokens end.
            Applied::Outdated => ended.retain(|(_, at)| *at > event.at),
            Applied::InForce => result = result.and(self.update_caches(tenant, &event.change).await),
        }
        for (scope, at) in ended {
            let (mut task, LiveTokens { coverage, .. }) =
                self.make_task(tenant, scope, event.change.user_id(), at, now).await;
            if task.targets.is_empty() && self.may_have_unknown_tokens(tenant, &task, now) {
                task.targets = match (&expected, event.change.user_id()) {
                    (Some(target), _) => vec![target.clone()],
                    (None, Some(user)) => {
                        self.make_task(tenant, RevocationScope::Of(Subject::User(user.to_owned())), None, at, now)
                            .await
                            .0
                            .targets
                    }
                    (None, None) => Vec::new(),
                };
            }
            result = result.and(self.revoke_once(tenant, &task, coverage, now).await);
        }
        result.map(|()| applied)
    }

    /// The tokens that an event ends, each with the timestamp of the event that ends them.
    async fn ended_tokens(
        &self,
        tenant: &Tenant,
        restrictions: &[Restriction],
        known: Option<CurrentClientId>,
        now: UnixMillis,
    ) -> Vec<(RevocationScope, UnixMillis)> {
        let mut ended = Vec::new();
        for restriction in restrictions {
            if let Some(newly_ended) = ended_by(restriction, known) {
                ended.push(newly_ended);
            } else if let Some(scope) = RevocationScope::of(restriction).filter(RevocationScope::is_rename)
                && tenant.revocation_queue.is_some()
                && self.store.is_done(&refused_rename_key(&tenant.name, &scope), now).await
            {
                // The client ID is known, but Ably refused to revoke the tokens with former ones.
                ended.push((scope, known.map_or(restriction.at, |known| known.at.max(restriction.at))));
            }
        }
        ended
    }

    /// Records restrictions up to the first outdated one.
    async fn record(&self, restrictions: Vec<Restriction>, now: UnixMillis) -> (Applied, Result<(), Incomplete>) {
        let mut result = Ok(());
        for restriction in restrictions {
            match self.store.record(restriction, now).await {
                Ok(RecordOutcome::Outdated) => return (Applied::Outdated, result),
                Ok(RecordOutcome::New | RecordOutcome::Repeated) => {}
                Err(error) => result = Err(error.into()),
            }
        }
        (Applied::InForce, result)
    }

    /// Removes a changed user from the caches of all replicas, and puts the new state into this replica's.
    async fn update_caches(&self, tenant: &Tenant, change: &Change) -> Result<(), Incomplete> {
        let (user_id, updated) = match change {
            Change::UserDeleted { user_id } => (user_id, None),
            Change::UserUpdated(user) => (&user.id, Some(user)),
            _ => return Ok(()),
        };
        let forgotten = self.store.forget_user(&tenant.name, user_id).await;
        if let (Some(user), Some(users)) = (updated, tenant.users()) {
            users.update(user.clone());
        }
        Ok(forgotten?)
    }

    /// Whether tokens may exist although no live token in the scope is known. Then the client ID that the user should have
    /// is revoked: for a whole user always; for a session only while tokens from before a restart may live, since the
    /// user's other devices have to reconnect.
    fn may_have_unknown_tokens(&self, tenant: &Tenant, task: &Task, now: UnixMillis) -> bool {
        match task.scope {
            RevocationScope::Of(Subject::User(_)) => true,
            RevocationScope::Of(Subject::Session(_)) => {
                !self.store.is_shared()
                    && now < self.started_at.after(Task::LONGEST_TOKEN + Self::REPEAT_AFTER)
                    && now < task.at.after(tenant.tokens_end_within())
            }
            RevocationScope::Of(Subject::Member { .. } | Subject::Organization(_))
            | RevocationScope::FormerClientIds { .. }
            | RevocationScope::ClientIds(_) => false,
        }
    }

    /// A task that revokes the live tokens in a scope, and these tokens.
    async fn make_task(
        &self,
        tenant: &Tenant,
        scope: RevocationScope,
        session_user: Option<&str>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> (Task, LiveTokens) {
        let live = match scope.holder(session_user) {
            Some(holder) => self.store.live_tokens(&tenant.name, &holder, now).await,
            None => LiveTokens { live_tokens: Vec::new(), coverage: Coverage::AllReplicas },
        };
        let targets = scope.targets(tenant.format(), &live.live_tokens);
        let session_user = session_user.map(str::to_owned);
        (Task { session_user, ..Task::new(tenant, scope, targets, at, now) }, live)
    }

    /// Stores the second revocation of a change of client ID before the first.
    async fn enqueue_repetition(
        &self,
        tenant: &Tenant,
        scope: RevocationScope,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), Incomplete> {
        if tenant.revocation_queue.is_none() {
            return Ok(());
        }
        let (task, live) = self.make_task(tenant, scope, None, at, now).await;
        self.store.enqueue_task(task.stored("again", now.after(Self::REPEAT_AFTER))).await?;
        Ok(require_all_replicas(live.coverage)?)
    }

    /// Revokes tokens, unless an earlier delivery of the same event has done so.
    async fn revoke_once(
        &self,
        tenant: &Tenant,
        task: &Task,
        coverage: Coverage,
        now: UnixMillis,
    ) -> Result<(), Incomplete> {
        let Some(queue) = &tenant.revocation_queue else { return Ok(()) };
        let key = task.idempotency_key();
        match self.store.claim_once(&key, now).await {
            IdempotencyClaim::Granted => {}
            IdempotencyClaim::InProgress => return Err(Incomplete::InProgress),
            IdempotencyClaim::Done => return Ok(()),
        }
        let outcomes = self.revoke(queue, task, coverage, now).await;
        match &outcomes {
            Ok(outcomes) if !is_any_refused(outcomes) => {
                self.store.mark_done(&key, task.remembered_until(now), now).await;
                self.clear_refused_rename(task).await;
            }
            // A later delivery revokes again: the operator may have fixed the cause by then.
            Ok(_) => {
                self.store.release(&key).await;
                self.mark_refused_rename(task, now).await;
            }
            Err(_) => self.store.release(&key).await,
        }
        outcomes.map(|_| ())
    }

    /// Revokes tokens at Ably now, and stores tasks for the repetition and for the targets that Ably did not revoke.
    async fn revoke(
        &self,
        queue: &RevocationQueue,
        task: &Task,
        coverage: Coverage,
        now: UnixMillis,
    ) -> Result<Vec<RevokeOutcome>, Incomplete> {
        // Before the call to Ably: the process may stop at any moment.
        let repetition = self.store.enqueue_task(task.stored("again", now.after(Self::REPEAT_AFTER))).await;
        let outcomes = queue.revoke(&task.targets, task.margin, now).await;
        repetition?;
        require_all_replicas(coverage)?;
        match task.remaining(&outcomes) {
            Some(remaining) => {
                let retry = remaining.stored("first", retry_at(&outcomes, now, now));
                self.store.enqueue_task(retry).await?;
                if !self.store.is_shared() {
                    return Err(Incomplete::Ably);
                }
            }
            // An earlier delivery may have left a retry.
            None if !self.store.is_shared() => {
                self.store.complete_task(&task.stored("first", now).id, UnixMillis(i64::MAX)).await?;
            }
            None => {}
        }
        Ok(outcomes)
    }

    /// Remembers that Ably refused the revocation after a change of client ID, so that the next event with this client ID
    /// revokes again.
    async fn mark_refused_rename(&self, task: &Task, now: UnixMillis) {
        if let Some(key) = task.refused_rename_key() {
            self.store.mark_done(&key, task.remembered_until(now), now).await;
        }
    }

    async fn clear_refused_rename(&self, task: &Task) {
        if let Some(key) = task.refused_rename_key() {
            self.store.release(&key).await;
        }
    }

    /// Stores tasks for the tokens that this replica may have issued before it learned, late, of their restrictions.
    /// Restrictions whose tasks the store has no room for are kept for the next call.
    async fn enqueue_late_restrictions(&self, now: UnixMillis) {
        let mut late = self.late_restrictions.lock().await;
        late.extend(self.store.take_late_restrictions());
        while let Some(restriction) = late.pop() {
            if self.enqueue_late_restriction(&restriction, now).await == Err(StoreError::Full) {
                late.push(restriction);
                return;
            }
        }
    }

    async fn enqueue_late_restriction(&self, restriction: &Restriction, now: UnixMillis) -> Result<(), StoreError> {
        let tenant = self.tenants.named(&restriction.tenant).filter(|tenant| tenant.revocation_queue.is_some());
        let (Some(tenant), Some(scope)) = (tenant, RevocationScope::of(restriction)) else { return Ok(()) };
        let (mut task, _) = self.make_task(tenant, scope, None, restriction.at, now).await;
        if restriction.kind == RestrictionKind::Denied(DenialSource::Operator) {
            task.denied.push(restriction.subject.clone());
        }
        // A name for each replica, which has issued tokens of its own, and for each time: an earlier task may be postponed.
        let name = format!("late/{}/{}", self.started_at.0, now.0);
        let repetition = task.stored(&format!("{name}/again"), now.after(Self::REPEAT_AFTER));
        let repetition = self.store.enqueue_task(repetition).await;
        repetition.and(self.store.enqueue_task(task.stored(&name, now)).await)
    }
}

/// An error if other replicas may have issued tokens that this one does not know.
fn require_all_replicas(coverage: Coverage) -> Result<(), StoreError> {
    match coverage {
        Coverage::AllReplicas => Ok(()),
        Coverage::ThisReplica => Err(StoreError::Unavailable),
    }
}

/// How long a denial lasts if session tokens live for at most `longest_life`, and clocks differ by `skew_ms`.
#[must_use]
pub fn denial(longest_life: Duration, skew_ms: i64) -> Duration {
    longest_life + 2 * Duration::from_millis(skew_ms.unsigned_abs())
}

/// The latest time at which a token that is issued now expires: a token request can be exchanged for two minutes, and
/// Ably's clock may differ.
#[must_use]
pub fn ends_by(format: TokenFormat, ttl: Duration, now: UnixMillis) -> UnixMillis {
    const EXCHANGE_WITHIN: Duration = Duration::from_mins(2);
    const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(30);
    let exchange = if format == TokenFormat::TokenRequest { EXCHANGE_WITHIN } else { Duration::ZERO };
    UnixMillis(now.0.saturating_add(clock::millis(ttl + exchange + CLOCKS_DIFFER_BY)))
}

impl Tenant {
    /// A restriction that lasts as long as a session token can live.
    fn restriction(&self, subject: Subject, kind: RestrictionKind, at: UnixMillis, now: UnixMillis) -> Restriction {
        Restriction { tenant: self.name.clone(), subject, kind, at, until: now.after(self.denial) }
    }

    /// How long after an event the tokens that it ends have expired. The last of them is issued when the denial ends, for a
    /// session token from before the event.
    fn tokens_end_within(&self) -> Duration {
        self.denial + Task::LONGEST_TOKEN + Revocation::REPEAT_AFTER
    }

    /// The client ID that the user of an event should have, to revoke if no live token is known.
    fn expected_target(&self, change: &Change) -> Option<Target> {
        match change {
            Change::UserUpdated(user) => self.target_of(&user.id, user.username.as_deref()),
            Change::SessionEnded { user_id: Some(user_id), username: Some(username), .. } => {
                self.target_of(user_id, Some(username))
            }
            _ => self.target_of_cached(change.user_id()?),
        }
    }

    fn target_of_cached(&self, user_id: &str) -> Option<Target> {
        let user = self.users().and_then(|users| users.cached(user_id));
        self.target_of(user_id, user.as_ref().and_then(|user| user.username.as_deref()))
    }

    /// `None` if the client ID depends on a session token, or on an unknown username.
    fn target_of(&self, user_id: &str, username: Option<&str>) -> Option<Target> {
        ClientId::parse(self.identity.template().of_user(user_id, username)?).ok().map(Target::ClientId)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_with_ably;
