//! What replicas share: restrictions, live tokens and revocation tasks.
//!
//! Each replica decides by its own memory: it reads [`Restrictions`] without waiting. With Redis, replicas also exchange what
//! they know, and it outlives them: a hash has all restrictions, and a log tells every replica of each new one. [`replica`]
//! decides what to apply, keep, write and revoke, without I/O; [`sync`] connects it to Redis.
//!
//! Redis holds neither identities nor keys: whoever can write to it can deny users, lift denials and disconnect clients, but
//! cannot impersonate anyone.

mod collector;
mod connection;
#[cfg(test)]
pub(crate) mod fixtures;
mod line;
mod live_tokens;
mod redis;
mod registrations;
mod replica;
mod restriction;
mod restrictions;
mod state;
mod sync;
mod tasks;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet, time};

pub use collector::StoreCollector;
pub use connection::{Commands, Connect, Connected, LONGEST_WAIT, LogPage, LogPosition, ReadLog, Reply, SharedState};
pub use live_tokens::{LiveToken, LiveTokens, TokenHolder};
pub use redis::{RedisConnector, RedisKeyPrefix};
pub use restriction::{ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, Subject, Topic};
pub use restrictions::{Restrictions, Verdict};
pub use state::{Forgotten, Health, OnFailure, OnForget, StoreError, StoreLimits, StoreStats, TasksOf};
pub use tasks::{Claim, StoredTask, TaskBacklog};

pub use crate::redis::ConnectionLost;

use self::{
    line::{Connection, Line},
    registrations::Registrations,
    replica::Replica,
    restrictions::Source,
};
use crate::{
    clock::{Clock, UnixMillis},
    tenant::TenantName,
};

/// What replicas share. Without Redis there is one replica, and its store ends with the process.
///
/// - Each method may be called on any runtime. `now` is the current time.
/// - Replicas that know the same restrictions agree, in whatever order they learned them: see [`Restriction`].
/// - What fails with [`StoreError::Unavailable`] took effect at this replica only. It performs the tasks itself, and writes
///   restrictions and live tokens to Redis on its return; if it stops before, they are lost.
#[derive(derive_more::Debug)]
#[debug("Store")]
pub struct Store {
    replica: Arc<Replica>,
    shared: Option<Shared>,
}

/// The connection of a replica to Redis.
struct Shared {
    on_failure: OnFailure,
    line: Arc<Line>,
    registrations: Registrations,
    /// One search at a time: it sends as many commands at once as Redis answers within its timeout.
    searches: Semaphore,
    /// Ends with the store.
    _background: JoinSet<()>,
}

impl Store {
    /// As long as a webhook waits for Ably.
    const LONGEST_WAIT_TO_SEARCH: Duration = Duration::from_secs(10);

    /// The store of a single replica.
    #[must_use]
    pub fn in_memory(limits: &StoreLimits, on_forget: OnForget) -> Self {
        let replica = Replica::new(limits, on_forget, Arc::new(|_, _, _| Vec::new()));
        replica.becomes_ready(time::Instant::now());
        Self { replica: Arc::new(replica), shared: None }
    }

    /// A store that connects in the background, on the current Tokio runtime. The runtime must outlive it.
    #[must_use]
    pub fn shared(
        redis: Arc<dyn Connect>,
        on_failure: OnFailure,
        limits: &StoreLimits,
        clock: Clock,
        on_forget: OnForget,
        tasks_of: TasksOf,
    ) -> Self {
        let replica = Arc::new(Replica::new(limits, on_forget, tasks_of));
        let line = Arc::new(Line::new(Arc::clone(&replica)));
        let registrations = Registrations::new(Arc::clone(&line), Arc::clone(&clock));
        let mut background = JoinSet::new();
        background.spawn(sync::run(Arc::clone(&line), redis, clock));
        let searches = Semaphore::new(1);
        Self { replica, shared: Some(Shared { on_failure, line, registrations, searches, _background: background }) }
    }

    /// The restrictions that this replica knows.
    #[must_use]
    pub fn restrictions(&self) -> &Restrictions {
        &self.replica.restrictions
    }

    /// Whether other replicas share this store, and can perform its tasks.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The state of this store.
    #[must_use]
    pub fn health(&self) -> Health {
        self.replica.health()
    }

    /// The numbers for the metrics. Does not wait: numbers of Redis may be a moment old.
    #[must_use]
    pub fn stats(&self, now: UnixMillis) -> StoreStats {
        let replica = &self.replica;
        let may_be_lost = self.health() != Health::Ready;
        StoreStats {
            restrictions: replica.restrictions.count_active(now),
            live_tokens: replica.live_tokens.count(now),
            tasks: replica.backlog(),
            unrecorded_restrictions: if may_be_lost { replica.restrictions.count_unrecorded() } else { 0 },
            unrecorded_tasks: if may_be_lost { replica.tasks.backlog().count } else { 0 },
            outages: replica.outages(),
        }
    }

    /// Whether tokens may be issued. Not before the recorded restrictions are known, and not during an outage if the
    /// operator chose to refuse then.
    pub fn may_issue(&self) -> Result<(), StoreError> {
        let may_degrade = self.shared.as_ref().is_some_and(|shared| shared.on_failure == OnFailure::Degrade);
        match self.health() {
            Health::Ready => Ok(()),
            Health::Degraded if may_degrade => Ok(()),
            Health::Starting | Health::Degraded => Err(StoreError::Unavailable),
        }
    }

