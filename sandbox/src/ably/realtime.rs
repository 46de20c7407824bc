//! Realtime connections (`RTN*`, `RTL*`, `RTP*`): what each protocol message from a client does, what time does to a
//! token, and who receives what. Every answer goes into the connection's queue; a socket empties it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::{
    ConnectionInfo, Ending,
    error::ErrorInfo,
    protocol::{ClientMessage, action, flag, presence},
    realm::{LARGEST_PUBLISH, Realm, admit_presence, channel_error, check_channel_name},
    revocation::{REVOKED, Standing},
    token::{ANYONE, Credential, EXPIRED, Grant},
};

/// How long before a token expires its client is asked for a new one, in milliseconds (`RTN22`); of a token with less
/// than three times that to live, the last third.
const RENEWAL_LEAD_MS: i64 = 30_000;

/// How long a connection that broke can be resumed, in milliseconds (`CD2f`).
const STATE_TTL_MS: i64 = 120_000;

/// How long members stay present after their connection broke, in milliseconds.
const PRESENCE_GRACE_MS: i64 = 15_000;

/// The longest silence of the server, in milliseconds (`CD2h`).
pub(crate) const MAX_IDLE_MS: i64 = 15_000;

/// The largest frame, in bytes (`CD2d`).
pub(crate) const LARGEST_FRAME: usize = 512 * 1024;

const MOST_CONNECTIONS: usize = 1000;
const MOST_LAPSED: usize = 1000;
const MOST_ENDINGS: usize = 1000;
const MOST_ATTACHMENTS: usize = 200;

/// One live connection.
pub(crate) struct Connection {
    id: String,
    key: String,
    client_id: Option<String>,
    named_client_id: Option<String>,
    grant: Grant,
    granted_at_ms: i64,
    renewal: Renewal,
    echo: Echo,
    attachments: BTreeMap<String, Attachment>,
    last_serial: i64,
    queue: Sender<Outgoing>,
}

/// A connection that broke and may come back.
pub(crate) struct Lapsed {
    id: String,
    client_id: Option<String>,
    last_serial: i64,
    since_ms: i64,
    presence: Presence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Held,
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    NotYetAsked,
    Asked,
}

/// Whether a client receives its own messages (`TO3h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    On,
    Off,
}

#[derive(Debug, Clone, Copy)]
struct Attachment {
    requested: u32,
    modes: u32,
}

/// What a socket is to send.
#[derive(Debug, Clone)]
pub(crate) enum Outgoing {
    Message(Arc<Value>),
    /// Send this, then close.
    Last(Arc<Value>),
}

/// What a client says of itself when it connects (`RTN2`).
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) credential: Credential,
    pub(crate) client_id: Option<String>,
    pub(crate) echo: Echo,
    /// The connection key of a connection to go on with, by `resume` or `recover`.
    pub(crate) resume: Option<String>,
}

