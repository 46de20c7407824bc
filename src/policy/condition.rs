//! Conditions on a session: what a rule asks for in its `when`, and `[token] require`.

mod possibility;

use std::{fmt, time::Duration};

use serde::Serialize;
use serde_json::{Number, Value};

use crate::clerk::{ClaimPath, FactorAge, Organization, Scoped, Session};

/// A question about a session. Names in it are as Clerk's `has()` takes them; a list is of alternatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The role in the active organization.
    Role(Vec<Role>),
    /// A permission in the active organization.
    Permission(Vec<Permission>),
    /// A plan.
    Plan(Vec<ScopedName>),
    /// A feature.
    Feature(Vec<ScopedName>),
    /// The active organization.
    Organization(Vec<OrganizationName>),
    /// The value of a claim, or one of its values when it is an array.
    Claim {
        /// By dotted path.
        path: ClaimPath,
        /// Any of these.
        alternatives: Vec<ClaimValue>,
    },
    /// That the user has proved who they are, lately.
    Reverified(Reverification),
    /// Whether somebody else acts in the user's name.
    Impersonated(bool),
    /// Whether that is an agent, not a person.
    Agent(bool),
    /// At least one of these.
    Any(Vec<Condition>),
    /// Every one of these.
    All(Vec<Condition>),
    /// The contrary.
    Not(Box<Condition>),
}

/// A role, without its prefix `org:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role(String);

/// A permission, with its prefix `org:` and its feature: `org:<feature>:<permission>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission(String);

/// A plan or a feature, of whoever has it or of one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedName {
    scope: Option<OwnerKind>,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnerKind {
    Organization,
    User,
}

/// An organization by its id (`org_…`) or else its slug: nobody can take the id of another for a slug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrganizationName {
    /// What Clerk generated.
    Id(String),
    /// What somebody chose.
    Slug(String),
}

/// A value that a claim is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ClaimValue {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// How lately which factors must have been proved, as Clerk's reverification has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverification {
    level: Level,
    within_minutes: u64,
}

/// Clerk's levels of reverification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The first factor.
    FirstFactor,
    /// The second factor; the other one, of a user who has only one.
    SecondFactor,
    /// Both factors; the first, of a user who has no second.
    MultiFactor,
}

/// Why a text is not a name that a condition can ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// There is nothing to compare.
    #[error("a name is empty")]
    Empty,
    /// A prefix that Clerk does not know.
    #[error("{0:?} is no scope: write o: or org: for the organization's, u: or user: for the user's, or no prefix")]
    OwnerKind(String),
    /// There is no such level.
    #[error("{0:?} is no level: there are first_factor, second_factor and multi_factor")]
    Level(String),
    /// Clerk counts whole minutes.
    #[error("Clerk counts whole minutes: write at least 1m, and no seconds")]
    Minutes,
    /// Not of the form that all permissions have, so that nobody has it.
    #[error("{0:?} is no permission: each has a feature before it, as in org:rooms:read")]
    Permission(String),
    /// One of Clerk's own, which no session token has.
    #[error("{0:?} is a system permission, and Clerk leaves those out of session tokens; ask for a role instead")]
    SystemPermission(String),
}

impl Role {
    /// With or without `org:`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let name = text.trim_start_matches("org:");
        if name.is_empty() { Err(InvalidName::Empty) } else { Ok(Self(name.to_owned())) }
    }
}

impl Permission {
    /// With or without `org:`. Those that no session token has are refused.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let name = text.trim_start_matches("org:");
        match name.split_once(':') {
            _ if name.is_empty() => Err(InvalidName::Empty),
            _ if name.starts_with("sys_") => Err(InvalidName::SystemPermission(text.to_owned())),
            Some((feature, permission)) if !feature.is_empty() && !permission.is_empty() => {
                Ok(Self(format!("org:{name}")))
            }
            _ => Err(InvalidName::Permission(text.to_owned())),
        }
    }
}

impl ScopedName {
    /// `pro`, `o:pro`, `u:pro`, or with the scope spelled out.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let (scope, name) = match text.split_once(':') {
            None => (None, text),
            Some(("o" | "org" | "organization", name)) => (Some(OwnerKind::Organization), name),
            Some(("u" | "user", name)) => (Some(OwnerKind::User), name),
            Some((scope, _)) => return Err(InvalidName::OwnerKind(scope.to_owned())),
        };
        match name.split_once(':') {
            Some((scope, _)) => Err(InvalidName::OwnerKind(scope.to_owned())),
            None if name.is_empty() => Err(InvalidName::Empty),
            None => Ok(Self { scope, name: name.to_owned() }),
        }
    }

    fn is_in(&self, scoped: &Scoped) -> bool {
        let is_of = |scope, names: &[String]| self.asks_for(scope) && names.contains(&self.name);
        is_of(OwnerKind::Organization, &scoped.organization) || is_of(OwnerKind::User, &scoped.user)
    }

    /// Whether it is enough that the one whom `scope` means has it.
    fn asks_for(&self, scope: OwnerKind) -> bool {
        self.scope.is_none_or(|asked| asked == scope)
    }
}

