//! One channel: recent messages, members, and the serials with which a client resumes (`RTL4c1`). Permissions are
//! checked elsewhere.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::protocol::{action, presence};

const MOST_PUBLISHED: usize = 100;
const MOST_BYTES: usize = 256 * 1024;

/// The most members of one channel.
pub(crate) const MOST_MEMBERS: usize = 200;

/// Client ID and connection ID of a member.
pub(crate) type MemberKey = (String, String);

#[derive(Debug)]
pub(crate) struct Channel {
    epoch: Arc<str>,
    sequence: u64,
    published: VecDeque<Published>,
    bytes: usize,
    forgotten_through: u64,
    members: BTreeMap<MemberKey, Map<String, Value>>,
}

#[derive(Debug)]
struct Published {
    sequence: u64,
    at_ms: i64,
    frame: Arc<Value>,
    bytes: usize,
}

/// The messages that a history request selects.
#[derive(Debug, Clone)]
pub(crate) struct HistoryQuery {
    pub(crate) forwards: bool,
    pub(crate) limit: usize,
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// The serial of the last message of the previous page.
    pub(crate) after: Option<String>,
}

/// A page of history.
#[derive(Debug, PartialEq)]
pub(crate) struct HistoryPage {
    pub(crate) messages: Vec<Value>,
    /// The serial after which the next page starts; `None` on the last page.
    pub(crate) next: Option<String>,
}

impl Channel {
    /// An empty channel. Serials of another epoch are unknown to it.
    pub(crate) fn new(epoch: Arc<str>) -> Self {
        Self {
            epoch,
            sequence: 0,
            published: VecDeque::new(),
            bytes: 0,
            forgotten_through: 0,
            members: BTreeMap::new(),
        }
    }

    /// The current channel serial (`TR4n`).
    pub(crate) fn serial(&self) -> String {
        self.serial_at(self.sequence)
    }

    fn serial_at(&self, sequence: u64) -> String {
        format!("{}-{sequence:012}", self.epoch)
    }

    /// Completes and stores the messages of one publish. Returns the frame for subscribers and the message serials.
    pub(crate) fn publish(
        &mut self,
        name: &str,
        id: &str,
        connection_id: Option<&str>,
        mut messages: Vec<Map<String, Value>>,
        now_ms: i64,
    ) -> (Arc<Value>, Vec<String>) {
        self.sequence += 1;
        let serial = self.serial();
        let mut serials = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter_mut().enumerate() {
            let message_serial = format!("{serial}-{index:03}");
            message.entry("id").or_insert_with(|| json!(format!("{id}:{index}")));
            message.insert("timestamp".to_owned(), json!(now_ms));
            message.insert("action".to_owned(), json!(0));
            message.insert("serial".to_owned(), json!(message_serial));
            if let Some(connection_id) = connection_id {
                message.insert("connectionId".to_owned(), json!(connection_id));
            }
            serials.push(message_serial);
        }
        let mut frame = json!({
            "action": action::MESSAGE, "channel": name, "channelSerial": serial, "id": id, "timestamp": now_ms,
            "messages": messages
        });
        if let Some(connection_id) = connection_id {
            frame["connectionId"] = json!(connection_id);
        }
        let frame = Arc::new(frame);
        let bytes = frame.to_string().len();
        self.bytes += bytes;
        self.published.push_back(Published {
            sequence: self.sequence,
            at_ms: now_ms,
            frame: Arc::clone(&frame),
            bytes,
        });
        while self.published.len() > MOST_PUBLISHED || self.bytes > MOST_BYTES {
            let Some(oldest) = self.published.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            self.forgotten_through = oldest.sequence;
        }
        (frame, serials)
    }

    /// The frames published after a serial; `None` if the serial is of another epoch, or if one of them is forgotten or
    /// from before `oldest_ms`.
    pub(crate) fn published_since(&self, serial: &str, oldest_ms: i64) -> Option<Vec<Arc<Value>>> {
        let (epoch, sequence) = serial.rsplit_once('-')?;
        let sequence: u64 = sequence.parse().ok()?;
        if epoch != &*self.epoch || sequence < self.forgotten_through || sequence > self.sequence {
            return None;
        }
        let missed = self.published.iter().filter(|published| published.sequence > sequence);
        missed.map(|published| (published.at_ms >= oldest_ms).then(|| Arc::clone(&published.frame))).collect()
    }

