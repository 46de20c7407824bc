//! What a signed-in user gets, and how params shape it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{Vendors, json, refusal, rendered, request_id};

/// The token that Ably gives for a token request.
pub(crate) async fn exchanged(vendors: &Vendors, token_request: &Value) -> Value {
    let key_name = token_request["keyName"].as_str().unwrap();
    let url = format!("{}/keys/{key_name}/requestToken", vendors.ably.url());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = http.post(url).json(token_request).send().await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    assert!(status.is_success(), "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn a_session_becomes_a_token_request_that_ably_takes_once() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let response = service.token(&vendors.token("alice")).await;
    let mut text = rendered(response).await;
    let body = text.split_off(text.rfind("\n\n").unwrap()).trim().to_owned();
    insta::assert_snapshot!(text, @r#"
    HTTP/1.1 200 OK
    cache-control: no-store
    content-type: application/json
    cross-origin-resource-policy: same-origin
    ratelimit-policy: "tokens";q=20;w=20
    ratelimit: "tokens";r=19;t=19
    vary: Origin
    x-content-type-options: nosniff
    "#);
    let token_request: Value = serde_json::from_str(&body).unwrap();
    let names: Vec<_> = token_request.as_object().unwrap().keys().collect();
    assert_eq!(names, ["clientId", "keyName", "mac", "nonce", "timestamp"]);
    assert_eq!(token_request["keyName"], vendors.ably.key_name());

    let details = exchanged(&vendors, &token_request).await;
    assert_eq!(details["clientId"], "alice");
    let again = service.token(&vendors.token("alice")).await.json::<Value>().await.unwrap();
    assert_ne!(again["nonce"], token_request["nonce"]);
}

#[tokio::test]
async fn what_a_client_asks_for_is_honoured_within_what_is_allowed() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("TOKEN_TTL", "30m")]).await;
    let asked = |query: &'static str| {
        let (service, token) = (&service, vendors.token("alice"));
        async move { json(service.token_with(&token, query).await, 200).await }
    };
    assert_eq!(asked("").await["ttl"], 1_800_000);
    assert_eq!(asked("ttl=60000").await["ttl"], 60_000);
    assert_eq!(asked("ttl=7200000").await["ttl"], 1_800_000);
    assert_eq!(asked("clientId=alice").await["clientId"], "alice");
    let narrowed =
        asked("capability=%7B%22b%22%3A%5B%22subscribe%22%2C%22publish%22%5D%2C%22a%22%3A%5B%22*%22%5D%7D").await;
    assert_eq!(narrowed["capability"], r#"{"a":["*"],"b":["publish","subscribe"]}"#);
    exchanged(&vendors, &narrowed).await;
    let stubborn = asked("timestamp=1&nonce=0123456789abcdef&keyName=other.key&mac=x&rnd=5").await;
    assert_ne!(stubborn["timestamp"], 1);
    assert_ne!(stubborn["nonce"], "0123456789abcdef");
    exchanged(&vendors, &stubborn).await;
}

#[tokio::test]
async fn of_a_post_only_the_form_counts() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let post = |query: &str, form: &'static str| {
        service
            .request(Method::POST, &format!("/api/ably?{query}"))
            .bearer_auth(vendors.token("alice"))
            .header("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8")
            .body(form)
            .send()
    };
    let issued = json(post("ttl=-1&clientId=bob", "ttl=10000&clientId=alice").await.unwrap(), 200).await;
    assert_eq!((&issued["ttl"], &issued["clientId"]), (&json!(10_000), &json!("alice")));
    assert_eq!(refusal(post("ttl=10000", "ttl=-1").await.unwrap()).await, (400, 40003));

    let empty = service.request(Method::POST, "/api/ably").bearer_auth(vendors.token("alice")).send().await.unwrap();
    assert_eq!(empty.status(), StatusCode::OK);
    for (content_type, encoding) in
        [("application/json", None), ("text/plain", None), ("application/x-www-form-urlencoded", Some("gzip"))]
    {
        let mut request = service.request(Method::POST, "/api/ably").bearer_auth(vendors.token("alice"));
        request = request.header("Content-Type", content_type).body("{}");
        if let Some(encoding) = encoding {
            request = request.header("Content-Encoding", encoding);
        }
        assert_eq!(refusal(request.send().await.unwrap()).await, (415, 40000), "{content_type}");
    }
}

