//! Which client ID a user gets, and what it costs.

use futures_util::future::join_all;
use serde_json::json;

use crate::service::{Vendors, json, refusal};

#[tokio::test]
async fn with_a_username_claim_or_a_warm_cache_issuing_makes_no_call_at_all() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "0")]).await;
    json(service.token(&vendors.token("bob")).await, 200).await;
    let before = (vendors.clerk.calls(), vendors.ably.calls());
    for _ in 0..20 {
        assert_eq!(json(service.token(&vendors.token("bob")).await, 200).await["clientId"], "bob");
        let named = vendors.token_with(&json!({ "username": "somebody" }));
        assert_eq!(json(service.token(&named).await, 200).await["clientId"], "somebody");
    }
    let after = (vendors.clerk.calls(), vendors.ably.calls());
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
}

#[tokio::test]
async fn a_thousand_first_requests_of_one_user_make_one_call() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "0")]).await;
    vendors.clerk.set_delay(std::time::Duration::from_millis(500));
    let token = vendors.token("alice");
    let responses = join_all((0..1000).map(|_| service.token(&token))).await;
    for response in responses {
        json(response, 200).await;
    }
    assert_eq!(vendors.clerk.calls().users, 1);
}

#[tokio::test]
async fn a_username_claim_that_is_no_name_counts_as_none() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for username in [json!(""), json!(5), json!({}), json!(["mallory"])] {
        let token = vendors.token_with(&json!({ "username": username }));
        assert_eq!(json(service.token(&token).await, 200).await["clientId"], "alice", "{username}");
    }
}

#[tokio::test]
async fn who_gets_no_client_id_is_told_why() {
    let vendors = Vendors::start().await;
    let users = vendors.clerk.users();
    let nameless = users.iter().find(|user| user.username.is_none()).unwrap();
    let banned = users.iter().find(|user| user.banned).unwrap();
    let with_lookups = vendors.service().await;
    let without = vendors.service_with(&[("CLERK_SECRET_KEY", ""), ("CLERK_JWT_KEY", vendors.clerk.jwt_key())]).await;
    let impossible = vendors.token_with(&json!({ "username": "*" }));
    let mut deleted = vendors.clerk.session_claims(&vendors.user("alice"));
    deleted["sub"] = json!("user_deleted");
    for (service, token, sentence) in [
        (&with_lookups, vendors.clerk.session_token(&nameless.id), "has no username"),
        (&with_lookups, vendors.clerk.session_token(&banned.id), "is banned"),
        (&with_lookups, vendors.clerk.mint(deleted), "does not exist any more"),
        (&with_lookups, impossible, "cannot be an Ably client ID"),
        (
            &without,
            vendors.token("alice"),
            "add a username claim to Clerk's session token, or give this service CLERK_SECRET_KEY",
        ),
    ] {
        let response = service.token(&token).await;
        let message = response.headers()["x-ably-errormessage"].to_str().unwrap().to_owned();
        assert!(message.contains(sentence), "{message}");
        assert_eq!(refusal(response).await, (403, 40300), "{message}");
    }
}

#[tokio::test]
async fn a_locked_user_is_not_refused() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let mut alice = vendors.clerk.users().into_iter().find(|user| user.username.as_deref() == Some("alice")).unwrap();
    alice.locked = true;
    vendors.clerk.set_user(alice);
    json(service.token(&vendors.token("alice")).await, 200).await;
}

#[tokio::test]
async fn a_template_decides_who_a_user_is() {
    let vendors = Vendors::start().await;
    let alice = vendors.user("alice");
    for (template, client_id) in [
        ("{user_id}", alice.clone()),
        ("{claim.handle}", "al".into()),
        ("u:{username}:{claim.handle}", "u:alice:al".into()),
    ] {
        let service = vendors.service_with(&[("TOKEN_CLIENT_ID", template)]).await;
        let token = vendors.token_with(&json!({ "handle": "al" }));
        assert_eq!(json(service.token(&token).await, 200).await["clientId"], json!(client_id), "{template}");
    }
}