impl OrganizationName {
    /// Anything that starts with `org_` is an id.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match text {
            "" => Err(InvalidName::Empty),
            id if id.starts_with("org_") => Ok(Self::Id(id.to_owned())),
            slug => Ok(Self::Slug(slug.to_owned())),
        }
    }

    /// Whether it names this organization.
    #[must_use]
    pub fn is_of(&self, organization: &Organization) -> bool {
        match self {
            Self::Id(id) => organization.id == *id,
            Self::Slug(slug) => organization.slug.as_ref() == Some(slug),
        }
    }
}

impl ClaimValue {
    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(ours), Value::String(theirs)) => ours == theirs,
            // Neither JSON nor JavaScript tells 5 and 5.0 apart.
            (Self::Integer(ours), Value::Number(theirs)) if theirs.is_f64() => {
                theirs.as_f64() == Number::from(*ours).as_f64()
            }
            (Self::Integer(ours), Value::Number(theirs)) => theirs.as_i64() == Some(*ours),
            (Self::Boolean(ours), Value::Bool(theirs)) => ours == theirs,
            _ => false,
        }
    }
}

impl Level {
    /// Clerk's names of them.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match text {
            "first_factor" => Ok(Self::FirstFactor),
            "second_factor" => Ok(Self::SecondFactor),
            "multi_factor" => Ok(Self::MultiFactor),
            other => Err(InvalidName::Level(other.to_owned())),
        }
    }
}

impl Reverification {
    /// `within` is in whole minutes, since Clerk counts so.
    pub fn new(level: Level, within: Duration) -> Result<Self, InvalidName> {
        let within_minutes = within.as_secs() / 60;
        if within_minutes == 0 || within != Duration::from_mins(within_minutes) {
            return Err(InvalidName::Minutes);
        }
        Ok(Self { level, within_minutes })
    }

    /// Clerk's judgement: an age equal to the limit is too old; a level that a user cannot reach falls back on what they
    /// have, except that a second factor alone is never both.
    fn judge(self, age: FactorAge) -> Finding {
        let is_fresh = |minutes: u64| if minutes < self.within_minutes { Finding::Holds } else { Finding::TooLongAgo };
        match (self.level, age.first_minutes, age.second_minutes) {
            (_, None, None) | (Level::FirstFactor | Level::MultiFactor, None, _) => Finding::NeverVerified,
            (Level::FirstFactor, Some(first), _) | (_, Some(first), None) => is_fresh(first),
            (Level::SecondFactor, _, Some(second)) => is_fresh(second),
            (Level::MultiFactor, Some(first), Some(second)) => is_fresh(first.max(second)),
        }
    }
}

/// Kleene's three truth values. A conjunction is the least of its parts, a disjunction the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// It does not hold.
    #[serde(rename = "not matched")]
    False,
    /// The session does not say.
    Unknown,
    /// It holds.
    #[serde(rename = "matched")]
    True,
}

impl Truth {
    /// What holds for every part.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        fold(parts, Self::True, Self::False, Ord::min)
    }

    /// What holds for some part.
    pub fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        fold(parts, Self::False, Self::True, Ord::max)
    }
}

/// Stops at the value that decides.
fn fold(
    parts: impl IntoIterator<Item = Truth>,
    start: Truth,
    decisive: Truth,
    combine: impl Fn(Truth, Truth) -> Truth,
) -> Truth {
    let mut truth = start;
    for part in parts {
        truth = combine(truth, part);
        if truth == decisive {
            break;
        }
    }
    truth
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::Unknown => Self::Unknown,
            Self::False => Self::True,
        }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::True => "matched",
            Self::Unknown => "unknown",
            Self::False => "not matched",
        })
    }
}

/// What a look at the session showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Holds,
    Differs,
    NoOrganization,
    ClaimMissing,
    AgeMissing,
    NeverVerified,
    TooLongAgo,
}

impl Finding {
    fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Differs }
    }

    fn truth(self) -> Truth {
        match self {
            Self::Holds => Truth::True,
            Self::ClaimMissing | Self::AgeMissing => Truth::Unknown,
            Self::Differs | Self::NoOrganization | Self::NeverVerified | Self::TooLongAgo => Truth::False,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Holds => "it is so",
            Self::Differs => "it is not so",
            Self::NoOrganization => "no organization is active",
            Self::ClaimMissing => "the session token has no such claim",
            Self::AgeMissing => "the session token has no fva claim",
            Self::NeverVerified => "the factor was never verified",
            Self::TooLongAgo => "the factor was verified too long ago",
        }
    }
}

