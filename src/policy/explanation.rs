//! How a policy comes to its decision, for people: the engine's own run, with somebody taking notes.

use serde::{Serialize, Serializer};

use super::{Condition, Dropped, Explained, Grant, Policy, PolicyRefusal, Rule, RuleName, Truth, Witness};
use crate::{
    ably::{Capability, TokenParams},
    clerk::Session,
};

/// A decision with its reasons. Holds no values of the session's, save those that are part of a granted resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What every token requires, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Explained>,
    /// Every rule, in the order of the file; none when the requirement is not met.
    pub rules: Vec<RuleExplained>,
    /// What the rules grant, before it is narrowed to what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<Capability>,
    /// The decision.
    #[serde(serialize_with = "granted_or_refused")]
    pub outcome: Result<Grant, PolicyRefusal>,
}

fn granted_or_refused<S: Serializer>(outcome: &Result<Grant, PolicyRefusal>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Outcome<'a> {
        Granted(&'a Grant),
        Refused(&'a PolicyRefusal),
    }
    match outcome {
        Ok(grant) => Outcome::Granted(grant),
        Err(refusal) => Outcome::Refused(refusal),
    }
    .serialize(serializer)
}

/// One rule and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplained {
    /// Its name.
    pub name: RuleName,
    /// Whether it matches.
    pub verdict: Truth,
    /// Why; nothing when it is for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Explained>,
    /// What dropped out of what it grants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
}

#[derive(Default)]
struct Notes {
    require: Option<Explained>,
    rules: Vec<RuleExplained>,
    granted: Option<Capability>,
}

impl Witness for Notes {
    fn require(&mut self, condition: &Condition, session: &Session) -> Truth {
        self.require.insert(condition.explain(session)).truth
    }

    fn rule(&mut self, rule: &Rule, session: &Session) -> Truth {
        let when = rule.when.as_ref().map(|condition| condition.explain(session));
        let verdict = when.as_ref().map_or(Truth::True, |when| when.truth);
        self.rules.push(RuleExplained { name: rule.name.clone(), verdict, when, dropped: Vec::new() });
        verdict
    }

    fn dropped(&mut self, dropped: Dropped) {
        if let Some(rule) = self.rules.last_mut() {
            rule.dropped.push(dropped);
        }
    }

    fn granted(&mut self, granted: Option<&Capability>) {
        self.granted = granted.cloned();
    }
}

impl Policy {
    /// Decides as [`Policy::decide`] does, and says why. Without any effect.
    #[must_use]
    pub fn explain(&self, session: &Session, asked: &TokenParams) -> Explanation {
        let mut notes = Notes::default();
        let outcome = self.judge(session, asked, &mut notes);
        let Notes { require, rules, granted } = notes;
        Explanation { require, rules, granted, outcome }
    }
}
