//! Makes every part of the service from its configuration. Nothing is fetched or bound yet.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use crate::{
    ably::{ApiKey, Exchange, RestClient, RevocationQueue, RevokingKey, TokenFormat},
    clerk::{
        BackendApi, InvalidPem, InvalidSigningSecret, Jwks, JwksSource, LookupCounts, RefreshCounts, SigningKeys,
        Users, Verifier,
    },
    clock::UnixMillis,
    config::{ClerkConfig, Config, KeySource, TenantConfig},
    detached::Detached,
    identity::Identity,
    issuer::Issuer,
    limits::TokenLimit,
    outgoing,
    redis::InvalidRedisAddress,
    revocation,
    revocation::Revocation,
    store::{Forgotten, RedisConnector, Store, StoreCollector, StoreLimits},
    telemetry::{
        LogCollector,
        metrics::{Metrics, TenantMetrics},
    },
    tenant::{Signing, Tenant, Tenants},
};

/// The parts of a service.
#[derive(Debug)]
pub struct Parts {
    /// All tenants.
    pub tenants: Arc<Tenants>,
    /// Issues tokens.
    pub issuer: Issuer,
    /// Ends access.
    pub revocation: Arc<Revocation>,
    /// All metrics.
    pub metrics: Metrics,
}

/// Why a part cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// TLS cannot be set up.
    #[error("cannot set up outgoing TLS connections: {}", outgoing::causes(.0))]
    Tls(#[from] reqwest::Error),
    /// The PEM was valid when the configuration was checked.
    #[error(transparent)]
    Pem(#[from] InvalidPem),
    /// The secrets were valid when the configuration was checked.
    #[error(transparent)]
    SigningSecret(#[from] InvalidSigningSecret),
    /// The address was valid when the configuration was checked.
    #[error("Redis cannot be used: {0}")]
    Redis(#[from] InvalidRedisAddress),
}

/// Makes all parts. Needs a Tokio runtime.
pub fn assemble(config: &Config) -> Result<Parts, AssemblyError> {
    let now = UnixMillis::now();
    let mut metrics = Metrics::new(now);
    let tenants = Arc::new(tenants(config, &metrics)?);
    let store = make_store(config, &tenants)?;
    metrics.register(Box::new(StoreCollector { store: Arc::clone(&store), clock: Arc::new(UnixMillis::now) }));
    metrics.register(Box::new(LogCollector));
    let revocation = Arc::new(Revocation::new(Arc::clone(&store), Arc::clone(&tenants), now));
    let without_tenant = tenants.only().map_or_else(|| metrics.tenant(Metrics::NO_TENANT), |only| only.metrics.clone());
    let issuer = Issuer::new(Arc::clone(&tenants), store, config.limits.tokens.map(TokenLimit::new), without_tenant);
    Ok(Parts { tenants, issuer, revocation, metrics })
}

/// Makes the tenants. Needs a Tokio runtime.
pub(crate) fn tenants(config: &Config, metrics: &Metrics) -> Result<Tenants, AssemblyError> {
    let http = outgoing::client()?;
    let make = |tenant: &TenantConfig| {
        let metrics = metrics.tenant(tenant.name().as_str());
        make_tenant(tenant, config.denial_ttl, &http, metrics)
    };
    Ok(Tenants::new(config.tenants.iter().map(make).collect::<Result<_, _>>()?))
}

fn make_tenant(
    config: &TenantConfig,
    denial_ttl: Duration,
    http: &reqwest::Client,
    metrics: TenantMetrics,
) -> Result<Tenant, AssemblyError> {
    let clerk = &config.clerk;
    metrics.policy_in_force(config.policy.rules.len());
    let rest = || RestClient::new(config.ably.rest_url.clone(), http.clone()).with_clock(metrics.ably_clock());
    let signing = match config.token.format {
        TokenFormat::TokenRequest => Signing::TokenRequest,
        TokenFormat::Jwt => Signing::Jwt,
        TokenFormat::TokenDetails => {
            Signing::TokenDetails(Exchange::new(rest(), Detached::on_current_runtime(), metrics.ably_exchanges()))
        }
    };
    // Outside the closure: these series exist whether or not tokens are revocable.
    let revocations = metrics.revocations();
    let queue = |api_key: &ApiKey| {
        let key = RevokingKey { rest: rest(), api_key: api_key.clone() };
        RevocationQueue::new(config.name(), api_key.name().clone(), key, revocations.clone())
    };
    Ok(Tenant {
        name: config.name(),
        publishable_key: clerk.publishable_key.clone(),
        verifier: Verifier::new(
            signing_keys(clerk, http, || metrics.signing_key_refreshes())?,
            clerk.session_rules(denial_ttl),
        ),
        webhook_secrets: clerk.signing_secrets()?,
        identity: Identity::new(config.token.client_id.clone(), users(clerk, http, metrics.user_lookups())),
        policy: ArcSwap::from_pointee(config.policy.clone()),
        api_key: config.ably.api_key.clone(),
        signing,
        revocation_queues: config.ably.revoking_keys().map(queue).collect(),
        denial: revocation::denial(denial_ttl, clerk.clock_skew_ms),
        signed_out: config.token.signed_out,
        allowed_origins: config.allowed_origins.iter().cloned().collect(),
        metrics,
    })
}

fn make_store(config: &Config, tenants: &Arc<Tenants>) -> Result<Arc<Store>, AssemblyError> {
    let caching = Arc::clone(tenants);
    let on_forget = Arc::new(move |forgotten: Forgotten<'_>| match forgotten {
        Forgotten::User(tenant, user) => {
            if let Some(users) = caching.named(tenant).and_then(Tenant::users) {
                users.forget(user);
            }
        }
        Forgotten::Everyone => caching.iter().filter_map(Tenant::users).for_each(Users::forget_all),
    });
    let bounds = StoreLimits::default();
    let Some(redis) = &config.redis else { return Ok(Arc::new(Store::in_memory(&bounds, on_forget))) };
    let clock = Arc::new(UnixMillis::now);
    let connector = Arc::new(RedisConnector::new(&redis.address, &redis.prefix)?);
    let tasks_of = revocation::tasks_of_restriction(Arc::clone(tenants), rand::random());
    Ok(Arc::new(Store::shared(connector, redis.on_failure, &bounds, clock, on_forget, tasks_of)))
}

/// The signing keys of the configured source. Calls `counts` only for a JWKS.
fn signing_keys(
    config: &ClerkConfig,
    http: &reqwest::Client,
    counts: impl FnOnce() -> RefreshCounts,
) -> Result<SigningKeys, InvalidPem> {
    let (url, secret_key) = match config.key_source() {
        KeySource::Pem => return SigningKeys::from_pem(config.jwt_key.as_deref().unwrap_or_default()),
        KeySource::BackendApi(url) => (url, config.secret_key.clone()),
        KeySource::FrontendApi(url) => (url, None),
    };
    let jwks = Jwks::new(JwksSource { url, secret_key }, http.clone(), Detached::on_current_runtime(), counts());
    Ok(SigningKeys::Jwks(jwks))
}

/// The users of a Clerk instance. None without a secret key.
fn users(clerk: &ClerkConfig, http: &reqwest::Client, counts: LookupCounts) -> Option<Users> {
    let secret_key = clerk.secret_key.clone()?;
    let api = BackendApi::new(clerk.api_url.clone(), secret_key, http.clone());
    Some(Users::new(api, clerk.user_cache_ttl, Detached::on_current_runtime(), counts))
}
