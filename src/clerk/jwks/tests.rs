use futures_util::future::join_all;
use sandbox::clerk::{Clerk, Options, Outage};

use url::Url;

use super::*;

const UNKNOWN: Unverified = Unverified::Invalid(Invalid::UnknownKey);

async fn stand_in() -> Clerk {
    Clerk::start(Options::default()).await.unwrap()
}

fn jwks(clerk: &Clerk) -> Jwks {
    let url = Url::parse(&format!("{}/.well-known/jwks.json", clerk.url())).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    Jwks::new(JwksSource { url, secret_key: None }, http, Detached::on_current_runtime(), RefreshCounts::default())
}

/// Advances the clock of timers, but not while sockets are waited for.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

async fn outcome(jwks: &Jwks, kid: &str) -> Result<(), Unverified> {
    jwks.find(kid).await.map(|_| ())
}

#[tokio::test]
async fn a_thousand_requests_without_keys_share_one_fetch() {
    let clerk = stand_in().await;
    let (jwks, kid) = (jwks(&clerk), clerk.kid());
    let found = join_all((0..1000).map(|_| outcome(&jwks, &kid))).await;
    assert!(found.iter().all(Result::is_ok));
    assert_eq!(clerk.calls().frontend_jwks, 1);
    assert!(matches!(jwks.state(), KeysState::Confirmed(_)));
}

#[tokio::test]
async fn unknown_kids_cause_one_fetch_a_minute_however_many_there_are() {
    let clerk = stand_in().await;
    let jwks = jwks(&clerk);
    jwks.refresh(FetchCause::Schedule).await;
    for _ in 0..2 {
        let kids: Vec<String> = (0..100).map(|kid| format!("ins_{kid}")).collect();
        let found = join_all(kids.iter().map(|kid| outcome(&jwks, kid))).await;
        assert!(found.iter().all(|outcome| *outcome == Err(UNKNOWN)));
        assert_eq!(clerk.calls().frontend_jwks, 2);
    }
    pass(Jwks::UNKNOWN_KID_EVERY).await;
    assert_eq!(outcome(&jwks, "ins_other").await, Err(UNKNOWN));
    assert_eq!(clerk.calls().frontend_jwks, 3);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_is_gone() {
    let clerk = stand_in().await;
    let (jwks, old) = (jwks(&clerk), clerk.kid());
    assert_eq!(outcome(&jwks, &old).await, Ok(()));
    let new = clerk.rotate_key();
    assert_eq!(outcome(&jwks, &new).await, Ok(()));
    assert_eq!(outcome(&jwks, &old).await, Err(UNKNOWN));
}

#[tokio::test]
async fn keys_serve_for_an_hour_of_an_outage_and_no_longer() {
    let clerk = stand_in().await;
    let (jwks, kid) = (jwks(&clerk), clerk.kid());
    assert_eq!(outcome(&jwks, &kid).await, Ok(()));

    clerk.set_outage(Some(Outage::Status(500)));
    pass(Duration::from_mins(59)).await;
    jwks.refresh(FetchCause::Schedule).await;
    assert_eq!(outcome(&jwks, &kid).await, Ok(()));
    assert!(matches!(jwks.state(), KeysState::Unconfirmed(_)));

    pass(Duration::from_mins(1)).await;
    assert_eq!(jwks.state(), KeysState::Missing);
    assert_eq!(outcome(&jwks, &kid).await, Err(Unverified::KeysUnavailable));

    clerk.set_outage(None);
    pass(Jwks::NO_KEYS_EVERY).await;
    assert_eq!(outcome(&jwks, &kid).await, Ok(()));
    assert!(matches!(jwks.state(), KeysState::Confirmed(_)));
}

#[tokio::test]
async fn without_keys_clerk_is_called_at_most_once_a_second() {
    let clerk = stand_in().await;
    clerk.set_outage(Some(Outage::Status(503)));
    let jwks = jwks(&clerk);
    for _ in 0..100 {
        assert_eq!(outcome(&jwks, "ins_1").await, Err(Unverified::KeysUnavailable));
    }
    assert_eq!(clerk.calls().frontend_jwks, 1);
}

#[tokio::test]
async fn a_client_that_disconnects_does_not_cancel_the_fetch() {
    let clerk = stand_in().await;
    let (jwks, kid) = (jwks(&clerk), clerk.kid());
    jwks.refresh(FetchCause::Schedule).await;
    let rotated = clerk.rotate_key();
    {
        let mut leaving = Box::pin(jwks.find(&rotated));
        // One poll starts the fetch; then the caller is dropped.
        let _ = futures_util::poll!(&mut leaving);
    }
    assert_eq!(outcome(&jwks, &rotated).await, Ok(()));
    assert_eq!(outcome(&jwks, &kid).await, Err(UNKNOWN));
}

#[tokio::test]
async fn any_failed_refresh_is_retried_soon() {
    let clerk = stand_in().await;
    let jwks = jwks(&clerk);
    let background = tokio::spawn(jwks.clone().keep_fresh());
    while jwks.state() == KeysState::Missing {
        tokio::task::yield_now().await;
    }
    clerk.set_outage(Some(Outage::Status(500)));
    assert_eq!(outcome(&jwks, "ins_unknown").await, Err(UNKNOWN));
    assert!(matches!(jwks.state(), KeysState::Unconfirmed(_)));
    clerk.set_outage(None);
    // The background task must have seen the failure before time passes for it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    pass(Jwks::RETRY_AFTER).await;
    while matches!(jwks.state(), KeysState::Unconfirmed(_)) {
        tokio::task::yield_now().await;
    }
    background.abort();
}
