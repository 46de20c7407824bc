//! A restriction: what an event, or an operator, says of a session, a user, a membership or an organization.

use std::{cmp::Ordering, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{clock::UnixMillis, tenant::TenantName};

/// What a restriction is about, by Clerk's ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A session.
    Session(String),
    /// A user, in every session.
    User(String),
    /// A user, in sessions that are active in an organization.
    Member {
        /// The user.
        user: String,
        /// The organization.
        organization: String,
    },
    /// Everyone, in sessions that are active in an organization.
    Organization(String),
}

/// Who says it. What one says does not touch what the other said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenialSource {
    /// An event of Clerk's.
    Clerk,
    /// An operator, by hand.
    Operator,
}

/// What a restriction says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestrictionKind {
    /// Not refused, or no more.
    Lifted(DenialSource),
    /// Refused.
    Denied(DenialSource),
    /// Refused, whatever else Clerk says: Clerk does not use an id again.
    Deleted,
    /// Of other rights than before: session tokens minted until then are refused.
    NotBefore,
    /// Of this client ID, or of none: session tokens minted until then that give another are refused.
    ClientId(Option<ClientIdDigest>),
}

/// What a client ID is compared by. It takes less room than the longest, and is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientIdDigest(u128);

impl ClientIdDigest {
    /// The digest of a client ID.
    #[must_use]
    pub fn of(client_id: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(client_id).into();
        Self(digest.iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte)))
    }
}

/// Which restrictions about one subject compete with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Topic {
    Denial(DenialSource),
    Rights,
    Name,
}

/// What restrictions compete about: of several with the same key only one holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct RestrictionKey {
    pub(super) tenant: TenantName,
    pub(super) subject: Subject,
    pub(super) topic: Topic,
}

/// Something that is said of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restriction {
    /// Whose subject it is.
    pub tenant: TenantName,
    /// RevocationScope it is about.
    pub subject: Subject,
    /// What it says.
    pub kind: RestrictionKind,
    /// The event's own timestamp, by Clerk's clock; the time of the command for what an operator says.
    pub at: UnixMillis,
    /// When it ends to refuse anybody.
    pub until: UnixMillis,
}

/// What a restriction says and when it was said, short of whom it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) kind: RestrictionKind,
    pub(super) at: UnixMillis,
    pub(super) until: UnixMillis,
}

impl Restriction {
    /// How long the timestamp of an event counts, so that an older one that comes late changes nothing.
    pub const REMEMBERED_FOR: Duration = Duration::from_hours(48);

    pub(super) fn key(&self) -> RestrictionKey {
        let topic = match self.kind {
            RestrictionKind::Lifted(source) | RestrictionKind::Denied(source) => Topic::Denial(source),
            RestrictionKind::Deleted => Topic::Denial(DenialSource::Clerk),
            RestrictionKind::NotBefore => Topic::Rights,
            RestrictionKind::ClientId(_) => Topic::Name,
        };
        RestrictionKey { tenant: self.tenant.clone(), subject: self.subject.clone(), topic }
    }

    pub(super) fn terms(&self) -> Terms {
        Terms { kind: self.kind, at: self.at, until: self.until }
    }
}

impl RestrictionKey {
    pub(super) fn with(&self, terms: Terms) -> Restriction {
        let Terms { kind, at, until } = terms;
        Restriction { tenant: self.tenant.clone(), subject: self.subject.clone(), kind, at, until }
    }
}

impl Terms {
    pub(super) fn holds(&self, now: UnixMillis) -> bool {
        self.refuses() && now < self.until
    }

    /// Whether it refuses anybody until it is over.
    pub(super) fn refuses(&self) -> bool {
        !matches!(self.kind, RestrictionKind::Lifted(_))
    }

    /// Until when it is known at all.
    pub(super) fn remembered_until(&self) -> UnixMillis {
        self.until.max(self.at.after(Restriction::REMEMBERED_FOR))
    }

    /// Whether it goes before `other`: deletions before all, then the newer event. Of two events of the same
    /// millisecond the one that refuses, and of the same event told twice the one that refuses for longer.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.precedence().cmp(&other.precedence()).then(self.until.cmp(&other.until))
    }

    /// Whether both tell of the same event, or of two that do not differ.
    pub(super) fn is_same_event(&self, other: &Self) -> bool {
        self.precedence() == other.precedence()
    }

    fn precedence(&self) -> (bool, UnixMillis, bool) {
        (self.kind == RestrictionKind::Deleted, self.at, self.refuses())
    }

    /// The order as text, so that Redis can compare two restrictions about one subject: greater is newer. Digits only.
    pub(super) fn rank(&self) -> String {
        const LARGEST: i64 = 999_999_999_999_999;
        let deleted = u8::from(self.kind == RestrictionKind::Deleted);
        let refuses = u8::from(self.refuses());
        let [at, until] = [self.at, self.until].map(|time| time.0.clamp(0, LARGEST));
        format!("{deleted}{at:015}{refuses}{until:015}")
    }
}
