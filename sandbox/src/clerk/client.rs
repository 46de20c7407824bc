//! Clients: the browsers of an instance, as the Frontend API knows them.

use super::session::Session;
use super::user::User;

/// A browser. On a development instance, its pages name it by a token instead of a cookie.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) id: String,
    /// `dvb_…`, which pages keep in the cookie `__clerk_db_jwt`.
    pub(super) dev_browser: String,
    pub(super) sign_in: Option<SignIn>,
    /// The session that a page made active last; it may be over.
    pub(super) last_active_session_id: Option<String>,
    /// In milliseconds since the epoch.
    pub(super) created_at: i64,
}

/// The last sign-in that a page began.
#[derive(Clone, Debug)]
pub(super) struct SignIn {
    pub(super) id: String,
    /// The username or email address.
    pub(super) identifier: String,
    pub(super) user: User,
    /// `None` before the password.
    pub(super) created_session_id: Option<String>,
}

/// A client and its active sessions at one moment.
#[derive(Clone, Debug)]
pub(super) struct ClientState {
    pub(super) client: Client,
    /// Oldest first.
    pub(super) sessions: Vec<(Session, User)>,
    /// The time of the last sign-in or sign-out, in milliseconds since the epoch. Nothing else changes it: a page
    /// whose session token is older asks for a handshake.
    pub(super) updated_at: i64,
}

impl ClientState {
    /// The active session: the one that a page chose, else the newest.
    pub(super) fn active(&self) -> Option<&(Session, User)> {
        let chosen = self.client.last_active_session_id.as_ref();
        self.sessions.iter().find(|(session, _)| Some(&session.id) == chosen).or(self.sessions.last())
    }

    /// The value of `__client_uat`: seconds since the epoch, or 0 without a session.
    pub(super) fn updated_at_cookie(&self) -> i64 {
        if self.sessions.is_empty() { 0 } else { self.updated_at.div_euclid(1000) }
    }
}
