//! Webhook endpoints.

use reqwest::Url;
use thiserror::Error;

use super::signature::SigningSecret;

/// A webhook URL and its signing secrets.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) url: Url,
    pub(super) signing_secrets: Vec<SigningSecret>,
}

/// Why an endpoint is invalid.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidEndpoint {
    /// The sandbox calls only this machine.
    #[error("the URL of an endpoint must start with http:// and be on this machine")]
    Url,
    /// A signing secret is missing or invalid.
    #[error("an endpoint needs signing secrets, each whsec_ and base64")]
    SigningSecret,
}

impl Endpoint {
    /// An `http` URL on this machine, and its signing secrets: several during a rotation. Every delivery is signed
    /// with each.
    pub fn new(url: &str, signing_secrets: &[&str]) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(url).map_err(|_| InvalidEndpoint::Url)?;
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "http" || !is_here {
            return Err(InvalidEndpoint::Url);
        }
        let signing_secrets: Option<Vec<_>> = signing_secrets.iter().map(|text| SigningSecret::parse(text)).collect();
        match signing_secrets {
            Some(signing_secrets) if !signing_secrets.is_empty() => Ok(Self { url, signing_secrets }),
            _ => Err(InvalidEndpoint::SigningSecret),
        }
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, InvalidEndpoint};

    #[test]
    fn an_endpoint_is_on_this_machine_and_has_a_secret() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for url in ["http://localhost:1/webhooks/clerk", "http://127.0.0.1:1/", "http://[::1]:1/"] {
            assert_eq!(Endpoint::new(url, &[secret]).unwrap().url(), url);
        }
        for url in ["", "/webhooks", "https://localhost/", "http://evil.example/", "http://127.0.0.1.evil.example/"] {
            assert_eq!(Endpoint::new(url, &[secret]).unwrap_err(), InvalidEndpoint::Url, "{url}");
        }
        for secrets in [&[][..], &["secret"], &[secret, ""]] {
            let error = Endpoint::new("http://localhost/", secrets).unwrap_err();
            assert_eq!(error, InvalidEndpoint::SigningSecret, "{secrets:?}");
        }
    }
}
