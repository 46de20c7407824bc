//! Settings of a stand-in for Clerk.

use std::time::Duration;

use super::ids;
use super::webhooks::WebhookOptions;

/// Settings of a stand-in. `Options::default()` takes any free port.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port on loopback; 0 takes any free one.
    pub port: u16,
    /// The lifetime of a session token. At Clerk it is 60 seconds.
    pub session_token_ttl: Duration,
    /// The host name of the Frontend API, in the publishable key and in `iss`.
    pub frontend_api: String,
    /// The id of the first signing key, `ins_…`.
    pub kid: String,
    /// The first signing key (PKCS#8 DER), for callers that sign session tokens themselves; `None` generates one.
    pub signing_key: Option<Vec<u8>>,
    /// The stand-in's clock minus this machine's. It affects claims, `Date` and `updated_at`.
    pub clock_offset_ms: i64,
    /// The `azp` of tokens that are minted without an `Origin`.
    pub authorized_party: String,
    /// The secret key, `sk_test_…`; `None` generates one.
    pub secret_key: Option<String>,
    /// Origins whose pages may use the Frontend API, besides those of this machine.
    pub allowed_origins: Vec<String>,
    /// The kind of `iss`.
    pub issuer: Issuer,
    /// The webhook settings.
    pub webhooks: WebhookOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            session_token_ttl: Duration::from_mins(1),
            frontend_api: "clerk.sandbox.example".to_owned(),
            kid: ids::new("ins"),
            signing_key: None,
            clock_offset_ms: 0,
            authorized_party: "http://localhost:3000".to_owned(),
            secret_key: None,
            allowed_origins: Vec::new(),
            issuer: Issuer::FrontendApi,
            webhooks: WebhookOptions::default(),
        }
    }
}

/// The `iss` of session tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Issuer {
    /// `https://<frontend_api>`.
    #[default]
    FrontendApi,
    /// [`crate::clerk::Clerk::proxy_url`], for an instance whose Frontend API is behind a proxy.
    Proxy,
}
