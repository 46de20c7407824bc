//! The realtime protocol on the wire (`TR*`): actions, flags, and protocol messages as JSON or MessagePack. Inside
//! the stand-in every message is JSON. Binary data becomes base64 with its encoding noted, as a JSON client sends it
//! (`RSL4`).

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};

use super::error::ErrorInfo;

/// The largest publish, in bytes of its messages as JSON (`CD2c`).
pub(crate) const LARGEST_PUBLISH: usize = 64 * 1024;

/// The largest frame, in bytes (`CD2d`).
pub(crate) const LARGEST_FRAME: usize = 512 * 1024;

/// The longest silence of the server, in milliseconds (`CD2h`).
pub(crate) const MAX_IDLE_MS: i64 = 15_000;

const DEEPEST: usize = 64;
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Actions of protocol messages (`TR2`).
pub(crate) mod action {
    pub(crate) const HEARTBEAT: u8 = 0;
    pub(crate) const ACK: u8 = 1;
    pub(crate) const NACK: u8 = 2;
    pub(crate) const CONNECTED: u8 = 4;
    pub(crate) const DISCONNECT: u8 = 5;
    pub(crate) const DISCONNECTED: u8 = 6;
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const CLOSED: u8 = 8;
    pub(crate) const ERROR: u8 = 9;
    pub(crate) const ATTACH: u8 = 10;
    pub(crate) const ATTACHED: u8 = 11;
    pub(crate) const DETACH: u8 = 12;
    pub(crate) const DETACHED: u8 = 13;
    pub(crate) const PRESENCE: u8 = 14;
    pub(crate) const MESSAGE: u8 = 15;
    pub(crate) const SYNC: u8 = 16;
    pub(crate) const AUTH: u8 = 17;
}

/// Flags of an attachment, and its modes (`TR3`).
pub(crate) mod flag {
    pub(crate) const HAS_PRESENCE: u32 = 1;
    pub(crate) const HAS_BACKLOG: u32 = 1 << 1;
    pub(crate) const RESUMED: u32 = 1 << 2;
    pub(crate) const PRESENCE: u32 = 1 << 16;
    pub(crate) const PUBLISH: u32 = 1 << 17;
    pub(crate) const SUBSCRIBE: u32 = 1 << 18;
    pub(crate) const PRESENCE_SUBSCRIBE: u32 = 1 << 19;
    pub(crate) const ANNOTATION_PUBLISH: u32 = 1 << 21;
    pub(crate) const ANNOTATION_SUBSCRIBE: u32 = 1 << 22;
    pub(crate) const OBJECT_SUBSCRIBE: u32 = 1 << 24;
    pub(crate) const OBJECT_PUBLISH: u32 = 1 << 25;

    /// Each mode and the operation that it requires.
    pub(crate) const MODES: [(u32, &str); 8] = [
        (PRESENCE, "presence"),
        (PUBLISH, "publish"),
        (SUBSCRIBE, "subscribe"),
        (PRESENCE_SUBSCRIBE, "subscribe"),
        (ANNOTATION_PUBLISH, "annotation-publish"),
        (ANNOTATION_SUBSCRIBE, "annotation-subscribe"),
        (OBJECT_SUBSCRIBE, "object-subscribe"),
        (OBJECT_PUBLISH, "object-publish"),
    ];

    /// The modes of an attachment that requests no modes (`TB2d`).
    pub(crate) const DEFAULT_MODES: u32 = PRESENCE | PUBLISH | SUBSCRIBE | PRESENCE_SUBSCRIBE;
}

/// Presence actions (`TP2`).
pub(crate) mod presence {
    pub(crate) const PRESENT: u64 = 1;
    pub(crate) const ENTER: u64 = 2;
    pub(crate) const LEAVE: u64 = 3;
    pub(crate) const UPDATE: u64 = 4;
}

/// A protocol message from a client. Fields that the stand-in does not use are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientMessage {
    pub(crate) action: u8,
    pub(crate) id: Option<String>,
    pub(crate) channel: Option<String>,
    pub(crate) channel_serial: Option<String>,
    pub(crate) msg_serial: Option<i64>,
    pub(crate) flags: Option<u32>,
    pub(crate) messages: Option<Vec<Map<String, Value>>>,
    pub(crate) presence: Option<Vec<Map<String, Value>>>,
    pub(crate) auth: Option<ClientAuth>,
}

/// The new token of an AUTH message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientAuth {
    pub(crate) access_token: Option<String>,
}

/// An ERROR about one channel.
pub(crate) fn channel_error(channel: &str, error: ErrorInfo) -> Value {
    json!({ "action": action::ERROR, "channel": channel, "error": error.to_json() })
}

impl ClientMessage {
    pub(crate) fn read(value: Value) -> Result<Self, ErrorInfo> {
        serde_json::from_value(value).map_err(|_| ErrorInfo::bad_request("the protocol message is malformed"))
    }
}

/// The encoding of a body or a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    MessagePack,
}

