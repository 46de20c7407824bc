//! A session, and how it ends.

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) client_id: String,
    pub(super) user_id: String,
    /// In seconds since the epoch.
    pub(super) signed_in_at: i64,
    /// In milliseconds since the epoch.
    pub(super) updated_at: i64,
    pub(super) status: SessionStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionStatus {
    Active,
    Over(SessionEnd),
}

impl SessionStatus {
    /// In Clerk's words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Over(SessionEnd::Ended) => "ended",
            Self::Over(SessionEnd::Removed) => "removed",
            Self::Over(SessionEnd::Revoked) => "revoked",
        }
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// By its user, for this session.
    Ended,
    /// By its user, who also leaves the device: what clerk-js does at `signOut()`.
    Removed,
    /// By an administrator.
    Revoked,
}
