//! Access that ends: what an event at Clerk ends or changes is denied here and revoked at Ably.
//!
//! A denial or a mark comes first: what is revoked asks for a token again at once. Then Ably is outcomes, and outcomes once more
//! after [`Revocation::AGAIN_AFTER`]: a token request that was signed a moment before can still be exchanged for two
//! minutes, and yields a token that the first revocation does not coverage.

mod due;
mod effect;
pub mod operator;
mod task;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use effect::RevocationScope;
use effect::{Effect, ended_by, revoked_by, targets};
use task::{PendingRevocation, Task};

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

/// Ends access, of the users of all tenants.
#[derive(Debug)]
pub struct Revocation {
    store: Arc<dyn Store>,
    tenants: Arc<Tenants>,
    started_at: UnixMillis,
    /// What was heard late, and is not left as work yet.
    unanswered: Mutex<Vec<Restriction>>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It has taken effect, or what is left of it is stored as work to be done.
    InForce,
    /// A newer one had come before it.
    Outdated,
}

/// Why an event is not safe to forget yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// The denial, or the work that is left, is not stored; or other replicas may have issued tokens that are not known.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ably has not taken the revocation, and only this process would try again.
    #[error("Ably cannot be outcomes to revoke tokens now")]
    Ably,
    /// Another delivery of the same event is being handled.
    #[error("another delivery of this event is in progress")]
    InProgress,
}

impl Revocation {
    /// How long after a revocation it is repeated. A token request is good for two minutes, and clocks differ.
    pub const AGAIN_AFTER: Duration = Duration::from_secs(150);

