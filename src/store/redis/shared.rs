//! What the store and its connection to Redis share.

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
    absence::Absence,
    link::{Link, RedisFailure},
};
use crate::clock::{Clock, UnixMillis};

/// What happens while Redis cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The replica goes on with what it knows: it hears late of what others learn meanwhile.
    Degrade,
    /// No tokens are issued.
    Refuse,
}

pub(super) struct Shared {
    pub(super) on_failure: OnFailure,
    pub(super) most_unwritten: usize,
    pub(super) clock: Clock,
    /// What this replica knows; of live_tokens and work, what it put there itself.
    pub(super) local: MemoryStore,
    pub(super) link: ArcSwapOption<Link>,
    pub(super) phase: Mutex<Phase>,
    /// Restrictions that Redis lacks.
    pub(super) unwritten: Mutex<HashMap<RestrictionKey, Restriction>>,
    /// The work that Redis had at the last heartbeat; none while it cannot be used.
    pub(super) backlog: Mutex<Option<TaskBacklog>>,
    /// How many times Redis was lost.
    pub(super) outages: AtomicU64,
    /// Redis has no memory for a denial or mark.
    pub(super) redis_is_full: AtomicBool,
    /// Redis has no memory for work that is known here.
    pub(super) work_refused: AtomicBool,
    /// How many times there was no room here for a restriction that Redis has.
    pub(super) missed_facts: AtomicU64,
    /// How many of those have been made up for, by reading all that holds.
    pub(super) regained_facts: AtomicU64,
    /// Others were not told of a user to be forgotten.
    pub(super) missed_a_drop: AtomicBool,
    /// Redis had no memory for a live_token that is known here.
    pub(super) grant_refused: Notify,
    /// When it was without Redis.
    pub(super) absence: Mutex<Absence>,
    /// What was news to this replica when it came back.
    pub(super) heard_late: Mutex<Vec<Restriction>>,
}

/// How far the replica is in step with Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It never was.
    Starting,
    InStep,
    /// It was.
    Away,
}

impl Shared {
    pub(super) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unwritten(&self) -> MutexGuard<'_, HashMap<RestrictionKey, Restriction>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard_late(&self) -> MutexGuard<'_, Vec<Restriction>> {
        self.heard_late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn absence(&self) -> MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    pub(super) fn link(&self) -> Result<Arc<Link>, StoreError> {
        self.link.load_full().ok_or(StoreError::Unavailable)
    }

    /// What a caller is told of `trouble`. A link that is lost is not used again.
    pub(super) fn failed(&self, link: &Arc<Link>, trouble: &RedisFailure) -> StoreError {
        match trouble {
            RedisFailure::Full => StoreError::Full,
            RedisFailure::Lost(reason) => {
                link.report(reason);
                self.link.compare_and_swap(&Some(Arc::clone(link)), None);
                StoreError::Unavailable
            }
        }
    }

    pub(super) fn health(&self, now: UnixMillis) -> Health {
        self.apply_waiting(now);
        let full = self.redis_is_full.load(Ordering::Relaxed)
            || self.misses_facts()
            || !self.local.restrictions.has_room(now)
            || self.unwritten().len() >= self.most_unwritten;
        match self.phase() {
            Phase::Starting => Health::Starting,
            _ if full => Health::Full,
            Phase::InStep if self.link.load().is_some() => Health::Ready,
            Phase::InStep | Phase::Away => Health::Degraded,
        }
    }

    /// Whether Redis has restrictions that this replica does not know.
    pub(super) fn misses_facts(&self) -> bool {
        // In this order: whoever sees what was regained sees what was missed again meanwhile.
        let regained = self.regained_facts.load(Ordering::Acquire);
        self.missed_facts.load(Ordering::Relaxed) != regained
    }

    pub(super) fn redis_has_all_work(&self) -> bool {
        self.phase() == Phase::InStep && self.link.load().is_some() && !self.work_refused.load(Ordering::Relaxed)
    }

    /// Takes a restriction that Redis has.
    pub(super) fn hear(&self, restriction: &Restriction, now: UnixMillis) -> Result<(), StoreError> {
        let heard = self.local.restrictions.apply(restriction, now);
        if heard.is_err() {
            self.missed_facts.fetch_add(1, Ordering::Relaxed);
        } else if heard == Ok(RecordOutcome::New) {
            let absence = self.absence();
            let is_late = match restriction.terms() {
                terms if terms.is_active(now) => absence.makes_late(restriction.at, now),
                // Of others that are over it may have known, and forgotten.
                terms => terms.restricts() && absence.is_of_it(restriction.at, now),
            };
            drop(absence);
            if is_late {
                self.heard_late().push(restriction.clone());
            }
        } else if let Some(newer) = self.local.restrictions.newer_than(restriction) {
            // Redis, or another replica, has lost what this one knows.
            let _ = self.write_later(&newer);
        }
        heard.map(|_| ())
    }

    /// Has a restriction written to Redis when that is possible.
    pub(super) fn write_later(&self, restriction: &Restriction) -> Result<(), StoreError> {
        let mut unwritten = self.unwritten();
        let key = restriction.key();
        if unwritten.len() >= self.most_unwritten && !unwritten.contains_key(&key) {
            return Err(StoreError::Full);
        }
        unwritten.insert(key, restriction.clone());
        Ok(())
    }

    /// Takes what there was no room for, as far as there is now.
    pub(super) fn apply_waiting(&self, now: UnixMillis) {
        for restriction in self.local.restrictions.apply_waiting(now) {
            // Without room to note it, there are no tokens until there is.
            let _ = self.write_later(&restriction);
        }
    }

    /// Has this replica act by a restriction that Redis could not be given, and give Redis the newest later.
    pub(super) fn learn_alone(&self, restriction: &Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        self.apply_waiting(now);
        let recorded = self.local.restrictions.apply_or_wait(restriction, now)?;
        let newer = self.local.restrictions.newer_than(restriction);
        self.write_later(newer.as_ref().unwrap_or(restriction))?;
        Ok(recorded)
    }

    pub(super) fn fall_in(&self) {
        self.absence().end(self.now());
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::InStep;
    }

    pub(super) fn fall_out(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::InStep {
            *phase = Phase::Away;
            self.absence().begin(self.now());
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn hear_backlog(&self, backlog: Option<TaskBacklog>) {
        *self.backlog.lock().unwrap_or_else(PoisonError::into_inner) = backlog;
    }
}
