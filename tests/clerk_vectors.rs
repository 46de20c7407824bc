//! Every request that `@clerk/backend` judged, judged by this service: the same verdict and the same session, save the
//! deliberate differences, each listed here by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use ably_clerk_auth::{
    clerk::{Credential, PublishableKey, Session, SessionRules, SigningKeys, VerifiedTokens, Verifier},
    clock::UnixMillis,
    refusal::Refusal,
};
use serde_json::{Value, json};

/// Cases that Clerk accepts and this service refuses, by what the token lacks or has, with what the service says.
const STRICTER: [(&str, &str, &str); 4] = [
    ("crit", "token-invalid-crit", "a critical extension that nobody understands (RFC 7515 section 4.1.11)"),
    ("iat_missing", "token-missing-issued-at", "no denial could be sure to outlive the token"),
    ("sid_missing", "token-missing-session-id", "no sign-out could ever reach the token"),
    ("aud_number", "token-invalid-audience", "an audience of the wrong type, when one is configured"),
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

/// Odd cases that Clerk accepts and this service refuses, with what it says.
const ODD_STRICTER: [(&str, &str, &str); 30] = [
    ("header+cookie trailing", "token-malformed", "no token has a blank in it"),
    ("header+cookie pad", "token-malformed", "base64url of a JWT has no padding (RFC 7515 section 2)"),
    ("cookie manyPad", "token-malformed", "base64url of a JWT has no padding (RFC 7515 section 2)"),
    (
        "plain=iatStr suffixed=ok uat=1795289900 suffixed uat=1795289900",
        "token-issued-in-the-future",
        "an iat that only JavaScript can compare: the form that has it is chosen",
    ),
    (
        "plain=iatStrNine suffixed=ok uat=1795289900 suffixed uat=1795289900",
        "token-issued-in-the-future",
        "an iat that only JavaScript can compare: the form that has it is chosen",
    ),
    (
        "plain=iatNull suffixed=ok uat=1795289900 suffixed uat=1795289900",
        "token-issued-in-the-future",
        "an iat that only JavaScript can compare: the form that has it is chosen",
    ),
    (
        "plain=ok suffixed=issOther uat=1795289900 suffixed uat=1795289900",
        "token-invalid-issuer",
        "not the issuer of this instance",
    ),
    (
        "plain=ok suffixed=iatNull uat=1795289900 suffixed uat=null",
        "client-uat-signed-out",
        "an iat that only JavaScript can compare: the form that has it is chosen",
    ),
    (
        "plain=issMidHttps suffixed=ok uat=1795289900 suffixed uat=null",
        "token-invalid-issuer",
        "not the issuer of this instance",
    ),
    ("claim header actStr", "token-invalid-actor", "nobody could tell who acts in the name of the user"),
    ("claim header sidNum", "token-missing-session-id", "no sign-out could ever reach the token"),
    ("claim header expBig", "token-lives-too-long", "no denial would outlive the token"),
    ("claim header actSub5", "token-invalid-actor", "nobody could tell who acts in the name of the user"),
    ("claim header noiat", "token-missing-issued-at", "no denial could be sure to outlive the token"),
    ("claim header issSlash", "token-invalid-issuer", "not the issuer of this instance"),
    ("claim header audNum aud", "token-invalid-audience", "an audience of the wrong type, when one is configured"),
    ("claim header audMix aud", "token-invalid-audience", "an audience of the wrong type, when one is configured"),
    ("claim header audMixE aud", "token-invalid-audience", "an audience of the wrong type, when one is configured"),
    ("claim header audNest aud", "token-invalid-audience", "an audience of the wrong type, when one is configured"),
    (
        "claim header audFalsyList aud",
        "token-invalid-audience",
        "an audience of the wrong type, when one is configured",
    ),
    ("jwt header kidNum", "token-invalid-kid", "a kid is a string (RFC 7515 section 4.1.4)"),
    ("jwt header crit", "token-invalid-crit", "a critical extension that nobody understands (RFC 7515 section 4.1.11)"),
    (
        "jwt header critE",
        "token-invalid-crit",
        "a critical extension that nobody understands (RFC 7515 section 4.1.11)",
    ),
    (
        "jwt header critNull",
        "token-invalid-crit",
        "a critical extension that nobody understands (RFC 7515 section 4.1.11)",
    ),
    ("raw bom", "token-malformed", "JSON has no byte order mark (RFC 8259 section 8.1)"),
    ("raw big", "token-malformed", "a number beyond all floating point"),
    ("raw surr", "token-malformed", "half a surrogate pair is no text"),
    ("raw deep", "token-malformed", "JSON nested deeper than 127"),
    ("raw badUtf", "token-malformed", "JSON is UTF-8 (RFC 8259 section 8.1)"),
    ("padded part", "token-malformed", "base64url of a JWT has no padding (RFC 7515 section 2)"),
];

/// Odd cases that Clerk refuses, or takes for another user, and this service accepts.
const ODD_SEEN_BY_US_ALONE: [(&str, &str); 14] = [
    ("header+cookie lower/test", "the scheme is matched without regard to case (RFC 9110)"),
    ("header+cookie double/live", "any number of blanks may be behind the scheme (RFC 9110 section 11.4)"),
    ("header+cookie schemeOnlyLower/live", "a scheme without a token counts as no header, and the cookie counts"),
    ("header upper/live", "the scheme is matched without regard to case (RFC 9110)"),
    ("bare 4 parts + cookie/live", "a dummy Authorization header gives way to the cookie"),
    ("bare 4 parts + cookie/test", "a dummy Authorization header gives way to the cookie"),
    ("header+cookie five/live", "a dummy Authorization header gives way to the cookie"),
    ("query __clerk_db_jwt=x/test", "a page navigation is nothing to an API"),
    ("query __clerk_handshake=a.b.c/test", "a page navigation is nothing to an API"),
    ("query __clerk_handshake_nonce=x/live", "a page navigation is nothing to an API"),
    ("query __clerk_redirect_url=https://x/test", "a page navigation is nothing to an API"),
    ("cookie __clerk_handshake=x/test", "a page navigation is nothing to an API"),
    ("cookie __clerk_handshake_nonce=x/live", "a page navigation is nothing to an API"),
    ("nav crossref/live", "a page navigation is nothing to an API"),
];

/// Cases in which both see the same session, and this service sees less in it.
const READ_OTHERWISE: [(&str, &str); 5] = [
    ("claim header v2rolNum/live", "a claim of another type counts as absent"),
    ("claim header v2idNum/live", "a claim of another type counts as absent"),
    ("claim header orgPermsNum/live", "a claim of another type counts as absent"),
    ("claim header v1PermMix/live", "a claim of another type counts as absent"),
    ("claim header idE/live", "a claim of another type counts as absent"),
];

async fn judge(case: &Value, pem: &str, verified: &VerifiedTokens) -> Result<Arc<Session>, &'static str> {
    let options = &case["options"];
    let strings = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
    let key = PublishableKey::parse(options["publishable_key"].as_str().unwrap()).unwrap();
    let rules = SessionRules {
        issuers: vec![format!("https://{}", key.frontend_api_host())],
        authorized_parties: strings(&options["authorized_parties"]),
        native_apps: false,
        audience: strings(&options["audience"]),
        clock_skew_ms: options["clock_skew_ms"].as_i64().unwrap(),
        longest_life_ms: 600_000,
    };
    let verifier = Verifier::new(SigningKeys::from_pem(pem).unwrap(), rules);
    let now = UnixMillis(case["now_ms"].as_i64().unwrap());
    let header = |name: &str| case["headers"].get(name).and_then(Value::as_str);
    let credential = match Credential::in_header(header("authorization"), verified).map_err(reason)? {
        Some(credential) => credential,
        None => Credential::in_cookies(header("cookie").unwrap_or(""), &key, verified, now).map_err(reason)?,
    };
    verifier.verify(credential, verified, now).await.map_err(reason)
}

