//! An RSA public key, parsed once for all the signatures that it verifies.

use aws_lc_rs::{
    digest::{Digest, SHA256},
    error::KeyRejected,
    rsa::PublicKeyComponents,
    signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256},
};
use jsonwebtoken::{DecodingKey, DecodingKeyKind, crypto::aws_lc::DEFAULT_PROVIDER};

/// An RSA public key of a Clerk instance. Keys are equal if modulus and exponent are.
#[derive(derive_more::Debug)]
#[debug("SigningKey {{ .. }}")]
pub struct SigningKey {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    parsed: ParsedPublicKey,
}

impl SigningKey {
    /// The key that jsonwebtoken read. None unless it is an RSA public key.
    pub(super) fn new(key: &DecodingKey) -> Option<Self> {
        let (modulus, exponent) = match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
            DecodingKeyKind::SecretOrDer(der) => {
                (DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(der).ok()?
            }
        };
        Self::from_components(modulus, exponent).ok()
    }

    pub(super) fn from_components(modulus: Vec<u8>, exponent: Vec<u8>) -> Result<Self, KeyRejected> {
        let components = PublicKeyComponents { n: &modulus, e: &exponent };
        let parsed = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)?;
        Ok(Self { modulus, exponent, parsed })
    }

    /// Whether the key made this RS256 signature of the text with this SHA-256 digest.
    pub(super) fn signed(&self, digest: &[u8; 32], signature: &[u8]) -> bool {
        let digest = Digest::import_less_safe(digest, &SHA256);
        digest.is_ok_and(|digest| self.parsed.verify_digest_sig(&digest, signature).is_ok())
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.modulus, &self.exponent) == (&other.modulus, &other.exponent)
    }
}
