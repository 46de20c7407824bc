use futures_util::future::join_all;
use sandbox::clerk::{Clerk, Options, Outage};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use url::Url;

use super::*;

const TTL: Duration = Duration::from_mins(5);

async fn stand_in() -> (Clerk, Users) {
    let clerk = Clerk::start(Options::default()).await.unwrap();
    let users = users(&clerk, TTL);
    (clerk, users)
}

fn users(clerk: &Clerk, ttl: Duration) -> Users {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let api = BackendApi::new(clerk.url().parse().unwrap(), clerk.secret_key().into(), http);
    Users::new(api, ttl, Detached::on_current_runtime(), LookupCounts::default())
}

fn alice(clerk: &Clerk) -> String {
    clerk.users().into_iter().find(|user| user.username.as_deref() == Some("alice")).unwrap().id
}

#[tokio::test]
async fn a_thousand_first_requests_of_one_user_make_one_call() {
    let (clerk, users) = stand_in().await;
    let id = alice(&clerk);
    let found = join_all((0..1000).map(|_| users.get(&id))).await;
    assert!(found.iter().all(|user| user.as_ref().unwrap().username.as_deref() == Some("alice")));
    assert_eq!(clerk.calls().users, 1);
    users.get(&id).await.unwrap();
    assert_eq!(clerk.calls().users, 1);
}

#[tokio::test]
async fn one_failure_is_retried_and_a_lasting_one_is_returned() {
    let (clerk, users) = stand_in().await;
    let id = alice(&clerk);
    clerk.set_outage(Some(Outage::Status(500)));
    assert_eq!(users.get(&id).await, Err(LookupError::Unavailable(Users::RETRY_AFTER)));
    assert_eq!(clerk.calls().users, 2);
    clerk.set_outage(None);
    assert!(users.get(&id).await.is_ok());
}

#[tokio::test]
async fn a_rate_limit_is_passed_on_and_respected() {
    let (clerk, users) = stand_in().await;
    let id = alice(&clerk);
    clerk.set_outage(Some(Outage::RateLimited { retry_after_s: 7 }));
    assert_eq!(users.get(&id).await, Err(LookupError::Unavailable(Duration::from_secs(7))));
    clerk.set_outage(None);
    assert!(matches!(users.get(&id).await, Err(LookupError::Unavailable(_))));
    assert_eq!(clerk.calls().users, 1);
}

#[tokio::test]
async fn a_user_that_clerk_does_not_know_is_deleted_and_stays_so() {
    let (clerk, users) = stand_in().await;
    for _ in 0..2 {
        assert_eq!(users.get("user_gone").await, Err(LookupError::Deleted));
    }
    assert_eq!(clerk.calls().users, 1);
}

#[tokio::test]
async fn without_a_ttl_users_are_not_cached() {
    let (clerk, _) = stand_in().await;
    let users = users(&clerk, Duration::ZERO);
    for _ in 0..2 {
        users.get(&alice(&clerk)).await.unwrap();
    }
    assert_eq!(clerk.calls().users, 2);
}

#[tokio::test]
async fn an_id_cannot_lead_to_another_route() {
    let (clerk, users) = stand_in().await;
    for id in ["..", ".", "a/b", "?limit=1", ""] {
        assert!(users.get(id).await.is_err(), "{id}");
    }
    drop(clerk);
}

/// A Backend API whose every response waits for the test.
struct LateClerk(TcpListener);

/// A call without a response yet.
struct PendingCall(TcpStream);

impl LateClerk {
    async fn start() -> (Self, Users) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let api = BackendApi::new(base, "sk_test_x".into(), reqwest::Client::builder().no_proxy().build().unwrap());
        (Self(listener), Users::new(api, TTL, Detached::on_current_runtime(), LookupCounts::default()))
    }

    async fn call(&self) -> PendingCall {
        let (mut connection, _) = timeout(Duration::from_secs(30), self.0.accept()).await.unwrap().unwrap();
        let mut request = [0; 4096];
        assert_ne!(connection.read(&mut request).await.unwrap(), 0);
        PendingCall(connection)
    }
}

