//! Frames to clients.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::ably::{
    app::AblyApp,
    connection::{Disconnection, Echo, Outgoing},
    protocol::{flag, presence},
};

impl AblyApp {
    /// Sends a frame to connections with this mode of the channel, and to its publisher unless it turned echo off.
    pub(in crate::ably) fn deliver(
        &mut self,
        channel: &str,
        frame: &Arc<Value>,
        mode: u32,
        publisher: Option<&str>,
        now_ms: i64,
    ) {
        let receivers: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let subscribes =
                    connection.attachments.get(channel).is_some_and(|attachment| attachment.modes & mode != 0);
                let own = publisher == Some(connection.id.as_str());
                subscribes && !(own && connection.echo == Echo::Off)
            })
            .map(|(socket, _)| *socket)
            .collect();
        for socket in receivers {
            self.enqueue(socket, Outgoing::Message(Arc::clone(frame)), now_ms);
        }
    }

    pub(super) fn send(&mut self, socket: u64, message: Value, now_ms: i64) {
        self.enqueue(socket, Outgoing::Message(Arc::new(message)), now_ms);
    }

    pub(super) fn send_last(&mut self, socket: u64, message: Value, disconnection: Disconnection, now_ms: i64) {
        let code = message["error"]["code"].as_u64().and_then(|code| u32::try_from(code).ok());
        self.enqueue(socket, Outgoing::Last(Arc::new(message)), now_ms);
        self.remove_connection(socket, disconnection, code, now_ms);
    }

    /// Drops the connection if its queue is full.
    pub(super) fn enqueue(&mut self, socket: u64, outgoing: Outgoing, now_ms: i64) {
        let full = self.connections.get(&socket).is_some_and(|connection| connection.queue.try_send(outgoing).is_err());
        if full {
            self.disconnect(socket, Disconnection::Resumable, now_ms);
        }
    }

    pub(super) fn leave_all(&mut self, connection_id: &str, now_ms: i64) {
        let names: Vec<String> = self.channels.keys().cloned().collect();
        for name in names {
            self.leave(&name, connection_id, now_ms);
        }
    }

    /// Sends LEAVE for the members of a connection.
    pub(super) fn leave(&mut self, name: &str, connection_id: &str, now_ms: i64) {
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        let leaves: Vec<_> = channel
            .members()
            .filter(|((_, member_of), _)| member_of == connection_id)
            .map(|(_, member)| {
                let mut leave = member.clone();
                leave.insert("action".to_owned(), json!(presence::LEAVE));
                leave
            })
            .collect();
        if leaves.is_empty() {
            return;
        }
        let id = format!("left:{connection_id}");
        let frame = channel.change_presence(name, &id, connection_id, leaves, now_ms);
        self.deliver(name, &frame, flag::PRESENCE_SUBSCRIBE, None, now_ms);
    }
}
