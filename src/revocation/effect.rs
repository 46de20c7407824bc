//! What an event does: pure, so that every row of the table in `docs/revocation.md` is tested by itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Authority;
use crate::{
    ably::{Margin, Target, TokenFormat},
    clerk::{Change, Event, User},
    clock::UnixMillis,
    store::{Fact, Grant, GrantedTo, Ruling, Source, Subject},
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
    /// Those of client IDs that are a user's no more.
    Names(BTreeSet<String>),
}

impl Whom {
    /// By whom their tokens are found.
    pub(super) fn holder(&self) -> Option<GrantedTo> {
        match self {
            Self::Session(session) => Some(GrantedTo::Session(session.clone())),
            Self::User(user) | Self::Member { user, .. } => Some(GrantedTo::User(user.clone())),
            Self::Organization(organization) => Some(GrantedTo::Organization(organization.clone())),
            Self::Names(_) => None,
        }
    }
}

/// What an event does.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Who is refused, or no more.
    pub(super) facts: Vec<Fact>,
    /// A user that is to be forgotten everywhere.
    pub(super) forget: Option<String>,
    /// What is now known of a user.
    pub(super) learn: Option<User>,
    /// Tokens to be revoked.
    pub(super) revoke: Option<(Whom, Margin)>,
}

impl Effect {
    /// `live` are the tokens that are out of the user whom the event is about.
    pub(super) fn of(event: &Event, authority: &Authority, live: &[Grant], now: UnixMillis) -> Self {
        let fact = |subject, ruling| authority.fact(subject, ruling, event.at, now);
        match &event.change {
            // The user's other devices are to reconnect unnoticed. A JWT is revoked by its own session, at once.
            Change::SessionEnded { session_id, .. } => {
                let margin = if authority.format == TokenFormat::Jwt { Margin::None } else { Margin::Reauthentication };
                Self {
                    facts: vec![fact(Subject::Session(session_id.clone()), Ruling::Denied(Source::Clerk))],
                    revoke: Some((Whom::Session(session_id.clone()), margin)),
                    ..Self::default()
                }
            }
            Change::UserDeleted { user_id } => Self {
                facts: vec![fact(Subject::User(user_id.clone()), Ruling::Deleted)],
                forget: Some(user_id.clone()),
                revoke: Some((Whom::User(user_id.clone()), Margin::None)),
                ..Self::default()
            },
            Change::UserUpdated(user) if user.banned || user.deprovisioned => Self {
                facts: vec![fact(Subject::User(user.id.clone()), Ruling::Denied(Source::Clerk))],
                forget: Some(user.id.clone()),
                learn: Some(user.clone()),
                revoke: Some((Whom::User(user.id.clone()), Margin::None)),
            },
            Change::UserUpdated(user) => {
                let mut effect = Self {
                    facts: vec![fact(Subject::User(user.id.clone()), Ruling::Lifted(Source::Clerk))],
                    forget: Some(user.id.clone()),
                    learn: Some(user.clone()),
                    revoke: None,
                };
                let old = old_names(user, authority, live);
                if !old.is_empty() {
                    effect.facts.push(fact(Subject::User(user.id.clone()), Ruling::Marked));
                    effect.revoke = Some((Whom::Names(old), Margin::Reauthentication));
                }
                effect
            }
            Change::MembershipChanged { user_id, organization_id } => {
                let (user, organization) = (user_id.clone(), organization_id.clone());
                let subject = Subject::Member { user: user.clone(), organization: organization.clone() };
                Self {
                    facts: vec![fact(subject, Ruling::Marked)],
                    revoke: Some((Whom::Member { user, organization }, Margin::Reauthentication)),
                    ..Self::default()
                }
            }
            Change::OrganizationDeleted { organization_id } => Self {
                facts: vec![fact(Subject::Organization(organization_id.clone()), Ruling::Marked)],
                revoke: Some((Whom::Organization(organization_id.clone()), Margin::Reauthentication)),
                ..Self::default()
            },
        }
    }
}

/// The client IDs under which a user is out and which are not theirs any more. None where the template goes by other
/// claims than the username: an event does not say what a session token will.
fn old_names(user: &User, authority: &Authority, live: &[Grant]) -> BTreeSet<String> {
    let Some(now) = authority.client_id.of_user(&user.id, user.username.as_deref()) else { return BTreeSet::new() };
    live.iter().map(|grant| &grant.client_id).filter(|client_id| **client_id != now).cloned().collect()
}

/// What Ably is to revoke. A JWT is revoked by its session, where that is what is meant; all else by client ID.
pub(super) fn targets(whom: &Whom, format: TokenFormat, live: &[Grant]) -> Vec<Target> {
    let is_meant = |grant: &&Grant| match whom {
        Whom::Member { organization, .. } => grant.organization.as_ref() == Some(organization),
        _ => true,
    };
    let meant = live.iter().filter(is_meant);
    let targets: BTreeSet<(bool, &String)> = match (whom, format) {
        (Whom::Session(session), TokenFormat::Jwt) => BTreeSet::from([(true, session)]),
        (Whom::Member { .. } | Whom::Organization(_), TokenFormat::Jwt) => {
            meant.map(|grant| (true, &grant.session)).collect()
        }
        (Whom::Names(names), _) => names.iter().map(|name| (false, name)).collect(),
        _ => meant.map(|grant| (false, &grant.client_id)).collect(),
    };
    let target = |(is_key, name): (bool, &String)| {
        if is_key { Target::RevocationKey(name.clone()) } else { Target::ClientId(name.clone()) }
    };
    targets.into_iter().map(target).collect()
}
