//! Token requests: signed with the API key, and exchanged for a token by an Ably SDK.

use std::{cell::RefCell, fmt::Write as _, num::NonZeroU64, time::Duration};

use rand::{TryRng as _, rngs::SysRng};
use serde::Serialize;

use super::{
    api_key::{ApiKey, KeyName},
    capability::Capability,
    client_id::ClientId,
};
use crate::clock::UnixMillis;

/// The lifetime of a token, in whole milliseconds above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Ttl(NonZeroU64);

impl Ttl {
    /// The ttl of a token whose request has none (TK2a).
    pub const ABLY_DEFAULT: Self = Self(NonZeroU64::new(60 * 60 * 1000).unwrap());
    /// Ably's maximum (40003 above it).
    pub const MAX: Self = Self(NonZeroU64::new(24 * 60 * 60 * 1000).unwrap());
    /// Ably's maximum for a key with revocable tokens.
    pub const MAX_REVOCABLE: Self = Self(NonZeroU64::new(60 * 60 * 1000).unwrap());

    /// A ttl in milliseconds. `None` for zero.
    #[must_use]
    pub fn from_millis(millis: u64) -> Option<Self> {
        NonZeroU64::new(millis).map(Self)
    }

    /// The ttl in milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<Duration> for Ttl {
    type Error = ();

    /// Accepts whole milliseconds above zero.
    fn try_from(duration: Duration) -> Result<Self, ()> {
        let millis = u64::try_from(duration.as_millis()).map_err(|_| ())?;
        Self::from_millis(millis).filter(|_| Duration::from_millis(millis) == duration).ok_or(())
    }
}

/// Makes a token request unique, so that Ably accepts it once: 128 random bits in hexadecimal (RSA9c).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Nonce(String);

/// The operating system failed to provide randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system failed to provide randomness")]
pub struct NoRandomness;

impl Nonce {
    /// How many nonces one call to the operating system provides. Two copies of a virtual machine could repeat that many;
    /// their token requests would still differ by the time.
    const BATCH: usize = 32;

    /// A nonce from the operating system's generator.
    pub fn random() -> Result<Self, NoRandomness> {
        thread_local! {
            static UNUSED: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
        }
        UNUSED.with_borrow_mut(|unused| {
            if unused.is_empty() {
                let mut bytes = [[0; 16]; Self::BATCH];
                SysRng.try_fill_bytes(bytes.as_flattened_mut()).map_err(|_| NoRandomness)?;
                unused.extend(bytes.map(u128::from_be_bytes));
            }
            unused.pop().map(Self::from).ok_or(NoRandomness)
        })
    }
}

impl From<u128> for Nonce {
    fn from(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }
}

/// A signed token request (TE*), serialized as Ably SDKs read it. Without a ttl or a capability, the token has Ably's
/// default ttl or the whole capability of the key (RSA5, RSA6).
///
/// It is a credential and is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, derive_more::Debug)]
#[debug("TokenRequest {{ key_name: {key_name:?}, .. }}")]
#[serde(rename_all = "camelCase")]
pub struct TokenRequest {
    key_name: KeyName,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<Ttl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<String>,
    client_id: ClientId,
    timestamp: i64,
    nonce: Nonce,
    mac: String,
}

impl TokenRequest {
    /// What the signed text usually takes without its capability.
    const USUAL_BYTES: usize = 192;

    /// Signs a token request (RSA9g). The HMAC covers the six fields in this order, each followed by a line break.
    #[must_use]
    pub fn sign(
        key: &ApiKey,
        client_id: ClientId,
        capability: Option<&Capability>,
        ttl: Option<Ttl>,
        timestamp: UnixMillis,
        nonce: Nonce,
    ) -> Self {
        let UnixMillis(timestamp) = timestamp;
        let capability = capability.map(ToString::to_string);
        let capability_text = capability.as_deref().unwrap_or_default();
        let mut text = String::with_capacity(Self::USUAL_BYTES + capability_text.len());
        text.push_str(key.name().as_str());
        text.push('\n');
        if let Some(ttl) = ttl {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}", ttl.as_millis());
        }
        for field in ["\n", capability_text, "\n", client_id.as_str(), "\n"] {
            text.push_str(field);
        }
        let _ = write!(text, "{timestamp}\n{}\n", nonce.0);
        let mac = key.mac(&text);
        Self { key_name: key.name().clone(), ttl, capability, client_id, timestamp, nonce, mac }
    }

    pub(super) fn key_name(&self) -> &KeyName {
        &self.key_name
    }

    pub(super) fn client_id(&self) -> &ClientId {
        &self.client_id
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_token_request_equals_that_of_ably_js_byte_for_byte() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/token_request.json")).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 60);
        for (position, case) in cases.iter().enumerate() {
            let input = &case["input"];
            let key = ApiKey::parse(case["key"].as_str().unwrap()).unwrap();
            let client_id = ClientId::parse(input["clientId"].as_str().unwrap()).unwrap();
            let capability: Option<Capability> =
                input.get("capability").map(|capability| capability.to_string().parse().unwrap());
            let ttl = input.get("ttl").map(|ttl| Ttl::from_millis(ttl.as_u64().unwrap()).unwrap());
            let timestamp = UnixMillis(input["timestamp"].as_i64().unwrap());
            let nonce = Nonce(input["nonce"].as_str().unwrap().to_owned());
            let signed = TokenRequest::sign(&key, client_id, capability.as_ref(), ttl, timestamp, nonce);
            assert_eq!(serde_json::to_value(signed).unwrap(), case["token_request"], "case {position}");
        }
    }

    #[test]
    fn absent_fields_are_left_out() {
        let key = ApiKey::parse("app.key:secret").unwrap();
        let client_id = ClientId::parse("alice").unwrap();
        let signed = TokenRequest::sign(&key, client_id, None, None, UnixMillis(1), Nonce::from(2));
        assert_eq!(
            serde_json::to_value(signed).unwrap(),
            json!({
                "keyName": "app.key",
                "clientId": "alice",
                "timestamp": 1,
                "nonce": "00000000000000000000000000000002",
                "mac": "QE1nXdcnAOtJmq882kR1YKHNMKHjuRDozfol4LOVz2c=",
            })
        );
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(Nonce::random().unwrap(), Nonce::random().unwrap());
    }
}
