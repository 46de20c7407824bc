//! What an event restricts, and whose tokens a restriction ends. Pure, so that a test covers each row of the table in
//! `docs/revocation.md`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    ably::{ClientId, KeyName, ReauthMargin, RevocationKey, Target, TokenFormat},
    clerk::{Change, Event},
    clock::UnixMillis,
    store::{
        ClientIdDigest, CurrentClientId, DenialSource, LiveToken, Restriction, RestrictionKind, Subject, TokenHolder,
    },
    tenant::Tenant,
};

/// The tokens to revoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationScope {
    /// The tokens of a restriction's subject.
    Of(Subject),
    /// A user's tokens with other client IDs than the current one.
    FormerClientIds {
        /// The user.
        user: String,
        /// The user's current client ID. `None`: the user has none.
        client_id: Option<ClientIdDigest>,
    },
    /// All tokens with this client ID.
    ClientId(ClientId),
}

impl RevocationScope {
    /// The tokens that a new restriction ends. `None` if it ends none.
    pub(super) fn of(restriction: &Restriction) -> Option<Self> {
        Some(match (restriction.subject.clone(), restriction.kind) {
            (_, RestrictionKind::Lifted(_)) | (Subject::User(_), RestrictionKind::NotBefore) => return None,
            (Subject::User(user), RestrictionKind::ClientId(client_id)) => Self::FormerClientIds { user, client_id },
            (subject, _) => Self::Of(subject),
        })
    }

    /// What the live tokens are looked up by: if possible by their user, which costs least. `session_user` is the user of a
    /// session, if known.
    pub(super) fn holder(&self, session_user: Option<&str>) -> TokenHolder {
        match self {
            Self::Of(Subject::Session(session)) => match session_user {
                Some(user) => TokenHolder::UserSession { user: user.to_owned(), session: session.clone() },
                None => TokenHolder::Session(session.clone()),
            },
            Self::Of(Subject::User(user) | Subject::Member { user, .. }) | Self::FormerClientIds { user, .. } => {
                TokenHolder::User(user.clone())
            }
            Self::Of(Subject::Organization(organization)) => TokenHolder::Organization(organization.clone()),
            Self::ClientId(client_id) => TokenHolder::ClientId(client_id.as_str().to_owned()),
        }
    }

    /// How soon the tokens end. With the margin, clients that may have a new token stay connected; so do the user's other
    /// devices where a session cannot be revoked alone.
    pub(super) fn margin(&self, format: TokenFormat) -> ReauthMargin {
        match self {
            Self::Of(Subject::User(_)) | Self::ClientId(_) => ReauthMargin::None,
            Self::Of(Subject::Session(_)) if format == TokenFormat::Jwt => ReauthMargin::None,
            Self::Of(Subject::Session(_) | Subject::Member { .. } | Subject::Organization(_))
            | Self::FormerClientIds { .. } => ReauthMargin::Reauthentication,
        }
    }

    /// The targets of a revocation at Ably. A session's JWTs are revoked by the session, all other tokens by client ID.
    /// `format` is the current one: live tokens may be older than a change of it. `keys` may have signed tokens that are not known.
    ///
    /// Skips IDs that no token can have: someone else wrote them to the store.
    pub(super) fn targets(
        &self,
        format: TokenFormat,
        live_tokens: &[LiveToken],
        keys: &BTreeSet<&KeyName>,
    ) -> BTreeSet<SignedTarget> {
        let by_session = |id: &str| RevocationKey::parse(id).ok().map(Target::RevocationKey);
        let unknown = match self {
            Self::Of(Subject::Session(session)) if format == TokenFormat::Jwt => by_session(session),
            Self::ClientId(client_id) => Some(Target::ClientId(client_id.clone())),
            _ => None,
        };
        let mut targets = SignedTarget::by_all(keys, unknown.as_ref());
        let has_sessions =
            matches!(self, Self::Of(Subject::Session(_) | Subject::Member { .. } | Subject::Organization(_)));
        for live_token in live_tokens.iter().filter(|live_token| self.includes(live_token)) {
            let target = if has_sessions && live_token.format == TokenFormat::Jwt {
                by_session(&live_token.session)
            } else {
                ClientId::parse(live_token.client_id.as_str()).ok().map(Target::ClientId)
            };
            targets.extend(target.map(|target| SignedTarget { key: live_token.key.clone(), target }));
        }
        targets
    }

