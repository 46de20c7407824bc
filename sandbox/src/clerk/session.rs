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
    pub(super) status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Active,
    Over(End),
}

impl Status {
    /// In Clerk's words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Over(End::Ended) => "ended",
            Self::Over(End::Removed) => "removed",
            Self::Over(End::Revoked) => "revoked",
        }
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By its user, for this session.
    Ended,
    /// By its user, who also leaves the device: what clerk-js does at `signOut()`.
    Removed,
    /// By an administrator.
    Revoked,
}
