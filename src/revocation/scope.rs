//! What an event restricts, and whose tokens a restriction ends. Pure, so that a test covers each row of the table in
//! `docs/revocation.md`.

use std::{collections::BTreeSet, iter};

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
        match (self, session_user) {
            (Self::Of(Subject::Session(session)), Some(user)) => {
                TokenHolder::UserSession { user: user.to_owned(), session: session.clone() }
            }
            (Self::Of(Subject::Session(session)), None) => TokenHolder::Session(session.clone()),
            (Self::Of(Subject::User(user) | Subject::Member { user, .. }) | Self::FormerClientIds { user, .. }, _) => {
                TokenHolder::User(user.clone())
            }
            (Self::Of(Subject::Organization(organization)), _) => TokenHolder::Organization(organization.clone()),
            (Self::ClientId(client_id), _) => TokenHolder::ClientId(client_id.as_str().to_owned()),
        }
    }

    /// How soon the tokens end. With the margin, clients that may have a new token stay connected; so do the user's other
    /// devices where a session cannot be revoked alone.
    pub(super) fn margin(&self, format: TokenFormat) -> ReauthMargin {
        match self {
            Self::Of(Subject::User(_)) | Self::ClientId(_) => ReauthMargin::None,
            Self::Of(Subject::Session(_)) if format == TokenFormat::Jwt => ReauthMargin::None,
            Self::Of(_) | Self::FormerClientIds { .. } => ReauthMargin::Reauthentication,
        }
    }

    /// The targets of a revocation at Ably. A session's JWTs are revoked by the session, all other tokens by client ID. Live
    /// tokens may be older than a change of the tenant's format.
    ///
    /// Skips IDs that no token can have: someone else wrote them to the store.
    pub(super) fn targets(&self, tenant: &Tenant, live_tokens: &[LiveToken]) -> BTreeSet<SignedTarget> {
        let by_session = |id: &str| RevocationKey::parse(id).ok().map(Target::RevocationKey);
        let by_client_id = |id: &str| ClientId::parse(id).ok().map(Target::ClientId);
        let even_if_unknown = match self {
            Self::Of(Subject::Session(session)) if tenant.format() == TokenFormat::Jwt => by_session(session),
            Self::ClientId(client_id) => Some(Target::ClientId(client_id.clone())),
            _ => None,
        };
        let is_of_sessions =
            matches!(self, Self::Of(Subject::Session(_) | Subject::Member { .. } | Subject::Organization(_)));
        let of_live_tokens =
            live_tokens.iter().filter(|live_token| self.includes(live_token)).filter_map(|live_token| {
                let LiveToken { session, client_id, format, key, .. } = live_token;
                let is_jwt = *format == TokenFormat::Jwt;
                let target = if is_of_sessions && is_jwt { by_session(session) } else { by_client_id(client_id) };
                Some(SignedTarget { key: key.clone(), target: target? })
            });
        SignedTarget::by_all_keys(tenant, even_if_unknown.as_ref()).into_iter().chain(of_live_tokens).collect()
    }

    /// Whether a live token of this scope's holder is in the scope.
    fn includes(&self, live_token: &LiveToken) -> bool {
        match self {
            Self::Of(Subject::Member { organization, .. }) => live_token.organization.as_ref() == Some(organization),
            Self::FormerClientIds { client_id, .. } => *client_id != Some(ClientIdDigest::of(&live_token.client_id)),
            Self::Of(_) | Self::ClientId(_) => true,
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
    /// Any key may have signed tokens that are not known.
    pub(super) fn by_all_keys(tenant: &Tenant, target: Option<&Target>) -> BTreeSet<Self> {
        let keys = tenant.key_names().into_iter();
        keys.filter_map(|key| Some(Self { key: key.clone(), target: target?.clone() })).collect()
    }
}

/// The restrictions that follow from an event.
pub(super) fn restrictions_of(event: &Event, tenant: &Tenant, now: UnixMillis) -> Vec<Restriction> {
    let user = |id: &str| Subject::User(id.to_owned());
    let denied = vec![RestrictionKind::Denied(DenialSource::Clerk)];
    let marked = vec![RestrictionKind::NotBefore];
    let (subject, kinds) = match &event.change {
        Change::SessionEnded { session_id, .. } => (Subject::Session(session_id.clone()), denied),
        Change::UserDeleted { user_id } => (user(user_id), vec![RestrictionKind::Deleted]),
        Change::UserUpdated(updated) if updated.banned || updated.deprovisioned => (user(&updated.id), denied),
        Change::UserUpdated(updated) => {
            let template = tenant.identity.template();
            let client_id = template.needs_only_username().then(|| {
                let client_id = template.of_user(&updated.id, updated.username.as_deref());
                RestrictionKind::ClientId(client_id.as_deref().map(ClientIdDigest::of))
            });
            let lifted = RestrictionKind::Lifted(DenialSource::Clerk);
            (user(&updated.id), iter::once(lifted).chain(client_id).collect())
        }
        Change::MembershipChanged { user_id, organization_id } => {
            (Subject::Member { user: user_id.clone(), organization: organization_id.clone() }, marked)
        }
        Change::OrganizationDeleted { organization_id } => (Subject::Organization(organization_id.clone()), marked),
    };
    let of = |kind| {
        let (tenant, until) = (tenant.name.clone(), now.after(tenant.denial));
        Restriction { tenant, subject: subject.clone(), kind, at: event.at, until }
    };
    kinds.into_iter().map(of).collect()
}

/// The restriction that ends tokens after an event has made this one. `known` is the user's client ID by earlier deliveries.
///
/// A client ID that is known ends nothing: the event that first gave it has ended the tokens with others.
pub(super) fn ending(restriction: &Restriction, known: Option<CurrentClientId>) -> Option<Restriction> {
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
    Some(ending)
}
