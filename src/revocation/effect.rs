//! What an event does: pure, so that every row of the table in `docs/revocation.md` is tested by itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Authority;
use crate::{
    ably::{ClientId, Margin, RevocationKey, Target, TokenFormat},
    clerk::{Change, Event, User},
    clock::UnixMillis,
    store::{ClientIdDigest, Fact, Grant, GrantedTo, Named, Ruling, Source, Subject},
};

/// Whose tokens are to be revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
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
    FormerNames {
        /// The user.
        user: String,
        /// Who the user is now.
        client_id: Option<ClientIdDigest>,
    },
    /// Those of client IDs, whoever has them.
    Names(BTreeSet<ClientId>),
}

impl Whom {
    /// By whom their tokens are found.
    pub(super) fn holder(&self) -> Option<GrantedTo> {
        match self {
            Self::Session(session) => Some(GrantedTo::Session(session.clone())),
            Self::User(user) | Self::Member { user, .. } | Self::FormerNames { user, .. } => {
                Some(GrantedTo::User(user.clone()))
            }
            Self::Organization(organization) => Some(GrantedTo::Organization(organization.clone())),
            Self::Names(_) => None,
        }
    }

    /// How soon their tokens end. Who may have a new one is not to notice, and a user's other devices are not, where a
    /// session cannot be revoked by itself.
    pub(super) fn margin(&self, format: TokenFormat) -> Margin {
        match self {
            Self::User(_) | Self::Names(_) => Margin::None,
            Self::Session(_) if format == TokenFormat::Jwt => Margin::None,
            Self::Session(_) | Self::Member { .. } | Self::Organization(_) | Self::FormerNames { .. } => {
                Margin::Reauthentication
            }
        }
    }
}

/// What an event does.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Who is refused, or no more. What is to be revoked follows from it: [`revoked_by`].
    pub(super) facts: Vec<Fact>,
    /// A user that is to be forgotten everywhere.
    pub(super) forget: Option<String>,
    /// What is now known of a user.
    pub(super) learn: Option<User>,
}

impl Effect {
    pub(super) fn of(event: &Event, authority: &Authority, now: UnixMillis) -> Self {
        let fact = |subject, ruling| authority.fact(subject, ruling, event.at, now);
        let only = |subject, ruling| Self { facts: vec![fact(subject, ruling)], ..Self::default() };
        match &event.change {
            Change::SessionEnded { session_id, .. } => {
                only(Subject::Session(session_id.clone()), Ruling::Denied(Source::Clerk))
            }
            Change::UserDeleted { user_id } => {
                let deleted = fact(Subject::User(user_id.clone()), Ruling::Deleted);
                Self { facts: vec![deleted], forget: Some(user_id.clone()), learn: None }
            }
            Change::UserUpdated(user) => {
                let subject = Subject::User(user.id.clone());
                let mut facts = Vec::new();
                if user.banned || user.deprovisioned {
                    facts.push(fact(subject, Ruling::Denied(Source::Clerk)));
                } else {
                    facts.push(fact(subject.clone(), Ruling::Lifted(Source::Clerk)));
                    if authority.client_id.is_told_by_username() {
                        let client_id = authority.client_id.of_user(&user.id, user.username.as_deref());
                        facts.push(fact(subject, Ruling::Named(client_id.as_deref().map(ClientIdDigest::of))));
                    }
                }
                Self { facts, forget: Some(user.id.clone()), learn: Some(user.clone()) }
            }
            Change::MembershipChanged { user_id, organization_id } => {
                let (user, organization) = (user_id.clone(), organization_id.clone());
                only(Subject::Member { user, organization }, Ruling::Marked)
            }
            Change::OrganizationDeleted { organization_id } => {
                only(Subject::Organization(organization_id.clone()), Ruling::Marked)
            }
        }
    }
}

/// Whose tokens an event's fact ends, and the time of the event that ends them. `before` is what was last told of the
/// user's name.
///
/// A name that is told again ends nothing: the event that told it first ended the tokens under other names.
pub(super) fn ended_by(fact: &Fact, before: Option<Named>) -> Option<(Whom, UnixMillis)> {
    match (fact.ruling, before) {
        (Ruling::Named(client_id), Some(before)) if before.at != fact.at && before.client_id == client_id => None,
        // Late: the newer event did not know of tokens under this name.
        (Ruling::Named(_), Some(before)) if before.at > fact.at => {
            let newer = Fact { ruling: Ruling::Named(before.client_id), at: before.at, ..fact.clone() };
            Some((revoked_by(&newer)?, newer.at))
        }
        _ => Some((revoked_by(fact)?, fact.at)),
    }
}

/// Whose tokens are to be revoked where a fact is new.
pub(super) fn revoked_by(fact: &Fact) -> Option<Whom> {
    Some(match (fact.subject.clone(), fact.ruling) {
        (_, Ruling::Lifted(_)) | (Subject::User(_), Ruling::Marked) => return None,
        (Subject::User(user), Ruling::Named(client_id)) => Whom::FormerNames { user, client_id },
        (Subject::User(user), Ruling::Denied(_) | Ruling::Deleted) => Whom::User(user),
        (Subject::Session(session), _) => Whom::Session(session),
        (Subject::Member { user, organization }, _) => Whom::Member { user, organization },
        (Subject::Organization(organization), _) => Whom::Organization(organization),
    })
}

/// What Ably is to revoke. A JWT is revoked by its session, where that is what is meant; all else by client ID. A service
/// that gives JWTs now may have given others before.
///
/// A name that no token can have, which only a store that others have written to can hold, is left out.
pub(super) fn targets<'a>(whom: &'a Whom, format: TokenFormat, live: &'a [Grant]) -> Vec<Target> {
    let is_meant = |grant: &&Grant| match whom {
        Whom::Member { organization, .. } => grant.organization.as_ref() == Some(organization),
        Whom::FormerNames { client_id, .. } => *client_id != Some(ClientIdDigest::of(&grant.client_id)),
        _ => true,
    };
    let meant = live.iter().filter(is_meant);
    let by_client_id = |grant: &'a Grant| (false, grant.client_id.as_str());
    let by_session = |grant: &'a Grant| match grant.format {
        TokenFormat::Jwt => (true, grant.session.as_str()),
        TokenFormat::TokenRequest | TokenFormat::TokenDetails => by_client_id(grant),
    };
    let targets: BTreeSet<(bool, &str)> = match whom {
        // Whether or not any are known.
        Whom::Session(session) if format == TokenFormat::Jwt => {
            meant.map(by_session).chain([(true, session.as_str())]).collect()
        }
        Whom::Session(_) | Whom::Member { .. } | Whom::Organization(_) => meant.map(by_session).collect(),
        Whom::Names(names) => names.iter().map(|name| (false, name.as_str())).collect(),
        Whom::User(_) | Whom::FormerNames { .. } => meant.map(by_client_id).collect(),
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
