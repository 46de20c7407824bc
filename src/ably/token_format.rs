//! The formats that an Ably SDK accepts from an `authUrl` (RSA4, RSA8c).

use serde::{Deserialize, Serialize};

/// The format of tokens. A service has one for all requests, as the formats differ in how they can be revoked.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display,
)]
#[display("{}", self.as_str())]
#[serde(rename_all = "snake_case")]
pub enum TokenFormat {
    /// A signed token request, which the client exchanges for a token at Ably.
    #[default]
    TokenRequest,
    /// An Ably JWT: the token itself.
    Jwt,
    /// A token that the service gets from Ably.
    TokenDetails,
}

impl TokenFormat {
    /// The name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenRequest => "token_request",
            Self::Jwt => "jwt",
            Self::TokenDetails => "token_details",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_format_is_read_from_its_name() {
        for format in [TokenFormat::TokenRequest, TokenFormat::Jwt, TokenFormat::TokenDetails] {
            assert_eq!(from_value::<TokenFormat>(json!(format.to_string())).ok(), Some(format));
        }
        for name in ["", "JWT", "token-request", "tokenrequest"] {
            assert!(from_value::<TokenFormat>(json!(name)).is_err(), "{name}");
        }
    }
}