/// A condition, whether it held for a session, and why. Holds nothing of the session's own values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The condition in words.
    pub condition: String,
    /// The verdict.
    pub truth: Truth,
    /// What was found, of a condition without parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<&'static str>,
    /// The parts, of `any`, `all` and `not`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

impl Condition {
    /// Whether it holds for a session.
    #[must_use]
    pub fn holds(&self, session: &Session) -> Truth {
        match self {
            Self::Any(parts) => Truth::any(parts.iter().map(|part| part.holds(session))),
            // Claims last: what stands in the session's own fields is looked at sooner, and often decides.
            Self::All(parts) => {
                let (claims, others) = (parts.iter().filter(|part| part.is_claim()), parts.iter());
                let in_order = others.filter(|part| !part.is_claim()).chain(claims);
                Truth::all(in_order.map(|part| part.holds(session)))
            }
            Self::Not(part) => !part.holds(session),
            leaf => leaf.look(session).truth(),
        }
    }

    fn is_claim(&self) -> bool {
        matches!(self, Self::Claim { .. })
    }

    /// Whether it holds for a session, and why.
    #[must_use]
    pub fn explain(&self, session: &Session) -> Explained {
        let explain_all = |parts: &[Self]| -> Vec<_> { parts.iter().map(|part| part.explain(session)).collect() };
        let (truth, because, parts) = match self {
            Self::Any(parts) => {
                let parts = explain_all(parts);
                (Truth::any(parts.iter().map(|part| part.truth)), None, parts)
            }
            Self::All(parts) => {
                let parts = explain_all(parts);
                (Truth::all(parts.iter().map(|part| part.truth)), None, parts)
            }
            Self::Not(part) => {
                let part = part.explain(session);
                (!part.truth, None, vec![part])
            }
            leaf => {
                let finding = leaf.look(session);
                (finding.truth(), Some(finding.in_words()), Vec::new())
            }
        };
        Explained { condition: self.to_string(), truth, because, parts }
    }

    /// Looks at the session for a condition without parts.
    fn look(&self, session: &Session) -> Finding {
        let organization = session.organization.as_ref();
        match self {
            Self::Plan(plans) => Finding::of(plans.iter().any(|plan| plan.is_in(&session.plans))),
            Self::Feature(features) => Finding::of(features.iter().any(|feature| feature.is_in(&session.features))),
            Self::Claim { path, alternatives } => match session.claim(path) {
                None | Some(Value::Null) => Finding::ClaimMissing,
                Some(Value::Array(values)) => {
                    Finding::of(values.iter().any(|value| alternatives.iter().any(|wanted| wanted.equals(value))))
                }
                Some(value) => Finding::of(alternatives.iter().any(|wanted| wanted.equals(value))),
            },
            Self::Reverified(wanted) => session.factor_age.map_or(Finding::AgeMissing, |age| wanted.judge(age)),
            Self::Impersonated(wanted) => {
                // An `act` that cannot be read is somebody's, too.
                let is_impersonated =
                    session.actor.is_some() || session.claims.get("act").is_some_and(|actor| !actor.is_null());
                Finding::of(is_impersonated == *wanted)
            }
            Self::Agent(wanted) => Finding::of(session.is_of_an_agent() == *wanted),
            Self::Role(roles) => organization.map_or(Finding::NoOrganization, |organization| {
                Finding::of(
                    organization.role_name().is_some_and(|role| roles.iter().any(|Role(wanted)| wanted == role)),
                )
            }),
            Self::Permission(permissions) => organization.map_or(Finding::NoOrganization, |organization| {
                let granted = organization.permissions.as_deref().unwrap_or_default();
                Finding::of(permissions.iter().any(|Permission(wanted)| granted.contains(wanted)))
            }),
            Self::Organization(names) => organization.map_or(Finding::NoOrganization, |organization| {
                Finding::of(names.iter().any(|name| name.is_of(organization)))
            }),
            Self::Any(_) | Self::All(_) | Self::Not(_) => Finding::of(self.holds(session) == Truth::True),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "org:{}", self.0)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ScopedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            None => "",
            Some(OwnerKind::Organization) => "o:",
            Some(OwnerKind::User) => "u:",
        };
        write!(f, "{scope}{}", self.name)
    }
}

impl fmt::Display for OrganizationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Id(name) | Self::Slug(name)) = self;
        f.write_str(name)
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Boolean(value) => write!(f, "{value}"),
        }
    }
}

impl fmt::Display for Reverification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::FirstFactor => "first factor",
            Level::SecondFactor => "second factor",
            Level::MultiFactor => "both factors",
        };
        write!(f, "{level} verified less than {} min ago", self.within_minutes)
    }
}

