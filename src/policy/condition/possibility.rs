//! Whether any session can meet a condition. One that nobody can is a mistake, and is told at the start instead of never
//! matching in silence.

use std::mem::discriminant;

use super::{Condition, Finding, Level, OwnerKind, Reverification, ScopedName};
use crate::clerk::FactorAge;

impl Condition {
    /// Whether no session can meet it. Sees all that its parts say of one thing: the role, the organization, a claim,
    /// and so on, however nested. Does not see that two things hang together, as the role and the claim `o.rol` do, and
    /// gives up on what has thousands of ways to be met.
    #[must_use]
    pub fn is_impossible(&self) -> bool {
        let mut effort = 1_000_000;
        !possible(vec![(self, true)], &mut Vec::new(), &mut effort)
    }
}

/// A condition that is to hold, or whose contrary is.
type Demand<'a> = (&'a Condition, bool);

/// Whether all open demands can be met beside the settled ones. Gives up, and says yes, when there is no `effort` left:
/// each demand is compared with each.
fn possible<'a>(mut open: Vec<Demand<'a>>, settled: &mut Vec<Demand<'a>>, effort: &mut usize) -> bool {
    let settled_before = settled.len();
    let mut choices: Vec<Demand<'a>> = Vec::new();
    while let Some((condition, wanted)) = open.pop() {
        match condition {
            Condition::Not(part) => open.push((part, !wanted)),
            Condition::All(parts) if wanted => open.extend(parts.iter().map(|part| (part, true))),
            Condition::Any(parts) if !wanted => open.extend(parts.iter().map(|part| (part, false))),
            Condition::All(_) | Condition::Any(_) => choices.push((condition, wanted)),
            leaf => settled.push((leaf, wanted)),
        }
    }
    let demands = settled.len().saturating_add(choices.len());
    *effort = effort.saturating_sub(demands.saturating_mul(demands));
    let is_possible = agree(settled)
        && match choices.pop() {
            Some((Condition::Any(parts) | Condition::All(parts), wanted)) => parts.iter().any(|part| {
                let mut open = choices.clone();
                open.push((part, wanted));
                *effort == 0 || possible(open, settled, effort)
            }),
            _ => true,
        };
    settled.truncate(settled_before);
    is_possible
}

/// Whether a session can meet all these demands on conditions without parts.
fn agree(demands: &[Demand<'_>]) -> bool {
    let roles = Said::of(demands, |condition| match condition {
        Condition::Role(roles) => Some(roles),
        _ => None,
    });
    let organizations = Said::of(demands, |condition| match condition {
        Condition::Organization(names) => Some(names),
        _ => None,
    });
    let permissions = Said::of(demands, |condition| match condition {
        Condition::Permission(permissions) => Some(permissions),
        _ => None,
    });
    let plans = Said::of(demands, |condition| match condition {
        Condition::Plan(plans) => Some(plans),
        _ => None,
    });
    let features = Said::of(demands, |condition| match condition {
        Condition::Feature(features) => Some(features),
        _ => None,
    });
    // There is one role at most, and one organization with its id and its slug; of the others any number.
    one_meets_all(&roles.left(is_named))
        && two_meet_all(&organizations.left(is_named), |one, other| discriminant(*one) != discriminant(*other))
        && each_can_be_met(&permissions.left(is_named))
        && each_can_be_met(&plans.left(has_no_scope_left))
        && each_can_be_met(&features.left(has_no_scope_left))
        && claims_agree(demands)
        && reverifications_agree(demands)
        && impersonations_agree(demands)
}

/// What is said of one kind of thing.
struct Said<'a, T> {
    /// Of each list one must be so.
    one_of: Vec<&'a [T]>,
    /// None of these may.
    none_of: Vec<&'a T>,
}

impl<'a, T> Said<'a, T> {
    fn of(demands: &[Demand<'a>], alternatives: impl Fn(&'a Condition) -> Option<&'a Vec<T>>) -> Self {
        let mut said = Self { one_of: Vec::new(), none_of: Vec::new() };
        for (condition, wanted) in demands {
            match alternatives(condition) {
                Some(alternatives) if *wanted => said.one_of.push(alternatives),
                Some(alternatives) => said.none_of.extend(alternatives),
                None => {}
            }
        }
        said
    }