#[tokio::test]
async fn malformed_params_are_refused_with_what_is_wrong() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for (query, expected) in [
        ("ttl=0", (400, 40003)),
        ("ttl=-5", (400, 40003)),
        ("ttl=1.5", (400, 40003)),
        ("ttl=1", (400, 40003)),
        ("ttl=9999", (400, 40003)),
        ("ttl=soon", (400, 40003)),
        ("capability=x", (400, 40000)),
        ("capability=%7B%7D", (400, 40000)),
        ("capability=%7B%22a%22%3A%5B%5D%7D", (400, 40000)),
        ("capability=%7B%22a%22%3A%5B%22fly%22%5D%7D", (400, 40000)),
        ("clientId=*", (400, 40012)),
        ("clientId=alice%0Aalice", (400, 40012)),
        ("clientId=bob", (403, 40012)),
        ("clientId=Alice", (403, 40012)),
        ("clientId=alice&clientId=alice", (400, 40000)),
        ("ttl=10000&%74tl=10000", (400, 40000)),
    ] {
        assert_eq!(refusal(service.token_with(&vendors.token("alice"), query).await).await, expected, "{query}");
    }
    for query in ["ttl=&capability=null&clientId=undefined", "TTL=x&client_id=bob"] {
        json(service.token_with(&vendors.token("alice"), query).await, 200).await;
    }
}

#[tokio::test]
async fn a_ttl_in_seconds_is_refused_and_the_message_says_milliseconds() {
    let vendors = Vendors::start().await;
    // What the operator sets may be shorter.
    let service = vendors.service_with(&[("TOKEN_TTL", "4s")]).await;
    let error = json(service.token_with(&vendors.token("alice"), "ttl=3600").await, 400).await;
    let error = &error["error"];
    assert_eq!(error["code"], 40003);
    assert!(error["message"].as_str().unwrap().contains("milliseconds"), "{error}");
    assert_eq!(json(service.token_with(&vendors.token("alice"), "ttl=10000").await, 200).await["ttl"], 4000);
}

#[tokio::test]
async fn the_log_says_how_long_a_token_lives() {
    let vendors = Vendors::start().await;
    for (settings, query, ttl_ms) in [
        (&[][..], "", 3_600_000),
        (&[], "ttl=60000", 60_000),
        (&[("TOKEN_TTL", "4s")], "", 4000),
        (&[("TOKEN_FORMAT", "jwt")], "ttl=12345", 12_345),
        (&[("TOKEN_FORMAT", "token_details")], "ttl=20000", 20_000),
    ] {
        let service = vendors.service_with(settings).await;
        let response = service.token_with(&vendors.token("alice"), query).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(service.logged_of(&request_id(&response)).await["ttl_ms"], ttl_ms);
    }
}

#[tokio::test]
async fn cookies_work_in_both_forms_and_give_way_to_a_bearer_token() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let (token, suffix) = (vendors.token("alice"), vendors.clerk.cookie_suffix());
    let plain = format!("__session={token}; __client_uat=1; __clerk_db_jwt=dvb_1");
    let suffixed =
        format!("a=\u{e9}; __session_{suffix}={token}; __client_uat_{suffix}=1; __clerk_db_jwt_{suffix}=dvb_1");
    for cookies in [&plain, &suffixed] {
        assert_eq!(json(service.token_by_cookies(cookies).await, 200).await["clientId"], "alice", "{cookies}");
        let dummy =
            service.get("/api/ably").header("Cookie", cookies).header("authorization", "-").send().await.unwrap();
        assert_eq!(json(dummy, 200).await["clientId"], "alice");
    }
    let both = service.get("/api/ably").header("Cookie", plain).bearer_auth(vendors.token("bob")).send().await.unwrap();
    assert_eq!(json(both, 200).await["clientId"], "bob");
}

#[tokio::test]
async fn every_key_source_verifies() {
    let vendors = Vendors::start().await;
    let (clerk, named) = (&vendors.clerk, json!({ "username": "alice" }));
    let proxy_url = clerk.proxy_url();
    let own_issuer = vendors.token_with(&named);
    let proxied = vendors.token_with(&json!({ "username": "alice", "iss": proxy_url }));
    for (settings, token) in [
        (vec![], &own_issuer),
        (vec![("CLERK_SECRET_KEY", ""), ("CLERK_PROXY_URL", proxy_url.as_str())], &own_issuer),
        (vec![("CLERK_SECRET_KEY", ""), ("CLERK_PROXY_URL", proxy_url.as_str())], &proxied),
        (vec![("CLERK_SECRET_KEY", ""), ("CLERK_JWT_KEY", clerk.jwt_key())], &own_issuer),
    ] {
        let service = vendors.service_with(&settings).await;
        assert_eq!(json(service.token(token).await, 200).await["clientId"], "alice", "{settings:?}");
    }
    let calls = clerk.calls();
    assert_eq!((calls.backend_jwks, calls.frontend_jwks), (1, 2));
}

#[tokio::test]
async fn the_service_describes_itself() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let contract = service.get("/openapi.yaml").send().await.unwrap();
    assert_eq!(contract.headers()["content-type"], "application/yaml");
    assert_eq!(contract.text().await.unwrap(), include_str!("../../openapi.yaml"));
    assert_eq!(json(service.get("/healthz").send().await.unwrap(), 200).await, json!({ "status": "ok" }));
    let ready = json(service.get("/readyz").send().await.unwrap(), 200).await;
    assert_eq!((&ready["status"], &ready["signing_keys"]["status"]), (&json!("ready"), &json!("confirmed")));
    let head = service.request(Method::HEAD, "/healthz").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
}