/// Alternatives, as one reads them out.
struct Or<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Or<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for alternative in self.0 {
            write!(f, "{separator}{alternative}")?;
            separator = " or ";
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    /// In words, compounds by their kind only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(roles) => write!(f, "role is {}", Or(roles)),
            Self::Permission(permissions) => write!(f, "permission {}", Or(permissions)),
            Self::Plan(plans) => write!(f, "plan {}", Or(plans)),
            Self::Feature(features) => write!(f, "feature {}", Or(features)),
            Self::Organization(names) => write!(f, "organization is {}", Or(names)),
            Self::Claim { path, alternatives } => write!(f, "claim {path} is or has {}", Or(alternatives)),
            Self::Reverified(reverification) => reverification.fmt(f),
            Self::Impersonated(true) => f.write_str("impersonated"),
            Self::Impersonated(false) => f.write_str("not impersonated"),
            Self::Agent(true) => f.write_str("an agent acts for the user"),
            Self::Agent(false) => f.write_str("no agent acts for the user"),
            Self::Any(_) => f.write_str("any of"),
            Self::All(_) => f.write_str("all of"),
            Self::Not(_) => f.write_str("not"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::tests::session, *};

    const ALL: [Truth; 3] = [Truth::False, Truth::Unknown, Truth::True];

    #[test]
    fn truths_combine_as_kleene_says() {
        use Truth::{False, True, Unknown};
        for (a, b, both, either) in [
            (False, False, False, False),
            (False, Unknown, False, Unknown),
            (False, True, False, True),
            (Unknown, Unknown, Unknown, Unknown),
            (Unknown, True, Unknown, True),
            (True, True, True, True),
        ] {
            for pair in [[a, b], [b, a]] {
                assert_eq!(Truth::all(pair), both, "{pair:?}");
                assert_eq!(Truth::any(pair), either, "{pair:?}");
            }
        }
        assert_eq!(ALL.map(|truth| !truth), [True, Unknown, False]);
        assert_eq!((Truth::all([]), Truth::any([])), (True, False));
    }

    fn role(name: &str) -> Condition {
        Condition::Role(vec![Role::parse(name).unwrap()])
    }

    fn roles(names: &[&str]) -> Condition {
        Condition::Role(names.iter().map(|name| Role::parse(name).unwrap()).collect())
    }

    fn organizations(names: &[&str]) -> Condition {
        Condition::Organization(names.iter().map(|name| OrganizationName::parse(name).unwrap()).collect())
    }

    fn permission(name: &str) -> Condition {
        Condition::Permission(vec![Permission::parse(name).unwrap()])
    }

    fn plan(name: &str) -> Condition {
        Condition::Plan(vec![ScopedName::parse(name).unwrap()])
    }

    fn feature(name: &str) -> Condition {
        Condition::Feature(vec![ScopedName::parse(name).unwrap()])
    }

    fn organization(name: &str) -> Condition {
        Condition::Organization(vec![OrganizationName::parse(name).unwrap()])
    }

    fn claim(path: &str, value: ClaimValue) -> Condition {
        Condition::Claim { path: path.into(), alternatives: vec![value] }
    }

    fn reverified(level: Level, minutes: u64) -> Condition {
        Condition::Reverified(Reverification::new(level, Duration::from_mins(minutes)).unwrap())
    }

    fn not(condition: Condition) -> Condition {
        Condition::Not(Box::new(condition))
    }

    fn text(value: &str) -> ClaimValue {
        ClaimValue::Text(value.into())
    }

    #[test]
    fn names_are_compared_as_clerks_has_does() {
        let acme = json!({
            "v": 2, "fea": "o:rooms,u:beta,ou:both", "pla": "o:pro,u:plus",
            "o": { "id": "org_1", "slg": "acme", "rol": "admin", "per": "read,write", "fpm": "1,2" },
        });
        let alone = json!({ "v": 2, "pla": "u:plus" });
        let v1 = json!({ "org_id": "org_1", "org_role": "admin", "org_permissions": ["org:rooms:read"] });
        for (claims, condition, holds) in [
            (&acme, role("admin"), true),
            (&acme, role("org:admin"), true),
            (&acme, role("org:org:admin"), true),
            (&acme, role("member"), false),
            (&acme, role("Admin"), false),
            (&alone, role("admin"), false),
            (&v1, role("org:admin"), true),
            (&acme, permission("org:rooms:read"), true),
            (&acme, permission("rooms:read"), true),
            (&acme, permission("both:write"), true),
            (&acme, permission("rooms:write"), false),
            (&alone, permission("rooms:read"), false),
            (&v1, permission("rooms:read"), true),
            (&acme, plan("pro"), true),
            (&acme, plan("o:pro"), true),
            (&acme, plan("org:pro"), true),
            (&acme, plan("organization:pro"), true),
            (&acme, plan("u:pro"), false),
            (&acme, plan("user:pro"), false),
            (&acme, plan("plus"), true),
            (&acme, plan("org:plus"), false),
            (&alone, plan("user:plus"), true),
            (&v1, plan("plus"), false),
            (&acme, feature("both"), true),
            (&acme, feature("u:both"), true),
            (&acme, feature("o:both"), true),
            (&acme, feature("u:rooms"), false),
            (&acme, organization("acme"), true),
            (&acme, organization("org_1"), true),
            (&acme, organization("org_2"), false),
            (&alone, organization("acme"), false),
            (&v1, organization("org_1"), true),
        ] {
            let truth = condition.holds(&session(claims));
            assert_eq!(truth, if holds { Truth::True } else { Truth::False }, "{condition} of {claims}");
        }
    }

