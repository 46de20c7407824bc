//! The Ably stand-in from outside: over HTTP and WebSocket, from any runtime.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::http::header::HttpDate;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, Method, StatusCode};
use sandbox::ably::{Ably, Options, Outage, RevocableTokens, RevocationOutcome};
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
async fn a_refused_socket_says_why_and_closes() {
    let ably = started(Options::default()).await;
    let mut socket = Socket::open(&ably, "app.unknown").await;
    let refusal = socket.next().await;
    assert_eq!((&refusal["action"], &refusal["error"]["code"]), (&json!(9), &json!(40143)));
    assert!(matches!(socket.0.next().await, Some(Ok(Message::Close(_))) | None));
}

#[tokio::test]
async fn nonsense_on_a_socket_ends_that_socket_only() {
    let ably = started(Options::default()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut good = Socket::open(&ably, &token).await;
    good.next().await;
    for nonsense in ["", "{", "[]", r#"{"action":300}"#, r#"{"action":15,"messages":7}"#] {
        let mut bad = Socket::open(&ably, &token).await;
        bad.next().await;
        bad.0.send(Message::text(nonsense)).await.unwrap();
        assert_eq!(bad.next().await["error"]["code"], 40000, "{nonsense}");
    }
    let mut huge = Socket::open(&ably, &token).await;
    huge.next().await;
    let _ = huge.0.send(Message::text("x".repeat(600_000))).await;
    while let Some(Ok(_)) = huge.0.next().await {}

    good.send(json!({ "action": 0, "id": "still here" })).await;
    assert_eq!(good.next().await, json!({ "action": 0, "id": "still here" }));
}

type Refusal = (Method, &'static str, Option<&'static str>, &'static str, u16, u32);

/// Method, path, `Authorization`, body; status, code. KEY stands for the key in base64, LARGE for a body too large.
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
async fn a_token_does_over_rest_what_its_capability_allows() {
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

#[tokio::test]
async fn revocation_is_refused_until_it_is_enabled() {
    let body = json!({ "targets": ["clientId:alice"] });
    for (revocable_tokens, status, code) in [(false, 401, json!(40163)), (true, 200, json!(null))] {
        let ably = started(Options { revocable_tokens, ..Options::default() }).await;
        let path = format!("/keys/{}/revokeTokens", ably.key_name());
        let (answered, answer) = call(&ably, &path, &body).await;
        assert_eq!((answered.as_u16(), &answer["error"]["code"]), (status, &code));
        assert_eq!(ably.calls().revoke_tokens, 1);
    }
}

async fn revoke(ably: &Ably, body: Value) -> (StatusCode, Value) {
    call(ably, &format!("/keys/{}/revokeTokens", ably.key_name()), &body).await
}

fn revocable() -> Options {
    Options { revocable_tokens: true, ..Options::default() }
}

#[tokio::test]
async fn revocation_takes_the_key_itself() {
    let ably = started(revocable()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let url = format!("{}/keys/{}/revokeTokens", ably.url(), ably.key_name());
    let request = || Client::new().post(&url).json(&json!({ "targets": ["clientId:alice"] }));
    for (request, code) in [
        (request(), "40101"),
        (request().basic_auth(ably.key_name(), Some("wrong")), "40101"),
        (request().bearer_auth(token), "40162"),
    ] {
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["x-ably-errorcode"], code);
    }
}

#[tokio::test]
async fn a_revoked_token_loses_its_live_connection_and_opens_no_other() {
    let ably = started(revocable()).await;
    let [alice, bob] =
        [token(&ably, json!({ "clientId": "alice" })).await, token(&ably, json!({ "clientId": "bob" })).await];
    let (mut of_alice, mut of_bob) = (Socket::open(&ably, &alice).await, Socket::open(&ably, &bob).await);
    assert_eq!((&of_alice.next().await["action"], &of_bob.next().await["action"]), (&json!(4), &json!(4)));

    let (status, answer) = revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    assert_eq!((status, &answer["successCount"], &answer["failureCount"]), (StatusCode::OK, &json!(1), &json!(0)));
    let last = of_alice.next().await;
    assert_eq!((&last["action"], &last["error"]["code"]), (&json!(6), &json!(40141)));
    assert!(matches!(of_alice.0.next().await, Some(Ok(Message::Close(_))) | None));
    assert_eq!(Socket::open(&ably, &alice).await.next().await["error"]["code"], 40141);

    of_bob.send(json!({ "action": 0, "id": "still here" })).await;
    assert_eq!(of_bob.next().await["id"], "still here");
    let [live] = ably.connections_once(|live| live.len() == 1).await.try_into().unwrap();
    assert_eq!(live.client_id.as_deref(), Some("bob"));
    let [ending] = ably.endings().try_into().unwrap();
    assert_eq!((ending.client_id.as_deref(), ending.code), (Some("alice"), Some(40141)));
    assert_eq!(json!(ending.revoked_from), answer["results"][0]["appliesAt"]);
}

#[tokio::test]
async fn a_margin_asks_for_a_new_token_and_cuts_who_has_none_in_time() {
    let ably = started(Options { reauth_margin: Duration::from_millis(300), ..revocable() }).await;
    let old = token(&ably, json!({ "clientId": "alice" })).await;
    let (mut renews, mut does_not) = (Socket::open(&ably, &old).await, Socket::open(&ably, &old).await);
    let connection_id = renews.next().await["connectionId"].clone();
    does_not.next().await;

    let (_, answer) = revoke(&ably, json!({ "targets": ["clientId:alice"], "allowReauthMargin": true })).await;
    let applies_at = &answer["results"][0]["appliesAt"];
    assert_eq!((&renews.next().await["action"], &does_not.next().await["action"]), (&json!(17), &json!(17)));
    assert!(ably.connections().iter().all(|live| json!(live.revoked_from) == *applies_at));
    let new = token(&ably, json!({ "clientId": "alice" })).await;
    renews.send(json!({ "action": 17, "auth": { "accessToken": new } })).await;
    assert_eq!(renews.next().await["connectionId"], connection_id);

    let last = does_not.next().await;
    assert_eq!((&last["action"], &last["error"]["code"]), (&json!(6), &json!(40141)));
    let [live] = ably.connections_once(|live| live.len() == 1).await.try_into().unwrap();
    assert_eq!((json!(live.connection_id), live.revoked_from), (connection_id, None));
    assert!(json!(ably.endings()[0].at).as_i64() >= applies_at.as_i64());
    assert_eq!(json!(ably.endings()[0].revoked_from), *applies_at);
}

/// A token request of alice's that its `mac` vouches for.
async fn signed_token_request(ably: &Ably) -> Value {
    let (name, secret) = ably.api_key().split_once(':').unwrap();
    let timestamp = now_ms(ably).await;
    let text = format!("{name}\n\n\nalice\n{timestamp}\n0123456789abcdef\n");
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let mac = BASE64_STANDARD.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes()));
    json!({ "keyName": name, "clientId": "alice", "timestamp": timestamp, "nonce": "0123456789abcdef", "mac": mac })
}

#[tokio::test]
async fn a_foreign_token_beside_a_token_request_is_refused_although_its_mac_is_right() {
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
async fn a_token_request_signed_before_a_revocation_yields_a_good_token_after_it() {
    let ably = started(revocable()).await;
    let hoarded = signed_token_request(&ably).await;

    revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    let url = format!("{}/keys/{}/requestToken", ably.url(), ably.key_name());
    let details: Value = Client::new().post(url).json(&hoarded).send().await.unwrap().json().await.unwrap();
    let mut socket = Socket::open(&ably, details["token"].as_str().unwrap()).await;
    assert_eq!(socket.next().await["action"], 4);

    // Which is why a revocation is to be repeated when no such token request can be left.
    revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    assert_eq!(socket.next().await["error"]["code"], 40141);
}

#[tokio::test]
async fn a_revocation_key_reaches_jwts_only() {
    let ably = started(revocable()).await;
    let token = token(&ably, json!({ "clientId": "sess_1" })).await;
    let (_, answer) = revoke(&ably, json!({ "targets": ["revocationKey:sess_1", "session:sess_1"] })).await;
    assert_eq!((&answer["successCount"], &answer["failureCount"]), (&json!(1), &json!(1)));
    assert_eq!(answer["results"][1]["error"]["code"], 40000);
    assert_eq!(Socket::open(&ably, &token).await.next().await["action"], 4);
}

#[tokio::test]
async fn revocation_calls_are_logged_with_their_targets_and_fail_as_they_are_told_to() {
    let ably = started(revocable()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut socket = Socket::open(&ably, &token).await;
    socket.next().await;
    let (name, secret) = ably.api_key().split_once(':').unwrap();
    let client = Client::builder().timeout(Duration::from_millis(300)).build().unwrap();
    let body = json!({ "targets": ["clientId:alice"], "allowReauthMargin": true, "issuedBefore": 1 });
    let url = format!("{}/keys/{name}/revokeTokens", ably.url());
    let call = |body: &Value| client.post(&url).basic_auth(name, Some(secret)).json(body).send();

    ably.set_revocation_outage(Some(Outage::Status(503)));
    assert_eq!(call(&body).await.unwrap().status(), 503);
    assert_eq!(client.get(format!("{}/time", ably.url())).send().await.unwrap().status(), 200);
    ably.set_revocation_outage(Some(Outage::Drop));
    assert!(!call(&body).await.unwrap_err().is_timeout());
    ably.set_revocation_outage(Some(Outage::Hang));
    assert!(call(&body).await.unwrap_err().is_timeout());
    let good = json!({ "targets": ["clientId:alice"] });
    ably.set_revocation_outage(Some(Outage::LoseOneAnswer));
    assert!(call(&good).await.is_err());
    assert_eq!(socket.next().await["error"]["code"], 40141, "it was carried out");
    assert_eq!(call(&good).await.unwrap().status(), 200);
    assert_eq!(call(&body).await.unwrap().status(), 400);

    let calls = ably.revocation_calls();
    let outcomes: Vec<_> = calls.iter().map(|call| call.outcome).collect();
    assert_eq!(
        outcomes,
        [
            RevocationOutcome::Outage,
            RevocationOutcome::Outage,
            RevocationOutcome::Outage,
            RevocationOutcome::AnswerLost(200),
            RevocationOutcome::Answered(200),
            RevocationOutcome::Answered(400),
        ]
    );
    assert!(calls.iter().all(|call| call.targets == ["clientId:alice"]));
    assert_eq!((calls[0].allow_reauth_margin, calls[0].issued_before), (true, Some(1)));
    assert_eq!((calls[3].allow_reauth_margin, calls[3].issued_before), (false, None));
    let shown: Value = reqwest::get(format!("{}/sandbox/revocations", ably.url())).await.unwrap().json().await.unwrap();
    assert_eq!(shown, json!(calls));
    assert_eq!(shown[3]["outcome"], json!({ "answerLost": 200 }));
}

#[tokio::test]
async fn the_key_and_outages_are_changed_over_http() {
    let ably = started(Options::default()).await;
    let post = async |path: &str, body: Value| {
        Client::new().post(format!("{}{path}", ably.url())).json(&body).send().await.unwrap().status().as_u16()
    };
    let body = json!({ "targets": ["clientId:alice"], "allowReauthMargin": true });
    assert_eq!(revoke(&ably, body.clone()).await.1["error"]["code"], 40163);
    assert_eq!(post("/sandbox/key", json!({ "revocableTokens": true, "reauthMarginMs": 7 })).await, 204);
    let result = revoke(&ably, body.clone()).await.1["results"][0].take();
    assert_eq!(result["appliesAt"].as_i64().unwrap() - result["issuedBefore"].as_i64().unwrap(), 7);
    ably.set_revocable_tokens(RevocableTokens::Off);
    assert_eq!(revoke(&ably, body.clone()).await.1["error"]["code"], 40163);

    let outage = json!({ "kind": "status", "status": 503, "route": "revokeTokens" });
    assert_eq!(post("/sandbox/outage", outage).await, 204);
    assert_eq!(revoke(&ably, body.clone()).await.0, 503);
    assert!(now_ms(&ably).await > 0);
    assert_eq!(post("/sandbox/outage", json!({ "kind": "none", "route": "revokeTokens" })).await, 204);
    assert_eq!(post("/sandbox/outage", json!({ "kind": "rate_limited", "retry_after_s": 2 })).await, 204);
    assert_eq!(revoke(&ably, body.clone()).await.0, 429);
    assert_eq!(post("/sandbox/outage", json!({ "kind": "none" })).await, 204);
    assert_eq!(revoke(&ably, body).await.0, 401);

    for (path, wrong) in [
        ("/sandbox/key", json!({ "revocableTokens": "yes" })),
        ("/sandbox/key", json!({ "revocable": true })),
        ("/sandbox/key", json!({ "reauthMarginMs": -1 })),
        ("/sandbox/outage", json!({ "kind": "flood" })),
        ("/sandbox/outage", json!({ "kind": "status" })),
        ("/sandbox/outage", json!({ "kind": "hang", "route": "time" })),
    ] {
        assert_eq!(post(path, wrong.clone()).await, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_page_sees_connections_come_and_go_as_they_do() {
    let ably = started(revocable()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut stream = Client::new()
        .get(format!("{}/sandbox/connections/stream", ably.url()))
        .header("origin", "http://localhost:3000")
        .send()
        .await
        .unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["access-control-allow-origin"], "http://localhost:3000");
    let mut text = String::new();
    let mut seen = async |is_it: fn(&Value) -> bool| {
        loop {
            while let Some((event, rest)) = text.split_once("\n\n") {
                let event: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
                text = rest.to_owned();
                if is_it(&event) {
                    return event;
                }
            }
            let chunk = tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.unwrap().unwrap().unwrap();
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    assert_eq!(seen(|_| true).await, json!({ "connections": [], "endings": [] }));
    let mut socket = Socket::open(&ably, &token).await;
    socket.next().await;
    let live = seen(|event| event["connections"][0].is_object()).await;
    assert_eq!(live["connections"][0]["clientId"], "alice");
    revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    let after = seen(|event| event["endings"][0].is_object()).await;
    assert_eq!(after["connections"], json!([]));
    assert_eq!(after["endings"][0]["code"], 40141);
    assert_eq!(after["endings"][0]["connectionId"], live["connections"][0]["connectionId"]);

    // A page that goes on looking does not keep the stand-in from stopping.
    tokio::time::timeout(Duration::from_secs(5), ably.stop()).await.unwrap();
}

#[tokio::test]
async fn outages_come_and_go() {
    let ably = started(Options::default()).await;
    let client = Client::builder().timeout(Duration::from_millis(300)).build().unwrap();
    let time = || client.get(format!("{}/time", ably.url())).send();
    ably.set_outage(Some(Outage::Status(503)));
    assert_eq!(time().await.unwrap().status(), 503);
    ably.set_outage(Some(Outage::Drop));
    let error = time().await.unwrap_err();
    assert!(!error.is_timeout() && error.status().is_none(), "{error:?}");
    ably.set_outage(Some(Outage::Hang));
    assert!(time().await.unwrap_err().is_timeout());
    ably.set_outage(Some(Outage::RateLimited { retry_after_s: 9 }));
    let limited = time().await.unwrap();
    assert_eq!(
        (limited.status(), &limited.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"9".parse().unwrap())
    );
    ably.set_outage(None);
    assert_eq!(time().await.unwrap().status(), 200);
    assert!(ably.calls().time >= 4);
}

#[tokio::test]
async fn a_lost_answer_is_to_a_call_that_was_carried_out() {
    let ably = started(Options::default()).await;
    let url = format!("{}/keys/{}/requestToken", ably.url(), ably.key_name());
    let (name, secret) = ably.api_key().split_once(':').unwrap();
    let request = json!({ "timestamp": now_ms(&ably).await, "nonce": "0123456789abcdef" });
    let client = Client::new();
    let call = || client.post(&url).basic_auth(name, Some(secret)).json(&request).send();
    ably.set_outage(Some(Outage::LoseOneAnswer));
    assert!(call().await.is_err());
    assert_eq!(ably.issued_tokens().len(), 1);
    let again: Value = call().await.unwrap().json().await.unwrap();
    assert_eq!(again["error"]["code"], 40105);
}

#[tokio::test]
async fn options_are_honoured_and_a_stopped_port_is_free() {
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
