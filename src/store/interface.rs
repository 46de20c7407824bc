//! The interface of a store.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{
    IdempotencyClaim, LiveToken, LiveTokens, RecordOutcome, Restriction, Restrictions, StoreError, StoredTask,
    TaskBacklog, TokenHolder,
};
use crate::{clock::UnixMillis, tenant::TenantName};

/// What replicas share.
///
/// - Each method may be called on any runtime. `now` is the current time.
/// - Replicas that know the same restrictions agree, in whatever order they learned them: see [`Restriction`].
/// - A write that fails with [`StoreError::Unavailable`] took effect at this replica only. The store passes it on when it
///   can; if the replica stops before, it is lost.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// The restrictions that this replica knows.
    fn restrictions(&self) -> &Restrictions;

    /// Whether other replicas share this store, and can perform its tasks.
    fn is_shared(&self) -> bool;

    /// The state of this store.
    fn health(&self, now: UnixMillis) -> Health;

    /// The numbers for the metrics. Does not wait: numbers of a shared store may be a moment old.
    fn stats(&self, now: UnixMillis) -> StoreStats;

    /// Whether tokens may be issued. Not before the stored restrictions are known, not while a denial or mark cannot be
    /// stored, and not during an outage if the operator chose to refuse then.
    fn may_issue(&self, now: UnixMillis) -> Result<(), StoreError>;

    /// Stores a restriction, unless it yields to a known one.
    async fn record(&self, restriction: Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError>;

    /// Removes and returns the denials and marks that this replica learned late because of an outage, expired ones
    /// included. Tokens that it issued during the outage may violate them.
    fn take_late_restrictions(&self) -> Vec<Restriction>;

    /// Records a token that lives until `live_token.until`. Call it before the token is sent.
    ///
    /// A live token that is already known is extended even if the store is full.
    async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError>;

    /// The live tokens of a holder.
    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> LiveTokens;

    /// Stores a task for the first replica that claims it once it is due. If the store has a task with this ID, only its
    /// due time changes, and only to a later one.
    async fn enqueue_task(&self, task: StoredTask, now: UnixMillis) -> Result<(), StoreError>;

    /// Claims up to `max` due tasks, the longest due first. Other replicas do not get them for [`StoredTask::LEASE`]; then
    /// they do, unless the tasks were completed or postponed.
    ///
    /// During an outage, each replica claims the tasks that it stored itself, so a task may be performed twice.
    async fn claim_tasks(&self, max: usize, now: UnixMillis) -> Vec<StoredTask>;

    /// Removes a task that was performed.
    async fn complete_task(&self, id: &str) -> Result<(), StoreError>;

    /// Gives a claimed task back, to be claimed again at `due`. Without effect if the task was completed.
    async fn postpone_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError>;

    /// Claims an idempotency key, so that an event is handled once however often it is delivered. The claim expires after
    /// [`IdempotencyClaim::LEASE`]; during an outage it counts at this replica only.
    async fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim;

    /// Marks an idempotency key as done until `until`. If that fails, the event may be handled again.
    async fn mark_done(&self, key: &str, until: UnixMillis, now: UnixMillis);

    /// Whether an idempotency key is marked as done; `false` during an outage.
    async fn is_done(&self, key: &str, now: UnixMillis) -> bool;

    /// Releases an idempotency key, whether it is claimed or done.
    async fn release(&self, key: &str);

    /// Removes a user from the caches of all replicas: each calls its [`OnForget`].
    async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError>;
}

/// The state of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The stored restrictions are not all loaded yet.
    Starting,
    /// The store works.
    Ready,
    /// An outage of Redis: this replica goes on with what it knows.
    Degraded,
    /// A denial or mark cannot be stored or loaded for lack of room.
    Full,
}

impl Health {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Degraded, Self::Full];

    /// The name in `/readyz` and the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Full => "full",
        }
    }
}

/// What a store holds, and what Redis lacks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// The state of the store.
    pub health: Health,
    /// Denials and marks in force, as this replica knows.
    pub restrictions: usize,
    /// Live tokens that this replica issued, one for each user, session, organization and client ID.
    pub live_tokens: usize,
    /// Waiting tasks: those in Redis at the last heartbeat; without Redis, those of this replica.
    pub tasks: TaskBacklog,
    /// Restrictions that this replica knows and Redis lacks.
    pub unwritten_restrictions: usize,
    /// Tasks that this replica has and Redis may lack.
    pub unwritten_tasks: usize,
    /// Outages of Redis since the start.
    pub outages: u64,
}

/// Users to remove from a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten<'a> {
    /// One user of a tenant.
    User(&'a TenantName, &'a str),
    /// All users of all tenants, after an outage in which messages may have been missed.
    Everyone,
}

/// Removes users from the caches of this replica. It must not block.
pub type OnForget = Arc<dyn Fn(Forgotten<'_>) + Send + Sync>;
