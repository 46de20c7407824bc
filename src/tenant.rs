//! A tenant: one Clerk instance, one Ably app, and the policy between them. A service has one tenant or several, and nothing
//! of one counts for another.

mod name;
mod tenants;

use std::{
    collections::{BTreeSet, HashSet},
    iter,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Deserialize;

pub use name::{InvalidTenantName, TenantName};
pub use tenants::Tenants;

use crate::{
    ably::{ApiKey, Exchange, KeyName, RevocationQueue, TokenFormat},
    clerk::{PublishableKey, SigningKeys, SigningSecrets, Users, Verifier},
    identity::Identity,
    policy::Policy,
    telemetry::metrics::TenantMetrics,
};

/// Everything that belongs to one tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Names the Clerk instance, and so its cookies.
    pub publishable_key: PublishableKey,
    /// Verifies session tokens.
    pub verifier: Verifier,
    /// Verifies webhooks. None: webhooks are off.
    pub webhook_secrets: Option<SigningSecrets>,
    /// Makes client IDs.
    pub identity: Identity,
    /// Decides rights. A reload replaces it.
    pub policy: ArcSwap<Policy>,
    /// Signs.
    pub api_key: ApiKey,
    /// How tokens are made.
    pub signing: Signing,
    /// Revoke tokens at Ably, each those that its API key signed. Empty unless the API keys have revocable tokens; live
    /// tokens are not recorded then.
    pub revocation_queues: Vec<RevocationQueue>,
    /// How long a denial lasts: longer than any session token lives.
    pub denial: Duration,
    /// The answer for clients whose user is signed out.
    pub signed_out: SignedOut,
    /// The origins whose pages may read answers, compared exactly.
    pub allowed_origins: HashSet<String>,
    /// Counts its requests by outcome.
    pub metrics: TenantMetrics,
}

/// The answer for clients whose user is signed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignedOut {
    /// 401: the client asks again.
    Retry,
    /// 403: the client stops asking.
    Fail,
}

/// How tokens are made, by their format.
#[derive(Clone, Debug)]
pub enum Signing {
    /// Token requests, which clients exchange at Ably.
    TokenRequest,
    /// Ably JWTs.
    Jwt,
    /// Token details: the service exchanges a token request at Ably.
    TokenDetails(Exchange),
}

impl Tenant {
    /// Puts a policy in force for requests that are not decided yet.
    pub fn replace_policy(&self, policy: Policy) {
        self.metrics.policy_in_force(policy.rules.len());
        self.policy.store(Arc::new(policy));
    }

    /// The keys that verify session tokens.
    #[must_use]
    pub fn signing_keys(&self) -> &SigningKeys {
        self.verifier.keys()
    }

    /// The cache of Clerk users, if a secret key is configured.
    #[must_use]
    pub fn users(&self) -> Option<&Users> {
        self.identity.users()
    }

    /// Whether its tokens can be revoked.
    #[must_use]
    pub fn is_revocable(&self) -> bool {
        !self.revocation_queues.is_empty()
    }

    /// The queue that revokes the tokens that a key signed.
    #[must_use]
    pub fn revocation_queue(&self, key: &KeyName) -> Option<&RevocationQueue> {
        self.revocation_queues.iter().find(|queue| queue.key() == key)
    }

    /// The names of its API keys.
    #[must_use]
    pub fn key_names(&self) -> BTreeSet<&KeyName> {
        iter::once(self.api_key.name()).chain(self.revocation_queues.iter().map(RevocationQueue::key)).collect()
    }

    /// The format of its tokens.
    #[must_use]
    pub fn format(&self) -> TokenFormat {
        match self.signing {
            Signing::TokenRequest => TokenFormat::TokenRequest,
            Signing::Jwt => TokenFormat::Jwt,
            Signing::TokenDetails(_) => TokenFormat::TokenDetails,
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
