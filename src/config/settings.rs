//! The list of settings: names, aliases, and which a user may set today.

use super::tenant;

/// A setting: key `key` of section `[section]`, and the variable `SECTION_KEY`.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The TOML table.
    pub section: &'static str,
    /// The key in it.
    pub key: &'static str,
    /// Other variables that mean the same: the names that the vendors' own tools use.
    pub aliases: &'static [&'static str],
    /// What is said of it in an error.
    pub availability: Availability,
}

/// Whether a setting has an effect.
#[derive(Debug, PartialEq, Eq)]
pub enum Availability {
    /// It has.
    Built,
    /// It has, and is too much for a variable: it stands in the TOML file only.
    TomlOnly,
}

impl Setting {
    const fn new(section: &'static str, key: &'static str) -> Self {
        Self { section, key, aliases: &[], availability: Availability::Built }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn toml_only(section: &'static str, key: &'static str) -> Self {
        Self { availability: Availability::TomlOnly, ..Self::new(section, key) }
    }

    /// Whether each tenant has its own.
    #[must_use]
    pub fn is_of_a_tenant(&self) -> bool {
        tenant::SECTIONS.contains(&self.section)
    }

    /// The variable of this setting, where there is one tenant.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}_{}", self.section, self.key).to_ascii_uppercase()
    }

    /// The variable, then its aliases.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.variable()).chain(self.aliases.iter().map(ToString::to_string))
    }
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident = $setting:expr;)*) => {
        $($(#[$doc])* pub const $name: Setting = $setting;)*

        /// Every setting, in the order of the documentation.
        pub const ALL: &[Setting] = &[$($setting),*];
    };
}

settings! {
    /// `appId.keyId:secret`; required.
    ABLY_API_KEY = Setting::new("ably", "api_key").aliases(&["NEXT_ABLY_API_KEY"]);
    /// Ably's REST API.
    ABLY_REST_URL = Setting::new("ably", "rest_url");
    /// Whether the key has revocable tokens on.
    ABLY_REVOCABLE_TOKENS = Setting::new("ably", "revocable_tokens");
    /// `pk_…`; required.
    CLERK_PUBLISHABLE_KEY = Setting::new("clerk", "publishable_key")
        .aliases(&["NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", "VITE_CLERK_PUBLISHABLE_KEY"]);
    /// `sk_…`, for the Backend API.
    CLERK_SECRET_KEY = Setting::new("clerk", "secret_key");
    /// A PEM public key, for verification without any network.
    CLERK_JWT_KEY = Setting::new("clerk", "jwt_key");
    /// Clerk's Backend API.
    CLERK_API_URL = Setting::new("clerk", "api_url");
    /// The origins that `azp` may name.
    CLERK_AUTHORIZED_PARTIES = Setting::new("clerk", "authorized_parties");
    /// Whether Bearer tokens may lack `azp`.
    CLERK_NATIVE_APPS = Setting::new("clerk", "native_apps");
    /// The values that `aud` may have.
    CLERK_AUDIENCE = Setting::new("clerk", "audience");
    /// How far clocks may differ, in milliseconds.
    CLERK_CLOCK_SKEW_MS = Setting::new("clerk", "clock_skew_ms");
    /// The Frontend API's proxy.
    CLERK_PROXY_URL = Setting::new("clerk", "proxy_url");
    /// The satellite domains.
    CLERK_DOMAIN = Setting::new("clerk", "domain");
    /// How long users are remembered.
    CLERK_USER_CACHE_TTL = Setting::new("clerk", "user_cache_ttl");
    /// `whsec_…`, or several while one replaces another.
    CLERK_WEBHOOK_SIGNING_SECRET = Setting::new("clerk", "webhook_signing_secret");
    /// What a token is given as: `token_request`, `jwt` or `token_details`.
    TOKEN_FORMAT = Setting::new("token", "format");
    /// The longest life of a token.
    TOKEN_TTL = Setting::new("token", "ttl");
    /// The template of client IDs.
    TOKEN_CLIENT_ID = Setting::new("token", "client_id");
    /// Whether the key's own capability is meant, where there are no rules.
    TOKEN_CAPABILITY = Setting::new("token", "capability");
    /// What an SDK does when the user is signed out: `retry` or `fail`.
    TOKEN_SIGNED_OUT = Setting::new("token", "signed_out");
    /// The condition without which there is no token.
    TOKEN_REQUIRE = Setting::toml_only("token", "require");
    /// How long a denial lasts.
    REVOCATION_DENIAL_TTL = Setting::new("revocation", "denial_ttl");
    /// The origins whose pages may read answers.
    CORS_ALLOWED_ORIGINS = Setting::new("cors", "allowed_origins");
    /// The address to listen on.
    SERVER_HOST = Setting::new("server", "host").aliases(&["HOST"]);
    /// The port to listen on.
    SERVER_PORT = Setting::new("server", "port").aliases(&["PORT"]);
    /// Networks whose forwarding headers are believed.
    SERVER_TRUSTED_PROXIES = Setting::new("server", "trusted_proxies");
    /// The admin listener's address.
    ADMIN_HOST = Setting::new("admin", "host");
    /// The admin listener's port; 0 turns it off.
    ADMIN_PORT = Setting::new("admin", "port");
    /// The admin listener's token, for what changes something.
    ADMIN_TOKEN = Setting::new("admin", "token");
    /// Tokens per user and minute; 0 for no limit.
    LIMITS_TOKENS_PER_MINUTE = Setting::new("limits", "tokens_per_minute");
    /// Tokens per user at once.
    LIMITS_TOKENS_BURST = Setting::new("limits", "tokens_burst");
    /// Requests for a token that are worked on at once.
    LIMITS_MAX_IN_FLIGHT = Setting::new("limits", "max_in_flight");
    /// Open connections of the public listener.
    LIMITS_CONNECTIONS = Setting::new("limits", "connections");
    /// The store that replicas share.
    REDIS_URL = Setting::new("redis", "url");
    /// A PEM bundle of the authorities that may sign its certificate.
    REDIS_CA_FILE = Setting::new("redis", "ca_file");
    /// What its keys begin with.
    REDIS_PREFIX = Setting::new("redis", "prefix");
    /// What happens without it.
    REDIS_ON_FAILURE = Setting::new("redis", "on_failure");
    /// How log lines look.
    LOG_FORMAT = Setting::new("log", "format");
    /// Which log lines there are.
    LOG_LEVEL = Setting::new("log", "level");
}
