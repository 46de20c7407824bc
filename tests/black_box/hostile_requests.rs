//! Requests that are too large, too slow or invalid.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{Vendors, refusal};

#[tokio::test]
async fn routes_and_methods_that_do_not_exist_are_refused_in_the_same_shape() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for path in ["/", "/api", "/api/ably/", "/api/ably/x", "/metrics", "/revocations", "/webhooks/clerk", "/%2e%2e/etc"]
    {
        assert_eq!(refusal(service.get(path).send().await.unwrap()).await, (404, 40400), "{path}");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/api/ably", "GET, POST, OPTIONS"),
        (Method::PUT, "/api/ably", "GET, POST, OPTIONS"),
        (Method::POST, "/healthz", "GET, HEAD"),
        (Method::DELETE, "/readyz", "GET, HEAD"),
        (Method::POST, "/openapi.yaml", "GET, HEAD"),
    ] {
        let response = service.request(method.clone(), path).send().await.unwrap();
        assert_eq!(response.headers()["allow"], allow);
        assert_eq!(refusal(response).await, (405, 40500), "{method} {path}");
    }
}

#[tokio::test]
async fn heads_and_bodies_above_16_kib_are_refused() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let large = "x".repeat(16 * 1024);
    let query = service.get(&format!("/api/ably?x={large}")).send().await.unwrap();
    assert_eq!(refusal(query).await, (431, 40000));
    let header = service.get("/api/ably").header("X-Large", &large).send().await.unwrap();
    assert_eq!(refusal(header).await, (431, 40000));
    let many = (0..60).fold(service.get("/healthz"), |request, n| request.header(format!("x-{n}"), "x".repeat(300)));
    assert_eq!(refusal(many.send().await.unwrap()).await, (431, 40000));

    let form = |body: String| {
        let request = service.request(Method::POST, "/api/ably").bearer_auth(vendors.token("alice"));
        request.header("Content-Type", "application/x-www-form-urlencoded").body(body).send()
    };
    assert_eq!(form(format!("x={}", &large[2..])).await.unwrap().status(), StatusCode::OK);
    assert_eq!(refusal(form(format!("x={}", &large[1..])).await.unwrap()).await, (413, 40000));

    let chunked = format!(
        "POST /api/ably HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5000\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x5000)
    );
    assert!(service.raw(chunked.as_bytes()).starts_with("HTTP/1.1 413 "));
    let endless = format!("GET /api/ably HTTP/1.1\r\nX-Endless: {}\r\n\r\n", "x".repeat(200 * 1024));
    assert_shaped(&service.raw(endless.as_bytes()), 431);
    let headers: String = (0..120).fold(String::new(), |headers, n| headers + &format!("x-{n}: 1\r\n"));
    assert_shaped(&service.raw(format!("GET /healthz HTTP/1.1\r\n{headers}\r\n").as_bytes()), 431);
    let long_address = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70 * 1024));
    assert_shaped(&service.raw(long_address.as_bytes()), 431);
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused_and_the_service_lives_on() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET /api/ably HTTP/9.9\r\n\r\n",
        b"GET /api/ably HTTP/1.1\r\nBad Header\r\n\r\n",
        b"POST /api/ably HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/ably HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_shaped(&service.raw(request), 400);
    }
    let two = format!(
        "GET /api/ably HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\nConnection: close\r\n\r\n",
        vendors.token("alice")
    );
    assert!(service.raw(two.as_bytes()).starts_with("HTTP/1.1 401 "));
    let odd = b"GET /api/ably HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nCookie: \xff=\xfe\r\nConnection: close\r\n\r\n";
    assert!(service.raw(odd).starts_with("HTTP/1.1 401 "));
    assert!(service.get("/healthz").send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_webhook_without_the_headers_of_a_delivery_is_refused_before_its_body() {
    let vendors = Vendors::start().await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let service = vendors.service_with(&[("CLERK_WEBHOOK_SIGNING_SECRET", secret)]).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for (headers, reason) in [
        (String::new(), "webhook-headers-missing"),
        (format!("svix-id: a\r\nsvix-timestamp: {now}\r\n"), "webhook-headers-missing"),
        (format!("svix-id: a\r\nsvix-timestamp: {now}\r\nsvix-signature: a\r\n"), "webhook-headers-missing"),
        ("svix-id: a\r\nsvix-timestamp: now\r\nsvix-signature: v1,a\r\n".to_owned(), "webhook-headers-missing"),
        (format!("svix-id:\r\nsvix-timestamp: {now}\r\nsvix-signature: v1,a\r\n"), "webhook-headers-missing"),
        (
            format!("svix-id: a\r\nsvix-id: a\r\nsvix-timestamp: {now}\r\nsvix-signature: v1,a\r\n"),
            "webhook-headers-missing",
        ),
        (format!("svix-id: a\r\nwebhook-timestamp: {now}\r\nsvix-signature: v1,a\r\n"), "webhook-headers-missing"),
        (
            format!("svix-id: a\r\nsvix-timestamp: {}\r\nsvix-signature: v1,a\r\n", now - 400),
            "webhook-invalid-timestamp",
        ),
    ] {
        // The body never ends, and its bytes are not another request.
        let answer = service.raw(
            format!(
                "POST /webhooks/clerk HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 1000000\r\n\r\n\
                 GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 401 "), "{headers}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        assert_eq!(service.logged_of(id).await["reason"], reason, "{headers}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_times_out() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let address = service.address();
    let answer_to = |begun: &'static str| {
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
            stream.write_all(begun.as_bytes()).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        })
    };
    let head = answer_to("GET /api/ably HTTP/1.1\r\nHost:");
    let body = answer_to("POST /api/ably HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab");
    assert_shaped(&head.await.unwrap(), 408);
    assert_shaped(&body.await.unwrap(), 408);
}

#[tokio::test]
async fn a_second_request_that_does_not_arrive_in_time_times_out_too() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let address = service.address();
    let answers = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 4096];
        let read = stream.read(&mut first).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost:").unwrap();
        let mut second = String::new();
        stream.read_to_string(&mut second).unwrap();
        (String::from_utf8_lossy(&first[..read]).into_owned(), second)
    });
    let (first, second) = answers.await.unwrap();
    assert!(first.starts_with("HTTP/1.1 200 OK"), "{first}");
    assert_shaped(&second, 408);
}

/// Asserts that an answer to an invalid request has the shape of all others.
fn assert_shaped(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let head = head.to_ascii_lowercase();
    for header in ["content-type: application/json", "x-content-type-options: nosniff", "x-ably-errorcode: 40000"] {
        assert!(head.contains(header), "{header} is not in {answer}");
    }
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["error"]["code"], &body["error"]["statusCode"]), (&json!(40000), &json!(status)));
}

#[tokio::test]
async fn a_valid_request_id_is_kept_and_an_invalid_one_replaced() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let with_id = |id: &'static str| {
        let request = format!("GET /api/ably HTTP/1.1\r\nHost: x\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n");
        let answer = service.raw(request.as_bytes());
        let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("x-request-id: ")).unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(with_id("Trace_1.a-b"), "Trace_1.a-b");
    let made = with_id("no spaces please");
    assert_eq!(made.len(), 32);
    assert_eq!(service.logged_of(&made).await["message"], "token refused");
}
