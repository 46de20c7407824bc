//! Token requests (`RSA9`, `TE1`-`TE6`): the fields as sent, and the checks that Ably makes. The text is checked as
//! sent, whoever made it.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{api_key::ApiKey, capability::Capability, error::ErrorInfo, fields::text};

/// The largest difference between timestamp and clock, in milliseconds.
const TIMESTAMP_WINDOW_MS: i64 = 2 * 60 * 1000;

/// The default ttl, in milliseconds (`TK2a`).
const DEFAULT_TTL_MS: i64 = 60 * 60 * 1000;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const HOUR_MS: i64 = 60 * 60 * 1000;
const SHORTEST_NONCE: usize = 16;
const MOST_NONCES: usize = 1_000_000;

/// The largest capability, in bytes of its text.
const LONGEST_CAPABILITY: usize = 64 * 1024;

/// The longest ttl of a token, in milliseconds.
pub(crate) fn longest_ttl_ms(revocable_tokens: bool) -> i64 {
    if revocable_tokens { HOUR_MS } else { DAY_MS }
}

/// What authenticates a token request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Its `mac`.
    Mac,
    /// The API key, sent in the same call.
    ApiKey,
}

/// The fields as sent, not verified.
#[derive(Debug, Clone)]
pub(crate) struct TokenRequest {
    key_name: Option<String>,
    ttl: Option<i64>,
    capability: Option<String>,
    client_id: Option<String>,
    timestamp: i64,
    nonce: Option<String>,
    mac: Option<String>,
}

/// The verified fields that determine the token.
#[derive(Debug, Clone)]
pub(crate) struct CheckedTokenRequest {
    pub(crate) ttl_ms: i64,
    pub(crate) capability: Capability,
    pub(crate) client_id: Option<String>,
}

impl TokenRequest {
    /// Reads the fields, each of the right type. `RSA5` and `RSA6` omit missing fields, but Ably also accepts null:
    /// its Python SDK sends null for an unset ttl, capability or client ID.
    pub(crate) fn read(body: &Value) -> Result<Self, ErrorInfo> {
        let fields = body.as_object().ok_or(ErrorInfo::bad_request("the token request must be an object"))?;
        Ok(Self {
            key_name: text(fields, "keyName", "keyName must be a string")?,
            ttl: integer(fields, "ttl", ErrorInfo::new(400, 40003, "ttl must be an integer"))?,
            capability: text(fields, "capability", "capability must be a string of JSON")?,
            client_id: text(fields, "clientId", "clientId must be a string")?,
            timestamp: integer(fields, "timestamp", ErrorInfo::bad_request("timestamp must be an integer"))?
                .ok_or(ErrorInfo::bad_request("timestamp is missing"))?,
            nonce: text(fields, "nonce", "nonce must be a string")?,
            mac: text(fields, "mac", "mac must be a string")?,
        })
    }

    /// Makes every check in Ably's order. Only a request that passes all others uses up its nonce.
    pub(crate) fn check(
        &self,
        proof: Proof,
        key: &ApiKey,
        key_capability: &Capability,
        longest_ttl_ms: i64,
        nonces: &mut Nonces,
        now_ms: i64,
    ) -> Result<CheckedTokenRequest, ErrorInfo> {
        let names_key = self.key_name.as_deref() == Some(key.name());
        let may_omit_name = proof == Proof::ApiKey && self.key_name.is_none();
        if !names_key && !may_omit_name {
            return Err(ErrorInfo::invalid_credentials("the token request names another key"));
        }
        if proof == Proof::Mac || self.mac.is_some() {
            self.check_mac(key)?;
        }
        if (self.timestamp.saturating_sub(now_ms)).saturating_abs() > TIMESTAMP_WINDOW_MS {
            return Err(ErrorInfo::new(401, 40104, "the timestamp of the token request is more than 2 minutes off"));
        }
        let ttl_ms = self.ttl.unwrap_or(DEFAULT_TTL_MS);
        if !(1..=longest_ttl_ms).contains(&ttl_ms) {
            return Err(ErrorInfo::new(400, 40003, "ttl must be positive and no longer than the key allows"));
        }
        if self.client_id.as_deref() == Some("") {
            return Err(ErrorInfo::new(400, 40012, "clientId is empty"));
        }
        let capability = match self.capability.as_deref() {
            None | Some("") => key_capability.clone(),
            Some(text) if text.len() > LONGEST_CAPABILITY => {
                return Err(ErrorInfo::bad_request("the capability is too large"));
            }
            Some(text) => Capability::parse(text)?.intersect(key_capability),
        };
        if capability.is_empty() {
            return Err(ErrorInfo::not_permitted("the key allows nothing of the requested capability"));
        }
        match &self.nonce {
            Some(nonce) => nonces.use_up(nonce, self.timestamp, now_ms)?,
            None if proof == Proof::ApiKey => {}
            None => return Err(ErrorInfo::new(401, 40105, "nonce is missing")),
        }
        Ok(CheckedTokenRequest { ttl_ms, capability, client_id: self.client_id.clone() })
    }

