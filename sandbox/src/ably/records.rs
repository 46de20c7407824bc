//! What the stand-in keeps for tests and for the sandbox page: calls, tokens and connections.

use serde::Serialize;

/// How often each route was called, refused calls and those during an outage included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// `GET /time`
    pub time: u64,
    /// `POST /keys/{keyName}/requestToken`
    pub request_token: u64,
    /// `POST /keys/{keyName}/revokeTokens`
    pub revoke_tokens: u64,
    /// Each WebSocket opened, refused ones included.
    pub websocket: u64,
}

/// A call of `revokeTokens`, as it was sent. What a call says that is not of its type counts as absent here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationCall {
    /// When it came, in milliseconds since the epoch.
    pub at: i64,
    /// Such as `clientId:alice`.
    pub targets: Vec<String>,
    /// In milliseconds since the epoch.
    pub issued_before: Option<i64>,
    /// Whether clients get time to fetch a new token.
    pub allow_reauth_margin: bool,
    /// What came of it.
    pub outcome: RevocationOutcome,
}

/// What came of a call of `revokeTokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationOutcome {
    /// It was carried out or refused, and answered with this status.
    Answered(u16),
    /// It was carried out or refused with this status, and the answer was lost.
    AnswerLost(u16),
    /// It was not looked at, because of an outage.
    Outage,
}

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// A digest of the token, which names it without giving it away.
    pub id: String,
    /// For whom; `*` is anyone, `None` is nobody in particular.
    pub client_id: Option<String>,
    /// What it allows, as canonical JSON.
    pub capability: String,
    /// When, in milliseconds since the epoch.
    pub issued: i64,
    /// Until when, in milliseconds since the epoch.
    pub expires: i64,
}

/// A live connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo {
    /// The connection's id.
    pub connection_id: String,
    /// Who is on it; `*` is anyone, `None` is nobody in particular.
    pub client_id: Option<String>,
    /// What it may do, as canonical JSON.
    pub capability: String,
    /// The channels that it is attached to.
    pub channels: Vec<String>,
    /// The [`IssuedToken::id`] of its token, or the same digest of its JWT; `None` with the key itself.
    pub token_id: Option<String>,
    /// When its token expires, in milliseconds since the epoch; `None` with the key itself.
    pub token_expires: Option<i64>,
    /// The `x-ably-revocation-key` of its JWT.
    pub revocation_key: Option<String>,
    /// When its token, which is revoked with a margin, will be so, in milliseconds since the epoch.
    pub revoked_from: Option<i64>,
}

/// A connection that was live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// The connection's id. A client that comes back in time has the same one again.
    pub connection_id: String,
    /// Who was on it.
    pub client_id: Option<String>,
    /// When it ended, in milliseconds since the epoch.
    pub at: i64,
    /// Why Ably ended it, such as 40141 for a revoked token; `None` when it was the client who left.
    pub code: Option<u32>,
    /// The `x-ably-revocation-key` of its JWT.
    pub revocation_key: Option<String>,
    /// When its token, if it is revoked, came to be so or would have, in milliseconds since the epoch. A client that left
    /// before was asked for a new token and had none.
    pub revoked_from: Option<i64>,
}
