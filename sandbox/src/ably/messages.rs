//! Publishing, history and presence of channels, and the checks that messages must pass.

use serde_json::{Map, Value, json};

use super::{
    access::Access,
    app::AblyApp,
    channel::{HistoryPage, HistoryQuery},
    error::ErrorInfo,
    fields::text,
    protocol::{LARGEST_PUBLISH, flag, presence},
};

const LONGEST_CHANNEL_NAME: usize = 1024;

impl AblyApp {
    /// `POST /channels/{name}/messages` (`RSL1`).
    pub(crate) fn publish(
        &mut self,
        access: &Access,
        channel: &str,
        body: Value,
        now_ms: i64,
    ) -> Result<Value, ErrorInfo> {
        let messages = match body {
            Value::Array(messages) => messages,
            message => vec![message],
        };
        let messages = messages
            .into_iter()
            .map(|message| match message {
                Value::Object(fields) => Ok(fields),
                _ => Err(ErrorInfo::bad_request("a message must be an object")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let messages = Self::checked_messages(access, access.client_id.as_deref(), channel, messages)?;
        let id = self.fresh_id();
        let (frame, serials) = self.channel(channel)?.publish(channel, &id, None, messages, now_ms);
        self.deliver(channel, &frame, flag::SUBSCRIBE, None, now_ms);
        Ok(json!({ "channel": channel, "messageId": id, "serials": serials }))
    }

    /// Checks messages to publish, and returns them as subscribers see them.
    pub(super) fn checked_messages(
        access: &Access,
        client_id: Option<&str>,
        channel: &str,
        messages: Vec<Map<String, Value>>,
    ) -> Result<Vec<Map<String, Value>>, ErrorInfo> {
        check_channel_name(channel)?;
        if !access.capability.allows(channel, "publish") {
            return Err(ErrorInfo::not_permitted("the capability does not allow publish on this channel"));
        }
        if messages.is_empty() {
            return Err(ErrorInfo::bad_request("the list of messages is empty"));
        }
        let mut size = 0;
        let mut checked = Vec::with_capacity(messages.len());
        for message in messages {
            let message = checked_message(access, client_id, channel, message)?;
            size += message.values().map(|value| value.to_string().len()).sum::<usize>();
            checked.push(message);
        }
        if size > LARGEST_PUBLISH {
            return Err(ErrorInfo::new(400, 40009, "the messages are too large"));
        }
        Ok(checked)
    }

    /// `GET /channels/{name}/messages` (`RSL2`).
    pub(crate) fn history(
        &self,
        access: &Access,
        channel: &str,
        query: &HistoryQuery,
    ) -> Result<HistoryPage, ErrorInfo> {
        check_channel_name(channel)?;
        if !access.capability.allows(channel, "history") {
            return Err(ErrorInfo::not_permitted("the capability does not allow history on this channel"));
        }
        Ok(self
            .channels
            .get(channel)
            .map_or(HistoryPage { messages: Vec::new(), next: None }, |channel| channel.history(query)))
    }

    /// `GET /channels/{name}/presence` (`RSP3`).
    pub(crate) fn present(&self, access: &Access, channel: &str) -> Result<Value, ErrorInfo> {
        check_channel_name(channel)?;
        if !["subscribe", "presence"].iter().any(|operation| access.capability.allows(channel, operation)) {
            return Err(ErrorInfo::not_permitted(
                "the capability allows neither subscribe nor presence on this channel",
            ));
        }
        Ok(self
            .channels
            .get(channel)
            .map_or(json!([]), |channel| channel.members().map(|(_, member)| json!(member)).collect()))
    }
}

/// Checks a channel name; 40010 if it is invalid.
pub(super) fn check_channel_name(name: &str) -> Result<(), ErrorInfo> {
    let valid =
        !name.is_empty() && name.len() <= LONGEST_CHANNEL_NAME && !name.starts_with(':') && !name.contains('\n');
    if valid { Ok(()) } else { Err(ErrorInfo::new(400, 40010, "the channel name is invalid")) }
}

/// Keeps the fields that a publisher may set, and adds those that the token determines.
fn checked_message(
    access: &Access,
    client_id: Option<&str>,
    channel: &str,
    mut sent: Map<String, Value>,
) -> Result<Map<String, Value>, ErrorInfo> {
    if sent.get("action").and_then(Value::as_u64).unwrap_or(0) != 0 {
        return Err(ErrorInfo::bad_request("the stand-in does not support updating or deleting messages"));
    }
    let requested = text(&sent, "clientId", "the clientId of a message must be a string")?;
    let publisher = Access::publisher_client_id(client_id, requested.as_deref())?;
    text(&sent, "name", "the name of a message must be a string")?;
    text(&sent, "id", "the id of a message must be a string")?;
    text(&sent, "encoding", "the encoding of a message must be a string")?;
    let mut message: Map<String, Value> = ["id", "name", "data", "encoding", "extras"]
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), sent.remove(field)?)))
        .filter(|(_, value)| !value.is_null())
        .collect();
    match message.get("data") {
        None | Some(Value::String(_)) => {}
        Some(data @ (Value::Object(_) | Value::Array(_))) => {
            let data = data.to_string();
            let encoding = match message.get("encoding").and_then(Value::as_str) {
                Some(encoding) if !encoding.is_empty() => format!("{encoding}/json"),
                _ => "json".to_owned(),
            };
            message.insert("data".to_owned(), json!(data));
            message.insert("encoding".to_owned(), json!(encoding));
        }
        Some(_) => {
            return Err(ErrorInfo::new(400, 40013, "the data of a message must be text, binary, an object or a list"));
        }
    }
    if let Some(publisher) = publisher {
        message.insert("clientId".to_owned(), json!(publisher));
    }
    if let Some(claim) = access.claim_on(channel) {
        let extras = message.entry("extras").or_insert_with(|| json!({}));
        if let Some(extras) = extras.as_object_mut() {
            extras.insert("userClaim".to_owned(), json!(claim));
        }
    }
    Ok(message)
}

/// Keeps the fields of a presence message that a client may set.
pub(super) fn checked_presence(
    client_id: Option<&str>,
    mut sent: Map<String, Value>,
) -> Result<Map<String, Value>, ErrorInfo> {
    let change = sent.get("action").and_then(Value::as_u64);
    if !matches!(change, Some(presence::ENTER | presence::LEAVE | presence::UPDATE)) {
        return Err(ErrorInfo::bad_request("the action of a presence message must be enter, update or leave"));
    }
    let requested = text(&sent, "clientId", "the clientId of a presence message must be a string")?;
    let publisher = Access::publisher_client_id(client_id, requested.as_deref())?.ok_or(ErrorInfo::new(
        400,
        91000,
        "presence requires a client ID",
    ))?;
    let mut checked: Map<String, Value> = ["action", "data", "encoding", "extras"]
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), sent.remove(field)?)))
        .filter(|(_, value)| !value.is_null())
        .collect();
    checked.insert("clientId".to_owned(), json!(publisher));
    if Value::Object(checked.clone()).to_string().len() > LARGEST_PUBLISH {
        return Err(ErrorInfo::new(400, 40009, "the presence message is too large"));
    }
    Ok(checked)
}