    #[test]
    fn a_slug_that_looks_like_an_id_is_not_taken_for_one() {
        let sly = session(&json!({ "v": 2, "o": { "id": "org_sly", "slg": "org_victim" } }));
        assert_eq!(organization("org_victim").holds(&sly), Truth::False);
        let odd = session(&json!({ "v": 2, "o": { "id": "acme", "slg": "sly" } }));
        assert_eq!(organization("acme").holds(&odd), Truth::False);
    }

    #[test]
    fn a_claim_is_equal_or_has_the_value_or_is_unknown() {
        use Truth::{False, True, Unknown};
        let session = session(&json!({
            "tier": "pro",
            "metadata": {
                "tags": ["a", 5, true], "level": 3, "on": false, "none": null, "empty": [],
                "whole": 5.0, "wholes": [1, -3e0], "fraction": 5.5, "large": 9_007_199_254_740_993_i64,
            },
        }));
        for (condition, truth) in [
            (claim("tier", text("pro")), True),
            (claim("tier", text("Pro")), False),
            (claim("tier", ClaimValue::Integer(5)), False),
            (claim("metadata.tags", text("a")), True),
            (claim("metadata.tags", ClaimValue::Integer(5)), True),
            (claim("metadata.tags", ClaimValue::Boolean(true)), True),
            (claim("metadata.tags", text("5")), False),
            (claim("metadata.level", ClaimValue::Integer(3)), True),
            (claim("metadata.whole", ClaimValue::Integer(5)), True),
            (not(claim("metadata.whole", ClaimValue::Integer(5))), False),
            (claim("metadata.wholes", ClaimValue::Integer(-3)), True),
            (claim("metadata.whole", ClaimValue::Integer(4)), False),
            (claim("metadata.fraction", ClaimValue::Integer(5)), False),
            (claim("metadata.large", ClaimValue::Integer(9_007_199_254_740_992)), False),
            (claim("metadata.large", ClaimValue::Integer(9_007_199_254_740_993)), True),
            (claim("metadata.on", ClaimValue::Boolean(false)), True),
            (claim("metadata.empty", text("a")), False),
            (claim("metadata", text("a")), False),
            (claim("metadata.none", text("a")), Unknown),
            (claim("metadata.missing", text("a")), Unknown),
            (claim("tier.deeper", text("a")), Unknown),
            (not(claim("missing", text("a"))), Unknown),
            (not(claim("tier", text("free"))), True),
            (Condition::Any(vec![claim("missing", text("a")), claim("tier", text("pro"))]), True),
            (Condition::All(vec![claim("missing", text("a")), claim("tier", text("free"))]), False),
            (Condition::All(vec![claim("missing", text("a")), claim("tier", text("pro"))]), Unknown),
        ] {
            assert_eq!(condition.holds(&session), truth, "{condition}");
        }
    }

    #[test]
    fn reverification_is_judged_as_clerk_does() {
        use Level::{FirstFactor, MultiFactor, SecondFactor};
        use Truth::{False, True, Unknown};
        for (fva, first, second, multi) in [
            (json!([0, 0]), True, True, True),
            (json!([9, -1]), True, True, True),
            (json!([10, -1]), False, False, False),
            (json!([99, 9]), False, True, False),
            (json!([9, 99]), True, False, False),
            (json!([9, 10]), True, False, False),
            (json!([-1, 9]), False, True, False),
            (json!([-1, 99]), False, False, False),
            (json!([-1, -1]), False, False, False),
            (json!(null), Unknown, Unknown, Unknown),
            (json!([1]), Unknown, Unknown, Unknown),
            (json!([-2, 1]), Unknown, Unknown, Unknown),
        ] {
            let session = session(&json!({ "fva": fva }));
            for (level, truth) in [(FirstFactor, first), (SecondFactor, second), (MultiFactor, multi)] {
                assert_eq!(reverified(level, 10).holds(&session), truth, "{level:?} with {fva}");
                let contrary = not(reverified(level, 10));
                assert_eq!(contrary.holds(&session), !truth);
            }
        }
        for seconds in [0, 59, 90] {
            assert!(Reverification::new(FirstFactor, Duration::from_secs(seconds)).is_err());
        }
    }