    /// The lists, without the alternatives that are ruled out by what may not be.
    fn left(&self, is_ruled_out: impl Fn(&T, &[&T]) -> bool) -> Vec<Vec<&'a T>> {
        let left = |list: &&'a [T]| list.iter().filter(|entry| !is_ruled_out(entry, &self.none_of)).collect();
        self.one_of.iter().map(left).collect()
    }
}

fn is_named<T: PartialEq>(alternative: &T, none_of: &[&T]) -> bool {
    none_of.contains(&alternative)
}

/// Whether neither the organization nor the user may have it, as far as it asks for them.
fn has_no_scope_left(alternative: &ScopedName, none_of: &[&ScopedName]) -> bool {
    [OwnerKind::Organization, OwnerKind::User]
        .into_iter()
        .filter(|scope| alternative.asks_for(*scope))
        .all(|scope| none_of.iter().any(|forbidden| forbidden.name == alternative.name && forbidden.asks_for(scope)))
}

fn each_can_be_met<T>(lists: &[Vec<&T>]) -> bool {
    lists.iter().all(|list| !list.is_empty())
}

fn one_meets_all<T: PartialEq>(lists: &[Vec<&T>]) -> bool {
    two_meet_all(lists, |_, _| false)
}

/// Whether one thing, or two that can be together, are such that each list has one of them.
fn two_meet_all<T: PartialEq>(lists: &[Vec<&T>], go_together: impl Fn(&&T, &&T) -> bool) -> bool {
    lists.first().is_none_or(|first| {
        first.iter().any(|one| {
            let without: Vec<_> = lists.iter().filter(|list| !list.contains(one)).collect();
            without.first().is_none_or(|next| {
                let other_in_all = |other: &&T| without.iter().all(|list| list.contains(other));
                next.iter().any(|other| go_together(one, other) && other_in_all(other))
            })
        })
    })
}

/// A claim may be an array, and then have any number of values; but none that it must not have.
fn claims_agree(demands: &[Demand<'_>]) -> bool {
    demands.iter().all(|demand| {
        let (Condition::Claim { path, alternatives }, true) = demand else { return true };
        let is_ruled_out = |value| {
            demands.iter().any(|demand| match demand {
                (Condition::Claim { path: other, alternatives }, false) => {
                    other == path && alternatives.contains(value)
                }
                _ => false,
            })
        };
        alternatives.iter().any(|value| !is_ruled_out(value))
    })
}

/// Asks the judge himself, about one age of each kind that he can tell apart.
fn reverifications_agree(demands: &[Demand<'_>]) -> bool {
    // Of several windows for one level the strictest counts.
    let strictest = |(level, wanted): (Level, bool)| {
        let windows = demands.iter().filter_map(|demand| match demand {
            (Condition::Reverified(asked), is_wanted) if asked.level == level && *is_wanted == wanted => {
                Some(asked.within_minutes)
            }
            _ => None,
        });
        let within_minutes = if wanted { windows.min() } else { windows.max() }?;
        Some((Reverification { level, within_minutes }, wanted))
    };
    let levels = [Level::FirstFactor, Level::SecondFactor, Level::MultiFactor];
    let asked: Vec<_> =
        levels.into_iter().flat_map(|level| [(level, true), (level, false)]).filter_map(strictest).collect();
    let limits = asked.iter().map(|(asked, _)| Some(asked.within_minutes));
    let ages: Vec<Option<u64>> = [None, Some(0)].into_iter().chain(limits).collect();
    ages.iter().any(|first_minutes| {
        ages.iter().any(|second_minutes| {
            let age = FactorAge { first_minutes: *first_minutes, second_minutes: *second_minutes };
            asked.iter().all(|(asked, wanted)| (asked.judge(age) == Finding::Holds) == *wanted)
        })
    })
}

/// The user acts alone, or a person or an agent acts in their name.
fn impersonations_agree(demands: &[Demand<'_>]) -> bool {
    [(false, false), (true, false), (true, true)].into_iter().any(|(is_impersonated, is_agent)| {
        demands.iter().all(|(condition, wanted)| match condition {
            Condition::Impersonated(impersonated) => (*impersonated == is_impersonated) == *wanted,
            Condition::Agent(agent) => (*agent == is_agent) == *wanted,
            _ => true,
        })
    })
}
