//! What a valid credential allows: the API key itself, a token that the stand-in issued, or an Ably JWT that the key
//! signed. Revocation is checked elsewhere.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    api_key::ApiKey,
    capability::{Capability, Resource},
    error::ErrorInfo,
};

/// How far ahead of now the `iat` of a JWT may be, in milliseconds.
const ISSUED_AHEAD_MS: i64 = 60_000;

/// The wildcard client ID: the client may use any.
pub(crate) const WILDCARD_CLIENT_ID: &str = "*";

/// A credential as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// The whole API key, from Basic authentication or the `key` parameter.
    Key(String),
    /// A token, from Bearer authentication or the `access_token` parameter.
    Token(String),
    Missing,
}

/// What a valid credential allows.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// A digest of the token, to identify it in views; empty for the API key.
    pub(crate) id: String,
    /// The API key, or the key that issued the token.
    pub(crate) key_name: String,
    /// `*` allows any client ID; `None` is an anonymous client.
    pub(crate) client_id: Option<String>,
    pub(crate) capability: Capability,
    /// `None` for the API key, which does not expire and cannot be revoked.
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) revocation_key: Option<String>,
    /// Channel claims, by resource. Other clients see the claim on this client's messages.
    channel_claims: Vec<(Resource, String)>,
}

/// Times of issue and expiry, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) issued_ms: i64,
    pub(crate) expires_ms: i64,
}

impl Access {
    /// Access by the API key: its capability, with any client ID.
    pub(crate) fn of_key(key: &ApiKey, capability: Capability) -> Self {
        Self {
            id: String::new(),
            key_name: key.name().to_owned(),
            client_id: Some(WILDCARD_CLIENT_ID.to_owned()),
            capability,
            lifetime: None,
            revocation_key: None,
            channel_claims: Vec::new(),
        }
    }

    /// Access by a token that a key issued.
    pub(crate) fn of_token(
        token: &str,
        key: &ApiKey,
        client_id: Option<String>,
        capability: Capability,
        lifetime: Lifetime,
    ) -> Self {
        Self {
            id: digest(token),
            key_name: key.name().to_owned(),
            client_id,
            capability,
            lifetime: Some(lifetime),
            revocation_key: None,
            channel_claims: Vec::new(),
        }
    }

    /// Access by an Ably JWT. The key that its `kid` names must have signed it with HS256, and its lifetime
    /// must be within the limit. The key's capability bounds the JWT's.
    pub(crate) fn of_jwt(
        jwt: &str,
        keys: &[ApiKey],
        key_capability: &Capability,
        longest_ttl_ms: i64,
        now_ms: i64,
    ) -> Result<Self, ErrorInfo> {
        let (key, claims) = verified_claims(jwt, keys)?;
        let lifetime = Lifetime { issued_ms: seconds(&claims, "iat")?, expires_ms: seconds(&claims, "exp")? };
        if lifetime.issued_ms.saturating_sub(now_ms) > ISSUED_AHEAD_MS {
            return Err(invalid_jwt("iat of the JWT is in the future"));
        }
        let ttl_ms = lifetime.expires_ms.saturating_sub(lifetime.issued_ms);
        if !(1..=longest_ttl_ms).contains(&ttl_ms) {
            return Err(ErrorInfo::new(
                400,
                40003,
                "the lifetime of the JWT is not positive, or is longer than the key allows",
            ));
        }
        let client_id = optional_text(&claims, "x-ably-clientId")?;
        if client_id.as_deref() == Some("") {
            return Err(ErrorInfo::new(400, 40012, "x-ably-clientId of the JWT is empty"));
        }
        let requested = optional_text(&claims, "x-ably-capability")?
            .ok_or(invalid_jwt("x-ably-capability is missing in the JWT"))?;
        let capability = Capability::parse(&requested)?.intersect(key_capability);
        if capability.is_empty() {
            return Err(ErrorInfo::not_permitted("the key allows nothing of the capability of the JWT"));
        }
        Ok(Self {
            id: digest(jwt),
            key_name: key.name().to_owned(),
            client_id,
            capability,
            lifetime: Some(lifetime),
            revocation_key: optional_text(&claims, "x-ably-revocation-key")?,
            channel_claims: channel_claims(&claims)?,
        })
    }

