//! ATTACH, DETACH and SYNC.

use serde_json::json;

use crate::ably::{
    app::AblyApp,
    connection::{Attachment, Echo, Outgoing, all_modes, allowed_modes},
    error::ErrorInfo,
    protocol::{ClientMessage, action, channel_error, flag},
};

const MOST_ATTACHMENTS: usize = 200;

impl AblyApp {
    pub(super) fn attach(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
        let name = message.channel.clone().unwrap_or_default();
        if let Err(error) = self.try_attach(socket, message, now_ms) {
            if let Some(connection) = self.connections.get_mut(&socket) {
                connection.attachments.remove(&name);
            }
            self.connections_changed.send_replace(());
            self.send(socket, channel_error(&name, error), now_ms);
        }
    }

    /// Answers ATTACHED with the allowed modes (`RTL4m`), the messages since the client's serial, and the members.
    fn try_attach(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) -> Result<(), ErrorInfo> {
        let (name, connection) = self.addressed(socket, message)?;
        let requested = match message.flags.unwrap_or_default() & all_modes() {
            0 => flag::DEFAULT_MODES,
            modes => modes,
        };
        let modes = requested & allowed_modes(&connection.access, name);
        if modes == 0 {
            return Err(ErrorInfo::not_permitted("the capability does not allow this channel"));
        }
        let was_attached = connection.attachments.contains_key(name);
        if !was_attached && connection.attachments.len() >= MOST_ATTACHMENTS {
            return Err(ErrorInfo::new(400, 90010, "too many channels on one connection"));
        }
        let (connection_id, echo) = (connection.id.clone(), connection.echo);
        let oldest_ms = now_ms.saturating_sub(self.state_ttl_ms);
        let channel = self.channel(name)?;
        let missed = match &message.channel_serial {
            Some(serial) if !was_attached => channel.published_since(serial, oldest_ms),
            _ => None,
        };
        let has_presence = channel.has_members();
        let mut flags = modes;
        if has_presence {
            flags |= flag::HAS_PRESENCE;
        }
        if was_attached || missed.is_some() {
            flags |= flag::RESUMED;
        }
        if missed.as_ref().is_some_and(|missed| !missed.is_empty()) {
            flags |= flag::HAS_BACKLOG;
        }
        let attached = json!({
            "action": action::ATTACHED, "channel": name, "channelSerial": channel.serial(), "flags": flags
        });
        if let Some(connection) = self.connections.get_mut(&socket) {
            connection.attachments.insert(name.to_owned(), Attachment { requested, modes });
        }
        self.connections_changed.send_replace(());
        self.send(socket, attached, now_ms);
        if modes & flag::SUBSCRIBE != 0 {
            for frame in missed.unwrap_or_default() {
                let own = frame["connectionId"].as_str() == Some(&connection_id);
                if !(own && echo == Echo::Off) {
                    self.enqueue(socket, Outgoing::Message(frame), now_ms);
                }
            }
        }
        if has_presence || flags & flag::RESUMED != 0 {
            self.send_sync(socket, name, now_ms);
        }
        Ok(())
    }

    pub(super) fn send_sync(&mut self, socket: u64, name: &str, now_ms: i64) {
        let sees_presence = self
            .connections
            .get(&socket)
            .and_then(|connection| connection.attachments.get(name))
            .is_some_and(|attachment| attachment.modes & flag::PRESENCE_SUBSCRIBE != 0);
        if let Some(channel) = self.channels.get(name)
            && sees_presence
        {
            let sync = channel.sync(name);
            self.enqueue(socket, Outgoing::Message(sync), now_ms);
        }
    }

    pub(super) fn detach(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
        let Some(name) = message.channel.clone() else {
            return;
        };
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        connection.attachments.remove(&name);
        let id = connection.id.clone();
        self.connections_changed.send_replace(());
        self.leave(&name, &id, now_ms);
        self.send(socket, json!({ "action": action::DETACHED, "channel": name }), now_ms);
    }

    pub(in crate::ably) fn is_attached(&self, channel: &str) -> bool {
        self.connections.values().any(|connection| connection.attachments.contains_key(channel))
    }
}