    #[test]
    fn impersonation_is_seen_even_when_the_actor_cannot_be_read() {
        for (claims, impersonated) in [
            (json!({}), false),
            (json!({ "act": null }), false),
            (json!({ "act": { "sub": "user_support" } }), true),
            (json!({ "act": {} }), true),
        ] {
            let session = session(&claims);
            for wanted in [true, false] {
                let holds = Condition::Impersonated(wanted).holds(&session) == Truth::True;
                assert_eq!(holds, wanted == impersonated, "{claims}");
            }
        }
    }

    #[test]
    fn an_agent_is_told_apart_from_a_person_and_both_impersonate() {
        for (claims, impersonated, agent) in [
            (json!({}), false, false),
            (json!({ "act": { "sub": "user_support" } }), true, false),
            (json!({ "act": { "sub": "user_support", "type": "person" } }), true, false),
            (json!({ "act": { "sub": "agent_1", "type": "agent" } }), true, true),
            (json!({ "act": { "sub": "agent_1", "type": ["agent"] } }), true, false),
        ] {
            let session = session(&claims);
            for wanted in [true, false] {
                let holds = |condition: Condition| condition.holds(&session) == Truth::True;
                assert_eq!(holds(Condition::Agent(wanted)), wanted == agent, "{claims}");
                assert_eq!(holds(Condition::Impersonated(wanted)), wanted == impersonated, "{claims}");
            }
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for text in ["", "org:", "org:org:"] {
            assert!(Role::parse(text).is_err(), "{text}");
            assert_eq!(Permission::parse(text), Err(InvalidName::Empty), "{text}");
        }
        for text in ["read", "org:read", "org:org:read", ":read", "rooms:", "org::read"] {
            assert_eq!(Permission::parse(text), Err(InvalidName::Permission(text.into())));
        }
        for text in ["org:sys_memberships:manage", "sys_profile:delete", "sys_x"] {
            assert_eq!(Permission::parse(text), Err(InvalidName::SystemPermission(text.into())));
        }
        for text in ["", "o:", "team:pro", "o:pro:max"] {
            assert!(ScopedName::parse(text).is_err(), "{text}");
        }
        assert!(OrganizationName::parse("").is_err() && Level::parse("third_factor").is_err());
    }

    #[test]
    fn what_contradicts_itself_is_impossible() {
        use Level::{FirstFactor, MultiFactor, SecondFactor};
        let (any, all) = (Condition::Any, Condition::All);
        let impersonated = Condition::Impersonated;
        for condition in [
            all(vec![impersonated(true), impersonated(false)]),
            all(vec![Condition::Agent(true), Condition::Agent(false)]),
            all(vec![Condition::Agent(true), impersonated(false)]),
            all(vec![impersonated(false), not(Condition::Agent(false))]),
            all(vec![role("admin"), role("member")]),
            all(vec![organization("org_1"), organization("org_2")]),
            all(vec![plan("pro"), not(plan("pro"))]),
            all(vec![plan("o:pro"), not(plan("pro"))]),
            all(vec![roles(&["a", "b"]), all(vec![not(roles(&["c", "b", "a"]))])]),
            not(any(vec![impersonated(true), impersonated(false)])),
            not(any(vec![feature("x"), not(feature("x"))])),
            all(vec![reverified(SecondFactor, 5), not(reverified(SecondFactor, 10))]),
            all(vec![role("a"), any(vec![role("b"), not(role("a"))])]),
            any(vec![all(vec![role("a"), role("b")]), all(vec![role("c"), role("d")])]),
            all(vec![claim("a", text("x")), not(claim("a", text("x")))]),
            all(vec![roles(&["a", "b"]), not(role("a")), not(role("b"))]),
            all(vec![roles(&["a", "b"]), roles(&["b", "c"]), roles(&["c", "a"])]),
            all(vec![roles(&["a", "b"]), roles(&["b", "c"]), not(role("b"))]),
            all(vec![organizations(&["org_1", "acme"]), not(organization("acme")), not(organization("org_1"))]),
            all(vec![organizations(&["org_1", "acme"]), organization("org_2"), organization("other")]),
            all(vec![permission("a:b"), not(permission("a:b"))]),
            all(vec![plan("pro"), not(plan("o:pro")), not(plan("u:pro"))]),
            all(vec![feature("u:x"), not(any(vec![feature("x"), feature("y")]))]),
            all(vec![
                Condition::Claim { path: "a".into(), alternatives: vec![text("x"), text("y")] },
                not(claim("a", text("x"))),
                not(claim("a", text("y"))),
            ]),
            all(vec![reverified(MultiFactor, 5), not(reverified(FirstFactor, 5))]),
            all(vec![reverified(MultiFactor, 5), not(reverified(SecondFactor, 10))]),
            all(vec![reverified(FirstFactor, 5), reverified(SecondFactor, 5), not(reverified(MultiFactor, 5))]),
        ] {
            assert!(condition.is_impossible(), "{condition:?}");
        }
        for condition in [
            role("admin"),
            not(role("admin")),
            all(vec![role("a"), roles(&["a", "b"])]),
            all(vec![organization("org_1"), organization("acme")]),
            all(vec![plan("pro"), not(plan("o:pro"))]),
            all(vec![plan("pro"), plan("plus")]),
            all(vec![permission("a:b"), permission("c:d")]),
            all(vec![claim("a", text("x")), claim("a", text("y"))]),
            all(vec![reverified(SecondFactor, 10), not(reverified(SecondFactor, 5))]),
            all(vec![role("a"), any(vec![role("b"), not(role("c"))])]),
            all(vec![roles(&["a", "b"]), roles(&["b", "c"]), not(role("a"))]),
            all(vec![organizations(&["org_1", "acme"]), organizations(&["org_2", "acme"]), organization("org_3")]),
            all(vec![claim("a", text("x")), not(claim("a", text("y")))]),
            all(vec![claim("a", text("x")), not(claim("b", text("x")))]),
            // Of a user who has only a second factor, or only a first, or whose second was proved earlier.
            all(vec![reverified(SecondFactor, 5), not(reverified(FirstFactor, 5))]),
            all(vec![reverified(FirstFactor, 5), not(reverified(SecondFactor, 5))]),
            all(vec![reverified(FirstFactor, 5), not(reverified(MultiFactor, 5))]),
            all(vec![reverified(SecondFactor, 5), not(reverified(MultiFactor, 50))]),
            all(vec![reverified(MultiFactor, 10), not(reverified(FirstFactor, 5)), not(reverified(SecondFactor, 5))]),
        ] {
            assert!(!condition.is_impossible(), "{condition:?}");
        }
    }

    #[test]
    fn what_has_too_many_ways_to_be_met_is_not_called_impossible() {
        let either = |path: String| {
            let parts = ["1", "2"].map(|value| claim(&path, text(value)));
            Condition::Any(parts.into())
        };
        let contradiction = Condition::Any(vec![Condition::All(vec![role("a"), role("b")])]);
        let with = |ways: usize| {
            let mut parts: Vec<_> = (0..ways).map(|position| either(format!("claim{position}"))).collect();
            parts.insert(ways / 2, contradiction.clone());
            Condition::All(parts)
        };
        assert!(with(5).is_impossible());
        assert!(!with(100).is_impossible());
        assert!(!with(3_000).is_impossible());
    }

    /// One to three of these names.
    fn some(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(names), 1..4)
    }

