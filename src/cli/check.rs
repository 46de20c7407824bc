//! `check`: shows the settings, tries what the service needs, and warns of what may surprise.

use std::{
    fmt::{self, Write as _},
    path::Path,
    sync::Arc,
};

use super::{
    failure::Failure,
    output::{Output, printable},
};
use crate::{
    ably::{RestClient, TokenFormat},
    assembly::{self, AssemblyError},
    clerk::{BackendApiError, Jwks, JwksSource, Probe, RefreshCounts, SigningKeys, Users},
    clock::{ClockOffset, UnixMillis},
    config::{
        ClerkConfig, Config, KeySource, Provenance, RedisConfig, Scope, Sources, TenantConfig, mount_warning,
        settings::{self, Setting},
    },
    detached::Detached,
    outgoing,
    redis::{Persistence, RedisAddress, RedisFindings, RedisMode},
    store::{RedisConnector, RedisKeyPrefix},
    telemetry::metrics::Metrics,
};

/// The clock difference beyond which Ably rejects a token request (40104), in milliseconds.
const ABLY_TOLERANCE_MS: i64 = 120_000;

/// The report of `check`. It has failed if the service would not work.
impl Output {
    fn line(&mut self, mark: &str, label: &str, text: impl fmt::Display) {
        // Other servers wrote some of it.
        let text = printable(&text.to_string());
        _ = writeln!(self.text, "{mark}  {label:18}  {text}");
    }

    fn setting(&mut self, label: &str, text: impl fmt::Display) {
        self.line("    ", label, text);
    }

    fn tried(&mut self, label: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(text) => self.line("ok  ", label, text),
            Err(text) => {
                self.has_failed = true;
                self.line("FAIL", label, text);
            }
        }
    }

    fn compare_clocks(&mut self, label: &str, offset: ClockOffset, tolerance_ms: i64) {
        let text = format!("ours is {offset}");
        let is_too_much = offset.exceeds(tolerance_ms);
        self.tried(label, if is_too_much { Err(text + ", which is too much: set our clock") } else { Ok(text) });
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        for warning in warnings {
            _ = writeln!(self.text, "warn  {}", printable(&warning));
        }
    }
}

pub(super) async fn run(file: Option<&Path>) -> Result<Output, Failure> {
    let (config, provenance) = Config::load(&Sources::read(file))?;
    let mut report = Output::default();
    report.warn(mount_warning(Sources::toml_path(file)));
    report.setting("listens on", config.server.address);
    let admin = config.admin.address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    report.setting("admin listener", admin);
    try_redis(config.redis.as_ref(), &mut report).await;
    report.warn(config.warnings_beyond_tenants());
    match outgoing::client() {
        Ok(http) => try_tenants(&config, &provenance, &http, &mut report).await?,
        Err(error) => report.tried("outgoing TLS", Err(outgoing::causes(&error))),
    }
    report.text +=
        if report.has_failed { "The service would not work as it is.\n" } else { "The service would work.\n" };
    Ok(report)
}

async fn try_tenants(
    config: &Config,
    provenance: &Provenance,
    http: &reqwest::Client,
    report: &mut Output,
) -> Result<(), AssemblyError> {
    let tenants = assembly::tenants(config, &Metrics::new(UnixMillis::now()))?;
    for tenant in tenants.iter() {
        let Some(config) = config.tenant(&tenant.name) else { continue };
        if let Scope::Tenant(name, _) = &config.scope {
            report.setting("tenant", name);
        }
        describe(config, provenance, report);
        try_signing_keys(config, tenant.signing_keys(), http, report).await;
        let lacks_usernames = try_secret_key(config, tenant.users(), report).await;
        try_ably(config, http.clone(), report).await;
        report.warn(config.warnings());
        if config.token.client_id.needs_username() && lacks_usernames {
            let variable = config.scope.variable(&settings::TOKEN_CLIENT_ID);
            report.warn([format!("no user of this Clerk instance has a username; set {variable} to {{user_id}}")]);
        }
    }
    Ok(())
}

