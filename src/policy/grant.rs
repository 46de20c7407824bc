//! The outcome of a decision.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Number;

use super::{rule::RuleName, template::Unfit};
use crate::ably::{Capability, Ttl};

/// The rights of one token. `None` means Ably's default: the whole capability of the key, and 60 minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Resources and operations.
    pub capability: Option<Capability>,
    /// The token's ttl.
    pub ttl: Option<Ttl>,
    /// Trusted claims by channel. If rules differ, the first in the file counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub channel_claims: BTreeMap<String, String>,
    /// Publish rates by resource. If rules differ, the highest counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub publish_rate: BTreeMap<String, Number>,
    /// The rules that contributed, in the order of the file.
    pub rules: Vec<RuleName>,
}

/// Why a session gets no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyRefusal {
    /// The session does not meet `[token] require`.
    #[error("the session does not meet what the policy requires for any token")]
    Requirement,
    /// No rule matches, or every resource of the matching rules dropped out.
    #[error("the policy grants the session nothing")]
    NothingGranted,
    /// The requested and the granted capability have nothing in common.
    #[error("the policy grants nothing of the capability asked for")]
    #[serde(rename = "nothing-of-asked")]
    NothingOfRequested,
    /// The requested capability names too many resources, or its intersection with the granted one is too large.
    #[error("the capability asked for is too large")]
    #[serde(rename = "too-much-asked")]
    RequestTooLarge,
}

/// A decision, and the resources that dropped out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The grant, or the refusal.
    pub outcome: Result<Grant, PolicyRefusal>,
    /// Resources of matching rules that the session does not get.
    pub dropped: Vec<Dropped>,
}

/// A resource that dropped out of a grant, because a value cannot be part of a name. Does not hold the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, derive_more::Display)]
#[display("{resource} of the rule {:?} drops out: {placeholder}: {why}{}", rule.as_str(), loses.in_words())]
pub struct Dropped {
    /// The rule.
    pub rule: RuleName,
    /// The resource as the rule writes it.
    pub resource: String,
    /// The first placeholder without a usable value, with its braces.
    pub placeholder: String,
    /// The reason.
    pub why: Unfit,
    /// The consequence.
    pub loses: Loss,
}

/// What a rule loses with a resource that drops out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// That resource of its capability.
    Resource,
    /// Its whole grant, which would otherwise lack a publish rate or a channel claim.
    Rule,
}

impl Loss {
    /// The consequence in words, to follow the reason.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Resource => "",
            Self::Rule => "; without it the rule grants nothing",
        }
    }
}
