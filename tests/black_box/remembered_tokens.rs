//! A session token that the service knows from earlier requests: only its signature is taken from memory.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use sandbox::clerk::Endpoint;
use serde_json::{Value, json};

use crate::{
    service::{Service, Vendors, json, refusal, request_id},
    tenants::Tenants,
    webhooks::{SECRET, vendors},
};

const UNLIMITED: (&str, &str) = ("LIMITS_TOKENS_PER_MINUTE", "0");

/// Uses a session token so often that the service remembers it.
async fn remember(service: &Service, token: &str) {
    for _ in 0..3 {
        json(service.token(token).await, 200).await;
    }
}

/// Why a request is refused.
async fn reason(service: &Service, response: Response) -> String {
    let id = request_id(&response);
    refusal(response).await;
    service.logged_of(&id).await["reason"].as_str().unwrap().to_owned()
}

async fn reason_of(service: &Service, token: &str) -> String {
    reason(service, service.token(token).await).await
}

fn cookies(token: &str) -> String {
    format!("__session={token}; __client_uat=1; __clerk_db_jwt=d")
}

#[tokio::test]
async fn it_expires() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[UNLIMITED, ("CLERK_CLOCK_SKEW_MS", "0")]).await;
    let issued_at = vendors.clerk.session_claims(&vendors.user("alice"))["iat"].as_i64().unwrap();
    let token = vendors.token_with(&json!({ "exp": issued_at + 3 }));
    remember(&service, &token).await;
    for _ in 0..1000 {
        let response = service.token(&token).await;
        if response.status() != StatusCode::OK {
            assert_eq!(reason(&service, response).await, "token-expired");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the token does not expire");
}

#[tokio::test]
async fn it_is_refused_once_its_key_is_replaced_whether_or_not_the_new_key_has_the_same_kid() {
    let vendors = Vendors::start().await;
    let unknown_kid = json!({ "alg": "RS256", "kid": "ins_unknown", "typ": "JWT" });
    for (keeps_kid, expected) in [(true, "token-invalid-signature"), (false, "token-unknown-kid")] {
        let service = vendors.service().await;
        let token = vendors.token("alice");
        remember(&service, &token).await;
        if keeps_kid {
            vendors.clerk.replace_key();
        } else {
            let _ = vendors.clerk.rotate_key();
        }
        // The service fetches the keys for a kid that it does not know.
        let claims = vendors.clerk.session_claims(&vendors.user("alice"));
        refusal(service.token(&vendors.clerk.mint_with_header(unknown_kid.clone(), claims)).await).await;
        for _ in 0..2 {
            assert_eq!(reason_of(&service, &token).await, expected);
        }
        remember(&service, &vendors.token("alice")).await;
        assert_eq!(reason_of(&service, &token).await, expected);
    }
}

#[tokio::test]
async fn it_is_refused_where_its_cookies_or_the_request_would_make_a_new_one_refused() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[UNLIMITED]).await;
    let token = vendors.token("alice");
    remember(&service, &token).await;
    for _ in 0..3 {
        json(service.token_by_cookies(&cookies(&token)).await, 200).await;
    }
    for (cookies, expected) in [
        (format!("__session={token}; __client_uat=0; __clerk_db_jwt=d"), "client-uat-signed-out"),
        (format!("__session={token}; __clerk_db_jwt=d"), "client-uat-signed-out"),
        (
            format!("__session={token}; __client_uat=99999999999; __clerk_db_jwt=d"),
            "session-token-older-than-client-uat",
        ),
        (format!("__session={token}; __client_uat=1"), "dev-browser-missing"),
    ] {
        assert_eq!(reason(&service, service.token_by_cookies(&cookies).await).await, expected, "{cookies}");
    }
    let cross_site = service.get("/api/ably").header("Cookie", cookies(&token)).header("Sec-Fetch-Site", "cross-site");
    assert_eq!(reason(&service, cross_site.send().await.unwrap()).await, "request-from-another-site");
    json(service.token(&token).await, 200).await;
}

#[tokio::test]
async fn without_azp_it_is_accepted_as_a_bearer_token_of_native_apps_and_refused_in_a_cookie() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("CLERK_NATIVE_APPS", "true")]).await;
    let token = vendors.token_with(&json!({ "azp": null }));
    for _ in 0..2 {
        remember(&service, &token).await;
        let in_cookie = service.token_by_cookies(&cookies(&token)).await;
        assert_eq!(reason(&service, in_cookie).await, "token-missing-authorized-party");
    }
}

