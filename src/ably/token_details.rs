//! TokenDetails (TD*): a token, and what Ably says of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TokenRequest;

/// A token that Ably issued, serialized as any Ably SDK reads it. The token is a credential: it is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
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
    /// Whether this is a token, and the one that was asked for.
    pub(super) fn answers(&self, asked: &TokenRequest) -> bool {
        !self.token.is_empty()
            && self.token.bytes().all(|b| b.is_ascii_graphic())
            && self.key_name == asked.key_name().as_str()
            && self.client_id == asked.client_id().as_str()
            && (0..self.expires).contains(&self.issued)
            && serde_json::from_str::<serde_json::Map<_, _>>(&self.capability).is_ok()
    }
}

impl fmt::Debug for TokenDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenDetails").field("client_id", &self.client_id).finish_non_exhaustive()
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

    fn answer(changes: &Value) -> Value {
        let mut answer = json!({
            "token": "app.secret", "keyName": "app.key", "issued": 1, "expires": 2, "capability": "{\"*\":[\"*\"]}",
            "clientId": "alice",
        });
        for (name, value) in changes.as_object().unwrap() {
            answer[name] = value.clone();
        }
        answer
    }

    #[test]
    fn only_the_token_that_was_asked_for_is_an_answer() {
        let key = ApiKey::parse("app.key:secret").unwrap();
        let client_id = ClientId::parse("alice").unwrap();
        let asked = TokenRequest::sign(&key, client_id, None, None, UnixMillis(1), Nonce::from(2));
        let answers =
            |changes: Value| serde_json::from_value(answer(&changes)).is_ok_and(|it: TokenDetails| it.answers(&asked));
        assert!(answers(json!({})));
        assert!(answers(json!({ "capability": "{}", "more": "than is read" })));
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
            assert!(!answers(changes.clone()), "{changes}");
        }
    }

    #[test]
    fn it_travels_without_what_is_not_known_and_is_not_printed() {
        let details: TokenDetails = serde_json::from_value(answer(&json!({ "more": 1 }))).unwrap();
        assert_eq!(serde_json::to_value(&details).unwrap(), answer(&json!({})));
        assert!(!format!("{details:?}").contains("secret"));
    }
}
