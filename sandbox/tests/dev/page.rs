//! The page's own routes: the policy editor.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::{StubService, dev, run, start, text};

/// Sends a request to the page's server as the page does, with additional or other headers.
async fn ask_page(ready: &Value, method: Method, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
    let page = text(ready, "page");
    let mut request = reqwest::Client::builder().no_proxy().build().unwrap().request(method, format!("{page}{path}"));
    let mut own = HeaderMap::new();
    for (name, value) in [("origin", page), ("content-type", "application/json")].iter().chain(headers) {
        own.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    request = request.headers(own).body(body.to_string());
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test]
async fn the_service_explains_a_policy_and_reads_the_token_from_its_input() {
    let stub = StubService::new("explains");
    let (_sandbox, ready) = start(&mut dev(&stub));
    let ask = async |body| ask_page(&ready, Method::POST, "/explain", &[], body).await;

    let params = json!({"capability": "{}", "ttl": "1000", "clientId": "alice"});
    let (status, answer) = ask(json!({"policy": "some", "session_token": "e.y.J", "params": params})).await;
    assert_eq!((status, &answer["problems"]), (200, &json!([])), "{answer}");
    let explained = &answer["explanation"];
    assert_eq!(explained["input"], "e.y.J");
    assert_eq!(explained["policy"], "some");
    assert_eq!(explained["api_key"], ready["api_key"], "it runs with the settings of the service");
    let arguments = "explain --session-token - --json --param capability={} --param ttl=1000 --param clientId=alice";
    assert_eq!(explained["arguments"], arguments);

    let problem = json!({"at": {"line": 7, "column": 3}, "message": "no such key"});
    let (status, answer) = ask(json!({"policy": "broken", "session_token": "e.y.J"})).await;
    assert_eq!((status, answer), (200, json!({"explanation": null, "problems": [problem]})));
    let (status, answer) = ask(json!({"policy": "some"})).await;
    assert_eq!(
        (status, answer),
        (200, json!({"explanation": null, "problems": []})),
        "without a session there is only a check"
    );
    let (status, _) = ask(json!({"policy": "mute"})).await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn an_explanation_that_times_out_has_its_process_killed() {
    let stub = StubService::new("hangs");
    let (_sandbox, ready) = start(&mut dev(&stub));
    let (status, answer) = ask_page(&ready, Method::POST, "/explain", &[], json!({"policy": "hang"})).await;
    assert_eq!(status, 504, "{answer}");
    let id = fs::read_to_string(format!("{}.hanging", stub.ended_in_order().display())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Command::new("sh")
        .args(["-c", &format!("kill -0 {}", id.trim())])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
    {
        assert!(Instant::now() < deadline, "the process is still running");
        sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn only_the_page_itself_may_explain_or_apply_a_policy() {
    let stub = StubService::new("foreign");
    let (_sandbox, ready) = start(&mut dev(&stub));
    let page = text(&ready, "page");
    let port = page.rsplit_once(':').unwrap().1;
    let same_machine = format!("http://127.0.0.1:{port}");
    let rebound = format!("evil.example:{port}");
    let rebound_origin = format!("http://{rebound}");
    for (headers, expected) in [
        (vec![("origin", "http://evil.example")], 403),
        (vec![("origin", "null")], 403),
        // Another name of this machine is another origin.
        (vec![("origin", same_machine.as_str())], 403),
        (vec![("origin", text(&ready, "clerk"))], 403),
        (vec![("host", rebound.as_str()), ("origin", rebound_origin.as_str())], 403),
        (vec![("host", rebound.as_str())], 403),
        (vec![("host", "localhost")], 403),
        (vec![("content-type", "text/plain")], 415),
        (vec![("content-type", "application/x-www-form-urlencoded")], 415),
        (vec![], 200),
    ] {
        let body = json!({"policy": "some"});
        let (status, answer) = ask_page(&ready, Method::POST, "/explain", &headers, body.clone()).await;
        assert_eq!(status, expected, "{headers:?}: {answer}");
        if expected != 200 {
            let (status, answer) = ask_page(&ready, Method::PUT, "/policy", &headers, body).await;
            assert_eq!(status, expected, "{headers:?}: {answer}");
        }
    }
    let read = async |host| ask_page(&ready, Method::GET, "/policy", &[("host", host)], Value::Null).await;
    let (status, answer) = read(&rebound).await;
    assert_eq!(status, 403, "{answer}");
    let (status, answer) = read(page.strip_prefix("http://").unwrap()).await;
    assert_eq!((status, answer["policy"].as_str().unwrap().contains("[[grants]]")), (200, true));
}

#[tokio::test]
async fn too_large_and_malformed_requests_are_refused() {
    let stub = StubService::new("too-large");
    let (_sandbox, ready) = start(&mut dev(&stub));
    for (policy_length, token_length, expected) in
        [(64 * 1024, 0, 200), (64 * 1024 + 1, 0, 413), (1, 300 * 1024, 413), (1, 8 * 1024, 200)]
    {
        let body = json!({"policy": "#".repeat(policy_length), "session_token": "t".repeat(token_length)});
        let (status, _) = ask_page(&ready, Method::POST, "/explain", &[], body).await;
        assert_eq!(status, expected, "{policy_length}, {token_length}");
    }
    for body in [json!({}), json!({"policy": 1}), json!({"policy": "", "config": "/etc/passwd"})] {
        for (method, path) in [(Method::POST, "/explain"), (Method::PUT, "/policy")] {
            let (status, answer) = ask_page(&ready, method, path, &[], body.clone()).await;
            assert_eq!(status, 400, "{body}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_page_changes_only_a_copy_of_the_given_policy() {
    let stub = StubService::new("own-policy");
    let own = stub.directory.join("own.toml");
    fs::write(&own, "# mine").unwrap();
    let (_sandbox, ready) = start(dev(&stub).arg("--policy").arg(&own));
    let put = async |policy| ask_page(&ready, Method::PUT, "/policy", &[], json!({ "policy": policy })).await;
    let policy = async || ask_page(&ready, Method::GET, "/policy", &[], Value::Null).await.1["policy"].clone();
    assert_eq!(policy().await, "# mine");

    let problem = json!({"at": {"line": 7, "column": 3}, "message": "no such key"});
    assert_eq!(put("broken").await, (200, json!({"state": "invalid", "problems": [problem]})));
    assert_eq!(policy().await, "# mine", "an invalid policy is not put in force");
    // This service does not log.
    assert_eq!(put("another").await, (200, json!({"state": "unknown"})));
    assert_eq!(policy().await, "another");
    assert_eq!(fs::read_to_string(&own).unwrap(), "# mine");

    let (status, errors) = run(dev(&stub).arg("--policy=/nowhere/policy.toml"));
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("cannot read the policy /nowhere/policy.toml"), "{errors}");
}
