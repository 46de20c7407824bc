//! `[clerk]`: the Clerk instance, its keys, and what a session token must have.

use std::{iter, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{reader::Reader, settings, value};
use crate::{
    clerk::{
        InstanceKind, InvalidSigningSecret, PublishableKey, SessionRules, SigningKeys, SigningSecrets, frontend_api_at,
    },
    clock, outgoing,
};

/// Clerk's settings.
#[derive(Clone, Debug)]
pub struct ClerkConfig {
    /// Names the instance, and the Frontend APIs of the satellites.
    pub publishable_key: PublishableKey,
    /// For the Backend API.
    pub secret_key: Option<SecretString>,
    /// The signing key, a valid PEM.
    pub jwt_key: Option<String>,
    /// The Backend API.
    pub api_url: Url,
    /// The allowed values of `azp`. Empty: any.
    pub authorized_parties: Vec<String>,
    /// Whether Bearer tokens without `azp` are valid despite authorized parties.
    pub native_apps: bool,
    /// The allowed values of `aud`. Empty: any.
    pub audience: Vec<String>,
    /// How far Clerk's clock and this machine's may differ, in milliseconds.
    pub clock_skew_ms: i64,
    /// The Frontend API's proxy.
    pub proxy_url: Option<Url>,
    /// The Frontend APIs of the satellite domains. Always empty for a development instance.
    pub satellites: Vec<Url>,
    /// How long a user is cached.
    pub user_cache_ttl: Duration,
    /// Webhook signing secrets, validated. Empty: webhooks are off.
    pub webhook_signing_secrets: Vec<SecretString>,
}

/// Where the signing keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The configured PEM.
    Pem,
    /// The Backend API's JWKS, with the secret key.
    BackendApi(Url),
    /// The Frontend API's JWKS, which is public.
    FrontendApi(Url),
}

impl ClerkConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let publishable_key = reader.value(&settings::CLERK_PUBLISHABLE_KEY, PublishableKey::parse);
        let kind = publishable_key.as_ref().map(PublishableKey::kind);
        let api_url = reader.value(&settings::CLERK_API_URL, value::base_url);
        let native_apps = reader.value(&settings::CLERK_NATIVE_APPS, value::boolean);
        let clock_skew_ms = reader.value(&settings::CLERK_CLOCK_SKEW_MS, clock_skew_ms);
        let user_cache_ttl = reader.value(&settings::CLERK_USER_CACHE_TTL, value::duration);
        let satellites = reader.list(&settings::CLERK_DOMAIN, satellite).unwrap_or_default();
        let satellites = if kind == Some(InstanceKind::Production) { satellites } else { Vec::new() };
        Some(Self {
            secret_key: reader.value(&settings::CLERK_SECRET_KEY, |text| secret_key(text, kind)),
            jwt_key: reader.value(&settings::CLERK_JWT_KEY, |pem| SigningKeys::from_pem(pem).map(|_| pem.to_owned())),
            authorized_parties: reader.list(&settings::CLERK_AUTHORIZED_PARTIES, value::origin).unwrap_or_default(),
            audience: reader.list(&settings::CLERK_AUDIENCE, audience).unwrap_or_default(),
            proxy_url: reader.value(&settings::CLERK_PROXY_URL, value::base_url),
            webhook_signing_secrets: reader
                .list(&settings::CLERK_WEBHOOK_SIGNING_SECRET, webhook_signing_secret)
                .unwrap_or_default(),
            publishable_key: publishable_key?.on_satellites(satellites.clone()),
            satellites,
            api_url: api_url?,
            native_apps: native_apps?,
            clock_skew_ms: clock_skew_ms?,
            user_cache_ttl: user_cache_ttl?,
        })
    }

    /// Whether a webhook could be meant for both.
    pub(super) fn shares_a_webhook_secret_with(&self, other: &Self) -> bool {
        self.webhook_secrets().any(|secret| other.webhook_secrets().any(|theirs| theirs == secret))
    }

    fn webhook_secrets(&self) -> impl Iterator<Item = &str> {
        self.webhook_signing_secrets.iter().map(ExposeSecret::expose_secret)
    }

    /// What webhooks are verified with. None if webhooks are off.
    pub fn signing_secrets(&self) -> Result<Option<SigningSecrets>, InvalidSigningSecret> {
        let are_on = !self.webhook_signing_secrets.is_empty();
        are_on.then(|| SigningSecrets::parse(self.webhook_secrets())).transpose()
    }

    /// The allowed values of `iss`: the Frontend API, those of the satellites, and the proxy.
    #[must_use]
    pub fn issuers(&self) -> Vec<String> {
        let urls = iter::once(self.publishable_key.frontend_api()).chain(&self.satellites).chain(&self.proxy_url);
        urls.map(|url| url.as_str().trim_end_matches('/').to_owned()).collect()
    }

    /// What a session token must have. `longest_life` is how long it may be valid.
    #[must_use]
    pub fn session_rules(&self, longest_life: Duration) -> SessionRules {
        SessionRules {
            issuers: self.issuers(),
            authorized_parties: self.authorized_parties.clone(),
            native_apps: self.native_apps,
            audience: self.audience.clone(),
            clock_skew_ms: self.clock_skew_ms,
            longest_life_ms: clock::millis(longest_life),
        }
    }

    /// Where the signing keys come from: the PEM, else the Backend API, else the Frontend API.
    #[must_use]
    pub fn key_source(&self) -> KeySource {
        match (&self.jwt_key, &self.secret_key) {
            (Some(_), _) => KeySource::Pem,
            (None, Some(_)) => KeySource::BackendApi(outgoing::url(&self.api_url, &["v1", "jwks"])),
            (None, None) => KeySource::FrontendApi(self.frontend_api_jwks()),
        }
    }

    /// The address of the Frontend API's JWKS: at the proxy, else on the first satellite, else the publishable key's.
    #[must_use]
    pub fn frontend_api_jwks(&self) -> Url {
        let base = self.proxy_url.as_ref().or(self.satellites.first()).unwrap_or(self.publishable_key.frontend_api());
        outgoing::url(base, &[".well-known", "jwks.json"])
    }
}

