//! Every delivery that Svix's JavaScript library judged, judged by this service: the same verdict, save the deliberate
//! difference.

use ably_clerk_auth::{
    clerk::{SigningSecrets, UnverifiedHeaders},
    clock::UnixMillis,
};
use serde_json::Value;

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
