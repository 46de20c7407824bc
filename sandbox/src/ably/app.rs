//! The stand-in's state: one Ably app with its API keys. It does no I/O and reads no clock; callers pass the time in
//! milliseconds since the epoch.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::watch;

use super::{
    api_key::ApiKey,
    capability::Capability,
    channel::Channel,
    connection::{Connection, DroppedConnection, STATE_TTL_MS},
    error::ErrorInfo,
    issued_tokens::IssuedTokens,
    outage::Outage,
    rate_limiter::RateLimiter,
    records::{Calls, Ending, RevocationCall},
    revocation::{Poison, Revocable, Revocations},
    token_request::Nonces,
};

/// How long clients have to fetch a new token with `allowReauthMargin`, in milliseconds.
pub(crate) const REAUTH_MARGIN_MS: i64 = 30_000;

const MOST_REVOCATION_CALLS: usize = 1000;

const MOST_CHANNELS: usize = 200;

/// An Ably app.
pub(crate) struct AblyApp {
    /// All have the same capability.
    pub(super) keys: Vec<ApiKey>,
    pub(super) key_capability: Capability,
    fresh_id: Box<dyn FnMut() -> String + Send>,
    pub(super) nonces: Nonces,
    pub(super) issued: IssuedTokens,
    pub(super) revocations: Revocations,
    pub(crate) revocation_calls: VecDeque<RevocationCall>,
    pub(crate) reauth_margin_ms: i64,
    epoch: String,
    channels_made: u64,
    pub(super) channels: BTreeMap<String, Channel>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) dropped: HashMap<String, DroppedConnection>,
    /// How long a dropped connection can be resumed.
    pub(crate) state_ttl_ms: i64,
    pub(super) last_socket: u64,
    pub(super) endings: VecDeque<Ending>,
    /// Notified of every change of the live connections.
    pub(crate) connections_changed: watch::Sender<()>,
    pub(crate) calls: Calls,
    pub(crate) outage: Option<Outage>,
    pub(crate) revocation_outage: Option<Outage>,
    pub(crate) revocation_limiter: Option<RateLimiter>,
}

impl AblyApp {
    /// An empty app. `fresh_id` returns a new unguessable text each time.
    pub(crate) fn new(
        key: ApiKey,
        key_capability: Capability,
        revocable: Revocable,
        mut fresh_id: Box<dyn FnMut() -> String + Send>,
    ) -> Self {
        let mut revocations = Revocations::default();
        revocations.set_revocable(revocable);
        let epoch = fresh_id().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        Self {
            keys: vec![key],
            key_capability,
            fresh_id,
            nonces: Nonces::default(),
            issued: IssuedTokens::default(),
            revocations,
            revocation_calls: VecDeque::new(),
            reauth_margin_ms: REAUTH_MARGIN_MS,
            epoch,
            channels_made: 0,
            channels: BTreeMap::new(),
            connections: BTreeMap::new(),
            dropped: HashMap::new(),
            state_ttl_ms: STATE_TTL_MS,
            last_socket: 0,
            endings: VecDeque::new(),
            connections_changed: watch::Sender::new(()),
            calls: Calls::default(),
            outage: None,
            revocation_outage: None,
            revocation_limiter: None,
        }
    }

    /// The API key of this name.
    pub(super) fn key(&self, name: &str) -> Result<&ApiKey, ErrorInfo> {
        let key = self.keys.iter().find(|key| key.name() == name);
        key.ok_or(ErrorInfo::invalid_credentials("the key is unknown"))
    }

    pub(super) fn fresh_id(&mut self) -> String {
        (self.fresh_id)()
    }

    pub(crate) fn revocable(&self) -> Revocable {
        self.revocations.revocable()
    }

    pub(crate) fn set_target_failure(&mut self, target: &str, code: Option<u32>) {
        self.revocations.set_failure(target, code);
    }

    pub(crate) fn set_poison(&mut self, target: &str, poison: Option<Poison>) {
        self.revocations.set_poison(target, poison);
    }

    /// Turns revocable tokens on, for tokens from now on, or off; no effect if they already are.
    pub(crate) fn set_revocable(&mut self, revocable: Revocable) {
        if (revocable == Revocable::None) != (self.revocable() == Revocable::None) {
            self.revocations.set_revocable(revocable);
        }
    }

    pub(crate) fn log_revocation_call(&mut self, call: RevocationCall) {
        if self.revocation_calls.len() >= MOST_REVOCATION_CALLS {
            self.revocation_calls.pop_front();
        }
        self.revocation_calls.push_back(call);
    }

    /// The channel of this name, created on demand. At the limit, an unused channel is dropped.
    pub(super) fn channel(&mut self, name: &str) -> Result<&mut Channel, ErrorInfo> {
        if !self.channels.contains_key(name) && self.channels.len() >= MOST_CHANNELS {
            let unused = self
                .channels
                .iter()
                .find(|(name, channel)| !channel.has_members() && !self.is_attached(name))
                .map(|(name, _)| name.clone());
            match unused {
                Some(unused) => self.channels.remove(&unused),
                None => return Err(ErrorInfo::new(503, 50003, "too many channels are in use")),
            };
        }
        let made = &mut self.channels_made;
        let epoch = &self.epoch;
        Ok(self.channels.entry(name.to_owned()).or_insert_with(|| {
            *made += 1;
            Channel::new(format!("{epoch}{made:x}").into())
        }))
    }

    /// Forgets what has expired, and removes members whose connection did not come back.
    pub(crate) fn sweep(&mut self, now_ms: i64) {
        self.nonces.forget(now_ms);
        self.revocations.forget(now_ms);
        self.issued.forget_expired(now_ms);
        self.forget_dropped(now_ms);
    }
}
