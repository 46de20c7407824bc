//! The list of settings: names, meanings and defaults. `--help` and docs/configuration.md are generated from it.

use std::{fmt::Write as _, sync::LazyLock};

/// The key of the rules in the TOML file.
pub(super) const GRANTS: &str = "grants";

/// The key of the list of tenants in the TOML file.
pub(super) const TENANTS: &str = "tenants";

/// The sections that each tenant has of its own.
pub(super) const TENANT_SECTIONS: [&str; 4] = ["ably", "clerk", "token", "cors"];

/// The defaults of all settings: the active lines of the example file.
static DEFAULTS: LazyLock<toml::Table> =
    LazyLock::new(|| include_str!("../../ably-clerk-auth.example.toml").parse().unwrap_or_default());

/// A setting: key `key` of section `[section]`, and the variable `SECTION_KEY`.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The TOML table.
    pub section: &'static str,
    /// The key in it.
    pub key: &'static str,
    /// Other variables with the same meaning: the names that the vendors' own tools use.
    pub aliases: &'static [&'static str],
    /// The valid values, if there are only a few.
    pub choices: &'static [&'static str],
    /// What applies when the setting is unset and the example file has no default.
    pub if_unset: &'static str,
    /// Where to find the value, if the setting must be set.
    pub cure: &'static str,
    /// Whether only the TOML file can hold it.
    pub file_only: bool,
    /// The meaning, in Markdown. The first line is a sentence for `--help`; docs/configuration.md has all lines.
    pub meaning: &'static [&'static str],
}

impl Setting {
    /// Whether each tenant has its own.
    #[must_use]
    pub fn is_of_a_tenant(&self) -> bool {
        TENANT_SECTIONS.contains(&self.section)
    }

    /// The variable of this setting, where there is one tenant.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}_{}", self.section, self.key).to_ascii_uppercase()
    }

    /// The default, from the example file.
    #[must_use]
    pub fn default_value(&self) -> Option<&'static toml::Value> {
        DEFAULTS.get(self.section)?.get(self.key)
    }

    /// The default as an operator would write it in a variable, unless it is empty.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        match self.default_value()? {
            toml::Value::Array(items) if items.is_empty() => None,
            toml::Value::String(text) => Some(text.clone()),
            value => Some(value.to_string()),
        }
    }
}

/// The settings that a variable can hold, a line each, for `--help`.
#[must_use]
pub fn help() -> String {
    let settings = || ALL.iter().filter(|setting| !setting.file_only);
    let width = settings().map(|setting| setting.variable().len()).max().unwrap_or_default();
    let mut help = String::new();
    for setting in settings() {
        let meaning =
            setting.meaning.first().copied().unwrap_or_default().trim().trim_end_matches('.').replace('`', "");
        let default = setting.default_text().unwrap_or_else(|| setting.if_unset.replace('`', ""));
        let default = if default.is_empty() { default } else { format!(" [{default}]") };
        _ = writeln!(help, "  {:width$}  {meaning}{default}", setting.variable());
        if !setting.aliases.is_empty() {
            _ = writeln!(help, "  {:width$}  Also: {}", "", setting.aliases.join(", "));
        }
    }
    help
}

macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $name:ident = $section:literal, $key:literal $(, $field:ident: $value:expr)*;)*) => {
        $($(#[doc = $meaning])+ pub const $name: Setting = {
            let (aliases, choices): (&[_], &[_]) = (&[], &[]);
            let (if_unset, cure, file_only, meaning) = ("", "", false, &[$($meaning),+]);
            let setting = Setting { section: $section, key: $key, aliases, choices, if_unset, cure, file_only, meaning };
            Setting { $($field: $value,)* ..setting }
        };)*

        /// Every setting, in the order of the documentation.
        pub const ALL: &[Setting] = &[$($name),*];
    };
}

