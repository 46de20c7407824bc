//! Every request that `@clerk/backend` judged, judged by this service: the same verdict and the same session, save the
//! deliberate differences, each listed here by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ably_clerk_auth::{
    clerk::{Credential, PublishableKey, Session, SessionRules, SigningKeys, Verifier},
    clock::UnixMillis,
};
use serde_json::{Value, json};

/// Cases that Clerk accepts and this service refuses, by what the token lacks or has.
const STRICTER: [(&str, &str); 4] = [
    ("crit", "a critical extension that nobody understands (RFC 7515 section 4.1.11)"),
    ("iat_missing", "no denial could be sure to outlive the token"),
    ("sid_missing", "no sign-out could ever reach the token"),
    ("aud_number", "an audience of the wrong type, when one is configured"),
];

/// Cases that Clerk refuses and this service accepts. All are requests of a user who is signed in.
const SEEN_BY_US_ALONE: [(&str, &str); 11] = [
    ("actor/lower/live", "the scheme is matched without regard to case (RFC 9110)"),
    ("nbf_missing/lower/live", "the scheme is matched without regard to case (RFC 9110)"),
    ("typ_missing/lower/live", "the scheme is matched without regard to case (RFC 9110)"),
    ("typ_missing/lower/test", "the scheme is matched without regard to case (RFC 9110)"),
    ("valid/lower/live", "the scheme is matched without regard to case (RFC 9110)"),
    ("actor/dash+cookie/test", "a dummy Authorization header gives way to the cookie"),
    ("aud_empty/dash+cookie/test", "a dummy Authorization header gives way to the cookie"),
    ("aud_other/dash+cookie/test", "a dummy Authorization header gives way to the cookie; no audience is configured"),
    ("iat_within_skew/dash+cookie/live", "a dummy Authorization header gives way to the cookie"),
    ("expired_within_skew/dash+cookie/live", "a dummy Authorization header gives way to the cookie"),
    ("valid/dash+cookie/live", "a dummy Authorization header gives way to the cookie"),
];

async fn judge(case: &Value, pem: &str) -> Result<Session, String> {
    let options = &case["options"];
    let strings = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
    let key = PublishableKey::parse(options["publishable_key"].as_str().unwrap()).unwrap();
    let rules = SessionRules {
        issuers: vec![format!("https://{}", key.frontend_api_host())],
        authorized_parties: strings(&options["authorized_parties"]),
        audience: strings(&options["audience"]),
        clock_skew_ms: options["clock_skew_ms"].as_i64().unwrap(),
        longest_life_ms: 600_000,
    };
    let verifier = Verifier::new(SigningKeys::from_pem(pem).unwrap(), rules);
    let now = UnixMillis(case["now_ms"].as_i64().unwrap());
    let header = |name: &str| case["headers"].get(name).and_then(Value::as_str);
    let credential = Credential::find(header("authorization"), header("cookie").unwrap_or(""), &key, now)
        .map_err(|error| error.to_string())?;
    verifier.verify(credential.token(), now).await.map_err(|error| error.to_string())
}

/// A session in the words of the vectors.
fn described(session: &Session) -> Value {
    let organization = session.organization.as_ref();
    json!({
        "signed_in": true,
        "user_id": session.user_id,
        "session_id": session.session_id,
        "org_id": organization.map(|organization| &organization.id),
        "org_role": organization.and_then(|organization| organization.role.as_ref()),
        "org_slug": organization.and_then(|organization| organization.slug.as_ref()),
        "org_permissions": organization.and_then(|organization| organization.permissions.as_ref()),
        "actor": session.actor.as_ref().map(|actor| &actor.subject),
    })
}

#[tokio::test]
async fn every_request_gets_clerks_verdict_save_the_deliberate_differences() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/clerk_session.json")).unwrap();
    let pem = vectors["jwt_key"].as_str().unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 400);

    let mut mistakes = Vec::new();
    let mut differences = std::collections::BTreeMap::new();
    for (position, case) in cases.iter().enumerate() {
        let name = case["name"].as_str().unwrap();
        let clerk_accepts = case["expect"]["signed_in"].as_bool().unwrap();
        let ours = judge(case, pem).await;
        let difference = match (&ours, clerk_accepts) {
            (Ok(session), true) if described(session) == case["expect"] => continue,
            (Err(_), false) => continue,
            (Err(_), true) => STRICTER.iter().find(|(token, _)| name.split('/').next() == Some(token)),
            (Ok(_), false) => SEEN_BY_US_ALONE.iter().find(|(case, _)| *case == name),
            (Ok(_), true) => None,
        };
        match difference {
            Some((token_or_case, _)) => *differences.entry(*token_or_case).or_insert(0) += 1,
            None => mistakes.push(format!("case {position}, {name}: {ours:?}, Clerk: {}", case["expect"])),
        }
    }
    assert!(mistakes.is_empty(), "{} mistakes:\n{}", mistakes.len(), mistakes.join("\n"));
    // Each difference is there for a reason, and the reason for each is exercised.
    let exercised: usize = differences.values().sum();
    assert_eq!(differences.len(), STRICTER.len() + SEEN_BY_US_ALONE.len(), "{differences:?}");
    assert_eq!(exercised, 24, "{differences:?}");
}
