//! A stand-in for Ably on loopback: Ably's own SDKs can get a token, connect, publish, subscribe, renew and be refused.
//!
//! It checks token requests and JWTs as Ably does, answers with Ably's codes, and shares no code with the service. One port
//! serves REST, the WebSocket on `/`, and `/sandbox/…`: JSON views and controls for people and scripts.
//!
//! It keeps its state in memory only, and every collection has a limit.
//!
//! ```
//! # #[tokio::main] async fn main() -> std::io::Result<()> {
//! use sandbox::ably::{Ably, Options};
//!
//! let ably = Ably::start(Options::default()).await?;
//! println!("{} serves {}", ably.url(), ably.key_name());
//! ably.stop().await;
//! # Ok(()) }
//! ```

mod access;
mod api_key;
mod app;
mod capability;
mod channel;
mod connection;
mod error;
mod fields;
mod http;
mod inspection;
mod issued_tokens;
mod messages;
mod middleware;
mod outage;
mod protocol;
mod rate_limiter;
mod realtime;
mod records;
mod rest;
mod revocation;
mod shared_app;
mod socket;
mod token_request;
mod tokens;

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::ServerHandle,
    middleware::from_fn,
    rt::{System, time::sleep},
    web::Data,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::sync::oneshot;

use self::{
    api_key::ApiKey, app::AblyApp, capability::Capability, rate_limiter::RateLimiter, revocation::Revocable,
    shared_app::SharedApp,
};
pub use self::{
    outage::Outage,
    records::{Calls, ConnectionInfo, Ending, IssuedToken, RevocationCall, RevocationOutcome},
    revocation::{Poison, RevocableTokens},
};
use crate::clock::Clock;

/// The intersection of two capabilities as canonical text, `{}` if empty; `None` if one is invalid. For tests that
/// compare another implementation with this one.
#[must_use]
pub fn intersection(left: &str, right: &str) -> Option<String> {
    Some(Capability::parse(left).ok()?.intersect(&Capability::parse(right).ok()?).to_string())
}

/// Whether a capability allows an operation on a channel; false if the capability is invalid.
#[must_use]
pub fn allows(capability: &str, channel: &str, operation: &str) -> bool {
    Capability::parse(capability).is_ok_and(|capability| capability.allows(channel, operation))
}

const KEEP_ALIVE: Duration = Duration::from_secs(75);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const LONGEST_STOP_S: u64 = 1;

/// Settings of a stand-in.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port on loopback; 0 takes any free one.
    pub port: u16,
    /// `appId.keyId:secret`; `None` generates one.
    pub api_key: Option<String>,
    /// The capability of the key: an object of resource to list of operations.
    pub capability: serde_json::Value,
    /// Whether tokens can be revoked; such tokens live for at most an hour. [`Ably::set_revocable_tokens`] changes
    /// it.
    pub revocable_tokens: bool,
    /// How long clients have to fetch a new token with `allowReauthMargin`. Ably's margin is 30 seconds.
    pub reauth_margin: Duration,
    /// The stand-in's clock minus this machine's, in milliseconds. [`Ably::set_clock_offset_ms`] changes it.
    pub clock_offset_ms: i64,
}

impl Default for Options {
    /// Any port, a new key with every capability, no revocable tokens, no clock offset.
    fn default() -> Self {
        Self {
            port: 0,
            api_key: None,
            capability: json!({ "[*]*": ["*"] }),
            revocable_tokens: false,
            reauth_margin: Duration::from_millis(app::REAUTH_MARGIN_MS.unsigned_abs()),
            clock_offset_ms: 0,
        }
    }
}

/// A running stand-in. Dropping it stops it.
pub struct Ably {
    port: u16,
    key: ApiKey,
    shared: Arc<SharedApp>,
    server: ServerHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Ably {
    /// Starts a stand-in on loopback, with its own threads and runtime.
    ///
    /// Fails if the port is taken, or if the key or the capability is malformed.
    pub async fn start(options: Options) -> io::Result<Self> {
        let invalid = |problem: &'static str| io::Error::new(io::ErrorKind::InvalidInput, problem);
        let key = ApiKey::parse(&options.api_key.unwrap_or_else(|| generated_key(&random_text::<4>())))
            .ok_or_else(|| invalid("the API key is not of the form appId.keyId:secret"))?;
        let capability = Capability::from_json(&options.capability).map_err(|error| invalid(error.message))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
        let port = listener.local_addr()?.port();
        let revocable = if options.revocable_tokens { Revocable::Since(0) } else { Revocable::None };
        let mut app = AblyApp::new(
            key.clone(),
            capability,
            revocable,
            Box::new(|| BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())),
        );
        app.reauth_margin_ms = i64::try_from(options.reauth_margin.as_millis()).unwrap_or(i64::MAX);
        let shared = Arc::new(SharedApp::new(app, Clock::ahead_by(options.clock_offset_ms)));
        let (ready, started) = oneshot::channel();
        let thread_app = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ably-stand-in".to_owned())
            .spawn(move || System::new().block_on(serve(listener, thread_app, ready)))?;
        let server = started.await.map_err(|_| io::Error::other("the stand-in did not start"))?;
        Ok(Self { port, key, shared, server, thread: Some(thread) })
    }

    /// The base URL for REST and WebSocket: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The API key: `appId.keyId:secret`.
    #[must_use]
    pub fn api_key(&self) -> &str {
        self.key.text()
    }

