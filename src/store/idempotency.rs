//! Idempotency keys that are claimed or done, in memory.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{StoreLimits, timed_map::TimedMap};
use crate::clock::UnixMillis;

/// Whether the caller may handle the event of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdempotencyClaim {
    /// The caller handles it.
    Granted,
    /// Another delivery of the event is being handled.
    InProgress,
    /// The event was handled.
    Done,
}

impl IdempotencyClaim {
    /// How long a claim lasts. Clerk retries after 5 seconds: by then the claim of a replica that died has expired.
    pub const LEASE: Duration = Duration::from_secs(4);
}

#[derive(Debug)]
pub(super) struct IdempotencyKeys {
    max: usize,
    /// What the next claim of each key gets, until when.
    keys: Mutex<TimedMap<String, IdempotencyClaim>>,
}

impl IdempotencyKeys {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.idempotency_keys, keys: Mutex::default() }
    }

    pub(super) fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim {
        let mut keys = self.lock();
        keys.remove_until(now);
        if let Some((_, claim)) = keys.get(&key.to_owned()) {
            return *claim;
        }
        self.put(&mut keys, key, IdempotencyClaim::InProgress, now.after(IdempotencyClaim::LEASE));
        IdempotencyClaim::Granted
    }

    pub(super) fn mark_done(&self, key: &str, until: UnixMillis) {
        self.put(&mut self.lock(), key, IdempotencyClaim::Done, until);
    }

    pub(super) fn is_done(&self, key: &str, now: UnixMillis) -> bool {
        let is_done = |(until, claim): &(UnixMillis, _)| *claim == IdempotencyClaim::Done && now < *until;
        self.lock().get(&key.to_owned()).is_some_and(is_done)
    }

    pub(super) fn release(&self, key: &str) {
        self.lock().remove(&key.to_owned());
    }

    fn put(&self, keys: &mut TimedMap<String, IdempotencyClaim>, key: &str, next: IdempotencyClaim, until: UnixMillis) {
        keys.insert(key.to_owned(), until, next);
        if keys.len() > self.max {
            keys.pop_first();
        }
    }

    fn lock(&self) -> MutexGuard<'_, TimedMap<String, IdempotencyClaim>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
