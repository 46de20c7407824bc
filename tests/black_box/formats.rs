//! Each form of a token, made and used.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use reqwest::{Client, Method, Response};
use sandbox::ably::{Ably, Outage};
use serde_json::{Value, json};

use crate::service::{Service, Vendors, json, refusal, rendered, request_id, run};

const JWT: (&str, &str) = ("TOKEN_FORMAT", "jwt");
const TOKEN_DETAILS: (&str, &str) = ("TOKEN_FORMAT", "token_details");

fn claims(jwt: &str) -> Value {
    let mut parts = jwt.split('.').map(|part| BASE64_URL.decode(part).unwrap());
    parts.next();
    serde_json::from_slice(&parts.next().unwrap()).unwrap()
}

/// Publishes with a token, as any HTTP client may, and returns who Ably says it was.
async fn publisher(ably: &Ably, token: &str) -> Value {
    let (http, url) = (Client::builder().no_proxy().build().unwrap(), format!("{}/channels/room/messages", ably.url()));
    let message = json!({ "name": "greeting", "data": "hello" });
    let published = http.post(&url).bearer_auth(token).json(&message).send().await.unwrap();
    assert_eq!(published.status(), 201, "{}", published.text().await.unwrap());
    let history: Value = http.get(url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
    history[0]["clientId"].clone()
}

/// The status and code of each refusal, how often Ably was asked for it, and when to come again.
async fn refused(vendors: &Vendors, service: &Service, outage: Outage) -> ((u16, u64), u64, Option<String>) {
    let before = vendors.ably.calls().request_token;
    vendors.ably.set_outage(Some(outage));
    let response = service.token(&vendors.token("alice")).await;
    vendors.ably.set_outage(None);
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (refusal(response).await, vendors.ably.calls().request_token - before, retry_after)
}

fn split(text: &str) -> (&str, &str) {
    text.split_once("\n\n").unwrap()
}

#[tokio::test]
async fn a_jwt_is_a_token_that_ably_takes_as_it_is() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[JWT]).await;
    let text = rendered(service.token(&vendors.token("alice")).await).await;
    let (head, jwt) = split(&text);
    insta::assert_snapshot!(head, @r#"
    HTTP/1.1 200 OK
    cache-control: no-store
    content-type: application/jwt
    cross-origin-resource-policy: same-origin
    ratelimit-policy: "tokens";q=20;w=20
    ratelimit: "tokens";r=19;t=19
    vary: Origin
    x-content-type-options: nosniff
    "#);
    let claims = claims(jwt);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    assert_eq!(claims["x-ably-capability"], r#"{"[*]*":["*"]}"#);
    assert!(claims["x-ably-revocation-key"].as_str().unwrap().starts_with("sess_"));
    assert_eq!(publisher(&vendors.ably, jwt).await, "alice");
    assert_eq!(vendors.ably.calls().request_token, 0);
}

#[tokio::test]
async fn a_jwt_is_what_its_client_asked_for() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[JWT, ("TOKEN_TTL", "30m")]).await;
    let asked = async |query: &str| {
        let response = service.token_with(&vendors.token("alice"), query).await;
        assert_eq!(response.status(), 200);
        claims(&response.text().await.unwrap())
    };
    let life = |claims: &Value| claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(life(&asked("").await), 1800);
    assert_eq!(life(&asked("ttl=7200000").await), 1800);
    assert_eq!(life(&asked("ttl=12999").await), 12);
    let narrowed = asked("capability=%7B%22b%22%3A%5B%22subscribe%22%2C%22publish%22%5D%7D&clientId=alice").await;
    assert_eq!(narrowed["x-ably-capability"], r#"{"b":["publish","subscribe"]}"#);
    assert_eq!(refusal(service.token_with(&vendors.token("alice"), "clientId=bob").await).await, (403, 40012));
}

/// A capability of so many resources, all of them of `room:*`.
fn rooms(count: usize) -> String {
    let rooms: serde_json::Map<_, _> = (0..count).map(|n| (format!("room:{n:04}"), json!(["publish"]))).collect();
    Value::Object(rooms).to_string()
}

/// Asks by POST, whose form has room for more than an address.
async fn asking_for(service: &Service, token: &str, params: &[(&str, &str)]) -> Response {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    let request = service.request(Method::POST, "/api/ably").bearer_auth(token).body(form);
    request.header("Content-Type", "application/x-www-form-urlencoded").send().await.unwrap()
}

const TOO_LARGE: &str =
    "This user's capability is too large for a JWT. Use token requests: TOKEN_FORMAT=token_request.";

