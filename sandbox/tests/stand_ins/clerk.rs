//! The stand-in for Clerk, as a service, a page and a script use it.

mod frontend;

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::{CONTENT_TYPE, DATE, ORIGIN, RETRY_AFTER};
use reqwest::{Client, Response};
use sandbox::clerk::{Clerk, Issuer, Options, Outage, User, cookie_suffix, publishable_key};
use serde_json::{Value, json};

const FORM: &str = "application/x-www-form-urlencoded";

async fn start() -> Clerk {
    Clerk::start(Options::default()).await.unwrap()
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn get(clerk: &Clerk, path: &str) -> Response {
    client().get(format!("{}{path}", clerk.url())).bearer_auth(clerk.secret_key()).send().await.unwrap()
}

async fn post(clerk: &Clerk, path: &str, body: Value) -> Response {
    client().post(format!("{}{path}", clerk.url())).json(&body).send().await.unwrap()
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

fn is_signed_by(token: &str, jwk: &Value) -> bool {
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let key = RsaPublicKeyComponents { n: bytes(jwk["n"].as_str().unwrap()), e: bytes(jwk["e"].as_str().unwrap()) };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &bytes(signature)).is_ok()
}

#[test]
fn keys_and_cookie_suffix_are_made_as_clerk_makes_them() {
    let key = publishable_key("clean-mayfly-62.clerk.accounts.dev");
    assert_eq!(key, "pk_test_Y2xlYW4tbWF5Zmx5LTYyLmNsZXJrLmFjY291bnRzLmRldiQ");
    assert_eq!(cookie_suffix(&key), "kgUPyBNU");
}

#[tokio::test]
async fn a_minted_token_verifies_with_every_form_of_the_public_key() {
    let clerk = start().await;
    let token = clerk.session_token(&clerk.users()[0].id);
    assert_eq!(part(&token, 0), json!({"alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": clerk.kid(), "typ": "JWT"}));
    for path in ["/.well-known/jwks.json", "/__clerk/.well-known/jwks.json", "/v1/jwks"] {
        let jwks: Value = get(&clerk, path).await.json().await.unwrap();
        let [jwk] = jwks["keys"].as_array().unwrap().as_slice() else { panic!("{path}: {jwks}") };
        assert_eq!(jwk["kid"], clerk.kid());
        assert!(is_signed_by(&token, jwk), "{path}");
    }
    let base64: String = clerk.jwt_key().lines().filter(|line| !line.starts_with('-')).collect();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, STANDARD.decode(base64).unwrap());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
}

#[tokio::test]
async fn a_rotated_key_replaces_the_previous_one() {
    let clerk = start().await;
    let before = clerk.mint(json!({}));
    let kid = clerk.rotate_key();
    assert_eq!(clerk.kid(), kid);
    let jwks: Value = get(&clerk, "/v1/jwks").await.json().await.unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    assert_eq!(jwks["keys"][0]["kid"], kid);
    assert!(is_signed_by(&clerk.mint(json!({})), &jwks["keys"][0]));
    assert!(!is_signed_by(&before, &jwks["keys"][0]));
}

#[tokio::test]
async fn the_backend_api_requires_the_secret_key() {
    let clerk = start().await;
    for path in ["/v1/jwks", "/v1/users", "/v1/users/user_1"] {
        for authorization in [None, Some("Bearer sk_test_other"), Some(clerk.secret_key())] {
            let mut request = client().get(format!("{}{path}", clerk.url()));
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401, "{path} {authorization:?}");
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["errors"][0]["code"], "clerk_key_invalid");
        }
    }
}

#[tokio::test]
async fn users_are_listed_in_order_and_shown_one_by_one() {
    let clerk = start().await;
    let users = clerk.users();
    let named = |name: &str| users.iter().find(|user| user.username.as_deref() == Some(name)).unwrap();
    let response = get(&clerk, &format!("/v1/users/{}", named("alice").id)).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key(DATE));
    let alice: Value = response.json().await.unwrap();
    assert_eq!(alice["object"], "user");
    assert_eq!(alice["username"], "alice");
    assert_eq!(alice["updated_at"], named("alice").updated_at);
    assert_eq!(alice["primary_email_address_id"], alice["email_addresses"][0]["id"]);

    let response = get(&clerk, "/v1/users/user_nobody").await;
    assert_eq!(response.status(), 404);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["errors"][0]["code"], "resource_not_found");

    let listed = async |query: &str| -> Vec<Value> {
        let list: Vec<Value> = get(&clerk, &format!("/v1/users{query}")).await.json().await.unwrap();
        list.into_iter().map(|mut user| user["username"].take()).collect()
    };
    assert_eq!(listed("?limit=2&order_by=created_at").await, ["alice", "bob"]);
    assert_eq!(listed("?limit=1&order_by=-created_at").await, ["mallory"]);
    assert_eq!(listed("?limit=1&offset=1&order_by=-created_at").await, [Value::Null]);
    for query in ["?limit=0", "?limit=many", "?order_by=height"] {
        assert_eq!(get(&clerk, &format!("/v1/users{query}")).await.status(), 422, "{query}");
    }
}

