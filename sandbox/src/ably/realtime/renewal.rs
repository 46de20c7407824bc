//! Renewal, expiry and revocation of the tokens of live connections.

use serde_json::json;

use crate::ably::{
    access::{Credential, EXPIRED},
    app::AblyApp,
    connection::{Connection, Disconnection, OTHER_CLIENT, RenewalState, allowed_modes, connection_client_id},
    error::ErrorInfo,
    protocol::{ClientMessage, action, channel_error, flag},
    revocation::{REVOKED, RevocationStatus},
};

impl AblyApp {
    /// Handles AUTH: a new token for the same client (`RTC8a`). Channels that it does not allow are detached.
    pub(super) fn renew(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
        let token = message.auth.as_ref().and_then(|auth| auth.access_token.clone()).unwrap_or_default();
        let Some(connection) = self.connections.get(&socket) else {
            return;
        };
        let renewed = self.authenticate(&Credential::Token(token), now_ms).and_then(|access| {
            let client_id = connection_client_id(&access, connection.requested_client_id.as_deref())?;
            if client_id == connection.client_id { Ok(access) } else { Err(OTHER_CLIENT) }
        });
        let access = match renewed {
            Ok(access) => access,
            Err(error) => {
                let refusal = json!({ "action": action::ERROR, "error": error.to_json() });
                return self.send_last(socket, refusal, Disconnection::Resumable, now_ms);
            }
        };
        let state_ttl_ms = self.state_ttl_ms;
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        connection.access = access;
        connection.authenticated_at_ms = now_ms;
        connection.renewal = RenewalState::NotRequested;
        let connected = connection.connected(state_ttl_ms);
        self.send(socket, connected, now_ms);
        self.apply_capability(socket, now_ms);
        self.connections_changed.send_replace(());
    }

    /// Applies a new token to the attachments (`RTC8a1`).
    fn apply_capability(&mut self, socket: u64, now_ms: i64) {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        let id = connection.id.clone();
        let mut notices = Vec::new();
        let mut lost = Vec::new();
        for (name, attachment) in &mut connection.attachments {
            let modes = attachment.requested & allowed_modes(&connection.access, name);
            if modes == attachment.modes {
                continue;
            }
            attachment.modes = modes;
            if modes == 0 {
                lost.push(name.clone());
                let error = ErrorInfo::not_permitted("the capability of the new token does not allow this channel");
                notices.push(channel_error(name, error));
            } else {
                notices.push(json!({
                    "action": action::ATTACHED, "channel": name, "flags": modes | flag::RESUMED
                }));
            }
        }
        for name in &lost {
            connection.attachments.remove(name);
        }
        for notice in notices {
            self.send(socket, notice, now_ms);
        }
        for name in lost {
            self.leave(&name, &id, now_ms);
        }
    }

    /// When the token of a connection next needs `tick`, in milliseconds since the epoch.
    pub(crate) fn next_tick_ms(&self, socket: u64, now_ms: i64) -> Option<i64> {
        let connection = self.connections.get(&socket)?;
        let revoked_at_ms = match self.revocations.status_of(&connection.access, now_ms) {
            RevocationStatus::NotRevoked => None,
            RevocationStatus::RevokedFrom(at_ms) => Some(at_ms),
            RevocationStatus::Revoked => Some(now_ms),
        };
        let renewal_ms = match connection.renewal {
            RenewalState::NotRequested => connection.renew_at_ms(),
            RenewalState::Requested => None,
        };
        let expires_ms = connection.access.lifetime.map(|lifetime| lifetime.expires_ms);
        [revoked_at_ms, renewal_ms, expires_ms].into_iter().flatten().min()
    }

    /// Asks for a new token, or ends a connection whose token has expired or is revoked, if due.
    pub(crate) fn tick(&mut self, socket: u64, now_ms: i64) {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        let revoked = self.revocations.status_of(&connection.access, now_ms) == RevocationStatus::Revoked;
        if revoked || connection.access.check_not_expired(now_ms).is_err() {
            let error = if revoked { REVOKED } else { EXPIRED };
            let disconnected = json!({ "action": action::DISCONNECTED, "error": error.to_json() });
            self.send_last(socket, disconnected, Disconnection::Resumable, now_ms);
        } else if connection.renewal == RenewalState::NotRequested
            && connection.renew_at_ms().is_some_and(|at_ms| at_ms <= now_ms)
        {
            connection.renewal = RenewalState::Requested;
            self.send(socket, json!({ "action": action::AUTH }), now_ms);
        }
    }

    /// The revocation status of each connection's token.
    pub(in crate::ably) fn revocation_statuses(&self, now_ms: i64) -> Vec<(u64, RevocationStatus)> {
        let status = |connection: &Connection| self.revocations.status_of(&connection.access, now_ms);
        self.connections.iter().map(|(socket, connection)| (*socket, status(connection))).collect()
    }

    /// Ends connections whose token is revoked. Asks those with a margin for a new token, unless their status was the
    /// same `before`.
    pub(in crate::ably) fn enforce_revocations(&mut self, before: &[(u64, RevocationStatus)], now_ms: i64) {
        self.connections_changed.send_replace(());
        for &(socket, status_before) in before {
            let Some(connection) = self.connections.get_mut(&socket) else {
                continue;
            };
            match self.revocations.status_of(&connection.access, now_ms) {
                RevocationStatus::NotRevoked => {}
                status @ RevocationStatus::RevokedFrom(_) if status == status_before => {}
                RevocationStatus::RevokedFrom(_) => {
                    connection.renewal = RenewalState::Requested;
                    self.send(socket, json!({ "action": action::AUTH }), now_ms);
                }
                RevocationStatus::Revoked => self.tick(socket, now_ms),
            }
        }
    }
}
