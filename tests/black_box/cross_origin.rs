//! What a browser is told about pages of other origins.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::service::{ORIGIN, Service, Vendors, json, refusal, rendered, request_id};

async fn preflight(service: &Service, origin: &str) -> String {
    let response = service
        .request(Method::OPTIONS, "/api/ably")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "authorization, x-own")
        .send();
    rendered(response.await.unwrap()).await
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_with_credentials_and_read_the_answer() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    insta::assert_snapshot!(preflight(&service, ORIGIN).await, @r"
    HTTP/1.1 204 No Content
    access-control-allow-credentials: true
    access-control-allow-headers: authorization, x-own
    access-control-allow-methods: GET, POST
    access-control-allow-origin: http://localhost:3000
    access-control-expose-headers: X-Ably-Errorcode, X-Ably-Errormessage, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy
    access-control-max-age: 7200
    vary: Access-Control-Request-Method, Access-Control-Request-Headers
    vary: Origin
    x-content-type-options: nosniff
    ");
    for path in ["/api/ably", "/nowhere"] {
        let response = service.get(path).header("Origin", ORIGIN).send().await.unwrap();
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], ORIGIN);
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("X-Ably-Errormessage"));
        assert_eq!(headers["vary"], "Origin");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_is_told_nothing() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    insta::assert_snapshot!(preflight(&service, "https://evil.example.com").await, @r"
    HTTP/1.1 204 No Content
    cross-origin-resource-policy: same-origin
    vary: Access-Control-Request-Method, Access-Control-Request-Headers
    vary: Origin
    x-content-type-options: nosniff
    ");
    for origin in
        ["https://evil.example.com", "null", "http://localhost:3000.evil.example.com", "HTTP://LOCALHOST:3000"]
    {
        let response = service.token_with(&vendors.token("alice"), "").await;
        assert_eq!(response.status(), StatusCode::OK);
        let response = service.get("/api/ably").bearer_auth(vendors.token("alice")).header("Origin", origin);
        let headers = response.send().await.unwrap().headers().clone();
        assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{origin}: {headers:?}");
        assert_eq!(headers["vary"], "Origin");
    }
}

#[tokio::test]
async fn the_origins_may_be_named_apart_from_the_authorized_parties() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("CORS_ALLOWED_ORIGINS", "https://other.example.com")]).await;
    let allowed = |origin: &'static str| {
        let request = service.get("/api/ably").header("Origin", origin);
        async move { request.send().await.unwrap().headers().contains_key("access-control-allow-origin") }
    };
    assert!(allowed("https://other.example.com").await);
    assert!(!allowed(ORIGIN).await);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_spend_a_users_allowance() {
    let vendors = Vendors::start().await;
    let limits = [("LIMITS_TOKENS_PER_MINUTE", "1"), ("LIMITS_TOKENS_BURST", "1")];
    let service = vendors.service_with(&limits).await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    let cookies = format!("__session={token}; __client_uat=1; __clerk_db_jwt=d");
    for (method, mode, origin) in [
        (Method::GET, "navigate", None),
        (Method::GET, "no-cors", None),
        (Method::GET, "cors", Some("https://evil.example.com")),
        (Method::POST, "navigate", Some("https://evil.example.com")),
        (Method::POST, "no-cors", Some("null")),
        (Method::POST, "no-cors", Some("HTTP://LOCALHOST:3000")),
    ] {
        for sites in [&["cross-site"][..], &["same-site"], &["Same-Origin"], &[""], &["same-origin", "cross-site"]] {
            let request = service.request(method.clone(), "/api/ably").header("Cookie", &cookies);
            let request = sites.iter().fold(request, |request, site| request.header("Sec-Fetch-Site", *site));
            let request = origin.into_iter().fold(request, |request, origin| request.header("Origin", origin));
            let response = request.header("Sec-Fetch-Mode", mode).send().await.unwrap();
            let id = request_id(&response);
            assert!(!response.headers().contains_key("ratelimit"), "{mode} {sites:?}");
            assert_eq!(refusal(response).await, (401, 40101), "{mode} {sites:?}");
            assert_eq!(service.logged_of(&id).await["reason"], "request-from-another-site");
        }
    }
    let request = service.get("/api/ably").header("Cookie", &cookies).header("Sec-Fetch-Site", "same-origin");
    assert_eq!(json(request.send().await.unwrap(), 200).await["clientId"], "alice");
}

#[tokio::test]
async fn cookies_count_where_the_user_or_an_allowed_page_asks_and_bearer_tokens_from_everywhere() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    let cookies = format!("__session={token}; __client_uat=1; __clerk_db_jwt=d");
    for headers in [
        &[][..],
        &[("Origin", "https://evil.example.com")],
        &[("Sec-Fetch-Site", "same-origin")],
        &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", ORIGIN)],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", ORIGIN), ("Authorization", "-")],
    ] {
        let request = service.get("/api/ably").header("Cookie", &cookies);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        json(request.send().await.unwrap(), 200).await;
    }
    for site in ["cross-site", "same-site", "unheard-of"] {
        let request = service.get("/api/ably").bearer_auth(&token).header("Cookie", &cookies);
        json(request.header("Sec-Fetch-Site", site).send().await.unwrap(), 200).await;
    }
}

#[tokio::test]
async fn no_page_of_another_origin_can_embed_an_answer() {
    const TOO_LARGE: &str = "/too-large";
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for (method, path) in [
        (Method::GET, "/api/ably"),
        (Method::DELETE, "/api/ably"),
        (Method::OPTIONS, "/api/ably"),
        (Method::POST, "/webhooks/clerk"),
        (Method::GET, "/healthz"),
        (Method::GET, "/readyz"),
        (Method::GET, "/openapi.yaml"),
        (Method::GET, "/nowhere"),
        (Method::GET, TOO_LARGE),
    ] {
        let policy = async |origin: Option<&str>| {
            let request = service.request(method.clone(), path);
            let request = origin.into_iter().fold(request, |request, origin| request.header("Origin", origin));
            let large = if path == TOO_LARGE { 16 * 1024 } else { 0 };
            let request = request.header("X-Large", "x".repeat(large));
            let headers = request.send().await.unwrap().headers().clone();
            headers.get("cross-origin-resource-policy").map(|policy| policy.to_str().unwrap().to_owned())
        };
        let same_origin = Some("same-origin".to_owned());
        assert_eq!(policy(None).await, same_origin, "{method} {path}");
        assert_eq!(policy(Some("https://evil.example.com")).await, same_origin, "{method} {path}");
        assert_eq!(policy(Some(ORIGIN)).await, None, "{method} {path}");
    }
}