    /// Applies restrictions, unless they yield to known ones, and records them together with the tasks that follow from them.
    ///
    /// Each replica that learns of a restriction of a user removes the user from its cache.
    ///
    /// The tasks are stored if a restriction is new, or if there is none. Otherwise they were stored when it was recorded
    /// first, and those that are left can be claimed by their IDs.
    pub async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        now: UnixMillis,
    ) -> Result<Vec<RecordOutcome>, StoreError> {
        let replica = &self.replica;
        let mut outcomes: Vec<_> = restrictions.iter().map(|told| replica.learn(told, Source::Told, now)).collect();
        // During a return, Redis may have the client ID of an older event and lack the tasks of this one.
        let tasks_if = if self.health() == Health::Ready { RecordOutcome::New } else { RecordOutcome::Confirmed };
        let recorded =
            self.in_redis(|on| async move { on.commands.record(restrictions, tasks, tasks_if, now).await }).await;
        // A replica that knows a restriction writes it to a Redis that lost it, with new tasks. So this replica keeps tasks only if
        // they have no restriction, or if Redis has not recorded it.
        if restrictions.is_empty() || (outcomes.contains(&RecordOutcome::New) && !matches!(recorded, Some(Ok(_)))) {
            replica.tasks.add(tasks);
        }
        if let Some(Err(_)) = recorded {
            // Only now: else a return that is under way could write them first, with other tasks.
            replica.restrictions.mark_unrecorded(restrictions);
        }
        let before = recorded.transpose()?.into_iter().flatten();
        for ((outcome, told), before) in outcomes.iter_mut().zip(restrictions).zip(before) {
            if let Some(before) = before {
                replica.learn(&before, Source::Told, now);
                *outcome = RecordOutcome::of(Some(&before), told).max(*outcome);
            }
        }
        Ok(outcomes)
    }

    /// Registers a token that lives until `live_token.until`. Call it before the token is sent.
    ///
    /// A live token that is already known is extended even if the store is full.
    pub async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        self.replica.live_tokens.put(&live_token, now)?;
        let Some(shared) = &self.shared else { return Ok(()) };
        shared.registrations.register(live_token).await
    }

    /// The live tokens of a holder. At most one search of all live tokens in Redis is under way at a time.
    pub async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> LiveTokens {
        let mut live_tokens = self.replica.live_tokens.find(tenant, holder, now);
        let others = match &self.shared {
            None => Ok(Vec::new()),
            Some(Shared { line, searches, .. }) => {
                // Others wait for no turn.
                let turns = u32::from(matches!(holder, TokenHolder::Session(_) | TokenHolder::ClientId(_)));
                match time::timeout(Self::LONGEST_WAIT_TO_SEARCH, searches.acquire_many(turns)).await {
                    Ok(_turn) => {
                        line.call(|on| async move { on.commands.live_tokens(tenant, holder, now).await }).await
                    }
                    Err(_) => Err(StoreError::Unavailable),
                }
            }
        };
        // Another replica may have extended the same live token: the latest end counts.
        live_tokens.extend(others.iter().flatten().cloned());
        live_tokens.sort_unstable_by(|a, b| b.cmp(a));
        live_tokens.dedup_by(|earlier, kept| kept.is_same_but_for_end(earlier));
        LiveTokens { live_tokens, of_others: others.map(|_| ()) }
    }

    /// Claims this replica's own tasks, which are from an outage. If it has none, claims tasks in Redis, and hides them from other
    /// replicas for [`StoredTask::LEASE`]. Claims due tasks in Redis only once this replica is ready: until it has read the
    /// restrictions, it may not know that a task's denial was lifted.
    ///
    /// A task that this replica has can be in Redis too: it may be performed twice.
    pub async fn claim_tasks(&self, claim: Claim<'_>, now: UnixMillis) -> Result<Vec<StoredTask>, StoreError> {
        let own = self.replica.tasks.claim(claim, now);
        if !own.is_empty() || (matches!(claim, Claim::Due(_)) && self.health() != Health::Ready) {
            return Ok(own);
        }
        self.in_redis(|on| async move { on.commands.claim(claim, now).await }).await.unwrap_or(Ok(Vec::new()))
    }

    /// Ends the claim of a task: removes it, or puts back what is left of it, to be claimed from `retry_at` on. Without effect if
    /// it was removed, or has become due later meanwhile.
    pub async fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) -> Result<(), StoreError> {
        self.replica.tasks.end_claim(left, retry_at);
        self.in_redis(|on| async move { on.commands.end_claim(left, retry_at).await }).await.unwrap_or(Ok(()))
    }

    /// Sends a command to Redis, if the store is shared.
    async fn in_redis<T, F: Future<Output = Reply<T>>>(
        &self,
        command: impl FnOnce(Arc<Connection>) -> F,
    ) -> Option<Result<T, StoreError>> {
        Some(self.shared.as_ref()?.line.call(command).await)
    }
}

#[cfg(test)]
mod tests;