impl Format {
    /// The format with this name in the `format` parameter.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "msgpack" => Some(Self::MessagePack),
            _ => None,
        }
    }

    /// Without charset: ably-js in Node compares the exact value.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/x-msgpack",
        }
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Result<Value, ErrorInfo> {
        match self {
            Self::Json => {
                serde_json::from_slice(bytes).map_err(|_| ErrorInfo::bad_request("the body is not valid JSON"))
            }
            Self::MessagePack => {
                let malformed = ErrorInfo::bad_request("the body is not valid MessagePack");
                let mut rest = bytes;
                let value = rmpv::decode::read_value_with_max_depth(&mut rest, DEEPEST).map_err(|_| malformed)?;
                if !rest.is_empty() {
                    return Err(malformed);
                }
                json_of(value).ok_or(malformed)
            }
        }
    }

    pub(crate) fn encode(self, value: &Value) -> Vec<u8> {
        match self {
            Self::Json => value.to_string().into_bytes(),
            Self::MessagePack => rmp_serde::to_vec(value).unwrap_or_default(),
        }
    }
}

/// `None` if JSON cannot express the value: a map whose keys are not text.
fn json_of(value: rmpv::Value) -> Option<Value> {
    Some(match value {
        rmpv::Value::Nil | rmpv::Value::Ext(..) => Value::Null,
        rmpv::Value::Boolean(boolean) => Value::Bool(boolean),
        rmpv::Value::Integer(integer) => integer
            .as_i64()
            .map(Number::from)
            .or_else(|| integer.as_u64().map(Number::from))
            .map_or(Value::Null, Value::Number),
        rmpv::Value::F32(float) => number_of(f64::from(float)),
        rmpv::Value::F64(float) => number_of(float),
        rmpv::Value::String(text) => Value::String(text.into_str()?),
        rmpv::Value::Binary(bytes) => Value::String(BASE64_STANDARD.encode(bytes)),
        rmpv::Value::Array(items) => Value::Array(items.into_iter().map(json_of).collect::<Option<_>>()?),
        rmpv::Value::Map(entries) => Value::Object(object_of(entries)?),
    })
}

fn object_of(entries: Vec<(rmpv::Value, rmpv::Value)>) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    let mut binary_data = false;
    for (name, value) in entries {
        let name = name.as_str()?.to_owned();
        binary_data |= name == "data" && matches!(value, rmpv::Value::Binary(_));
        object.insert(name, json_of(value)?);
    }
    if binary_data {
        let encoding = match object.get("encoding").and_then(Value::as_str) {
            Some(encoding) if !encoding.is_empty() => format!("{encoding}/base64"),
            _ => "base64".to_owned(),
        };
        object.insert("encoding".to_owned(), Value::String(encoding));
    }
    Some(object)
}

/// JavaScript encodes some whole numbers as floats.
fn number_of(float: f64) -> Value {
    if float.fract() == 0.0 && float.abs() <= LARGEST_EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 2^53")]
        let whole = float as i64;
        return Value::from(whole);
    }
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use rmpv::Value as Packed;
    use serde_json::json;

    use super::{ClientMessage, Format};

    fn packed(value: &Packed) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    #[test]
    fn message_pack_decodes_to_the_json_of_a_json_client() {
        let data = Packed::Binary(vec![1, 2, 3]);
        for (encoding, noted) in
            [(Packed::Nil, "base64"), (Packed::from("utf-8/cipher+aes"), "utf-8/cipher+aes/base64")]
        {
            let message = Packed::Map(vec![
                (Packed::from("data"), data.clone()),
                (Packed::from("encoding"), encoding),
                (Packed::from("timestamp"), Packed::F64(1_795_289_000_000.0)),
                (Packed::from("ratio"), Packed::F64(0.5)),
                (Packed::from("text"), Packed::Map(vec![(Packed::from("data"), Packed::from("plain"))])),
                (Packed::from("nothing"), Packed::F64(f64::NAN)),
            ]);
            assert_eq!(
                Format::MessagePack.decode(&packed(&message)).unwrap(),
                json!({
                    "data": "AQID", "encoding": noted, "timestamp": 1_795_289_000_000_i64, "ratio": 0.5,
                    "text": { "data": "plain" }, "nothing": null
                })
            );
        }
    }

    #[test]
    fn both_formats_round_trip() {
        let value = json!({ "action": 4, "id": "é", "list": [1, -1, 1_795_289_000_000_i64, null, true], "map": {} });
        for format in [Format::Json, Format::MessagePack] {
            assert_eq!(format.decode(&format.encode(&value)).unwrap(), value);
        }
    }

    #[test]
    fn malformed_messages_are_refused_with_40000() {
        let deep = [vec![0x91; 10_000], packed(&Packed::Nil)].concat();
        let numbered = packed(&Packed::Map(vec![(Packed::from(1), Packed::Nil)]));
        for bytes in [&[][..], &[0xc0, 0xc0], &[0xdd, 0xff, 0xff, 0xff, 0xff], &deep, &numbered] {
            assert_eq!(Format::MessagePack.decode(bytes).unwrap_err().code, 40000);
        }
        let brackets = "[".repeat(10_000);
        for text in ["", "{", brackets.as_str()] {
            assert_eq!(Format::Json.decode(text.as_bytes()).unwrap_err().code, 40000);
        }
        for value in [
            json!(null),
            json!({}),
            json!({ "action": "4" }),
            json!({ "action": 999 }),
            json!({ "action": 15, "messages": [1] }),
        ] {
            assert_eq!(ClientMessage::read(value).unwrap_err().code, 40000);
        }
    }
}