impl PendingCall {
    async fn respond(mut self, username: &str, updated_at: i64) {
        let body = format!(r#"{{"id":"{LATE}","username":"{username}","banned":false,"updated_at":{updated_at}}}"#);
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.write_all((head + &body).as_bytes()).await.unwrap();
    }
}

/// The user of a [`LateClerk`].
const LATE: &str = "user_1";

fn looked_up(users: &Users) -> JoinHandle<Result<String, LookupError>> {
    let users = users.clone();
    tokio::spawn(async move { Ok(users.get(LATE).await?.username.clone().unwrap()) })
}

const WAYS_TO_FORGET: [fn(&Users); 2] = [|users| users.forget(LATE), Users::forget_all];

#[tokio::test]
async fn the_result_of_a_call_that_began_before_its_user_was_forgotten_is_neither_used_nor_cached() {
    for forget in WAYS_TO_FORGET {
        let (clerk, users) = LateClerk::start().await;
        let waiting = looked_up(&users);
        let before = clerk.call().await;
        forget(&users);
        before.respond("old", 1).await;
        clerk.call().await.respond("new", 1).await;
        assert_eq!(waiting.await.unwrap().as_deref(), Ok("new"));
        assert_eq!(looked_up(&users).await.unwrap().as_deref(), Ok("new"));
        assert_eq!(users.0.calls.lock().len(), 0);
    }
}

#[tokio::test]
async fn a_lookup_after_a_user_was_forgotten_does_not_wait_for_an_earlier_call() {
    for forget in WAYS_TO_FORGET {
        let (clerk, users) = LateClerk::start().await;
        let waiting = looked_up(&users);
        let before = clerk.call().await;
        forget(&users);
        let later = looked_up(&users);
        clerk.call().await.respond("new", 1).await;
        assert_eq!(later.await.unwrap().as_deref(), Ok("new"));
        before.respond("old", 1).await;
        assert_eq!(waiting.await.unwrap().as_deref(), Ok("new"));
        assert_eq!(looked_up(&users).await.unwrap().as_deref(), Ok("new"));
    }
}

#[tokio::test]
async fn forgetting_another_user_does_not_affect_a_call() {
    let (clerk, users) = LateClerk::start().await;
    let waiting = looked_up(&users);
    let call = clerk.call().await;
    users.forget("user_2");
    call.respond("alice", 1).await;
    assert_eq!(waiting.await.unwrap().as_deref(), Ok("alice"));
}

#[tokio::test]
async fn a_user_who_is_forgotten_during_every_call_cannot_be_looked_up_now() {
    let (clerk, users) = LateClerk::start().await;
    let waiting = looked_up(&users);
    for _ in 0..Users::MAX_CALLS {
        let call = clerk.call().await;
        users.forget(LATE);
        call.respond("old", 1).await;
    }
    assert_eq!(waiting.await.unwrap(), Err(LookupError::Unavailable(Users::RETRY_AFTER)));
    assert_eq!(users.0.calls.lock().len(), 0);
    let waiting = looked_up(&users);
    clerk.call().await.respond("new", 1).await;
    assert_eq!(waiting.await.unwrap().as_deref(), Ok("new"));
}

#[tokio::test]
async fn a_response_that_breaks_off_is_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = tokio::spawn(async move {
        let whole = r#"{"id":"user_1","username":"alice","banned":false,"updated_at":1}"#;
        for sent in [&whole[..10], whole] {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", whole.len());
            connection.write_all((head + sent).as_bytes()).await.unwrap();
        }
    });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let users = Users::new(
        BackendApi::new(base, "sk_test_x".into(), http),
        TTL,
        Detached::on_current_runtime(),
        LookupCounts::default(),
    );
    assert_eq!(users.get("user_1").await.unwrap().username.as_deref(), Some("alice"));
    server.await.unwrap();
}