#[tokio::test]
async fn it_is_refused_once_its_session_or_user_is_denied_or_its_claims_are_outdated() {
    let vendors = vendors().await;
    let service = vendors.service_with_admin("", &[UNLIMITED, ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)]).await;
    let url = format!("http://{}/webhooks/clerk", service.address());
    vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[SECRET]).unwrap()]);
    let session = |username: &str| {
        let claims = vendors.clerk.session_claims(&vendors.user(username));
        (claims.clone(), vendors.clerk.mint(claims))
    };
    let id = |claims: &Value, name: &str| claims[name].as_str().unwrap().to_owned();

    let (claims, token) = session("alice");
    remember(&service, &token).await;
    vendors.clerk.end_session(&id(&claims, "sid"));
    vendors.clerk.webhooks_settled().await;
    assert_eq!(reason_of(&service, &token).await, "session-denied");

    let (claims, token) = session("alice");
    remember(&service, &token).await;
    let request = json!({ "session": claims["sid"] });
    let revoked = service.admin(Method::POST, "/revocations").json(&request).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::OK);
    assert_eq!(reason_of(&service, &token).await, "session-denied");

    let (_, token) = session("alice");
    remember(&service, &token).await;
    vendors.clerk.ban_user(&vendors.user("alice"));
    vendors.clerk.webhooks_settled().await;
    assert_eq!(reason_of(&service, &token).await, "session-denied");

    let (claims, token) = session("carol");
    remember(&service, &token).await;
    let data = json!({
        "organization": { "id": claims["o"]["id"] }, "public_user_data": { "user_id": claims["sub"] }, "role": "org:member",
    });
    let at = claims["iat"].as_i64().unwrap() * 1000 + 999;
    vendors.clerk.send_event("organizationMembership.updated", data, Some(at));
    vendors.clerk.webhooks_settled().await;
    assert_eq!(reason_of(&service, &token).await, "session-token-outdated");
}

#[tokio::test]
async fn it_gives_the_name_that_its_user_has_now() {
    let vendors = vendors().await;
    let service = vendors.service_with(&[UNLIMITED, ("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)]).await;
    let url = format!("http://{}/webhooks/clerk", service.address());
    vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[SECRET]).unwrap()]);
    let (nameless, named) = (vendors.token("bob"), {
        let mut claims = vendors.clerk.session_claims(&vendors.user("bob"));
        claims["username"] = json!("bob");
        vendors.clerk.mint(claims)
    });
    for token in [&nameless, &named] {
        remember(&service, token).await;
    }
    assert_eq!(vendors.clerk.calls().users, 1);
    vendors.clerk.change_user(&vendors.user("bob"), |user| user.username = Some("robert".into()));
    vendors.clerk.webhooks_settled().await;
    assert_eq!(json(service.token(&nameless).await, 200).await["clientId"], "robert");
    assert_eq!(reason_of(&service, &named).await, "session-token-outdated");
}

#[tokio::test]
async fn it_is_only_for_the_organization_that_is_active_in_it() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[UNLIMITED]).await;
    let token = vendors.token_with(&json!({ "o": { "id": "org_1", "slg": "acme", "rol": "admin" } }));
    remember(&service, &token).await;
    json(service.token_with(&token, "organization=acme").await, 200).await;
    for other in ["none", "beta"] {
        let response = service.token_with(&token, &format!("organization={other}")).await;
        assert_eq!(reason(&service, response).await, "organization-mismatch");
    }
}

#[tokio::test]
async fn it_is_of_one_tenant_with_that_tenants_limit_and_denials() {
    let tenants = Tenants::start().await;
    // The tenants' keys have the same kid, and the users the same ID.
    let (acme, beta) = (tenants.acme.token("alice"), tenants.beta_token());
    let service = tenants.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "1"), ("LIMITS_TOKENS_BURST", "4")]).await;
    remember(&service, &acme).await;
    remember(&service, &beta).await;
    let suffix = tenants.beta.clerk.cookie_suffix();
    let as_betas = format!("__session_{suffix}={acme}; __client_uat_{suffix}=1; __clerk_db_jwt_{suffix}=d");
    assert_eq!(reason(&service, service.token_by_cookies(&as_betas).await).await, "token-invalid-issuer");
    for token in [&acme, &beta] {
        json(service.token(token).await, 200).await;
        assert_eq!(reason_of(&service, token).await, "rate-limited");
    }
}

#[tokio::test]
async fn a_text_that_differs_from_it_in_anything_is_judged_as_by_a_service_that_has_never_seen_it() {
    let vendors = Vendors::start().await;
    let (warm, cold) = (vendors.service_with(&[UNLIMITED]).await, vendors.service().await);
    let (token, other) = (vendors.token("alice"), vendors.token("bob"));
    remember(&warm, &token).await;
    remember(&warm, &other).await;
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (own, others) = (parts(&token), parts(&other));
    let last = token.chars().next_back().unwrap();
    // The last character of a signature has four bits that mean nothing.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    let same_bits = alphabet.chars().nth(at + 1).unwrap();
    let shortened = &token[..token.len() - 1];
    for text in [
        format!("{shortened}{same_bits}"),
        shortened.to_owned(),
        format!("{token}A"),
        format!("{token}="),
        format!("{token}."),
        format!("{token}.{}", own[2]),
        format!("{}.{}.{}", own[0], others[1], own[2]),
        format!("{}.{}.{}", own[0], own[1], others[2]),
        format!("{}.{}.", own[0], own[1]),
        format!("{}.{}.{}", own[1], own[0], own[2]),
        token.to_lowercase(),
    ] {
        let expected = reason_of(&cold, &text).await;
        assert_eq!(reason_of(&warm, &text).await, expected, "{text}");
    }
    json(warm.token(&token).await, 200).await;
}
