//! Realtime connections (`RTN*`, `RTL*`, `RTP*`): what each protocol message from a client does, what time does to a
//! token, and who receives what. Every answer goes into the connection's queue; a socket empties it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::{
    ConnectionInfo,
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

    /// Ends the connections whose token is revoked, and asks those with a margin for a new token.
    pub(super) fn enforce_revocations(&mut self, now_ms: i64) {
        let sockets: Vec<u64> = self.connections.keys().copied().collect();
        for socket in sockets {
            let Some(connection) = self.connections.get_mut(&socket) else {
                continue;
            };
            match self.revocations.standing(&connection.grant, now_ms) {
                Standing::Good => {}
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
        self.enqueue(socket, Outgoing::Last(Arc::new(message)), now_ms);
        self.part(socket, parting, now_ms);
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
        let Some(connection) = self.connections.remove(&socket) else {
            return;
        };
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
            })
            .collect()
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
