//! The signing keys that a Clerk instance publishes, kept fresh.
//!
//! A refresh comes before Clerk's own SDKs would treat their keys as stale. While Clerk is unreachable, the keys serve for
//! up to an hour without confirmation. Each instance has its own keys: a cache shared by `kid` would accept the tokens of
//! one instance at another.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep, timeout},
};

use super::{
    invalid::{Invalid, Unverified},
    jwk_set::{JwksError, JwksSource, Probe},
    signing_key::SigningKey,
};
use crate::{
    clock::{ClockWatch, UnixMillis},
    detached::Detached,
};

/// The published keys of an instance.
#[derive(Clone, Debug)]
pub struct Jwks(Arc<KeyCache>);

#[derive(derive_more::Debug)]
#[debug("Jwks {{ url: {:?}, .. }}", source.url.as_str())]
struct KeyCache {
    source: JwksSource,
    http: reqwest::Client,
    detached: Detached,
    cached: ArcSwapOption<CachedKeys>,
    last_refresh_failed: AtomicBool,
    counts: RefreshCounts,
    failure: Notify,
    attempts: Arc<Mutex<Attempts>>,
}

struct CachedKeys {
    keys: HashMap<String, Arc<SigningKey>>,
    confirmed_at: Instant,
}

/// The times of the last fetches. Locked during a fetch, so that all who wait share its result.
#[derive(Default)]
struct Attempts {
    finished_at: Option<Instant>,
    unknown_kid_at: Option<Instant>,
}

#[derive(Clone, Copy)]
enum FetchCause {
    Schedule,
    NoKeys,
    UnknownKid,
}

/// Counts of refreshes. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct RefreshCounts {
    /// Successful refreshes.
    pub confirmed: Counter,
    /// Failed refreshes.
    pub failed: Counter,
    /// The time of the last successful refresh, in seconds since the epoch; 0 before the first.
    pub confirmed_at: Gauge,
    /// Observes Clerk's clock at each refresh.
    pub clock: ClockWatch,
}

/// The state of signing keys, for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysState {
    /// Set in the configuration.
    Configured,
    /// Confirmed by Clerk this long ago.
    Confirmed(Duration),
    /// Confirmed by Clerk this long ago, and the last refresh failed.
    Unconfirmed(Duration),
    /// No keys are available, so no token can be verified.
    Missing,
}

impl Jwks {
    /// Clerk's SDKs cache keys for 5 minutes.
    const REFRESH_EVERY: Duration = Duration::from_mins(4);
    const RETRY_AFTER: Duration = Duration::from_secs(10);
    /// At most one fetch in this time for requests with unknown key ids.
    const UNKNOWN_KID_EVERY: Duration = Duration::from_mins(1);
    /// At most one fetch in this time for requests while no keys are available.
    const NO_KEYS_EVERY: Duration = Duration::from_secs(1);
    const DROP_AFTER: Duration = Duration::from_hours(1);

    /// An empty key set. Fetches are counted in `counts`.
    #[must_use]
    pub fn new(source: JwksSource, http: reqwest::Client, detached: Detached, counts: RefreshCounts) -> Self {
        Self(Arc::new(KeyCache {
            source,
            http,
            detached,
            cached: ArcSwapOption::empty(),
            last_refresh_failed: AtomicBool::new(false),
            counts,
            failure: Notify::new(),
            attempts: Arc::default(),
        }))
    }

    /// Refreshes the keys now and regularly, and soon after any failed refresh. Never returns.
    pub async fn keep_fresh(self) {
        loop {
            self.refresh(FetchCause::Schedule).await;
            let failure = timeout(Self::REFRESH_EVERY, self.0.failure.notified()).await;
            if failure.is_ok() {
                sleep(Self::RETRY_AFTER).await;
            }
        }
    }

    /// Fetches the keys once, without caching them.
    pub async fn probe(&self) -> Result<Probe, JwksError> {
        self.0.source.fetch(&self.0.http).await
    }

    pub(super) async fn find(&self, kid: &str) -> Result<Arc<SigningKey>, Unverified> {
        let key = |cached: &CachedKeys| cached.keys.get(kid).map(Arc::clone);
        let cause = match self.cached() {
            Some(cached) => match key(&cached) {
                Some(key) => return Ok(key),
                None => FetchCause::UnknownKid,
            },
            None => FetchCause::NoKeys,
        };
        self.refresh(cause).await;
        let cached = self.cached().ok_or(Unverified::KeysUnavailable)?;
        key(&cached).ok_or(Invalid::UnknownKey.into())
    }

    /// The cached keys, unless they have been unconfirmed for too long.
    fn cached(&self) -> Option<Arc<CachedKeys>> {
        self.0.cached.load_full().filter(|cached| cached.confirmed_at.elapsed() < Self::DROP_AFTER)
    }

    pub(super) fn state(&self) -> KeysState {
        match self.cached() {
            None => KeysState::Missing,
            Some(cached) if self.0.last_refresh_failed.load(Ordering::Relaxed) => {
                KeysState::Unconfirmed(cached.confirmed_at.elapsed())
            }
            Some(cached) => KeysState::Confirmed(cached.confirmed_at.elapsed()),
        }
    }

    /// Fetches the keys, unless another fetch ended while this call waited, or `cause` has to wait.
    async fn refresh(&self, cause: FetchCause) {
        let arrived_at = Instant::now();
        let mut attempts = Arc::clone(&self.0.attempts).lock_owned().await;
        let within = |at: Option<Instant>, time: Duration| at.is_some_and(|at| at.elapsed() < time);
        if attempts.finished_at.is_some_and(|at| at > arrived_at) {
            return;
        }
        match cause {
            FetchCause::NoKeys if within(attempts.finished_at, Self::NO_KEYS_EVERY) => return,
            FetchCause::Schedule | FetchCause::NoKeys => {}
            FetchCause::UnknownKid if within(attempts.unknown_kid_at, Self::UNKNOWN_KID_EVERY) => return,
            FetchCause::UnknownKid => attempts.unknown_kid_at = Some(arrived_at),
        }
        let shared = Arc::clone(&self.0);
        let fetch = self.0.detached.run(async move {
            let fetched = shared.source.fetch(&shared.http).await;
            shared.store(fetched);
            attempts.finished_at = Some(Instant::now());
        });
        // If it is interrupted, the keys stay as they are.
        let _ = fetch.await;
    }
}

impl KeyCache {
    fn store(&self, fetched: Result<Probe, JwksError>) {
        let failed = match fetched {
            Ok(Probe { keys, clock_offset }) => {
                self.counts.clock.observe(clock_offset);
                tracing::debug!(keys = keys.len(), "signing keys confirmed");
                self.cached.store(Some(Arc::new(CachedKeys { keys, confirmed_at: Instant::now() })));
                self.counts.confirmed.inc();
                self.counts.confirmed_at.set(UnixMillis::now().0 / 1000);
                false
            }
            Err(error) => {
                let url = self.source.url.as_str();
                tracing::warn!(%url, %error, "Clerk's signing keys could not be refreshed");
                self.counts.failed.inc();
                self.failure.notify_one();
                true
            }
        };
        if self.last_refresh_failed.swap(failed, Ordering::Relaxed) && !failed {
            tracing::info!("Clerk's signing keys are confirmed again");
        }
    }
}

#[cfg(test)]
mod tests;
