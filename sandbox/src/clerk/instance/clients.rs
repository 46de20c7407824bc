//! Clients, their sign-ins and handshakes.

use super::{Instance, InstanceState};
use crate::clerk::client::{Client, ClientState, SignIn};
use crate::clerk::handshake::Handshake;
use crate::clerk::ids;
use crate::clerk::session::{ActiveOrganization, Session, SessionEnd, SessionStatus};
use crate::clerk::user::User;

const MOST_HANDSHAKES: usize = 100;
const LONGEST_DEV_BROWSER: usize = 64;

impl Instance {
    /// The client of this dev browser token. An unknown token makes a client, so that pages keep working when the
    /// stand-in starts again; without a usable token, the client gets a new one.
    pub(in crate::clerk) fn client(&self, dev_browser: Option<&str>) -> ClientState {
        let mut state = self.state();
        let client = self.client_mut(&mut state, dev_browser).clone();
        state.of_client(client)
    }

    fn client_mut<'a>(&self, state: &'a mut InstanceState, dev_browser: Option<&str>) -> &'a mut Client {
        let is_usable = |token: &&str| {
            (1..=LONGEST_DEV_BROWSER).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let dev_browser = dev_browser.filter(is_usable).map_or_else(|| ids::new("dvb"), str::to_owned);
        state.clients.entry(dev_browser.clone()).or_insert_with(|| Client {
            id: ids::new("client"),
            dev_browser,
            sign_in: None,
            last_active_session_id: None,
            created_at: self.now_ms(),
        })
    }

    /// The client of a session; `None` for a session that no page started.
    pub(in crate::clerk) fn client_of(&self, session: &Session) -> Option<ClientState> {
        let state = self.state();
        let client = state.clients.values().find(|client| client.id == session.client_id)?.clone();
        Some(state.of_client(client))
    }

    /// Begins the sign-in of a user, which waits for the password.
    pub(in crate::clerk) fn begin_sign_in(&self, dev_browser: Option<&str>, identifier: String, user: User) -> SignIn {
        let sign_in = SignIn { id: ids::new("sia"), identifier, user, created_session_id: None };
        self.client_mut(&mut self.state(), dev_browser).sign_in = Some(sign_in.clone());
        sign_in
    }

    /// Completes the client's sign-in and starts a session; `None` if the id is not that of a sign-in in progress.
    pub(in crate::clerk) fn complete_sign_in(&self, dev_browser: Option<&str>, id: &str) -> Option<SignIn> {
        let mut state = self.state();
        let client = self.client_mut(&mut state, dev_browser).clone();
        let sign_in = client.sign_in.filter(|sign_in| sign_in.id == id && sign_in.created_session_id.is_none())?;
        let session = self.start_session(&mut state, &sign_in.user.id, client.id);
        let sign_in = SignIn { created_session_id: Some(session.id.clone()), ..sign_in };
        let client = self.client_mut(&mut state, dev_browser);
        client.last_active_session_id = Some(session.id);
        client.sign_in = Some(sign_in.clone());
        drop(state);
        let now_ms = self.now_ms();
        let _ = self.change_user(&sign_in.user.id, |user| user.last_sign_in_at = Some(now_ms));
        Some(sign_in)
    }

    /// Starts a session of a new client.
    pub(in crate::clerk) fn sign_in_new_client(&self, user_id: &str) -> (Session, Client) {
        let mut state = self.state();
        let client = self.client_mut(&mut state, None).clone();
        let session = self.start_session(&mut state, user_id, client.id.clone());
        (session, client)
    }

    /// Makes a session the client's active one and, if given, an organization the session's. Returns the session;
    /// `None` if it is not active.
    pub(in crate::clerk) fn touch(
        &self,
        session_id: &str,
        organization: Option<ActiveOrganization>,
    ) -> Option<Session> {
        let active = self.active_session(session_id)?;
        let mut state = self.state();
        if let Some(client) = state.clients.values_mut().find(|client| client.id == active.client_id) {
            client.last_active_session_id = Some(active.id);
        }
        let session = state.sessions.get_mut(session_id)?;
        if let Some(organization) = organization {
            session.organization = organization;
        }
        Some(session.clone())
    }

    /// Signs out of all sessions of a client.
    pub(in crate::clerk) fn remove_sessions(&self, dev_browser: Option<&str>) {
        for (session, _) in self.client(dev_browser).sessions {
            self.end_session(&session.id, SessionEnd::Removed);
        }
    }

    /// Keeps the cookies of a handshake, and returns their nonce.
    pub(in crate::clerk) fn keep_handshake(&self, directives: Vec<String>) -> String {
        let mut state = self.state();
        let nonce = ids::random(32);
        if state.handshakes.len() == MOST_HANDSHAKES {
            state.handshakes.pop_front();
        }
        state.handshakes.push_back(Handshake { nonce: nonce.clone(), directives });
        nonce
    }

    /// The cookies of a handshake.
    pub(in crate::clerk) fn handshake(&self, nonce: &str) -> Option<Vec<String>> {
        let state = self.state();
        let kept = state.handshakes.iter().find(|handshake| handshake.nonce == nonce)?;
        Some(kept.directives.clone())
    }
}

impl InstanceState {
    fn of_client(&self, client: Client) -> ClientState {
        let own = || self.sessions.values().filter(|session| session.client_id == client.id);
        let updated_at = own().map(|session| session.updated_at).max().unwrap_or(0).max(client.created_at);
        let user_of = |session: &Session| self.users.iter().find(|user| user.id == session.user_id);
        let mut sessions: Vec<_> = own()
            .filter(|session| session.status == SessionStatus::Active)
            .filter_map(|session| Some((session.clone(), user_of(session).filter(|user| !user.is_blocked())?.clone())))
            .collect();
        sessions.sort_by(|(a, _), (b, _)| a.signed_in_at.cmp(&b.signed_in_at).then_with(|| a.id.cmp(&b.id)));
        ClientState { client, sessions, updated_at }
    }
}