#[tokio::test]
async fn a_changed_user_shows_at_once_and_a_deleted_one_does_not() {
    let clerk = start().await;
    let bob = clerk.users().remove(1);
    let user_url = format!("/v1/users/{}", bob.id);
    let changed = post(&clerk, "/sandbox/users", json!({"user": "bob", "banned": true, "username": null})).await;
    assert_eq!(changed.status(), 200);
    let seen: Value = get(&clerk, &user_url).await.json().await.unwrap();
    assert_eq!((&seen["banned"], &seen["username"]), (&json!(true), &Value::Null));
    assert!(seen["updated_at"].as_i64().unwrap() > bob.updated_at);
    assert_eq!(post(&clerk, "/sandbox/users", json!({"user": bob.id, "banned": "very"})).await.status(), 422);

    clerk.set_user(User { username: Some("robert".to_owned()), updated_at: 7, ..bob.clone() });
    let seen: Value = get(&clerk, &user_url).await.json().await.unwrap();
    assert_eq!((&seen["username"], &seen["updated_at"]), (&json!("robert"), &json!(7)));

    clerk.delete_user(&bob.id);
    assert_eq!(get(&clerk, &user_url).await.status(), 404);
}

#[tokio::test]
async fn a_session_has_a_sign_in_new_tokens_and_a_sign_out() {
    let clerk = start().await;
    let url = |path: &str| format!("{}{path}", clerk.url());
    let origin = "http://localhost:4000";
    let signed_in: Value = client()
        .post(url("/v1/client/sign_ins"))
        .header(ORIGIN, origin)
        .header(CONTENT_TYPE, FORM)
        .body("user=carol")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let sid = signed_in["created_session_id"].as_str().unwrap();
    let cookies = &signed_in["cookies"];
    let first = claims(cookies["__session"].as_str().unwrap());
    assert!(sid.starts_with("sess_"));
    assert_eq!(first["sid"], sid);
    assert_eq!(first["azp"], origin);
    assert_eq!(first["iss"], clerk.issuer());
    assert_eq!(first["exp"].as_i64().unwrap() - first["iat"].as_i64().unwrap(), 60);
    assert_eq!(first["o"]["rol"], "admin");
    assert_eq!(cookies["__client_uat"], first["iat"].to_string());
    assert!(cookies["__clerk_db_jwt"].as_str().unwrap().starts_with("dvb_"));
    assert_eq!(cookies["suffix"], clerk.cookie_suffix());

    let tokens = format!("/v1/client/sessions/{sid}/tokens");
    let answer: Value = client().post(url(&tokens)).send().await.unwrap().json().await.unwrap();
    let second = claims(answer["jwt"].as_str().unwrap());
    assert_eq!(second["sid"], sid);
    assert_eq!(second.get("azp"), None, "Clerk names no azp when the request named no origin");

    let end = format!("/v1/client/sessions/{sid}/end");
    for (path, status) in [(&end, 200), (&end, 404), (&tokens, 404)] {
        assert_eq!(post(&clerk, path, json!({})).await.status(), status, "{path}");
    }
    assert_eq!(post(&clerk, "/v1/client/sign_ins", json!({"user": "unknown"})).await.status(), 422);
    assert_eq!(post(&clerk, "/v1/client/sign_ins", json!([])).await.status(), 422);
}

#[tokio::test]
async fn a_script_gets_a_bare_token_with_its_own_claims() {
    let clerk = start().await;
    let mint = async |body: Value| {
        let response = post(&clerk, "/sandbox/session-tokens", body).await;
        assert_eq!(response.status(), 200);
        claims(&response.text().await.unwrap())
    };
    let usual = mint(json!({"user": "alice"})).await;
    assert_eq!(usual["azp"], "http://localhost:3000");
    assert_eq!(usual["v"], 2);
    let changed = mint(json!({
        "user": clerk.users()[0].id,
        "origin": "http://127.0.0.1:9",
        "claims": {"username": "al", "fva": null},
    }))
    .await;
    assert_eq!((&changed["azp"], &changed["username"]), (&json!("http://127.0.0.1:9"), &json!("al")));
    assert_eq!(changed.get("fva"), None);

    let form = client()
        .post(format!("{}/sandbox/session-tokens", clerk.url()))
        .header(CONTENT_TYPE, FORM)
        .body("user=bob&claims=%7B%22azp%22%3Anull%7D")
        .send()
        .await
        .unwrap();
    let token = form.text().await.unwrap();
    assert_eq!(token.trim(), token);
    assert_eq!(claims(&token).get("azp"), None);
    let unknown = post(&clerk, "/sandbox/session-tokens", json!({"user": "unknown"})).await;
    assert_eq!(unknown.status(), 422);
}

