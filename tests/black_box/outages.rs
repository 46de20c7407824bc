//! What happens when Clerk does not answer.

use std::time::Duration;

use sandbox::clerk::Outage;
use serde_json::json;

use crate::service::{Vendors, json, refusal};

#[tokio::test]
async fn without_any_key_the_answer_is_503_and_never_a_token() {
    let vendors = Vendors::start().await;
    vendors.clerk.set_outage(Some(Outage::Status(500)));
    let service = vendors.service_that_may_not_be_ready(&[]);
    let named = vendors.token_with(&json!({ "username": "alice" }));
    let response = service.token(&named).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(refusal(response).await, (503, 50003));
    let ready = json(service.get("/readyz").send().await.unwrap(), 503).await;
    assert_eq!(ready["status"], "unavailable");
    json(service.get("/healthz").send().await.unwrap(), 200).await;

    vendors.clerk.set_outage(None);
    for _ in 0..1000 {
        if service.token(&named).await.status().is_success() {
            json(service.get("/readyz").send().await.unwrap(), 200).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the service does not recover: {:?}", service.log());
}

#[tokio::test]
async fn keys_that_are_held_go_on_serving_and_readiness_and_log_say_so() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    vendors.clerk.set_outage(Some(Outage::Drop));
    let header = json!({ "alg": "RS256", "kid": "ins_unknown", "typ": "JWT" });
    let unknown = vendors.clerk.mint_with_header(header, vendors.clerk.session_claims(&vendors.user("alice")));
    assert_eq!(refusal(service.token(&unknown).await).await, (401, 40101));

    let ready = json(service.get("/readyz").send().await.unwrap(), 200).await;
    assert_eq!((&ready["status"], &ready["signing_keys"]["status"]), (&json!("degraded"), &json!("unconfirmed")));
    service.logged("Clerk's signing keys could not be refreshed").await;
    json(service.token(&vendors.token_with(&json!({ "username": "alice" }))).await, 200).await;
}

#[tokio::test]
async fn a_username_that_cannot_be_had_now_is_503_and_worth_asking_again() {
    let vendors = Vendors::start().await;
    for (outage, retry_after) in [
        (Outage::Status(502), "5"),
        (Outage::Drop, "5"),
        (Outage::Hang, "5"),
        (Outage::Status(401), "5"),
        (Outage::RateLimited { retry_after_s: 9 }, "9"),
    ] {
        let service = vendors.service().await;
        vendors.clerk.set_outage(Some(outage));
        let response = service.token(&vendors.token("alice")).await;
        assert_eq!(response.headers()["retry-after"], retry_after);
        assert_eq!(refusal(response).await, (503, 50003), "{outage:?}");
        vendors.clerk.set_outage(None);
    }
}

#[tokio::test]
async fn an_outage_ends_without_a_trace() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    vendors.clerk.set_outage(Some(Outage::Status(500)));
    assert_eq!(refusal(service.token(&vendors.token("alice")).await).await, (503, 50003));
    vendors.clerk.set_outage(None);
    assert_eq!(json(service.token(&vendors.token("alice")).await, 200).await["clientId"], "alice");
}