    fn scoped_names() -> impl Strategy<Value = Vec<ScopedName>> {
        let parse = |names: Vec<_>| names.into_iter().map(|name| ScopedName::parse(name).unwrap()).collect();
        some(&["pro", "o:pro", "u:pro", "plus", "u:plus"]).prop_map(parse)
    }

    fn any_membership() -> impl Strategy<Value = Condition> {
        prop_oneof![
            some(&["a", "b", "c"]).prop_map(|names| roles(&names)),
            some(&["org_1", "org_2", "acme", "other"]).prop_map(|names| organizations(&names)),
        ]
    }

    fn any_reverification() -> impl Strategy<Value = Condition> {
        let level = prop::sample::select(&[Level::FirstFactor, Level::SecondFactor, Level::MultiFactor]);
        (level, 1..4_u64).prop_map(|(level, minutes)| reverified(level, minutes))
    }

    fn any_claim() -> impl Strategy<Value = Condition> {
        let values = prop::collection::vec(prop::sample::select(&["1", "2", "3"]).prop_map(text), 1..3);
        let value = prop_oneof![values, Just(vec![ClaimValue::Integer(5)]), Just(vec![ClaimValue::Boolean(true)])];
        (prop::sample::select(&["x", "y", "z.deeper"]), value)
            .prop_map(|(path, alternatives)| Condition::Claim { path: path.into(), alternatives })
    }

    fn any_leaf() -> impl Strategy<Value = Condition> {
        prop_oneof![
            any_membership(),
            any_reverification(),
            any_claim(),
            scoped_names().prop_map(Condition::Plan),
            scoped_names().prop_map(Condition::Feature),
            prop::sample::select(&["rooms:read", "rooms:write"]).prop_map(permission),
            any::<bool>().prop_map(Condition::Impersonated),
        ]
    }

    fn nested(leaf: impl Strategy<Value = Condition> + 'static) -> impl Strategy<Value = Condition> {
        leaf.prop_recursive(3, 12, 4, |part| {
            prop_oneof![
                prop::collection::vec(part.clone(), 1..4).prop_map(Condition::Any),
                prop::collection::vec(part.clone(), 1..4).prop_map(Condition::All),
                part.prop_map(not),
            ]
        })
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        nested(any_leaf())
    }

    fn any_age() -> impl Strategy<Value = i64> {
        -1..5_i64
    }