    /// Ends access by way of `store`, which begins now unless it is shared.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tenants: Arc<Tenants>, now: UnixMillis) -> Self {
        Self { store, tenants, started_at: now, unanswered: Mutex::default() }
    }

    /// Lets an event take effect. It may be forgotten once this is `Ok`.
    ///
    /// What fails keeps nothing else from being done: a denial that cannot be stored holds here, and Ably can be outcomes.
    pub async fn apply(&self, tenant: &TenantName, event: &Event, now: UnixMillis) -> Result<Applied, Incomplete> {
        let Some(tenant) = self.tenants.named(tenant) else { return Ok(Applied::InForce) };
        // Every token that it could end has ended, and a newer event that undid it may be forgotten.
        if event.at.after(tenant.tokens_end_within().max(Restriction::REMEMBERED_FOR)) < now {
            return Ok(Applied::Outdated);
        }
        let name_before =
            event.change.user_id().and_then(|user| self.store.restrictions().client_id(&tenant.name, user));
        let effect = Effect::of(event, tenant, now);
        let mut ended = Vec::new();
        for restriction in &effect.restrictions {
            ended.extend(match ended_by(restriction, name_before) {
                None => self.refused_before(tenant, restriction, name_before, now).await,
                ended => ended,
            });
        }
        let mut outcome = Ok(());
        // Before a new name is stored: once it is known, it is not new any more.
        let is_new_name = name_before.is_none_or(|before| before.at < event.at);
        for (scope, at) in
            ended.iter().filter(|(scope, _)| is_new_name && matches!(scope, RevocationScope::FormerClientIds { .. }))
        {
            outcome = outcome.and(self.revoke_again(tenant, scope, *at, now).await);
        }
        let mut applied = Applied::InForce;
        for restriction in &effect.restrictions {
            match self.store.record(restriction.clone(), now).await {
                Ok(RecordOutcome::Outdated) => {
                    applied = Applied::Outdated;
                    break;
                }
                Ok(RecordOutcome::New | RecordOutcome::Repeated) => {}
                Err(error) => outcome = Err(error.into()),
            }
        }
        let presumed = tenant.presumed_target(&event.change);
        match applied {
            Applied::Outdated => ended.retain(|(_, at)| *at > event.at),
            Applied::InForce => {
                if let Some(user) = &effect.forget {
                    outcome = outcome.and(self.store.forget_user(&tenant.name, user).await.map_err(Incomplete::from));
                }
                if let (Some(user), Some(users)) = (effect.learn, tenant.users()) {
                    users.update(user);
                }
            }
        }
        for (scope, at) in ended {
            let mut pending = self.pending(tenant, scope, at, now).await;
            if pending.targets.is_empty() && self.may_be_presumed(tenant, &pending, now) {
                pending.targets = match (&presumed, event.change.user_id()) {
                    (Some(target), _) => vec![target.clone()],
                    (None, Some(user)) => {
                        self.pending(tenant, RevocationScope::User(user.to_owned()), at, now).await.targets
                    }
                    (None, None) => Vec::new(),
                };
            }
            outcome = outcome.and(self.revoke(tenant, pending, now).await);
        }
        outcome.map(|()| applied)
    }

    /// What an event ends that tells a name again, if Ably refused to revoke the tokens under former names when it was new.
    async fn refused_before(
        &self,
        tenant: &Tenant,
        restriction: &Restriction,
        before: Option<CurrentClientId>,
        now: UnixMillis,
    ) -> Option<(RevocationScope, UnixMillis)> {
        let scope = revoked_by(restriction).filter(|scope| matches!(scope, RevocationScope::FormerClientIds { .. }))?;
        let is_refused = tenant.revocation_queue.is_some()
            && self.store.is_done(&task::refused_rename(&tenant.name, &scope), now).await;
        is_refused.then(|| (scope, before.map_or(restriction.at, |before| before.at.max(restriction.at))))
    }

    /// Whether the client ID that somebody should have is revoked where nothing is known to be out. Of a whole user
    /// always; of a session only while tokens may be out that a store of this process cannot know, since the user's other
    /// devices have to reconnect for it.
    fn may_be_presumed(&self, tenant: &Tenant, pending: &PendingRevocation, now: UnixMillis) -> bool {
        match pending.scope {
            RevocationScope::User(_) => true,
            RevocationScope::Session(_) => {
                !self.store.is_shared()
                    && now < self.started_at.after(Task::LONGEST_LIFE + Self::AGAIN_AFTER)
                    && now < pending.at.after(tenant.tokens_end_within())
            }
            RevocationScope::Member { .. }
            | RevocationScope::Organization(_)
            | RevocationScope::FormerClientIds { .. }
            | RevocationScope::ClientIds(_) => false,
        }
    }

    /// Leaves as due work what this replica may have issued against denials and marks while it could not hear of them.
    /// What there is no room for is tried again.
    async fn catch_up_after_outage(&self, now: UnixMillis) {
        self.unanswered().extend(self.store.take_late_restrictions());
        loop {
            let Some(restriction) = self.unanswered().pop() else { return };
            if self.revoke_later(&restriction, now).await == Err(StoreError::Full) {
                self.unanswered().push(restriction);
                return;
            }
        }
    }

    async fn revoke_later(&self, restriction: &Restriction, now: UnixMillis) -> Result<(), StoreError> {
        let tenant = self.tenants.named(&restriction.tenant).filter(|tenant| tenant.revocation_queue.is_some());
        let (Some(tenant), Some(scope)) = (tenant, revoked_by(restriction)) else { return Ok(()) };
        let mut pending = self.pending(tenant, scope, restriction.at, now).await;
        if restriction.kind == RestrictionKind::Denied(DenialSource::Operator) {
            pending.denied.push(restriction.subject.clone());
        }
        let task = Task::new(tenant, pending, now);
        // Each replica has issued tokens of its own.
        let turn = format!("late/{}", self.started_at.0);
        let again =
            self.store.enqueue_task(task.as_work(&format!("{turn}/again"), now.after(Self::AGAIN_AFTER)), now).await;
        again.and(self.store.enqueue_task(task.as_work(&turn, now), now).await)
    }

    fn unanswered(&self) -> MutexGuard<'_, Vec<Restriction>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pending(
        &self,
        tenant: &Tenant,
        scope: RevocationScope,
        at: UnixMillis,
        now: UnixMillis,
    ) -> PendingRevocation {
        let LiveTokens { live_tokens, coverage } = match scope.holder() {
            Some(holder) => self.store.live_tokens(&tenant.name, &holder, now).await,
            None => LiveTokens { live_tokens: Vec::new(), coverage: Coverage::AllReplicas },
        };
        let (targets, margin) = (targets(&scope, tenant.format(), &live_tokens), scope.margin(tenant.format()));
        PendingRevocation {
            scope,
            margin,
            targets,
            any_known: !live_tokens.is_empty(),
            coverage,
            at,
            denied: Vec::new(),
        }
    }

    /// Has Ably outcomes of tokens later, and not now.
    async fn revoke_again(
        &self,
        tenant: &Tenant,
        scope: &RevocationScope,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), Incomplete> {
        if tenant.revocation_queue.is_none() {
            return Ok(());
        }
        let pending = self.pending(tenant, scope.clone(), at, now).await;
        let coverage = pending.coverage;
        let task = Task::new(tenant, pending, now);
        self.store.enqueue_task(task.as_work("again", now.after(Self::AGAIN_AFTER)), now).await?;
        if coverage == Coverage::ThisReplica { Err(StoreError::Unavailable.into()) } else { Ok(()) }
    }

    /// Revokes tokens, unless an earlier delivery of the same event did.
    async fn revoke(&self, tenant: &Tenant, pending: PendingRevocation, now: UnixMillis) -> Result<(), Incomplete> {
        let Some(queue) = &tenant.revocation_queue else { return Ok(()) };
        let coverage = pending.coverage;
        let task = Task::new(tenant, pending, now);
        let effect = task.effect();
        match self.store.claim_once(&effect, now).await {
            IdempotencyClaim::Granted => {}
            IdempotencyClaim::InProgress => return Err(Incomplete::InProgress),
            IdempotencyClaim::Done => return Ok(()),
        }
        let revoked = self.revoke_and_repeat(queue, &task, coverage, now).await;
        if revoked == Ok(Completion::Whole) {
            self.store.mark_done(&effect, task.remembered_until(now), now).await;
            self.forget_refused(&task).await;
        } else {
            self.store.release(&effect).await;
        }
        if revoked == Ok(Completion::NotAll) {
            self.note_refused(&task, now).await;
        }
        revoked.map(|_| ())
    }

    /// Tells Ably, and has it outcomes again. What is to be outcomes again is stored first, as this replica may end any moment.
    async fn revoke_and_repeat(
        &self,
        queue: &RevocationQueue,
        task: &Task,
        coverage: Coverage,
        now: UnixMillis,
    ) -> Result<Completion, Incomplete> {
        let again = self.store.enqueue_task(task.as_work("again", now.after(Self::AGAIN_AFTER)), now).await;
        let outcomes = queue.revoke(&task.targets, task.margin, now).await;
        again?;
        if coverage == Coverage::ThisReplica {
            return Err(StoreError::Unavailable.into());
        }
        let rest = task.rest(&outcomes).map(|rest| rest.as_work("first", task::retry_at(&outcomes, now, now)));
        match (rest, self.store.is_shared()) {
            (Some(rest), true) => self.store.enqueue_task(rest, now).await?,
            (Some(rest), false) => {
                self.store.enqueue_task(rest, now).await?;
                return Err(Incomplete::Ably);
            }
            (None, true) => {}
            // With what an earlier delivery left.
            (None, false) => self.store.complete_task(&task.as_work("first", now).id).await?,
        }
        Ok(if outcomes.iter().any(RevokeOutcome::is_refused) { Completion::NotAll } else { Completion::Whole })
    }
}

