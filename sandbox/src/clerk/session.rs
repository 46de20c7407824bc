//! Sessions.

use super::user::{Organization, User};

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
    pub(super) organization: ActiveOrganization,
}

impl Session {
    /// The active organization, if `user` is a member.
    pub(super) fn active_organization<'a>(&self, user: &'a User) -> Option<&'a Organization> {
        match &self.organization {
            ActiveOrganization::Default => user.organization.as_ref(),
            ActiveOrganization::Personal => None,
            ActiveOrganization::Chosen(id) => user.member_of(id),
        }
    }
}

/// The organization that is active in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActiveOrganization {
    /// [`User::organization`], also after it changes.
    Default,
    /// The personal account.
    Personal,
    /// The organization with this id, which the page chose.
    Chosen(String),
}

impl ActiveOrganization {
    /// What `user` chose: the id or slug of an organization, or an empty text for the personal account. `None` if the
    /// user is not a member.
    pub(super) fn chosen_by(user: &User, choice: &str) -> Option<Self> {
        if choice.is_empty() {
            return Some(Self::Personal);
        }
        let is_choice = |organization: &&Organization| organization.id == choice || organization.slug == choice;
        user.organizations().find(is_choice).map(|organization| Self::Chosen(organization.id.clone()))
    }
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
