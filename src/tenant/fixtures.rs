//! A tenant for tests of other modules.

use std::{collections::HashSet, time::Duration};

use arc_swap::ArcSwap;

use super::{SignedOut, Signing, Tenant, TenantName};
use crate::{
    ably::{ApiKey, Exchange, ExchangeCounts, KeyName, RestClient, TokenFormat},
    clerk::{PublishableKey, SessionRules, SigningKeys, Verifier},
    detached::Detached,
    identity::Identity,
    policy::Policy,
    telemetry::metrics::TenantMetrics,
};

/// The API key of every tenant.
pub(crate) const API_KEY: &str = "app.key:secret";

const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArj21vypqCbVum2sKRqCC\n\
MYkzuNWaahYVZX9WhJDAnjGuxgLsWyCtkbWoCaCxxjcLXvQetOhFxiMt0pE+35m5\n\
nNW8ukIc6n3XykcHT7BPoK2xxtuDJNUb0J68uC84iCgXJFqgZshL4X6HwJ4+CgQF\n\
Jdnjkc0AEnRJcgzPIIcmoKYLIYdvoPIVYDpB59zgD4yJDOAv7YO3hmzWxRsgT2uB\n\
1wIjjao+9xoKQ3r9aOuQ2tOsjo4FU2EKtzQ3xseUgzvyMdnMKgqaoilS/nwJLBHt\n\
qgDJGgIUoi5rLbrScXbLglsSf2wLl4ucWuUSaVUeGgKB4Y70qk5pZ9a/OLuj1eWl\n\
GQIDAQAB\n-----END PUBLIC KEY-----\n";

/// The name of [`API_KEY`].
pub(crate) fn key_name() -> KeyName {
    ApiKey::parse(API_KEY).unwrap().name().clone()
}

/// A tenant without webhooks, revocable tokens or rules, whose client IDs are made from `template`.
pub(crate) fn tenant(name: &str, format: TokenFormat, template: &str) -> Tenant {
    let rules = SessionRules {
        issuers: vec!["https://clerk.example.com".into()],
        authorized_parties: Vec::new(),
        native_apps: false,
        audience: Vec::new(),
        clock_skew_ms: 5000,
        longest_life_ms: 600_000,
    };
    Tenant {
        name: TenantName::parse(name).unwrap(),
        publishable_key: PublishableKey::parse("pk_test_Y2xlcmsuZXhhbXBsZS5jb20k").unwrap(),
        verifier: Verifier::new(SigningKeys::from_pem(PEM).unwrap(), rules),
        webhook_secrets: None,
        identity: Identity::new(template.parse().unwrap(), None),
        policy: ArcSwap::from_pointee(Policy::default()),
        api_key: ApiKey::parse(API_KEY).unwrap(),
        signing: match format {
            TokenFormat::TokenRequest => Signing::TokenRequest,
            TokenFormat::Jwt => Signing::Jwt,
            TokenFormat::TokenDetails => {
                let rest = RestClient::new("http://127.0.0.1:1".parse().unwrap(), reqwest::Client::new());
                Signing::TokenDetails(Exchange::new(rest, Detached::on_current_runtime(), ExchangeCounts::default()))
            }
        },
        revocation_queues: Vec::new(),
        denial: Duration::from_mins(10),
        signed_out: SignedOut::Retry,
        allowed_origins: HashSet::new(),
        metrics: TenantMetrics::default(),
    }
}
