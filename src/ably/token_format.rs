//! The formats that an Ably SDK accepts from an `authUrl` (RSA4, RSA8c).

use std::str::FromStr;

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
    const ALL: [Self; 3] = [Self::TokenRequest, Self::Jwt, Self::TokenDetails];

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

/// An unknown format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown format; use token_request, jwt or token_details")]
pub struct UnknownFormat;

impl FromStr for TokenFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.as_str() == name).ok_or(UnknownFormat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_parsed_from_its_name() {
        for format in TokenFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for name in ["", "JWT", "token-request", "tokenrequest"] {
            assert_eq!(name.parse::<TokenFormat>(), Err(UnknownFormat), "{name}");
        }
    }
}
