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
mod idempotency;
mod limits;
mod line;
mod live_tokens;
mod log;
mod redis;
mod registrations;
mod replica;
mod restriction;
mod restrictions;
mod state;
mod sync;
mod tasks;
mod timed_map;

use std::{slice, sync::Arc};

use tokio::task::JoinSet;

pub use collector::StoreCollector;
pub use connection::{Commands, Connect, Connected, ConnectionLost, ReadLog, SharedState, Wait};
pub use idempotency::IdempotencyClaim;
pub use limits::{StoreError, StoreLimits};
pub use live_tokens::{Coverage, LiveToken, LiveTokens, TokenHolder};
pub use log::{InvalidLogPosition, LogEntry, LogPage, LogPosition};
pub use redis::{
    InvalidRedisAddress, InvalidRedisAuthorities, Persistence, RedisAddress, RedisConnector, RedisFindings,
    RedisKeyPrefix, RedisMode, RedisSentinels,
};
pub use restriction::{ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, Subject};
pub(crate) use restrictions::CurrentClientId;
pub use restrictions::{Restrictions, Verdict};
pub use state::{Forgotten, Health, OnFailure, OnForget, StoreStats};
pub use tasks::{QueuedTask, StoredTask, TaskBacklog};

use self::{
    line::Line,
    registrations::Registrations,
    replica::{Phase, Replica},
};
use crate::{
    clock::{Clock, UnixMillis},
    tenant::TenantName,
};

/// What replicas share. Without Redis there is one replica, and its store ends with the process.
///
/// - Each method may be called on any runtime. `now` is the current time.
/// - Replicas that know the same restrictions agree, in whatever order they learned them: see [`Restriction`].
/// - What fails with [`StoreError::Unavailable`] took effect at this replica only. Restrictions, live tokens and tasks are
///   written to Redis on its return; if the replica stops before, they are lost.
#[derive(derive_more::Debug)]
pub struct Store {
    #[debug(skip)]
    replica: Arc<Replica>,
    shared: Option<Shared>,
}

/// The connection of a replica to Redis.
#[derive(derive_more::Debug)]
struct Shared {
    on_failure: OnFailure,
    #[debug(skip)]
    line: Arc<Line>,
    registrations: Registrations,
    /// Ends with the store.
    _background: JoinSet<()>,
}

/// Calls a command of Redis, if Redis can be used.
macro_rules! command {
    ($store:expr, $shared:expr, $($call:tt)*) => {
        match $shared.line.in_use() {
            None => Err(StoreError::Unavailable),
            Some(connection) => $shared.line.answered(&$store.replica, &connection, connection.commands.$($call)*.await),
        }
    };
}

impl Store {
    /// The store of a single replica.
    #[must_use]
    pub fn in_memory(limits: &StoreLimits, on_forget: OnForget) -> Self {
        Self { replica: Arc::new(Replica::new(limits, on_forget)), shared: None }
    }

    /// A store that connects in the background, on the current Tokio runtime. The runtime must outlive it.
    #[must_use]
    pub fn shared(
        redis: Arc<dyn Connect>,
        on_failure: OnFailure,
        limits: &StoreLimits,
        clock: Clock,
        on_forget: OnForget,
    ) -> Self {
        let replica = Arc::new(Replica::new(limits, on_forget));
        let line = Arc::new(Line::default());
        let (registrations, waiting) = Registrations::new();
        let mut background = JoinSet::new();
        background.spawn(waiting.serve(Arc::clone(&replica), Arc::clone(&line), Arc::clone(&clock)));
        background.spawn(sync::run(Arc::clone(&replica), Arc::clone(&line), redis, clock));
        Self { replica, shared: Some(Shared { on_failure, line, registrations, _background: background }) }
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
        match (&self.shared, self.replica.phase()) {
            (None, _) | (Some(_), Phase::Following) => Health::Ready,
            (Some(_), Phase::Starting) => Health::Starting,
            (Some(_), Phase::Away) => Health::Degraded,
        }
    }

    /// The numbers for the metrics. Does not wait: numbers of Redis may be a moment old.
    #[must_use]
    pub fn stats(&self, now: UnixMillis) -> StoreStats {
        let replica = &self.replica;
        let may_be_lost = self.is_shared() && replica.phase() != Phase::Following;
        StoreStats {
            health: self.health(),
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
        match (&self.shared, self.replica.phase()) {
            (None, _)
            | (Some(_), Phase::Following)
            | (Some(Shared { on_failure: OnFailure::Degrade, .. }), Phase::Away) => Ok(()),
            (Some(_), Phase::Starting | Phase::Away) => Err(StoreError::Unavailable),
        }
    }

    /// Applies a restriction, unless it yields to a known one, and records it.
    pub async fn record(&self, restriction: Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        let known = self.replica.restrictions.apply(&restriction, now);
        let outcome =
            |known: Option<&Restriction>| RecordOutcome::of(known.map(Restriction::terms), restriction.terms());
        let Some(shared) = &self.shared else { return Ok(outcome(known.as_ref())) };
        // Redis may have lost a newer one that this replica knows.
        let newest = [self.replica.restrictions.newest(&restriction)];
        self.replica.restrictions.mark_unrecorded(&restriction);
        let recorded = match shared.line.in_use() {
            None => Err(StoreError::Unavailable),
            Some(connection) => {
                let answer = connection.commands.record(&newest, now).await;
                let answer = shared.line.answered(&self.replica, &connection, answer);
                answer.and_then(|before| {
                    self.replica.recorded(&newest, &before, now);
                    if shared.line.uses(&connection) {
                        return Ok(before);
                    }
                    // A return that has begun meanwhile may have counted on it.
                    self.replica.restrictions.mark_unrecorded(&restriction);
                    Err(StoreError::Unavailable)
                })
            }
        };
        match recorded {
            Ok(before) => {
                let known = known.into_iter().chain(before.into_iter().flatten());
                Ok(outcome(known.max_by(|one, other| one.terms().compare(&other.terms())).as_ref()))
            }
            // No retry is needed: a newer restriction is known, and will be recorded.
            Err(_) if outcome(known.as_ref()) == RecordOutcome::Outdated => Ok(RecordOutcome::Outdated),
            Err(error) => Err(error),
        }
    }

    /// Removes and returns the restrictions whose tokens may have been missed because of an outage, ended ones included.
    #[must_use]
    pub fn take_late_restrictions(&self) -> Vec<Restriction> {
        self.replica.take_late()
    }

    /// Registers a token that lives until `live_token.until`. Call it before the token is sent.
    ///
    /// A live token that is already known is extended even if the store is full.
    pub async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        self.replica.live_tokens.put(&live_token, now)?;
        let Some(shared) = &self.shared else { return Ok(()) };
        shared.registrations.register(live_token).await
    }