    /// The name of the API key: `appId.keyId`.
    #[must_use]
    pub fn key_name(&self) -> &str {
        self.key.name()
    }

    /// Makes another API key of the app, with the same capability, as in Ably's dashboard: `appId.keyId:secret`.
    #[must_use]
    pub fn add_key(&self) -> String {
        let text = generated_key(self.key.app_id());
        self.shared.app().keys.extend(ApiKey::parse(&text));
        text
    }

    /// How often each route was called.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.shared.app().calls
    }

    /// Starts, changes or (`None`) ends an outage of every REST route.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.shared.app().outage = outage;
    }

    /// Starts, changes or (`None`) ends an outage of `revokeTokens` only. An outage of every route takes precedence.
    pub fn set_revocation_outage(&self, outage: Option<Outage>) {
        self.shared.app().revocation_outage = outage;
    }

    /// Limits `revokeTokens` to a number of calls in a window. Further calls get 429, 42910 and a `Retry-After` that
    /// names the end of the window. `None` removes the limit.
    pub fn set_revocation_rate_limit(&self, limit: Option<(u32, Duration)>) {
        let limiter = |(calls, window): (u32, Duration)| {
            RateLimiter::new(calls, i64::try_from(window.as_millis()).unwrap_or(i64::MAX))
        };
        self.shared.app().revocation_limiter = limit.map(limiter);
    }

    /// Makes `revokeTokens` fail for a target such as `clientId:alice` with this Ably error code; `None` ends that.
    pub fn set_target_failure(&self, target: &str, code: Option<u32>) {
        self.shared.app().set_target_failure(target, code);
    }

    /// Makes a target spoil the calls of `revokeTokens` that name it; `None` ends that.
    pub fn set_target_poison(&self, target: &str, poison: Option<Poison>) {
        self.shared.app().set_poison(target, poison);
    }

    /// Turns revocable tokens on, for tokens issued from now on, or off, as in Ably's dashboard.
    pub fn set_revocable_tokens(&self, setting: RevocableTokens) {
        self.shared.set_revocable_tokens(setting);
    }

    /// Sets how long clients can resume a dropped connection, at Ably two minutes.
    pub fn set_connection_state_ttl(&self, ttl: Duration) {
        self.shared.app().state_ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    }

    /// Drops a connection as a broken network does, so its client may resume it. No effect if it has ended.
    pub fn drop_connection(&self, connection_id: &str) {
        let now_ms = self.shared.now_ms();
        self.shared.app().drop_connection(connection_id, now_ms);
    }

    /// Sets the stand-in's clock minus this machine's, in milliseconds.
    pub fn set_clock_offset_ms(&self, offset_ms: i64) {
        self.shared.clock.set_offset_ms(offset_ms);
    }

    /// The last 1000 calls of `revokeTokens`, oldest first, without those that an outage of every route cut off.
    #[must_use]
    pub fn revocation_calls(&self) -> Vec<RevocationCall> {
        self.shared.app().revocation_calls.iter().cloned().collect()
    }

    /// Tokens that `requestToken` issued, oldest first. An hour after it expires, a token is forgotten.
    #[must_use]
    pub fn issued_tokens(&self) -> Vec<IssuedToken> {
        self.shared.app().issued.records()
    }

    /// The live connections, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.app().connections()
    }

    /// Waits until `enough` accepts the live connections, and returns them.
    pub async fn connections_once(&self, enough: impl Fn(&[ConnectionInfo]) -> bool) -> Vec<ConnectionInfo> {
        let mut changes = self.shared.app().connections_changed.subscribe();
        loop {
            changes.mark_unchanged();
            let connections = self.connections();
            if enough(&connections) || changes.changed().await.is_err() {
                return connections;
            }
        }
    }

    /// The last 1000 connections that ended, oldest first.
    #[must_use]
    pub fn endings(&self) -> Vec<Ending> {
        self.shared.app().endings()
    }

    /// Stops the stand-in, and returns when the port is free.
    pub async fn stop(mut self) {
        self.shared.app().disconnect_all();
        self.server.stop(false).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Ably {
    fn drop(&mut self) {
        self.shared.app().disconnect_all();
        // Calling `stop` sends the command; the future only waits for the end.
        drop(self.server.stop(false));
    }
}

fn generated_key(app_id: &str) -> String {
    format!("{app_id}.{}:{}", random_text::<4>(), random_text::<32>())
}

/// Letters and digits of this many random bytes.
fn random_text<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes).replace(['-', '_'], "x")
}

async fn serve(listener: TcpListener, shared: Arc<SharedApp>, ready: oneshot::Sender<ServerHandle>) -> io::Result<()> {
    let data = Data::from(Arc::clone(&shared));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .wrap(from_fn(middleware::count_and_interrupt))
            .wrap(from_fn(middleware::allow_any_origin))
            .wrap(from_fn(middleware::date))
            .configure(inspection::routes)
            .configure(rest::routes)
    })
    .workers(1)
    .keep_alive(KEEP_ALIVE)
    .disable_signals()
    .shutdown_timeout(LONGEST_STOP_S)
    .listen(listener)?
    .run();
    let sweeper = actix_web::rt::spawn(async move {
        loop {
            sleep(SWEEP_EVERY).await;
            let now_ms = shared.now_ms();
            shared.app().sweep(now_ms);
        }
    });
    let _ = ready.send(server.handle());
    let outcome = server.await;
    sweeper.abort();
    outcome
}
