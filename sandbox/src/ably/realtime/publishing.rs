//! MESSAGE and PRESENCE from a client.

use crate::ably::{
    app::AblyApp,
    connection::Connection,
    error::ErrorInfo,
    messages::{check_channel_name, checked_presence},
    protocol::{ClientMessage, flag},
};

impl AblyApp {
    pub(super) fn publish_messages(
        &mut self,
        socket: u64,
        mut message: ClientMessage,
        now_ms: i64,
    ) -> Result<Vec<String>, ErrorInfo> {
        let sent = message.messages.take().unwrap_or_default();
        let (name, connection) = self.addressed(socket, &message)?;
        let messages = Self::checked_messages(&connection.access, connection.client_id.as_deref(), name, sent)?;
        if let Some(attachment) = connection.attachments.get(name)
            && attachment.modes & flag::PUBLISH == 0
        {
            return Err(ErrorInfo::not_permitted("the channel is attached without the publish mode"));
        }
        let serial = message.msg_serial.unwrap_or_default();
        if serial <= connection.last_serial {
            return Ok(Vec::new());
        }
        let (connection_id, name) = (connection.id.clone(), name.to_owned());
        let id = format!("{connection_id}:{serial}");
        let (frame, serials) = self.channel(&name)?.publish(&name, &id, Some(&connection_id), messages, now_ms);
        self.deliver(&name, &frame, flag::SUBSCRIBE, Some(&connection_id), now_ms);
        Ok(serials)
    }

    pub(super) fn change_presence(
        &mut self,
        socket: u64,
        mut message: ClientMessage,
        now_ms: i64,
    ) -> Result<Vec<String>, ErrorInfo> {
        let sent = message.presence.take().unwrap_or_default();
        let (name, connection) = self.addressed(socket, &message)?;
        let attachment = connection.attachments.get(name).ok_or(ErrorInfo::new(
            400,
            91001,
            "presence requires an attached channel",
        ))?;
        if !connection.access.capability.allows(name, "presence") || attachment.modes & flag::PRESENCE == 0 {
            return Err(ErrorInfo::not_permitted("the capability or the modes do not allow presence on this channel"));
        }
        let client_id = connection.client_id.as_deref();
        let changes =
            sent.into_iter().map(|change| checked_presence(client_id, change)).collect::<Result<Vec<_>, _>>()?;
        let serial = message.msg_serial.unwrap_or_default();
        let (connection_id, name) = (connection.id.clone(), name.to_owned());
        let id = format!("{connection_id}:{serial}");
        let channel = self.channel(&name)?;
        let full = changes.iter().any(|change| {
            let client_id = change["clientId"].as_str().unwrap_or_default();
            channel.is_full_for(&(client_id.to_owned(), connection_id.clone()))
        });
        if full {
            return Err(ErrorInfo::new(400, 91003, "the channel has too many members"));
        }
        let frame = channel.change_presence(&name, &id, &connection_id, changes, now_ms);
        self.deliver(&name, &frame, flag::PRESENCE_SUBSCRIBE, None, now_ms);
        Ok(Vec::new())
    }

    /// The channel name of a message, and its connection.
    pub(super) fn addressed<'app, 'message>(
        &'app self,
        socket: u64,
        message: &'message ClientMessage,
    ) -> Result<(&'message str, &'app Connection), ErrorInfo> {
        let connection = self.connections.get(&socket).ok_or(ErrorInfo::new(400, 80003, "the connection has ended"))?;
        let name = message.channel.as_deref().ok_or(ErrorInfo::new(400, 40010, "the channel is missing"))?;
        check_channel_name(name)?;
        Ok((name, connection))
    }
}