    fn check_mac(&self, key: &ApiKey) -> Result<(), ErrorInfo> {
        let wrong = ErrorInfo::invalid_credentials("the mac of the token request is missing or wrong");
        let mac = self.mac.as_deref().ok_or(wrong)?;
        let mac = BASE64_STANDARD.decode(mac).map_err(|_| wrong)?;
        if key.verifies(self.signed_text().as_bytes(), &mac) { Ok(()) } else { Err(wrong) }
    }

    /// The signed text: six fields, each followed by a newline; a missing field is empty.
    fn signed_text(&self) -> String {
        let ttl = self.ttl.map(|ttl| ttl.to_string());
        let timestamp = self.timestamp.to_string();
        [
            self.key_name.as_deref(),
            ttl.as_deref(),
            self.capability.as_deref(),
            self.client_id.as_deref(),
            Some(timestamp.as_str()),
            self.nonce.as_deref(),
        ]
        .into_iter()
        .flat_map(|field| [field.unwrap_or_default(), "\n"])
        .collect()
    }
}

fn integer(fields: &Map<String, Value>, name: &str, wrong: ErrorInfo) -> Result<Option<i64>, ErrorInfo> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or(wrong),
    }
}

/// Digests of the used nonces, each kept while a token request with its timestamp would be accepted.
#[derive(Debug, Default)]
pub(crate) struct Nonces(HashMap<[u8; 32], i64>);

impl Nonces {
    fn use_up(&mut self, nonce: &str, timestamp: i64, now_ms: i64) -> Result<(), ErrorInfo> {
        if nonce.chars().count() < SHORTEST_NONCE {
            return Err(ErrorInfo::new(401, 40105, "nonce must have at least 16 characters"));
        }
        let digest = Sha256::digest(nonce.as_bytes()).into();
        if self.0.contains_key(&digest) {
            return Err(ErrorInfo::new(401, 40105, "nonce was used before"));
        }
        if self.0.len() >= MOST_NONCES {
            self.forget(now_ms);
        }
        if self.0.len() >= MOST_NONCES {
            return Err(ErrorInfo::new(503, 50003, "too many token requests in two minutes"));
        }
        self.0.insert(digest, timestamp.saturating_add(TIMESTAMP_WINDOW_MS));
        Ok(())
    }

