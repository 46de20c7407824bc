//! A stand-in for one Clerk instance: Frontend API, Backend API, users, sessions, and the key that signs.
//!
//! [`Clerk::start`] generates an instance that exists nowhere else and serves it on loopback. What a test wants to know
//! or change without HTTP, it does through [`Clerk`]; scripts and the sandbox page use the routes (`routes.rs` is their
//! table). Tokens, JSON and errors have Clerk's shapes, so a client cannot tell the difference by reading them.
//!
//! Whatever happens to a session, a user or an organization, by whichever way, is told to the webhook endpoints.

mod api_error;
mod claims;
mod cors;
mod events;
mod ids;
mod instance;
mod options;
mod publishable_key;
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

/// A running stand-in; it stops when dropped.
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
    /// [`io::ErrorKind::AddrInUse`] when the port is taken, or whatever else the system says.
    pub async fn start(mut options: Options) -> io::Result<Self> {
        let listeners = loopback::listen(options.port)?;
        let clock = Arc::new(Clock::ahead_by(options.clock_offset_ms));
        let (webhooks, dispatcher) =
            webhooks::start(mem::take(&mut options.webhooks), options.kid.clone(), Arc::clone(&clock))?;
        let instance = Arc::new(Instance::new(options, listeners.port(), clock, webhooks));
        let server = Server::start(listeners, routes::table(Arc::clone(&instance))).await?;
        Ok(Self { instance, server, _dispatcher: dispatcher })
    }

    /// Stops, and returns when the port is free again.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    /// `http://127.0.0.1:PORT`: the Backend API (`CLERK_API_URL`) and the Frontend API alike.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The Frontend API as a proxy would show it (`CLERK_PROXY_URL`).
    #[must_use]
    pub fn proxy_url(&self) -> String {
        self.instance.proxy_url()
    }

    /// The port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.instance.port
    }

    /// `pk_test_…`, which carries the Frontend API's host name.
    #[must_use]
    pub fn publishable_key(&self) -> &str {
        &self.instance.publishable_key
    }

    /// `sk_test_…`, for the Backend API.
    #[must_use]
    pub fn secret_key(&self) -> &str {
        &self.instance.secret_key
    }

    /// The public key (PEM, SPKI) that the instance started with; [`Clerk::rotate_key`] does not change it, as a key
    /// that someone copied from a dashboard would not change either.
    #[must_use]
    pub fn jwt_key(&self) -> &str {
        &self.instance.jwt_key
    }

    /// Id of the key that signs now.
    #[must_use]
    pub fn kid(&self) -> String {
        self.instance.kid()
    }

    /// The `iss` of session tokens.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.instance.issuer()
    }

    /// What this instance appends to cookie names.
    #[must_use]
    pub fn cookie_suffix(&self) -> String {
        cookie_suffix(self.publishable_key())
    }

    /// Replaces the signing key by a new one with a new id, and returns the id. The JWKS has only the new one.
    #[must_use = "tokens signed from here on carry this id"]
    pub fn rotate_key(&self) -> String {
        self.instance.rotate_key()
    }

    /// Signs exactly these claims, under the header that Clerk gives a session token.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers build claims in place, with `json!`")]
    pub fn mint(&self, claims: Value) -> String {
        self.instance.mint(&claims)
    }

    /// Signs exactly this header and these claims.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers build claims in place, with `json!`")]
    pub fn mint_with_header(&self, header: Value, claims: Value) -> String {
        self.instance.mint_with_header(&header, &claims)
    }

    /// The claims of a new session of this user: version 2, active, issued now. A user that the instance does not have
    /// is taken for one without an organization.
    #[must_use]
    pub fn session_claims(&self, user_id: &str) -> Value {
        self.instance.new_session_claims(user_id)
    }

    /// A session token with [`Clerk::session_claims`].
    #[must_use]
    pub fn session_token(&self, user_id: &str) -> String {
        self.mint(self.session_claims(user_id))
    }

    /// One more token of the session of this id, as a page asks for one every minute; `None` when the session is over or
    /// its user is barred.
    #[must_use]
    pub fn next_session_token(&self, session_id: &str) -> Option<String> {
        let session = self.instance.active_session(session_id)?;
        Some(self.mint(self.instance.next_session_claims(&session)))
    }

    /// The user signs out of one session: `session.ended`. Of a session that is over nothing is told, here and below.
    pub fn end_session(&self, session_id: &str) {
        self.instance.end_session(session_id, SessionEnd::Ended);
    }

    /// The user signs out as with clerk-js's `signOut()`: `session.removed`.
    pub fn remove_session(&self, session_id: &str) {
        self.instance.end_session(session_id, SessionEnd::Removed);
    }

    /// An administrator ends a session: `session.revoked`.
    pub fn revoke_session(&self, session_id: &str) {
        self.instance.end_session(session_id, SessionEnd::Revoked);
    }

    /// All users, in the order in which they came.
    #[must_use]
    pub fn users(&self) -> Vec<User> {
        self.instance.users()
    }

    /// Adds the user, or replaces the one with this id, and tells of what changed. Every field is taken as it is,
    /// `updated_at` included. A user who is barred from now on loses all sessions.
    pub fn set_user(&self, user: User) {
        self.instance.set_user(user);
    }

    /// Changes a user, if there is one of this id, and its `updated_at`; tells of it as [`Clerk::set_user`] does.
    pub fn change_user(&self, user_id: &str, change: impl FnOnce(&mut User)) {
        let _ = self.instance.change_user(user_id, change);
    }

    /// Bars a user and revokes the user's sessions.
    pub fn ban_user(&self, user_id: &str) {
        self.change_user(user_id, |user| user.banned = true);
    }

    /// Lets a banned user in again. The sessions that the ban ended stay over.
    pub fn unban_user(&self, user_id: &str) {
        self.change_user(user_id, |user| user.banned = false);
    }

    /// Forgets a user, if there is one of this id: the Backend API then answers 404. Sessions end; `user.deleted` is all
    /// that is told.
    pub fn delete_user(&self, user_id: &str) {
        let _ = self.instance.delete_user(user_id);
    }

    /// Forgets an organization, if anyone is in it: its members are in none.
    pub fn delete_organization(&self, organization_id: &str) {
        let _ = self.instance.delete_organization(organization_id);
    }

    /// Where webhooks go from now on. Deliveries under way go on to the endpoint that has their own one's place in the
    /// list, and end if none has.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.instance.webhooks.set_endpoints(endpoints);
    }

    /// The waits between attempts from now on; one that has begun stays as long as it was.
    pub fn set_retry_schedule(&self, waits: Vec<Duration>) {
        self.instance.webhooks.set_retry_schedule(waits);
    }

    /// Lets deliveries wait, or go out.
    pub fn set_flow(&self, flow: Flow) {
        self.instance.webhooks.set_flow(flow);
    }

    /// What happened, oldest first; the last 2000 events are kept.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.instance.webhooks.events()
    }

    /// Tells the endpoints of an event that need not have happened, as of a time in milliseconds since the epoch, or of
    /// now. Returns its id.
    #[expect(clippy::must_use_candidate, reason = "the id is for who wants to send it again")]
    pub fn send_event(&self, event_type: &str, data: Value, timestamp: Option<i64>) -> String {
        self.instance.webhooks.send(event_type, data, timestamp)
    }

    /// Sends an event of [`Clerk::events`] once more under its own id, at once, even while deliveries are paused, and
    /// without retries. Returns an attempt for each endpoint.
    pub async fn redeliver(&self, event_id: &str) -> Vec<Attempt> {
        self.instance.webhooks.redeliver(event_id).await
    }

    /// Every attempt to deliver an event, oldest first; the last 10,000 are kept.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.instance.webhooks.attempts()
    }

    /// The same, as soon as they are what `enough` waits for.
    pub async fn attempts_once(&self, enough: impl Fn(&[Attempt]) -> bool) -> Vec<Attempt> {
        self.instance.webhooks.attempts_once(enough).await
    }

    /// Returns when every event is delivered everywhere, or given up.
    pub async fn webhooks_settled(&self) {
        self.instance.webhooks.settled().await;
    }

    /// How often each route was called, refused and unanswered calls included.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.instance.calls()
    }

    /// Makes the JWKS and the Backend API fail from now on, or (`None`) work again.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.instance.set_outage(outage);
    }

    /// Makes the Backend API take this long before each answer.
    pub fn set_delay(&self, delay: Duration) {
        self.instance.set_delay(delay);
    }
}
