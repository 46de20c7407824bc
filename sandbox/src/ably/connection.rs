//! One realtime connection: its state, and the frames and client ID derived from it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::{
    access::{Access, Credential, WILDCARD_CLIENT_ID},
    error::ErrorInfo,
    protocol::{LARGEST_FRAME, LARGEST_PUBLISH, MAX_IDLE_MS, action, flag},
};

/// How long before its token expires a client is asked for a new one, in milliseconds (`RTN22`); at most a third of
/// the token's lifetime.
const RENEWAL_LEAD_MS: i64 = 30_000;

/// How long a dropped connection can be resumed at Ably, in milliseconds (`CD2f`).
pub(crate) const STATE_TTL_MS: i64 = 120_000;

/// A live connection.
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) client_id: Option<String>,
    pub(crate) requested_client_id: Option<String>,
    pub(crate) access: Access,
    pub(crate) authenticated_at_ms: i64,
    pub(crate) renewal: RenewalState,
    pub(crate) echo: Echo,
    pub(crate) attachments: BTreeMap<String, Attachment>,
    pub(crate) last_serial: i64,
    pub(crate) queue: Sender<Outgoing>,
}

/// A dropped connection that its client may resume.
pub(crate) struct DroppedConnection {
    pub(crate) id: String,
    pub(crate) client_id: Option<String>,
    pub(crate) last_serial: i64,
    pub(crate) since_ms: i64,
    pub(crate) members: MemberState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberState {
    Present,
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RenewalState {
    NotRequested,
    Requested,
}

/// Whether a client receives its own messages (`TO3h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    On,
    Off,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Attachment {
    pub(crate) requested: u32,
    pub(crate) modes: u32,
}

/// A frame to send.
#[derive(Debug, Clone)]
pub(crate) enum Outgoing {
    Message(Arc<Value>),
    /// The last frame before the socket closes.
    Last(Arc<Value>),
}

/// The parameters with which a client connects (`RTN2`).
#[derive(Debug, Clone)]
pub(crate) struct ConnectRequest {
    pub(crate) credential: Credential,
    pub(crate) client_id: Option<String>,
    pub(crate) echo: Echo,
    /// The connection key to resume, from `resume` or `recover`.
    pub(crate) resume: Option<String>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disconnection {
    /// Closed on purpose; its members leave at once.
    Final,
    /// Dropped; the client may resume it.
    Resumable,
}

impl Connection {
    /// The CONNECTED message, sent at the start and after each renewal (`RTN21`). `state_ttl_ms` is how long the client
    /// may resume.
    pub(crate) fn connected(&self, state_ttl_ms: i64) -> Value {
        let mut details = json!({
            "connectionKey": self.key, "maxMessageSize": LARGEST_PUBLISH, "maxFrameSize": LARGEST_FRAME,
            "connectionStateTtl": state_ttl_ms, "maxIdleInterval": MAX_IDLE_MS, "serverId": "sandbox"
        });
        if let Some(client_id) = &self.client_id {
            details["clientId"] = json!(client_id);
        }
        json!({ "action": action::CONNECTED, "connectionId": self.id, "connectionDetails": details })
    }

    pub(crate) fn renew_at_ms(&self) -> Option<i64> {
        let expires_ms = self.access.lifetime?.expires_ms;
        let left_ms = expires_ms.saturating_sub(self.authenticated_at_ms);
        Some(expires_ms.saturating_sub(RENEWAL_LEAD_MS.min(left_ms / 3)))
    }
}

pub(crate) const OTHER_CLIENT: ErrorInfo = ErrorInfo::new(401, 40102, "the token has another client ID");

/// The client ID of a connection: the token's, or with a wildcard the one that the client requests (`RSA7b`,
/// `RSA15`).
pub(crate) fn connection_client_id(access: &Access, named: Option<&str>) -> Result<Option<String>, ErrorInfo> {
    match (access.client_id.as_deref(), named) {
        (Some(WILDCARD_CLIENT_ID), Some(named)) => Ok(Some(named.to_owned())),
        (own, None) => Ok(own.map(str::to_owned)),
        (Some(own), Some(named)) if own == named => Ok(Some(own.to_owned())),
        _ => Err(OTHER_CLIENT),
    }
}

pub(crate) fn all_modes() -> u32 {
    flag::MODES.iter().fold(0, |all, (mode, _)| all | mode)
}

pub(crate) fn allowed_modes(access: &Access, channel: &str) -> u32 {
    flag::MODES
        .iter()
        .filter(|(_, operation)| access.capability.allows(channel, operation))
        .fold(0, |allowed, (mode, _)| allowed | mode)
}
