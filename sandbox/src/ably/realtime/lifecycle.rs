//! The life of a connection: opened or resumed, live, ended, forgotten.

use std::collections::BTreeMap;

use tokio::sync::mpsc::Sender;

use crate::ably::{
    connection::{
        Connection, Lapsed, Opening, Outgoing, Parting, Presence, Renewal, STATE_TTL_MS, connection_client_id,
    },
    error::ErrorInfo,
    realm::Realm,
    records::{ConnectionInfo, Ending},
    revocation::Standing,
    token::Grant,
};

/// How long members stay present after their connection broke, in milliseconds.
const PRESENCE_GRACE_MS: i64 = 15_000;

const MOST_CONNECTIONS: usize = 1000;
const MOST_LAPSED: usize = 1000;
const MOST_ENDINGS: usize = 1000;

impl Realm {
    /// Opens a connection and queues its CONNECTED (`RTN4`). Returns the number by which its socket refers to it.
    pub(crate) fn connect(
        &mut self,
        opening: &Opening,
        queue: Sender<Outgoing>,
        now_ms: i64,
    ) -> Result<u64, ErrorInfo> {
        let grant = self.authenticate(&opening.credential, now_ms)?;
        let client_id = connection_client_id(&grant, opening.client_id.as_deref())?;
        let resumed = opening.resume.as_ref().map(|key| self.take_up(key, client_id.as_deref(), now_ms));
        if self.connections.len() >= MOST_CONNECTIONS {
            return Err(ErrorInfo::new(429, 42910, "too many connections"));
        }
        let (id, last_serial) = match &resumed {
            Some(Ok((id, last_serial))) => (id.clone(), *last_serial),
            _ => (short(&self.fresh_id()), -1),
        };
        let connection = Connection {
            key: format!("{id}!{}", self.fresh_id()),
            id,
            client_id,
            named_client_id: opening.client_id.clone(),
            grant,
            granted_at_ms: now_ms,
            renewal: Renewal::NotYetAsked,
            echo: opening.echo,
            attachments: BTreeMap::new(),
            last_serial,
            queue,
        };
        let mut connected = connection.connected();
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

    /// The id and the last serial of a connection to go on with (`RTN15`, `RTN16`).
    pub(super) fn take_up(
        &mut self,
        key: &str,
        client_id: Option<&str>,
        now_ms: i64,
    ) -> Result<(String, i64), ErrorInfo> {
        let live = self.connections.iter().find(|(_, connection)| connection.key == key).map(|(socket, _)| *socket);
        if let Some(socket) = live {
            self.part(socket, Parting::Broken, now_ms);
        }
        match self.lapsed.remove(key) {
            Some(lapsed)
                if now_ms.saturating_sub(lapsed.since_ms) <= STATE_TTL_MS
                    && lapsed.client_id.as_deref() == client_id =>
            {
                Ok((lapsed.id, lapsed.last_serial))
            }
            _ => Err(ErrorInfo::new(400, 80018, "the connection cannot be resumed; this is a new one")),
        }
    }

    /// Takes a connection out. Its socket closes once its queue is empty.
    pub(crate) fn part(&mut self, socket: u64, parting: Parting, now_ms: i64) {
        self.end(socket, parting, None, now_ms);
    }

    /// `code` is the stand-in's own reason, if it is the one who ends it.
    pub(super) fn end(&mut self, socket: u64, parting: Parting, code: Option<u32>, now_ms: i64) {
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
            revocation_key: connection.grant.revocation_key.clone(),
            revoked_from: self.revoked_from(&connection.grant),
        });
        self.connections_changed.send_replace(());
        if parting == Parting::Closed || self.lapsed.len() >= MOST_LAPSED {
            self.leave_all(&connection.id, now_ms);
            return;
        }
        self.lapsed.insert(
            connection.key,
            Lapsed {
                id: connection.id,
                client_id: connection.client_id,
                last_serial: connection.last_serial,
                since_ms: now_ms,
                presence: Presence::Held,
            },
        );
    }

    /// Ends every connection.
    pub(crate) fn part_all(&mut self) {
        self.connections.clear();
        self.connections_changed.send_replace(());
    }

    /// Lets members go whose connection has been broken for too long, and forgets what can no longer be resumed.
    pub(in crate::ably) fn forget_lapsed(&mut self, now_ms: i64) {
        let mut gone = Vec::new();
        self.lapsed.retain(|_, lapsed| {
            let broken_ms = now_ms.saturating_sub(lapsed.since_ms);
            if broken_ms > PRESENCE_GRACE_MS && lapsed.presence == Presence::Held {
                lapsed.presence = Presence::Left;
                gone.push(lapsed.id.clone());
            }
            broken_ms <= STATE_TTL_MS
        });
        for id in gone {
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
                capability: connection.grant.capability.to_string(),
                channels: connection.attachments.keys().cloned().collect(),
                token_id: (!connection.grant.id.is_empty()).then(|| connection.grant.id.clone()),
                token_expires: connection.grant.life.map(|life| life.expires_ms),
                revocation_key: connection.grant.revocation_key.clone(),
                revoked_from: self.revoked_from(&connection.grant),
            })
            .collect()
    }

    pub(super) fn revoked_from(&self, grant: &Grant) -> Option<i64> {
        match self.revocations.standing(grant, i64::MIN) {
            Standing::GoodUntil(at_ms) => Some(at_ms),
            Standing::Good | Standing::Revoked => None,
        }
    }
}

fn short(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(10).collect()
}
