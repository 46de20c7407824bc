//! Sessions.

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
    /// Clerk's name of the status.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Over(SessionEnd::Ended) => "ended",
            Self::Over(SessionEnd::Removed) => "removed",
            Self::Over(SessionEnd::Revoked) => "revoked",
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// The user signed out of this session.
    Ended,
    /// The user signed out of the device, as with clerk-js's `signOut()`.
    Removed,
    /// An administrator revoked it.
    Revoked,
}
