//! `TOKEN_SIGNED_OUT`: the answer for a client whose user is signed out, and for no other client.

use serde_json::{Value, json};

use crate::{
    service::{Service, Vendors, json, refusal, request_id, run},
    tenants::Tenants,
};

const FAIL: (&str, &str) = ("TOKEN_SIGNED_OUT", "fail");

/// The answer to cookies and an `Authorization` header.
async fn judged(service: &Service, cookies: &str, authorization: Option<&str>) -> ((u16, u64), Value) {
    let mut request = service.get("/api/ably").header("Cookie", cookies);
    if let Some(authorization) = authorization {
        request = request.header("Authorization", authorization);
    }
    let response = request.send().await.unwrap();
    let id = request_id(&response);
    (refusal(response).await, service.logged_of(&id).await["reason"].take())
}

#[tokio::test]
async fn a_client_whose_user_is_signed_out_is_told_to_stop_where_the_app_wants_that() {
    let vendors = Vendors::start().await;
    let (failing, retrying) = (vendors.service_with(&[FAIL]).await, vendors.service().await);
    let token = vendors.token("alice");
    for (cookies, authorization, reason) in [
        ("theme=dark".to_owned(), None, "session-token-missing"),
        (String::new(), Some("-"), "session-token-missing"),
        (String::new(), Some("Bearer null"), "session-token-missing"),
        ("__client_uat=0; __clerk_db_jwt=d".into(), None, "session-token-missing"),
        (format!("__session={token}; __client_uat=0; __clerk_db_jwt=d"), None, "client-uat-signed-out"),
    ] {
        let refused = judged(&failing, &cookies, authorization).await;
        assert_eq!(refused, ((403, 40300), json!(reason)), "{cookies}");
        let refused = judged(&retrying, &cookies, authorization).await;
        assert_eq!(refused, ((401, 40101), json!(reason)), "{cookies}");
    }
    json(failing.token(&vendors.token("alice")).await, 200).await;
}

#[tokio::test]
async fn a_client_whose_user_may_be_signed_in_is_not_told_to_stop() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[FAIL]).await;
    let token = vendors.token("alice");
    let expired = vendors.token_with(&json!({ "exp": 1, "iat": 0, "nbf": 0 }));
    let pending = vendors.token_with(&json!({ "sts": "pending" }));
    for (cookies, authorization, reason) in [
        // The page has not made its session cookie yet.
        ("__client_uat=1; __clerk_db_jwt=d".to_owned(), None, "session-token-missing"),
        (
            format!("__session={token}; __client_uat=99999999999; __clerk_db_jwt=d"),
            None,
            "session-token-older-than-client-uat",
        ),
        (format!("__session={token}; __client_uat=1"), None, "dev-browser-missing"),
        (String::new(), Some(format!("Bearer {expired}")), "token-expired"),
        (String::new(), Some(format!("Bearer {pending}")), "session-pending"),
        (String::new(), Some("Bearer x".into()), "token-malformed"),
    ] {
        let refused = judged(&service, &cookies, authorization.as_deref()).await;
        assert_eq!(refused, ((401, 40101), json!(reason)), "{cookies}");
    }
}

#[tokio::test]
async fn of_several_tenants_all_have_to_want_their_clients_told_to_stop() {
    let tenants = Tenants::start().await;
    let pages = "__client_uat=1; __clerk_db_jwt=d";
    for (beta, status) in [("retry", (401, 40101)), ("fail", (403, 40300))] {
        let more = [("TENANTS_ACME_TOKEN_SIGNED_OUT", "fail"), ("TENANTS_BETA_2_TOKEN_SIGNED_OUT", beta)];
        let service = tenants.service_with(&more).await;
        let refused = judged(&service, "", None).await;
        assert_eq!(refused, (status, json!("session-token-missing")));
        let refused = judged(&service, pages, None).await;
        assert_eq!(refused, ((401, 40101), json!("session-token-missing")), "the page has not made its cookie yet");
    }
}

#[tokio::test]
async fn another_value_is_refused_at_the_start() {
    let vendors = Vendors::start().await;
    let settings = [vendors.settings(), vec![("TOKEN_SIGNED_OUT".into(), "stop".into())]].concat();
    let output = run(&settings, &["serve"]);
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("TOKEN_SIGNED_OUT ([token] signed_out): unknown value; use one of: retry, fail"), "{told}");
}
