//! A stand-in for one Clerk instance: Frontend API, Backend API, users, sessions and signing keys.
//!
//! [`Clerk::start`] generates an instance and serves it on loopback. Tests inspect and change it through [`Clerk`]; scripts
//! and the sandbox page use the routes, which `routes.rs` lists. Tokens, JSON and errors have Clerk's shapes.
//!
//! Every change of a session, a user or an organization is sent to the webhook endpoints, whatever caused it.

mod api_error;
mod claims;
mod client;
mod cors;
mod environment;
mod events;
mod handshake;
mod ids;
mod instance;
mod options;
mod publishable_key;
mod resources;
mod routes;
mod session;
mod signing_key;
mod user;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use serde_json::Value;

use crate::clock::Clock;
use crate::loopback::{self, Server};
use instance::Instance;
use session::SessionEnd;
use webhooks::Dispatcher;

pub use instance::{Calls, Outage};
pub use options::{Issuer, Options};
pub use publishable_key::{cookie_suffix, publishable_key};
pub use user::{Feature, Organization, User};
pub use webhooks::{Answer, Attempt, Endpoint, Event, Flow, InvalidEndpoint, SigningSecret, WebhookOptions};

/// A running stand-in. Dropping it stops it.
#[derive(Debug)]
pub struct Clerk {
    instance: Arc<Instance>,
    server: Server,
    _dispatcher: Dispatcher,
}

impl Clerk {
    /// Generates an instance and serves it on loopback.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] if the port is taken, [`io::ErrorKind::InvalidInput`] if the signing key is not an RSA
    /// key, or another error of the system.
    pub async fn start(mut options: Options) -> io::Result<Self> {
        let listeners = loopback::listen(options.port)?;
        let clock = Arc::new(Clock::ahead_by(options.clock_offset_ms));
        let (outbox, dispatcher) =
            webhooks::start(mem::take(&mut options.webhooks), options.kid.clone(), Arc::clone(&clock))?;
        let instance = Arc::new(Instance::new(options, listeners.port(), clock, outbox)?);
        let server = Server::start(listeners, routes::table(Arc::clone(&instance))).await?;
        Ok(Self { instance, server, _dispatcher: dispatcher })
    }

    /// Stops the stand-in, and returns when the port is free.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    /// The base URL of the Backend API (`CLERK_API_URL`) and the Frontend API: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The base URL of the Frontend API behind a proxy (`CLERK_PROXY_URL`).
    #[must_use]
    pub fn proxy_url(&self) -> String {
        self.instance.proxy_url()
    }

