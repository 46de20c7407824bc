//! Conditions on a session: the `when` of a rule, and `[token] require`.

mod finding;
mod names;
mod reverification;

use serde::Serialize;
use serde_json::Value;

use self::finding::Finding;
pub use self::{
    names::{ClaimValue, InvalidName, OrganizationName, Permission, Role, ScopedName},
    reverification::{InvalidReverification, Level, Reverification},
};
use super::truth::Truth;
use crate::clerk::{ClaimPath, Organization, Session};

/// A question about a session. Names have the form that Clerk's `has()` takes. A list holds alternatives.
///
/// Prints in words, without the parts of `any`, `all` and `not`.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
pub enum Condition {
    /// The role in the active organization.
    #[display("role is {}", or(_0))]
    Role(Vec<Role>),
    /// A permission in the active organization.
    #[display("permission {}", or(_0))]
    Permission(Vec<Permission>),
    /// A plan.
    #[display("plan {}", or(_0))]
    Plan(Vec<ScopedName>),
    /// A feature.
    #[display("feature {}", or(_0))]
    Feature(Vec<ScopedName>),
    /// The active organization.
    #[display("organization is {}", or(_0))]
    Organization(Vec<OrganizationName>),
    /// The value of a claim, or one of its values if it is an array.
    #[display("claim {path} is or has {}", or(alternatives))]
    Claim {
        /// The claim.
        path: ClaimPath,
        /// The accepted values.
        alternatives: Vec<ClaimValue>,
    },
    /// The user has verified their factors recently.
    Reverified(Reverification),
    /// Whether someone else acts in the user's name.
    #[display("{}", if *_0 { "impersonated" } else { "not impersonated" })]
    Impersonated(bool),
    /// Whether an agent acts in the user's name.
    #[display("{} agent acts for the user", if *_0 { "an" } else { "no" })]
    Agent(bool),
    /// At least one of these.
    #[display("any of")]
    Any(Vec<Condition>),
    /// Every one of these.
    #[display("all of")]
    All(Vec<Condition>),
    /// The opposite.
    #[display("not")]
    Not(Box<Condition>),
}

/// A condition, its result for a session, and the reason. Holds no values of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The condition in words.
    pub condition: String,
    /// The result.
    pub truth: Truth,
    /// The reason, for a condition without parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<&'static str>,
    /// The parts of `any`, `all` and `not`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

impl Condition {
    /// Whether the condition holds for a session.
    #[must_use]
    pub fn holds(&self, session: &Session) -> Truth {
        match self {
            Self::Any(parts) => Truth::any(parts.iter().map(|part| part.holds(session))),
            // Claims last: the session's own fields are faster to read, and often decide.
            Self::All(parts) => {
                let (claims, others) = (parts.iter().filter(|part| part.is_claim()), parts.iter());
                let in_order = others.filter(|part| !part.is_claim()).chain(claims);
                Truth::all(in_order.map(|part| part.holds(session)))
            }
            Self::Not(part) => !part.holds(session),
            leaf => leaf.find(session).truth,
        }
    }

    fn is_claim(&self) -> bool {
        matches!(self, Self::Claim { .. })
    }

    /// Whether the condition holds for a session, and why.
    #[must_use]
    pub fn explain(&self, session: &Session) -> Explained {
        let parts: Vec<_> = match self {
            Self::Any(parts) | Self::All(parts) => parts.iter().map(|part| part.explain(session)).collect(),
            Self::Not(part) => vec![part.explain(session)],
            _ => Vec::new(),
        };
        let because = parts.is_empty().then(|| self.find(session).reason);
        Explained { condition: self.to_string(), truth: self.holds(session), because, parts }
    }

    /// Evaluates a condition without parts.
    fn find(&self, session: &Session) -> Finding {
        let in_organization = |holds: &dyn Fn(&Organization) -> bool| match &session.organization {
            Some(organization) => Finding::of(holds(organization)),
            None => Finding::NO_ORGANIZATION,
        };
        match self {
            Self::Plan(plans) => Finding::of(plans.iter().any(|plan| plan.is_in(&session.plans))),
            Self::Feature(features) => Finding::of(features.iter().any(|feature| feature.is_in(&session.features))),
            Self::Claim { path, alternatives } => match session.claim(path) {
                None | Some(Value::Null) => Finding::CLAIM_MISSING,
                Some(Value::Array(values)) => {
                    Finding::of(values.iter().any(|value| alternatives.iter().any(|wanted| wanted.equals(value))))
                }
                Some(value) => Finding::of(alternatives.iter().any(|wanted| wanted.equals(value))),
            },
            Self::Reverified(wanted) => session.factor_age.map_or(Finding::AGE_MISSING, |age| wanted.check(age)),
            Self::Impersonated(wanted) => {
                // An unreadable `act` counts as impersonation, too.
                let is_impersonated =
                    session.actor.is_some() || session.claims.get("act").is_some_and(|actor| !actor.is_null());
                Finding::of(is_impersonated == *wanted)
            }
            Self::Agent(wanted) => Finding::of(session.is_of_an_agent() == *wanted),
            Self::Role(roles) => in_organization(&|organization| roles.iter().any(|role| role.is_in(organization))),
            Self::Permission(permissions) => {
                in_organization(&|organization| permissions.iter().any(|permission| permission.is_in(organization)))
            }
            Self::Organization(names) => {
                in_organization(&|organization| names.iter().any(|name| name.is_of(organization)))
            }
            Self::Any(_) | Self::All(_) | Self::Not(_) => Finding::of(self.holds(session) == Truth::True),
        }
    }

    /// Whether two required parts plainly contradict each other, so that no session can meet the condition.
    #[must_use]
    pub fn is_impossible(&self) -> bool {
        let parts = self.required_parts();
        parts.iter().enumerate().any(|(position, part)| parts[position..].iter().any(|other| part.excludes(other)))
    }

    fn required_parts(&self) -> Vec<&Self> {
        match self {
            Self::All(parts) => parts.iter().flat_map(Self::required_parts).collect(),
            part => vec![part],
        }
    }

    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Impersonated(one), Self::Impersonated(other)) | (Self::Agent(one), Self::Agent(other)) => {
                one != other
            }
            // A session has at most one role.
            (Self::Role(ours), Self::Role(theirs)) => !ours.iter().any(|role| theirs.contains(role)),
            (Self::Not(part), other) | (other, Self::Not(part)) => **part == *other,
            _ => false,
        }
    }
}

fn or(alternatives: &[impl ToString]) -> String {
    alternatives.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;
