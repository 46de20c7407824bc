use futures_util::future::join_all;
use sandbox::clerk::{Clerk, Options, Outage};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
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
    Users::new(api, ttl, Handle::current(), LookupCounts::default())
}

fn alice(clerk: &Clerk) -> String {
    clerk.users().into_iter().find(|user| user.username.as_deref() == Some("alice")).unwrap().id
}

fn renamed(id: &str, username: &str, updated_at: i64) -> User {
    User { id: id.into(), username: Some(username.into()), banned: false, deprovisioned: false, updated_at }
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
async fn a_lookup_that_began_before_a_newer_fact_does_not_overwrite_it() {
    let (clerk, users) = stand_in().await;
    let id = alice(&clerk);
    let updated_at = clerk.users().into_iter().find(|user| user.id == id).unwrap().updated_at;
    clerk.set_delay(Duration::from_millis(200));

    let mut lookup = Box::pin(users.get(&id));
    assert!(futures_util::poll!(&mut lookup).is_pending());
    users.learn(renamed(&id, "alicia", updated_at + 1));
    assert_eq!(lookup.await.unwrap().username.as_deref(), Some("alicia"));
    assert_eq!(users.get(&id).await.unwrap().username.as_deref(), Some("alicia"));

    users.learn(renamed(&id, "older", updated_at - 1));
    assert_eq!(users.get(&id).await.unwrap().username.as_deref(), Some("alicia"));
}

#[tokio::test]
async fn one_failure_is_tried_again_and_a_lasting_one_is_told() {
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
    users.learn(renamed("user_gone", "back", i64::MAX));
    assert_eq!(users.get("user_gone").await, Err(LookupError::Deleted));
}

#[tokio::test]
async fn without_a_ttl_nothing_is_remembered() {
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

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
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
    let users =
        Users::new(BackendApi::new(base, "sk_test_x".into(), http), TTL, Handle::current(), LookupCounts::default());
    assert_eq!(users.get("user_1").await.unwrap().username.as_deref(), Some("alice"));
    server.await.unwrap();
}
