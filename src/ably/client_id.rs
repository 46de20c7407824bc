//! Client IDs.

use serde::{Deserialize, Serialize};

use super::checked_text::checked_text;

/// An Ably client ID that a token may carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[serde(try_from = "String")]
pub struct ClientId(String);

checked_text!(ClientId, InvalidClientId);

/// Why a client ID is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClientId {
    /// Ably rejects an empty client ID.
    #[error("the client ID is empty")]
    Empty,
    /// `*` alone would let its holder take any client ID (RSA7b4).
    #[error("the client ID is the wildcard *")]
    Wildcard,
    /// Longer than [`ClientId::MAX_BYTES`].
    #[error("the client ID is longer than 256 bytes")]
    TooLong,
    /// A line break or another control character.
    #[error("the client ID has a control character")]
    ControlCharacter,
}

impl ClientId {
    /// The maximum length, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 256;

    /// Checks a client ID.
    ///
    /// Control characters other than the tab are invalid: a line break separates the fields of the signed text (RSA9g), so
    /// a client ID with line breaks could be signed as one thing and presented as another.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidClientId> {
        let text = text.into();
        match text.as_str() {
            "" => Err(InvalidClientId::Empty),
            "*" => Err(InvalidClientId::Wildcard),
            long if long.len() > Self::MAX_BYTES => Err(InvalidClientId::TooLong),
            odd if odd.chars().any(|c| c.is_control() && c != '\t') => Err(InvalidClientId::ControlCharacter),
            _ => Ok(Self(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_id_of_one_party_is_valid() {
        for (text, result) in [
            ("alice", Ok(())),
            ("tab\tname", Ok(())),
            ("emoji\u{1F600}", Ok(())),
            ("**", Ok(())),
            ("", Err(InvalidClientId::Empty)),
            ("*", Err(InvalidClientId::Wildcard)),
            ("alice\n1\nnonce", Err(InvalidClientId::ControlCharacter)),
            ("\u{85}", Err(InvalidClientId::ControlCharacter)),
        ] {
            assert_eq!(ClientId::parse(text).map(|_| ()), result, "{text:?}");
        }
        assert!(ClientId::parse("x".repeat(256)).is_ok());
        assert_eq!(ClientId::parse("x".repeat(257)), Err(InvalidClientId::TooLong));
    }
}