settings! {
    /// The API key that signs tokens: `appId.keyId:secret`.
    ABLY_API_KEY = "ably", "api_key", aliases: &["NEXT_ABLY_API_KEY"], if_unset: "required",
        cure: "copy the API key from your app's page in Ably's dashboard: appId.keyId:secret";
    /// Ably's REST API.
    /// For `check`, revocation and the format `token_details`.
    ABLY_REST_URL = "ably", "rest_url";
    /// `true` if the API key has revocable tokens turned on.
    /// Turn them on in Ably's dashboard. Tokens are then valid for an hour at most.
    ABLY_REVOCABLE_TOKENS = "ably", "revocable_tokens";
    /// Names the Clerk instance: `pk_test_…` or `pk_live_…`.
    CLERK_PUBLISHABLE_KEY = "clerk", "publishable_key",
        aliases: &["NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", "VITE_CLERK_PUBLISHABLE_KEY"], if_unset: "required",
        cure: "copy it from API keys in Clerk's dashboard: pk_test_… or pk_live_…";
    /// For Clerk's Backend API: `sk_test_…` or `sk_live_…`.
    /// The service looks up usernames that are not in the session token, and fetches signing keys.
    CLERK_SECRET_KEY = "clerk", "secret_key";
    /// The instance's public key (PEM).
    /// The service then verifies sessions without any network.
    CLERK_JWT_KEY = "clerk", "jwt_key";
    /// Clerk's Backend API.
    CLERK_API_URL = "clerk", "api_url";
    /// The origins of your app (list).
    /// Session tokens with another `azp`, or without one, are rejected. Set this in production.
    CLERK_AUTHORIZED_PARTIES = "clerk", "authorized_parties", if_unset: "any";
    /// `true` accepts Bearer tokens without `azp`, as native apps get them.
    /// [What it weakens](clerk.md#native-apps).
    CLERK_NATIVE_APPS = "clerk", "native_apps";
    /// The allowed values of `aud` (list), for session tokens that have one.
    CLERK_AUDIENCE = "clerk", "audience", if_unset: "any";
    /// How far Clerk's clock and this machine's may differ, in milliseconds.
    /// Up to 300000.
    CLERK_CLOCK_SKEW_MS = "clerk", "clock_skew_ms";
    /// Your Frontend API proxy, if Clerk's SDK in your app uses one.
    CLERK_PROXY_URL = "clerk", "proxy_url";
    /// Satellite domains (list), without `clerk.`.
    /// Signing keys come from the first. Ignored for development instances.
    CLERK_DOMAIN = "clerk", "domain";
    /// How long the service caches a user that it looked up.
    CLERK_USER_CACHE_TTL = "clerk", "user_cache_ttl";
    /// The signing secret of Clerk's webhooks: `whsec_…`.
    /// A list while one replaces another. Unset: [webhooks](revocation.md) are off.
    CLERK_WEBHOOK_SIGNING_SECRET = "clerk", "webhook_signing_secret";
    /// What the client gets: `token_request`, `jwt` or `token_details`.
    /// [Which to choose](formats.md).
    TOKEN_FORMAT = "token", "format", choices: &["token_request", "jwt", "token_details"];
    /// How long a token is valid at most, up to `24h`.
    /// A client may ask for less, down to 10 seconds.
    TOKEN_TTL = "token", "ttl", if_unset: "Ably's 60 minutes";
    /// The client ID on Ably: text with `{username}`, `{user_id}` or `{claim.NAME}`.
    /// `{claim.metadata.handle}` reads a nested claim.
    TOKEN_CLIENT_ID = "token", "client_id";
    /// `key` confirms that, without rules, tokens have the API key's whole capability.
    /// It turns off the warning about the missing policy.
    TOKEN_CAPABILITY = "token", "capability", choices: &["key"];
    /// What an SDK does when the user is signed out: `retry` (401) or `fail` (403).
    /// [Details](connect.md#when-the-user-is-signed-out).
    TOKEN_SIGNED_OUT = "token", "signed_out", choices: &["retry", "fail"];
    /// The condition that every session must meet.
    /// [Require something for every token](policy.md#require-something-for-every-token).
    TOKEN_REQUIRE = "token", "require", file_only: true;
    /// How long an ended session or a banned user is denied, at least `2m`.
    /// Session tokens that are valid for longer are rejected.
    REVOCATION_DENIAL_TTL = "revocation", "denial_ttl";
    /// The origins whose pages may read answers (list).
    CORS_ALLOWED_ORIGINS = "cors", "allowed_origins", if_unset: "the authorized parties";
    /// The IP address of the public listener.
    SERVER_HOST = "server", "host", aliases: &["HOST"];
    /// The port of the public listener; `0` takes any free one.
    SERVER_PORT = "server", "port", aliases: &["PORT"];
    /// The networks of your proxies (list).
    /// The log believes their `X-Forwarded-For` or `Forwarded`. [Details](architecture.md#where-a-request-comes-from).
    SERVER_TRUSTED_PROXIES = "server", "trusted_proxies";
    /// The IP address of the admin listener.
    /// It serves `/metrics`, `/healthz`, `/readyz` and `/revocations`.
    ADMIN_HOST = "admin", "host";
    /// The port of the admin listener; `0` turns it off.
    ADMIN_PORT = "admin", "port";
    /// What `revoke` must send; without it, `revoke` works on loopback only.
    /// Beyond loopback it needs 16 characters or more. [Details](revocation.md#operator-requests).
    ADMIN_TOKEN = "admin", "token";
    /// How many tokens a user may get per minute from each replica; `0`: no limit.
    LIMITS_TOKENS_PER_MINUTE = "limits", "tokens_per_minute";
    /// How many of them at once.
    /// [Limits](architecture.md#limits).
    LIMITS_TOKENS_BURST = "limits", "tokens_burst";
    /// How many token requests each replica works on at once.
    /// More get 503.
    LIMITS_MAX_IN_FLIGHT = "limits", "max_in_flight";
    /// How many connections the public listener keeps open.
    /// At the limit, a new connection replaces the one that has been idle longest.
    LIMITS_CONNECTIONS = "limits", "connections";
    /// The Redis that replicas share: `rediss://user:password@host:port`.
    /// Several, comma-separated, are nodes of a cluster, or sentinels. [Which Redis](revocation.md#which-redis).
    REDIS_URL = "redis", "url";
    /// The name of the master, if the URLs are those of sentinels.
    /// User, password and database of the URLs are the master's.
    REDIS_SENTINEL_MASTER = "redis", "sentinel_master";
    /// The sentinels' user, if it is not the master's.
    /// With `REDIS_SENTINEL_PASSWORD`.
    REDIS_SENTINEL_USERNAME = "redis", "sentinel_username";
    /// The sentinels' password, if it is not the master's.
    /// Unset: the user and password of the URLs, or none if the sentinels refuse them.
    REDIS_SENTINEL_PASSWORD = "redis", "sentinel_password";
    /// A file with the CA certificates (PEM) for Redis's certificate.
    /// Other CAs then do not count.
    REDIS_CA_FILE = "redis", "ca_file", if_unset: "the system's CAs";
    /// The prefix of all keys in Redis.
    REDIS_PREFIX = "redis", "prefix";
    /// While Redis is unavailable: `degrade` or `refuse`.
    /// `degrade` continues with what each replica knows. `refuse` issues no tokens.
    REDIS_ON_FAILURE = "redis", "on_failure", choices: &["degrade", "refuse"];
    /// How a line of the log looks: `pretty` or `json`.
    LOG_FORMAT = "log", "format", choices: &["pretty", "json"], if_unset: "`pretty` on a terminal, else `json`";
    /// `error`, `warn`, `info`, `debug` or `trace`.
    LOG_LEVEL = "log", "level", choices: &["error", "warn", "info", "debug", "trace"];
}
