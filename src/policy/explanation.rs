//! Explains a decision to people.

use serde::Serialize;

use super::{
    condition::Explained,
    decision::Policy,
    grant::{Dropped, Grant, PolicyRefusal},
    rule::{Rule, RuleName},
    truth::Truth,
};
use crate::{
    ably::{Capability, TokenParams},
    clerk::Session,
};

/// A decision with its reasons. Holds no values of the session, except those in granted resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The requirement for any token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Explained>,
    /// Every rule, in the order of the file. Empty if the session does not meet the requirement.
    pub rules: Vec<RuleExplained>,
    /// The capability that the rules grant, before the requested capability narrows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<Capability>,
    /// The decision.
    #[serde(with = "SerializedOutcome")]
    pub outcome: Result<Grant, PolicyRefusal>,
}

/// The names of a `Result` in JSON.
#[derive(Serialize)]
#[serde(remote = "Result")]
enum SerializedOutcome<T, E> {
    #[serde(rename = "granted")]
    Ok(T),
    #[serde(rename = "refused")]
    Err(E),
}

/// One rule and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplained {
    /// Its name.
    pub name: RuleName,
    /// Whether it matches.
    pub verdict: Truth,
    /// The reason. `None`: the rule matches every session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Explained>,
    /// The resources that dropped out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
}

impl Policy {
    /// Decides as [`Policy::decide`] does, and explains the decision.
    #[must_use]
    pub fn explain(&self, session: &Session, params: &TokenParams) -> Explanation {
        let decision = self.decide(session, params);
        let unrestricted = self.decide(session, &TokenParams::default());
        let explain_rule = |rule: &Rule| {
            let when = rule.when.as_ref().map(|condition| condition.explain(session));
            RuleExplained {
                name: rule.name.clone(),
                verdict: when.as_ref().map_or(Truth::True, |when| when.truth),
                when,
                dropped: decision.dropped.iter().filter(|dropped| dropped.rule == rule.name).cloned().collect(),
            }
        };
        let rules = match decision.outcome {
            Err(PolicyRefusal::Requirement) => Vec::new(),
            _ => self.rules.iter().map(explain_rule).collect(),
        };
        Explanation {
            require: self.require.as_ref().map(|condition| condition.explain(session)),
            rules,
            granted: unrestricted.outcome.ok().and_then(|grant| grant.capability),
            outcome: decision.outcome,
        }
    }
}
