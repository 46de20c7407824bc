//! What a session may do: rules in, a session in, a grant out. Pure, without I/O: a decision rests on the session token
//! alone and costs no call.
//!
//! Every rule whose condition holds grants; grants add up. Without any rule a token has the key's own capability.

mod condition;
mod explanation;
mod template;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::Number;

pub use condition::{
    ClaimValue, Condition, Explained, InvalidName, Level, OrganizationName, Permission, Reverification, Role,
    ScopedName, Truth,
};
pub use explanation::{Explanation, RuleExplained};
pub use template::{InvalidResource, ResourceTemplate, Unfit, reject_what_grants_nothing};

use crate::{
    ably::{Capability, NoIntersection, Operations, TokenParams, Ttl},
    clerk::Session,
};

/// The rights that tokens are issued with.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// What a session must meet to get any token.
    pub require: Option<Condition>,
    /// Who gets what. With none, everybody has the key's own capability.
    pub rules: Vec<Rule>,
    /// The longest life of a token; without it, Ably's default.
    pub ttl: Option<Ttl>,
}

/// What a rule is called in logs and explanations. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName(Arc<str>);

impl RuleName {
    /// A rule's name.
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

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RuleName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One `[[grants]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name; no two rules have the same.
    pub name: RuleName,
    /// Whom it is for; everybody, without it.
    pub when: Option<Condition>,
    /// What it grants.
    pub capability: Vec<(ResourceTemplate, Operations)>,
    /// How long a token may live that this rule had a part in.
    pub ttl: Option<Ttl>,
    /// What other clients of a channel may trust to be true of this one. Only a JWT carries it. If a resource of these or
    /// of the publish rates drops out, the rule grants nothing: its rights were not meant without.
    pub channel_claims: Vec<(ResourceTemplate, String)>,
    /// Messages a second that one attachment may publish. Only a JWT carries it.
    pub publish_rate: Vec<(ResourceTemplate, Number)>,
}

impl Rule {
    /// Whether some of it is what only a JWT carries.
    #[must_use]
    pub fn needs_a_jwt(&self) -> bool {
        !self.channel_claims.is_empty() || !self.publish_rate.is_empty()
    }
}

/// The rights of one token. What is absent is Ably's default: the whole capability of the key, and 60 minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Resources and operations.
    pub capability: Option<Capability>,
    /// How long the token lives.
    pub ttl: Option<Ttl>,
    /// Trusted claims by channel. Where rules differ, the first of the file counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub channel_claims: BTreeMap<String, String>,
    /// Publish rates by resource. Where rules differ, the highest counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub publish_rate: BTreeMap<String, Number>,
    /// The rules that granted it, in the order of the file.
    pub rules: Vec<RuleName>,
}

/// Why a session gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyRefusal {
    /// It does not meet what every token requires.
    #[error("the session does not meet what the policy requires for any token")]
    Requirement,
    /// No rule matches it, or all that matching rules grant dropped out.
    #[error("the policy grants the session nothing")]
    NothingGranted,
    /// What it asks for and what it is granted have nothing in common.
    #[error("the policy grants nothing of the capability asked for")]
    NothingOfAsked,
    /// What it asks for names too many resources, meets too many of those granted in a third, or leaves more of them
    /// than fit into a token.
    #[error("the capability asked for is too large")]
    TooMuchAsked,
}

/// What a rule loses with a resource that drops out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// That resource of its capability.
    Resource,
    /// All that it grants: it was to go with a publish rate or a channel claim, and without that it would be more than
    /// was meant.
    Rule,
}

/// A resource that dropped out of a grant, because a value is not fit to be part of a name. Holds no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The rule that would have granted it.
    pub rule: RuleName,
    /// The resource as the rule writes it.
    pub resource: String,
    /// The first placeholder that could not be filled, with its braces.
    pub placeholder: String,
    /// Why not.
    pub why: Unfit,
    /// What the session does not get for it.
    pub loses: Loss,
}

impl Loss {
    /// To be said after why the resource drops out.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Resource => "",
            Self::Rule => "; without it the rule grants nothing",
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of the rule {:?} drops out: {}: {}{}",
            self.resource,
            self.rule.as_str(),
            self.placeholder,
            self.why,
            self.loses.in_words()
        )
    }
}

/// A decision, and what dropped out on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub outcome: Result<Grant, PolicyRefusal>,
    /// Resources of matching rules that the session could not have.
    pub dropped: Vec<Dropped>,
}

/// Looks on while the policy decides: answers its questions, and may take notes.
trait Witness {
    /// Whether the requirement of every token holds.
    fn require(&mut self, condition: &Condition, session: &Session) -> Truth;
    /// Whether a rule's condition holds; without one it does.
    fn rule(&mut self, rule: &Rule, session: &Session) -> Truth;
    /// A resource of the rule asked about last drops out.
    fn dropped(&mut self, dropped: Dropped);
    /// All rules have been asked.
    fn granted(&mut self, _granted: Option<&Capability>) {}
}

/// Notes only what the log will want.
#[derive(Default)]
struct Brief(Vec<Dropped>);

impl Witness for Brief {
    fn require(&mut self, condition: &Condition, session: &Session) -> Truth {
        condition.holds(session)
    }

    fn rule(&mut self, rule: &Rule, session: &Session) -> Truth {
        rule.when.as_ref().map_or(Truth::True, |condition| condition.holds(session))
    }

    fn dropped(&mut self, dropped: Dropped) {
        self.0.push(dropped);
    }
}

impl Policy {
    /// The most resources that a client may ask for where there are rules. As SDKs encode a form of 16 KiB, it has room
    /// for fewer, unless nearly all names have five letters or less.
    pub const MOST_RESOURCES_ASKED: usize = 512;

    /// What a session gets that asks for `asked`: less when it asks for less, never more.
    #[must_use]
    pub fn decide(&self, session: &Session, asked: &TokenParams) -> Decision {
        let mut witness = Brief::default();
        let outcome = self.judge(session, asked, &mut witness);
        Decision { outcome, dropped: witness.0 }
    }

    /// Whether there are rules; without them a token has the key's own capability.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    fn judge(
        &self,
        session: &Session,
        asked: &TokenParams,
        witness: &mut impl Witness,
    ) -> Result<Grant, PolicyRefusal> {
        // Unknown is not enough.
        if let Some(condition) = &self.require
            && witness.require(condition, session) != Truth::True
        {
            return Err(PolicyRefusal::Requirement);
        }
        let mut grant = Grant::default();
        grant.capability = if self.has_rules() {
            let granted = self.add_up(session, &mut grant, witness);
            witness.granted(granted.as_ref());
            let granted = granted.ok_or(PolicyRefusal::NothingGranted)?;
            Some(match &asked.capability {
                Some(asked) => narrow(asked, &granted)?,
                None => granted,
            })
        } else {
            asked.capability.clone()
        };
        let allowed = shortest(self.ttl, grant.ttl);
        let longest = shortest(Some(self.ttl.unwrap_or(Ttl::ABLY_DEFAULT)), grant.ttl);
        grant.ttl = if asked.ttl.is_some() || allowed.is_some() { shortest(asked.ttl, longest) } else { None };
        Ok(grant)
    }

    /// The union of what matching rules grant. The shortest of their ttls, and what only a JWT carries, go to `grant`.
    fn add_up(&self, session: &Session, grant: &mut Grant, witness: &mut impl Witness) -> Option<Capability> {
        let mut resources = Vec::new();
        for rule in &self.rules {
            if witness.rule(rule, session) != Truth::True {
                continue;
            }
            let mut fill = |template: &ResourceTemplate, loses| {
                let drop_out = |(placeholder, why)| {
                    let (rule, resource) = (rule.name.clone(), template.to_string());
                    witness.dropped(Dropped { rule, resource, placeholder, why, loses });
                };
                template.fill(session).map_err(drop_out).ok()
            };
            let mut fill_or_lose_all = |template: &ResourceTemplate| fill(template, Loss::Rule);
            let channel_claims = fill_all(&rule.channel_claims, &mut fill_or_lose_all);
            let publish_rate = fill_all(&rule.publish_rate, &mut fill_or_lose_all);
            let Some((channel_claims, publish_rate)) = channel_claims.zip(publish_rate) else { continue };
            for (channel, claim) in channel_claims {
                grant.channel_claims.entry(channel).or_insert_with(|| claim.clone());
            }
            for (resource, rate) in publish_rate {
                let highest = grant.publish_rate.entry(resource).or_insert_with(|| rate.clone());
                if rate.as_f64() > highest.as_f64() {
                    highest.clone_from(rate);
                }
            }
            for (template, operations) in &rule.capability {
                resources.extend(fill(template, Loss::Resource).map(|resource| (resource, *operations)));
            }
            grant.ttl = shortest(grant.ttl, rule.ttl);
            grant.rules.push(rule.name.clone());
        }
        Capability::union(resources)
    }
}

/// Every one of the resources, or none if one drops out.
fn fill_all<T>(
    templates: &[(ResourceTemplate, T)],
    mut fill: impl FnMut(&ResourceTemplate) -> Option<String>,
) -> Option<Vec<(String, &T)>> {
    let filled: Vec<_> = templates.iter().map(|(template, value)| Some((fill(template)?, value))).collect();
    filled.into_iter().collect()
}

/// What of `asked` is granted. Every resource of the one is compared with every one of the other; this bounds the time.
fn narrow(asked: &Capability, granted: &Capability) -> Result<Capability, PolicyRefusal> {
    if asked.len() > Policy::MOST_RESOURCES_ASKED {
        return Err(PolicyRefusal::TooMuchAsked);
    }
    asked.intersect(granted).map_err(|error| match error {
        NoIntersection::Nothing => PolicyRefusal::NothingOfAsked,
        NoIntersection::TooLarge => PolicyRefusal::TooMuchAsked,
    })
}

/// The shorter of two ttls, where there are two.
fn shortest(one: Option<Ttl>, other: Option<Ttl>) -> Option<Ttl> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests;
