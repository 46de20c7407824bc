//! What a browser is told about pages of other origins.

use reqwest::{Method, StatusCode};

use crate::service::{ORIGIN, Service, Vendors, rendered};

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
