//! What an event does: pure, so that every row of the table in `docs/revocation.md` is tested by itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    ably::{ClientId, ReauthMargin, RevocationKey, Target, TokenFormat},
    clerk::{Change, Event, User},
    clock::UnixMillis,
    store::{
        ClientIdDigest, CurrentClientId, DenialSource, LiveToken, Restriction, RestrictionKind, Subject, TokenHolder,
    },
    tenant::Tenant,
};

/// Whose tokens are to be revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationScope {
    /// Those of a session.
    Session(String),
    /// All of a user.
    User(String),
    /// Those of a user's sessions that are active in an organization.
    Member {
        /// The user.
        user: String,
        /// The organization.
        organization: String,
    },
    /// Those of all sessions that are active in an organization.
    Organization(String),
    /// Those of a user under other client IDs than this, or under any.
    FormerClientIds {
        /// The user.
        user: String,
        /// Who the user is now.
        client_id: Option<ClientIdDigest>,
    },
    /// Those of client IDs, whoever has them.
    ClientIds(BTreeSet<ClientId>),
}

impl RevocationScope {
    /// By scope their tokens are found.
    pub(super) fn holder(&self) -> Option<TokenHolder> {
        match self {
            Self::Session(session) => Some(TokenHolder::Session(session.clone())),
            Self::User(user) | Self::Member { user, .. } | Self::FormerClientIds { user, .. } => {
                Some(TokenHolder::User(user.clone()))
            }
            Self::Organization(organization) => Some(TokenHolder::Organization(organization.clone())),
            Self::ClientIds(_) => None,
        }
    }

    /// How soon their tokens end. Who may have a new one is not to notice, and a user's other devices are not, where a
    /// session cannot be revoked by itself.
    pub(super) fn margin(&self, format: TokenFormat) -> ReauthMargin {
        match self {
            Self::User(_) | Self::ClientIds(_) => ReauthMargin::None,
            Self::Session(_) if format == TokenFormat::Jwt => ReauthMargin::None,
            Self::Session(_) | Self::Member { .. } | Self::Organization(_) | Self::FormerClientIds { .. } => {
                ReauthMargin::Reauthentication
            }
        }
    }
}

/// What an event does.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Who is refused, or no more. What is to be revoked follows from it: [`revoked_by`].
    pub(super) restrictions: Vec<Restriction>,
    /// A user that is to be forgotten everywhere.
    pub(super) forget: Option<String>,
    /// What is now known of a user.
    pub(super) learn: Option<User>,
}

impl Effect {
    pub(super) fn of(event: &Event, tenant: &Tenant, now: UnixMillis) -> Self {
        let restriction = |subject, kind| tenant.restriction(subject, kind, event.at, now);
        let only = |subject, kind| Self { restrictions: vec![restriction(subject, kind)], ..Self::default() };
        match &event.change {
            Change::SessionEnded { session_id, .. } => {
                only(Subject::Session(session_id.clone()), RestrictionKind::Denied(DenialSource::Clerk))
            }
            Change::UserDeleted { user_id } => {
                let deleted = restriction(Subject::User(user_id.clone()), RestrictionKind::Deleted);
                Self { restrictions: vec![deleted], forget: Some(user_id.clone()), learn: None }
            }
            Change::UserUpdated(user) => {
                let subject = Subject::User(user.id.clone());
                let mut restrictions = Vec::new();
                if user.banned || user.deprovisioned {
                    restrictions.push(restriction(subject, RestrictionKind::Denied(DenialSource::Clerk)));
                } else {
                    restrictions.push(restriction(subject.clone(), RestrictionKind::Lifted(DenialSource::Clerk)));
                    if tenant.identity.template().needs_only_username() {
                        let client_id = tenant.identity.template().of_user(&user.id, user.username.as_deref());
                        restrictions.push(restriction(
                            subject,
                            RestrictionKind::ClientId(client_id.as_deref().map(ClientIdDigest::of)),
                        ));
                    }
                }
                Self { restrictions, forget: Some(user.id.clone()), learn: Some(user.clone()) }
            }
            Change::MembershipChanged { user_id, organization_id } => {
                let (user, organization) = (user_id.clone(), organization_id.clone());
                only(Subject::Member { user, organization }, RestrictionKind::NotBefore)
            }
            Change::OrganizationDeleted { organization_id } => {
                only(Subject::Organization(organization_id.clone()), RestrictionKind::NotBefore)
            }
        }
    }
}

