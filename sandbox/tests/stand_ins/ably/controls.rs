//! Controls and views: outages, key settings and the stream of connections.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Client, StatusCode};
use sandbox::ably::{Options, Outage, RevocableTokens};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Socket, now_ms, revocable, revoke, started, token};
use crate::event_stream::EventStream;

#[tokio::test]
async fn the_key_and_outages_can_be_changed_over_http() {
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
async fn a_connection_can_be_dropped_and_its_state_be_short_lived() {
    let ably = started(Options::default()).await;
    let client = Client::new();
    let connections = format!("{}/sandbox/connections", ably.url());
    let set = async |body: Value| client.post(&connections).json(&body).send().await.unwrap().status().as_u16();
    assert_eq!(set(json!({ "stateTtlMs": 2000 })).await, 204);
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut socket = Socket::open(&ably, &token).await;
    let connected = socket.next().await;
    assert_eq!(connected["connectionDetails"]["connectionStateTtl"], 2000);

    let id = connected["connectionId"].as_str().unwrap();
    let drop = async || client.delete(format!("{connections}/{id}")).send().await.unwrap().status().as_u16();
    assert_eq!(drop().await, 204);
    assert!(matches!(socket.0.next().await, Some(Ok(Message::Close(_))) | None));
    assert_eq!(drop().await, 404);

    ably.set_connection_state_ttl(Duration::from_mins(2));
    let mut socket = Socket::open(&ably, &token).await;
    let connected = socket.next().await;
    assert_eq!(connected["connectionDetails"]["connectionStateTtl"], 120_000);
    ably.drop_connection(connected["connectionId"].as_str().unwrap());
    assert!(matches!(socket.0.next().await, Some(Ok(Message::Close(_))) | None));
    for wrong in [json!({}), json!({ "stateTtlMs": -1 }), json!({ "stateTtl": 2 })] {
        assert_eq!(set(wrong.clone()).await, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_page_sees_connections_as_they_change() {
    let ably = started(revocable()).await;
    let token = token(&ably, json!({ "clientId": "alice" })).await;
    let mut stream = EventStream::open(format!("{}/sandbox/connections/stream", ably.url())).await;
    assert_eq!(stream.next_that(|_| true).await, json!({ "connections": [], "endings": [] }));
    let mut socket = Socket::open(&ably, &token).await;
    socket.next().await;
    let live = stream.next_that(|event| event["connections"][0].is_object()).await;
    assert_eq!(live["connections"][0]["clientId"], "alice");
    revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    let after = stream.next_that(|event| event["endings"][0].is_object()).await;
    assert_eq!(after["connections"], json!([]));
    assert_eq!(after["endings"][0]["code"], 40141);
    assert_eq!(after["endings"][0]["connectionId"], live["connections"][0]["connectionId"]);

    // An open stream does not keep the stand-in from stopping.
    tokio::time::timeout(Duration::from_secs(5), ably.stop()).await.unwrap();
}

#[tokio::test]
async fn outages_start_and_end() {
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
async fn a_call_whose_answer_is_lost_was_processed() {
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
