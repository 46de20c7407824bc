//! An Ably API key: `appId.keyId:secret`. The part before the colon is the public key name; the secret signs.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// An API key.
#[derive(Clone)]
pub(crate) struct ApiKey {
    text: String,
    name_length: usize,
}

impl ApiKey {
    /// Reads `appId.keyId:secret`; `None` when a part is missing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, secret) = text.split_once(':')?;
        let (app, key) = name.split_once('.')?;
        if app.is_empty() || key.is_empty() || secret.is_empty() {
            return None;
        }
        Some(Self { text: text.to_owned(), name_length: name.len() })
    }

    /// `appId.keyId:secret`
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// `appId.keyId`
    pub(crate) fn name(&self) -> &str {
        &self.text[..self.name_length]
    }

    /// `appId`, the prefix of Ably's own tokens.
    pub(crate) fn app_id(&self) -> &str {
        self.name().split('.').next().unwrap_or_default()
    }

    fn secret(&self) -> &str {
        &self.text[self.name_length + 1..]
    }

    /// Whether `presented` equals this key, in constant time.
    pub(crate) fn equals(&self, presented: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.text.as_bytes(), presented.as_bytes()).is_ok()
    }

    /// Whether `mac` is the HMAC-SHA256 of `text` with the secret, in constant time.
    pub(crate) fn verifies(&self, text: &[u8], mac: &[u8]) -> bool {
        Hmac::<Sha256>::new_from_slice(self.secret().as_bytes()).is_ok_and(|mut hmac| {
            hmac.update(text);
            hmac.verify_slice(mac).is_ok()
        })
    }

    #[cfg(test)]
    pub(crate) fn sign(&self, text: &[u8]) -> Vec<u8> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(self.secret().as_bytes()).unwrap();
        hmac.update(text);
        hmac.finalize().into_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::ApiKey;

    #[test]
    fn a_key_has_an_app_a_key_and_a_secret() {
        let key = ApiKey::parse("app.key:se:cret").unwrap();
        assert_eq!((key.name(), key.app_id(), key.secret()), ("app.key", "app", "se:cret"));
        assert!(key.equals("app.key:se:cret"));
        assert!(!key.equals("app.key:secret"));
        for broken in ["", "app.key", "app:secret", ".key:s", "app.:s", "app.key:"] {
            assert!(ApiKey::parse(broken).is_none(), "{broken:?}");
        }
    }
}