#[tokio::test]
async fn an_outage_starts_and_ends_on_request() {
    let clerk = start().await;
    let paths = ["/.well-known/jwks.json", "/v1/jwks", "/v1/users/user_1"];
    clerk.set_outage(Some(Outage::Status(503)));
    for path in paths {
        assert_eq!(get(&clerk, path).await.status(), 503);
    }
    clerk.set_outage(Some(Outage::RateLimited { retry_after_s: 3 }));
    let limited = get(&clerk, "/v1/users/user_1").await;
    assert_eq!((limited.status().as_u16(), limited.headers()[RETRY_AFTER].to_str().unwrap()), (429, "3"));

    clerk.set_outage(Some(Outage::Drop));
    for path in paths {
        let outcome = client().get(format!("{}{path}", clerk.url())).send().await;
        assert!(outcome.is_err(), "{path}: {outcome:?}");
    }
    clerk.set_outage(Some(Outage::Hang));
    let impatient = client().get(format!("{}/v1/jwks", clerk.url())).timeout(Duration::from_millis(100)).send().await;
    assert!(impatient.unwrap_err().is_timeout());

    assert_eq!(post(&clerk, "/sandbox/outage", json!({"kind": "none"})).await.status(), 204);
    assert_eq!(get(&clerk, "/v1/jwks").await.status(), 200);
    assert_eq!(post(&clerk, "/sandbox/outage", json!({"kind": "status", "status": 500})).await.status(), 204);
    assert_eq!(get(&clerk, "/v1/jwks").await.status(), 500);
    assert_eq!(post(&clerk, "/sandbox/outage", json!({"kind": "flood"})).await.status(), 422);
}

#[tokio::test]
async fn the_backend_api_answers_after_its_delay() {
    let clerk = start().await;
    clerk.set_delay(Duration::from_millis(150));
    let begun = Instant::now();
    assert_eq!(get(&clerk, "/v1/users").await.status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn every_call_is_counted_by_its_route() {
    let clerk = start().await;
    get(&clerk, "/.well-known/jwks.json").await;
    get(&clerk, "/__clerk/.well-known/jwks.json").await;
    get(&clerk, "/v1/users/user_1").await;
    clerk.set_outage(Some(Outage::Status(500)));
    get(&clerk, "/v1/users/user_1").await;
    let calls = clerk.calls();
    assert_eq!((calls.frontend_jwks, calls.backend_jwks, calls.users, calls.users_list), (2, 0, 2, 0));
    let over_http: Value = get(&clerk, "/sandbox/calls").await.json().await.unwrap();
    assert_eq!(over_http, json!(calls));
}

#[tokio::test]
async fn pages_of_this_machine_may_call_it_and_no_others() {
    let clerk = start().await;
    for (origin, allowed) in [("http://localhost:3000", true), ("https://evil.example", false)] {
        for method in [reqwest::Method::POST, reqwest::Method::OPTIONS] {
            let response = client()
                .request(method, format!("{}/v1/client/sign_ins", clerk.url()))
                .header(ORIGIN, origin)
                .header(CONTENT_TYPE, FORM)
                .body("user=alice")
                .send()
                .await
                .unwrap();
            let echoed = response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
            assert_eq!(echoed, allowed.then_some(origin));
            assert!(response.status().is_success());
        }
    }
}

#[tokio::test]
async fn options_set_ttl_issuer_and_clock() {
    let clerk = Clerk::start(Options {
        session_token_ttl: Duration::from_secs(5),
        clock_offset_ms: -3_600_000,
        issuer: Issuer::Proxy,
        authorized_party: "https://app.example".to_owned(),
        kid: "ins_1".to_owned(),
        ..Options::default()
    })
    .await
    .unwrap();
    assert_eq!(clerk.kid(), "ins_1");
    let claims = clerk.session_claims("user_1");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 5);
    assert_eq!(claims["iss"], format!("{}/__clerk", clerk.url()));
    assert_eq!(claims["azp"], "https://app.example");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let behind = i64::try_from(now).unwrap() - claims["iat"].as_i64().unwrap();
    assert!((3_599..=3_601).contains(&behind));
}

#[tokio::test]
async fn it_has_two_host_names_and_frees_its_port_when_stopped() {
    let clerk = start().await;
    let port = clerk.port();
    let by_name = client().get(format!("http://localhost:{port}/.well-known/jwks.json")).send().await.unwrap();
    assert_eq!(by_name.status(), 200);
    let taken = Clerk::start(Options { port, ..Options::default() }).await.unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    clerk.stop().await;
    Clerk::start(Options { port, ..Options::default() }).await.unwrap();
}

#[tokio::test]
async fn unknown_routes_and_invalid_input_are_refused_in_clerks_shape() {
    let clerk = start().await;
    for path in ["/", "/v1/nothing", "/v1/client/nothing", "/sandbox/nothing"] {
        let response = get(&clerk, path).await;
        assert_eq!(response.status(), 404, "{path}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["errors"][0]["code"], "resource_not_found");
    }
    for body in ["{", "[]", "\u{0}", "null", r#"{"user":7}"#] {
        let response = client()
            .post(format!("{}/sandbox/session-tokens", clerk.url()))
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 422, "{body}");
    }
}
