//! The limits of a replica, and the client address in the log.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, SystemTime},
};

use reqwest::{Method, RequestBuilder, Response};
use sandbox::{ably, clerk::Outage};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use crate::{
    service::{ORIGIN, Service, Vendors, json, refusal, rendered, request_id},
    webhooks,
};

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

/// The numbers of a `RateLimit` header.
fn rate_limit(response: &Response) -> (u32, u32) {
    let parameters = header(response, "ratelimit").strip_prefix("\"tokens\";r=").unwrap();
    let (remaining, reset) = parameters.split_once(";t=").unwrap();
    (remaining.parse().unwrap(), reset.parse().unwrap())
}

#[tokio::test]
async fn a_user_above_the_limit_learns_when_to_retry_and_other_users_are_not_affected() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "1"), ("LIMITS_TOKENS_BURST", "3")]).await;
    // With one more a minute, two that are left last two minutes.
    for remaining in [2, 1, 0] {
        let response = service.token(&vendors.token_with(&json!({ "username": "alice" }))).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "ratelimit-policy"), "\"tokens\";q=3;w=180");
        assert_eq!(rate_limit(&response), (remaining, 60 * remaining.max(1)));
    }
    // This session needs a look-up at Clerk.
    let request = service.get("/api/ably").bearer_auth(vendors.token("alice")).header("Origin", ORIGIN);
    let response = request.send().await.unwrap();
    let id = request_id(&response);
    let (remaining, reset) = rate_limit(&response);
    assert_eq!(remaining, 0);
    assert!((1..=60).contains(&reset), "{reset}");
    assert_eq!(header(&response, "retry-after"), reset.to_string());
    let text = rendered(response).await;
    let text = text.replace(&format!("t={reset}"), "t=<s>").replace(&format!("after: {reset}"), "after: <s>");
    insta::assert_snapshot!(text, @r#"
    HTTP/1.1 429 Too Many Requests
    access-control-allow-credentials: true
    access-control-allow-origin: http://localhost:3000
    access-control-expose-headers: X-Ably-Errorcode, X-Ably-Errormessage, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy
    cache-control: no-store
    content-type: application/json
    ratelimit-policy: "tokens";q=3;w=180
    ratelimit: "tokens";r=0;t=<s>
    retry-after: <s>
    vary: Origin
    x-ably-errorcode: 42910
    x-ably-errormessage: The user has asked for too many tokens. Wait as many seconds as the Retry-After header says. (rate-limited)
    x-content-type-options: nosniff

    {"error":{"code":42910,"statusCode":429,"message":"The user has asked for too many tokens. Wait as many seconds as the Retry-After header says. (rate-limited)","href":"https://help.ably.io/error/42910"}}
    "#);
    let logged = service.logged_of(&id).await;
    assert_eq!((&logged["reason"], &logged["user_id"]), (&json!("rate-limited"), &json!(vendors.user("alice"))));
    assert_eq!(vendors.clerk.calls().users, 0);

    let post = service.request(Method::POST, "/api/ably").bearer_auth(vendors.token("alice")).send();
    assert_eq!(refusal(post.await.unwrap()).await, (429, 42910));
    let response = service.token(&vendors.token("bob")).await;
    assert_eq!(rate_limit(&response), (2, 120));
    json(response, 200).await;
}

#[tokio::test]
async fn a_refusal_counts_only_after_the_session_is_verified() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "1"), ("LIMITS_TOKENS_BURST", "3")]).await;
    let good = vendors.token("alice");
    let forged = format!("{}{}", &good[..good.len() - 20], "A".repeat(20));
    let expired = vendors.token_with(&json!({ "iat": 1, "nbf": 1, "exp": 61 }));
    for strangers in [&forged, &expired, &forged, &expired, &forged] {
        let response = service.token(strangers).await;
        assert!(!response.headers().contains_key("ratelimit"));
        assert_eq!(refusal(response).await, (401, 40101));
    }
    assert_eq!(rate_limit(&service.token(&good).await).0, 2);
    let response = service.token_with(&good, "clientId=bob").await;
    assert_eq!(rate_limit(&response).0, 1);
    assert_eq!(refusal(response).await, (403, 40012));
    let response = service.token_with(&good, "ttl=-1").await;
    assert_eq!(rate_limit(&response).0, 0);
    assert_eq!(refusal(response).await, (400, 40003));
    assert_eq!(refusal(service.token(&good).await).await, (429, 42910));
}

