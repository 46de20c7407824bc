//! The public keys of one Clerk instance: given as a PEM, or kept up to date from its JWKS.
//!
//! A set of keys is refreshed before Clerk's own SDKs would call theirs stale. When Clerk cannot be reached, the keys
//! held go on serving, but not for longer than an hour without confirmation. Keys belong to one instance: a cache shared
//! by `kid` would let the tokens of one instance into another.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use reqwest::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::{
    runtime::Handle,
    sync::{Mutex, Notify},
    time::{Instant, sleep, timeout},
};
use url::Url;

use super::backend_api::bearer;
use crate::{
    clock::{ClockOffset, ClockWatch, UnixMillis},
    outgoing::{causes, read_json, send},
};

/// The keys that verify an instance's session tokens.
#[derive(Debug)]
pub enum SigningKeys {
    /// One key, for good. A token's `kid` does not matter.
    Pem(PemKey),
    /// The keys that Clerk publishes now, chosen by `kid`.
    Jwks(Jwks),
}

/// The one key of a PEM.
pub struct PemKey(Arc<DecodingKey>);

impl fmt::Debug for PemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PemKey")
    }
}

/// The text is not the PEM of an RSA public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RSA public key in PEM form (-----BEGIN PUBLIC KEY-----)")]
pub struct InvalidPem;

/// There is no key to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Clerk's signing keys are not available")]
pub struct KeysUnavailable;

/// Why no key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    /// The instance has keys, but none of this name.
    Unknown,
    /// There are no keys at all.
    Unavailable,
}

/// How good the keys are, for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysState {
    /// Given in the configuration.
    Configured,
    /// Confirmed by Clerk, so long ago.
    Confirmed(Duration),
    /// The last refresh failed; confirmed by Clerk so long ago, and still serving.
    Unconfirmed(Duration),
    /// None held: no token can be verified.
    Missing,
}

impl SigningKeys {
    /// The key in a PEM. A literal `\n` stands for a line break, as environment files have it.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidPem> {
        let pem = pem.replace("\\n", "\n");
        if !pem.contains("PUBLIC KEY-----") {
            return Err(InvalidPem);
        }
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| InvalidPem)?;
        Ok(Self::Pem(PemKey(Arc::new(key))))
    }

    /// The key that signed a token with this `kid`.
    pub(super) async fn find(&self, kid: Option<&str>) -> Result<Arc<DecodingKey>, KeyError> {
        match self {
            Self::Pem(PemKey(key)) => Ok(Arc::clone(key)),
            Self::Jwks(jwks) => jwks.find(kid.ok_or(KeyError::Unknown)?).await,
        }
    }

    /// The set that Clerk publishes, unless a PEM is configured.
    #[must_use]
    pub fn jwks(&self) -> Option<&Jwks> {
        match self {
            Self::Pem(_) => None,
            Self::Jwks(jwks) => Some(jwks),
        }
    }

    /// How good the keys are now.
    #[must_use]
    pub fn state(&self) -> KeysState {
        match self {
            Self::Pem(_) => KeysState::Configured,
            Self::Jwks(jwks) => jwks.state(),
        }
    }
}

/// Where a JWKS is published.
#[derive(Debug)]
pub struct JwksSource {
    /// The address of the set itself.
    pub url: Url,
    /// For the Backend API's; the Frontend API's is public.
    pub secret_key: Option<SecretString>,
}

/// How refreshes went since the start. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct RefreshCounts {
    /// Clerk gave the keys.
    pub confirmed: Counter,
    /// It did not.
    pub failed: Counter,
    /// When Clerk gave the keys last, in seconds since the epoch; 0 before the first time.
    pub confirmed_at: Gauge,
    /// Observes each answer with keys.
    pub clock: ClockWatch,
}

