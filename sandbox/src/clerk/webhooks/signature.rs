//! Svix signatures: HMAC-SHA256 over `id.timestamp.body`, with the base64 key after `whsec_`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
const KEY_BYTES: usize = 24;

/// A signing secret as the dashboard shows it: `whsec_…`. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

impl SigningSecret {
    /// Generates a signing secret.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("{PREFIX}{}", STANDARD.encode(rand::random::<[u8; KEY_BYTES]>())))
    }

    /// Parses `whsec_` and a base64 key; `None` if the text is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secret = Self(text.to_owned());
        secret.key().is_some_and(|key| !key.is_empty()).then_some(secret)
    }

    /// `whsec_…`
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.0.strip_prefix(PREFIX)?).ok()
    }

    /// One entry of `svix-signature`. `timestamp` is in seconds since the epoch.
    #[expect(clippy::expect_used, reason = "the key was checked when the secret was parsed, and HMAC takes any length")]
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let key = self.key().expect("a key");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("an HMAC");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::SigningSecret;

    /// The example in Svix's documentation of manual verification.
    #[test]
    fn it_signs_as_svix_does() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_a_prefix_and_base64_and_is_never_printed() {
        for broken in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_M", "whsec_!!!!"] {
            assert!(SigningSecret::parse(broken).is_none(), "{broken:?}");
        }
        let made = SigningSecret::generate();
        assert_eq!(SigningSecret::parse(made.text()).unwrap(), made);
        assert_eq!(format!("{made:?}"), "SigningSecret(..)");
    }
}