    fn any_claims() -> impl Strategy<Value = Value> {
        let organization = prop_oneof![
            1 => Just(json!(null)),
            4 => (
                prop::sample::select(&["org_1", "org_2", "org_3"]),
                prop::sample::select(&["acme", "other", "third", ""]),
                prop::sample::select(&["a", "b", "c", "d", ""]),
                prop::sample::select(&["0", "1", "2", "3"]),
            )
                .prop_map(|(id, slug, role, bits)| {
                    json!({ "id": id, "slg": slug, "rol": role, "per": "read,write", "fpm": bits })
                }),
        ];
        let scalar = || prop::sample::select(&["1", "2", "3", "4"]).prop_map(Value::from);
        let value = move || {
            prop_oneof![
                Just(json!(null)),
                scalar(),
                prop::collection::vec(scalar(), 0..4).prop_map(Value::from),
                prop::sample::select(vec![json!(5), json!(5.0), json!([5.0, "1"]), json!(true)]),
            ]
        };
        let scoped = || prop::sample::select(&["", "o:pro", "u:pro", "ou:pro,u:plus", "o:plus"]);
        let features = scoped().prop_map(|features| ["o:rooms", features].join(","));
        let fva =
            prop_oneof![1 => Just(json!(null)), 4 => (any_age(), any_age()).prop_map(|ages| json!([ages.0, ages.1]))];
        (organization, value(), value(), value(), scoped(), features, fva, any::<bool>()).prop_map(
            |(o, x, y, z, pla, fea, fva, acting)| {
                let act = acting.then(|| json!({ "sub": "user_2" }));
                let z = json!({ "deeper": z });
                let fea = fea.trim_end_matches(',');
                json!({ "v": 2, "o": o, "x": x, "y": y, "z": z, "pla": pla, "fea": fea, "fva": fva, "act": act })
            },
        )
    }

    fn any_session() -> impl Strategy<Value = Session> {
        any_claims().prop_map(|claims| session(&claims))
    }

    /// Every session that differs in what [`any_membership`] and [`any_reverification`] ask for, one of each kind.
    fn every_session() -> Vec<Session> {
        let ages = || -1..4_i64;
        let every_fva = || ages().flat_map(move |first| ages().map(move |second| json!([first, second])));
        let mut organizations = vec![json!(null)];
        for id in ["org_1", "org_2", "org_3"] {
            for slug in ["acme", "other", "third"] {
                organizations.extend(["a", "b", "c", "d"].map(|role| json!({ "id": id, "slg": slug, "rol": role })));
            }
        }
        let of = |o: Value| every_fva().map(move |fva| session(&json!({ "v": 2, "o": o, "fva": fva })));
        organizations.into_iter().flat_map(of).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_called_impossible_never_holds(condition in any_condition(), session in any_session()) {
            prop_assert!(!(condition.is_impossible() && condition.holds(&session) == Truth::True));
        }

        #[test]
        fn demands_on_reverification_are_called_impossible_only_when_no_ages_meet_them(
            demands in prop::collection::vec((any_reverification(), any::<bool>()), 1..6),
            ages in (any_age(), any_age()),
        ) {
            let demand = |(part, wanted)| if wanted { part } else { not(part) };
            let condition = Condition::All(demands.into_iter().map(demand).collect());
            let session = session(&json!({ "fva": [ages.0, ages.1] }));
            prop_assert!(!(condition.is_impossible() && condition.holds(&session) == Truth::True));
        }

        #[test]
        fn what_a_session_did_not_say_only_makes_certain_what_was_unknown(
            condition in any_condition(),
            claims in any_claims(),
            silent in prop::sample::subsequence(&["x", "y", "z", "fva"], 1..=4),
        ) {
            let mut less = claims.clone();
            for claim in silent {
                less.as_object_mut().unwrap().remove(claim);
            }
            let before = condition.holds(&session(&less));
            prop_assert!(before == Truth::Unknown || before == condition.holds(&session(&claims)));
        }

        #[test]
        fn an_explanation_gives_the_verdict_that_the_engine_gives(condition in any_condition(), session in any_session()) {
            prop_assert_eq!(condition.explain(&session).truth, condition.holds(&session));
        }

        #[test]
        fn a_double_negation_and_de_morgan_hold(a in any_condition(), b in any_condition(), session in any_session()) {
            let holds = |condition: &Condition| condition.holds(&session);
            prop_assert_eq!(holds(&not(not(a.clone()))), holds(&a));
            let neither = not(Condition::Any(vec![a.clone(), b.clone()]));
            prop_assert_eq!(holds(&neither), holds(&Condition::All(vec![not(a), not(b)])));
        }
    }
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn what_no_session_meets_is_called_impossible(
            condition in nested(prop_oneof![any_membership(), any_reverification()])
        ) {
            static SESSIONS: LazyLock<Vec<Session>> = LazyLock::new(every_session);
            let is_met = SESSIONS.iter().any(|session| condition.holds(session) == Truth::True);
            prop_assert_eq!(condition.is_impossible(), !is_met);
        }
    }
}
