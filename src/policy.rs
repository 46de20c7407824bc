//! What a session may do: takes rules and a session, returns a grant. Pure: a decision needs only the session token and
//! makes no call.
//!
//! The grants of all rules that match add up. Without rules a token has the key's own capability.

mod condition;
mod decision;
mod explanation;
mod grant;
mod rule;
mod template;
mod truth;

pub use condition::{
    ClaimValue, Condition, Explained, InvalidName, InvalidReverification, Level, OrganizationName, Permission,
    Reverification, Role, ScopedName,
};
pub use decision::Policy;
pub use explanation::{Explanation, RuleExplained};
pub use grant::{Decision, Dropped, Grant, Loss, PolicyRefusal};
pub use rule::{Rule, RuleName};
pub use template::{InvalidResource, ResourceTemplate, Unfit, reject_what_grants_nothing};
pub use truth::Truth;

#[cfg(test)]
mod tests;