#[tokio::test]
async fn twenty_tokens_are_issued_at_once_and_more_if_the_limit_is_off() {
    let vendors = Vendors::start().await;
    let slow = [("LIMITS_TOKENS_PER_MINUTE", "1")];
    let service = vendors.service_with(&slow).await;
    let token = vendors.token("alice");
    for _ in 0..20 {
        json(service.token(&token).await, 200).await;
    }
    assert_eq!(refusal(service.token(&token).await).await, (429, 42910));

    let service = vendors.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "0")]).await;
    for _ in 0..30 {
        let response = service.token(&token).await;
        assert!(!response.headers().contains_key("ratelimit"));
        assert!(!response.headers().contains_key("ratelimit-policy"));
        json(response, 200).await;
    }
}

/// Waits until this many requests to the public listener are in flight.
pub(crate) async fn in_flight(service: &Service, requests: u32) {
    for _ in 0..3000 {
        if service.scrape().await.contains(&format!("ably_clerk_auth_requests_in_flight {requests}\n")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not {requests} in flight: {}", service.scrape().await);
}

#[tokio::test]
async fn an_overloaded_service_rejects_token_requests_at_once_and_answers_all_others() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("LIMITS_MAX_IN_FLIGHT", "2")]).await;
    let quick = vendors.token_with(&json!({ "username": "alice" }));
    vendors.clerk.set_outage(Some(Outage::Hang));
    let held: Vec<_> =
        (0..2).map(|_| tokio::spawn(service.get("/api/ably").bearer_auth(vendors.token("bob")).send())).collect();
    in_flight(&service, 2).await;

    for method in [Method::GET, Method::POST] {
        let request = service.request(method, "/api/ably").bearer_auth(&quick).header("Origin", ORIGIN);
        let response = request.send().await.unwrap();
        let id = request_id(&response);
        let text = rendered(response).await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(text, @r#"
            HTTP/1.1 503 Service Unavailable
            access-control-allow-credentials: true
            access-control-allow-origin: http://localhost:3000
            access-control-expose-headers: X-Ably-Errorcode, X-Ably-Errormessage, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy
            cache-control: no-store
            content-type: application/json
            retry-after: 1
            vary: Origin
            x-ably-errorcode: 50000
            x-ably-errormessage: The token service is overloaded. Try again soon. (overloaded)
            x-content-type-options: nosniff

            {"error":{"code":50000,"statusCode":503,"message":"The token service is overloaded. Try again soon. (overloaded)","href":"https://help.ably.io/error/50000"}}
            "#);
        }
        assert_eq!(service.logged_of(&id).await["reason"], "overloaded");
    }
    for path in ["/healthz", "/readyz", "/openapi.yaml"] {
        assert_eq!(service.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    let preflight = service.request(Method::OPTIONS, "/api/ably").header("Origin", ORIGIN);
    assert_eq!(preflight.send().await.unwrap().status(), 204);
    let overloaded = "ably_clerk_auth_request_refusals_total{reason=\"overloaded\",status=\"503\"} 2\n";
    assert!(service.scrape().await.contains(overloaded), "{}", service.scrape().await);

    vendors.clerk.set_outage(None);
    for response in held {
        response.await.unwrap().unwrap();
    }
    json(service.token(&quick).await, 200).await;
}

/// A session token with an unknown signing key.
fn with_unknown_kid(vendors: &Vendors) -> String {
    let header = json!({ "alg": "RS256", "kid": "ins_unknown", "typ": "JWT" });
    vendors.clerk.mint_with_header(header, vendors.clerk.session_claims(&vendors.user("alice")))
}

#[tokio::test]
async fn requests_that_wait_for_signing_keys_hold_no_permit_and_are_bounded() {
    let vendors = Vendors::start().await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    let unknown = with_unknown_kid(&vendors);
    for (name, value) in [
        ("Authorization", format!("Bearer {unknown}")),
        ("Cookie", format!("__session={unknown}; __client_uat=1; __clerk_db_jwt=d")),
    ] {
        let service = vendors.service_with_admin("", &[("LIMITS_MAX_IN_FLIGHT", "4")]).await;
        vendors.clerk.set_outage(Some(Outage::Hang));
        let stranger = || service.get("/api/ably").header(name, &value).send();
        let waiting: Vec<_> = (0..4).map(|_| tokio::spawn(stranger())).collect();
        in_flight(&service, 4).await;

        json(service.token(&token).await, 200).await;
        let one_more = stranger().await.unwrap();
        let id = request_id(&one_more);
        assert_eq!(header(&one_more, "retry-after"), "1");
        assert_eq!(refusal(one_more).await, (503, 50000));
        assert_eq!(service.logged_of(&id).await["reason"], "overloaded");
        let overloaded = "ably_clerk_auth_request_refusals_total{reason=\"overloaded\",status=\"503\"} 1\n";
        assert!(service.scrape().await.contains(overloaded), "{}", service.scrape().await);
        json(service.token(&token).await, 200).await;

        vendors.clerk.set_outage(None);
        for stranger in waiting {
            assert_eq!(refusal(stranger.await.unwrap().unwrap()).await, (401, 40101));
        }
        json(service.token(&token).await, 200).await;
    }
}

/// Reads one whole answer. Returns its status.
fn status(connection: &mut BufReader<TcpStream>) -> u16 {
    let mut status = String::new();
    connection.read_line(&mut status).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    connection.read_exact(&mut vec![0; length]).unwrap();
    status.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Work that never waits can queue only in the sockets.
#[tokio::test]
async fn requests_that_have_piled_up_are_rejected_before_the_service_works_on_any() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LIMITS_MAX_IN_FLIGHT", "8"), ("LIMITS_TOKENS_PER_MINUTE", "0")]).await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let connect = || BufReader::new(TcpStream::connect(service.address()).unwrap());
    let mut connections: Vec<_> = (0..100).map(|_| connect()).collect();
    for connection in &mut connections {
        connection.get_mut().write_all(get("/healthz").as_bytes()).unwrap();
        assert_eq!(status(connection), 200);
    }
    service.signal("STOP");
    for connection in &mut connections {
        connection.get_mut().write_all(get("/api/ably").as_bytes()).unwrap();
    }
    service.signal("CONT");
    let mut answers = BTreeMap::<_, usize>::new();
    for connection in &mut connections {
        *answers.entry(status(connection)).or_default() += 1;
    }
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&200, &503], "{answers:?}");
    assert!(answers[&200] >= 8 && answers[&503] > 50, "{answers:?}");
    json(service.token(&token).await, 200).await;
}

