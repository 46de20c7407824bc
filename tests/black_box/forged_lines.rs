//! Foreign text in the pretty log: from Redis, which others may write to, and from operator requests.

use std::time::Duration;

use ably_clerk_auth::ably::TokenFormat;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    redis_server::RedisServer,
    service::{Service, Vendors, json as body},
    webhooks::vendors,
};

/// Ends its line, starts one that looks like the service's own, and has terminal commands in both encodings.
const FORGED: &str =
    "alice\r\n2020-01-01T00:00:00.000000Z  INFO token issued client_id=\"eve\"\u{1b}[2J\u{9b}31m\u{7f}";
/// Valid in a client ID: line separators of Unicode, and characters that reverse text.
const ODD: &str = "ali\u{2028}2020-01-01T00:00:00.000000Z  INFO token issued\u{202e}\u{2066}ce\" client_id=\"eve";

async fn service(vendors: &Vendors, redis: &RedisServer, format: &str) -> Service {
    let settings = [
        ("LOG_FORMAT", "pretty"),
        ("LOG_LEVEL", "trace"),
        ("ABLY_REVOCABLE_TOKENS", "true"),
        ("TOKEN_FORMAT", format),
        ("REDIS_URL", &redis.url()),
    ];
    vendors.service_with_admin("", &settings).await
}

/// Writes to Redis as another replica does.
struct Redis<'a> {
    connection: redis::Connection,
    key_name: &'a str,
}

impl Redis<'_> {
    fn run(&mut self, words: &[&str]) {
        redis::cmd(words[0]).arg(&words[1..]).exec(&mut self.connection).unwrap();
    }

    fn put_live_token(&mut self, key_name: &str, user: &str, session: &str, client_id: &str, format: &str) {
        let format = if format == "jwt" { TokenFormat::Jwt } else { TokenFormat::TokenRequest };
        let field = postcard::to_allocvec(&(session, client_id, format, [0_u8; 4])).unwrap();
        let signed = postcard::to_allocvec(&(key_name, None::<&str>)).unwrap();
        let value = [b"9999999999999", &signed[..]].concat();
        let hash = format!("aca:{{v4}}:tokens:default:{user}");
        redis::cmd("HSET").arg(hash).arg(field).arg(value).exec(&mut self.connection).unwrap();
    }

    /// Without targets, a look-up finds them.
    fn put_work(&mut self, id: &str, scope: &Value, targets: &[Value]) {
        let signed: Vec<_> = targets.iter().map(|target| json!({ "key": self.key_name, "target": target })).collect();
        let unrevoked = if signed.is_empty() { Value::Null } else { signed.into() };
        let task = json!({
            "tenant": "default", "scope": scope, "unrevoked": unrevoked, "at": 1, "due": 1,
            "until": 9_999_999_999_999_i64, "denials": [],
        });
        self.run(&["HSET", "aca:{v4}:tasks", id, &task.to_string()]);
        self.run(&["ZADD", "aca:{v4}:due", "1", id]);
        self.run(&["ZADD", "aca:{v4}:claimable", "1", id]);
    }

    fn append(&mut self, kind: &str, value: &str) {
        self.run(&["XADD", "aca:{v4}:log", "*", kind, value]);
    }

    /// Waits until no work is due.
    async fn settles(&mut self) {
        for _ in 0..3000 {
            let due: u64 =
                redis::cmd("ZCOUNT").arg(&["aca:{v4}:claimable", "0", "1"]).query(&mut self.connection).unwrap();
            if due == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("work is still due");
    }
}

/// The report on an operator request. It is sent again if Redis did not answer in time, as on a busy machine.
async fn carried_out(service: &Service, request: &Value) -> Value {
    loop {
        let answer = service.admin(Method::POST, "/revocations").json(request).send().await.unwrap();
        if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
            return body(answer, 200).await;
        }
    }
}

/// The lines of the log. Asserts that each starts as the service's own, and that a terminal obeys nothing in it.
fn lines(service: &Service) -> Vec<String> {
    let lines: Vec<String> = service.log().iter().map(|line| line.as_str().unwrap().to_owned()).collect();
    for line in &lines {
        let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("not a line of the service's: {line:?}"));
        assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && !time.starts_with("2020"), "{line:?}");
        let level = rest.trim_start().split(' ').next().unwrap();
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line:?}");
        let obeyed = |c: char| c.is_control() || "\u{2028}\u{2029}\u{202e}\u{2066}".contains(c);
        assert!(!line.contains(obeyed), "{line:?}");
        assert!(!line.contains("client_id=\"eve\""), "{line:?}");
    }
    lines
}

fn assert_targets_are_valid(vendors: &Vendors) {
    for call in vendors.ably.revocation_calls() {
        assert!(!call.targets.iter().any(|target| target.contains(char::is_control)), "{call:?}");
    }
}

