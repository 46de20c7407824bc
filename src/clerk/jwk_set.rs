//! Fetches the key set (JWKS) of a Clerk instance.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jsonwebtoken::DecodingKey;
use reqwest::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{backend_api::bearer, signing_key::SigningKey};
use crate::{
    clock::ClockOffset,
    outgoing::{causes, read_json, send},
};

/// The address of a JWKS.
#[derive(Debug)]
pub struct JwksSource {
    /// The URL.
    pub url: Url,
    /// For the Backend API's JWKS; the Frontend API's is public.
    pub secret_key: Option<SecretString>,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// No complete response in time.
    #[error("no answer: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// An error status.
    #[error("status {0}")]
    Status(u16),
    /// The response is not a JWKS.
    #[error("the answer is not a JWKS")]
    Malformed,
    /// A JWKS without an RSA key for RS256 signatures.
    #[error("the JWKS has no RSA signing key")]
    NoUsableKey,
}

/// A fetched key set.
pub struct Probe {
    pub(super) keys: HashMap<String, Arc<SigningKey>>,
    /// The offset of our clock from Clerk's, if the response had a time.
    pub clock_offset: Option<ClockOffset>,
}

impl JwksSource {
    const TIMEOUT: Duration = Duration::from_secs(2);

    pub(super) async fn fetch(&self, http: &reqwest::Client) -> Result<Probe, JwksError> {
        let mut request = http.get(self.url.clone()).timeout(Self::TIMEOUT);
        if let Some(secret_key) = &self.secret_key {
            request = request.header(AUTHORIZATION, bearer(secret_key.expose_secret()));
        }
        let (response, arrival) = send(request).await.map_err(JwksError::Unreachable)?;
        if !response.status().is_success() {
            return Err(JwksError::Status(response.status().as_u16()));
        }
        let clock_offset = arrival.clock_offset(&response);
        let set: JwkSet = read_json(response, JwksError::Unreachable, JwksError::Malformed).await?;
        let keys: HashMap<_, _> = set.keys.into_iter().filter_map(usable_key).collect();
        if keys.is_empty() { Err(JwksError::NoUsableKey) } else { Ok(Probe { keys, clock_offset }) }
    }
}

impl Probe {
    /// The key of a PEM, as if it were fetched.
    #[must_use]
    pub fn of_pem(key: Arc<SigningKey>) -> Self {
        Self { keys: HashMap::from([(String::new(), key)]), clock_offset: None }
    }

    /// The number of keys.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether both sets share a key. If not, they belong to different instances.
    #[must_use]
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        self.keys.values().any(|key| other.keys.values().any(|other| key == other))
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct RsaJwk {
    kty: String,
    kid: String,
    n: String,
    e: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// An RSA key for RS256 signatures, with its id. Other keys of a set are ignored.
fn usable_key(jwk: Value) -> Option<(String, Arc<SigningKey>)> {
    let jwk: RsaJwk = serde_json::from_value(jwk).ok()?;
    let is_for_signatures = jwk.usage.is_none_or(|usage| usage == "sig");
    if jwk.kty != "RSA" || !is_for_signatures || jwk.alg.is_some_and(|alg| alg != "RS256") {
        return None;
    }
    let key = DecodingKey::from_rsa_components(&jwk.n, &jwk.e).ok()?;
    Some((jwk.kid, Arc::new(SigningKey::new(&key)?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_other_kinds_are_ignored() {
        let rsa = json!({ "kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB", "use": "sig", "alg": "RS256" });
        assert!(usable_key(rsa.clone()).is_some());
        for (name, value) in [("kty", "EC"), ("use", "enc"), ("alg", "RS512"), ("n", "!")] {
            let mut jwk = rsa.clone();
            jwk[name] = value.into();
            assert!(usable_key(jwk).is_none(), "{name} = {value}");
        }
    }
}
