//! What the stand-in remembers: its keys, users and sessions, how often it was called, and how it is to fail.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::claims::{self, Minting, Session, Status};
use super::signing_key::SigningKey;
use super::user::{self, User};
use super::{Issuer, Options, ids, publishable_key};

/// The class that Clerk's header `cat` gives a session token.
const SESSION_TOKEN_CATEGORY: &str = "cl_B7d4PD111AAA";

/// How often each route was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// `GET /.well-known/jwks.json`, behind the proxy path or not.
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
    /// `POST /v1/client/sessions/{sid}/end`.
    pub sign_outs: u64,
    /// `POST /sandbox/session-tokens`.
    pub session_tokens: u64,
}

/// How Clerk can be out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Answers this status. One that HTTP does not have becomes 500.
    Status(u16),
    /// Answers 429.
    RateLimited {
        /// The `Retry-After` of the answer, in seconds.
        retry_after_s: u64,
    },
    /// Takes the request and stays silent until the outage changes (a minute at most).
    Hang,
    /// Cuts the connection without an answer.
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
    clock_offset_ms: i64,
    outage: watch::Sender<Option<Outage>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    key: SigningKey,
    users: Vec<User>,
    sessions: HashMap<String, Session>,
    calls: Calls,
    delay: Duration,
}

impl Instance {
    pub(super) fn new(options: Options, port: u16) -> Self {
        let key = SigningKey::generate(options.kid);
        let mut instance = Self {
            port,
            publishable_key: publishable_key(&options.frontend_api),
            secret_key: format!("sk_test_{}", ids::random(42)),
            jwt_key: key.pem(),
            session_token_ttl: options.session_token_ttl,
            frontend_api: options.frontend_api,
            issuer: options.issuer,
            authorized_party: options.authorized_party,
            clock_offset_ms: options.clock_offset_ms,
            outage: watch::Sender::new(None),
            state: Mutex::new(State {
                key,
                users: Vec::new(),
                sessions: HashMap::new(),
                calls: Calls::default(),
                delay: Duration::ZERO,
            }),
        };
        let users = user::demo_users(instance.now_ms());
        instance.state.get_mut().unwrap_or_else(PoisonError::into_inner).users = users;
        instance
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance's clock, in milliseconds since the epoch.
    pub(super) fn now_ms(&self) -> i64 {
        let machine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(machine.as_millis()).unwrap_or(i64::MAX).saturating_add(self.clock_offset_ms)
    }

    /// The instance's clock, as a `Date` header needs it.
    pub(super) fn now(&self) -> SystemTime {
        let ms = u64::try_from(self.now_ms()).unwrap_or(0);
        UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
    }

    pub(super) fn proxy_url(&self) -> String {
        format!("http://127.0.0.1:{}/__clerk", self.port)
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
        let session = self.sign_in(user_id);
        self.session_claims(&session, Some(self.authorized_party.clone()))
    }

    /// Claims of one more token of this session, for a page of this origin.
    pub(super) fn session_claims(&self, session: &Session, authorized_party: Option<String>) -> Value {
        let state = self.state();
        let user = state.users.iter().find(|user| user.id == session.user_id);
        let minting = Minting {
            now: self.now_ms().div_euclid(1000),
            ttl_s: i64::try_from(self.session_token_ttl.as_secs()).unwrap_or(i64::MAX / 2),
            issuer: self.issuer(),
            jti: ids::random(20).to_lowercase(),
            authorized_party,
        };
        claims::of(session, user, minting)
    }

    /// Begins a session. The stand-in asks for no password.
    pub(super) fn sign_in(&self, user_id: &str) -> Session {
        let session = Session {
            id: ids::new("sess"),
            user_id: user_id.to_owned(),
            signed_in_at: self.now_ms().div_euclid(1000),
            status: Status::Active,
        };
        self.state().sessions.insert(session.id.clone(), session.clone());
        session
    }

    /// The session of this id, unless it has ended.
    pub(super) fn active_session(&self, id: &str) -> Option<Session> {
        self.state().sessions.get(id).filter(|session| session.status == Status::Active).cloned()
    }

    /// Ends the session, and says whether there was one to end.
    pub(super) fn end_session(&self, id: &str) -> bool {
        match self.state().sessions.get_mut(id) {
            Some(session) if session.status == Status::Active => {
                session.status = Status::Ended;
                true
            }
            _ => false,
        }
    }

    pub(super) fn users(&self) -> Vec<User> {
        self.state().users.clone()
    }

    /// The user with this id or username.
    pub(super) fn user(&self, id_or_username: &str) -> Option<User> {
        self.state()
            .users
            .iter()
            .find(|user| user.id == id_or_username || user.username.as_deref() == Some(id_or_username))
            .cloned()
    }

    pub(super) fn set_user(&self, user: User) {
        let mut state = self.state();
        match state.users.iter_mut().find(|known| known.id == user.id) {
            Some(known) => *known = user,
            None => state.users.push(user),
        }
    }

    pub(super) fn delete_user(&self, id: &str) -> bool {
        let mut state = self.state();
        let before = state.users.len();
        state.users.retain(|user| user.id != id);
        state.users.len() < before
    }

    pub(super) fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Counts one call of the route whose counter `of` picks.
    pub(super) fn count(&self, of: impl FnOnce(&mut Calls) -> &mut u64) {
        *of(&mut self.state().calls) += 1;
    }

    pub(super) fn set_outage(&self, outage: Option<Outage>) {
        self.outage.send_replace(outage);
    }

    /// The outage, and word of every change of it.
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
