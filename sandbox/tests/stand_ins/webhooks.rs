//! The webhooks of the stand-in for Clerk: delivery, and the changes that cause them.

mod changes;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::{Client, Method, Response};
use sandbox::clerk::{Answer, Clerk, Endpoint, Event, Flow, Options, SigningSecret, WebhookOptions};
use sandbox::loopback::{self, Server};
use serde_json::{Value, json};

use crate::event_stream::EventStream;

/// A received webhook.
#[derive(Clone, Debug)]
struct Arrival {
    id: String,
    timestamp: i64,
    signatures: Vec<String>,
    body: String,
}

impl Arrival {
    fn is_signed_with(&self, secret: &SigningSecret) -> bool {
        let key = STANDARD.decode(secret.text().strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        self.signatures.iter().any(|signature| {
            let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
        })
    }
}

/// Receives webhooks at `/hooks`. Answers with the given statuses, then with 204.
struct Receiver {
    port: u16,
    secret: SigningSecret,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    server: Server,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Self {
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let state = (Arc::clone(&arrivals), Arc::new(Mutex::new(VecDeque::from(statuses.to_vec()))));
        let listeners = loopback::listen(0).unwrap();
        let port = listeners.port();
        let server = Server::start(listeners, move |config| {
            config.app_data(web::Data::new(state.clone())).route("/hooks", web::post().to(receive));
        })
        .await
        .unwrap();
        Self { port, secret: SigningSecret::generate(), arrivals, server }
    }

    fn endpoint(&self) -> Endpoint {
        self.endpoint_signed_with(&[self.secret.text()])
    }

