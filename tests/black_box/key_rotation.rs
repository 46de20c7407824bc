//! One API key replaces another: the first signs, both revoke.

use std::collections::BTreeSet;

use reqwest::{Client, StatusCode};
use sandbox::clerk::Endpoint;
use serde_json::{Value, json};

use crate::{
    redis_server::RedisServer,
    service::{Service, Vendors, json, run},
    webhooks::{SECRET, vendors},
};

async fn service(vendors: &Vendors, redis: &RedisServer, format: &str, keys: &str) -> Service {
    let changes = [
        ("ABLY_API_KEY", keys),
        ("ABLY_REVOCABLE_TOKENS", "true"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET),
        ("REDIS_URL", &redis.url()),
        ("TOKEN_FORMAT", format),
    ];
    let service = vendors.service_with(&changes).await;
    let url = format!("http://{}/webhooks/clerk", service.address());
    vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[SECRET]).unwrap()]);
    service
}

/// A user's token at Ably.
async fn token(vendors: &Vendors, service: &Service, format: &str, username: &str) -> String {
    let answer = service.token(&vendors.token(username)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let details = match format {
        "jwt" => return answer.text().await.unwrap(),
        "token_request" => {
            let request: Value = answer.json().await.unwrap();
            let url = format!("{}/keys/{}/requestToken", vendors.ably.url(), request["keyName"].as_str().unwrap());
            json(Client::new().post(url).json(&request).send().await.unwrap(), 201).await
        }
        _ => answer.json().await.unwrap(),
    };
    details["token"].as_str().unwrap().to_owned()
}

async fn is_revoked(vendors: &Vendors, token: &str) -> bool {
    let url = format!("{}/channels/news/messages", vendors.ably.url());
    let answer = Client::new().get(url).bearer_auth(token).send().await.unwrap();
    match answer.headers().get("x-ably-errorcode") {
        None => false,
        Some(code) => code == "40141" || panic!("{code:?}"),
    }
}

#[tokio::test]
async fn after_a_rotation_each_key_revokes_the_tokens_that_it_signed() {
    for format in ["token_request", "jwt", "token_details"] {
        let (vendors, redis) = (vendors().await, RedisServer::start());
        let old = vendors.ably.api_key().to_owned();
        let new = vendors.ably.add_key();
        let [old_name, new_name] = [&old, &new].map(|key| key.split_once(':').unwrap().0);
        let former = service(&vendors, &redis, format, &old).await;
        let of_alice = token(&vendors, &former, format, "alice").await;
        drop(former);
        let service = service(&vendors, &redis, format, &format!("{new},{old}")).await;
        let of_bob = token(&vendors, &service, format, "bob").await;
        let tokens = [&of_alice, &of_bob];
        for token in tokens {
            assert!(!is_revoked(&vendors, token).await, "{format}");
        }

        let mut expected = BTreeSet::new();
        for (username, key_name) in [("alice", old_name), ("bob", new_name)] {
            vendors.clerk.send_event("user.deleted", json!({ "id": vendors.user(username) }), None);
            vendors.clerk.webhooks_settled().await;
            let calls = vendors.ably.revocation_calls().into_iter();
            let calls: BTreeSet<_> = calls.map(|call| (call.key_name, call.targets.join(" "))).collect();
            expected.insert((key_name.to_owned(), format!("clientId:{username}")));
            assert_eq!(calls, expected, "{format}");
        }
        for token in tokens {
            assert!(is_revoked(&vendors, token).await, "{format}");
        }
    }
}

#[tokio::test]
async fn check_lists_both_keys_and_no_secret() {
    let vendors = vendors().await;
    let (old, new) = (vendors.ably.api_key().to_owned(), vendors.ably.add_key());
    let mut settings = vendors.settings();
    settings.push(("ABLY_API_KEY".to_owned(), format!("{new},{old}")));
    let output = run(&settings, &["check"]);
    let report = String::from_utf8_lossy(&output.stdout);
    let [(old_name, old_secret), (new_name, new_secret)] = [&old, &new].map(|key| key.split_once(':').unwrap());
    for line in [
        format!("Ably API key        {new_name}, from ABLY_API_KEY\n"),
        format!("second API key      {old_name}, from ABLY_API_KEY; it only revokes\n"),
        "the API keys are not tried".to_owned(),
    ] {
        assert!(report.contains(&line), "{report}");
    }
    assert!(!report.contains(old_secret) && !report.contains(new_secret), "{report}");
}
