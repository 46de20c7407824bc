//! Every delivery that Svix's JavaScript library judged, judged by this service: the same verdict, save the deliberate
//! difference. And every example event that Clerk publishes, read by this service.

use ably_clerk_auth::{
    clerk::{Event, SigningSecrets, UnverifiedHeaders},
    clock::UnixMillis,
};
use serde_json::Value;
use svix::webhooks::Webhook;

/// Svix's JavaScript takes a timestamp like `123.5x` for a number; a timestamp is whole seconds.
const STRICTER: &str = "tsfloat";

#[test]
fn every_recorded_delivery_is_judged_as_svix_did() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/webhook.json")).unwrap();
    let secrets = SigningSecrets::parse([vectors["secret"].as_str().unwrap()]).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 60);
    let mut stricter = 0;
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let headers = case["headers"].as_object().unwrap().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()));
        let now = UnixMillis(case["now_ms"].as_i64().unwrap());
        let body = case["body"].as_str().unwrap().as_bytes();
        let verdict = UnverifiedHeaders::read(headers, now).and_then(|headers| secrets.verify(&headers, body));
        let expected = case["expect"].as_bool().unwrap();
        if name == STRICTER {
            assert!(expected && verdict.is_err(), "{name}");
            stricter += 1;
        } else {
            assert_eq!(verdict.is_ok(), expected, "{name}: {verdict:?}");
        }
    }
    assert_eq!(stricter, 5);
}

#[test]
fn every_example_that_clerk_publishes_is_verified_and_read() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NOW: UnixMillis = UnixMillis(1_795_290_000_000);
    // 2024-05-28, in seconds there.
    const THEN: UnixMillis = UnixMillis(1_716_883_200_000);
    let vectors: Value = serde_json::from_str(include_str!("vectors/webhook_examples.json")).unwrap();
    let secrets = SigningSecrets::parse([SECRET]).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 19);
    let mut that_matter = Vec::new();
    for case in cases {
        let (name, body) = (case["type"].as_str().unwrap(), case.to_string());
        let seconds = NOW.0 / 1000;
        let signature = Webhook::new(SECRET).unwrap().sign("msg_1", seconds, body.as_bytes()).unwrap();
        let timestamp = seconds.to_string();
        let headers = [("svix-id", "msg_1"), ("svix-timestamp", &timestamp), ("svix-signature", &signature)];
        let headers = UnverifiedHeaders::read(headers.map(|(name, value)| (name, value.as_bytes())), NOW).unwrap();
        assert_eq!(secrets.verify(&headers, body.as_bytes()), Ok(()), "{name}");
        if let Some(event) = Event::parse(body.as_bytes(), NOW).unwrap_or_else(|error| panic!("{name}: {error}")) {
            assert_eq!(event.at, THEN, "{name}");
            that_matter.push(name);
        }
    }
    let expected = [
        "user.updated",
        "user.deleted",
        "session.ended",
        "session.removed",
        "session.revoked",
        "organizationMembership.updated",
        "organizationMembership.deleted",
        "organization.deleted",
    ];
    assert_eq!(that_matter, expected);
}
