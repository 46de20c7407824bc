//! The state of an instance: keys, users, clients, sessions, call counts and outages.

mod clients;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::claims::{self, MintParams};
use super::client::Client;
use super::handshake::Handshake;
use super::options::{Issuer, Options};
use super::publishable_key::publishable_key;
use super::session::{ActiveOrganization, Session, SessionEnd, SessionStatus};
use super::signing_key::SigningKey;
use super::user::{self, User};
use super::webhooks::Outbox;
use super::{events, ids};
use crate::clock::Clock;
use crate::loopback;

/// The path of the Frontend API as behind a proxy.
pub(super) const PROXY_PATH: &str = "/__clerk";

/// The `cat` header of a session token.
const SESSION_TOKEN_CATEGORY: &str = "cl_B7d4PD111AAA";

/// How often each route was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// `GET /.well-known/jwks.json`, with or without the proxy path.
    pub frontend_jwks: u64,
    /// `GET /v1/jwks`.
    pub backend_jwks: u64,
    /// `GET /v1/users/{id}`.
    pub users: u64,
    /// `GET /v1/users`.
    pub users_list: u64,
    /// `POST /v1/client/sign_ins`.
    pub sign_ins: u64,
    /// `POST /v1/client/sessions/{sid}/tokens`.
    pub tokens: u64,
    /// `POST /v1/client/sessions/{sid}/end` and `…/remove`.
    pub sign_outs: u64,
    /// Calls of the Backend API that change sessions, users, memberships or organizations.
    pub changes: u64,
    /// `POST /sandbox/session-tokens`.
    pub session_tokens: u64,
}

/// An outage of Clerk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Answers with this status; an invalid one becomes 500.
    Status(u16),
    /// Answers with 429.
    RateLimited {
        /// The `Retry-After` of the answer, in seconds.
        retry_after_s: u64,
    },
    /// Does not answer until the outage changes, or for a minute.
    Hang,
    /// Closes the connection without an answer.
    Drop,
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) port: u16,
    pub(super) publishable_key: String,
    pub(super) secret_key: String,
    pub(super) jwt_key: String,
    session_token_ttl: Duration,
    frontend_api: String,
    issuer: Issuer,
    authorized_party: String,
    allowed_origins: Vec<String>,
    clock: Arc<Clock>,
    pub(super) outbox: Arc<Outbox>,
    outage: watch::Sender<Option<Outage>>,
    state: Mutex<InstanceState>,
}

#[derive(Debug)]
struct InstanceState {
    key: SigningKey,
    users: Vec<User>,
    /// By dev browser token.
    clients: HashMap<String, Client>,
    /// The last ones, oldest first.
    handshakes: VecDeque<Handshake>,
    sessions: HashMap<String, Session>,
    calls: Calls,
    delay: Duration,
}

impl Instance {
    /// Fails if the options have a signing key that is not an RSA key.
    pub(super) fn new(options: Options, port: u16, clock: Arc<Clock>, outbox: Arc<Outbox>) -> io::Result<Self> {
        let key = match &options.signing_key {
            Some(der) => SigningKey::from_pkcs8(options.kid, der)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the signing key is not an RSA key"))?,
            None => SigningKey::generate(options.kid),
        };
        let mut instance = Self {
            port,
            publishable_key: publishable_key(&options.frontend_api),
            secret_key: options.secret_key.unwrap_or_else(|| format!("sk_test_{}", ids::random(42))),
            jwt_key: key.pem(),
            session_token_ttl: options.session_token_ttl,
            frontend_api: options.frontend_api,
            issuer: options.issuer,
            authorized_party: options.authorized_party,
            allowed_origins: options.allowed_origins,
            clock,
            outbox,
            outage: watch::Sender::new(None),
            state: Mutex::new(InstanceState {
                key,
                users: Vec::new(),
                clients: HashMap::new(),
                handshakes: VecDeque::new(),
                sessions: HashMap::new(),
                calls: Calls::default(),
                delay: Duration::ZERO,
            }),
        };
        let users = user::demo_users(instance.now_ms());
        instance.state.get_mut().unwrap_or_else(PoisonError::into_inner).users = users;
        Ok(instance)
    }

    fn state(&self) -> MutexGuard<'_, InstanceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time in milliseconds since the epoch.
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The time as a `Date` header needs it.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(super) fn proxy_url(&self) -> String {
        format!("http://127.0.0.1:{}{PROXY_PATH}", self.port)
    }