    /// Fails with 40142 if the token has expired.
    pub(crate) fn check_not_expired(&self, now_ms: i64) -> Result<(), ErrorInfo> {
        match self.lifetime {
            Some(lifetime) if now_ms >= lifetime.expires_ms => Err(EXPIRED),
            _ => Ok(()),
        }
    }

    /// The channel claim for a channel.
    pub(crate) fn claim_on(&self, channel: &str) -> Option<&str> {
        let channel = Resource::of_channel(channel)?;
        self.channel_claims.iter().find(|(resource, _)| resource.covers(&channel)).map(|(_, claim)| claim.as_str())
    }

    /// The client ID to publish with: the connection's own, or with a wildcard the one that the message names. Fails
    /// with 40012 if the message names another.
    pub(crate) fn publisher_client_id(own: Option<&str>, named: Option<&str>) -> Result<Option<String>, ErrorInfo> {
        match (own, named) {
            (Some(WILDCARD_CLIENT_ID), named) => Ok(named.map(str::to_owned)),
            (own, None) => Ok(own.map(str::to_owned)),
            (Some(own), Some(named)) if own == named => Ok(Some(named.to_owned())),
            _ => Err(ErrorInfo::new(400, 40012, "clientId differs from the client ID of the token")),
        }
    }
}

/// The token has expired; an SDK fetches a new one (`RSA4b`).
pub(crate) const EXPIRED: ErrorInfo = ErrorInfo::new(401, 40142, "the token expired");

const fn invalid_jwt(message: &'static str) -> ErrorInfo {
    ErrorInfo::new(401, 40144, message)
}

fn digest(token: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(token.as_bytes())[..12])
}

