//! Token revocation.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, StatusCode};
use sandbox::ably::{Options, Outage, RevocationOutcome};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Socket, call, now_ms, revocable, revoke, signed_token_request, started, token};

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

#[tokio::test]
async fn revocation_requires_the_api_key() {
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
async fn a_key_revokes_only_the_tokens_that_it_issued() {
    let ably = started(revocable()).await;
    let other = ably.add_key();
    let (other_name, other_secret) = other.split_once(':').unwrap();
    let by_other = |key_name: &str, path: &str, body: Value| {
        let url = format!("{}/keys/{key_name}/{path}", ably.url());
        let post = Client::new().post(url).basic_auth(other_name, Some(other_secret)).json(&body);
        async move { post.send().await.unwrap() }
    };
    let first = token(&ably, json!({ "clientId": "alice" })).await;
    let request = json!({ "clientId": "alice", "timestamp": now_ms(&ably).await });
    let second: Value = by_other(other_name, "requestToken", request).await.json().await.unwrap();
    assert_eq!(second["keyName"], other_name);
    let (mut of_first, mut of_second) =
        (Socket::open(&ably, &first).await, Socket::open(&ably, second["token"].as_str().unwrap()).await);
    assert_eq!((&of_first.next().await["action"], &of_second.next().await["action"]), (&json!(4), &json!(4)));

    let targets = json!({ "targets": ["clientId:alice"] });
    let refused = by_other(ably.key_name(), "revokeTokens", targets.clone()).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["x-ably-errorcode"].to_str().unwrap()), (401, &"40133"));
    assert_eq!(by_other(other_name, "revokeTokens", targets).await.status(), 200);
    assert_eq!(of_second.next().await["error"]["code"], 40141);
    let keys: Vec<_> = ably.revocation_calls().into_iter().map(|call| call.key_name).collect();
    assert_eq!(keys, [ably.key_name(), other_name]);
    assert_eq!(ably.connections_once(|live| live.len() == 1).await[0].client_id.as_deref(), Some("alice"));
    revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    assert_eq!(of_first.next().await["error"]["code"], 40141);
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
async fn a_margin_asks_for_a_new_token_and_ends_connections_without_one() {
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

#[tokio::test]
async fn a_token_request_signed_before_a_revocation_yields_a_valid_token_after_it() {
    let ably = started(revocable()).await;
    let signed_before = signed_token_request(&ably).await;

    revoke(&ably, json!({ "targets": ["clientId:alice"] })).await;
    let url = format!("{}/keys/{}/requestToken", ably.url(), ably.key_name());
    let details: Value = Client::new().post(url).json(&signed_before).send().await.unwrap().json().await.unwrap();
    let mut socket = Socket::open(&ably, details["token"].as_str().unwrap()).await;
    assert_eq!(socket.next().await["action"], 4);

    // So a revocation must be repeated once every such token request has expired.
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
async fn revocation_calls_are_recorded_with_their_targets_and_fail_as_requested() {
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
    assert_eq!(socket.next().await["error"]["code"], 40141, "the call was processed");
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
