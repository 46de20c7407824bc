//! Ably JWTs: tokens that the API key signs.
//!
//! Unlike a token request, a JWT carries a revocation key, channel claims and publish rates. It is signed here rather than
//! by a library, because the key's secret exists only as a keyed HMAC.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Number;

use super::{
    api_key::{ApiKey, KeyName},
    capability::Capability,
    client_id::ClientId,
    token_request::Ttl,
};
use crate::clock::UnixMillis;

/// The whole capability of the key: a JWT must have one, and Ably intersects it with the key's.
const WHOLE_CAPABILITY: &str = r#"{"[*]*":["*"]}"#;

/// The rights that only a JWT carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtExtras {
    /// By channel, a claim about the holder that other clients may trust.
    pub channel_claims: BTreeMap<String, String>,
    /// By resource, the messages a second that one attachment may publish.
    pub publish_rate: BTreeMap<String, Number>,
}

/// An Ably JWT. It is a credential and is never printed.
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
#[debug("AblyJwt(..)")]
pub struct AblyJwt(String);

/// The JWT is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the JWT is larger than {} bytes", AblyJwt::MAX_BYTES)]
pub struct JwtTooLarge;

impl AblyJwt {
    /// The maximum size: a JWT has to fit into addresses and headers.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// Signs with HS256. Rounds the ttl down to whole seconds, but not to zero.
    pub fn sign(
        key: &ApiKey,
        client_id: &ClientId,
        capability: Option<&Capability>,
        ttl: Option<Ttl>,
        revocation_key: &str,
        extras: &JwtExtras,
        now: UnixMillis,
    ) -> Result<Self, JwtTooLarge> {
        let iat = now.0.div_euclid(1000);
        let ttl = i64::try_from(ttl.unwrap_or(Ttl::ABLY_DEFAULT).as_millis() / 1000).unwrap_or(i64::MAX).max(1);
        let capability = capability.map_or_else(|| WHOLE_CAPABILITY.to_owned(), ToString::to_string);
        let claims = JwtClaims { iat, exp: iat.saturating_add(ttl), capability, client_id, revocation_key, extras };
        let signed = format!("{}.{}", part(&Header { typ: "JWT", alg: "HS256", kid: key.name() }), part(&claims));
        let jwt = format!("{signed}.{}", BASE64_URL.encode(key.hmac(&signed)));
        if jwt.len() > Self::MAX_BYTES { Err(JwtTooLarge) } else { Ok(Self(jwt)) }
    }

    /// The JWT, for the client.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'static str,
    kid: &'a KeyName,
}

struct JwtClaims<'a> {
    iat: i64,
    exp: i64,
    capability: String,
    client_id: &'a ClientId,
    revocation_key: &'a str,
    extras: &'a JwtExtras,
}

impl Serialize for JwtClaims<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut claims = serializer.serialize_map(None)?;
        claims.serialize_entry("iat", &self.iat)?;
        claims.serialize_entry("exp", &self.exp)?;
        claims.serialize_entry("x-ably-capability", &self.capability)?;
        claims.serialize_entry("x-ably-clientId", self.client_id)?;
        claims.serialize_entry("x-ably-revocation-key", self.revocation_key)?;
        for (channel, claim) in &self.extras.channel_claims {
            claims.serialize_entry(&format!("ably.channel.{channel}"), claim)?;
        }
        for (resource, rate) in &self.extras.publish_rate {
            claims.serialize_entry(&format!("ably.limits.publish.perAttachment.maxRate.{resource}"), rate)?;
        }
        claims.end()
    }
}

