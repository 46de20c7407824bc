//! Idempotency keys that are claimed or done, in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::StoreLimits;
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
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    /// What the next claim of each key gets, and until when.
    claims: HashMap<String, (IdempotencyClaim, UnixMillis)>,
    by_end: BTreeSet<(UnixMillis, String)>,
}

impl IdempotencyKeys {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.remembered, keys: Mutex::default() }
    }

    pub(super) fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim {
        let mut keys = self.lock();
        keys.remove_expired(now);
        if let Some((claim, _)) = keys.claims.get(key) {
            return *claim;
        }
        keys.put(key, IdempotencyClaim::InProgress, now.after(IdempotencyClaim::LEASE), self.max);
        IdempotencyClaim::Granted
    }

    pub(super) fn mark_done(&self, key: &str, until: UnixMillis) {
        self.lock().put(key, IdempotencyClaim::Done, until, self.max);
    }

    pub(super) fn is_done(&self, key: &str, now: UnixMillis) -> bool {
        self.lock().claims.get(key).is_some_and(|(claim, until)| *claim == IdempotencyClaim::Done && now < *until)
    }

    pub(super) fn release(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn put(&mut self, key: &str, claim: IdempotencyClaim, until: UnixMillis, max: usize) {
        self.remove(key);
        self.claims.insert(key.to_owned(), (claim, until));
        self.by_end.insert((until, key.to_owned()));
        while self.claims.len() > max
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.claims.remove(&first);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some((_, until)) = self.claims.remove(key) {
            self.by_end.remove(&(until, key.to_owned()));
        }
    }

    fn remove_expired(&mut self, now: UnixMillis) {
        while let Some((_, key)) = self.by_end.first().filter(|(until, _)| *until <= now).cloned() {
            self.remove(&key);
        }
    }
}
