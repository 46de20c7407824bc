//! `check`: shows the settings, tries what the service needs, and warns of what may surprise.

mod redis;

use std::{fmt, path::Path, process::ExitCode};

use super::explain::printable;
use crate::{
    ably::{RestClient, TokenFormat},
    clerk::{BackendApi, BackendApiError, Jwks, JwksSource, Probe, PublishableKey, RefreshCounts, SigningKeys},
    clock::ClockOffset,
    config::{Config, KeySource, Provenance, Scope, Sources, TenantConfig, mount_warning, settings},
    detached::Detached,
    outgoing,
};

/// The clock difference beyond which Ably rejects a token request (40104), in milliseconds.
const ABLY_TOLERANCE_MS: i64 = 120_000;

/// The lines of the report, and whether the service would work.
#[derive(Default)]
struct Report {
    lines: Vec<Line>,
    failed: bool,
}

struct Line {
    mark: &'static str,
    label: &'static str,
    text: String,
}

impl Report {
    fn line(&mut self, mark: &'static str, label: &'static str, text: impl fmt::Display) {
        // Other servers wrote some of it.
        self.lines.push(Line { mark, label, text: printable(&text.to_string()) });
    }

    fn setting(&mut self, label: &'static str, text: impl fmt::Display) {
        self.line("    ", label, text);
    }

    fn tried(&mut self, label: &'static str, outcome: Result<String, String>) {
        match outcome {
            Ok(text) => self.line("ok  ", label, text),
            Err(text) => {
                self.failed = true;
                self.line("FAIL", label, text);
            }
        }
    }

    fn compare_clocks(&mut self, label: &'static str, offset: ClockOffset, tolerance_ms: i64) {
        let text = format!("ours is {offset}");
        let is_too_much = offset.exceeds(tolerance_ms);
        self.tried(
            label,
            if is_too_much { Err(format!("{text}, which is too much: set our clock")) } else { Ok(text) },
        );
    }