#[tokio::test]
async fn text_in_redis_forges_no_line_and_reaches_ably_only_if_valid() {
    for format in ["token_request", "jwt"] {
        let vendors = vendors().await;
        let redis = RedisServer::start();
        let service = service(&vendors, &redis, format).await;
        let mut written = Redis { connection: redis.connection(), key_name: vendors.ably.key_name() };
        for (user, session, client_id) in [
            ("user_1", "sess_1", FORGED),
            ("user_1", FORGED, "alice"),
            (FORGED, "sess_3", "alice"),
            ("user_1", "sess_4", ODD),
            ("user_1", "sess_5", "bob"),
        ] {
            written.put_live_token(vendors.ably.key_name(), user, session, client_id, format);
        }
        written.put_live_token(FORGED, "user_1", "sess_6", "alice", format);
        for (id, scope, targets) in [
            ("1", json!({ "of": { "user": "user_2" } }), vec![json!({ "client_id": FORGED })]),
            ("2", json!({ "of": { "user": "user_2" } }), vec![json!({ "revocation_key": FORGED })]),
            ("3", json!({ "client_id": FORGED }), vec![]),
            ("4", json!({ "of": { "session": FORGED } }), vec![]),
            ("5", json!({ "of": { "user": FORGED } }), vec![]),
            ("6", json!({ "of": { "user": "user_1" } }), vec![]),
            ("7", json!({ "of": { "organization": FORGED } }), vec![json!({ "client_id": "carol" })]),
            (FORGED, json!({ "of": { "user": "user_2" } }), vec![json!({ "client_id": ODD })]),
        ] {
            written.put_work(id, &scope, &targets);
        }
        let restriction = json!({
            "tenant": "default", "subject": { "session": FORGED }, "kind": { "denied": "clerk" },
            "at": 9_999_999_999_998_i64, "until": 9_999_999_999_999_i64,
        });
        for message in [&format!("{:032}{restriction}", 0), FORGED] {
            written.append("restriction", message);
            written.run(&["HSET", "aca:{v4}:restrictions", message, message]);
        }
        written.run(&["HSET", "aca:{v4}:tasks", "unreadable", FORGED]);
        written.run(&["ZADD", "aca:{v4}:claimable", "1", "unreadable"]);
        written.append("done", &json!([FORGED, 1]).to_string());
        for kind in ["done", FORGED] {
            written.append(kind, FORGED);
        }
        written.settles().await;
        let report = carried_out(&service, &json!({ "user": "user_1" })).await;
        for client_id in [ODD, "bob"] {
            let target = format!("clientId:{client_id}");
            assert!(
                report["targets"].as_array().unwrap().iter().any(|revoked| revoked["target"] == target),
                "{report}"
            );
        }
        // All work claimed earlier is done before this.
        written.put_work("last", &json!({ "of": { "user": "user_9" } }), &[json!({ "client_id": "dora" })]);
        let is_revoked = |target: &str| {
            vendors.ably.revocation_calls().iter().any(|call| call.targets.iter().any(|revoked| revoked == target))
        };
        let last_is_revoked = async {
            while !is_revoked("clientId:dora") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), last_is_revoked).await.unwrap();
        // One that starts now is ready too.
        let _: Service = self::service(&vendors, &redis, format).await;
        assert_targets_are_valid(&vendors);
        let revoked: Vec<_> = vendors.ably.revocation_calls().into_iter().flat_map(|call| call.targets).collect();
        assert!(revoked.contains(&"clientId:carol".to_owned()), "{revoked:?}");
        let lines = lines(&service);
        assert!(lines.iter().any(|line| line.contains("target=\"clientId:bob\"")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains(r#"target="clientId:ali\u{2028}2020"#)), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("that this service did not write")), "{lines:#?}");
    }
}

#[tokio::test]
async fn an_operator_request_forges_no_line_and_reaches_ably_only_if_valid() {
    let vendors = vendors().await;
    let redis = RedisServer::start();
    let service = service(&vendors, &redis, "token_request").await;
    let post = |request: Value| service.admin(Method::POST, "/revocations").json(&request);
    for lift in [false, true] {
        for request in [
            json!({ "client_id": FORGED, "lift": lift }),
            json!({ "client_id": "alice\u{85}", "lift": lift }),
            json!({ "client_id": "*", "lift": lift }),
            json!({ "user": format!("user_1{FORGED}"), "lift": lift }),
            json!({ "session": format!("sess_1{FORGED}"), "lift": lift }),
            json!({ "user": "user_1", "tenant": FORGED, "lift": lift }),
            json!({ "user": "user_1", "for": FORGED, "lift": lift }),
            json!({ "user": "user_1", FORGED: 1, "lift": lift }),
        ] {
            let answer = body(post(request).send().await.unwrap(), 400).await;
            assert_eq!(answer["error"]["code"], 40000, "{answer}");
        }
    }
    let report = carried_out(&service, &json!({ "client_id": ODD })).await;
    assert_eq!(report["targets"][0]["outcome"], "accepted", "{report}");
    for header in ["X-Request-Id", "Content-Type", "Authorization", "Origin"] {
        post(json!({ "user": "user_1" })).header(header, ODD.as_bytes()).send().await.unwrap();
    }
    assert_targets_are_valid(&vendors);
    let lines = lines(&service);
    assert!(lines.iter().any(|line| line.contains(r#"target="ali\u{2028}2020"#)), "{lines:#?}");
}