#[tokio::test]
async fn a_client_that_sends_slowly_holds_no_permit() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("LIMITS_MAX_IN_FLIGHT", "1")]).await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    let mut slow = TcpStream::connect(service.address()).unwrap();
    let head = format!(
        "POST /api/ably HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n\r\nttl="
    );
    slow.write_all(head.as_bytes()).unwrap();
    in_flight(&service, 1).await;
    json(service.token(&token).await, 200).await;
    slow.write_all(b"50000").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A request with an event, signed with this secret.
fn webhook(service: &Service, secret: &str, event: &str) -> RequestBuilder {
    let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let request = service.request(Method::POST, "/webhooks/clerk").body(event.to_owned());
    let headers = webhooks::signed(secret, now, event);
    headers.into_iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// An event that ends this user's access.
fn deletion(user_id: &str) -> String {
    let now = u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    json!({ "object": "event", "type": "user.deleted", "timestamp": now, "data": { "id": user_id, "deleted": true } })
        .to_string()
}

/// The client addresses in the log: of a token issued, a token refused, an invalid body and an unknown route, and of webhooks
/// that are unsigned, wrongly signed, malformed and applied.
async fn addresses(service: &Service, token: &str, headers: &[(&str, &str)]) -> Vec<Value> {
    let mut addresses = Vec::new();
    let form = service.request(Method::POST, "/api/ably").body("no form");
    for request in [
        service.get("/api/ably").bearer_auth(token),
        service.get("/api/ably"),
        form,
        service.get("/nowhere"),
        service.request(Method::POST, "/webhooks/clerk"),
        webhook(service, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "{}"),
        webhook(service, WEBHOOK_SECRET, "{}"),
        webhook(service, WEBHOOK_SECRET, &deletion("user_1")),
    ] {
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let id = request_id(&request.send().await.unwrap());
        addresses.push(service.logged_of(&id).await["client_address"].clone());
    }
    addresses
}

#[tokio::test]
async fn the_log_has_the_peer_whatever_headers_an_untrusted_peer_sends() {
    let vendors = Vendors::start().await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    for trusted in ["", "10.0.0.0/8,127.0.0.2"] {
        let settings = [("SERVER_TRUSTED_PROXIES", trusted), ("CLERK_WEBHOOK_SIGNING_SECRET", WEBHOOK_SECRET)];
        let service = vendors.service_with(&settings).await;
        for headers in [
            &[][..],
            &[("X-Forwarded-For", "192.0.2.7")],
            &[("Forwarded", "for=192.0.2.7")],
            &[("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=192.0.2.7")],
            &[("X-Real-Ip", "192.0.2.7")],
        ] {
            assert_eq!(addresses(&service, &token, headers).await, ["127.0.0.1"; 8], "{headers:?}");
        }
    }
}

#[tokio::test]
async fn the_log_has_the_client_that_trusted_proxies_name_and_not_what_the_client_sent_to_them() {
    let vendors = Vendors::start().await;
    let token = vendors.token_with(&json!({ "username": "alice" }));
    let trusted = ("SERVER_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8");
    let service = vendors.service_with(&[trusted, ("CLERK_WEBHOOK_SIGNING_SECRET", WEBHOOK_SECRET)]).await;
    for (headers, address) in [
        (&[][..], "127.0.0.1"),
        (&[("X-Forwarded-For", "6.6.6.6, 192.0.2.7, 10.0.0.2")], "192.0.2.7"),
        (&[("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "192.0.2.7")], "192.0.2.7"),
        (&[("Forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:443\";proto=https")], "2001:db8::7"),
        (&[("X-Forwarded-For", "6.6.6.6, unknown, 10.0.0.2")], "10.0.0.2"),
        (&[("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=6.6.6.6")], "127.0.0.1"),
        (&[("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=192.0.2.7")], "192.0.2.7"),
    ] {
        assert_eq!(addresses(&service, &token, headers).await, [address; 8], "{headers:?}");
    }
}

#[tokio::test]
async fn the_log_has_the_address_of_a_rejected_webhook_and_why() {
    let vendors = webhooks::vendors().await;
    let settings = [
        ("CLERK_WEBHOOK_SIGNING_SECRET", WEBHOOK_SECRET),
        ("ABLY_REVOCABLE_TOKENS", "true"),
        ("SERVER_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let service = vendors.service_with(&settings).await;
    json(service.token(&vendors.token("alice")).await, 200).await;
    vendors.ably.set_revocation_outage(Some(ably::Outage::Status(503)));
    let deletion = deletion(&vendors.user("alice"));
    for (event, status, reason) in [("{}", 400, "webhook-malformed"), (deletion.as_str(), 503, "webhook-not-revoked")] {
        let request = webhook(&service, WEBHOOK_SECRET, event).header("X-Forwarded-For", "192.0.2.7");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        let line = service.logged_of(&request_id(&response)).await;
        assert_eq!((&line["reason"], &line["status"]), (&json!(reason), &json!(status)));
        assert_eq!(line["client_address"], "192.0.2.7");
    }
}

#[tokio::test]
async fn the_log_has_the_peer_that_sent_an_invalid_request() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    assert!(service.raw(b"no request\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert_eq!(service.logged_where("reason", "not-a-request").await["client_address"], "127.0.0.1");
}

#[tokio::test]
async fn the_log_has_the_peer_of_an_operator_request_whatever_its_headers_say() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("SERVER_TRUSTED_PROXIES", "127.0.0.1")]).await;
    for (request, status) in [(json!({ "user": "user_1" }), 200), (json!({ "no": "order" }), 400)] {
        let request = service.admin(Method::POST, "/revocations").json(&request).header("X-Forwarded-For", "192.0.2.7");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(service.logged_of(&request_id(&response)).await["client_address"], "127.0.0.1");
    }
}

/// The most bodies above 64 KiB that are received at the same time.
const LARGE_BODIES: usize = 32;

/// The answer to a webhook whose body never ends. The connection stays open.
async fn unfinished(service: &Service, framing: &str, body: &str) -> impl Future<Output = String> + use<> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let head = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nHost: x\r\nsvix-id: msg_1\r\nsvix-timestamp: {now}\r\n\
         svix-signature: v1,a\r\n{framing}\r\n\r\n"
    );
    let mut stream = tokio::net::TcpStream::connect(service.address()).await.unwrap();
    let request = head + body;
    async move {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn many_unfinished_large_webhooks_do_not_block_small_ones_and_only_a_few_are_received() {
    let vendors = Vendors::start().await;
    let chunk = format!("11000\r\n{}\r\n", " ".repeat(0x11000));
    for (framing, body) in [("Content-Length: 65537", " "), ("Transfer-Encoding: chunked", &chunk)] {
        let settings = [("CLERK_WEBHOOK_SIGNING_SECRET", WEBHOOK_SECRET)];
        let service = vendors.service_with_admin("", &settings).await;
        let mut begun = JoinSet::new();
        for _ in 0..LARGE_BODIES + 5 {
            begun.spawn(unfinished(&service, framing, body).await);
        }
        // The service waits 5 seconds for those that it receives and rejects the others at once.
        for _ in 0..5 {
            let answer = begun.join_next().await.unwrap().unwrap();
            assert!(answer.starts_with("HTTP/1.1 503 "), "{framing}: {answer}");
            assert!(answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
        }
        let small = deletion("user_1");
        let large = format!("{small}{}", " ".repeat(64 * 1024));
        assert_eq!(webhook(&service, WEBHOOK_SECRET, &small).send().await.unwrap().status(), 204, "{framing}");
        let response = webhook(&service, WEBHOOK_SECRET, &large).send().await.unwrap();
        let id = request_id(&response);
        assert_eq!(refusal(response).await, (503, 50000), "{framing}");
        assert_eq!(service.logged_of(&id).await["reason"], "webhook-overloaded");
        let counted = "ably_clerk_auth_request_refusals_total{reason=\"webhook-overloaded\",status=\"503\"} 6\n";
        assert!(service.scrape().await.contains(counted), "{}", service.scrape().await);

        while let Some(answer) = begun.join_next().await {
            let answer = answer.unwrap();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{framing}: {answer}");
        }
        assert_eq!(webhook(&service, WEBHOOK_SECRET, &large).send().await.unwrap().status(), 204, "{framing}");
    }
}