/// Why a refresh brought no keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// No answer in time.
    #[error("no answer: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("status {0}")]
    Status(u16),
    /// An answer that is not a JWKS.
    #[error("the answer is not a JWKS")]
    Malformed,
    /// A JWKS without an RSA key for RS256 signatures.
    #[error("the JWKS has no RSA signing key")]
    NoUsableKey,
}

/// The keys that an instance publishes, kept up to date.
#[derive(Clone, Debug)]
pub struct Jwks(Arc<Shared>);

struct Shared {
    source: JwksSource,
    http: reqwest::Client,
    /// The runtime that fetches run on, so that a request that goes away does not take a fetch with it.
    runtime: Handle,
    held: ArcSwapOption<Held>,
    last_refresh_failed: AtomicBool,
    counts: RefreshCounts,
    failure: Notify,
    attempts: Arc<Mutex<Attempts>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").field("url", &self.source.url.as_str()).finish_non_exhaustive()
    }
}

struct Held {
    keys: HashMap<String, Arc<DecodingKey>>,
    confirmed_at: Instant,
}

/// When the JWKS was last asked for. Held locked during a fetch, so that those who wait for it share its result.
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

impl Jwks {
    /// Clerk's SDKs keep keys for 5 minutes; ours are newer than that.
    const REFRESH_EVERY: Duration = Duration::from_mins(4);
    const RETRY_AFTER: Duration = Duration::from_secs(10);
    /// However many requests bring unknown key ids, they cause one fetch in this time.
    const UNKNOWN_KID_EVERY: Duration = Duration::from_mins(1);
    /// However many requests find no keys at all, they cause one fetch in this time.
    const NO_KEYS_EVERY: Duration = Duration::from_secs(1);
    const DROP_AFTER: Duration = Duration::from_hours(1);
    const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

    /// An empty set. Fetches run on `runtime` and are counted by `counts`.
    #[must_use]
    pub fn new(source: JwksSource, http: reqwest::Client, runtime: Handle, counts: RefreshCounts) -> Self {
        Self(Arc::new(Shared {
            source,
            http,
            runtime,
            held: ArcSwapOption::empty(),
            last_refresh_failed: AtomicBool::new(false),
            counts,
            failure: Notify::new(),
            attempts: Arc::default(),
        }))
    }

    /// Refreshes now and then on, for ever; sooner after a failure, whoever met it.
    pub async fn keep_fresh(self) {
        loop {
            self.refresh(FetchCause::Schedule).await;
            let failure = timeout(Self::REFRESH_EVERY, self.0.failure.notified()).await;
            if failure.is_ok() {
                sleep(Self::RETRY_AFTER).await;
            }
        }
    }

    /// Fetches once, for a report.
    pub async fn probe(&self) -> Result<Probe, JwksError> {
        let Fetched { keys, clock_offset } = self.0.fetch().await?;
        Ok(Probe { keys: keys.into_values().collect(), clock_offset })
    }

    async fn find(&self, kid: &str) -> Result<Arc<DecodingKey>, KeyError> {
        let key = |held: &Held| held.keys.get(kid).map(Arc::clone);
        let cause = match self.held() {
            Some(held) => match key(&held) {
                Some(key) => return Ok(key),
                None => FetchCause::UnknownKid,
            },
            None => FetchCause::NoKeys,
        };
        self.refresh(cause).await;
        let held = self.held().ok_or(KeyError::Unavailable)?;
        key(&held).ok_or(KeyError::Unknown)
    }

    /// The keys held, unless they have gone unconfirmed for too long.
    fn held(&self) -> Option<Arc<Held>> {
        self.0.held.load_full().filter(|held| held.confirmed_at.elapsed() < Self::DROP_AFTER)
    }

    fn state(&self) -> KeysState {
        match self.held() {
            None => KeysState::Missing,
            Some(held) if self.0.last_refresh_failed.load(Ordering::Relaxed) => {
                KeysState::Unconfirmed(held.confirmed_at.elapsed())
            }
            Some(held) => KeysState::Confirmed(held.confirmed_at.elapsed()),
        }
    }

