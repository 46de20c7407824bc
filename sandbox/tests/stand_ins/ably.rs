//! The stand-in for Ably, from any runtime.

mod controls;
mod revocation;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::http::header::HttpDate;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, Method, StatusCode};
use sandbox::ably::{Ably, Options};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

async fn started(options: Options) -> Ably {
    Ably::start(options).await.unwrap()
}

async fn now_ms(ably: &Ably) -> i64 {
    let times: Vec<i64> = reqwest::get(format!("{}/time", ably.url())).await.unwrap().json().await.unwrap();
    times[0]
}

async fn call(ably: &Ably, path: &str, body: &Value) -> (StatusCode, Value) {
    let (name, secret) = ably.api_key().split_once(':').unwrap();
    let answer = Client::new()
        .post(format!("{}{path}", ably.url()))
        .basic_auth(name, Some(secret))
        .header("X-Ably-Version", "3")
        .json(body)
        .send()
        .await
        .unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn token(ably: &Ably, fields: Value) -> String {
    let mut request = fields;
    request["timestamp"] = json!(now_ms(ably).await);
    let path = format!("/keys/{}/requestToken", ably.key_name());
    let (status, details) = call(ably, &path, &request).await;
    assert_eq!(status, StatusCode::CREATED, "{details}");
    details["token"].as_str().unwrap().to_owned()
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(ably: &Ably, token: &str) -> Self {
        let url = format!("ws://127.0.0.1:{}/?access_token={token}&format=json&heartbeats=true", ably.port());
        Self(connect_async(url).await.unwrap().0)
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            let frame = tokio::time::timeout(Duration::from_secs(5), self.0.next()).await.unwrap().unwrap().unwrap();
            if let Message::Text(text) = frame {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_connects_publishes_and_receives() {
    let ably = started(Options::default()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut socket = Socket::open(&ably, &token).await;
    let connected = socket.next().await;
    assert_eq!(connected["connectionDetails"]["clientId"], "alice");

    socket.send(json!({ "action": 10, "channel": "chat" })).await;
    assert_eq!(socket.next().await["action"], 11);
    socket
        .send(json!({ "action": 15, "channel": "chat", "msgSerial": 0, "messages": [{ "name": "a", "data": "b" }] }))
        .await;
    let message = socket.next().await;
    assert_eq!(message["messages"][0]["clientId"], "alice");
    assert_eq!(socket.next().await["action"], 1);

    let live: Value = reqwest::get(format!("{}/sandbox/connections", ably.url())).await.unwrap().json().await.unwrap();
    assert_eq!(live[0]["clientId"], "alice");
    assert_eq!(live[0]["channels"], json!(["chat"]));
    assert_eq!(live[0]["tokenId"], ably.issued_tokens()[0].id);
    assert_eq!(ably.connections().len(), 1);

    socket.send(json!({ "action": 7 })).await;
    assert_eq!(socket.next().await["action"], 8);
    let calls = ably.calls();
    assert_eq!((calls.request_token, calls.time, calls.websocket), (1, 1, 1));
}

#[tokio::test]
async fn a_refused_socket_gets_the_error_and_closes() {
    let ably = started(Options::default()).await;
    let mut socket = Socket::open(&ably, "app.unknown").await;
    let refusal = socket.next().await;
    assert_eq!((&refusal["action"], &refusal["error"]["code"]), (&json!(9), &json!(40143)));
    assert!(matches!(socket.0.next().await, Some(Ok(Message::Close(_))) | None));
}

#[tokio::test]
async fn a_malformed_message_ends_only_its_socket() {
    let ably = started(Options::default()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut good = Socket::open(&ably, &token).await;
    good.next().await;
    for malformed in ["", "{", "[]", r#"{"action":300}"#, r#"{"action":15,"messages":7}"#] {
        let mut bad = Socket::open(&ably, &token).await;
        bad.next().await;
        bad.0.send(Message::text(malformed)).await.unwrap();
        assert_eq!(bad.next().await["error"]["code"], 40000, "{malformed}");
    }
    let mut huge = Socket::open(&ably, &token).await;
    huge.next().await;
    let _ = huge.0.send(Message::text("x".repeat(600_000))).await;
    while let Some(Ok(_)) = huge.0.next().await {}

    good.send(json!({ "action": 0, "id": "still here" })).await;
    assert_eq!(good.next().await, json!({ "action": 0, "id": "still here" }));
}

type Refusal = (Method, &'static str, Option<&'static str>, &'static str, u16, u32);

/// Method, path, `Authorization`, body; status, code. KEY is the key in base64, LARGE a body that is too large.
const REFUSALS: [Refusal; 15] = [
    (Method::GET, "/nowhere", None, "", 404, 40400),
    (Method::GET, "/", None, "", 404, 40400),
    (Method::POST, "/time", None, "", 405, 40500),
    (Method::PUT, "/channels/a/messages", None, "", 405, 40500),
    (Method::GET, "/channels/a/messages", None, "", 401, 40101),
    (Method::GET, "/channels/a/messages", Some("Bearer !"), "", 401, 40145),
    (Method::GET, "/channels/a/messages", Some("Basic !"), "", 401, 40101),
    (Method::POST, "/keys/x.y/requestToken", None, "{}", 401, 40101),
    (Method::POST, "/keys/x.y/requestToken", None, "{", 400, 40000),
    (Method::POST, "/keys/x.y/requestToken", None, "LARGE", 413, 40009),
    (Method::POST, "/keys/x.y/revokeTokens", None, "{}", 401, 40101),
    (Method::POST, "/channels/a/messages", Some("Basic KEY"), "[]", 400, 40000),
    (Method::POST, "/channels/a/messages", Some("Basic KEY"), "7", 400, 40000),
    (Method::GET, "/channels/a/messages?limit=0", Some("Basic KEY"), "", 400, 40000),
    (Method::GET, "/channels/:a/messages", Some("Basic KEY"), "", 400, 40010),
];

#[tokio::test]
async fn every_refusal_has_ablys_shape_and_is_visible_to_browsers() {
    let ably = started(Options::default()).await;
    let key = BASE64_STANDARD.encode(ably.api_key());
    for (method, path, authorization, body, status, code) in REFUSALS {
        let mut request = Client::new()
            .request(method.clone(), format!("{}{path}", ably.url()))
            .header("Origin", "http://page.example")
            .body(body.replace("LARGE", &"x".repeat(600_000)));
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization.replace("KEY", &key));
        }
        let answer = request.send().await.unwrap();
        let case = format!("{method} {path}");
        assert_eq!(answer.status(), status, "{case}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/json", "{case}");
        assert_eq!(header("x-ably-errorcode"), code.to_string(), "{case}");
        assert_eq!(header("access-control-allow-origin"), "http://page.example");
        assert_eq!(header("access-control-allow-credentials"), "true");
        assert!(header("access-control-expose-headers").contains("X-Ably-Errorcode"));
        let error = json!({
            "code": code, "statusCode": status, "message": header("x-ably-errormessage"),
            "href": format!("https://help.ably.io/error/{code}")
        });
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body, json!({ "error": error }), "{case}");
    }
}

#[tokio::test]
async fn the_capability_of_a_token_applies_over_rest() {
    let ably = started(Options::default()).await;
    let token = token(
        &ably,
        json!({ "clientId": "alice", "capability": r#"{"a/b:*":["publish","history"],"in":["subscribe"]}"# }),
    )
    .await;
    let bearer = format!("Bearer {}", BASE64_STANDARD.encode(&token));
    let publish = |channel: &'static str| {
        Client::new()
            .post(format!("{}/channels/{channel}/messages", ably.url()))
            .header("Authorization", &bearer)
            .json(&json!({ "name": "n", "data": { "k": 1 } }))
            .send()
    };
    assert_eq!(publish("a%2Fb:c").await.unwrap().status(), 201);
    let refused = publish("in").await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["x-ably-errorcode"], "40160");

    let history: Value = Client::new()
        .get(format!("{}/channels/a%2Fb:c/messages?access_token={token}", ably.url()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(history[0]["clientId"], "alice");
    assert_eq!(history[0]["data"], r#"{"k":1}"#);
    assert_eq!(history[0]["encoding"], "json");
}

async fn revoke(ably: &Ably, body: Value) -> (StatusCode, Value) {
    call(ably, &format!("/keys/{}/revokeTokens", ably.key_name()), &body).await
}

fn revocable() -> Options {
    Options { revocable_tokens: true, ..Options::default() }
}

/// A token request of alice, authenticated by its `mac`.
async fn signed_token_request(ably: &Ably) -> Value {
    let (name, secret) = ably.api_key().split_once(':').unwrap();
    let timestamp = now_ms(ably).await;
    let text = format!("{name}\n\n\nalice\n{timestamp}\n0123456789abcdef\n");
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let mac = BASE64_STANDARD.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes()));
    json!({ "keyName": name, "clientId": "alice", "timestamp": timestamp, "nonce": "0123456789abcdef", "mac": mac })
}

#[tokio::test]
async fn a_foreign_token_beside_a_token_request_is_refused_even_with_a_valid_mac() {
    let ably = started(Options::default()).await;
    let url = format!("{}/keys/{}/requestToken", ably.url(), ably.key_name());
    let token_request = signed_token_request(&ably).await;
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let of_clerk =
        format!("{}.{}.AAAA", part(r#"{"alg":"RS256","typ":"JWT","kid":"ins_1"}"#), part(r#"{"sub":"user_1"}"#));
    let refused = Client::new().post(&url).bearer_auth(of_clerk).json(&token_request).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], 40144);
    // The nonce is not spent.
    assert_eq!(Client::new().post(&url).json(&token_request).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn the_clock_can_be_set_and_every_answer_has_its_date() {
    let ably = started(Options::default()).await;
    for offset_ms in [0, 7_200_000, -7_200_000] {
        let url = format!("{}/sandbox/clock", ably.url());
        let set = Client::new().post(url).json(&json!({ "offsetMs": offset_ms })).send().await.unwrap();
        assert_eq!(set.status(), 204);
        for path in ["/time", "/nowhere"] {
            let answer = reqwest::get(format!("{}{path}", ably.url())).await.unwrap();
            let date: HttpDate = answer.headers()["date"].to_str().unwrap().parse().unwrap();
            let date_ms = SystemTime::from(date).duration_since(UNIX_EPOCH).unwrap().as_millis();
            let between = now_ms(&ably).await - i64::try_from(date_ms).unwrap();
            assert!((0..60_000).contains(&between), "{path} {between}");
        }
    }
}

#[tokio::test]
async fn options_apply_and_stopping_frees_the_port() {
    let ably = started(Options {
        api_key: Some("app.key:secret".to_owned()),
        capability: json!({ "chat:*": ["publish"] }),
        clock_offset_ms: 3_600_000,
        ..Options::default()
    })
    .await;
    assert_eq!((ably.key_name(), ably.api_key()), ("app.key", "app.key:secret"));
    let other = started(Options::default()).await;
    assert!(now_ms(&ably).await - now_ms(&other).await > 3_590_000);
    token(&ably, json!({})).await;
    assert_eq!(ably.issued_tokens()[0].capability, r#"{"chat:*":["publish"]}"#);

    let port = ably.port();
    assert!(Ably::start(Options { port, ..Options::default() }).await.is_err());
    ably.stop().await;
    started(Options { port, ..Options::default() }).await;
    for broken in [
        Options { api_key: Some("secret".to_owned()), ..Options::default() },
        Options { capability: json!({ "a": ["shout"] }), ..Options::default() },
    ] {
        assert!(Ably::start(broken).await.is_err());
    }
}