    /// The live tokens of a holder.
    pub async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> LiveTokens {
        let mut live_tokens = self.replica.live_tokens.find(tenant, holder, now);
        let others = match &self.shared {
            None => Ok(Vec::new()),
            Some(shared) => command!(self, shared, live_tokens(tenant, holder, now)),
        };
        let Ok(others) = others else { return LiveTokens { live_tokens, coverage: Coverage::ThisReplica } };
        // Another replica may have extended the same live token: the latest end counts.
        live_tokens.extend(others);
        live_tokens.sort_unstable_by(|a, b| b.cmp(a));
        live_tokens.dedup_by(|later, kept| LiveToken { until: kept.until, ..later.clone() } == *kept);
        LiveTokens { live_tokens, coverage: Coverage::AllReplicas }
    }

    /// Stores a task for the first replica that claims it once it is due. If the store has a task with this ID, only its
    /// due time changes, and only to a later one.
    pub async fn enqueue_task(&self, task: StoredTask) -> Result<(), StoreError> {
        let Some(shared) = &self.shared else { return self.replica.tasks.enqueue(&task) };
        // First, so that a return that begins meanwhile finds it. Without room for the copy the task can still be stored.
        let copied = self.replica.tasks.enqueue(&task);
        let queued = QueuedTask { claimable: task.due, task };
        let stored = command!(self, shared, enqueue(slice::from_ref(&queued)));
        if stored.is_err() { copied.and(stored) } else { Ok(()) }
    }

    /// Claims up to `max` due tasks, the longest due first. Other replicas do not get them for [`StoredTask::LEASE`]; then
    /// they do, unless the tasks were completed or postponed.
    ///
    /// During an outage, each replica claims the tasks that it stored itself, so a task may be performed twice.
    pub async fn claim_tasks(&self, max: usize, now: UnixMillis) -> Vec<StoredTask> {
        let claimed = match &self.shared {
            None => Err(StoreError::Unavailable),
            Some(shared) => command!(self, shared, claim(max, now)),
        };
        match claimed {
            Ok(claimed) => {
                self.replica.claimed(&claimed, now);
                claimed
            }
            Err(_) => self.replica.tasks.claim(max, now),
        }
    }

    /// Removes a task that was performed, unless it has become due later meanwhile.
    pub async fn complete_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.replica.tasks.complete(id, due);
        let Some(shared) = &self.shared else { return Ok(()) };
        command!(self, shared, complete(id, due))
    }

    /// Gives a claimed task back, to be claimed again at `due`. Without effect if the task was completed.
    pub async fn postpone_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.replica.tasks.postpone(id, due);
        let Some(shared) = &self.shared else { return Ok(()) };
        command!(self, shared, postpone(id, due))
    }

    /// Claims an idempotency key, so that an event is handled once however often it is delivered. The claim expires after
    /// [`IdempotencyClaim::LEASE`]; during an outage it counts at this replica only.
    pub async fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim {
        if let Some(shared) = &self.shared
            && let Ok(claim) = command!(self, shared, claim_once(key))
        {
            return claim;
        }
        // Better twice than never.
        self.replica.idempotency_keys.claim_once(key, now)
    }

    /// Marks an idempotency key as done until `until`. If that fails, the event may be handled again.
    pub async fn mark_done(&self, key: &str, until: UnixMillis, now: UnixMillis) {
        let Some(shared) = &self.shared else { return self.replica.idempotency_keys.mark_done(key, until) };
        self.replica.idempotency_keys.release(key);
        let _ = command!(self, shared, mark_done(key, until, now));
    }

    /// Whether an idempotency key is marked as done; `false` during an outage.
    pub async fn is_done(&self, key: &str, now: UnixMillis) -> bool {
        match &self.shared {
            None => self.replica.idempotency_keys.is_done(key, now),
            Some(shared) => command!(self, shared, is_done(key)).unwrap_or(false),
        }
    }

    /// Releases an idempotency key, whether it is claimed or done.
    pub async fn release(&self, key: &str) {
        self.replica.idempotency_keys.release(key);
        if let Some(shared) = &self.shared {
            let _ = command!(self, shared, release(key));
        }
    }

    /// Removes a user from the caches of all replicas: each calls its [`OnForget`].
    pub async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError> {
        (self.replica.on_forget)(Forgotten::User(tenant, user));
        let Some(shared) = &self.shared else { return Ok(()) };
        command!(self, shared, append(&LogEntry::UserChanged(tenant.clone(), user.to_owned())))
    }
}

#[cfg(test)]
mod tests;