    /// The port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.instance.port
    }

    /// The publishable key, `pk_test_…`, which contains the host name of the Frontend API.
    #[must_use]
    pub fn publishable_key(&self) -> &str {
        &self.instance.publishable_key
    }

    /// The secret key of the Backend API, `sk_test_…`.
    #[must_use]
    pub fn secret_key(&self) -> &str {
        &self.instance.secret_key
    }

    /// The public key (PEM, SPKI) that the instance started with. Like a key copied from a dashboard, it does not
    /// change with [`Clerk::rotate_key`].
    #[must_use]
    pub fn jwt_key(&self) -> &str {
        &self.instance.jwt_key
    }

    /// The id of the current signing key.
    #[must_use]
    pub fn kid(&self) -> String {
        self.instance.kid()
    }

    /// The `iss` of session tokens.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.instance.issuer()
    }

    /// The suffix of this instance's cookie names.
    #[must_use]
    pub fn cookie_suffix(&self) -> String {
        cookie_suffix(self.publishable_key())
    }

    /// Replaces the signing key, and returns the new id. The JWKS contains only the new key.
    #[must_use = "tokens signed from here on carry this id"]
    pub fn rotate_key(&self) -> String {
        self.instance.rotate_key()
    }

    /// Replaces the signing key with another that has the same id.
    pub fn replace_key(&self) {
        self.instance.replace_key();
    }

    /// Signs these claims, with the header of a session token.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers build claims in place, with `json!`")]
    pub fn mint(&self, claims: Value) -> String {
        self.instance.mint(&claims)
    }

    /// Signs this header and these claims.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers build claims in place, with `json!`")]
    pub fn mint_with_header(&self, header: Value, claims: Value) -> String {
        self.instance.mint_with_header(&header, &claims)
    }

    /// The claims of a new session of this user: version 2, active, issued now. An unknown user counts as one without
    /// an organization.
    #[must_use]
    pub fn session_claims(&self, user_id: &str) -> Value {
        self.instance.new_session_claims(user_id)
    }

    /// A session token with these [`Clerk::session_claims`].
    #[must_use]
    pub fn session_token(&self, user_id: &str) -> String {
        self.mint(self.session_claims(user_id))
    }

    /// The next token of a session, as a page requests one every minute; `None` if the session has ended or its user
    /// is banned or deprovisioned.
    #[must_use]
    pub fn next_session_token(&self, session_id: &str) -> Option<String> {
        let session = self.instance.active_session(session_id)?;
        Some(self.mint(self.instance.next_session_claims(&session)))
    }

    /// The user signs out of one session: `session.ended`. Ending a session that has ended sends no event, here and
    /// below.
    pub fn end_session(&self, session_id: &str) {
        self.instance.end_session(session_id, SessionEnd::Ended);
    }

    /// The user signs out with clerk-js's `signOut()`: `session.removed`.
    pub fn remove_session(&self, session_id: &str) {
        self.instance.end_session(session_id, SessionEnd::Removed);
    }

    /// An administrator ends a session: `session.revoked`.
    pub fn revoke_session(&self, session_id: &str) {
        self.instance.end_session(session_id, SessionEnd::Revoked);
    }

    /// All users, in the order of creation.
    #[must_use]
    pub fn users(&self) -> Vec<User> {
        self.instance.users()
    }

    /// Adds or replaces a user, and sends the events of the change. Every field is used as given, including
    /// `updated_at`. Banning or deprovisioning a user ends all sessions of the user.
    pub fn set_user(&self, user: User) {
        self.instance.set_user(user);
    }

    /// Changes an existing user and its `updated_at`, and sends events as [`Clerk::set_user`] does.
    pub fn change_user(&self, user_id: &str, change: impl FnOnce(&mut User)) {
        let _ = self.instance.change_user(user_id, change);
    }

    /// Bans a user, which revokes the user's sessions.
    pub fn ban_user(&self, user_id: &str) {
        self.change_user(user_id, |user| user.banned = true);
    }

    /// Lifts the ban of a user. The sessions stay revoked.
    pub fn unban_user(&self, user_id: &str) {
        self.change_user(user_id, |user| user.banned = false);
    }

    /// Deletes an existing user; the Backend API then answers 404. Sessions end, but only `user.deleted` is sent.
    pub fn delete_user(&self, user_id: &str) {
        let _ = self.instance.delete_user(user_id);
    }

    /// Deletes an organization that has members, who then have no organization.
    pub fn delete_organization(&self, organization_id: &str) {
        let _ = self.instance.delete_organization(organization_id);
    }

    /// Replaces the endpoints. A delivery in progress continues to the new endpoint at the same index, or ends if
    /// that does not exist.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.instance.outbox.set_endpoints(endpoints);
    }

    /// Replaces the waits between attempts. A wait that has begun keeps its length.
    pub fn set_retry_schedule(&self, waits: Vec<Duration>) {
        self.instance.outbox.set_retry_schedule(waits);
    }

    /// Pauses or resumes deliveries.
    pub fn set_flow(&self, flow: Flow) {
        self.instance.outbox.set_flow(flow);
    }

    /// The last 2000 events, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.instance.outbox.events()
    }

    /// Sends an event that need not have happened. `timestamp` is in milliseconds since the epoch; without it, the
    /// event is of now. Returns its id.
    #[expect(clippy::must_use_candidate, reason = "only callers that redeliver need the id")]
    pub fn send_event(&self, event_type: &str, data: Value, timestamp: Option<i64>) -> String {
        self.instance.outbox.send(event_type, data, timestamp)
    }

    /// Sends an event of [`Clerk::events`] again under its own id: at once, even while deliveries are paused, and
    /// without retries. Returns one attempt per endpoint.
    pub async fn redeliver(&self, event_id: &str) -> Vec<Attempt> {
        self.instance.outbox.redeliver(event_id).await
    }

    /// The last 10,000 delivery attempts, oldest first.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.instance.outbox.attempts()
    }

    /// Waits until `enough` accepts the attempts, and returns them.
    pub async fn attempts_once(&self, enough: impl Fn(&[Attempt]) -> bool) -> Vec<Attempt> {
        self.instance.outbox.attempts_once(enough).await
    }

    /// Returns when every event is delivered or given up.
    pub async fn webhooks_settled(&self) {
        self.instance.outbox.settled().await;
    }

    /// How often each route was called, including refused and unanswered calls.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.instance.calls()
    }

    /// Starts or (`None`) ends an outage of the JWKS and the Backend API.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.instance.set_outage(outage);
    }

    /// Delays each answer of the Backend API.
    pub fn set_delay(&self, delay: Duration) {
        self.instance.set_delay(delay);
    }
}