fn part(value: &impl Serialize) -> String {
    // Serialization fails only for maps with keys that are not strings.
    BASE64_URL.encode(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "JqzZ0yU2bS1rXk3vQ9pL";
    const NOW: UnixMillis = UnixMillis(1_795_289_000_999);

    fn key() -> ApiKey {
        ApiKey::parse(&format!("xVLyHw.abcdef:{SECRET}")).unwrap()
    }

    fn sign(capability: Option<&str>, ttl: Option<u64>, extras: &JwtExtras) -> Result<AblyJwt, JwtTooLarge> {
        let capability: Option<Capability> = capability.map(|text| text.parse().unwrap());
        let client_id = ClientId::parse("ålice").unwrap();
        let ttl = ttl.and_then(Ttl::from_millis);
        AblyJwt::sign(&key(), &client_id, capability.as_ref(), ttl, "sess_1", extras, NOW)
    }

    fn extras() -> JwtExtras {
        JwtExtras {
            channel_claims: BTreeMap::from([
                ("chat:*".into(), "moderator".into()),
                ("news".into(), "{\"a\":1}".into()),
            ]),
            publish_rate: BTreeMap::from([("chat:*".into(), Number::from(5))]),
        }
    }

    /// Header and claims, after an independent library has verified the signature.
    fn decoded(jwt: &AblyJwt) -> (Value, Value) {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp"]);
        validation.validate_exp = false;
        let decoded = decode::<Value>(jwt.expose(), &DecodingKey::from_secret(SECRET.as_bytes()), &validation).unwrap();
        (serde_json::to_value(decoded.header).unwrap(), decoded.claims)
    }

    #[test]
    fn without_rules_a_jwt_has_the_whole_capability_of_the_key_for_an_hour() {
        let (header, claims) = decoded(&sign(None, None, &JwtExtras::default()).unwrap());
        assert_eq!(header, json!({ "typ": "JWT", "alg": "HS256", "kid": "xVLyHw.abcdef" }));
        assert_eq!(
            claims,
            json!({
                "iat": 1_795_289_000,
                "exp": 1_795_292_600,
                "x-ably-capability": r#"{"[*]*":["*"]}"#,
                "x-ably-clientId": "ålice",
                "x-ably-revocation-key": "sess_1",
            })
        );
    }

    #[test]
    fn a_jwt_carries_the_whole_grant() {
        let capability = r#"{ "b": ["subscribe", "publish"], "a": ["*"] }"#;
        let (_, claims) = decoded(&sign(Some(capability), Some(60_000), &extras()).unwrap());
        assert_eq!(
            claims,
            json!({
                "iat": 1_795_289_000,
                "exp": 1_795_289_060,
                "x-ably-capability": r#"{"a":["*"],"b":["publish","subscribe"]}"#,
                "x-ably-clientId": "ålice",
                "x-ably-revocation-key": "sess_1",
                "ably.channel.chat:*": "moderator",
                "ably.channel.news": "{\"a\":1}",
                "ably.limits.publish.perAttachment.maxRate.chat:*": 5,
            })
        );
    }

    #[test]
    fn a_ttl_is_rounded_down_to_whole_seconds_but_not_to_zero() {
        for (ttl, seconds) in [(1, 1), (999, 1), (1000, 1), (1999, 1), (2000, 2), (86_400_000, 86_400)] {
            let (_, claims) = decoded(&sign(None, Some(ttl), &JwtExtras::default()).unwrap());
            assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), seconds, "{ttl}");
        }
        sign(None, Some(u64::MAX), &JwtExtras::default()).unwrap();
    }

    #[test]
    fn a_jwt_has_at_most_the_maximum_size() {
        let of_size = |bytes: usize| JwtExtras {
            channel_claims: BTreeMap::from([("a".to_owned(), "x".repeat(bytes))]),
            ..JwtExtras::default()
        };
        let fits =
            (0..AblyJwt::MAX_BYTES).rev().find_map(|bytes| Some((bytes, sign(None, None, &of_size(bytes)).ok()?)));
        let (bytes, largest) = fits.unwrap();
        assert!((AblyJwt::MAX_BYTES - 1..=AblyJwt::MAX_BYTES).contains(&largest.expose().len()));
        assert_eq!(sign(None, None, &of_size(bytes + 1)), Err(JwtTooLarge));
    }

    #[test]
    fn a_jwt_is_never_printed() {
        assert_eq!(format!("{:?}", sign(None, None, &JwtExtras::default()).unwrap()), "AblyJwt(..)");
    }

    /// `openssl dgst -sha256 -hmac` signed each vector.
    #[test]
    fn every_jwt_equals_that_of_openssl() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/ably_jwt.json")).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let input = &case["input"];
            let text = |name: &str| input[name].as_str().unwrap();
            let capability: Option<Capability> =
                input.get("capability").map(|capability| capability.to_string().parse().unwrap());
            let extras = JwtExtras {
                channel_claims: serde_json::from_value(input["channel_claims"].clone()).unwrap(),
                publish_rate: serde_json::from_value(input["publish_rate"].clone()).unwrap(),
            };
            let signed = AblyJwt::sign(
                &ApiKey::parse(case["key"].as_str().unwrap()).unwrap(),
                &ClientId::parse(text("client_id")).unwrap(),
                capability.as_ref(),
                input.get("ttl").and_then(Value::as_u64).and_then(Ttl::from_millis),
                text("revocation_key"),
                &extras,
                UnixMillis(input["now"].as_i64().unwrap()),
            );
            assert_eq!(signed.unwrap().expose(), case["jwt"], "{}", case["name"]);
        }
    }
}