fn secret_key(text: &str, kind: Option<InstanceKind>) -> Result<SecretString, &'static str> {
    let of_kind = match text.get(..8) {
        Some("sk_test_") => InstanceKind::Development,
        Some("sk_live_") => InstanceKind::Production,
        _ => return Err("not a secret key; copy it from API keys in Clerk's dashboard: sk_test_… or sk_live_…"),
    };
    if text.len() == 8 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("an incomplete secret key; copy it again from API keys in Clerk's dashboard");
    }
    if kind.is_some_and(|kind| kind != of_kind) {
        return Err("of another kind of instance than the publishable key; use two test keys or two live keys");
    }
    Ok(SecretString::from(text))
}

fn webhook_signing_secret(text: &str) -> Result<SecretString, InvalidSigningSecret> {
    SigningSecrets::parse([text]).map(|_| SecretString::from(text))
}

fn clock_skew_ms(text: &str) -> Result<i64, &'static str> {
    let millis = text.parse().ok().filter(|millis| (0..=300_000).contains(millis));
    millis.ok_or("not a whole number of milliseconds from 0 to 300000; use for example 5000")
}

/// Clerk compares `aud` exactly, and so does this service.
fn audience(text: &str) -> Result<String, &'static str> {
    let is_exact = !text.contains('*');
    is_exact.then(|| text.into()).ok_or("a wildcard, which never matches; list the values")
}

fn satellite(domain: &str) -> Result<Url, &'static str> {
    if domain.contains('*') {
        return Err("a domain with a wildcard, which never matches; list the satellite domains");
    }
    if domain.strip_prefix("clerk.").is_some_and(|rest| rest.contains('.')) {
        return Err("a domain begins with clerk., which the service adds itself; leave it out");
    }
    let is_name = domain.contains('.') && !domain.split('.').any(str::is_empty);
    frontend_api_at(&format!("clerk.{domain}")).filter(|_| is_name).ok_or(
        "not a domain; write it in lower case, like satellite.example.com, without scheme, port, path or dot at the end, \
         and with xn--… for letters beyond ASCII",
    )
}
