//! Requests that the service refuses.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::service::{Service, Vendors, json, reason_in, refusal, rendered, request_id};

async fn assert_refused(service: &Service, response: Response, reason: &str) {
    let id = request_id(&response);
    let message = response.headers()["x-ably-errormessage"].to_str().unwrap().to_owned();
    assert_eq!(reason_in(&message), Some(reason), "{message}");
    assert_eq!(refusal(response).await, (401, 40101), "{reason}");
    let logged = service.logged_of(&id).await;
    assert_eq!(logged["reason"], reason, "{logged}");
}

#[tokio::test]
async fn a_refusal_is_in_the_shape_that_every_sdk_reads() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let response = service.get("/api/ably").send().await.unwrap();
    insta::assert_snapshot!(rendered(response).await, @r#"
    HTTP/1.1 401 Unauthorized
    cache-control: no-store
    content-type: application/json
    cross-origin-resource-policy: same-origin
    vary: Origin
    x-ably-errorcode: 40101
    x-ably-errormessage: No Clerk session: send the session token as a Bearer token, or its cookies. Is the user signed in? (session-token-missing)
    x-content-type-options: nosniff

    {"error":{"code":40101,"statusCode":401,"message":"No Clerk session: send the session token as a Bearer token, or its cookies. Is the user signed in? (session-token-missing)","href":"https://help.ably.io/error/40101"}}
    "#);
}

