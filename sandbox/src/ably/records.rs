//! Records for tests and for the sandbox page: calls, tokens and connections.

use serde::Serialize;

/// How often each route was called, including refused calls and calls during an outage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// `GET /time`
    pub time: u64,
    /// `POST /keys/{keyName}/requestToken`
    pub request_token: u64,
    /// `POST /keys/{keyName}/revokeTokens`
    pub revoke_tokens: u64,
    /// WebSockets opened, including refused ones.
    pub websocket: u64,
}

/// A call of `revokeTokens` as sent. A field of the wrong type counts as missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationCall {
    /// The time of the call, in milliseconds since the epoch.
    pub at: i64,
    /// The key whose tokens it revokes.
    pub key_name: String,
    /// Such as `clientId:alice`.
    pub targets: Vec<String>,
    /// In milliseconds since the epoch.
    pub issued_before: Option<i64>,
    /// Whether clients get time to fetch a new token.
    pub allow_reauth_margin: bool,
    /// The result of the call.
    pub outcome: RevocationOutcome,
}

/// The result of a call of `revokeTokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationOutcome {
    /// Answered with this status.
    Answered(u16),
    /// Processed with this status, but the answer was lost.
    AnswerLost(u16),
    /// Not processed, because of an outage.
    Outage,
}

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// A digest that identifies the token without revealing it.
    pub id: String,
    /// `*` allows any client ID; `None` is an anonymous client.
    pub client_id: Option<String>,
    /// Its capability, as canonical JSON.
    pub capability: String,
    /// The time of issue, in milliseconds since the epoch.
    pub issued: i64,
    /// The expiry, in milliseconds since the epoch.
    pub expires: i64,
}

/// A live connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo {
    /// The connection's id.
    pub connection_id: String,
    /// `*` allows any client ID; `None` is an anonymous client.
    pub client_id: Option<String>,
    /// Its capability, as canonical JSON.
    pub capability: String,
    /// Its attached channels.
    pub channels: Vec<String>,
    /// The digest of its token or JWT, as in [`IssuedToken::id`]; `None` with the API key.
    pub token_id: Option<String>,
    /// When its token expires, in milliseconds since the epoch; `None` with the API key.
    pub token_expires: Option<i64>,
    /// The `x-ably-revocation-key` of its JWT.
    pub revocation_key: Option<String>,
    /// When a revocation with a margin takes effect on its token, in milliseconds since the epoch.
    pub revoked_from: Option<i64>,
}

/// A connection that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// The connection's id. A client that resumes in time keeps it.
    pub connection_id: String,
    /// The client ID of the connection.
    pub client_id: Option<String>,
    /// When it ended, in milliseconds since the epoch.
    pub at: i64,
    /// The error with which Ably ended it, such as 40141 for a revoked token; `None` if the client left.
    pub code: Option<u32>,
    /// The `x-ably-revocation-key` of its JWT.
    pub revocation_key: Option<String>,
    /// When a revocation took effect on its token, or would have, in milliseconds since the epoch. With no `code`, the
    /// client was asked for a new token and left without one.
    pub revoked_from: Option<i64>,
}
