//! What time does to a connection's token: it is renewed, expires or is revoked.

use serde_json::json;

use crate::ably::{
    connection::{Connection, OTHER_CLIENT, Parting, Renewal, allowed_modes, connection_client_id},
    error::ErrorInfo,
    protocol::{ClientMessage, action, channel_error, flag},
    realm::Realm,
    revocation::{REVOKED, Standing},
    token::{Credential, EXPIRED},
};

impl Realm {
    /// AUTH from a client: a new token for the same client (`RTC8a`). What it no longer allows is detached.
    pub(super) fn renew(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
        let token = message.auth.as_ref().and_then(|auth| auth.access_token.clone()).unwrap_or_default();
        let Some(connection) = self.connections.get(&socket) else {
            return;
        };
        let renewed = self.authenticate(&Credential::Token(token), now_ms).and_then(|grant| {
            let client_id = connection_client_id(&grant, connection.named_client_id.as_deref())?;
            if client_id == connection.client_id { Ok(grant) } else { Err(OTHER_CLIENT) }
        });
        let grant = match renewed {
            Ok(grant) => grant,
            Err(error) => {
                let refusal = json!({ "action": action::ERROR, "error": error.to_json() });
                return self.send_last(socket, refusal, Parting::Broken, now_ms);
            }
        };
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        connection.grant = grant;
        connection.granted_at_ms = now_ms;
        connection.renewal = Renewal::NotYetAsked;
        let connected = connection.connected();
        self.send(socket, connected, now_ms);
        self.apply_capability(socket, now_ms);
        self.connections_changed.send_replace(());
    }

    /// Brings the attachments into line with a new token (`RTC8a1`).
    pub(super) fn apply_capability(&mut self, socket: u64, now_ms: i64) {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        let id = connection.id.clone();
        let mut notices = Vec::new();
        let mut lost = Vec::new();
        for (name, attachment) in &mut connection.attachments {
            let modes = attachment.requested & allowed_modes(&connection.grant, name);
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

    /// When the token of a connection next needs attention, in milliseconds since the epoch.
    pub(crate) fn next_tick_ms(&self, socket: u64, now_ms: i64) -> Option<i64> {
        let connection = self.connections.get(&socket)?;
        let revoked_at_ms = match self.revocations.standing(&connection.grant, now_ms) {
            Standing::Good => None,
            Standing::GoodUntil(at_ms) => Some(at_ms),
            Standing::Revoked => Some(now_ms),
        };
        let renewal_ms = match connection.renewal {
            Renewal::NotYetAsked => connection.renew_at_ms(),
            Renewal::Asked => None,
        };
        let expires_ms = connection.grant.life.map(|life| life.expires_ms);
        [revoked_at_ms, renewal_ms, expires_ms].into_iter().flatten().min()
    }

    /// Does what is due: asks for a new token, or ends the connection of one that expired or was revoked.
    pub(crate) fn tick(&mut self, socket: u64, now_ms: i64) {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        let revoked = self.revocations.standing(&connection.grant, now_ms) == Standing::Revoked;
        if revoked || connection.grant.check_life(now_ms).is_err() {
            let error = if revoked { REVOKED } else { EXPIRED };
            let disconnected = json!({ "action": action::DISCONNECTED, "error": error.to_json() });
            self.send_last(socket, disconnected, Parting::Broken, now_ms);
        } else if connection.renewal == Renewal::NotYetAsked
            && connection.renew_at_ms().is_some_and(|at_ms| at_ms <= now_ms)
        {
            connection.renewal = Renewal::Asked;
            self.send(socket, json!({ "action": action::AUTH }), now_ms);
        }
    }

    /// How the token of each connection stands.
    pub(in crate::ably) fn standings(&self, now_ms: i64) -> Vec<(u64, Standing)> {
        let standing = |connection: &Connection| self.revocations.standing(&connection.grant, now_ms);
        self.connections.iter().map(|(socket, connection)| (*socket, standing(connection))).collect()
    }

    /// Ends the connections whose token is revoked, and asks those with a margin for a new token: once, so not those that
    /// stood so `before`.
    pub(in crate::ably) fn enforce_revocations(&mut self, before: &[(u64, Standing)], now_ms: i64) {
        self.connections_changed.send_replace(());
        for &(socket, stood) in before {
            let Some(connection) = self.connections.get_mut(&socket) else {
                continue;
            };
            match self.revocations.standing(&connection.grant, now_ms) {
                Standing::Good => {}
                standing @ Standing::GoodUntil(_) if standing == stood => {}
                Standing::GoodUntil(_) => {
                    connection.renewal = Renewal::Asked;
                    self.send(socket, json!({ "action": action::AUTH }), now_ms);
                }
                Standing::Revoked => self.tick(socket, now_ms),
            }
        }
    }
}
