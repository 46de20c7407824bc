//! A client ID that a token may carry.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who the holder of a token is on Ably.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

/// Why a text cannot be a client ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClientId {
    /// Ably does not take an empty client ID.
    #[error("the client ID is empty")]
    Empty,
    /// `*` alone would let its holder be anyone (RSA7b4).
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
    /// The longest client ID that is issued, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 256;

    /// Checks a client ID.
    ///
    /// Control characters other than the tab are refused because a line break separates the fields of the signed text
    /// (RSA9g): a client ID with line breaks could be signed as one thing and presented as another.
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

    /// The client ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClientId {
    type Error = InvalidClientId;

    fn try_from(text: String) -> Result<Self, InvalidClientId> {
        Self::parse(text)
    }
}

impl From<ClientId> for String {
    fn from(client_id: ClientId) -> Self {
        client_id.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_id_that_names_one_party_is_one() {
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
