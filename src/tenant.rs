//! A tenant: one Clerk instance, one Ably app, and the policy between the two. A service has one or many, and nothing of
//! one ever counts for another.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::{
    ably::{ApiKey, Exchange},
    clerk::{PublishableKey, SigningKeys, Verifier},
    identity::Identity,
    policy::Policy,
    telemetry::metrics::TenantMetrics,
};

/// What a tenant is called in the configuration, in logs and in metrics: 1 to 40 of `a-z`, `0-9` and `-`, with a letter or
/// a digit at both ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Arc<str>);

/// Why a text is not the name of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's name is 1 to 40 of a-z, 0-9 and -, with a letter or a digit at both ends")]
pub struct InvalidTenantName;

impl TenantName {
    const LONGEST: usize = 40;

    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, InvalidTenantName> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = (1..=Self::LONGEST).contains(&text.len())
            && text.bytes().all(|b| is_plain(b) || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_name { Ok(Self(text.into())) } else { Err(InvalidTenantName) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TenantName {
    type Error = InvalidTenantName;

    fn try_from(text: String) -> Result<Self, InvalidTenantName> {
        Self::parse(&text)
    }
}

impl From<TenantName> for String {
    fn from(name: TenantName) -> Self {
        name.as_str().to_owned()
    }
}

/// The name of the only tenant of a service whose configuration names none.
impl Default for TenantName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parts that issue tokens to the users of one Clerk instance, signed with one Ably API key.
#[derive(Debug)]
pub struct Tenant {
    /// What it is called.
    pub name: TenantName,
    /// Names the Clerk instance, and so its cookies.
    pub publishable_key: PublishableKey,
    /// Verifies session tokens.
    pub verifier: Verifier,
    /// Makes client IDs.
    pub identity: Identity,
    /// Decides. It changes while the service runs.
    pub policy: ArcSwap<Policy>,
    /// Signs.
    pub api_key: ApiKey,
    /// What tokens are given as.
    pub signing: Signing,
    /// What a client is told to do whose user is signed out.
    pub signed_out: SignedOut,
    /// Whether its tokens can be revoked, so that it is worth knowing which are out.
    pub revocable: bool,
    /// Counts what becomes of its requests.
    pub metrics: TenantMetrics,
}

/// What a client is told to do whose user is signed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedOut {
    /// To ask again: 401.
    Retry,
    /// To stop asking: 403.
    Fail,
}

/// What tokens are given as, and what that takes.
#[derive(Clone, Debug)]
pub enum Signing {
    /// Token requests, which clients exchange at Ably.
    TokenRequest,
    /// Ably JWTs.
    Jwt,
    /// Tokens from Ably, exchanged here.
    TokenDetails(Exchange),
}

impl Tenant {
    /// Puts another policy in force, for requests that are not decided yet.
    pub fn replace_policy(&self, policy: Policy) {
        self.metrics.policy_in_force(policy.rules.len());
        self.policy.store(Arc::new(policy));
    }

    /// The keys that session tokens are verified with.
    #[must_use]
    pub fn signing_keys(&self) -> &SigningKeys {
        self.verifier.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for name in ["a", "acme", "acme-2", "0", &"a".repeat(40)] {
            assert!(TenantName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "-", "a-", "-a", "Acme", "a_b", "a.b", "ä", "a b", &"a".repeat(41)] {
            assert_eq!(TenantName::parse(name), Err(InvalidTenantName), "{name}");
        }
    }
}
