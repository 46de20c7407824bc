//! Names and values that conditions compare a session with.

use derive_more::Display;
use serde_json::{Number, Value};

use crate::clerk::{Organization, Scoped};

/// A role, without its prefix `org:`.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
#[display("org:{_0}")]
pub struct Role(String);

/// A permission, with its prefix `org:` and its feature: `org:<feature>:<permission>`.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub struct Permission(String);

/// A plan or a feature, optionally restricted to the organization's or the user's.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
#[display("{owner}{name}")]
pub struct ScopedName {
    owner: Owner,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Display)]
enum Owner {
    #[display("")]
    Either,
    #[display("o:")]
    Organization,
    #[display("u:")]
    User,
}

/// An organization by its id, which starts with `org_`, or its slug. A slug that looks like an id never matches.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub struct OrganizationName(String);

/// A value that a claim is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ClaimValue {
    #[display("{_0:?}")]
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// Why a name can never match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name is empty.
    #[error("a name is empty")]
    Empty,
    /// An unknown prefix.
    #[error("{0:?} is not a scope: write o: or org: for the organization, u: or user: for the user, or no prefix")]
    Scope(String),
    /// A permission without a feature.
    #[error("{0:?} is not a permission: write the feature before it, as in org:rooms:read")]
    Permission(String),
    /// A permission of Clerk's own.
    #[error("{0:?} is a system permission, and Clerk leaves those out of session tokens; use a role instead")]
    SystemPermission(String),
}

impl Role {
    /// Parses a role, with or without `org:`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let name = text.trim_start_matches("org:");
        if name.is_empty() { Err(InvalidName::Empty) } else { Ok(Self(name.to_owned())) }
    }

    pub(super) fn is_in(&self, organization: &Organization) -> bool {
        organization.role_name() == Some(self.0.as_str())
    }
}

impl Permission {
    /// Parses a permission, with or without `org:`. Rejects those that Clerk leaves out of session tokens.
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

    pub(super) fn is_in(&self, organization: &Organization) -> bool {
        organization.permissions.as_ref().is_some_and(|permissions| permissions.contains(&self.0))
    }
}

impl ScopedName {
    /// Parses `pro`, `o:pro`, `u:pro`, or the name with its scope spelled out.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let (owner, name) = match text.split_once(':') {
            None => (Owner::Either, text),
            Some(("o" | "org" | "organization", name)) => (Owner::Organization, name),
            Some(("u" | "user", name)) => (Owner::User, name),
            Some((scope, _)) => return Err(InvalidName::Scope(scope.to_owned())),
        };
        match name.split_once(':') {
            Some((scope, _)) => Err(InvalidName::Scope(scope.to_owned())),
            None if name.is_empty() => Err(InvalidName::Empty),
            None => Ok(Self { owner, name: name.to_owned() }),
        }
    }

    pub(super) fn is_in(&self, scoped: &Scoped) -> bool {
        (self.owner != Owner::User && scoped.organization.contains(&self.name))
            || (self.owner != Owner::Organization && scoped.user.contains(&self.name))
    }
}

impl OrganizationName {
    /// Parses an id or a slug.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() { Err(InvalidName::Empty) } else { Ok(Self(text.to_owned())) }
    }

    /// Whether this is the organization's name.
    #[must_use]
    pub fn is_of(&self, organization: &Organization) -> bool {
        let (id, slug) = (Some(&organization.id), organization.slug.as_ref());
        Some(&self.0) == if self.0.starts_with("org_") { id } else { slug }
    }
}

impl ClaimValue {
    pub(super) fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(ours), Value::String(theirs)) => ours == theirs,
            // JSON and JavaScript do not tell 5 and 5.0 apart.
            (Self::Integer(ours), Value::Number(theirs)) if theirs.is_f64() => {
                theirs.as_f64() == Number::from(*ours).as_f64()
            }
            (Self::Integer(ours), Value::Number(theirs)) => theirs.as_i64() == Some(*ours),
            (Self::Boolean(ours), Value::Bool(theirs)) => ours == theirs,
            _ => false,
        }
    }
}