    /// Fetches the set, unless someone else's fetch ended while this call waited for its turn, or `cause` is not yet
    /// allowed another.
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
        let fetch = self.0.runtime.spawn(async move {
            let fetched = shared.fetch().await;
            shared.take(fetched);
            attempts.finished_at = Some(Instant::now());
        });
        // The task does not panic, and a runtime that shuts down leaves the keys as they are.
        let _ = fetch.await;
    }
}

impl Shared {
    fn take(&self, fetched: Result<Fetched, JwksError>) {
        let failed = match fetched {
            Ok(Fetched { keys, clock_offset }) => {
                self.counts.clock.observe(clock_offset);
                tracing::debug!(keys = keys.len(), "signing keys confirmed");
                self.held.store(Some(Arc::new(Held { keys, confirmed_at: Instant::now() })));
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

    async fn fetch(&self) -> Result<Fetched, JwksError> {
        let mut request = self.http.get(self.source.url.clone()).timeout(Jwks::FETCH_TIMEOUT);
        if let Some(secret_key) = &self.source.secret_key {
            request = request.header(AUTHORIZATION, bearer(secret_key.expose_secret()));
        }
        let (response, arrival) = send(request).await.map_err(JwksError::Unreachable)?;
        if !response.status().is_success() {
            return Err(JwksError::Status(response.status().as_u16()));
        }
        let clock_offset = arrival.clock_offset(&response);
        let set: JwkSet = read_json(response, JwksError::Unreachable, JwksError::Malformed).await?;
        let keys: HashMap<_, _> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(JwksError::NoUsableKey) } else { Ok(Fetched { keys, clock_offset }) }
    }
}

/// What one fetch brought.
pub struct Probe {
    keys: Vec<Arc<DecodingKey>>,
    /// How far our clock is ahead of Clerk's, if the answer told.
    pub clock_offset: Option<ClockOffset>,
}

impl Probe {
    /// The one key of a PEM, as if it had been fetched.
    #[must_use]
    pub fn of_pem(PemKey(key): &PemKey) -> Self {
        Self { keys: vec![Arc::clone(key)], clock_offset: None }
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key is in both: if not, they are of different instances.
    #[must_use]
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        self.keys.iter().any(|key| other.keys.iter().any(|other| is_same_key(key, other)))
    }
}

/// A PEM's key is kept as DER, which has the modulus in it; a JWKS's as modulus and exponent.
fn is_same_key(key: &DecodingKey, other: &DecodingKey) -> bool {
    use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
    match (key.kind(), other.kind()) {
        (SecretOrDer(der), RsaModulusExponent { n, .. }) | (RsaModulusExponent { n, .. }, SecretOrDer(der)) => {
            der.windows(n.len()).any(|window| window == n)
        }
        (RsaModulusExponent { n, .. }, RsaModulusExponent { n: other, .. }) => n == other,
        (SecretOrDer(der), SecretOrDer(other)) => der == other,
    }
}

struct Fetched {
    keys: HashMap<String, Arc<DecodingKey>>,
    clock_offset: Option<ClockOffset>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RsaJwk {
    kty: String,
    kid: String,
    n: String,
    e: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// An RSA key meant for RS256 signatures, by its id. Keys of other kinds beside it are none of our business.
fn usable(jwk: serde_json::Value) -> Option<(String, Arc<DecodingKey>)> {
    let jwk: RsaJwk = serde_json::from_value(jwk).ok()?;
    let is_for_signatures = jwk.usage.is_none_or(|usage| usage == "sig");
    if jwk.kty != "RSA" || !is_for_signatures || jwk.alg.is_some_and(|alg| alg != "RS256") {
        return None;
    }
    let key = DecodingKey::from_rsa_components(&jwk.n, &jwk.e).ok()?;
    Some((jwk.kid, Arc::new(key)))
}

#[cfg(test)]
mod tests;
