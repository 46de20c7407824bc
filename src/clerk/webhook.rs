//! Verifies Clerk's webhooks, which Svix sends: the headers before the body is received, the signature before the body is
//! parsed.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use svix::webhooks::{Webhook, WebhookError};

use crate::clock::{self, UnixMillis};

/// Webhook signing secrets: one, or several during a rotation.
#[derive(Debug)]
pub struct SigningSecrets(Vec<Webhook>);

/// The headers of a delivery. The signature is not verified yet.
pub struct UnverifiedHeaders(HeaderMap);

/// Why a signing secret is invalid. Does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSigningSecret {
    /// Another form.
    #[error("a signing secret is whsec_ and base64; copy it from the endpoint's page in Clerk's dashboard")]
    Malformed,
    /// The key is so short that it could be guessed.
    #[error(
        "the key of a signing secret has fewer than 16 bytes, so an attacker could guess it and forge webhooks; copy the \
         whole secret from the endpoint's page in Clerk's dashboard"
    )]
    Weak,
}

/// Why a delivery is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDelivery {
    /// An id, a timestamp or a signature is missing, empty, malformed or repeated.
    #[error("svix-id, svix-timestamp or svix-signature is missing, repeated or malformed")]
    Headers,
    /// The signature does not match any secret.
    #[error("the signature does not match any signing secret")]
    Signature,
    /// The timestamp is too old or in the future.
    #[error("the timestamp is more than 5 minutes off")]
    Timestamp,
}

impl UnverifiedHeaders {
    /// The tolerance for timestamps, either way, as in Svix's libraries.
    const TOLERANCE: Duration = Duration::from_mins(5);

    /// The signed headers: Svix's name, and the name that other senders use.
    const NAMES: [[&str; 2]; 3] =
        [["svix-id", "webhook-id"], ["svix-timestamp", "webhook-timestamp"], ["svix-signature", "webhook-signature"]];

    /// Finds the headers of a delivery among those of a request, and checks the timestamp. As in Svix's libraries, all three
    /// have Svix's names, or all three have the others. Each must appear once.
    pub fn read<'h>(
        all: impl IntoIterator<Item = (&'h str, &'h [u8])>,
        now: UnixMillis,
    ) -> Result<Self, InvalidDelivery> {
        let mut found: [[Vec<&[u8]>; 2]; 3] = Default::default();
        for (name, value) in all {
            for (values, names) in found.iter_mut().zip(Self::NAMES) {
                if let Some(position) = names.iter().position(|known| name.eq_ignore_ascii_case(known)) {
                    values[position].push(value);
                }
            }
        }
        let sender = usize::from(found.iter().all(|[svix, _]| svix.is_empty()));
        let mut headers = HeaderMap::new();
        for (values, [name, _]) in found.iter().zip(Self::NAMES) {
            let value = match values[sender][..] {
                [value] if !value.is_empty() => value,
                _ => return Err(InvalidDelivery::Headers),
            };
            let value = HeaderValue::from_bytes(value).map_err(|_| InvalidDelivery::Headers)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let [_, [timestamp, _], [signature, _]] = Self::NAMES;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).ok_or(InvalidDelivery::Headers);
        if !text(signature)?.split(' ').any(|entry| entry.starts_with("v1,")) {
            return Err(InvalidDelivery::Headers);
        }
        // The signature covers the number, however it is written.
        let seconds: i64 = text(timestamp)?.parse().map_err(|_| InvalidDelivery::Headers)?;
        if seconds.saturating_mul(1000).abs_diff(now.0) > clock::millis(Self::TOLERANCE).unsigned_abs() {
            return Err(InvalidDelivery::Timestamp);
        }
        Ok(Self(headers))
    }
}

impl SigningSecrets {
    /// The minimum length of a key. Clerk's have 24 bytes.
    const MIN_KEY_BYTES: usize = 16;

    /// Parses secrets of the form `whsec_…`.
    pub fn parse<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidSigningSecret> {
        let parse = |secret: &str| {
            let key = secret.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok());
            match key.ok_or(InvalidSigningSecret::Malformed)? {
                key if key.is_empty() => Err(InvalidSigningSecret::Malformed),
                key if key.len() < Self::MIN_KEY_BYTES => Err(InvalidSigningSecret::Weak),
                key => Webhook::from_bytes(key).map_err(|_| InvalidSigningSecret::Malformed),
            }
        };
        secrets.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Verifies the signature of headers and body.
    pub fn verify(&self, UnverifiedHeaders(headers): &UnverifiedHeaders, body: &[u8]) -> Result<(), InvalidDelivery> {
        let mut invalid = InvalidDelivery::Signature;
        for secret in &self.0 {
            match secret.verify_ignoring_timestamp(body, headers) {
                Ok(()) => return Ok(()),
                Err(WebhookError::InvalidSignature | WebhookError::InvalidPayload) => {}
                Err(_) => invalid = InvalidDelivery::Headers,
            }
        }
        Err(invalid)
    }
}

/// Prints only the number of secrets.
impl fmt::Display for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} secret{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NOW: UnixMillis = UnixMillis(1_795_290_000_000);

