//! The public keys of one Clerk instance: from a PEM, or from its JWKS.

use std::sync::Arc;

use jsonwebtoken::DecodingKey;

use super::{
    invalid::{Invalid, Unverified},
    jwks::{Jwks, KeysState},
    signing_key::SigningKey,
};

/// The keys that verify an instance's session tokens.
#[derive(Debug)]
pub enum SigningKeys {
    /// One configured key, for every `kid`.
    Pem(Arc<SigningKey>),
    /// The keys that Clerk publishes, by `kid`.
    Jwks(Jwks),
}

/// The text is not the PEM of an RSA public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RSA public key in PEM form (-----BEGIN PUBLIC KEY-----)")]
pub struct InvalidPem;

impl SigningKeys {
    /// Parses a PEM. A literal `\n` counts as a line break, as in environment files.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidPem> {
        let pem = pem.replace("\\n", "\n");
        if !pem.contains("PUBLIC KEY-----") {
            return Err(InvalidPem);
        }
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| InvalidPem)?;
        let key = SigningKey::new(&key).ok_or(InvalidPem)?;
        Ok(Self::Pem(Arc::new(key)))
    }

    /// The key with this `kid`.
    pub(super) async fn find(&self, kid: Option<&str>) -> Result<Arc<SigningKey>, Unverified> {
        match self {
            Self::Pem(key) => Ok(Arc::clone(key)),
            Self::Jwks(jwks) => jwks.find(kid.ok_or(Invalid::UnknownKey)?).await,
        }
    }

    /// The published keys, unless a PEM is configured.
    #[must_use]
    pub fn jwks(&self) -> Option<&Jwks> {
        match self {
            Self::Pem(_) => None,
            Self::Jwks(jwks) => Some(jwks),
        }
    }

    /// The current state of the keys.
    #[must_use]
    pub fn state(&self) -> KeysState {
        match self {
            Self::Pem(_) => KeysState::Configured,
            Self::Jwks(jwks) => jwks.state(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_half_of_an_rsa_key_is_a_pem_key() {
        assert!(SigningKeys::from_pem("").is_err());
        assert!(SigningKeys::from_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err());
        assert!(SigningKeys::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").is_err());
    }
}
