//! TokenDetails (TD*): a token with its properties.

use serde::{Deserialize, Serialize};

use super::token_request::TokenRequest;

/// A token that Ably issued, serialized as Ably SDKs read it. The token is a credential and is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize, derive_more::Debug)]
#[debug("TokenDetails {{ client_id: {client_id:?}, .. }}")]
#[serde(rename_all = "camelCase")]
pub struct TokenDetails {
    token: String,
    key_name: String,
    issued: i64,
    expires: i64,
    capability: String,
    client_id: String,
}

impl TokenDetails {
    /// Whether this is a token, and the requested one.
    pub(super) fn matches(&self, request: &TokenRequest) -> bool {
        !self.token.is_empty()
            && self.token.bytes().all(|b| b.is_ascii_graphic())
            && self.key_name == request.key_name().as_str()
            && self.client_id == request.client_id().as_str()
            && (0..self.expires).contains(&self.issued)
            && serde_json::from_str::<serde_json::Map<_, _>>(&self.capability).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        ably::{ApiKey, ClientId, Nonce},
        clock::UnixMillis,
    };

    fn response(changes: &Value) -> Value {
        let mut response = json!({
            "token": "app.secret", "keyName": "app.key", "issued": 1, "expires": 2, "capability": "{\"*\":[\"*\"]}",
            "clientId": "alice",
        });
        for (name, value) in changes.as_object().unwrap() {
            response[name] = value.clone();
        }
        response
    }

    #[test]
    fn only_the_requested_token_is_accepted() {
        let key = ApiKey::parse("app.key:secret").unwrap();
        let client_id = ClientId::parse("alice").unwrap();
        let request = TokenRequest::sign(&key, client_id, None, None, UnixMillis(1), Nonce::from(2));
        let is_accepted = |changes: Value| {
            serde_json::from_value(response(&changes)).is_ok_and(|details: TokenDetails| details.matches(&request))
        };
        assert!(is_accepted(json!({})));
        assert!(is_accepted(json!({ "capability": "{}", "more": "than is read" })));
        for changes in [
            json!({ "token": "" }),
            json!({ "token": "two words" }),
            json!({ "token": 1 }),
            json!({ "keyName": "app.other" }),
            json!({ "clientId": "bob" }),
            json!({ "clientId": "*" }),
            json!({ "clientId": null }),
            json!({ "issued": 2 }),
            json!({ "issued": "1" }),
            json!({ "expires": null }),
            json!({ "capability": "x" }),
            json!({ "capability": { "*": ["*"] } }),
        ] {
            assert!(!is_accepted(changes.clone()), "{changes}");
        }
    }

    #[test]
    fn it_is_serialized_without_unknown_fields_and_never_printed() {
        let details: TokenDetails = serde_json::from_value(response(&json!({ "more": 1 }))).unwrap();
        assert_eq!(serde_json::to_value(&details).unwrap(), response(&json!({})));
        assert!(!format!("{details:?}").contains("secret"));
    }
}
