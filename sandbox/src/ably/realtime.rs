//! Realtime connections (`RTN*`, `RTL*`, `RTP*`): the effect of each protocol message from a client. Answers go into
//! the connection's queue, which its socket sends.

mod attachment;
mod delivery;
mod lifecycle;
mod publishing;
mod renewal;
#[cfg(test)]
mod tests;

use serde_json::json;

use super::{
    app::AblyApp,
    connection::Disconnection,
    error::ErrorInfo,
    protocol::{ClientMessage, action},
    revocation::RevocationStatus,
};

/// Handles a message that expects ACK or NACK. Returns the serials of published messages.
type Action = fn(&mut AblyApp, u64, ClientMessage, i64) -> Result<Vec<String>, ErrorInfo>;

impl AblyApp {
    /// Handles a protocol message from a client.
    pub(crate) fn receive(&mut self, socket: u64, message: ClientMessage, now_ms: i64) {
        let Some(connection) = self.connections.get(&socket) else {
            return;
        };
        if self.revocations.status_of(&connection.access, now_ms) == RevocationStatus::Revoked
            || connection.access.check_not_expired(now_ms).is_err()
        {
            return self.tick(socket, now_ms);
        }
        match message.action {
            action::HEARTBEAT => {
                let mut answer = json!({ "action": action::HEARTBEAT });
                if let Some(id) = message.id {
                    answer["id"] = json!(id);
                }
                self.send(socket, answer, now_ms);
            }
            action::ATTACH => self.attach(socket, &message, now_ms),
            action::DETACH => self.detach(socket, &message, now_ms),
            action::MESSAGE => self.acknowledge(socket, message, now_ms, Self::publish_messages),
            action::PRESENCE => self.acknowledge(socket, message, now_ms, Self::change_presence),
            action::SYNC => {
                if let Some(name) = message.channel {
                    self.send_sync(socket, &name, now_ms);
                }
            }
            action::AUTH => self.renew(socket, &message, now_ms),
            action::CLOSE => {
                let closed = json!({ "action": action::CLOSED });
                self.send_last(socket, closed, Disconnection::Final, now_ms);
            }
            action::DISCONNECT => self.disconnect(socket, Disconnection::Resumable, now_ms),
            _ if message.msg_serial.is_some() => {
                self.acknowledge(socket, message, now_ms, |_, _, _, _| {
                    Err(ErrorInfo::bad_request("the stand-in does not support this action"))
                });
            }
            _ => {}
        }
    }

    /// Runs `handle` and answers ACK, or NACK with the error (`RTN7`).
    fn acknowledge(&mut self, socket: u64, message: ClientMessage, now_ms: i64, handle: Action) {
        let Some(connection) = self.connections.get(&socket) else {
            return;
        };
        let serial = message.msg_serial.unwrap_or(connection.last_serial.saturating_add(1));
        let message = ClientMessage { msg_serial: Some(serial), ..message };
        let answer = match handle(self, socket, message, now_ms) {
            Ok(serials) => json!({
                "action": action::ACK, "msgSerial": serial, "count": 1, "res": [{ "serials": serials }]
            }),
            Err(error) => json!({
                "action": action::NACK, "msgSerial": serial, "count": 1, "error": error.to_json()
            }),
        };
        if let Some(connection) = self.connections.get_mut(&socket) {
            connection.last_serial = connection.last_serial.max(serial);
        }
        self.send(socket, answer, now_ms);
    }
}
