//! Ably API keys: `appId.keyId:secret`. The key name, before the colon, is public; the secret signs.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::checked_text::checked_text;

/// The public part of an API key: `appId.keyId`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[serde(try_from = "String")]
pub struct KeyName(String);

checked_text!(KeyName, InvalidKeyName);

/// A key name is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key name has the form appId.keyId")]
pub struct InvalidKeyName;

impl KeyName {
    /// Parses `appId.keyId`.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidKeyName> {
        let text = text.into();
        let is_id =
            |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let is_name = text.split_once('.').is_some_and(|(app_id, key_id)| is_id(app_id) && is_id(key_id));
        is_name.then_some(Self(text)).ok_or(InvalidKeyName)
    }

    /// The key's Ably app.
    #[must_use]
    pub fn app_id(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(app_id, _)| app_id)
    }
}

/// An API key. Its secret is never printed, and is wiped on drop.
#[derive(Clone, derive_more::Debug)]
#[debug("ApiKey {{ name: {name:?}, .. }}")]
pub struct ApiKey {
    name: KeyName,
    keyed: Hmac<Sha256>,
    /// For calls that need basic authentication.
    secret: SecretString,
}

/// Why an API key is invalid. Does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiKey {
    /// The colon is missing.
    #[error("an Ably API key has the form appId.keyId:secret, but the colon is missing")]
    NoColon,
    /// The part before the colon is not `appId.keyId`.
    #[error("the part of an Ably API key before the colon has the form appId.keyId")]
    KeyName,
    /// The part after the colon is empty or has spaces or control characters.
    #[error("the part of an Ably API key after the colon is its secret: not empty, without spaces")]
    Secret,
}

impl ApiKey {
    /// Parses `appId.keyId:secret`.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let (name, secret) = text.split_once(':').ok_or(InvalidApiKey::NoColon)?;
        let name = KeyName::parse(name).map_err(|InvalidKeyName| InvalidApiKey::KeyName)?;
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidApiKey::Secret);
        }
        let keyed = Hmac::new_from_slice(secret.as_bytes()).map_err(|_| InvalidApiKey::Secret)?;
        Ok(Self { name, keyed, secret: SecretString::from(secret) })
    }

    /// The public part, `appId.keyId`.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// User and password for Ably's REST API (RSA11).
    pub(super) fn basic_auth(&self) -> (&KeyName, &str) {
        (&self.name, self.secret.expose_secret())
    }

    /// HMAC-SHA256 over `text` with the secret, in padded standard base64 (RSA9g).
    #[must_use]
    pub fn mac(&self, text: &str) -> String {
        BASE64.encode(self.hmac(text))
    }

    /// The same HMAC-SHA256 as bytes, for HS256 (RFC 7518, section 3.2).
    #[must_use]
    pub fn hmac(&self, text: &str) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_split_at_the_first_colon() {
        let key = ApiKey::parse("app.key:se:cret").unwrap();
        assert_eq!(key.name().as_str(), "app.key");
    }

    #[test]
    fn an_invalid_key_is_rejected_with_its_reason() {
        for (text, error) in [
            ("", InvalidApiKey::NoColon),
            ("app.key", InvalidApiKey::NoColon),
            ("appkey:secret", InvalidApiKey::KeyName),
            (".key:secret", InvalidApiKey::KeyName),
            ("app.:secret", InvalidApiKey::KeyName),
            ("app.k.y:secret", InvalidApiKey::KeyName),
            ("a pp.key:secret", InvalidApiKey::KeyName),
            ("app.key:", InvalidApiKey::Secret),
            ("app.key:sec ret", InvalidApiKey::Secret),
        ] {
            assert_eq!(ApiKey::parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn debug_output_does_not_hold_the_secret() {
        let key = ApiKey::parse("app.key:hunter2hunter2").unwrap();
        assert_eq!(format!("{key:?}"), r#"ApiKey { name: KeyName("app.key"), .. }"#);
    }
}