/// So that a report of what an SDK showed leads to the reason's row in the documentation.
#[tokio::test]
async fn every_message_ends_with_the_reason_that_the_log_has() {
    let vendors = Vendors::start().await;
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZg==";
    let service = vendors.service_with_admin("", &[("CLERK_WEBHOOK_SIGNING_SECRET", secret)]).await;
    let (token, post) = (vendors.token("alice"), |path: &str| service.request(Method::POST, path));
    let (json, form) = (("Content-Type", "application/json"), ("Content-Type", "application/x-www-form-urlencoded"));
    for (request, reason) in [
        (service.get("/api/ably"), "session-token-missing"),
        (service.get("/api/ably?ttl=1").bearer_auth(&token), "params-malformed"),
        (service.get("/api/ably?organization=acme").bearer_auth(&token), "organization-mismatch"),
        (service.get("/api/ably?clientId=bob").bearer_auth(&token), "client-id-of-another"),
        (post("/api/ably").header(json.0, json.1).body("{}"), "body-refused"),
        (post("/api/ably").header(form.0, form.1).body("x".repeat(20_000)), "body-refused"),
        (service.get("/nowhere"), "no-such-route"),
        (service.request(Method::PUT, "/api/ably"), "no-such-route"),
        (post("/webhooks/clerk"), "webhook-headers-missing"),
        (service.admin(Method::GET, "/metrics").header("Host", "evil.example"), "host-unknown"),
        (service.admin(Method::GET, "/nowhere"), "no-such-route"),
        (service.admin(Method::POST, "/revocations").body("{}"), "not-json"),
        (service.admin(Method::POST, "/revocations").header(json.0, json.1).body("{}"), "revocation-request-invalid"),
        (service.admin(Method::POST, "/revocations").header("Origin", "http://localhost"), "from-a-page"),
    ] {
        let response = request.send().await.unwrap();
        let (id, header) = (request_id(&response), response.headers()["x-ably-errormessage"].clone());
        let answer: Value = response.json().await.unwrap();
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!((header.to_str().unwrap(), reason_in(message)), (message, Some(reason)));
        assert_eq!(service.logged_of(&id).await["reason"], reason, "{message}");
    }
    for (bytes, reason) in [
        ("no HTTP\r\n\r\n".into(), "not-a-request"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)), "head-too-large"),
    ] {
        let answer = service.raw(bytes.as_bytes());
        let ends = format!("({reason})\",\"href\"");
        assert!(answer.contains(&ends) && answer.contains(&format!("({reason})\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn a_token_that_is_no_session_of_this_app_is_refused_and_the_log_says_why() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let clerk = &vendors.clerk;
    let claims = clerk.session_claims(&vendors.user("alice"));
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    let header = |name: &str, value: Value| {
        let mut header = json!({ "alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": clerk.kid(), "typ": "JWT" });
        header[name] = value;
        clerk.mint_with_header(header, claims.clone())
    };
    let good = vendors.token("alice");
    let (before, after) = (&good[..good.len() - 20], &good[good.len() - 19..]);
    let other = if good[before.len()..].starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{before}{other}{after}");
    for (token, reason) in [
        (String::new(), "session-token-missing"),
        ("null".into(), "session-token-missing"),
        ("undefined".into(), "session-token-missing"),
        ("a.b.c".into(), "token-malformed"),
        ("ak_live_1".into(), "token-type-mismatch"),
        ("mt_1".into(), "token-type-mismatch"),
        ("oat_1".into(), "token-type-mismatch"),
        ("x".repeat(8000), "token-malformed"),
        (tampered, "token-invalid-signature"),
        (header("kid", json!("ins_other")), "token-unknown-kid"),
        (header("cat", json!("cl_B7d4PD222AAA")), "token-type-mismatch"),
        (header("typ", json!("at+jwt")), "token-type-mismatch"),
        (header("crit", json!(["exp"])), "token-invalid-crit"),
        (vendors.token_with(&json!({ "exp": exp - 3600, "iat": iat - 3600 })), "token-expired"),
        (vendors.token_with(&json!({ "iat": iat + 3600 })), "token-issued-in-the-future"),
        (vendors.token_with(&json!({ "nbf": iat + 3600 })), "token-not-active-yet"),
        (vendors.token_with(&json!({ "exp": iat + 3600 })), "token-lives-too-long"),
        (vendors.token_with(&json!({ "iat": null })), "token-missing-issued-at"),
        (vendors.token_with(&json!({ "sid": null })), "token-missing-session-id"),
        (vendors.token_with(&json!({ "azp": null })), "token-missing-authorized-party"),
        (vendors.token_with(&json!({ "azp": "https://evil.example.com" })), "token-invalid-authorized-party"),
        (vendors.token_with(&json!({ "iss": "https://clerk.other.example" })), "token-invalid-issuer"),
        (vendors.token_with(&json!({ "sts": "pending" })), "session-pending"),
        (vendors.token_with(&json!({ "sub": "mch_1" })), "token-type-mismatch"),
    ] {
        assert_refused(&service, service.token(&token).await, reason).await;
    }
}

#[tokio::test]
async fn a_header_of_the_wrong_types_is_refused_whatever_the_source_of_the_key() {
    let vendors = Vendors::start().await;
    let clerk = &vendors.clerk;
    let claims = clerk.session_claims(&vendors.user("alice"));
    let with = |name: &str, value: Value| {
        let mut header = json!({ "alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": clerk.kid(), "typ": "JWT" });
        header[name] = value;
        clerk.mint_with_header(header, claims.clone())
    };
    for source in [("CLERK_JWT_KEY", ""), ("CLERK_JWT_KEY", clerk.jwt_key())] {
        let service = vendors.service_with(&[source, ("LIMITS_TOKENS_PER_MINUTE", "0")]).await;
        for wrong in [json!(5), json!(null), json!(true), json!([clerk.kid()]), json!({ "kid": clerk.kid() })] {
            for (name, reason) in [
                ("kid", "token-invalid-kid"),
                ("typ", "token-invalid-typ"),
                ("alg", "token-invalid-algorithm"),
                ("cat", "token-type-mismatch"),
                ("crit", "token-invalid-crit"),
            ] {
                assert_refused(&service, service.token(&with(name, wrong.clone())).await, reason).await;
            }
        }
        json(service.token(&with("unknown", json!(5))).await, 200).await;
    }
}

#[tokio::test]
async fn a_signed_out_cookie_is_refused_before_its_token_expires() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let token = vendors.token("alice");
    for (cookies, reason) in [
        (format!("__session={token}; __client_uat=0; __clerk_db_jwt=d"), "client-uat-signed-out"),
        (format!("__session={token}; __clerk_db_jwt=d"), "client-uat-signed-out"),
        (
            format!("__session={token}; __client_uat=99999999999; __clerk_db_jwt=d"),
            "session-token-older-than-client-uat",
        ),
        (format!("__session={token}; __client_uat=1"), "dev-browser-missing"),
        ("__client_uat=1; __clerk_db_jwt=d".into(), "session-token-missing"),
    ] {
        assert_refused(&service, service.token_by_cookies(&cookies).await, reason).await;
    }
}

/// A deliberate difference from Clerk's SDK, which answers each of these with a redirect or a handshake.
#[tokio::test]
async fn what_concerns_page_navigations_only_plays_no_part() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let cookies = format!("__session={}; __client_uat=1; __clerk_db_jwt=d", vendors.token("alice"));
    for (query, cookie) in [
        ("?__clerk_db_jwt=x", ""),
        ("?__clerk_handshake=a.b.c", ""),
        ("?__clerk_handshake_nonce=x", ""),
        ("?__clerk_redirect_url=https://example.com", ""),
        ("?__clerk_redirect_url=bad", ""),
        ("", "; __clerk_handshake=a.b.c"),
    ] {
        let request = service.get(&format!("/api/ably{query}")).header("Cookie", format!("{cookies}{cookie}"));
        let request = request.header("Sec-Fetch-Dest", "document").header("Referer", "https://example.com/");
        assert_eq!(json(request.send().await.unwrap(), 200).await["clientId"], "alice", "{query} {cookie}");
    }
    // Nor does a query stand in for a cookie.
    let without = format!("__session={}; __client_uat=1", vendors.token("alice"));
    let response = service.get("/api/ably?__clerk_db_jwt=d").header("Cookie", without).send().await.unwrap();
    assert_refused(&service, response, "dev-browser-missing").await;
}

/// A deliberate difference from Clerk's SDK, which takes whatever it finds there for a token.
#[tokio::test]
async fn an_authorization_header_that_is_no_token_gives_way_to_the_cookie() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let cookies = format!("__session={}; __client_uat=1; __clerk_db_jwt=d", vendors.token("alice"));
    for header in ["-", "a.b.c.d", "Basic YTpi", "Bearer null", "bearer undefined", "Bearer", "Bearer  "] {
        let request = service.get("/api/ably").header("Cookie", &cookies).header("Authorization", header);
        assert_eq!(json(request.send().await.unwrap(), 200).await["clientId"], "alice", "{header}");
    }
    for header in ["a.b.c", "Bearer a.b.c.d"] {
        let request = service.get("/api/ably").header("Cookie", &cookies).header("Authorization", header);
        assert_refused(&service, request.send().await.unwrap(), "token-malformed").await;
    }
}

