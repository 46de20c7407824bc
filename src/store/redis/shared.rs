//! The state that the store and its connection to Redis share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use serde::Deserialize;
use tokio::sync::Notify;

use super::{
    super::{Health, MemoryStore, RecordOutcome, Restriction, StoreError, TaskBacklog, restriction::RestrictionKey},
    connection::{Connection, RedisFailure},
    outage::Outage,
};
use crate::clock::{Clock, UnixMillis};

/// What happens during an outage of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The replica continues with what it knows, and learns late what others learn meanwhile.
    Degrade,
    /// No tokens are issued.
    Refuse,
}

pub(super) struct SharedState {
    pub(super) on_failure: OnFailure,
    pub(super) max_unwritten: usize,
    pub(super) clock: Clock,
    /// What this replica knows. Of live tokens and tasks, only its own.
    pub(super) local: MemoryStore,
    pub(super) connection: ArcSwapOption<Connection>,
    pub(super) phase: Mutex<SyncPhase>,
    /// Restrictions that Redis lacks.
    pub(super) unwritten: Mutex<HashMap<RestrictionKey, Restriction>>,
    /// The tasks in Redis at the last heartbeat. `None` during an outage.
    pub(super) backlog: Mutex<Option<TaskBacklog>>,
    /// Outages since the start.
    pub(super) outages: AtomicU64,
    /// Redis has no memory for a denial or mark.
    pub(super) redis_is_full: AtomicBool,
    /// Redis has no memory for a task that is known here.
    pub(super) redis_lacks_tasks: AtomicBool,
    /// How many times there was no room here for a restriction that Redis has.
    pub(super) missed_restrictions: AtomicU64,
    /// How many of those a later read has recovered.
    pub(super) recovered_restrictions: AtomicU64,
    /// A message to forget a user could not be sent.
    pub(super) missed_forget: AtomicBool,
    /// Notified when Redis has no memory for a live token that is known here.
    pub(super) redis_lacks_live_tokens: Notify,
    pub(super) last_outage: Mutex<Outage>,
    /// Restrictions that this replica learned too late.
    pub(super) late_restrictions: Mutex<Vec<Restriction>>,
}

/// Whether the replica is in sync with Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncPhase {
    /// Not yet.
    Starting,
    Synced,
    /// Not since the connection was lost.
    Lost,
}

impl SharedState {
    pub(super) fn phase(&self) -> SyncPhase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unwritten(&self) -> MutexGuard<'_, HashMap<RestrictionKey, Restriction>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn late_restrictions(&self) -> MutexGuard<'_, Vec<Restriction>> {
        self.late_restrictions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn last_outage(&self) -> MutexGuard<'_, Outage> {
        self.last_outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    pub(super) fn connection(&self) -> Result<Arc<Connection>, StoreError> {
        self.connection.load_full().ok_or(StoreError::Unavailable)
    }

    /// The store's error for a failure of Redis. A lost connection is not used again.
    pub(super) fn failed(&self, connection: &Arc<Connection>, error: &RedisFailure) -> StoreError {
        match error {
            RedisFailure::Full => StoreError::Full,
            RedisFailure::Lost(reason) => {
                connection.report(reason);
                self.connection.compare_and_swap(&Some(Arc::clone(connection)), None);
                StoreError::Unavailable
            }
        }
    }

    pub(super) fn health(&self, now: UnixMillis) -> Health {
        self.apply_waiting(now);
        let full = self.redis_is_full.load(Ordering::Relaxed)
            || self.misses_restrictions()
            || !self.local.restrictions.has_room(now)
            || self.unwritten().len() >= self.max_unwritten;
        match self.phase() {
            SyncPhase::Starting => Health::Starting,
            _ if full => Health::Full,
            SyncPhase::Synced if self.connection.load().is_some() => Health::Ready,
            SyncPhase::Synced | SyncPhase::Lost => Health::Degraded,
        }
    }

    /// Whether Redis has restrictions that this replica does not know.
    pub(super) fn misses_restrictions(&self) -> bool {
        // In this order: a reader that sees the recovered count also sees later misses.
        let recovered = self.recovered_restrictions.load(Ordering::Acquire);
        self.missed_restrictions.load(Ordering::Relaxed) != recovered
    }

    pub(super) fn redis_has_all_tasks(&self) -> bool {
        self.phase() == SyncPhase::Synced
            && self.connection.load().is_some()
            && !self.redis_lacks_tasks.load(Ordering::Relaxed)
    }

    /// Applies a restriction that Redis has.
    pub(super) fn apply_stored(&self, restriction: &Restriction, now: UnixMillis) -> Result<(), StoreError> {
        let applied = self.local.restrictions.apply(restriction, now);
        if applied.is_err() {
            self.missed_restrictions.fetch_add(1, Ordering::Relaxed);
        } else if applied == Ok(RecordOutcome::New) {
            let outage = self.last_outage();
            let is_late = match restriction.terms() {
                terms if terms.is_active(now) => outage.is_late(restriction.at, now),
                // It may have known other expired ones and forgotten them.
                terms => terms.restricts() && outage.may_date_from(restriction.at, now),
            };
            drop(outage);
            if is_late {
                self.late_restrictions().push(restriction.clone());
            }
        } else if let Some(newer) = self.local.restrictions.newer_than(restriction) {
            // Redis or another replica lost the newer one.
            let _ = self.write_later(&newer);
        }
        applied.map(|_| ())
    }

    /// Marks a restriction to be written to Redis as soon as possible.
    pub(super) fn write_later(&self, restriction: &Restriction) -> Result<(), StoreError> {
        let mut unwritten = self.unwritten();
        let key = restriction.key();
        if unwritten.len() >= self.max_unwritten && !unwritten.contains_key(&key) {
            return Err(StoreError::Full);
        }
        unwritten.insert(key, restriction.clone());
        Ok(())
    }

    /// Applies the restrictions that waited for room, as far as there is room now.
    pub(super) fn apply_waiting(&self, now: UnixMillis) {
        for restriction in self.local.restrictions.apply_waiting(now) {
            // If this fails, no tokens are issued until there is room.
            let _ = self.write_later(&restriction);
        }
    }

    /// Applies a restriction that could not be written to Redis, and writes the newest later.
    pub(super) fn apply_local(&self, restriction: &Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        self.apply_waiting(now);
        let recorded = self.local.restrictions.apply_or_wait(restriction, now)?;
        let newer = self.local.restrictions.newer_than(restriction);
        self.write_later(newer.as_ref().unwrap_or(restriction))?;
        Ok(recorded)
    }

    pub(super) fn mark_synced(&self) {
        self.last_outage().end(self.now());
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = SyncPhase::Synced;
    }

    pub(super) fn mark_lost(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == SyncPhase::Synced {
            *phase = SyncPhase::Lost;
            self.last_outage().begin(self.now());
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_backlog(&self, backlog: Option<TaskBacklog>) {
        *self.backlog.lock().unwrap_or_else(PoisonError::into_inner) = backlog;
    }
}