/// Whose tokens an event's restriction ends, and the time of the event that ends them. `before` is what was last outcomes of the
/// user's name.
///
/// A name that is outcomes again ends nothing: the event that outcomes it first ended the tokens under other names.
pub(super) fn ended_by(
    restriction: &Restriction,
    before: Option<CurrentClientId>,
) -> Option<(RevocationScope, UnixMillis)> {
    match (restriction.kind, before) {
        (RestrictionKind::ClientId(client_id), Some(before))
            if before.at != restriction.at && before.client_id == client_id =>
        {
            None
        }
        // Late: the newer event did not know of tokens under this name.
        (RestrictionKind::ClientId(_), Some(before)) if before.at > restriction.at => {
            let newer =
                Restriction { kind: RestrictionKind::ClientId(before.client_id), at: before.at, ..restriction.clone() };
            Some((revoked_by(&newer)?, newer.at))
        }
        _ => Some((revoked_by(restriction)?, restriction.at)),
    }
}

/// Whose tokens are to be revoked where a restriction is new.
pub(super) fn revoked_by(restriction: &Restriction) -> Option<RevocationScope> {
    Some(match (restriction.subject.clone(), restriction.kind) {
        (_, RestrictionKind::Lifted(_)) | (Subject::User(_), RestrictionKind::NotBefore) => return None,
        (Subject::User(user), RestrictionKind::ClientId(client_id)) => {
            RevocationScope::FormerClientIds { user, client_id }
        }
        (Subject::User(user), RestrictionKind::Denied(_) | RestrictionKind::Deleted) => RevocationScope::User(user),
        (Subject::Session(session), _) => RevocationScope::Session(session),
        (Subject::Member { user, organization }, _) => RevocationScope::Member { user, organization },
        (Subject::Organization(organization), _) => RevocationScope::Organization(organization),
    })
}

/// What Ably is to revoke. A JWT is revoked by its session, where that is what is meant; all else by client ID. A service
/// that gives JWTs now may have given others before.
///
/// A name that no token can have, which only a store that others have written to can hold, is left out.
pub(super) fn targets<'a>(scope: &'a RevocationScope, format: TokenFormat, live: &'a [LiveToken]) -> Vec<Target> {
    let is_meant = |live_token: &&LiveToken| match scope {
        RevocationScope::Member { organization, .. } => live_token.organization.as_ref() == Some(organization),
        RevocationScope::FormerClientIds { client_id, .. } => {
            *client_id != Some(ClientIdDigest::of(&live_token.client_id))
        }
        _ => true,
    };
    let meant = live.iter().filter(is_meant);
    let by_client_id = |live_token: &'a LiveToken| (false, live_token.client_id.as_str());
    let by_session = |live_token: &'a LiveToken| match live_token.format {
        TokenFormat::Jwt => (true, live_token.session.as_str()),
        TokenFormat::TokenRequest | TokenFormat::TokenDetails => by_client_id(live_token),
    };
    let targets: BTreeSet<(bool, &str)> = match scope {
        // Whether or not any are known.
        RevocationScope::Session(session) if format == TokenFormat::Jwt => {
            meant.map(by_session).chain([(true, session.as_str())]).collect()
        }
        RevocationScope::Session(_) | RevocationScope::Member { .. } | RevocationScope::Organization(_) => {
            meant.map(by_session).collect()
        }
        RevocationScope::ClientIds(names) => names.iter().map(|name| (false, name.as_str())).collect(),
        RevocationScope::User(_) | RevocationScope::FormerClientIds { .. } => meant.map(by_client_id).collect(),
    };
    let target = |(is_key, name): (bool, &str)| {
        if is_key {
            RevocationKey::parse(name).ok().map(Target::RevocationKey)
        } else {
            ClientId::parse(name).ok().map(Target::ClientId)
        }
    };
    targets.into_iter().filter_map(target).collect()
}