fn reason(error: impl Into<Refusal>) -> &'static str {
    error.into().reason()
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

/// What may differ: each difference by the case's name (or its name up to a slash), and a reason that is for the reader.
struct Differences<'a> {
    /// Refused by us alone, with our own name for the refusal.
    stricter: &'a [(&'a str, &'a str, &'a str)],
    seen_by_us_alone: &'a [(&'a str, &'a str)],
    read_otherwise: &'a [(&'a str, &'a str)],
}

/// Judges every case; returns how many were judged, and how many of them differ as they may.
///
/// Panics at any other difference, and when one that is listed does not show.
async fn judge_all(vectors: &str, differences: Differences<'_>) -> (usize, usize) {
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let pem = vectors["jwt_key"].as_str().unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let Differences { stricter, seen_by_us_alone, read_otherwise } = differences;

    let verified = VerifiedTokens::default();
    let mut mistakes = Vec::new();
    let mut exercised = BTreeMap::new();
    for (position, case) in cases.iter().enumerate() {
        let name = case["name"].as_str().unwrap();
        let is_named =
            |listed: &str| name.strip_prefix(listed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let same_user = |session: &Session| case["expect"]["user_id"] == session.user_id;
        let clerk_accepts = case["expect"]["signed_in"].as_bool().unwrap();
        let ours = judge(case, pem, &VerifiedTokens::default()).await;
        // A remembered signature changes no verdict, in whichever case it was verified.
        assert_eq!(judge(case, pem, &verified).await, ours, "case {position}, {name}, among remembered tokens");
        assert_eq!(judge(case, pem, &verified).await, ours, "case {position}, {name}, once more");
        let difference = match &ours {
            Ok(session) if clerk_accepts && described(session) == case["expect"] => continue,
            Err(_) if !clerk_accepts => continue,
            Err(reason) => {
                stricter.iter().find(|(listed, ours, _)| is_named(listed) && ours == reason).map(|(listed, ..)| *listed)
            }
            Ok(session) => {
                let may_differ = if clerk_accepts && same_user(session) { read_otherwise } else { seen_by_us_alone };
                may_differ.iter().find(|(listed, _)| *listed == name).map(|(listed, _)| *listed)
            }
        };
        match difference {
            Some(listed) => *exercised.entry(listed).or_insert(0) += 1,
            None => mistakes.push(format!("case {position}, {name}: {ours:?}, Clerk: {}", case["expect"])),
        }
    }
    assert!(mistakes.is_empty(), "{} mistakes:\n{}", mistakes.len(), mistakes.join("\n"));
    // Each difference is there for a reason, and the reason for each is exercised.
    let listed = stricter.len() + seen_by_us_alone.len() + read_otherwise.len();
    assert_eq!(exercised.len(), listed, "{exercised:?}");
    (cases.len(), exercised.values().sum())
}

#[tokio::test]
async fn every_request_gets_clerks_verdict_save_the_deliberate_differences() {
    let differences = Differences { stricter: &STRICTER, seen_by_us_alone: &SEEN_BY_US_ALONE, read_otherwise: &[] };
    let counts = judge_all(include_str!("vectors/clerk_session.json"), differences).await;
    assert_eq!(counts, (400, 24));
}

#[tokio::test]
async fn odd_requests_get_clerks_verdict_save_the_deliberate_differences() {
    let differences = Differences {
        stricter: &ODD_STRICTER,
        seen_by_us_alone: &ODD_SEEN_BY_US_ALONE,
        read_otherwise: &READ_OTHERWISE,
    };
    let counts = judge_all(include_str!("vectors/clerk_session_odd.json"), differences).await;
    assert_eq!(counts, (167, 49));
}
