//! A clock that is off: what Clerk's and Ably's answers say of it, in the metrics and in the log.

use std::time::Duration;

use reqwest::Method;
use sandbox::clerk;
use serde_json::{Value, json};

use crate::service::{ORIGIN, Service, Vendors, json, refusal, run};

const OFF: &str =
    "this machine's clock is off; set it by NTP. Beyond 2 minutes Ably refuses every token request (40104)";
const RIGHT: &str = "this machine's clock is right again";

/// The offset in the metrics, to the second.
async fn offset(service: &Service, vendor: &str) -> Option<f64> {
    let series = format!(r#"ably_clerk_auth_clock_offset_seconds{{tenant="default",vendor="{vendor}"}} "#);
    let scrape = service.scrape().await;
    scrape.lines().find_map(|line| line.strip_prefix(&series)).map(|value| value.parse().unwrap())
}

/// Whether a measured offset is the one meant, as exactly as half a second and a slow answer allow.
fn is_about(measured: Option<f64>, meant: f64) -> bool {
    measured.is_some_and(|measured| (measured - meant).abs() < 3.0)
}

fn logged(service: &Service, message: &str) -> Vec<Value> {
    service.log().into_iter().filter(|entry| entry["message"] == message).collect()
}

/// A Clerk whose clock is so far ahead.
async fn vendors(clock_offset_ms: i64) -> Vendors {
    Vendors::start_with(clerk::Options {
        clock_offset_ms,
        authorized_party: ORIGIN.into(),
        ..clerk::Options::default()
    })
    .await
}

/// Has the signing keys refreshed.
async fn refresh_keys(vendors: &Vendors, service: &Service) {
    let header = json!({ "alg": "RS256", "kid": "ins_unknown", "typ": "JWT" });
    let unknown = vendors.clerk.mint_with_header(header, vendors.clerk.session_claims(&vendors.user("alice")));
    refusal(service.token(&unknown).await).await;
    let scrape = service.scrape().await;
    let series = r#"ably_clerk_auth_signing_key_refreshes_total{tenant="default",outcome="confirmed"}"#;
    assert!(scrape.contains(&format!("{series} 2\n")), "{scrape}");
}

#[tokio::test]
async fn a_clock_that_is_right_shows_no_offset_and_no_warning() {
    let vendors = vendors(0).await;
    let service = vendors.service_with_admin("", &[("TOKEN_FORMAT", "token_details")]).await;
    assert!(is_about(offset(&service, "clerk").await, 0.0));
    assert_eq!(offset(&service, "ably").await, None, "Ably has not been asked yet");
    json(service.token(&vendors.token("alice")).await, 200).await;
    assert!(is_about(offset(&service, "ably").await, 0.0));
    assert_eq!(logged(&service, OFF), [Value::Null; 0]);
}

#[tokio::test]
async fn a_clock_that_differs_from_clerks_is_measured_at_each_refresh_of_the_keys_and_logged_once() {
    for (ahead_ms, seconds, words) in [(-45_000, 45.0, "s ahead"), (45_000, -45.0, "s behind")] {
        let vendors = vendors(ahead_ms).await;
        let service = vendors.service_with_admin("", &[("CLERK_CLOCK_SKEW_MS", "300000")]).await;
        let warning = service.logged(OFF).await;
        assert_eq!((&warning["level"], &warning["tenant"]), (&json!("WARN"), &json!("default")));
        assert_eq!(warning["vendor"], "clerk");
        assert!(warning["offset"].as_str().unwrap().ends_with(words), "{warning}");
        assert!(is_about(offset(&service, "clerk").await, seconds));
        refresh_keys(&vendors, &service).await;
        assert_eq!(logged(&service, OFF).len(), 1);
        assert_eq!(logged(&service, RIGHT).len(), 0);
    }
}

#[tokio::test]
async fn a_clock_that_ably_refuses_is_measured_at_each_exchange_and_logged_when_it_changes() {
    let vendors = vendors(0).await;
    let service = vendors.service_with_admin("", &[("TOKEN_FORMAT", "token_details")]).await;
    for (ahead_ms, seconds, warnings, all_clears) in
        [(0, 0.0, 0, 0), (150_000, -150.0, 1, 0), (-150_000, 150.0, 1, 0), (0, 0.0, 1, 1), (150_000, -150.0, 2, 1)]
    {
        vendors.ably.set_clock_offset_ms(ahead_ms);
        let response = service.token(&vendors.token("alice")).await;
        if ahead_ms == 0 {
            json(response, 200).await;
        } else {
            assert_eq!(refusal(response).await, (503, 50003));
        }
        assert!(is_about(offset(&service, "ably").await, seconds), "{ahead_ms}");
        let counts = || (logged(&service, OFF).len(), logged(&service, RIGHT).len());
        for _ in 0..3000 {
            if counts() == (warnings, all_clears) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(counts(), (warnings, all_clears), "{ahead_ms}");
    }
    assert_eq!(
        service.logged("Ably did not make a token").await["error"],
        "Ably answered with status 401 and code 40104"
    );
    let warning = service.logged(OFF).await;
    assert_eq!((&warning["tenant"], &warning["vendor"]), (&json!("default"), &json!("ably")));
    assert!(is_about(offset(&service, "clerk").await, 0.0), "the vendors' clocks are told apart");
}

#[tokio::test]
async fn a_clock_that_differs_from_ablys_is_measured_at_a_revocation() {
    let vendors = vendors(0).await;
    vendors.ably.set_revocable_tokens(sandbox::ably::RevocableTokens::On);
    let service = vendors.service_with_admin("", &[("ABLY_REVOCABLE_TOKENS", "true")]).await;
    vendors.ably.set_clock_offset_ms(60_000);
    json(service.token(&vendors.token("alice")).await, 200).await;
    assert_eq!(offset(&service, "ably").await, None);
    let order = json!({ "user": vendors.user("alice") });
    json(service.admin(Method::POST, "/revocations").json(&order).send().await.unwrap(), 200).await;
    assert_eq!(service.logged(OFF).await["vendor"], "ably");
    assert!(is_about(offset(&service, "ably").await, -60.0));
}

#[tokio::test]
async fn check_judges_clerks_clock_as_the_service_measures_it() {
    for (ahead_ms, words, code) in [
        (0, "ok    Clerk's clock       ours is ", 0),
        (-60_000, "s ahead, which is too much: set our clock", 1),
        (60_000, "s behind, which is too much: set our clock", 1),
    ] {
        let vendors = vendors(ahead_ms).await;
        let output = run(&vendors.settings_for_check(&[]), &["check"]);
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.contains(words), "{report}");
        assert_eq!(output.status.code(), Some(code), "{report}");
    }
}