#[tokio::test]
async fn a_policy_that_makes_a_jwt_too_large_is_an_error_of_the_service_and_the_log_says_what_to_do() {
    let vendors = Vendors::start().await;
    let capability = rooms(300).replace(':', "=").replace("room=", "room:");
    let policy = format!("[[grants]]\nname = \"many\"\ncapability = {capability}\n");
    let service = vendors.service_with_file(&policy, &[JWT]);
    service.wait_until_ready().await;
    let token = vendors.token("alice");
    // What the client asks for makes it no better here, so it is not at fault.
    for params in [&[][..], &[("capability", &*rooms(290))]] {
        let response = asking_for(&service, &token, params).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, (500, 50000));
        assert_eq!(service.logged_of(&id).await["reason"], "jwt-too-large");
    }
    service.logged(TOO_LARGE).await;
    // Whoever asks for less gets it.
    assert_eq!(asking_for(&service, &token, &[("capability", &rooms(5))]).await.status(), 200);
}

#[tokio::test]
async fn a_capability_that_its_client_makes_too_large_for_a_jwt_is_the_clients_mistake() {
    let vendors = Vendors::start().await;
    let rule = "[[grants]]\nname = \"rooms\"\ncapability = { \"room:*\" = [\"publish\"] }\n";
    let long_name = json!({ format!("room:{}", "x".repeat(9000)): ["publish"] }).to_string();
    let session = vendors.token("alice");
    for policy in ["", rule] {
        let service = vendors.service_with_file(policy, &[JWT]);
        service.wait_until_ready().await;
        for capability in [&rooms(300), &long_name] {
            let response = asking_for(&service, &session, &[("capability", capability)]).await;
            let id = request_id(&response);
            assert_eq!(refusal(response).await, (400, 40000), "{policy}");
            assert_eq!(service.logged_of(&id).await["reason"], "policy-asked-too-much");
        }
        assert_eq!(asking_for(&service, &session, &[("capability", &rooms(50))]).await.status(), 200);
        assert!(!service.log().iter().any(|line| line["level"] == "ERROR"), "{:?}", service.log());
    }
}

#[tokio::test]
async fn nothing_that_a_client_asks_for_is_an_error_of_the_service_in_any_format() {
    let vendors = Vendors::start().await;
    let session = vendors.token("alice");
    let (long, most) = ("x".repeat(12_000), "9".repeat(12_000));
    let between = json!({ "*:a": ["*"], "[*]b:*": ["*"], "room:\u{1F600}": ["publish"] }).to_string();
    for format in ["token_request", "jwt", "token_details"] {
        let settings = [("TOKEN_FORMAT", format), ("LIMITS_TOKENS_PER_MINUTE", "0")];
        let service = vendors.service_with(&settings).await;
        for (name, value) in [
            ("capability", rooms(350).as_str()),
            ("capability", &json!({ long.as_str(): ["*"] }).to_string()),
            ("capability", &between),
            ("capability", &long),
            ("clientId", &long),
            ("ttl", &most),
            ("ttl", "1"),
            ("nonce", &long),
            ("unknown", &long),
        ] {
            let response = asking_for(&service, &session, &[(name, value)]).await;
            assert!(response.status().as_u16() < 500, "{format} {name}: {}", rendered(response).await);
        }
        assert!(!service.log().iter().any(|line| line["level"] == "ERROR"), "{:?}", service.log());
    }
}

#[tokio::test]
async fn token_details_are_what_ably_gave() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[TOKEN_DETAILS]).await;
    let text = rendered(service.token_with(&vendors.token("alice"), "ttl=60000").await).await;
    let (head, body) = split(&text);
    insta::assert_snapshot!(head, @r#"
    HTTP/1.1 200 OK
    cache-control: no-store
    content-type: application/json
    cross-origin-resource-policy: same-origin
    ratelimit-policy: "tokens";q=20;w=20
    ratelimit: "tokens";r=19;t=19
    vary: Origin
    x-content-type-options: nosniff
    "#);
    let details: Value = serde_json::from_str(body).unwrap();
    let names: Vec<_> = details.as_object().unwrap().keys().collect();
    assert_eq!(names, ["capability", "clientId", "expires", "issued", "keyName", "token"]);
    let [issued] = &vendors.ably.issued_tokens()[..] else { panic!("one token") };
    assert_eq!(details["clientId"], "alice");
    assert_eq!((&details["issued"], &details["expires"]), (&json!(issued.issued), &json!(issued.expires)));
    assert_eq!(issued.expires - issued.issued, 60_000);
    assert_eq!(publisher(&vendors.ably, details["token"].as_str().unwrap()).await, "alice");
    assert_eq!(vendors.ably.calls().request_token, 1);
}

