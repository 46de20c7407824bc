//! Ably's stand-in: enough of Ably, on loopback, for its real SDKs to get a token, connect, publish, subscribe, renew and
//! be refused.
//!
//! It is also a judge: it checks a token request or a JWT as Ably does and answers with Ably's codes, and it shares no
//! code with the service that makes them. One port serves it all: the REST routes of the `rest` module, a WebSocket
//! on `/`, and for people and scripts `/sandbox/…`, JSON views of what happens and handles to change it.
//!
//! It forgets everything when it stops. Memory is bounded: nonces, tokens, revocations, channels, history, logs, frames
//! and queues all have a limit.
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

/// What two capabilities both allow, as the stand-in finds it: canonical text, `{}` when there is nothing. None when one
/// of them is no capability. For tests that compare another implementation with this one.
#[must_use]
pub fn intersection(left: &str, right: &str) -> Option<String> {
    Some(Capability::parse(left).ok()?.intersect(&Capability::parse(right).ok()?).to_string())
}

/// Whether a capability allows an operation on a channel, as the stand-in judges it; never when it is no capability.
#[must_use]
pub fn allows(capability: &str, channel: &str, operation: &str) -> bool {
    Capability::parse(capability).is_ok_and(|capability| capability.allows(channel, operation))
}

const KEEP_ALIVE: Duration = Duration::from_secs(75);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const LONGEST_STOP_S: u64 = 1;

/// How a stand-in is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port on loopback; 0 is any that is free.
    pub port: u16,
    /// `appId.keyId:secret`; `None` is a new one.
    pub api_key: Option<String>,
    /// What the key may do: an object of resource to list of operations.
    pub capability: serde_json::Value,
    /// Whether tokens can be revoked, which limits their lifetime to an hour. [`Ably::set_revocable_tokens`] changes it.
    pub revocable_tokens: bool,
    /// What `allowReauthMargin` gives clients to fetch a new token. Ably's is 30 seconds.
    pub reauth_margin: Duration,
    /// How far the stand-in's clock is ahead, in milliseconds. [`Ably::set_clock_offset_ms`] changes it.
    pub clock_offset_ms: i64,
}

impl Default for Options {
    /// Any port, a new key that may do everything, tokens that cannot be revoked, the right time.
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

/// A running stand-in. It stops when dropped.
pub struct Ably {
    port: u16,
    key: ApiKey,
    shared: Arc<SharedApp>,
    server: ServerHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Ably {
    /// Starts a stand-in on loopback, with threads and a runtime of its own, so that any runtime may own it.
    ///
    /// Fails when the port is taken, or when the key or the capability is malformed.
    pub async fn start(options: Options) -> io::Result<Self> {
        let invalid = |problem: &'static str| io::Error::new(io::ErrorKind::InvalidInput, problem);
        let key = ApiKey::parse(&options.api_key.unwrap_or_else(generated_key))
            .ok_or_else(|| invalid("the API key is not appId.keyId:secret"))?;
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
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ably-stand-in".to_owned())
            .spawn(move || System::new().block_on(serve(listener, of_thread, ready)))?;
        let server = started.await.map_err(|_| io::Error::other("the stand-in did not start"))?;
        Ok(Self { port, key, shared, server, thread: Some(thread) })
    }

    /// Where it is: `http://127.0.0.1:PORT`, for REST and WebSocket alike.
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

    /// How often each route was called.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.shared.app().calls
    }

    /// Begins an outage, changes it, or with `None` ends it.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.shared.app().outage = outage;
    }

    /// The same for `revokeTokens` alone; an outage of everything comes before it.
    pub fn set_revocation_outage(&self, outage: Option<Outage>) {
        self.shared.app().revocation_outage = outage;
    }

    /// Limits the rate of `revokeTokens`: calls above `calls` within a window of this length get 429 and 42910, and
    /// `Retry-After` says when the window ends. None ends the limit.
    pub fn set_revocation_rate_limit(&self, limit: Option<(u32, Duration)>) {
        let limiter = |(calls, window): (u32, Duration)| {
            RateLimiter::new(calls, i64::try_from(window.as_millis()).unwrap_or(i64::MAX))
        };
        self.shared.app().revocation_limiter = limit.map(limiter);
    }

    /// Has `revokeTokens` fail for a target, such as `clientId:alice`, with this code of Ably's; none ends it.
    pub fn set_target_failure(&self, target: &str, code: Option<u32>) {
        self.shared.app().set_target_failure(target, code);
    }

    /// Has a target spoil the calls of `revokeTokens` that name it; none ends it.
    pub fn set_target_poison(&self, target: &str, poison: Option<Poison>) {
        self.shared.app().set_poison(target, poison);
    }

    /// Turns revocable tokens on for tokens issued from now on, or off, as in Ably's dashboard.
    pub fn set_revocable_tokens(&self, setting: RevocableTokens) {
        self.shared.set_revocable_tokens(setting);
    }

    /// Sets how far the stand-in's clock is ahead of this machine's, in milliseconds.
    pub fn set_clock_offset_ms(&self, offset_ms: i64) {
        self.shared.clock.set_offset_ms(offset_ms);
    }

    /// The calls of `revokeTokens`, oldest first; the last 1000 are kept. Calls that an outage of everything aborted_response off are
    /// not among them, only counted.
    #[must_use]
    pub fn revocation_calls(&self) -> Vec<RevocationCall> {
        self.shared.app().revocation_calls.iter().cloned().collect()
    }

    /// What `requestToken` issued, oldest first. Expired tokens are forgotten after an hour.
    #[must_use]
    pub fn issued_tokens(&self) -> Vec<IssuedToken> {
        self.shared.app().issued.records()
    }

    /// The live connections, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.app().connections()
    }

    /// The same, as soon as they are what `enough` waits for.
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

    /// The connections that ended, oldest first; the last 1000 are kept.
    #[must_use]
    pub fn endings(&self) -> Vec<Ending> {
        self.shared.app().endings()
    }

    /// Stops, and returns when the port is free again.
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
        // The command is sent by the call; the future only waits for it.
        drop(self.server.stop(false));
    }
}

fn generated_key() -> String {
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes).replace(['-', '_'], "x");
    format!(
        "{}.{}:{}",
        text(&rand::random::<[u8; 4]>()),
        text(&rand::random::<[u8; 4]>()),
        text(&rand::random::<[u8; 32]>())
    )
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