fn describe(tenant: &TenantConfig, provenance: &Provenance, report: &mut Output) {
    let TenantConfig { ably, clerk, token, policy, .. } = tenant;
    let from = |setting: &Setting| provenance.get(&tenant.scope.variable(setting)).map_or("default", String::as_str);
    let listed = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (host, kind) = (clerk.publishable_key.frontend_api_host(), clerk.publishable_key.kind());
    let instance = format!("{host} ({kind}, from {})", from(&settings::CLERK_PUBLISHABLE_KEY));
    report.setting("Clerk instance", instance);
    let secret_key = clerk.secret_key.as_ref().map(|_| format!("set, from {}", from(&settings::CLERK_SECRET_KEY)));
    report.setting("secret key", secret_key.as_deref().unwrap_or("not set"));
    report.setting("authorized parties", listed(&clerk.authorized_parties));
    if !clerk.audience.is_empty() {
        report.setting("audience", listed(&clerk.audience));
    }
    let origin = from(&settings::ABLY_API_KEY);
    report.setting("Ably API key", format_args!("{}, from {origin}", ably.api_key.name()));
    if let Some(second) = &ably.second_api_key {
        report.setting("second API key", format_args!("{}, from {origin}; it only revokes", second.name()));
    }
    report.setting("revocable tokens", if ably.revocable_tokens { "on" } else { "off" });
    let webhooks = match clerk.webhook_signing_secrets.len() {
        0 => "off: no signing secret".to_owned(),
        secrets => format!("on: {}", counted(secrets, "signing secret")),
    };
    report.setting("webhooks", webhooks);
    report.setting("client ID", &token.client_id);
    let (format, default_ttl) = match token.format {
        TokenFormat::TokenRequest => ("token request", "Ably's 60 minutes"),
        TokenFormat::Jwt => ("JWT", "60 minutes"),
        TokenFormat::TokenDetails => ("token details", "Ably's 60 minutes"),
    };
    let ttl = token.ttl.map(|ttl| format!("at most {} s", ttl.as_millis() / 1000));
    report.setting("token", format_args!("{format}, {}", ttl.as_deref().unwrap_or(default_ttl)));
    let policy = match policy.rules.len() {
        0 => "none: the key's own capability".to_owned(),
        rules => counted(rules, "rule"),
    };
    report.setting("policy", policy);
    report.setting("CORS origins", listed(&tenant.allowed_origins));
}

/// Tries Redis as the service does, with the same timeouts.
async fn try_redis(redis: Option<&RedisConfig>, report: &mut Output) {
    let Some(RedisConfig { address, prefix, .. }) = redis else {
        return report.setting("Redis", "none: this replica keeps denials and live tokens in memory");
    };
    let probed = match RedisConnector::new(address, prefix) {
        Ok(connector) => connector.probe().await.map_err(|lost| lost.to_string()),
        Err(invalid) => Err(invalid.to_string()),
    };
    match probed {
        Ok(findings) => report_redis(address, prefix, &findings, report),
        Err(reason) => {
            let is_private = reason.contains("UnknownIssuer");
            let cure =
                if is_private { "; set REDIS_CA_FILE to the certificate of the CA that signed Redis's" } else { "" };
            report.tried(
                "Redis",
                Err(format!("{address}: {reason}{cure}; the service issues no tokens until Redis works")),
            );
        }
    }
}

fn report_redis(address: &RedisAddress, prefix: &RedisKeyPrefix, found: &RedisFindings, report: &mut Output) {
    let RedisFindings { mode, node, info, refused, refused_extras, round_trip } = found;
    let server = info.server().unwrap_or_else(|| "version unknown".to_owned());
    let round_trip = round_trip.as_secs_f64() * 1_000.0;
    let data = if *mode == RedisMode::Single { String::new() } else { format!(", data at {node}") };
    report.tried("Redis", Ok(format!("answers at {address}: {mode}{data}, {server}, {round_trip:.1} ms a round trip")));
    let unknown = || "unknown: the user may not run INFO, or Redis does not tell".to_owned();
    let memory = info.eviction_policy().map(|policy| format!("maxmemory-policy {policy}"));
    report.setting("Redis memory", memory.unwrap_or_else(unknown));
    let persistence = info.persistence().map(|persistence| match persistence {
        Persistence::AppendOnlyFile => "append-only file".to_owned(),
        Persistence::Snapshots { changes_since } => {
            format!("no append-only file; {changes_since} changes since the last snapshot")
        }
    });
    report.setting("Redis persistence", persistence.unwrap_or_else(unknown));
    let user = if refused.is_empty() {
        Ok("may run what the service needs".to_owned())
    } else {
        let [commands, prefix] = [refused.join(", "), prefix.to_string()];
        Err(format!("may not run {commands}, or not with keys that start with {prefix}; see docs/revocation.md"))
    };
    report.tried("Redis user", user);
    report.warn(info.evicts().map(|policy| {
        format!(
            "Redis drops keys when its memory is full, so denials or live tokens can get lost; set its maxmemory-policy \
             to noeviction, from {policy}"
        )
    }));
    report.warn(found.timeout_at_risk().map(|timeout| {
        format!(
            "a command to Redis takes {round_trip:.1} ms, and one that takes {} ms is an outage; run Redis near the service",
            timeout.as_millis()
        )
    }));
    report
        .warn((*mode == RedisMode::Cluster && refused_extras.iter().any(|name| name.starts_with("cluster"))).then(|| {
        "the user of Redis may not run CLUSTER SLOTS: the service finds only those nodes of the cluster that REDIS_URL \
         names"
            .to_owned()
    }));
}

