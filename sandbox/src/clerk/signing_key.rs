//! The RSA signing key of an instance, and its public half as JWK and PEM.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

#[derive(Debug)]
pub(super) struct SigningKey {
    pair: KeyPair,
    kid: String,
}

impl SigningKey {
    /// Generates an RSA-2048 key with this id.
    #[expect(clippy::expect_used, reason = "AWS-LC fails here only without memory or entropy")]
    pub(super) fn generate(kid: String) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        Self { pair, kid }
    }

    /// Reads an RSA key (PKCS#8 DER); `None` if it is not one.
    pub(super) fn from_pkcs8(kid: String, der: &[u8]) -> Option<Self> {
        Some(Self { pair: KeyPair::from_pkcs8(der).ok()?, kid })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// The compact JWS, always signed with RS256.
    #[expect(clippy::expect_used, reason = "the buffer has the key's own length")]
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("an RSA signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The public half as an entry of a JWKS.
    pub(super) fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "use": "sig",
            "kty": "RSA",
            "kid": self.kid,
            "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// The public half as `-----BEGIN PUBLIC KEY-----` (SPKI).
    #[expect(clippy::expect_used, reason = "a key that was generated can be encoded")]
    pub(super) fn pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.pair.public_key().as_der().expect("an SPKI encoding");
        let base64 = STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        pem
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::Pkcs8V1Der;

    use super::*;

    #[test]
    fn a_key_that_is_read_is_the_key_that_was_written() {
        let generated = SigningKey::generate("ins_1".to_owned());
        let pkcs8: Pkcs8V1Der<'_> = generated.pair.as_der().unwrap();
        let read = SigningKey::from_pkcs8("ins_1".to_owned(), pkcs8.as_ref()).unwrap();
        assert_eq!(read.jwk(), generated.jwk());
        assert!(SigningKey::from_pkcs8("ins_1".to_owned(), b"not a key").is_none());
    }
}
