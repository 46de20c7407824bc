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

use std::sync::Arc;

use tokio::task::JoinSet;

pub use collector::StoreCollector;
pub use connection::{Commands, Connect, Connected, ReadLog, SharedState, Wait};
pub use limits::{StoreError, StoreLimits};
pub use live_tokens::{Coverage, LiveToken, LiveTokens, TokenHolder};
pub use log::{InvalidLogPosition, LogEntry, LogPage, LogPosition};
pub use redis::{RedisConnector, RedisKeyPrefix};
pub use restriction::{ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, Subject};
pub(crate) use restrictions::CurrentClientId;
pub use restrictions::{Restrictions, Verdict};
pub use state::{Forgotten, Health, OnFailure, OnForget, StoreStats};
pub use tasks::{Claim, QueuedTask, StoredTask, TaskBacklog};

pub use crate::redis::ConnectionLost;

use self::{
    line::Line,
    registrations::Registrations,
    replica::{Phase, Replica, follow_from_new},
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
            unrecorded_tasks: if may_be_lost { replica.tasks.count_unstored() } else { 0 },
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

    /// Applies restrictions, unless they yield to known ones, and records them together with the tasks that follow from them.
    ///
    /// Each replica that learns of a restriction of a user removes the user from its cache.
    ///
    /// The tasks are stored if a restriction is new, or if there is none. Otherwise they were stored when it was recorded
    /// first, and those that are left can be claimed by their IDs.
    pub async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[QueuedTask],
        now: UnixMillis,
    ) -> Result<Vec<RecordOutcome>, StoreError> {
        let replica = &self.replica;
        let (known, copied) = replica.tell(restrictions, tasks, now);
        let mut outcomes = RecordOutcome::of_all(restrictions, &known);
        let Some(shared) = &self.shared else { return copied.map(|()| outcomes) };
        // What yields here is not sent: what it yields to is recorded, or will be, together with its own tasks.
        let told = restrictions.iter().zip(&outcomes);
        let sent: Vec<_> = told.filter(|(_, outcome)| outcome.counts()).map(|(told, _)| told.clone()).collect();
        if sent.is_empty() && !restrictions.is_empty() {
            return Ok(outcomes);
        }
        let unavailable = Err(copied.err().unwrap_or(StoreError::Unavailable));
        let Some(connection) = shared.line.in_use() else { return unavailable };
        let answer = connection.commands.record(&sent, tasks, now).await;
        let Ok(before) = shared.line.answered(replica, &connection, answer) else { return unavailable };
        replica.recorded(&sent, &before, now);
        if !shared.line.uses(&connection) {
            // A return that has begun meanwhile may have counted on it.
            replica.restrictions.mark_unrecorded(&sent);
            return unavailable;
        }
        if follow_from_new(&sent, &before) {
            // Redis has them, also if there is no room for the copies.
            let _ = replica.tasks.add(tasks);
            replica.tasks.mark_stored(tasks);
        } else if follow_from_new(restrictions, &known) {
            // They were stored when another replica recorded the restrictions.
            for QueuedTask { task, .. } in tasks {
                replica.tasks.complete(&task.id, task.due);
            }
        }
        for (outcome, in_redis) in
            outcomes.iter_mut().filter(|outcome| outcome.counts()).zip(RecordOutcome::of_all(&sent, &before))
        {
            *outcome = in_redis.max(*outcome);
        }
        Ok(outcomes)
    }

    /// The restrictions whose tokens may have been missed because of an outage, ended ones included.
    #[must_use]
    pub fn late_restrictions(&self) -> Vec<Restriction> {
        self.replica.late()
    }

    /// Notes that the tokens of a late restriction are revoked, or that tasks are stored for it.
    pub fn settle_late_restriction(&self, restriction: &Restriction) {
        self.replica.settle_late(restriction);
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

    /// Claims tasks. Other replicas do not get them for [`StoredTask::LEASE`]; then they do, unless the tasks were completed or
    /// put back.
    ///
    /// During an outage, each replica claims the tasks that it stored itself, so a task may be performed twice.
    pub async fn claim_tasks(&self, claim: Claim<'_>, now: UnixMillis) -> Vec<StoredTask> {
        let claimed = match &self.shared {
            None => Err(StoreError::Unavailable),
            Some(shared) => command!(self, shared, claim(claim, now)),
        };
        let Ok(claimed) = claimed else { return self.replica.tasks.claim(claim, now) };
        for task in &claimed {
            self.replica.tasks.claim(Claim::Named(&task.id), now);
        }
        claimed
    }

    /// Removes a task that was performed, unless it has become due later meanwhile.
    pub async fn complete_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.replica.tasks.complete(id, due);
        let Some(shared) = &self.shared else { return Ok(()) };
        command!(self, shared, complete(id, due))
    }

    /// Gives back what is left of a claimed task. Without effect if it was completed, or has become due later meanwhile.
    pub async fn put_task_back(&self, left: &QueuedTask) -> Result<(), StoreError> {
        self.replica.tasks.put_back(left);
        let Some(shared) = &self.shared else { return Ok(()) };
        command!(self, shared, put_back(left))
    }
}

#[cfg(test)]
mod tests;