    /// Forgets nonces whose token requests are too old.
    pub(crate) fn forget(&mut self, now_ms: i64) {
        self.0.retain(|_, needed_until| *needed_until >= now_ms);
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde_json::{Value, json};

    use super::{CheckedTokenRequest, DAY_MS, HOUR_MS, Nonces, Proof, TokenRequest};
    use crate::ably::{api_key::ApiKey, capability::Capability, error::ErrorInfo};

    const NOW_MS: i64 = 1_795_289_000_000;

    fn key() -> ApiKey {
        ApiKey::parse("app.key:secret").unwrap()
    }

    fn signed(fields: &Value) -> Value {
        let mut signed = json!({
            "keyName": "app.key", "clientId": "alice", "timestamp": NOW_MS, "nonce": "0123456789abcdef"
        });
        for (name, value) in fields.as_object().unwrap() {
            signed[name] = value.clone();
        }
        let text: String = ["keyName", "ttl", "capability", "clientId", "timestamp", "nonce"]
            .iter()
            .map(|name| match signed.get(name) {
                None | Some(Value::Null) => "\n".to_owned(),
                Some(Value::String(text)) => format!("{text}\n"),
                Some(other) => format!("{other}\n"),
            })
            .collect();
        signed["mac"] = json!(BASE64_STANDARD.encode(key().sign(text.as_bytes())));
        signed
    }

    fn check_with(body: &Value, nonces: &mut Nonces, now_ms: i64) -> Result<CheckedTokenRequest, ErrorInfo> {
        let everything = Capability::parse(r#"{"chat:*":["*"],"news":["subscribe"]}"#).unwrap();
        TokenRequest::read(body)?.check(Proof::Mac, &key(), &everything, DAY_MS, nonces, now_ms)
    }

    fn check_now(body: &Value) -> Result<CheckedTokenRequest, ErrorInfo> {
        check_with(body, &mut Nonces::default(), NOW_MS)
    }

    #[test]
    fn a_request_signed_by_ably_js_verifies_and_a_changed_one_does_not() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/token_request.json");
        let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 60);
        for case in cases {
            let key = ApiKey::parse(case["key"].as_str().unwrap()).unwrap();
            let sent = &case["token_request"];
            let read = TokenRequest::read(sent).unwrap();
            read.check_mac(&key).unwrap();
            if let Some(capability) = &read.capability {
                let canonical = Capability::parse(capability).unwrap().to_string();
                assert_eq!(
                    serde_json::from_str::<Value>(&canonical).unwrap(),
                    serde_json::from_str::<Value>(capability).unwrap()
                );
            }
            for (field, altered) in [
                ("clientId", json!("mallory")),
                ("nonce", json!("ffffffffffffffff0")),
                ("timestamp", json!(sent["timestamp"].as_i64().unwrap() + 1)),
                ("ttl", json!(sent["ttl"].as_i64().unwrap_or_default() + 1)),
                ("capability", json!(r#"{"*":["*"]}"#)),
                ("keyName", json!("other.key")),
                ("mac", json!("")),
            ] {
                let mut tampered = sent.clone();
                tampered[field] = altered;
                let error = TokenRequest::read(&tampered).unwrap().check_mac(&key).unwrap_err();
                assert_eq!((error.status, error.code), (401, 40101), "{field}");
            }
        }
    }

    #[test]
    fn a_valid_token_request_determines_its_token() {
        let checked = check_now(&signed(&json!({ "ttl": 1, "capability": r#"{"chat:a":["publish"]}"# }))).unwrap();
        assert_eq!(checked.ttl_ms, 1);
        assert_eq!(checked.client_id.as_deref(), Some("alice"));
        assert_eq!(checked.capability.to_string(), r#"{"chat:a":["publish"]}"#);

        let checked = check_now(&signed(&json!({ "clientId": "*" }))).unwrap();
        assert_eq!(checked.ttl_ms, HOUR_MS);
        assert_eq!(checked.capability.to_string(), r#"{"chat:*":["*"],"news":["subscribe"]}"#);
    }

    #[test]
    fn each_error_has_its_code() {
        for (fields, status, code) in [
            (json!({ "keyName": "app.other" }), 401, 40101),
            (json!({ "keyName": 1 }), 400, 40000),
            (json!({ "timestamp": NOW_MS - 120_001 }), 401, 40104),
            (json!({ "timestamp": NOW_MS + 120_001 }), 401, 40104),
            (json!({ "timestamp": i64::MIN }), 401, 40104),
            (json!({ "timestamp": "1795289000000" }), 400, 40000),
            (json!({ "timestamp": 1.5 }), 400, 40000),
            (json!({ "timestamp": null }), 400, 40000),
            (json!({ "nonce": "0123456789abcde" }), 401, 40105),
            (json!({ "nonce": 1 }), 400, 40000),
            (json!({ "ttl": 0 }), 400, 40003),
            (json!({ "ttl": -1 }), 400, 40003),
            (json!({ "ttl": DAY_MS + 1 }), 400, 40003),
            (json!({ "ttl": 1.5 }), 400, 40003),
            (json!({ "ttl": "60000" }), 400, 40003),
            (json!({ "capability": { "chat:a": ["publish"] } }), 400, 40000),
            (json!({ "capability": "{" }), 400, 40000),
            (json!({ "capability": r#"{"chat:a":[]}"# }), 400, 40000),
            (json!({ "capability": r#"{"chat:a":["shout"]}"# }), 400, 40000),
            (json!({ "capability": r#"{"chat:a":["*","publish"]}"# }), 400, 40000),
            (json!({ "capability": "{}" }), 401, 40160),
            (json!({ "capability": r#"{"news":["publish"]}"# }), 401, 40160),
            (json!({ "capability": r#"{"other":["*"]}"# }), 401, 40160),
            (json!({ "clientId": "" }), 400, 40012),
            (json!({ "clientId": 7 }), 400, 40000),
        ] {
            let error = check_now(&signed(&fields)).unwrap_err();
            assert_eq!((error.status, error.code), (status, code), "{fields}");
        }
        for missing in ["keyName", "timestamp", "nonce", "mac"] {
            let mut body = signed(&json!({}));
            body.as_object_mut().unwrap().remove(missing);
            assert!(check_now(&body).is_err(), "{missing}");
        }
        assert_eq!(check_now(&json!([])).unwrap_err().code, 40000);
    }

    #[test]
    fn the_limits_of_timestamp_and_ttl_are_inclusive_and_null_is_absent() {
        for fields in [
            json!({ "timestamp": NOW_MS - 120_000 }),
            json!({ "timestamp": NOW_MS + 120_000 }),
            json!({ "ttl": DAY_MS }),
            json!({ "clientId": null, "ttl": null, "capability": null }),
        ] {
            check_now(&signed(&fields)).unwrap();
        }
    }

    #[test]
    fn a_nonce_works_once_while_its_token_request_is_valid() {
        let mut nonces = Nonces::default();
        let ahead = signed(&json!({ "timestamp": NOW_MS + 120_000 }));
        check_with(&ahead, &mut nonces, NOW_MS).unwrap();
        for later_ms in [0, 1, 239_999, 240_000] {
            nonces.forget(NOW_MS + later_ms);
            let error = check_with(&ahead, &mut nonces, NOW_MS + later_ms).unwrap_err();
            assert_eq!((error.status, error.code), (401, 40105), "{later_ms}");
        }
        nonces.forget(NOW_MS + 240_001);
        assert_eq!(check_with(&ahead, &mut nonces, NOW_MS + 240_001).unwrap_err().code, 40104);
        assert!(nonces.0.is_empty());
    }

    #[test]
    fn a_refused_token_request_does_not_use_up_its_nonce() {
        let mut nonces = Nonces::default();
        check_with(&signed(&json!({ "ttl": 0 })), &mut nonces, NOW_MS).unwrap_err();
        check_with(&signed(&json!({})), &mut nonces, NOW_MS).unwrap();
    }

    #[test]
    fn revocable_tokens_live_an_hour_at_most() {
        let key_capability = Capability::parse(r#"{"*":["*"]}"#).unwrap();
        let check = |ttl| {
            TokenRequest::read(&signed(&json!({ "ttl": ttl }))).unwrap().check(
                Proof::Mac,
                &key(),
                &key_capability,
                super::longest_ttl_ms(true),
                &mut Nonces::default(),
                NOW_MS,
            )
        };
        check(HOUR_MS).unwrap();
        assert_eq!(check(HOUR_MS + 1).unwrap_err().code, 40003);
    }

    #[test]
    fn the_key_authenticates_an_unsigned_token_request_but_not_for_a_wrong_mac() {
        let key_capability = Capability::parse(r#"{"*":["*"]}"#).unwrap();
        let check = |body: Value| {
            TokenRequest::read(&body)?.check(
                Proof::ApiKey,
                &key(),
                &key_capability,
                DAY_MS,
                &mut Nonces::default(),
                NOW_MS,
            )
        };
        check(json!({ "timestamp": NOW_MS })).unwrap();
        assert_eq!(check(json!({ "timestamp": NOW_MS, "mac": "AAAA" })).unwrap_err().code, 40101);
        assert_eq!(check(json!({ "timestamp": NOW_MS, "keyName": "app.other" })).unwrap_err().code, 40101);
    }
}
