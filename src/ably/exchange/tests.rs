use std::{
    cell::Cell,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::*;
use crate::{
    ably::{AblyRefusal, ApiKey, ClientId, Nonce},
    clock::UnixMillis,
};

/// A stand-in for Ably that gives these responses, one a call, and records the calls.
struct Scripted {
    url: String,
    /// The connection and the body of each call, in order.
    calls: Arc<Mutex<Vec<(usize, Value)>>>,
    asked: Arc<Notify>,
    may_answer: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    AtOnce,
    WhenNotified,
}

impl Scripted {
    async fn start(answers: Vec<(u16, String)>, pace: Pace) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let scripted = Self { url, calls: Arc::default(), asked: Arc::default(), may_answer: Arc::default() };
        let (calls, asked, may_answer) =
            (Arc::clone(&scripted.calls), Arc::clone(&scripted.asked), Arc::clone(&scripted.may_answer));
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            let mut connection = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                connection += 1;
                while let Some(body) = read(&mut stream).await {
                    calls.lock().unwrap().push((connection, body));
                    asked.notify_one();
                    if pace == Pace::WhenNotified {
                        may_answer.notified().await;
                    }
                    let (status, body) = answers.next().unwrap();
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status} .\r\nContent-Length: {length}\r\nRetry-After: 7\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        scripted
    }

    fn exchange(&self) -> Exchange {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Exchange::new(
            RestClient::new(self.url.parse().unwrap(), http),
            Detached::on_current_runtime(),
            ExchangeCounts::default(),
        )
    }

    fn calls(&self) -> Vec<(usize, Value)> {
        self.calls.lock().unwrap().clone()
    }
}

/// The JSON of the next request of a connection. `None` at its end.
async fn read(stream: &mut TcpStream) -> Option<Value> {
    let mut request = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await.ok()? {
            0 => return None,
            count => request.extend_from_slice(&bytes[..count]),
        }
        let text = String::from_utf8(request.clone()).unwrap();
        assert!(text.starts_with("POST /keys/app.key/requestToken HTTP/1.1\r\n"), "{text}");
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            return Some(body);
        }
    }
}

fn token() -> (u16, String) {
    let details = json!({
        "token": "app.token", "keyName": "app.key", "issued": 1, "expires": 2, "capability": "{}", "clientId": "alice",
    });
    (201, details.to_string())
}

fn error(status: u16, code: u32) -> (u16, String) {
    (status, json!({ "error": { "code": code, "statusCode": status, "message": "no" } }).to_string())
}

const UNAVAILABLE: Option<AblyRefusal> = None;

/// Asks for a token with nonces 1, 2, … at times 1000, 2000, …
///
/// An error is Ably's refusal, or else Ably was unavailable.
async fn ask(exchange: &Exchange) -> Result<TokenDetails, Option<AblyRefusal>> {
    let key = ApiKey::parse("app.key:secret").unwrap();
    let count = Cell::new(0_u8);
    let sign = || {
        count.set(count.get() + 1);
        let alice = ClientId::parse("alice").unwrap();
        let timestamp = UnixMillis(i64::from(count.get()) * 1000);
        Ok(TokenRequest::sign(&key, alice, None, None, timestamp, Nonce::from(u128::from(count.get()))))
    };
    exchange.token(sign).await.map_err(|error| match error {
        ExchangeError::Rest(RestError::Refused(refusal)) => Some(refusal),
        ExchangeError::Rest(_) => None,
        ExchangeError::NoRandomness(error) => panic!("{error}"),
    })
}

#[tokio::test]
async fn a_retry_has_a_new_nonce_timestamp_and_signature() {
    let ably = Scripted::start(vec![error(500, 50000), token()], Pace::AtOnce).await;
    ask(&ably.exchange()).await.unwrap();
    let [(_, first), (_, second)] = &ably.calls()[..] else { panic!("two calls") };
    assert_eq!((&first["timestamp"], &second["timestamp"]), (&json!(1000), &json!(2000)));
    assert_eq!(first["nonce"], json!("00000000000000000000000000000001"));
    assert_eq!(second["nonce"], json!("00000000000000000000000000000002"));
    assert_ne!(first["mac"], second["mac"]);
}

#[tokio::test]
async fn only_a_temporary_failure_is_retried_and_only_once() {
    let html = |status| (status, "<html>".to_owned());
    let told = |status, code| Some(AblyRefusal { status, code, retry_after: Some(Duration::from_secs(7)) });
    for (answer, outcome, calls) in [
        (error(500, 50000), told(500, 50000), 2),
        (error(503, 50320), told(503, 50320), 2),
        (error(429, 42910), told(429, 42910), 1),
        (error(400, 40003), told(400, 40003), 1),
        (error(401, 40101), told(401, 40101), 1),
        (error(400, 103_009), told(400, 103_009), 1),
        (html(429), told(429, 42900), 1),
        (html(502), UNAVAILABLE, 2),
        (html(403), UNAVAILABLE, 1),
        (error(302, 40000), UNAVAILABLE, 1),
        (error(400, 7), UNAVAILABLE, 1),
        (error(400, 1_000_000), UNAVAILABLE, 1),
        (html(200), UNAVAILABLE, 1),
        ((200, "{}".to_owned()), UNAVAILABLE, 1),
        ((200, token().1.replace("alice", "mallory")), UNAVAILABLE, 1),
        ((200, token().1.replace("{}", &"x".repeat(2 * 1024 * 1024))), UNAVAILABLE, 1),
    ] {
        let ably = Scripted::start(vec![answer.clone(); 2], Pace::AtOnce).await;
        assert_eq!(ask(&ably.exchange()).await, Err(outcome), "{} {:.100}", answer.0, answer.1);
        assert_eq!(ably.calls().len(), calls, "{} {:.100}", answer.0, answer.1);
    }
}

#[tokio::test]
async fn an_unreachable_ably_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let exchange = Exchange::new(
        RestClient::new(url.parse().unwrap(), http),
        Detached::on_current_runtime(),
        ExchangeCounts::default(),
    );
    assert_eq!(ask(&exchange).await, Err(UNAVAILABLE));
}

#[tokio::test]
async fn without_randomness_ably_is_not_called() {
    let ably = Scripted::start(vec![], Pace::AtOnce).await;
    let outcome = ably.exchange().token(|| Err(NoRandomness)).await;
    assert!(matches!(outcome, Err(ExchangeError::NoRandomness(NoRandomness))));
    assert!(ably.calls().is_empty());
}

#[tokio::test]
async fn a_client_that_disconnects_does_not_close_the_connection() {
    let ably = Scripted::start(vec![token(); 3], Pace::WhenNotified).await;
    let exchange = ably.exchange();
    ably.may_answer.notify_one();
    ask(&exchange).await.unwrap();
    ably.asked.notified().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let at_rest = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    tokio::select! {
        _ = ask(&exchange) => panic!("answered too early"),
        () = ably.asked.notified() => {}
    }
    ably.may_answer.notify_one();
    // The response that no client waits for is read to its end, and the connection is free again.
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > at_rest {
        tokio::task::yield_now().await;
    }
    ably.may_answer.notify_one();
    ask(&exchange).await.unwrap();
    let connections: Vec<usize> = ably.calls().into_iter().map(|(connection, _)| connection).collect();
    assert_eq!(connections, [1, 1, 1]);
}
