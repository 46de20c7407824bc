//! Rules: the `[[grants]]` tables.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Number;

use super::{condition::Condition, template::ResourceTemplate};
use crate::ably::{Operations, Ttl};

/// The name of a rule, for logs and explanations. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, derive_more::Display, Serialize)]
pub struct RuleName(Arc<str>);

impl RuleName {
    /// A rule name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One `[[grants]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name, unique within a policy.
    pub name: RuleName,
    /// The condition. `None`: the rule matches every session.
    pub when: Option<Condition>,
    /// The resources and operations that the rule grants.
    pub capability: Vec<(ResourceTemplate, Operations)>,
    /// The maximum ttl of a token to which this rule contributes.
    pub ttl: Option<Ttl>,
    /// Claims that other clients of a channel may trust. Only a JWT carries them. If a resource of these or of the publish
    /// rates drops out, the rule grants nothing.
    pub channel_claims: Vec<(ResourceTemplate, String)>,
    /// Messages a second that one attachment may publish. Only a JWT carries them.
    pub publish_rate: Vec<(ResourceTemplate, Number)>,
}

impl Rule {
    /// Whether the rule needs the token format JWT.
    #[must_use]
    pub fn needs_a_jwt(&self) -> bool {
        !self.channel_claims.is_empty() || !self.publish_rate.is_empty()
    }
}
