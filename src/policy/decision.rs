//! The decision.

use super::{
    condition::Condition,
    grant::{Decision, Dropped, Grant, Loss, PolicyRefusal},
    rule::Rule,
    template::ResourceTemplate,
    truth::Truth,
};
use crate::{
    ably::{Capability, NoIntersection, TokenParams, Ttl},
    clerk::Session,
};

/// The rights that tokens are issued with.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The condition for any token.
    pub require: Option<Condition>,
    /// The rules. If empty, everyone has the key's own capability.
    pub rules: Vec<Rule>,
    /// The maximum ttl. `None`: Ably's default.
    pub ttl: Option<Ttl>,
}

impl Policy {
    /// The maximum number of resources in a requested capability where there are rules. A form of 16 KiB, as SDKs encode
    /// it, has room for fewer, unless nearly all names have five letters or less.
    pub const MAX_REQUESTED_RESOURCES: usize = 512;

    /// Decides what a session gets that requests `params`: less if it requests less, never more.
    #[must_use]
    pub fn decide(&self, session: &Session, params: &TokenParams) -> Decision {
        let mut dropped = Vec::new();
        let outcome = self.grant(session, params, &mut dropped);
        Decision { outcome, dropped }
    }

    /// Whether the policy has rules. Without rules a token has the key's own capability.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    fn grant(
        &self,
        session: &Session,
        params: &TokenParams,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Grant, PolicyRefusal> {
        if !holds(self.require.as_ref(), session) {
            return Err(PolicyRefusal::Requirement);
        }
        let mut grant = Grant::default();
        grant.capability = if self.has_rules() {
            let granted = self.union(session, &mut grant, dropped).ok_or(PolicyRefusal::NothingGranted)?;
            Some(match &params.capability {
                Some(requested) => intersect(requested, &granted)?,
                None => granted,
            })
        } else {
            params.capability.clone()
        };
        let allowed = shorter(self.ttl, grant.ttl);
        let longest = shorter(Some(self.ttl.unwrap_or(Ttl::ABLY_DEFAULT)), grant.ttl);
        grant.ttl = if params.ttl.is_some() || allowed.is_some() { shorter(params.ttl, longest) } else { None };
        Ok(grant)
    }

    /// The union of what the matching rules grant. Adds their shortest ttl, names, channel claims and publish rates to
    /// `grant`.
    fn union(&self, session: &Session, grant: &mut Grant, dropped: &mut Vec<Dropped>) -> Option<Capability> {
        let mut resources = Vec::new();
        for rule in self.rules.iter().filter(|rule| holds(rule.when.as_ref(), session)) {
            let mut fill = |template: &ResourceTemplate, loses| {
                let drop_out = |(placeholder, why)| {
                    let (rule, resource) = (rule.name.clone(), template.to_string());
                    dropped.push(Dropped { rule, resource, placeholder, why, loses });
                };
                template.fill(session).map_err(drop_out).ok()
            };
            let mut fill_or_lose_rule = |template: &ResourceTemplate| fill(template, Loss::Rule);
            let channel_claims = fill_all(&rule.channel_claims, &mut fill_or_lose_rule);
            let publish_rate = fill_all(&rule.publish_rate, &mut fill_or_lose_rule);
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
            grant.ttl = shorter(grant.ttl, rule.ttl);
            grant.rules.push(rule.name.clone());
        }
        Capability::union(resources)
    }
}

/// Unknown is not enough.
fn holds(condition: Option<&Condition>, session: &Session) -> bool {
    condition.is_none_or(|condition| condition.holds(session) == Truth::True)
}

/// All of the resources, or `None` if one drops out.
fn fill_all<T>(
    templates: &[(ResourceTemplate, T)],
    mut fill: impl FnMut(&ResourceTemplate) -> Option<String>,
) -> Option<Vec<(String, &T)>> {
    // All are filled, so that each that drops out is reported.
    let filled: Vec<_> = templates.iter().map(|(template, value)| Some((fill(template)?, value))).collect();
    filled.into_iter().collect()
}

/// The intersection compares every resource with every other; the limit bounds the time.
fn intersect(requested: &Capability, granted: &Capability) -> Result<Capability, PolicyRefusal> {
    if requested.len() > Policy::MAX_REQUESTED_RESOURCES {
        return Err(PolicyRefusal::RequestTooLarge);
    }
    requested.intersect(granted).map_err(|error| match error {
        NoIntersection::Nothing => PolicyRefusal::NothingOfRequested,
        NoIntersection::TooLarge => PolicyRefusal::RequestTooLarge,
    })
}

fn shorter(one: Option<Ttl>, other: Option<Ttl>) -> Option<Ttl> {
    one.into_iter().chain(other).min()
}
