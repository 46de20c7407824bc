//! One restriction: what an event or an operator says about a subject, and which of two restrictions counts.

use std::{cmp::Ordering, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{clock::UnixMillis, tenant::TenantName};

/// The subject of a restriction, by Clerk's IDs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[serde(rename_all = "lowercase")]
pub enum Subject<Id = String> {
    /// A session.
    #[display("session {_0}")]
    Session(Id),
    /// A user, in every session.
    #[display("user {_0}")]
    User(Id),
    /// A user, in sessions in which an organization is active.
    #[display("user {user} in organization {organization}")]
    Member {
        /// The user.
        user: Id,
        /// The organization.
        organization: Id,
    },
    /// All sessions in which an organization is active.
    #[display("organization {_0}")]
    Organization(Id),
}

impl<'a> Subject<&'a str> {
    /// A session is restricted by the restrictions of all these subjects, and so are the tokens that are issued for it.
    pub(super) fn of_session(
        user: &'a str,
        session: &'a str,
        organization: Option<&'a str>,
    ) -> impl Iterator<Item = Self> {
        let member = organization.map(|organization| Self::Member { user, organization });
        let rest = [member, organization.map(Self::Organization)].into_iter().flatten();
        [Self::User(user), Self::Session(session)].into_iter().chain(rest)
    }
}

/// The source of a denial. Neither source lifts the denials of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenialSource {
    /// An event from Clerk.
    Clerk,
    /// An operator request.
    Operator,
}

/// What a restriction says of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestrictionKind {
    /// Not denied, or no longer.
    Lifted(DenialSource),
    /// Denied.
    Denied(DenialSource),
    /// Denied, whatever Clerk says later: Clerk does not use an ID again.
    Deleted,
    /// Its rights changed: session tokens minted up to the event are outdated. Events say so of members and organizations.
    NotBefore,
    /// This is the user's client ID, or the user has none: session tokens minted up to the event that give another are
    /// outdated.
    ClientId(Option<ClientIdDigest>),
}

/// A digest of a client ID: short, and without personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientIdDigest(u128);

impl ClientIdDigest {
    /// The digest of a client ID.
    #[must_use]
    pub fn of(client_id: &str) -> Self {
        Self(digest(client_id))
    }
}

/// What a restriction is about. Only restrictions about the same topic replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Whether a session or a user is denied.
    Denial(DenialSource),
    /// From when on rights count.
    Rights,
    /// A user's client ID.
    ClientId,
}

/// A digest of a tenant and a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SubjectKey(pub(super) u128);

impl SubjectKey {
    pub(super) fn of(tenant: &TenantName, subject: &Subject<impl Serialize>) -> Self {
        // Never fails: the values are strings.
        Self(digest(postcard::to_extend(&(tenant, subject), Vec::with_capacity(128)).unwrap_or_default()))
    }
}

/// The first half of the SHA-256: long enough that nobody finds another input with the same.
fn digest(input: impl AsRef<[u8]>) -> u128 {
    let digest: [u8; 32] = Sha256::digest(input).into();
    digest.iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte))
}

/// Of all restrictions with the same subject and topic, one counts.
pub(super) type RestrictionKey = (SubjectKey, Topic);

/// What ends or bounds access: a denial, a not-before mark or a user's current client ID; also the lifting of a denial.
///
/// A restriction yields only to a newer one about the same subject and topic, and a deletion yields to nothing. So it does
/// not matter in which order restrictions arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restriction {
    /// The subject's tenant.
    pub tenant: TenantName,
    /// The session, user, member or organization.
    pub subject: Subject,
    /// What it says.
    pub kind: RestrictionKind,
    /// The event's timestamp, by Clerk's clock; for an operator request, the time of the request.
    pub at: UnixMillis,
    /// When it expires.
    pub until: UnixMillis,
    /// The session's user, if the subject is a session and the user is known. Live tokens are found by their users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_user: Option<String>,
}

/// What became of a restriction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordOutcome {
    /// It is the newest.
    New,
    /// It is the newest, and gives the same client ID as the one before. So it ends no tokens.
    Confirmed,
    /// It was known: the same event, delivered again.
    Repeated,
    /// It yields to a newer one, or to a deletion.
    Outdated,
}

impl RecordOutcome {
    pub(super) fn of(known: Option<&Restriction>, new: &Restriction) -> Self {
        match known {
            Some(known) if known.precedence() == new.precedence() => Self::Repeated,
            Some(known) if known.compare(new) == Ordering::Greater => Self::Outdated,
            Some(known) if known.kind == new.kind && new.topic() == Topic::ClientId => Self::Confirmed,
            _ => Self::New,
        }
    }
}

impl Restriction {
    /// How long a restriction is remembered after its end, so that an older event that arrives late changes nothing.
    pub const REMEMBERED_FOR: Duration = Duration::from_hours(48);

    pub(super) fn key(&self) -> RestrictionKey {
        (SubjectKey::of(&self.tenant, &self.subject), self.topic())
    }

    pub(super) fn topic(&self) -> Topic {
        match self.kind {
            RestrictionKind::Lifted(source) | RestrictionKind::Denied(source) => Topic::Denial(source),
            RestrictionKind::Deleted => Topic::Denial(DenialSource::Clerk),
            RestrictionKind::NotBefore => Topic::Rights,
            RestrictionKind::ClientId(_) => Topic::ClientId,
        }
    }

    pub(crate) fn is_active(&self, now: UnixMillis) -> bool {
        self.restricts() && now < self.until
    }

    pub(super) fn restricts(&self) -> bool {
        !matches!(self.kind, RestrictionKind::Lifted(_))
    }

    /// Of two with the same key the greater counts: a deletion, else the newer event. Of two events in the same millisecond
    /// it is the one that restricts, of one event that arrived twice the one that expires later.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.precedence().cmp(&other.precedence()).then(self.until.cmp(&other.until))
    }

    fn precedence(&self) -> (bool, UnixMillis, bool) {
        (self.kind == RestrictionKind::Deleted, self.at, self.restricts())
    }

    /// Digits that sort as [`Self::compare`] does, for scripts in Redis.
    pub(super) fn rank(&self) -> String {
        const LARGEST: i64 = 999_999_999_999_999;
        let deleted = u8::from(self.kind == RestrictionKind::Deleted);
        let restricts = u8::from(self.restricts());
        let [at, until] = [self.at, self.until].map(|time| time.0.clamp(0, LARGEST));
        format!("{deleted}{at:015}{restricts}{until:015}")
    }
}