    fn endpoint_signed_with(&self, secrets: &[&str]) -> Endpoint {
        Endpoint::new(&format!("http://127.0.0.1:{}/hooks", self.port), secrets).unwrap()
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }
}

type ReceiverState = (Arc<Mutex<Vec<Arrival>>>, Arc<Mutex<VecDeque<u16>>>);

async fn receive(request: HttpRequest, body: String, state: web::Data<ReceiverState>) -> HttpResponse {
    let header = |name: &str| request.headers().get(name).unwrap().to_str().unwrap();
    assert_eq!(header("content-type"), "application/json");
    state.0.lock().unwrap().push(Arrival {
        id: header("svix-id").to_owned(),
        timestamp: header("svix-timestamp").parse().unwrap(),
        signatures: header("svix-signature").split(' ').map(str::to_owned).collect(),
        body,
    });
    let status = state.1.lock().unwrap().pop_front().unwrap_or(204);
    HttpResponse::build(StatusCode::from_u16(status).unwrap()).insert_header(("location", "/hooks")).finish()
}

const SOON: Duration = Duration::from_millis(5);

async fn start(endpoints: Vec<Endpoint>) -> Clerk {
    let webhooks = WebhookOptions { endpoints, retry_schedule: vec![SOON; 3], attempt_timeout: Duration::from_secs(5) };
    Clerk::start(Options { webhooks, ..Options::default() }).await.unwrap()
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn call(clerk: &Clerk, method: Method, path: &str, body: Value) -> Response {
    let url = format!("{}{path}", clerk.url());
    client().request(method, url).bearer_auth(clerk.secret_key()).json(&body).send().await.unwrap()
}

fn id_of(clerk: &Clerk, username: &str) -> String {
    clerk.users().into_iter().find(|user| user.username.as_deref() == Some(username)).unwrap().id
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// The id of a new session of this user.
fn session_of(clerk: &Clerk, user_id: &str) -> String {
    clerk.session_claims(user_id)["sid"].as_str().unwrap().to_owned()
}

fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.event_type.as_str()).collect()
}

#[tokio::test]
async fn an_event_arrives_in_clerks_shape_signed_as_svix_signs() {
    let receiver = Receiver::start(&[]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    let sid = session_of(&clerk, &id_of(&clerk, "alice"));
    clerk.webhooks_settled().await;
    clerk.end_session(&sid);
    clerk.webhooks_settled().await;

    let [_, arrival] = receiver.arrivals().try_into().unwrap();
    let event = clerk.events().pop().unwrap();
    assert!(arrival.id.starts_with("msg_"));
    assert_eq!(arrival.id, event.id);
    assert!(arrival.is_signed_with(&receiver.secret));
    assert!(!arrival.is_signed_with(&SigningSecret::generate()));
    assert!((event.timestamp / 1000..=event.timestamp / 1000 + 5).contains(&arrival.timestamp));

    let body: Value = serde_json::from_str(&arrival.body).unwrap();
    let mut names: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["data", "event_attributes", "instance_id", "object", "timestamp", "type"]);
    assert_eq!((&body["type"], &body["object"]), (&json!("session.ended"), &json!("event")));
    assert_eq!(body["timestamp"], event.timestamp);
    assert_eq!(body["instance_id"], clerk.kid());
    assert_eq!(body["data"]["id"], sid.as_str());
    assert_eq!(body["data"]["user_id"], id_of(&clerk, "alice"));
    assert_eq!(body["data"]["status"], "ended");
    assert_eq!(body["data"]["object"], "session");
}

#[tokio::test]
async fn an_event_is_sent_again_under_its_id_until_the_answer_is_2xx() {
    let receiver = Receiver::start(&[503, 302, 200]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    let id = clerk.send_event("user.updated", json!({"id": "user_1"}), Some(7));
    clerk.webhooks_settled().await;
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 3, "a redirect is an answer, and is not followed");
    for arrival in &arrivals {
        assert_eq!((&arrival.id, &arrival.body), (&id, &arrivals[0].body));
        assert!(arrival.is_signed_with(&receiver.secret));
    }
    let log: Vec<_> = clerk.attempts().into_iter().map(|attempt| (attempt.number, attempt.answer)).collect();
    assert_eq!(log, [(1, Answer::Status(503)), (2, Answer::Status(302)), (3, Answer::Status(200))]);
}

#[tokio::test]
async fn an_event_is_given_up_when_the_schedule_ends() {
    let receiver = Receiver::start(&[500; 9]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    clerk.send_event("user.updated", json!({}), None);
    clerk.webhooks_settled().await;
    assert_eq!(receiver.arrivals().len(), 4, "the first attempt and three more");
}

#[tokio::test]
async fn a_caller_can_wait_for_an_attempt_while_the_next_is_hours_away() {
    let receiver = Receiver::start(&[503]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    clerk.set_retry_schedule(vec![Duration::from_hours(5)]);
    let id = clerk.send_event("user.updated", json!({}), None);
    let [attempt] = clerk.attempts_once(|attempts| !attempts.is_empty()).await.try_into().unwrap();
    assert_eq!((attempt.event_id, attempt.answer), (id, Answer::Status(503)));
    assert!(tokio::time::timeout(SOON, clerk.webhooks_settled()).await.is_err());
}

#[tokio::test]
async fn a_timeout_or_an_unreachable_endpoint_is_retried() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let away = Receiver::start(&[]).await;
    let away_endpoint = away.endpoint();
    away.server.stop().await;
    let secret = SigningSecret::generate();
    let silent_endpoint = Endpoint::new(&format!("http://127.0.0.1:{silent_port}/"), &[secret.text()]).unwrap();
    let clerk = Clerk::start(Options {
        webhooks: WebhookOptions {
            endpoints: vec![silent_endpoint, away_endpoint],
            retry_schedule: vec![SOON],
            attempt_timeout: Duration::from_millis(50),
        },
        ..Options::default()
    })
    .await
    .unwrap();
    clerk.send_event("user.updated", json!({}), None);
    clerk.webhooks_settled().await;
    let answers = |endpoint: usize| -> Vec<_> {
        let attempts = clerk.attempts().into_iter().filter(|attempt| attempt.endpoint == endpoint);
        attempts.map(|attempt| attempt.answer).collect()
    };
    assert_eq!(answers(0), [Answer::TimedOut; 2]);
    assert_eq!(answers(1), [Answer::Unreachable; 2]);
}

#[tokio::test]
async fn the_default_schedule_is_svixs() {
    let seconds: Vec<_> = WebhookOptions::default().retry_schedule.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [5, 300, 1800, 7200, 18_000, 36_000, 36_000]);
    assert_eq!(WebhookOptions::default().attempt_timeout, Duration::from_secs(15));
}

#[tokio::test]
async fn during_a_rotation_every_secret_signs() {
    let receiver = Receiver::start(&[]).await;
    let other = SigningSecret::generate();
    let endpoint = receiver.endpoint_signed_with(&[other.text(), receiver.secret.text()]);
    let clerk = start(vec![endpoint]).await;
    clerk.send_event("user.updated", json!({}), None);
    clerk.webhooks_settled().await;
    let [arrival] = receiver.arrivals().try_into().unwrap();
    assert_eq!(arrival.signatures.len(), 2);
    assert!(arrival.is_signed_with(&other) && arrival.is_signed_with(&receiver.secret));
}

#[tokio::test]
async fn deliveries_wait_while_paused_except_redeliveries() {
    let receiver = Receiver::start(&[]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    clerk.set_flow(Flow::Paused);
    let older = clerk.send_event("user.updated", json!({"banned": true}), None);
    let newer = clerk.send_event("user.updated", json!({"banned": false}), None);

    // Out of order, and twice each in the end.
    for id in [&newer, &older] {
        let [attempt] = clerk.redeliver(id).await.try_into().unwrap();
        assert_eq!((&attempt.event_id, attempt.answer), (id, Answer::Status(204)));
    }
    let ids = |arrivals: &[Arrival]| -> Vec<_> { arrivals.iter().map(|arrival| arrival.id.clone()).collect() };
    assert_eq!(ids(&receiver.arrivals()), [newer.clone(), older.clone()]);
    let events = clerk.events();
    assert!(events[0].timestamp < events[1].timestamp, "{events:?}");

    clerk.set_flow(Flow::Flowing);
    clerk.webhooks_settled().await;
    let mut late = ids(&receiver.arrivals()[2..]);
    late.sort_by_key(|id| *id == newer);
    assert_eq!(late, [older, newer]);
    assert!(clerk.redeliver("msg_unknown").await.is_empty());
}

#[tokio::test]
async fn a_failed_redelivery_is_not_retried() {
    let receiver = Receiver::start(&[204, 500]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    let id = clerk.send_event("user.updated", json!({}), None);
    clerk.webhooks_settled().await;
    let [attempt] = clerk.redeliver(&id).await.try_into().unwrap();
    assert_eq!((attempt.number, attempt.answer), (2, Answer::Status(500)));
    clerk.webhooks_settled().await;
    assert_eq!(receiver.arrivals().len(), 2);
}

#[tokio::test]
async fn a_delivery_in_progress_follows_its_endpoint_to_a_new_url() {
    let (before, after) = (Receiver::start(&[503]).await, Receiver::start(&[]).await);
    let clerk = start(vec![before.endpoint()]).await;
    clerk.set_flow(Flow::Paused);
    clerk.send_event("user.updated", json!({}), None);
    clerk.set_endpoints(vec![after.endpoint()]);
    clerk.set_flow(Flow::Flowing);
    clerk.webhooks_settled().await;
    assert_eq!((before.arrivals().len(), after.arrivals().len()), (0, 1));

    clerk.set_flow(Flow::Paused);
    clerk.send_event("user.updated", json!({}), None);
    clerk.set_endpoints(Vec::new());
    clerk.set_flow(Flow::Flowing);
    clerk.webhooks_settled().await;
    assert_eq!(after.arrivals().len(), 1);
}

#[tokio::test]
async fn a_page_sees_events_and_attempts_as_they_come() {
    let receiver = Receiver::start(&[503]).await;
    let clerk = start(vec![receiver.endpoint()]).await;
    let mut stream = EventStream::open(format!("{}/sandbox/webhooks/stream", clerk.url())).await;
    let first = stream.next_that(|_| true).await;
    assert_eq!((&first["events"], &first["attempts"], &first["flow"]), (&json!([]), &json!([]), &json!("flowing")));
    assert!(!first.to_string().contains("whsec_"));
    for n in 0..60 {
        let _ = clerk.send_event("session.created", json!({"n": n}), None);
    }
    let after = stream
        .next_that(|seen| seen["events"].as_array().unwrap().last().is_some_and(|last| last["data"]["n"] == 59))
        .await;
    let numbers: Vec<_> = after["events"].as_array().unwrap().iter().map(|event| event["data"]["n"].as_i64()).collect();
    assert_eq!(numbers, (10..60).map(Some).collect::<Vec<_>>(), "the newest, oldest first");
    clerk.webhooks_settled().await;
    clerk.send_event("user.updated", json!({}), None);
    let last = stream.next_that(|seen| {
        seen["attempts"].as_array().unwrap().iter().any(|attempt| attempt["event_type"] == "user.updated")
    });
    let attempts = last.await["attempts"].as_array().unwrap().clone();
    assert!(
        attempts.len() >= 50 && attempts.iter().all(|attempt| attempt["answer"]["status"].is_u64()),
        "{attempts:?}"
    );

    // An open stream does not keep the stand-in from stopping.
    tokio::time::timeout(Duration::from_secs(5), clerk.stop()).await.unwrap();
}

#[tokio::test]
async fn webhooks_can_be_configured_paused_sent_and_read_over_http() {
    let receiver = Receiver::start(&[]).await;
    let clerk = start(Vec::new()).await;
    let url = receiver.endpoint().url().to_owned();
    let settings = json!({
        "endpoints": [{"url": url, "signing_secrets": [receiver.secret.text()]}],
        "retry_schedule_ms": [1, 2],
        "flow": "paused",
    });
    assert_eq!(call(&clerk, Method::POST, "/sandbox/webhooks", settings).await.status(), 204);
    let event = json!({"type": "user.updated", "data": {"id": "user_1"}, "timestamp": 5});
    let sent: Value = call(&clerk, Method::POST, "/sandbox/webhooks/events", event).await.json().await.unwrap();
    let path = format!("/sandbox/webhooks/events/{}/redeliver", sent["id"].as_str().unwrap());
    let attempts: Value = call(&clerk, Method::POST, &path, json!({})).await.json().await.unwrap();
    assert_eq!(attempts[0]["answer"], json!({"status": 204}));
    assert_eq!(receiver.arrivals()[0].id, sent["id"]);

    let shown = call(&clerk, Method::GET, "/sandbox/webhooks", json!({})).await.text().await.unwrap();
    assert!(!shown.contains("whsec_"));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["flow"], &shown["retry_schedule_ms"]), (&json!("paused"), &json!([1, 2])));
    assert_eq!(shown["endpoints"], json!([{"url": url}]));
    assert_eq!((&shown["events"][0]["id"], &shown["events"][0]["timestamp"]), (&sent["id"], &json!(5)));
    assert_eq!(shown["attempts"], attempts);

    assert_eq!(call(&clerk, Method::POST, "/sandbox/webhooks", json!({"flow": "flowing"})).await.status(), 204);
    clerk.webhooks_settled().await;
    assert_eq!(receiver.arrivals().len(), 2);

    let unknown = call(&clerk, Method::POST, "/sandbox/webhooks/events/msg_none/redeliver", json!({})).await;
    assert_eq!(unknown.status(), 404);
    for (path, wrong) in [
        ("/sandbox/webhooks", json!({"flow": "upwards"})),
        ("/sandbox/webhooks", json!({"retry_schedule_ms": [-1]})),
        (
            "/sandbox/webhooks",
            json!({"endpoints": [{"url": "http://evil.example/", "signing_secrets": ["whsec_AAAA"]}]}),
        ),
        ("/sandbox/webhooks", json!({"endpoints": [{"url": url, "signing_secrets": []}]})),
        ("/sandbox/webhooks/events", json!({"data": {}})),
        ("/sandbox/webhooks/events", json!({"type": "user.updated"})),
        ("/sandbox/webhooks/events", json!({"type": "user.updated", "data": {}, "timestamp": "soon"})),
    ] {
        assert_eq!(call(&clerk, Method::POST, path, wrong.clone()).await.status(), 422, "{wrong}");
    }
}