/// The claims of a JWT, once its signature is verified, and the key that signed it.
fn verified_claims<'a>(jwt: &str, keys: &'a [ApiKey]) -> Result<(&'a ApiKey, Map<String, Value>), ErrorInfo> {
    let malformed = invalid_jwt("the JWT is malformed");
    let (signed, signature) = jwt.rsplit_once('.').ok_or(malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(malformed)?;
    let header = json_part(header).ok_or(malformed)?;
    if header.get("alg").and_then(Value::as_str) != Some("HS256") {
        return Err(invalid_jwt("the JWT is not signed with HS256"));
    }
    if header.get("typ").and_then(Value::as_str) != Some("JWT") {
        return Err(invalid_jwt("typ is missing in the header of the JWT"));
    }
    let kid = header.get("kid").and_then(Value::as_str);
    let key = keys.iter().find(|key| kid == Some(key.name()));
    let key = key.ok_or(ErrorInfo::invalid_credentials("the kid of the JWT names no key of the app"))?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;
    if !key.verifies(signed.as_bytes(), &signature) {
        return Err(invalid_jwt("the signature of the JWT is invalid"));
    }
    Ok((key, json_part(claims).ok_or(malformed)?))
}

fn json_part(encoded: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

fn seconds(claims: &Map<String, Value>, name: &str) -> Result<i64, ErrorInfo> {
    claims
        .get(name)
        .and_then(Value::as_i64)
        .and_then(|seconds| seconds.checked_mul(1000))
        .ok_or(invalid_jwt("iat or exp is missing or not a number of seconds"))
}

fn optional_text(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, ErrorInfo> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(invalid_jwt("an Ably claim of the JWT must be a string")),
    }
}

fn channel_claims(claims: &Map<String, Value>) -> Result<Vec<(Resource, String)>, ErrorInfo> {
    claims
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("ably.channel.")?, value)))
        .map(|(channel, value)| {
            let claim = value.as_str().ok_or(invalid_jwt("a channel claim of the JWT must be a string"))?;
            Ok((Resource::parse(channel)?, claim.to_owned()))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::Access;
    use crate::ably::{api_key::ApiKey, capability::Capability, error::ErrorInfo};

    const NOW_S: i64 = 1_795_289_000;
    const NOW_MS: i64 = NOW_S * 1000;

    fn key() -> ApiKey {
        ApiKey::parse("app.key:secret").unwrap()
    }

    /// A JWT with these header fields and claims, signed by the key.
    pub(crate) fn jwt(key: &ApiKey, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn header() -> Value {
        json!({ "typ": "JWT", "alg": "HS256", "kid": "app.key" })
    }

    fn claims(changed: &Value) -> Value {
        let mut claims = json!({
            "iat": NOW_S, "exp": NOW_S + 60, "x-ably-clientId": "alice",
            "x-ably-capability": r#"{"chat:a":["publish"]}"#
        });
        for (name, value) in changed.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    }

    fn verify(jwt: &str) -> Result<Access, ErrorInfo> {
        let key_capability = Capability::parse(r#"{"chat:*":["*"]}"#).unwrap();
        Access::of_jwt(jwt, &[key()], &key_capability, 3_600_000, NOW_MS)
    }

    #[test]
    fn a_valid_jwt_gives_client_id_capability_and_expiry() {
        let access = verify(&jwt(
            &key(),
            &header(),
            &claims(&json!({
                "x-ably-revocation-key": "sess_1",
                "x-ably-capability": r#"{"*":["publish"]}"#,
                "ably.channel.chat:*": "moderator"
            })),
        ))
        .unwrap();
        assert_eq!(access.client_id.as_deref(), Some("alice"));
        assert_eq!(access.capability.to_string(), r#"{"chat:*":["publish"]}"#);
        assert_eq!(access.revocation_key.as_deref(), Some("sess_1"));
        assert_eq!(access.claim_on("chat:a"), Some("moderator"));
        assert_eq!(access.claim_on("news"), None);
        assert_eq!(access.check_not_expired(NOW_MS + 59_999), Ok(()));
        assert_eq!(access.check_not_expired(NOW_MS + 60_000).unwrap_err().code, 40142);
    }

    #[test]
    fn each_error_of_a_jwt_has_its_code() {
        for (changed, code) in [
            (json!({ "iat": null }), 40144),
            (json!({ "exp": null }), 40144),
            (json!({ "exp": "soon" }), 40144),
            (json!({ "iat": i64::MAX }), 40144),
            (json!({ "iat": NOW_S + 61, "exp": NOW_S + 90 }), 40144),
            (json!({ "exp": NOW_S + 3601 }), 40003),
            (json!({ "exp": NOW_S }), 40003),
            (json!({ "x-ably-capability": null }), 40144),
            (json!({ "x-ably-capability": { "chat:a": ["publish"] } }), 40144),
            (json!({ "x-ably-capability": r#"{"chat:a":["shout"]}"# }), 40000),
            (json!({ "x-ably-capability": r#"{"news":["publish"]}"# }), 40160),
            (json!({ "x-ably-clientId": "" }), 40012),
            (json!({ "x-ably-clientId": 7 }), 40144),
            (json!({ "x-ably-revocation-key": 7 }), 40144),
            (json!({ "ably.channel.chat:a": 7 }), 40144),
        ] {
            let error = verify(&jwt(&key(), &header(), &claims(&changed))).unwrap_err();
            assert_eq!(error.code, code, "{changed}");
        }
        let other = ApiKey::parse("app.key:other").unwrap();
        for (jwt, code) in [
            (jwt(&other, &header(), &claims(&json!({}))), 40144),
            (jwt(&key(), &json!({ "typ": "JWT", "alg": "none", "kid": "app.key" }), &claims(&json!({}))), 40144),
            (jwt(&key(), &json!({ "typ": "JWT", "alg": "HS256", "kid": "app.other" }), &claims(&json!({}))), 40101),
            (jwt(&key(), &json!({ "alg": "HS256", "kid": "app.key" }), &claims(&json!({}))), 40144),
            ("a.b.c".to_owned(), 40144),
            ("a.b".to_owned(), 40144),
        ] {
            assert_eq!(verify(&jwt).unwrap_err().code, code, "{jwt}");
        }
    }

    #[test]
    fn a_client_publishes_only_with_its_own_client_id() {
        for (own, named, spoken) in [
            (Some("alice"), None, Ok(Some("alice"))),
            (Some("alice"), Some("alice"), Ok(Some("alice"))),
            (Some("alice"), Some("bob"), Err(40012)),
            (Some("*"), Some("bob"), Ok(Some("bob"))),
            (Some("*"), None, Ok(None)),
            (None, None, Ok(None)),
            (None, Some("bob"), Err(40012)),
        ] {
            let answer = Access::publisher_client_id(own, named).map_err(|error| error.code);
            assert_eq!(answer.as_ref().map(Option::as_deref), spoken.as_ref().copied(), "{own:?} {named:?}");
        }
    }
}