    /// The address for people and their browsers.
    pub(super) fn home(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    pub(super) fn issuer(&self) -> String {
        match self.issuer {
            Issuer::FrontendApi => format!("https://{}", self.frontend_api),
            Issuer::Proxy => self.proxy_url(),
        }
    }

    pub(super) fn kid(&self) -> String {
        self.state().key.kid().to_owned()
    }

    pub(super) fn rotate_key(&self) -> String {
        let kid = ids::new("ins");
        let key = SigningKey::generate(kid.clone());
        self.state().key = key;
        kid
    }

    pub(super) fn replace_key(&self) {
        let key = SigningKey::generate(self.kid());
        self.state().key = key;
    }

    pub(super) fn jwks(&self) -> Value {
        json!({"keys": [self.state().key.jwk()]})
    }

    pub(super) fn mint(&self, claims: &Value) -> String {
        let state = self.state();
        let header = json!({"alg": "RS256", "cat": SESSION_TOKEN_CATEGORY, "kid": state.key.kid(), "typ": "JWT"});
        state.key.sign(&header, claims)
    }

    pub(super) fn mint_with_header(&self, header: &Value, claims: &Value) -> String {
        self.state().key.sign(header, claims)
    }

    pub(super) fn new_session_claims(&self, user_id: &str) -> Value {
        self.next_session_claims(&self.sign_in(user_id))
    }

    /// The claims of the next token of a session, for the default authorized party.
    pub(super) fn next_session_claims(&self, session: &Session) -> Value {
        self.session_claims(session, Some(self.authorized_party.clone()))
    }

    /// The claims of the next token of a session, for this authorized party.
    pub(super) fn session_claims(&self, session: &Session, authorized_party: Option<String>) -> Value {
        let state = self.state();
        let user = state.users.iter().find(|user| user.id == session.user_id);
        let params = MintParams {
            now: self.now_ms().div_euclid(1000),
            ttl_s: i64::try_from(self.session_token_ttl.as_secs()).unwrap_or(i64::MAX / 2),
            issuer: self.issuer(),
            jti: ids::random(20).to_lowercase(),
            authorized_party,
        };
        claims::of(session, user, params)
    }

    /// Starts a session without a client.
    pub(super) fn sign_in(&self, user_id: &str) -> Session {
        self.start_session(&mut self.state(), user_id, ids::new("client"))
    }

    fn start_session(&self, state: &mut InstanceState, user_id: &str, client_id: String) -> Session {
        let now_ms = self.now_ms();
        let session = Session {
            id: ids::new("sess"),
            client_id,
            user_id: user_id.to_owned(),
            signed_in_at: now_ms.div_euclid(1000),
            updated_at: now_ms,
            status: SessionStatus::Active,
            organization: ActiveOrganization::Default,
        };
        state.sessions.insert(session.id.clone(), session.clone());
        let user = state.users.iter().find(|user| user.id == user_id);
        self.outbox.emit("session.created", events::session_with_user(user, &session));
        session
    }

    /// The session with this id, unless it has ended or its user is blocked.
    pub(super) fn active_session(&self, id: &str) -> Option<Session> {
        let state = self.state();
        let session = state.sessions.get(id).filter(|session| session.status == SessionStatus::Active)?;
        let is_blocked = state.users.iter().any(|user| user.id == session.user_id && user.is_blocked());
        (!is_blocked).then(|| session.clone())
    }

    /// Ends a session and returns it; `None` if it is not active.
    pub(super) fn end_session(&self, id: &str, end: SessionEnd) -> Option<Session> {
        let mut state = self.state();
        let InstanceState { sessions, users, .. } = &mut *state;
        let session = sessions.get_mut(id).filter(|session| session.status == SessionStatus::Active)?;
        let user = users.iter().find(|user| user.id == session.user_id);
        Some(self.end(session, user, end))
    }

    fn end(&self, session: &mut Session, user: Option<&User>, end: SessionEnd) -> Session {
        session.status = SessionStatus::Over(end);
        session.updated_at = self.now_ms();
        self.outbox.emit(&format!("session.{}", session.status.name()), events::session_with_user(user, session));
        session.clone()
    }

    /// All sessions, newest first.
    pub(super) fn sessions(&self) -> Vec<Session> {
        let mut sessions: Vec<_> = self.state().sessions.values().cloned().collect();
        sessions.sort_by(|a, b| b.signed_in_at.cmp(&a.signed_in_at).then_with(|| a.id.cmp(&b.id)));
        sessions
    }

    pub(super) fn users(&self) -> Vec<User> {
        self.state().users.clone()
    }

    /// The user with this id or username.
    pub(super) fn user(&self, id_or_username: &str) -> Option<User> {
        let is_named = |user: &&User| user.id == id_or_username || user.username.as_deref() == Some(id_or_username);
        self.state().users.iter().find(is_named).cloned()
    }

    /// The user who signs in with this username or email address.
    pub(super) fn user_of_identifier(&self, identifier: &str) -> Option<User> {
        let is_of = |text: &Option<String>| text.as_deref().is_some_and(|text| text.eq_ignore_ascii_case(identifier));
        self.state().users.iter().find(|user| is_of(&user.username) || is_of(&user.email_address)).cloned()
    }

    /// The origins of the options.
    pub(super) fn allowed_origins(&self) -> &[String] {
        &self.allowed_origins
    }

    /// Whether pages of this origin may use the Frontend API: pages of this machine, and those of the options.
    pub(super) fn allows_origin(&self, origin: &str) -> bool {
        loopback::is_local_origin(origin) || self.allowed_origins.iter().any(|allowed| allowed == origin)
    }

    /// Adds or replaces a user. Blocking a user revokes all sessions, as at Clerk.
    pub(super) fn set_user(&self, user: User) {
        self.put_user(&mut self.state(), user);
    }

    fn put_user(&self, state: &mut InstanceState, user: User) {
        let known = state.users.iter().position(|known| known.id == user.id);
        let before = known.and_then(|at| state.users.get(at));
        let changes = events::of_change(before, &user);
        let is_newly_blocked = user.is_blocked() && !before.is_some_and(User::is_blocked);
        for (event_type, data) in changes {
            self.outbox.emit(event_type, data);
        }
        if is_newly_blocked {
            let sessions = state.sessions.values_mut();
            for session in
                sessions.filter(|session| session.user_id == user.id && session.status == SessionStatus::Active)
            {
                self.end(session, Some(&user), SessionEnd::Revoked);
            }
        }
        match known.and_then(|at| state.users.get_mut(at)) {
            Some(known) => *known = user,
            None => state.users.push(user),
        }
    }

    /// Changes a user and returns it; `None` if the id is unknown.
    pub(super) fn change_user(&self, id: &str, change: impl FnOnce(&mut User)) -> Option<User> {
        let mut state = self.state();
        let mut user = state.users.iter().find(|user| user.id == id)?.clone();
        user.updated_at = self.now_ms().max(user.updated_at + 1);
        change(&mut user);
        self.put_user(&mut state, user.clone());
        Some(user)
    }

    /// Deletes a user and ends the sessions without events for them. Returns whether the user existed.
    pub(super) fn delete_user(&self, id: &str) -> bool {
        let mut state = self.state();
        let before = state.users.len();
        state.users.retain(|user| user.id != id);
        let is_gone = state.users.len() < before;
        if is_gone {
            for session in state.sessions.values_mut().filter(|session| session.user_id == id) {
                session.status = SessionStatus::Over(SessionEnd::Removed);
            }
            self.outbox.emit("user.deleted", events::deleted("user", id));
        }
        is_gone
    }

    /// Deletes an organization. Returns whether it had members.
    pub(super) fn delete_organization(&self, id: &str) -> bool {
        let mut state = self.state();
        let mut had_members = false;
        for user in &mut state.users {
            had_members |= user.leave(id);
        }
        if had_members {
            self.outbox.emit("organization.deleted", events::deleted("organization", id));
        }
        had_members
    }

    pub(super) fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Counts one call in the counter that `counter` selects.
    pub(super) fn count(&self, counter: impl FnOnce(&mut Calls) -> &mut u64) {
        *counter(&mut self.state().calls) += 1;
    }

    pub(super) fn set_outage(&self, outage: Option<Outage>) {
        self.outage.send_replace(outage);
    }

    /// The outage, and notice of its changes.
    pub(super) fn outage(&self) -> watch::Receiver<Option<Outage>> {
        self.outage.subscribe()
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    pub(super) fn delay(&self) -> Duration {
        self.state().delay
    }
}