/// What became of a revocation that needs no other delivery of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completion {
    /// Ably has taken it, or what is left is stored for all replicas.
    Whole,
    /// Ably refuses some of it: another delivery may have more luck, once the operator has mended the cause.
    NotAll,
}

/// How long somebody is denied whose session tokens live for `longest_life` at most, by clocks that differ by `skew_ms`.
#[must_use]
pub fn denial(longest_life: Duration, skew_ms: i64) -> Duration {
    longest_life + 2 * Duration::from_millis(skew_ms.unsigned_abs())
}

/// When a token ends that is issued now, at the latest: a token request can be exchanged for two minutes, and Ably's
/// clock is not ours.
#[must_use]
pub fn ends_by(format: TokenFormat, ttl: Duration, now: UnixMillis) -> UnixMillis {
    const TO_BE_EXCHANGED: Duration = Duration::from_mins(2);
    const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(30);
    let to_be_exchanged = if format == TokenFormat::TokenRequest { TO_BE_EXCHANGED } else { Duration::ZERO };
    UnixMillis(now.0.saturating_add(clock::millis(ttl + to_be_exchanged + CLOCKS_DIFFER_BY)))
}

impl Tenant {
    /// A restriction that counts for as long as a session token can live.
    fn restriction(&self, subject: Subject, kind: RestrictionKind, at: UnixMillis, now: UnixMillis) -> Restriction {
        Restriction { tenant: self.name.clone(), subject, kind, at, until: now.after(self.denial) }
    }

    /// How long after an event every token that it is about has ended: a session token from before it is exchanged last
    /// when a denial would end.
    fn tokens_end_within(&self) -> Duration {
        self.denial + Task::LONGEST_LIFE + Revocation::AGAIN_AFTER
    }

    /// What the user of an event would be revoked by if no tokens of theirs are known: those from before a start of a
    /// service without Redis are not.
    fn presumed_target(&self, change: &Change) -> Option<Target> {
        match change {
            Change::UserUpdated(user) => self.target_of(&user.id, user.username.as_deref()),
            Change::SessionEnded { user_id: Some(user_id), username: Some(username), .. } => {
                self.target_of(user_id, Some(username))
            }
            _ => self.target_of_remembered(change.user_id()?),
        }
    }

    fn target_of_remembered(&self, user_id: &str) -> Option<Target> {
        let user = self.users().and_then(|users| users.cached(user_id));
        self.target_of(user_id, user.as_ref().and_then(|user| user.username.as_deref()))
    }

    /// None if it takes a session token, or a username that is not known, to know the client ID.
    fn target_of(&self, user_id: &str, username: Option<&str>) -> Option<Target> {
        ClientId::parse(self.identity.template().of_user(user_id, username)?).ok().map(Target::ClientId)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_with_ably;