/// A deliberate difference from Clerk's SDK: RFC 9110 section 11.4 allows any number of blanks behind the scheme.
#[tokio::test]
async fn blanks_behind_the_scheme_do_not_count() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for blanks in [" ", "  ", "      "] {
        let header = format!("Bearer{blanks}{}", vendors.token("alice"));
        let response = service.get("/api/ably").header("Authorization", header).send().await.unwrap();
        assert_eq!(json(response, 200).await["clientId"], "alice", "{blanks:?}");
    }
}

/// As JavaScript reads headers, each byte is a character: UTF-8's no-break space is none.
#[tokio::test]
async fn a_cookie_is_read_byte_by_byte() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let token = vendors.token("alice");
    for (uat, status) in [(&b"\xc2\xa05"[..], 401), (b"\xa05", 200), (b"%C2%A05", 200)] {
        let cookies = [format!("__session={token}; __clerk_db_jwt=d; __client_uat=").as_bytes(), uat].concat();
        let response = service.get("/api/ably").header("Cookie", cookies).send().await.unwrap();
        assert_eq!(response.status(), status, "{uat:?}");
    }
}

#[tokio::test]
async fn a_token_of_another_instance_is_refused_even_with_the_same_kid_and_issuer() {
    let (ours, theirs) = (Vendors::start().await, Vendors::start().await);
    let service = ours.service().await;
    let header = json!({ "alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": ours.clerk.kid(), "typ": "JWT" });
    let foreign = theirs.clerk.mint_with_header(header, ours.clerk.session_claims(&ours.user("alice")));
    assert_refused(&service, service.token(&foreign).await, "token-invalid-signature").await;
}
