//! What it takes to end the access of a tenant's users, and how Ably is told.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use crate::{
    ably::{ApiKey, Margin, RestClient, RestError, Target, TokenFormat},
    clerk::Users,
    clock::UnixMillis,
    identity::ClientIdTemplate,
    telemetry::metrics::RevocationCounts,
    tenant::TenantName,
};

/// What it takes to end the access of a tenant's users.
#[derive(Debug)]
pub struct Authority {
    /// Whose users.
    pub tenant: TenantName,
    /// How long somebody is denied: longer than any session token lives.
    pub denial: Duration,
    /// What tokens are given as.
    pub format: TokenFormat,
    /// Who a user is on Ably.
    pub client_id: ClientIdTemplate,
    /// Users that are remembered, if any are.
    pub users: Option<Users>,
    /// Ably; none unless the key has revocable tokens.
    pub ably: Option<RevokingKey>,
    /// Counts what becomes of revocations.
    pub counts: RevocationCounts,
}

/// An API key that revokes the tokens issued with it.
#[derive(Clone, Debug)]
pub struct RevokingKey {
    /// Ably's REST API.
    pub rest: RestClient,
    /// The key.
    pub api_key: ApiKey,
}

/// What Ably said of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its tokens are revoked.
    Accepted { applies_at: UnixMillis },
    /// They are not, for a reason that does not pass by itself.
    Refused { code: Option<u32> },
    /// Nothing: it is to be tried again.
    Unavailable,
}

impl Authority {
    /// How many calls to Ably are made at once, where there are too many targets for one.
    const CALLS_AT_ONCE: usize = 8;

    /// Has Ably revoke tokens, and returns what it said of each target. That is logged and counted too.
    pub(super) async fn tell(&self, key: &RevokingKey, targets: &[Target], margin: Margin) -> Vec<Told> {
        let chunks = targets.chunks(RestClient::MOST_TARGETS);
        let calls: Vec<_> = chunks.map(|targets| self.tell_at_once(key, targets, margin)).collect();
        stream::iter(calls).buffered(Self::CALLS_AT_ONCE).concat().await
    }

    async fn tell_at_once(&self, key: &RevokingKey, targets: &[Target], margin: Margin) -> Vec<Told> {
        let tenant = self.tenant.as_str();
        let outcomes = match key.rest.revoke_tokens(&key.api_key, targets, margin).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.log_failure(&error, targets.len());
                return vec![Told::from(&error); targets.len()];
            }
        };
        let told = targets.iter().zip(outcomes).map(|(target, outcome)| match outcome {
            Ok(applied) => {
                self.counts.accepted.inc();
                tracing::info!(tenant, %target, "tokens revoked");
                Told::Accepted { applies_at: applied.applies_at }
            }
            Err(error) if error.passes_by_itself() => {
                self.counts.unavailable.inc();
                tracing::warn!(tenant, %target, %error, "Ably did not revoke these tokens; it is tried again");
                Told::Unavailable
            }
            Err(error) => {
                self.counts.refused.inc();
                tracing::error!(tenant, %target, %error, "Ably refuses to revoke these tokens");
                Told::Refused { code: Some(error.code) }
            }
        });
        told.collect()
    }

    fn log_failure(&self, error: &RestError, targets: usize) {
        let tenant = self.tenant.as_str();
        if error.passes_by_itself() {
            self.counts.unavailable.inc();
            tracing::warn!(tenant, %error, "Ably did not revoke tokens; it is tried again");
        } else {
            self.counts.refused.inc_by(targets.try_into().unwrap_or(u64::MAX));
            tracing::error!(
                tenant,
                %error,
                "Ably refuses to revoke tokens: sessions are denied here, and connections stay until their token ends. Does \
                 the API key have revocable tokens on?"
            );
        }
    }
}

impl From<&RestError> for Told {
    fn from(error: &RestError) -> Self {
        match error {
            error if error.passes_by_itself() => Self::Unavailable,
            RestError::Refused(refusal) => Self::Refused { code: Some(refusal.code) },
            _ => Self::Refused { code: None },
        }
    }
}
