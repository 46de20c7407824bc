//! The log's way out: a pipe that nobody reads, a reader that goes away, and the last lines of a process.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::{Client, Method};
use serde_json::Value;

use crate::service::{Service, Vendors, command, json};

const UNLIMITED: [(&str, &str); 1] = [("LIMITS_TOKENS_PER_MINUTE", "0")];

async fn dropped_lines(service: &Service) -> usize {
    let exposition = service.scrape().await;
    let sample = exposition.lines().find_map(|line| line.strip_prefix("ably_clerk_auth_log_lines_dropped_total "));
    sample.unwrap().parse().unwrap()
}

const AT_ONCE: usize = 200;

async fn get_tokens(vendors: &Vendors, service: &Service) {
    let token = vendors.token("alice");
    for answer in join_all((0..AT_ONCE).map(|_| service.token(&token))).await {
        assert_eq!(answer.status(), 200);
    }
}

/// Gets tokens until the log drops lines. Returns how many.
async fn fill_the_log(vendors: &Vendors, service: &Service) -> usize {
    let mut tokens = 0;
    while dropped_lines(service).await < 20 {
        assert!(tokens < 100_000, "the log takes everything");
        get_tokens(vendors, service).await;
        tokens += AT_ONCE;
    }
    tokens
}

/// Has the service log a warning with this request ID.
async fn warn(service: &Service, request_id: &str) {
    let request = service.admin(Method::GET, "/healthz").header("Host", "rebound.example");
    assert_eq!(request.header("X-Request-Id", request_id).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn an_output_that_nobody_reads_delays_no_token_and_costs_no_warning() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &UNLIMITED).await;
    service.pause_log();
    let tokens = fill_the_log(&vendors, &service).await;
    let warnings: Vec<_> = (0..50).map(|number| format!("warning-{number}")).collect();
    for id in &warnings {
        warn(&service, id).await;
    }
    let dropped = dropped_lines(&service).await;
    service.resume_log();

    let notice = service.logged("lines of the log were dropped: the output did not take them").await;
    assert_eq!((&notice["level"], &notice["dropped"]), (&"WARN".into(), &dropped.into()));
    warn(&service, "last-warning").await;
    service.logged_where("request_id", "last-warning").await;
    let log = service.log();
    let logged: Vec<_> = log.iter().filter_map(|line| line["request_id"].as_str()).collect();
    let logged: Vec<_> = logged.into_iter().filter(|id| id.starts_with("warning-")).collect();
    assert_eq!(logged, warnings);
    let issued = log.iter().filter(|line| line["message"] == "token issued").count();
    assert_eq!(issued + dropped, tokens);
    assert_eq!(dropped_lines(&service).await, dropped);
}

#[tokio::test]
async fn the_service_stops_although_nobody_reads_its_output() {
    let vendors = Vendors::start().await;
    let mut service = vendors.service_with(&UNLIMITED).await;
    service.pause_log();
    // More than a pipe holds.
    for _ in 0..3 {
        get_tokens(&vendors, &service).await;
    }
    service.signal("TERM");
    let status = tokio::task::spawn_blocking(move || service.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_service_stops_although_its_workers_wait_to_log_warnings_that_nobody_reads() {
    let vendors = Vendors::start().await;
    let mut service = vendors.service_with_admin("", &UNLIMITED).await;
    service.pause_log();
    fill_the_log(&vendors, &service).await;
    let warn = |_| {
        let request = service.admin(Method::GET, "/healthz").header("Host", "rebound.example");
        request.timeout(Duration::from_secs(2)).send()
    };
    let mut rounds = 0;
    while join_all((0..50).map(warn)).await.iter().all(Result::is_ok) {
        rounds += 1;
        assert!(rounds < 200, "no warning waits");
    }
    service.signal("TERM");
    let status = tokio::task::spawn_blocking(move || service.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_stop_the_service() {
    let vendors = Vendors::start().await;
    let (mut command, _directory) = command(&vendors.settings());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            (line["message"] == "listening").then(|| line["address"].as_str().unwrap().to_owned())
        })
        .unwrap();
    drop(lines);
    let http = Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{address}{path}");
    while !http.get(url("/readyz")).send().await.unwrap().status().is_success() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..10 {
        let response = http.get(url("/api/ably")).bearer_auth(vendors.token("alice")).send().await.unwrap();
        assert_eq!(json(response, 200).await["clientId"], "alice");
    }
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let (status, stderr) = tokio::task::spawn_blocking(move || {
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (child.wait().unwrap(), stderr)
    })
    .await
    .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(stderr.ends_with("lines of the log are lost: standard output did not take them\n"), "{stderr}");
}

#[tokio::test]
async fn the_last_lines_are_written_after_a_signal_and_after_a_second_one() {
    let vendors = Vendors::start().await;
    let mut service = vendors.service().await;
    service.signal("TERM");
    service.logged("stopped").await;
    assert_eq!(service.wait().code(), Some(0));

    let mut service = vendors.service_with(&[("CLERK_USER_CACHE_TTL", "0s")]).await;
    vendors.clerk.set_delay(Duration::from_secs(30));
    let calls = vendors.clerk.calls().users;
    let in_flight = tokio::spawn(service.get("/api/ably").bearer_auth(vendors.token("alice")).send());
    while vendors.clerk.calls().users == calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.signal("TERM");
    service.logged("stopping after the requests in flight").await;
    service.signal("TERM");
    service.logged("stopped at once by a second signal").await;
    assert_eq!(service.wait().code(), Some(1));
    in_flight.await.unwrap().unwrap_err();
}