async fn try_signing_keys(
    TenantConfig { clerk, scope, .. }: &TenantConfig,
    keys: &SigningKeys,
    http: &reqwest::Client,
    report: &mut Output,
) {
    let source = clerk.key_source();
    let name = match &source {
        KeySource::Pem => format!("the PEM of {}", scope.variable(&settings::CLERK_JWT_KEY)),
        KeySource::BackendApi(url) | KeySource::FrontendApi(url) => url.to_string(),
    };
    let found = match keys {
        SigningKeys::Pem(key) => Ok(Probe::of_pem(Arc::clone(key))),
        SigningKeys::Jwks(jwks) => jwks.probe().await,
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return report.tried("signing keys", Err(format!("{name}: {error}"))),
    };
    report.tried("signing keys", Ok(format!("{} from {name}", found.count())));
    let published = match source {
        KeySource::FrontendApi(_) => None,
        KeySource::Pem | KeySource::BackendApi(_) => compare_with_published(clerk, http, &found, report).await,
    };
    if let Some(offset) = published.or(found.clock_offset) {
        report.compare_clocks("Clerk's clock", offset, clerk.clock_skew_ms);
    }
}

/// Checks that the publishable key and the signing keys are of the same Clerk instance. Returns the offset from the clock
/// of the Frontend API.
async fn compare_with_published(
    clerk: &ClerkConfig,
    http: &reqwest::Client,
    found: &Probe,
    report: &mut Output,
) -> Option<ClockOffset> {
    let url = clerk.frontend_api_jwks();
    let source = JwksSource { url: url.clone(), secret_key: None };
    let jwks = Jwks::new(source, http.clone(), Detached::on_current_runtime(), RefreshCounts::default());
    match jwks.probe().await {
        Ok(published) => {
            let host = clerk.publishable_key.frontend_api_host();
            let same = format!("the signing keys are those of {host}");
            let other = format!("the signing keys are not those of {host}; use the keys of one Clerk instance");
            report.tried("same instance", if published.shares_a_key_with(found) { Ok(same) } else { Err(other) });
            published.clock_offset
        }
        Err(error) => {
            report.warn([format!(
                "could not compare the signing keys with those of the publishable key: {url}: {error}"
            )]);
            None
        }
    }
}

async fn try_ably(TenantConfig { ably, .. }: &TenantConfig, http: reqwest::Client, report: &mut Output) {
    let url = &ably.rest_url;
    let outcome = RestClient::new(url.clone(), http).clock_offset().await;
    if let Ok(offset) = outcome {
        report.compare_clocks("Ably's clock", offset, ABLY_TOLERANCE_MS);
    }
    let keys = if ably.second_api_key.is_some() { "API keys are" } else { "API key is" };
    let outcome = outcome.map(|_| format!("answers at {url}; the {keys} not tried"));
    report.tried("Ably", outcome.map_err(|error| format!("{url}: {error}")));
}

/// Tries the secret key by asking for a few users. Returns whether all of them lack a username.
async fn try_secret_key(TenantConfig { clerk, .. }: &TenantConfig, users: Option<&Users>, report: &mut Output) -> bool {
    const SAMPLE: u16 = 20;
    let Some(users) = users else { return false };
    let (found, outcome) = match users.api().newest_users(SAMPLE).await {
        Ok(users) => (users, Ok(format!("accepted by {}", clerk.api_url))),
        Err(error @ BackendApiError::Unauthorized(_)) => {
            (Vec::new(), Err(format!("{error}; copy it again from Clerk's dashboard")))
        }
        Err(error) => (Vec::new(), Err(format!("{}: {error}", clerk.api_url))),
    };
    report.tried("secret key", outcome);
    !found.is_empty() && found.iter().all(|user| user.username.as_deref().is_none_or(str::is_empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_send_commands_to_the_terminal() {
        let mut report = Output::default();
        report.tried("Redis", Err("it answered \u{1b}[2J".into()));
        assert!(!report.text.contains('\u{1b}'), "{}", report.text);
    }
}
