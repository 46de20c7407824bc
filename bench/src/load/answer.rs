//! What an answer must be.

use serde_json::Value;

use super::connection::Head;

/// The answer that a target must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A signed token request.
    TokenRequest,
    /// An Ably JWT.
    Jwt,
    /// A refusal with an error.
    Unauthorized,
}

impl Expected {
    /// Says what is wrong with the status.
    pub(super) fn check_status(self, head: &Head) -> Result<(), String> {
        let status = if self == Self::Unauthorized { 401 } else { 200 };
        if head.status == status { Ok(()) } else { Err(format!("status {}", head.status)) }
    }

    /// Says what is wrong with the answer.
    pub(super) fn check(self, head: &Head, body: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(body);
        self.check_status(head).map_err(|problem| format!("{problem}: {text}"))?;
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let is_right = match self {
            Self::TokenRequest => {
                ["keyName", "clientId", "timestamp", "nonce", "mac"].iter().all(|name| !json[name].is_null())
            }
            Self::Jwt => text.split('.').count() == 3,
            Self::Unauthorized => json["error"]["code"].is_number(),
        };
        if is_right { Ok(()) } else { Err(format!("an unexpected body: {text}")) }
    }
}