/// What a message that wants an answer does. Yields the serials of what it published.
type Act = fn(&mut Realm, u64, ClientMessage, i64) -> Result<Vec<String>, ErrorInfo>;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// On purpose: its members leave at once.
    Closed,
    /// It may come back.
    Broken,
}

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
    fn take_up(&mut self, key: &str, client_id: Option<&str>, now_ms: i64) -> Result<(String, i64), ErrorInfo> {
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

    /// Acts on a protocol message from a client.
    pub(crate) fn receive(&mut self, socket: u64, message: ClientMessage, now_ms: i64) {
        let Some(connection) = self.connections.get(&socket) else {
            return;
        };
        if self.revocations.standing(&connection.grant, now_ms) == Standing::Revoked
            || connection.grant.check_life(now_ms).is_err()
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
            action::MESSAGE => self.accept(socket, message, now_ms, Self::publish_messages),
            action::PRESENCE => self.accept(socket, message, now_ms, Self::change_presence),
            action::SYNC => {
                if let Some(name) = message.channel {
                    self.send_sync(socket, &name, now_ms);
                }
            }
            action::AUTH => self.renew(socket, &message, now_ms),
            action::CLOSE => {
                let closed = json!({ "action": action::CLOSED });
                self.send_last(socket, closed, Parting::Closed, now_ms);
            }
            action::DISCONNECT => self.part(socket, Parting::Broken, now_ms),
            _ if message.msg_serial.is_some() => {
                self.accept(socket, message, now_ms, |_, _, _, _| {
                    Err(ErrorInfo::bad_request("the stand-in does not speak this part of the protocol"))
                });
            }
            _ => {}
        }
    }

    /// Answers a message that wants an answer: ACK, or NACK with the reason (`RTN7`).
    fn accept(&mut self, socket: u64, message: ClientMessage, now_ms: i64, act: Act) {
        let Some(connection) = self.connections.get(&socket) else {
            return;
        };
        let serial = message.msg_serial.unwrap_or(connection.last_serial.saturating_add(1));
        let message = ClientMessage { msg_serial: Some(serial), ..message };
        let answer = match act(self, socket, message, now_ms) {
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

    fn publish_messages(
        &mut self,
        socket: u64,
        mut message: ClientMessage,
        now_ms: i64,
    ) -> Result<Vec<String>, ErrorInfo> {
        let sent = message.messages.take().unwrap_or_default();
        let (name, connection) = self.of_message(socket, &message)?;
        let messages = Self::admit_messages(&connection.grant, connection.client_id.as_deref(), name, sent)?;
        if let Some(attachment) = connection.attachments.get(name)
            && attachment.modes & flag::PUBLISH == 0
        {
            return Err(ErrorInfo::not_permitted("the channel was attached without the mode to publish"));
        }
        let serial = message.msg_serial.unwrap_or_default();
        if serial <= connection.last_serial {
            return Ok(Vec::new());
        }
        let (connection_id, name) = (connection.id.clone(), name.to_owned());
        let id = format!("{connection_id}:{serial}");
        let (frame, serials) = self.channel(&name)?.publish(&name, &id, Some(&connection_id), messages, now_ms);
        self.deliver_message(&name, &frame, Some(&connection_id), now_ms);
        Ok(serials)
    }

    fn change_presence(
        &mut self,
        socket: u64,
        mut message: ClientMessage,
        now_ms: i64,
    ) -> Result<Vec<String>, ErrorInfo> {
        let sent = message.presence.take().unwrap_or_default();
        let (name, connection) = self.of_message(socket, &message)?;
        let attachment =
            connection.attachments.get(name).ok_or(ErrorInfo::new(400, 91001, "presence takes an attached channel"))?;
        if !connection.grant.capability.allows(name, "presence") || attachment.modes & flag::PRESENCE == 0 {
            return Err(ErrorInfo::not_permitted("the capability does not allow to be present on this channel"));
        }
        let client_id = connection.client_id.as_deref();
        let changes =
            sent.into_iter().map(|change| admit_presence(client_id, change)).collect::<Result<Vec<_>, _>>()?;
        let serial = message.msg_serial.unwrap_or_default();
        let (connection_id, name) = (connection.id.clone(), name.to_owned());
        let id = format!("{connection_id}:{serial}");
        let channel = self.channel(&name)?;
        let full = changes.iter().any(|change| {
            let client_id = change["clientId"].as_str().unwrap_or_default();
            channel.is_full_for(&(client_id.to_owned(), connection_id.clone()))
        });
        if full {
            return Err(ErrorInfo::new(400, 91003, "too many are present on this channel"));
        }
        let frame = channel.change_presence(&name, &id, &connection_id, changes, now_ms);
        self.deliver(&name, &frame, flag::PRESENCE_SUBSCRIBE, None, now_ms);
        Ok(Vec::new())
    }

    fn of_message<'realm, 'message>(
        &'realm self,
        socket: u64,
        message: &'message ClientMessage,
    ) -> Result<(&'message str, &'realm Connection), ErrorInfo> {
        let connection = self.connections.get(&socket).ok_or(ErrorInfo::new(400, 80003, "the connection is gone"))?;
        let name = message.channel.as_deref().ok_or(ErrorInfo::new(400, 40010, "the channel is missing"))?;
        check_channel_name(name)?;
        Ok((name, connection))
    }

    fn attach(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
        let name = message.channel.clone().unwrap_or_default();
        if let Err(error) = self.try_attach(socket, message, now_ms) {
            if let Some(connection) = self.connections.get_mut(&socket) {
                connection.attachments.remove(&name);
            }
            self.connections_changed.send_replace(());
            self.send(socket, channel_error(&name, error), now_ms);
        }
    }

    /// ATTACHED with the modes that the capability allows (`RTL4m`), what was missed since the client's serial, and who
    /// is present.
    fn try_attach(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) -> Result<(), ErrorInfo> {
        let (name, connection) = self.of_message(socket, message)?;
        let requested = match message.flags.unwrap_or_default() & all_modes() {
            0 => flag::DEFAULT_MODES,
            modes => modes,
        };
        let modes = requested & allowed_modes(&connection.grant, name);
        if modes == 0 {
            return Err(ErrorInfo::not_permitted("the capability does not allow to attach to this channel"));
        }
        let was_attached = connection.attachments.contains_key(name);
        if !was_attached && connection.attachments.len() >= MOST_ATTACHMENTS {
            return Err(ErrorInfo::new(400, 90010, "too many channels on one connection"));
        }
        let (connection_id, echo) = (connection.id.clone(), connection.echo);
        let channel = self.channel(name)?;
        let missed = match &message.channel_serial {
            Some(serial) if !was_attached => channel.published_since(serial),
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

    fn send_sync(&mut self, socket: u64, name: &str, now_ms: i64) {
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

    fn detach(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
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

    /// AUTH from a client: a new token for the same client (`RTC8a`). What it no longer allows is detached.
    fn renew(&mut self, socket: u64, message: &ClientMessage, now_ms: i64) {
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
    fn apply_capability(&mut self, socket: u64, now_ms: i64) {
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
    pub(super) fn standings(&self, now_ms: i64) -> Vec<(u64, Standing)> {
        let standing = |connection: &Connection| self.revocations.standing(&connection.grant, now_ms);
        self.connections.iter().map(|(socket, connection)| (*socket, standing(connection))).collect()
    }

    /// Ends the connections whose token is revoked, and asks those with a margin for a new token: once, so not those that
    /// stood so `before`.
    pub(super) fn enforce_revocations(&mut self, before: &[(u64, Standing)], now_ms: i64) {
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

    /// Sends published messages to those who subscribe, their publisher too unless it declined.
    pub(super) fn deliver_message(&mut self, channel: &str, frame: &Arc<Value>, publisher: Option<&str>, now_ms: i64) {
        self.deliver(channel, frame, flag::SUBSCRIBE, publisher, now_ms);
    }

    fn deliver(&mut self, channel: &str, frame: &Arc<Value>, mode: u32, publisher: Option<&str>, now_ms: i64) {
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

    fn send(&mut self, socket: u64, message: Value, now_ms: i64) {
        self.enqueue(socket, Outgoing::Message(Arc::new(message)), now_ms);
    }

    fn send_last(&mut self, socket: u64, message: Value, parting: Parting, now_ms: i64) {
        let code = message["error"]["code"].as_u64().and_then(|code| u32::try_from(code).ok());
        self.enqueue(socket, Outgoing::Last(Arc::new(message)), now_ms);
        self.end(socket, parting, code, now_ms);
    }

    /// A client that does not empty its queue is let go.
    fn enqueue(&mut self, socket: u64, outgoing: Outgoing, now_ms: i64) {
        let full = self.connections.get(&socket).is_some_and(|connection| connection.queue.try_send(outgoing).is_err());
        if full {
            self.part(socket, Parting::Broken, now_ms);
        }
    }

    /// Takes a connection out. Its socket closes once its queue is empty.
    pub(crate) fn part(&mut self, socket: u64, parting: Parting, now_ms: i64) {
        self.end(socket, parting, None, now_ms);
    }

    /// `code` is the stand-in's own reason, if it is the one who ends it.
    fn end(&mut self, socket: u64, parting: Parting, code: Option<u32>, now_ms: i64) {
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
    pub(super) fn forget_lapsed(&mut self, now_ms: i64) {
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

    fn leave_all(&mut self, connection_id: &str, now_ms: i64) {
        let names: Vec<String> = self.channels.keys().cloned().collect();
        for name in names {
            self.leave(&name, connection_id, now_ms);
        }
    }

    /// Says, on behalf of a connection that is gone, that its members left.
    fn leave(&mut self, name: &str, connection_id: &str, now_ms: i64) {
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

    pub(super) fn is_attached(&self, channel: &str) -> bool {
        self.connections.values().any(|connection| connection.attachments.contains_key(channel))
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

    fn revoked_from(&self, grant: &Grant) -> Option<i64> {
        match self.revocations.standing(grant, i64::MIN) {
            Standing::GoodUntil(at_ms) => Some(at_ms),
            Standing::Good | Standing::Revoked => None,
        }
    }
}

impl Connection {
    /// CONNECTED, at the start and after each renewal (`RTN21`).
    fn connected(&self) -> Value {
        let mut details = json!({
            "connectionKey": self.key, "maxMessageSize": LARGEST_PUBLISH, "maxFrameSize": LARGEST_FRAME,
            "connectionStateTtl": STATE_TTL_MS, "maxIdleInterval": MAX_IDLE_MS, "serverId": "sandbox"
        });
        if let Some(client_id) = &self.client_id {
            details["clientId"] = json!(client_id);
        }
        json!({ "action": action::CONNECTED, "connectionId": self.id, "connectionDetails": details })
    }

    fn renew_at_ms(&self) -> Option<i64> {
        let expires_ms = self.grant.life?.expires_ms;
        let left_ms = expires_ms.saturating_sub(self.granted_at_ms);
        Some(expires_ms.saturating_sub(RENEWAL_LEAD_MS.min(left_ms / 3)))
    }
}

const OTHER_CLIENT: ErrorInfo = ErrorInfo::new(401, 40102, "the token is of another client ID");

/// Who is on a connection: the token's client ID, or with a wildcard the one that the client named (`RSA7b`, `RSA15`).
fn connection_client_id(grant: &Grant, named: Option<&str>) -> Result<Option<String>, ErrorInfo> {
    match (grant.client_id.as_deref(), named) {
        (Some(ANYONE), Some(named)) => Ok(Some(named.to_owned())),
        (own, None) => Ok(own.map(str::to_owned)),
        (Some(own), Some(named)) if own == named => Ok(Some(own.to_owned())),
        _ => Err(OTHER_CLIENT),
    }
}

fn all_modes() -> u32 {
    flag::MODES.iter().fold(0, |all, (mode, _)| all | mode)
}

fn allowed_modes(grant: &Grant, channel: &str) -> u32 {
    flag::MODES
        .iter()
        .filter(|(_, operation)| grant.capability.allows(channel, operation))
        .fold(0, |allowed, (mode, _)| allowed | mode)
}

fn short(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(10).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::sync::mpsc::{self, Receiver};

    use super::{Echo, Opening, Outgoing, Parting};
    use crate::ably::{
        api_key::ApiKey,
        capability::Capability,
        protocol::{ClientMessage, action, flag},
        realm::Realm,
        revocation::{AnswerShape, Revocable},
        token::{Credential, tests::jwt},
    };

    const NOW_MS: i64 = 1_795_289_000_000;
    const KEY: &str = "app.key:secret";

    fn realm() -> Realm {
        let mut made = 0;
        Realm::new(
            ApiKey::parse(KEY).unwrap(),
            Capability::parse(r#"{"[*]*":["*"]}"#).unwrap(),
            Revocable::Since(0),
            Box::new(move || {
                made += 1;
                format!("id{made:08}")
            }),
        )
    }

    fn token(realm: &mut Realm, fields: &Value, now_ms: i64) -> String {
        let mut request = json!({ "timestamp": now_ms });
        for (name, value) in fields.as_object().unwrap() {
            request[name] = value.clone();
        }
        let key = Credential::Key(KEY.to_owned());
        let details = realm.request_token("app.key", &key, &request, now_ms).unwrap();
        details["token"].as_str().unwrap().to_owned()
    }

    fn opening(token: String) -> Opening {
        Opening { credential: Credential::Token(token), client_id: None, echo: Echo::On, resume: None }
    }

    struct Client {
        socket: u64,
        received: Receiver<Outgoing>,
    }

    impl Client {
        fn connect(realm: &mut Realm, opening: &Opening, now_ms: i64) -> (Self, Value) {
            let (queue, received) = mpsc::channel(64);
            let socket = realm.connect(opening, queue, now_ms).unwrap();
            let mut client = Self { socket, received };
            let connected = client.next();
            assert_eq!(connected["action"], action::CONNECTED);
            (client, connected)
        }

        fn as_client(realm: &mut Realm, client_id: &str) -> Self {
            let token = token(realm, &json!({ "clientId": client_id }), NOW_MS);
            Self::connect(realm, &opening(token), NOW_MS).0
        }

        fn send(&self, realm: &mut Realm, message: Value, now_ms: i64) {
            realm.receive(self.socket, ClientMessage::read(message).unwrap(), now_ms);
        }

        fn attach(&mut self, realm: &mut Realm, channel: &str) -> Value {
            self.send(realm, json!({ "action": action::ATTACH, "channel": channel }), NOW_MS);
            self.next()
        }

        fn next(&mut self) -> Value {
            match self.received.try_recv().unwrap() {
                Outgoing::Message(message) | Outgoing::Last(message) => (*message).clone(),
            }
        }

        fn is_quiet(&mut self) -> bool {
            self.received.try_recv().is_err()
        }
    }

    #[test]
    fn a_client_is_asked_for_a_new_token_before_its_own_expires() {
        for (ttl_ms, asked_at_ms) in [(3_600_000, 3_570_000), (90_000, 60_000), (3000, 2000)] {
            let mut realm = realm();
            let token = token(&mut realm, &json!({ "clientId": "alice", "ttl": ttl_ms }), NOW_MS);
            let (mut client, _) = Client::connect(&mut realm, &opening(token), NOW_MS);
            let asked_at_ms = NOW_MS + asked_at_ms;
            assert_eq!(realm.next_tick_ms(client.socket, NOW_MS), Some(asked_at_ms));
            realm.tick(client.socket, asked_at_ms - 1);
            assert!(client.is_quiet());
            realm.tick(client.socket, asked_at_ms);
            assert_eq!(client.next(), json!({ "action": action::AUTH }));
            let expires_ms = NOW_MS + ttl_ms;
            assert_eq!(realm.next_tick_ms(client.socket, asked_at_ms), Some(expires_ms));
            realm.tick(client.socket, expires_ms);
            let last = client.next();
            assert_eq!((&last["action"], &last["error"]["code"]), (&json!(action::DISCONNECTED), &json!(40142)));
            assert!(realm.connections().is_empty());
        }
    }

    #[test]
    fn a_renewed_connection_lives_as_long_as_its_new_token() {
        let mut realm = realm();
        let first = token(&mut realm, &json!({ "clientId": "alice", "ttl": 1000 }), NOW_MS);
        let (mut client, before) = Client::connect(&mut realm, &opening(first), NOW_MS);
        let second = token(&mut realm, &json!({ "clientId": "alice", "ttl": 9000 }), NOW_MS);
        client.send(&mut realm, json!({ "action": action::AUTH, "auth": { "accessToken": second } }), NOW_MS);
        assert_eq!(client.next(), before);
        realm.tick(client.socket, NOW_MS + 1000);
        assert!(client.is_quiet());
        assert_eq!(realm.connections()[0].token_expires, Some(NOW_MS + 9000));
    }

    #[test]
    fn a_renewal_for_another_client_or_with_a_bad_token_ends_the_connection() {
        for (client_id, code) in [(Some("bob"), 40102), (None, 40145)] {
            let mut realm = realm();
            let mut client = Client::as_client(&mut realm, "alice");
            let other = client_id
                .map_or_else(String::new, |client_id| token(&mut realm, &json!({ "clientId": client_id }), NOW_MS));
            client.send(&mut realm, json!({ "action": action::AUTH, "auth": { "accessToken": other } }), NOW_MS);
            let last = client.next();
            assert_eq!((&last["action"], &last["error"]["code"]), (&json!(action::ERROR), &json!(code)));
            assert!(realm.connections().is_empty());
        }
    }

    #[test]
    fn a_narrower_token_takes_channels_and_modes_away() {
        let mut realm = realm();
        let mut client = Client::as_client(&mut realm, "alice");
        client.attach(&mut realm, "kept");
        client.attach(&mut realm, "lost");
        let narrower =
            token(&mut realm, &json!({ "clientId": "alice", "capability": r#"{"kept":["publish"]}"# }), NOW_MS);
        client.send(&mut realm, json!({ "action": action::AUTH, "auth": { "accessToken": narrower } }), NOW_MS);
        assert_eq!(client.next()["action"], action::CONNECTED);
        let kept = client.next();
        assert_eq!(
            (&kept["action"], &kept["flags"]),
            (&json!(action::ATTACHED), &json!(flag::PUBLISH | flag::RESUMED))
        );
        let lost = client.next();
        assert_eq!((&lost["channel"], &lost["error"]["code"]), (&json!("lost"), &json!(40160)));
        assert_eq!(realm.connections()[0].channels, ["kept"]);
    }

    #[test]
    fn revocation_ends_connections_at_once_or_after_a_margin() {
        let key = Credential::Key(KEY.to_owned());
        for (margin, applies_after_ms) in [(false, 0), (true, 30_000)] {
            let mut realm = realm();
            let mut alice = Client::as_client(&mut realm, "alice");
            let mut bob = Client::as_client(&mut realm, "bob");
            let body = json!({ "targets": ["clientId:alice"], "allowReauthMargin": margin });
            realm.revoke_tokens("app.key", &key, &body, AnswerShape::Counted, NOW_MS).unwrap();
            if margin {
                assert_eq!(alice.next()["action"], action::AUTH);
                assert_eq!(realm.next_tick_ms(alice.socket, NOW_MS), Some(NOW_MS + applies_after_ms));
                realm.tick(alice.socket, NOW_MS + applies_after_ms);
            }
            let last = alice.next();
            assert_eq!((&last["action"], &last["error"]["code"]), (&json!(action::DISCONNECTED), &json!(40141)));
            assert!(bob.is_quiet());
            assert_eq!(realm.connections().len(), 1);
        }
    }

    #[test]
    fn a_client_with_a_margin_is_asked_once_whoever_else_is_revoked_meanwhile() {
        let key = Credential::Key(KEY.to_owned());
        let mut realm = realm();
        let mut alice = Client::as_client(&mut realm, "alice");
        let mut bob = Client::as_client(&mut realm, "bob");
        for client_id in ["alice", "bob"] {
            let body = json!({ "targets": [format!("clientId:{client_id}")], "allowReauthMargin": true });
            realm.revoke_tokens("app.key", &key, &body, AnswerShape::Counted, NOW_MS).unwrap();
        }
        for client in [&mut alice, &mut bob] {
            assert_eq!(client.next()["action"], action::AUTH);
            assert!(client.is_quiet());
        }
    }

    #[test]
    fn a_jwt_is_revoked_by_its_revocation_key() {
        let mut realm = realm();
        let key = ApiKey::parse(KEY).unwrap();
        let jwt = jwt(
            &key,
            &json!({ "typ": "JWT", "alg": "HS256", "kid": "app.key" }),
            &json!({
                "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 60, "x-ably-capability": r#"{"*":["*"]}"#,
                "x-ably-revocation-key": "sess_1"
            }),
        );
        let credential = Credential::Token(jwt);
        realm.authenticate(&credential, NOW_MS + 1).unwrap();
        realm
            .revoke_tokens(
                "app.key",
                &Credential::Key(KEY.to_owned()),
                &json!({ "targets": ["revocationKey:sess_1"] }),
                AnswerShape::Counted,
                NOW_MS + 1,
            )
            .unwrap();
        let error = realm.authenticate(&credential, NOW_MS + 1).unwrap_err();
        assert_eq!((error.status, error.code), (401, 40141));
    }

    #[test]
    fn attachments_have_the_modes_that_the_capability_allows() {
        for (operations, modes) in [
            (r#"["publish"]"#, flag::PUBLISH),
            (r#"["subscribe"]"#, flag::SUBSCRIBE | flag::PRESENCE_SUBSCRIBE),
            (r#"["presence","publish"]"#, flag::PRESENCE | flag::PUBLISH),
            (r#"["*"]"#, flag::DEFAULT_MODES),
        ] {
            let mut realm = realm();
            let token = token(&mut realm, &json!({ "capability": format!(r#"{{"chat:*":{operations}}}"#) }), NOW_MS);
            let (mut client, _) = Client::connect(&mut realm, &opening(token), NOW_MS);
            assert_eq!(client.attach(&mut realm, "chat:a")["flags"], modes);
            let refused = client.attach(&mut realm, "news");
            assert_eq!(
                (&refused["action"], &refused["channel"], &refused["error"]["code"]),
                (&json!(action::ERROR), &json!("news"), &json!(40160))
            );
        }
    }

    #[test]
    fn a_publish_is_acknowledged_or_refused_with_the_reason() {
        let mut realm = realm();
        let token = token(&mut realm, &json!({ "clientId": "alice", "capability": r#"{"chat":["publish"]}"# }), NOW_MS);
        let (mut client, _) = Client::connect(&mut realm, &opening(token), NOW_MS);
        let large = "x".repeat(70_000);
        for (channel, message, code) in [
            ("chat", json!({ "data": "hi" }), json!(null)),
            ("chat", json!({ "data": "hi", "clientId": "alice" }), json!(null)),
            ("chat", json!({ "data": "hi", "clientId": "bob" }), json!(40012)),
            ("chat", json!({ "data": 1 }), json!(40013)),
            ("chat", json!({ "data": large }), json!(40009)),
            ("chat", json!({ "action": 1 }), json!(40000)),
            ("news", json!({ "data": "hi" }), json!(40160)),
            ("", json!({ "data": "hi" }), json!(40010)),
        ] {
            client.send(
                &mut realm,
                json!({ "action": action::MESSAGE, "channel": channel, "messages": [message] }),
                NOW_MS,
            );
            let answer = client.next();
            let expected = if code.is_null() { action::ACK } else { action::NACK };
            assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!(expected), &code));
        }
    }

    #[test]
    fn a_resumed_connection_gets_what_it_missed_and_publishes_nothing_twice() {
        let mut realm = realm();
        let mut alice = Client::as_client(&mut realm, "alice");
        let mut bob = Client::as_client(&mut realm, "bob");
        bob.attach(&mut realm, "chat");
        let token = token(&mut realm, &json!({ "clientId": "carol" }), NOW_MS);
        let (mut carol, connected) = Client::connect(&mut realm, &opening(token.clone()), NOW_MS);
        let serial = carol.attach(&mut realm, "chat")["channelSerial"].clone();
        let publish = |client: &Client, realm: &mut Realm| {
            client.send(
                realm,
                json!({ "action": action::MESSAGE, "channel": "chat", "msgSerial": 0, "messages": [{ "data": "hi" }] }),
                NOW_MS,
            );
        };
        publish(&carol, &mut realm);
        realm.part(carol.socket, Parting::Broken, NOW_MS);
        publish(&alice, &mut realm);
        assert_eq!(alice.next()["action"], action::ACK);

        let mut again = opening(token);
        again.resume = connected["connectionDetails"]["connectionKey"].as_str().map(str::to_owned);
        let (mut carol, resumed) = Client::connect(&mut realm, &again, NOW_MS + 120_000);
        assert_eq!(resumed["connectionId"], connected["connectionId"]);
        carol.send(&mut realm, json!({ "action": action::ATTACH, "channel": "chat", "channelSerial": serial }), NOW_MS);
        let attached = carol.next();
        assert_eq!(attached["flags"], flag::DEFAULT_MODES | flag::RESUMED | flag::HAS_BACKLOG);
        assert_eq!(carol.next()["messages"][0]["clientId"], "carol");
        assert_eq!(carol.next()["messages"][0]["clientId"], "alice");
        assert_eq!(carol.next()["action"], action::SYNC);
        publish(&carol, &mut realm);
        assert_eq!(carol.next()["action"], action::ACK);
        let _ = (bob.next(), bob.next());
        assert!(bob.is_quiet());

        let (_, refused) = Client::connect(&mut realm, &again, NOW_MS + 120_000);
        assert_eq!(refused["error"]["code"], 80018);
    }

    #[test]
    fn members_leave_when_their_connection_closes_or_stays_away() {
        for (parting, away_ms) in [(Parting::Closed, 0), (Parting::Broken, 15_001)] {
            let mut realm = realm();
            let mut alice = Client::as_client(&mut realm, "alice");
            let mut bob = Client::as_client(&mut realm, "bob");
            alice.attach(&mut realm, "chat");
            bob.attach(&mut realm, "chat");
            alice.send(
                &mut realm,
                json!({
                    "action": action::PRESENCE, "channel": "chat", "msgSerial": 0, "presence": [{ "action": 2 }]
                }),
                NOW_MS,
            );
            assert_eq!(bob.next()["presence"][0]["clientId"], "alice");
            realm.part(alice.socket, parting, NOW_MS);
            if parting == Parting::Broken {
                realm.sweep(NOW_MS + 15_000);
                assert!(bob.is_quiet());
                realm.sweep(NOW_MS + away_ms);
            }
            assert_eq!(bob.next()["presence"][0]["action"], 3);
        }
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go() {
        let mut realm = realm();
        let alice = Client::as_client(&mut realm, "alice");
        for _ in 0..100 {
            alice.send(&mut realm, json!({ "action": action::HEARTBEAT }), NOW_MS);
        }
        assert!(realm.connections().is_empty());
    }

    #[test]
    fn who_may_be_on_a_connection_follows_the_token() {
        for (own, named, on_it) in [
            (json!("alice"), None, Ok(Some("alice"))),
            (json!("alice"), Some("alice"), Ok(Some("alice"))),
            (json!("alice"), Some("bob"), Err(40102)),
            (json!("*"), Some("bob"), Ok(Some("bob"))),
            (json!("*"), None, Ok(Some("*"))),
            (json!(null), None, Ok(None)),
            (json!(null), Some("bob"), Err(40102)),
        ] {
            let mut realm = realm();
            let mut opening = opening(token(&mut realm, &json!({ "clientId": own }), NOW_MS));
            opening.client_id = named.map(str::to_owned);
            let (queue, _received) = mpsc::channel(64);
            let outcome = realm
                .connect(&opening, queue, NOW_MS)
                .map(|_| realm.connections()[0].client_id.clone())
                .map_err(|error| error.code);
            assert_eq!(outcome.as_ref().map(Option::as_deref), on_it.as_ref().copied(), "{own} {named:?}");
        }
    }

    #[test]
    fn each_credential_that_is_not_good_has_its_code() {
        let mut realm = realm();
        let expired = token(&mut realm, &json!({ "ttl": 1 }), NOW_MS);
        for (credential, code) in [
            (Credential::Nothing, 40101),
            (Credential::Key("app.key:wrong".to_owned()), 40101),
            (Credential::Key(String::new()), 40101),
            (Credential::Token(expired), 40142),
            (Credential::Token("app.unknown".to_owned()), 40143),
            (Credential::Token("a.b.c".to_owned()), 40144),
            (Credential::Token("nonsense".to_owned()), 40145),
        ] {
            let error = realm.authenticate(&credential, NOW_MS + 1).unwrap_err();
            assert_eq!((error.status, error.code), (401, code), "{credential:?}");
        }
    }
}