    /// A page of history (`RSL2`).
    pub(crate) fn history(&self, query: &HistoryQuery) -> HistoryPage {
        let serial_of = |message: &Value| message["serial"].as_str().unwrap_or_default().to_owned();
        let mut messages: Vec<Value> = self
            .published
            .iter()
            .flat_map(|published| published.frame["messages"].as_array().into_iter().flatten())
            .filter(|message| {
                let timestamp = message["timestamp"].as_i64().unwrap_or_default();
                (query.start_ms..=query.end_ms).contains(&timestamp)
            })
            .filter(|message| match &query.after {
                None => true,
                Some(after) if query.forwards => serial_of(message) > *after,
                Some(after) => serial_of(message) < *after,
            })
            .cloned()
            .collect();
        if !query.forwards {
            messages.reverse();
        }
        let next = (messages.len() > query.limit)
            .then(|| messages.get(query.limit.saturating_sub(1)).map(serial_of))
            .flatten();
        messages.truncate(query.limit);
        HistoryPage { messages, next }
    }

    /// Updates the members, and returns the frame for subscribers.
    pub(crate) fn change_presence(
        &mut self,
        name: &str,
        id: &str,
        connection_id: &str,
        changes: Vec<Map<String, Value>>,
        now_ms: i64,
    ) -> Arc<Value> {
        self.sequence += 1;
        let mut seen = Vec::with_capacity(changes.len());
        for (index, mut change) in changes.into_iter().enumerate() {
            change.insert("id".to_owned(), json!(format!("{id}:{index}")));
            change.insert("connectionId".to_owned(), json!(connection_id));
            change.insert("timestamp".to_owned(), json!(now_ms));
            let client_id = change.get("clientId").and_then(Value::as_str).unwrap_or_default();
            let key = (client_id.to_owned(), connection_id.to_owned());
            if change.get("action").and_then(Value::as_u64) == Some(presence::LEAVE) {
                self.members.remove(&key);
            } else {
                let mut member = change.clone();
                member.insert("action".to_owned(), json!(presence::PRESENT));
                self.members.insert(key, member);
            }
            seen.push(change);
        }
        Arc::new(json!({
            "action": action::PRESENCE, "channel": name, "channelSerial": self.serial(), "id": id,
            "connectionId": connection_id, "timestamp": now_ms, "presence": seen
        }))
    }

    /// All members in one complete SYNC (`RTP18c`).
    pub(crate) fn sync(&self, name: &str) -> Arc<Value> {
        Arc::new(json!({
            "action": action::SYNC, "channel": name, "channelSerial": format!("{}:", self.serial()),
            "presence": self.members.values().collect::<Vec<_>>()
        }))
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&MemberKey, &Map<String, Value>)> {
        self.members.iter()
    }

    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    pub(crate) fn is_full_for(&self, member: &MemberKey) -> bool {
        self.members.len() >= MOST_MEMBERS && !self.members.contains_key(member)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Channel, HistoryQuery, MOST_BYTES, MOST_PUBLISHED};

    fn message(data: &str) -> Vec<Map<String, Value>> {
        vec![json!({ "data": data }).as_object().unwrap().clone()]
    }

    fn query(forwards: bool, limit: usize, after: Option<String>) -> HistoryQuery {
        HistoryQuery { forwards, limit, start_ms: 0, end_ms: i64::MAX, after }
    }

    fn data(messages: &[Value]) -> Vec<&str> {
        messages.iter().map(|message| message["data"].as_str().unwrap()).collect()
    }

    #[test]
    fn history_pages_in_both_directions() {
        let mut channel = Channel::new("e".into());
        for name in ["a", "b", "c"] {
            channel.publish("chat", name, None, message(name), 1);
        }
        let page = channel.history(&query(false, 2, None));
        assert_eq!(data(&page.messages), ["c", "b"]);
        let page = channel.history(&query(false, 2, page.next));
        assert_eq!((data(&page.messages), page.next), (vec!["a"], None));
        let page = channel.history(&query(true, 2, None));
        assert_eq!(data(&page.messages), ["a", "b"]);
        let page = channel.history(&query(true, 2, page.next));
        assert_eq!(data(&page.messages), ["c"]);
    }

    #[test]
    fn a_client_that_resumes_in_time_gets_missed_messages() {
        let mut channel = Channel::new("e".into());
        channel.publish("chat", "a", None, message("a"), 1);
        let serial = channel.serial();
        assert_eq!(channel.published_since(&serial, 1).unwrap().len(), 0);
        channel.publish("chat", "b", None, message("b"), 1);
        assert_eq!(channel.published_since(&serial, 1).unwrap().len(), 1);
        assert!(channel.published_since(&serial, 2).is_none());
        for unknown in ["", "x", "f-000000000001", "e-x", "e-000000000009"] {
            assert!(channel.published_since(unknown, 1).is_none(), "{unknown}");
        }
        for _ in 0..MOST_PUBLISHED {
            channel.publish("chat", "c", None, message("c"), 1);
        }
        assert!(channel.published_since(&serial, 1).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut channel = Channel::new("e".into());
        let large = "x".repeat(60_000);
        for _ in 0..200 {
            channel.publish("chat", "a", None, message(&large), 1);
        }
        assert!(channel.bytes <= MOST_BYTES);
        assert!(channel.published.len() < 5);
    }
}
