//! A connection from opening or resuming to its end.

use std::collections::BTreeMap;

use tokio::sync::mpsc::Sender;

use crate::ably::{
    access::Access,
    app::AblyApp,
    connection::{
        ConnectRequest, Connection, Disconnection, DroppedConnection, MemberState, Outgoing, RenewalState,
        connection_client_id,
    },
    error::ErrorInfo,
    records::{ConnectionInfo, Ending},
    revocation::RevocationStatus,
};

/// How long members stay present after their connection dropped, in milliseconds.
const PRESENCE_GRACE_MS: i64 = 15_000;

const MOST_CONNECTIONS: usize = 1000;
const MOST_DROPPED: usize = 1000;
const MOST_ENDINGS: usize = 1000;

impl AblyApp {
    /// Opens a connection and queues CONNECTED (`RTN4`). Returns the number of its socket.
    pub(crate) fn connect(
        &mut self,
        request: &ConnectRequest,
        queue: Sender<Outgoing>,
        now_ms: i64,
    ) -> Result<u64, ErrorInfo> {
        let access = self.authenticate(&request.credential, now_ms)?;
        let client_id = connection_client_id(&access, request.client_id.as_deref())?;
        let resumed = request.resume.as_ref().map(|key| self.resume(key, client_id.as_deref(), now_ms));
        if self.connections.len() >= MOST_CONNECTIONS {
            return Err(ErrorInfo::new(429, 42910, "too many connections"));
        }
        let (id, last_serial) = match &resumed {
            Some(Ok((id, last_serial))) => (id.clone(), *last_serial),
            _ => (short_id(&self.fresh_id()), -1),
        };
        let connection = Connection {
            key: format!("{id}!{}", self.fresh_id()),
            id,
            client_id,
            requested_client_id: request.client_id.clone(),
            access,
            authenticated_at_ms: now_ms,
            renewal: RenewalState::NotRequested,
            echo: request.echo,
            attachments: BTreeMap::new(),
            last_serial,
            queue,
        };
        let mut connected = connection.connected(self.state_ttl_ms);
        if let Some(Err(error)) = resumed {
            connected["error"] = error.to_json();
        }
        self.last_socket += 1;
        let socket = self.last_socket;
        self.connections.insert(socket, connection);
        self.connections_changed.send_replace(());
        self.send(socket, connected, now_ms);
        Ok(socket)
    }

    /// The id and the last serial of the connection to resume (`RTN15`, `RTN16`).
    fn resume(&mut self, key: &str, client_id: Option<&str>, now_ms: i64) -> Result<(String, i64), ErrorInfo> {
        let live = self.connections.iter().find(|(_, connection)| connection.key == key).map(|(socket, _)| *socket);
        if let Some(socket) = live {
            self.disconnect(socket, Disconnection::Resumable, now_ms);
        }
        match self.dropped.remove(key) {
            Some(dropped)
                if now_ms.saturating_sub(dropped.since_ms) <= self.state_ttl_ms
                    && dropped.client_id.as_deref() == client_id =>
            {
                return Ok((dropped.id, dropped.last_serial));
            }
            Some(dropped) => self.leave_all(&dropped.id, now_ms),
            None => {}
        }
        Err(ErrorInfo::new(400, 80018, "the connection cannot be resumed; this is a new one"))
    }

    /// Removes a connection. Its socket closes once its queue is empty.
    pub(crate) fn disconnect(&mut self, socket: u64, disconnection: Disconnection, now_ms: i64) {
        self.remove_connection(socket, disconnection, None, now_ms);
    }

    /// `code` is the error with which the stand-in ends it.
    pub(super) fn remove_connection(
        &mut self,
        socket: u64,
        disconnection: Disconnection,
        code: Option<u32>,
        now_ms: i64,
    ) {
        let Some(connection) = self.connections.remove(&socket) else {
            return;
        };
        if self.endings.len() >= MOST_ENDINGS {
            self.endings.pop_front();
        }
        self.endings.push_back(Ending {
            connection_id: connection.id.clone(),
            client_id: connection.client_id.clone(),
            at: now_ms,
            code,
            revocation_key: connection.access.revocation_key.clone(),
            revoked_from: self.revoked_from(&connection.access),
        });
        self.connections_changed.send_replace(());
        if disconnection == Disconnection::Final || self.dropped.len() >= MOST_DROPPED {
            self.leave_all(&connection.id, now_ms);
            return;
        }
        self.dropped.insert(
            connection.key,
            DroppedConnection {
                id: connection.id,
                client_id: connection.client_id,
                last_serial: connection.last_serial,
                since_ms: now_ms,
                members: MemberState::Present,
            },
        );
    }

    /// Drops a connection as a broken network does, so its client may resume it. Returns whether it was live.
    pub(crate) fn drop_connection(&mut self, id: &str, now_ms: i64) -> bool {
        let live = self.connections.iter().find(|(_, connection)| connection.id == id).map(|(socket, _)| *socket);
        if let Some(socket) = live {
            self.disconnect(socket, Disconnection::Resumable, now_ms);
        }
        live.is_some()
    }

    /// Ends every connection.
    pub(crate) fn disconnect_all(&mut self) {
        self.connections.clear();
        self.connections_changed.send_replace(());
    }

    /// Removes members whose connection has been dropped for too long, and forgets connections that can no longer be
    /// resumed.
    pub(in crate::ably) fn forget_dropped(&mut self, now_ms: i64) {
        let (state_ttl_ms, mut left) = (self.state_ttl_ms, Vec::new());
        self.dropped.retain(|_, dropped| {
            let dropped_ms = now_ms.saturating_sub(dropped.since_ms);
            if dropped_ms > PRESENCE_GRACE_MS.min(state_ttl_ms) && dropped.members == MemberState::Present {
                dropped.members = MemberState::Left;
                left.push(dropped.id.clone());
            }
            dropped_ms <= state_ttl_ms
        });
        for id in left {
            self.leave_all(&id, now_ms);
        }
    }

    /// The connections that ended, oldest first.
    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.endings.iter().cloned().collect()
    }

    /// The live connections, oldest first.
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        self.connections
            .values()
            .map(|connection| ConnectionInfo {
                connection_id: connection.id.clone(),
                client_id: connection.client_id.clone(),
                capability: connection.access.capability.to_string(),
                channels: connection.attachments.keys().cloned().collect(),
                token_id: (!connection.access.id.is_empty()).then(|| connection.access.id.clone()),
                token_expires: connection.access.lifetime.map(|lifetime| lifetime.expires_ms),
                revocation_key: connection.access.revocation_key.clone(),
                revoked_from: self.revoked_from(&connection.access),
            })
            .collect()
    }

    fn revoked_from(&self, access: &Access) -> Option<i64> {
        match self.revocations.status_of(access, i64::MIN) {
            RevocationStatus::RevokedFrom(at_ms) => Some(at_ms),
            RevocationStatus::NotRevoked | RevocationStatus::Revoked => None,
        }
    }
}

fn short_id(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(10).collect()
}