    fn warn(&mut self, text: impl fmt::Display) {
        self.line("warn", "", text);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|line| line.label.len()).max().unwrap_or(0);
        for Line { mark, label, text } in &self.lines {
            if label.is_empty() {
                writeln!(f, "{mark}  {text}")?;
            } else {
                writeln!(f, "{mark}  {label:width$}  {text}")?;
            }
        }
        f.write_str(if self.failed { "The service would not work as it is." } else { "The service would work." })
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command prints a report")]
pub(super) async fn run(config: Option<&Path>) -> ExitCode {
    let report = match Config::load(&Sources::read(config)) {
        Ok((settings, provenance)) => {
            let mut report = Report::default();
            if let Some(warning) = mount_warning(Sources::toml_path(config)) {
                report.warn(warning);
            }
            describe_and_try(&settings, &provenance, report).await
        }
        Err(problems) => {
            eprint!("ably-clerk-auth: {problems}");
            return ExitCode::FAILURE;
        }
    };
    println!("{report}");
    if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn describe_and_try(config: &Config, provenance: &Provenance, mut report: Report) -> Report {
    report.setting("listens on", config.server.address);
    let admin = config.admin.address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    report.setting("admin listener", admin);
    redis::try_redis(config.redis.as_ref(), &mut report).await;
    for warning in config.warnings_beyond_tenants() {
        report.warn(warning);
    }
    let http = match outgoing::client() {
        Ok(http) => http,
        Err(error) => {
            report.tried("outgoing TLS", Err(outgoing::causes(&error)));
            return report;
        }
    };
    for tenant in &config.tenants {
        if let Scope::Tenant(name, _) = &tenant.scope {
            report.setting("tenant", name);
        }
        describe(tenant, provenance, &mut report);
        try_signing_keys(tenant, &http, &mut report).await;
        let has_usernames = try_secret_key(tenant, &http, &mut report).await;
        try_ably(tenant, &http, &mut report).await;
        for warning in tenant.warnings() {
            report.warn(warning);
        }
        if tenant.token.client_id.needs_username() && !has_usernames {
            let variable = tenant.scope.variable(&settings::TOKEN_CLIENT_ID);
            report.warn(format_args!("no user of this Clerk instance has a username; set {variable} to {{user_id}}"));
        }
    }
    report
}

fn describe(tenant: &TenantConfig, provenance: &Provenance, report: &mut Report) {
    let from =
        |setting: &settings::Setting| provenance.get(&tenant.scope.variable(setting)).map_or("default", String::as_str);
    let listed = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let key: &PublishableKey = &tenant.clerk.publishable_key;
    let instance =
        format!("{} ({}, from {})", key.frontend_api_host(), key.kind(), from(&settings::CLERK_PUBLISHABLE_KEY));
    report.setting("Clerk instance", instance);
    report.setting(
        "secret key",
        match tenant.clerk.secret_key {
            Some(_) => format!("set, from {}", from(&settings::CLERK_SECRET_KEY)),
            None => "not set".to_owned(),
        },
    );
    report.setting("authorized parties", listed(&tenant.clerk.authorized_parties));
    if !tenant.clerk.audience.is_empty() {
        report.setting("audience", listed(&tenant.clerk.audience));
    }
    report.setting(
        "Ably API key",
        format!("{}, from {}", tenant.ably.api_key.name().as_str(), from(&settings::ABLY_API_KEY)),
    );
    report.setting("revocable tokens", if tenant.ably.revocable_tokens { "on" } else { "off" });
    report.setting(
        "webhooks",
        match tenant.clerk.webhook_signing_secrets.len() {
            0 => "off: no signing secret".to_owned(),
            1 => "on: 1 signing secret".to_owned(),
            secrets => format!("on: {secrets} signing secrets"),
        },
    );
    report.setting("client ID", &tenant.token.client_id);
    report.setting(
        "token",
        match (tenant.token.format, tenant.token.ttl) {
            (format, Some(ttl)) => format!("{}, at most {} s", in_words(format), ttl.as_millis() / 1000),
            (TokenFormat::Jwt, None) => format!("{}, 60 minutes", in_words(TokenFormat::Jwt)),
            (format, None) => format!("{}, Ably's 60 minutes", in_words(format)),
        },
    );
    report.setting(
        "policy",
        match tenant.policy.rules.len() {
            0 => "none: the key's own capability".to_owned(),
            1 => "1 rule".to_owned(),
            rules => format!("{rules} rules"),
        },
    );
    report.setting("CORS origins", listed(&tenant.allowed_origins));
}

fn in_words(format: TokenFormat) -> &'static str {
    match format {
        TokenFormat::TokenRequest => "token request",
        TokenFormat::Jwt => "JWT",
        TokenFormat::TokenDetails => "token details",
    }
}

async fn try_signing_keys(tenant: &TenantConfig, http: &reqwest::Client, report: &mut Report) {
    let source = tenant.clerk.key_source();
    let name = match &source {
        KeySource::Pem => format!("the PEM of {}", tenant.scope.variable(&settings::CLERK_JWT_KEY)),
        KeySource::BackendApi(url) | KeySource::FrontendApi(url) => url.to_string(),
    };
    let found = match crate::assembly::signing_keys(&tenant.clerk, http, RefreshCounts::default) {
        Ok(SigningKeys::Pem(key)) => Ok(Probe::of_pem(&key)),
        Ok(SigningKeys::Jwks(jwks)) => jwks.probe().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return report.tried("signing keys", Err(format!("{name}: {error}"))),
    };
    report.tried("signing keys", Ok(format!("{} from {name}", found.count())));
    let offset = match source {
        KeySource::FrontendApi(_) => found.clock_offset,
        KeySource::Pem | KeySource::BackendApi(_) => compare_with_the_frontend_api(tenant, http, &found, report).await,
    };
    if let Some(offset) = offset.or(found.clock_offset) {
        report.compare_clocks("Clerk's clock", offset, tenant.clerk.clock_skew_ms);
    }
}

/// Checks that the publishable key and the signing keys are of the same Clerk instance. Returns the offset from Clerk's
/// clock.
async fn compare_with_the_frontend_api(
    tenant: &TenantConfig,
    http: &reqwest::Client,
    found: &Probe,
    report: &mut Report,
) -> Option<ClockOffset> {
    let url = tenant.clerk.frontend_api_jwks();
    let source = JwksSource { url: url.clone(), secret_key: None };
    match Jwks::new(source, http.clone(), Detached::on_current_runtime(), RefreshCounts::default()).probe().await {
        Ok(published) => {
            let host = tenant.clerk.publishable_key.frontend_api_host();
            report.tried(
                "same instance",
                if published.shares_a_key_with(found) {
                    Ok(format!("the signing keys are those of {host}"))
                } else {
                    Err(format!("the signing keys are not those of {host}; use the keys of one Clerk instance"))
                },
            );
            published.clock_offset
        }
        Err(error) => {
            let text = format!("could not compare the signing keys with those of the publishable key: {url}: {error}");
            report.warn(text);
            None
        }
    }
}

async fn try_ably(tenant: &TenantConfig, http: &reqwest::Client, report: &mut Report) {
    let outcome = match RestClient::new(tenant.ably.rest_url.clone(), http.clone()).clock_offset().await {
        Ok(offset) => {
            report.compare_clocks("Ably's clock", offset, ABLY_TOLERANCE_MS);
            Ok(format!("answers at {}; the API key is not tried", tenant.ably.rest_url))
        }
        Err(error) => Err(format!("{}: {error}", tenant.ably.rest_url)),
    };
    report.tried("Ably", outcome);
}

/// Tries the secret key by asking for a few users. False if all of them lack a username.
async fn try_secret_key(tenant: &TenantConfig, http: &reqwest::Client, report: &mut Report) -> bool {
    const SAMPLE: u16 = 20;
    let Some(secret_key) = tenant.clerk.secret_key.clone() else { return true };
    let api = BackendApi::new(tenant.clerk.api_url.clone(), secret_key, http.clone());
    match api.newest_users(SAMPLE).await {
        Ok(users) => {
            report.tried("secret key", Ok(format!("accepted by {}", tenant.clerk.api_url)));
            return users.is_empty()
                || users.iter().any(|user| user.username.as_ref().is_some_and(|name| !name.is_empty()));
        }
        Err(error @ BackendApiError::Unauthorized(_)) => {
            report.tried("secret key", Err(format!("{error}; copy it again from Clerk's dashboard")));
        }
        Err(error) => report.tried("secret key", Err(format!("{}: {error}", tenant.clerk.api_url))),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_send_commands_to_the_terminal() {
        let mut report = Report::default();
        report.tried("Redis", Err("it answered \u{1b}[2J".into()));
        assert!(!report.to_string().contains('\u{1b}'), "{report}");
    }
}
