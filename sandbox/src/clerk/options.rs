//! How a stand-in for Clerk is set up.

use std::time::Duration;

use super::ids;
use super::webhooks::WebhookOptions;

/// What a stand-in is started with. `Options::default()` is an instance on any free port.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port on loopback; 0 is any free one.
    pub port: u16,
    /// How long a session token lives. Clerk's live 60 seconds.
    pub session_token_ttl: Duration,
    /// Host name that the publishable key carries and that tokens name as their issuer.
    pub frontend_api: String,
    /// Id of the first signing key, `ins_…`.
    pub kid: String,
    /// Added to the machine's clock wherever the stand-in tells the time: claims, `Date`, `updated_at`.
    pub clock_offset_ms: i64,
    /// The `azp` of tokens that are minted without a browser naming its origin.
    pub authorized_party: String,
    /// Which of the two issuers an instance can have.
    pub issuer: Issuer,
    /// Where it tells of events, and how persistently.
    pub webhooks: WebhookOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            session_token_ttl: Duration::from_mins(1),
            frontend_api: "clerk.sandbox.example".to_owned(),
            kid: ids::new("ins"),
            clock_offset_ms: 0,
            authorized_party: "http://localhost:3000".to_owned(),
            issuer: Issuer::FrontendApi,
            webhooks: WebhookOptions::default(),
        }
    }
}

/// Who a session token says it is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Issuer {
    /// `https://<frontend_api>`.
    #[default]
    FrontendApi,
    /// The stand-in's own address, [`Clerk::proxy_url`]: an instance whose Frontend API is behind a proxy.
    Proxy,
}