    /// Whether a live token of this scope's holder is in the scope.
    fn includes(&self, live_token: &LiveToken) -> bool {
        match self {
            Self::Of(Subject::User(_) | Subject::Organization(_)) => true,
            Self::Of(Subject::Session(session)) => live_token.session == *session,
            Self::Of(Subject::Member { organization, .. }) => live_token.organization.as_ref() == Some(organization),
            Self::FormerClientIds { client_id, .. } => *client_id != Some(ClientIdDigest::of(&live_token.client_id)),
            Self::ClientId(client_id) => live_token.client_id == client_id.as_str(),
        }
    }
}

/// A target, and the API key that signed its tokens: Ably revokes by key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct SignedTarget {
    pub(super) key: KeyName,
    pub(super) target: Target,
}

impl SignedTarget {
    pub(super) fn by_all(keys: &BTreeSet<&KeyName>, target: Option<&Target>) -> BTreeSet<Self> {
        let of =
            |target: &Target| keys.iter().map(|key| Self { key: (*key).clone(), target: target.clone() }).collect();
        target.map(of).unwrap_or_default()
    }
}

/// The restrictions that follow from an event.
pub(super) fn restrictions_of(event: &Event, tenant: &Tenant, now: UnixMillis) -> Vec<Restriction> {
    let restriction = |subject, kind| tenant.restriction(subject, kind, event.at, now);
    let user = |id: &String| Subject::User(id.clone());
    match &event.change {
        Change::SessionEnded { session_id, .. } => {
            vec![restriction(Subject::Session(session_id.clone()), RestrictionKind::Denied(DenialSource::Clerk))]
        }
        Change::UserDeleted { user_id } => vec![restriction(user(user_id), RestrictionKind::Deleted)],
        Change::UserUpdated(updated) if updated.banned || updated.deprovisioned => {
            vec![restriction(user(&updated.id), RestrictionKind::Denied(DenialSource::Clerk))]
        }
        Change::UserUpdated(updated) => {
            let template = tenant.identity.template();
            let lifted = restriction(user(&updated.id), RestrictionKind::Lifted(DenialSource::Clerk));
            let client_id = template.needs_only_username().then(|| {
                let client_id = template.of_user(&updated.id, updated.username.as_deref());
                let digest = client_id.as_deref().map(ClientIdDigest::of);
                restriction(user(&updated.id), RestrictionKind::ClientId(digest))
            });
            [lifted].into_iter().chain(client_id).collect()
        }
        Change::MembershipChanged { user_id, organization_id } => {
            let (user, organization) = (user_id.clone(), organization_id.clone());
            vec![restriction(Subject::Member { user, organization }, RestrictionKind::NotBefore)]
        }
        Change::OrganizationDeleted { organization_id } => {
            vec![restriction(Subject::Organization(organization_id.clone()), RestrictionKind::NotBefore)]
        }
    }
}

/// The tokens that a restriction of an event ends, and the timestamp of the event that ends them. `known` is the user's
/// client ID by earlier deliveries.
///
/// A client ID that is known ends nothing: the event that first gave it has ended the tokens with others.
pub(super) fn ended_by(
    restriction: &Restriction,
    known: Option<CurrentClientId>,
) -> Option<(RevocationScope, UnixMillis)> {
    let mut ending = restriction.clone();
    if let (RestrictionKind::ClientId(client_id), Some(known)) = (restriction.kind, known) {
        if known.at != restriction.at && known.client_id == client_id {
            return None;
        }
        if known.at > restriction.at {
            // The event is late: the newer event has not ended the tokens with this event's client ID.
            (ending.kind, ending.at) = (RestrictionKind::ClientId(known.client_id), known.at);
        }
    }
    Some((RevocationScope::of(&ending)?, ending.at))
}