#[tokio::test]
async fn the_format_is_the_services_and_no_caller_chooses_it() {
    let vendors = Vendors::start().await;
    let kind = |response: &Response| response.headers()["content-type"].to_str().unwrap().to_owned();
    for (format, expected) in [("token_request", "application/json"), ("jwt", "application/jwt")] {
        let service = vendors.service_with(&[("TOKEN_FORMAT", format)]).await;
        for query in ["", "format=jwt", "format=token_details", "TOKEN_FORMAT=token_request"] {
            let request = service.get(&format!("/api/ably?{query}")).bearer_auth(vendors.token("alice"));
            let response = request.header("Accept", "application/jwt, text/plain").send().await.unwrap();
            assert_eq!(kind(&response), expected, "{format} {query}");
        }
    }
    assert_eq!(vendors.ably.calls().request_token, 0);
}

#[tokio::test]
async fn ablys_verdict_passes_on_and_its_outages_are_503() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[TOKEN_DETAILS]).await;
    let after = |seconds: &str| Some(seconds.to_owned());
    for (outage, answer, calls, retry_after) in [
        (Outage::Drop, (503, 50003), 2, after("5")),
        (Outage::Hang, (503, 50003), 2, after("5")),
        (Outage::Status(500), (500, 50000), 2, after("5")),
        (Outage::Status(503), (503, 50300), 2, after("5")),
        (Outage::Status(400), (400, 40000), 1, None),
        (Outage::Status(403), (403, 40300), 1, None),
        (Outage::Status(401), (503, 50003), 1, after("5")),
        (Outage::Status(429), (429, 42900), 1, after("5")),
        (Outage::RateLimited { retry_after_s: 42 }, (429, 42910), 1, after("42")),
        (Outage::Status(302), (503, 50003), 1, after("5")),
    ] {
        assert_eq!(refused(&vendors, &service, outage).await, (answer, calls, retry_after), "{outage:?}");
    }
    json(service.token(&vendors.token("alice")).await, 200).await;
}

#[tokio::test]
async fn an_answer_that_is_lost_costs_a_nonce_and_not_the_token() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[TOKEN_DETAILS]).await;
    vendors.ably.set_outage(Some(Outage::LoseOneAnswer));
    let details = json(service.token(&vendors.token("alice")).await, 200).await;
    assert_eq!(details["clientId"], "alice");
    assert_eq!(vendors.ably.calls().request_token, 2);
    assert_eq!(vendors.ably.issued_tokens().len(), 2);
}

#[tokio::test]
async fn an_api_key_that_ably_does_not_take_is_no_verdict_on_the_user() {
    let vendors = Vendors::start().await;
    let wrong = format!("{}:wrong", vendors.ably.key_name());
    let service = vendors.service_with(&[TOKEN_DETAILS, ("ABLY_API_KEY", &wrong)]).await;
    let response = service.token(&vendors.token("alice")).await;
    let id = request_id(&response);
    assert_eq!(refusal(response).await, (503, 50003));
    assert_eq!(service.logged_of(&id).await["reason"], "ably-refused");
    assert_eq!(
        service.logged("Ably did not make a token").await["error"],
        "Ably answered with status 401 and code 40101"
    );
}

#[tokio::test]
async fn no_token_of_any_format_reaches_the_log() {
    let vendors = Vendors::start().await;
    for format in [JWT, TOKEN_DETAILS] {
        let service = vendors.service_with(&[format, ("LOG_LEVEL", "trace")]).await;
        let response = service.token(&vendors.token("alice")).await;
        let id = request_id(&response);
        let body = response.text().await.unwrap();
        assert_eq!(service.logged_of(&id).await["message"], "token issued");
        vendors.ably.set_outage(Some(Outage::Status(401)));
        service.token(&vendors.token("alice")).await;
        vendors.ably.set_outage(None);

        let token = serde_json::from_str::<Value>(&body).map_or(body, |it| it["token"].as_str().unwrap().to_owned());
        let api_secret = vendors.ably.api_key().split_once(':').unwrap().1;
        let log = service.log().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        for secret in [token.as_str(), token.rsplit('.').next().unwrap(), api_secret] {
            assert!(!log.contains(secret), "{secret} is in {log}");
        }
    }
}

#[tokio::test]
async fn the_start_and_check_say_what_tokens_are_given_as_and_what_that_costs() {
    let vendors = Vendors::start().await;
    for (format, line, costs) in [
        ("token_request", "token request, Ably's 60 minutes", false),
        ("jwt", "JWT, 60 minutes", false),
        ("token_details", "token details, Ably's 60 minutes", true),
    ] {
        let mut settings = vendors.settings();
        settings.push(("TOKEN_FORMAT".into(), format.into()));
        let output = run(&settings, &["check"]);
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.contains(line), "{report}");
        assert_eq!(report.contains("warn  token_details: each token costs a call to Ably"), costs, "{report}");
    }
    let service = vendors.service_with(&[TOKEN_DETAILS]).await;
    assert!(
        service.log().iter().any(|line| line["level"] == "WARN" && line.to_string().contains("costs a call to Ably"))
    );
}
