//! Looks up users whose session token lacks a username, and caches them.
//!
//! Concurrent look-ups of one user share one call. The result of a call that began before its user was forgotten is discarded,
//! as it may be outdated.

use std::{collections::HashMap, sync::Arc, time::Duration};

use moka::sync::Cache;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::OnceCell, time::Instant};

use super::backend_api::{BackendApi, BackendApiError, User};
use crate::detached::Detached;

/// The users of one instance.
#[derive(Clone, Debug)]
pub struct Users(Arc<UserCache>);

#[derive(Debug)]
struct UserCache {
    api: BackendApi,
    detached: Detached,
    cache: Cache<String, Record>,
    /// Running calls. Each leaves when it ends, or when its user is forgotten.
    calls: Mutex<HashMap<String, Lookup>>,
    rate_limited_until: Mutex<Option<Instant>>,
    counts: LookupCounts,
}

/// A user at Clerk. `None`: deleted, permanently, as Clerk does not reuse ids.
type Record = Option<Arc<User>>;

/// A running call, and then its outcome, shared by all who wait for it. `None`: the user was forgotten during the call.
type Lookup = Arc<OnceCell<Option<Result<Record, LookupError>>>>;

/// Counts of look-ups. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct LookupCounts {
    /// Found in the cache.
    pub remembered: Counter,
    /// Found at Clerk, or found to be deleted.
    pub asked: Counter,
    /// Clerk was unreachable, or its rate limit exceeded.
    pub failed: Counter,
}

/// Why a look-up failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The user does not exist at Clerk.
    #[error("the user was deleted")]
    Deleted,
    /// Clerk is unavailable; retry after this time.
    #[error("Clerk cannot be asked about the user now")]
    Unavailable(Duration),
}

impl Users {
    const MAX_CACHED: u64 = 100_000;
    /// The default `Retry-After`.
    const RETRY_AFTER: Duration = Duration::from_secs(5);
    const MAX_PAUSE: Duration = Duration::from_mins(1);
    /// How often one look-up repeats a call during which the user was forgotten.
    const MAX_CALLS: usize = 3;

    /// Looks up users by `api`, caches each for `ttl`, and counts in `counts`.
    #[must_use]
    pub fn new(api: BackendApi, ttl: Duration, detached: Detached, counts: LookupCounts) -> Self {
        Self(Arc::new(UserCache {
            api,
            detached,
            cache: Cache::builder().max_capacity(Self::MAX_CACHED).time_to_live(ttl).build(),
            calls: Mutex::default(),
            rate_limited_until: Mutex::new(None),
            counts,
        }))
    }

    /// The Backend API.
    #[must_use]
    pub fn api(&self) -> &BackendApi {
        &self.0.api
    }

    /// The user with this id, from the cache or from Clerk.
    pub async fn get(&self, id: &str) -> Result<Arc<User>, LookupError> {
        let counts = &self.0.counts;
        let record = if let Some(record) = self.0.cache.get(id) {
            counts.remembered.inc();
            record
        } else {
            let result = self.look_up(id).await;
            if result.is_ok() { &counts.asked } else { &counts.failed }.inc();
            result?
        };
        record.ok_or(LookupError::Deleted)
    }

    /// The user in the cache. Does not call Clerk.
    #[must_use]
    pub fn cached(&self, id: &str) -> Option<Arc<User>> {
        self.0.cache.get(id)?
    }

    /// Caches a user, as a look-up does. For tests and benchmarks.
    pub fn remember(&self, user: User) {
        self.0.cache.insert(user.id.clone(), Some(Arc::new(user)));
    }

    /// Forgets a user, and the results of running calls.
    pub fn forget(&self, id: &str) {
        let mut calls = self.0.calls.lock();
        calls.remove(id);
        self.0.cache.invalidate(id);
    }

    /// Forgets all users, and the results of running calls.
    pub fn forget_all(&self) {
        let mut calls = self.0.calls.lock();
        calls.clear();
        self.0.cache.invalidate_all();
    }

    async fn look_up(&self, id: &str) -> Result<Record, LookupError> {
        let shared = Arc::clone(&self.0);
        let id = id.to_owned();
        let result = self.0.detached.run(async move {
            for _ in 0..Self::MAX_CALLS {
                let call = shared.join(&id);
                if let Some(result) = call.get_or_init(|| shared.run(&id, &call)).await {
                    return result.clone();
                }
            }
            tracing::warn!(user_id = id, "a user was forgotten during every look-up");
            Err(LookupError::Unavailable(Self::RETRY_AFTER))
        });
        result.await.unwrap_or(Err(LookupError::Unavailable(Self::RETRY_AFTER)))
    }
}

impl UserCache {
    /// The running call about a user, or a new one.
    fn join(&self, id: &str) -> Lookup {
        Arc::clone(self.calls.lock().entry(id.to_owned()).or_default())
    }

    async fn run(&self, id: &str, call: &Lookup) -> Option<Result<Record, LookupError>> {
        let result = self.fetch(id).await;
        // Locked until the result is cached, so that the user is not forgotten in between.
        let mut calls = self.calls.lock();
        let is_current = calls.get(id).is_some_and(|current| Arc::ptr_eq(current, call));
        if is_current {
            calls.remove(id);
        }
        if let Ok(record) = &result {
            if !is_current {
                return None;
            }
            self.cache.insert(id.to_owned(), record.clone());
        }
        Some(result)
    }

    async fn fetch(&self, id: &str) -> Result<Record, LookupError> {
        // Another call may have ended meanwhile.
        if let Some(record) = self.cache.get(id) {
            return Ok(record);
        }
        if let Some(pause) = self.remaining_pause() {
            return Err(LookupError::Unavailable(pause));
        }
        match self.api.user(id).await {
            Ok(user) => Ok(Some(Arc::new(user))),
            Err(BackendApiError::NotFound) => Ok(None),
            Err(error) => {
                tracing::warn!(user_id = id, %error, "user look-up failed");
                let pause = match error {
                    BackendApiError::RateLimited(after) => self.pause_for(after),
                    _ => Users::RETRY_AFTER,
                };
                Err(LookupError::Unavailable(pause))
            }
        }
    }

    /// The time until Clerk's rate limit ends.
    fn remaining_pause(&self) -> Option<Duration> {
        let until = *self.rate_limited_until.lock();
        until?.checked_duration_since(Instant::now()).filter(|pause| !pause.is_zero())
    }

    fn pause_for(&self, after: Option<Duration>) -> Duration {
        let pause = after.unwrap_or(Users::RETRY_AFTER).clamp(Duration::from_secs(1), Users::MAX_PAUSE);
        *self.rate_limited_until.lock() = Some(Instant::now() + pause);
        pause
    }
}

#[cfg(test)]
mod tests;