    fn delivery(secret: &str, seconds: i64) -> [(&'static str, String); 3] {
        let signature = Webhook::new(secret).unwrap().sign("msg_1", seconds, b"{}").unwrap();
        [("svix-id", "msg_1".to_owned()), ("svix-timestamp", seconds.to_string()), ("svix-signature", signature)]
    }

    fn read(delivery: &[(&'static str, String)]) -> Result<UnverifiedHeaders, InvalidDelivery> {
        UnverifiedHeaders::read(delivery.iter().map(|(name, value)| (*name, value.as_bytes())), NOW)
    }

    fn verify(secrets: &[&str], delivery: &[(&'static str, String)]) -> Result<(), InvalidDelivery> {
        let headers = read(delivery)?;
        SigningSecrets::parse(secrets.iter().copied()).unwrap().verify(&headers, b"{}")
    }

    #[test]
    fn any_of_several_secrets_is_accepted_and_no_other() {
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        for (secrets, expected) in [
            (&[SECRET][..], Ok(())),
            (&[other, SECRET], Ok(())),
            (&[SECRET, other], Ok(())),
            (&[other], Err(InvalidDelivery::Signature)),
            (&[], Err(InvalidDelivery::Signature)),
        ] {
            assert_eq!(verify(secrets, &delivery(SECRET, NOW.0 / 1000)), expected, "{secrets:?}");
        }
    }

    #[test]
    fn a_delivery_is_valid_for_five_minutes_either_way() {
        for (offset, expected) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let verified = verify(&[SECRET], &delivery(SECRET, NOW.0 / 1000 + offset));
            assert_eq!(verified, if expected { Ok(()) } else { Err(InvalidDelivery::Timestamp) }, "{offset}");
        }
        for seconds in [i64::MIN, -1, i64::MAX] {
            assert_eq!(verify(&[SECRET], &delivery(SECRET, seconds)), Err(InvalidDelivery::Timestamp));
        }
    }

    #[test]
    fn missing_or_malformed_headers_are_rejected_without_the_body() {
        let now = NOW.0 / 1000;
        let read = |delivery: &[(&'static str, String)]| read(delivery).map(|_| ());
        assert_eq!(read(&delivery(SECRET, now)), Ok(()));
        for missing in 0..3 {
            let mut delivery = delivery(SECRET, now).to_vec();
            delivery.remove(missing);
            assert_eq!(read(&delivery), Err(InvalidDelivery::Headers), "{missing}");
        }
        for repeated in 0..3 {
            let mut delivery = delivery(SECRET, now).to_vec();
            delivery.push(delivery[repeated].clone());
            assert_eq!(read(&delivery), Err(InvalidDelivery::Headers), "{repeated}");
        }
        for (name, value, expected) in [
            ("svix-id", "", InvalidDelivery::Headers),
            ("svix-timestamp", "", InvalidDelivery::Headers),
            ("svix-timestamp", "soon", InvalidDelivery::Headers),
            ("svix-timestamp", "0", InvalidDelivery::Timestamp),
            ("svix-signature", "", InvalidDelivery::Headers),
            ("svix-signature", "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN", InvalidDelivery::Headers),
            ("svix-signature", "v2,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN", InvalidDelivery::Headers),
        ] {
            let delivery =
                delivery(SECRET, now).map(|(other, own)| (other, if other == name { value.into() } else { own }));
            assert_eq!(read(&delivery), Err(expected), "{name}: {value}");
        }
    }

    #[test]
    fn all_headers_have_the_names_of_one_sender() {
        let other_name = |name: &str| match name {
            "svix-id" => "webhook-id",
            "svix-timestamp" => "webhook-timestamp",
            _ => "webhook-signature",
        };
        let delivery = delivery(SECRET, NOW.0 / 1000);
        assert_eq!(verify(&[SECRET], &delivery.clone().map(|(name, value)| (other_name(name), value))), Ok(()));
        for renamed in ["svix-id", "svix-timestamp", "svix-signature"] {
            let mixed =
                delivery.clone().map(|(name, value)| (if name == renamed { other_name(name) } else { name }, value));
            assert_eq!(verify(&[SECRET], &mixed), Err(InvalidDelivery::Headers), "{renamed}");
        }
    }

    #[test]
    fn an_invalid_secret_is_rejected_and_secrets_are_never_printed() {
        for text in ["", "whsec_", "whsec_!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "sk_test_x"] {
            assert_eq!(SigningSecrets::parse([text]).err(), Some(InvalidSigningSecret::Malformed), "{text}");
        }
        for (bytes, expected) in
            [(1, Some(InvalidSigningSecret::Weak)), (15, Some(InvalidSigningSecret::Weak)), (16, None), (24, None)]
        {
            let text = format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
            assert_eq!(SigningSecrets::parse([text.as_str()]).err(), expected, "{bytes}");
        }
        let secrets = SigningSecrets::parse([SECRET]).unwrap();
        assert!(!format!("{secrets:?} {secrets}").contains("MfKQ"));
    }
}
