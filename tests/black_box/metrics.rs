//! The admin listener, and what its metrics say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use reqwest::{Method, StatusCode};
use sandbox::{
    ably::{Outage, RevocableTokens},
    clerk::{self, Answer, Attempt, Endpoint},
};
use serde_json::json;

use crate::{
    redis_server::RedisServer,
    service::{Service, Vendors, json, refusal, rendered, run},
    webhooks,
};

const RULE: &str = "[[grants]]\nname = \"one\"\ncapability = { \"one\" = [\"subscribe\"] }\n";

/// The samples of a scrape, by name and labels as they are written. Tests in Python read one with Prometheus' own parser.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    async fn of(service: &Service) -> Self {
        let exposition = service.scrape().await;
        let samples = exposition.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        let samples: Vec<_> = samples.collect();
        let by_series: BTreeMap<_, _> = samples.iter().cloned().collect();
        assert_eq!(by_series.len(), samples.len(), "a series is there twice: {exposition}");
        Self(by_series)
    }

    /// The whole number that a series of ours has, if it is there.
    #[expect(clippy::cast_possible_truncation, reason = "a test's numbers are small")]
    fn get(&self, series: &str) -> Option<i64> {
        self.0.get(&format!("ably_clerk_auth_{series}")).map(|value| {
            assert_eq!(value.fract().to_bits(), 0);
            *value as i64
        })
    }

    /// The numbers that these series have, which are all there.
    fn all<const N: usize>(&self, series: [&str; N]) -> [i64; N] {
        series.map(|series| self.get(series).unwrap_or_else(|| panic!("{series} is not in {:?}", self.0)))
    }
}

#[tokio::test]
async fn on_loopback_the_admin_listener_shows_nothing_to_a_page_whose_name_leads_there() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[]).await;
    let address = service.admin_address().to_string();
    for path in ["/metrics", "/healthz", "/readyz"] {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            for host in ["rebound.example:9464", "localhost.rebound.example", "127.0.0.1.rebound.example", "x"] {
                let response = service.admin(method.clone(), path).header("Host", host).send().await.unwrap();
                assert_eq!(response.status(), StatusCode::FORBIDDEN, "{method} {path} {host}");
            }
        }
        for host in [address.as_str(), "127.0.0.1", "[::1]:9464", "localhost:9464", "LOCALHOST", "192.0.2.7"] {
            let response = service.admin(Method::GET, path).header("Host", host).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path} {host}");
        }
    }
    let request = service.admin(Method::GET, "/metrics").header("Host", "rebound.example");
    let response = request.header("X-Request-Id", "rebound-1").send().await.unwrap();
    assert_eq!(refusal(response).await, (403, 40300));
    assert_eq!(service.logged_of("rebound-1").await["reason"], "host-unknown");
}

/// Prometheus asks by the name of a service.
#[tokio::test]
async fn beyond_loopback_the_metrics_are_there_under_any_name() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("ADMIN_HOST", "0.0.0.0")]).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let url = format!("http://127.0.0.1:{}{path}", service.admin_address().port());
        let request = reqwest::Client::builder().no_proxy().build().unwrap().get(url);
        let response = request.header("Host", "ably-clerk-auth.monitoring.svc:9464").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

fn refusals(reason: &str, status: u16) -> String {
    format!(r#"token_refusals_total{{tenant="default",reason="{reason}",status="{status}"}}"#)
}

fn seconds_since_the_epoch() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
async fn metrics_and_health_are_on_the_admin_listener_and_metrics_on_no_other() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[]).await;
    for method in [Method::GET, Method::HEAD] {
        // A page of the app may read what the public listener says, but nothing here.
        let request = service.admin(method.clone(), "/metrics").header("Origin", crate::service::ORIGIN);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{method}");
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        assert_eq!(response.text().await.unwrap().is_empty(), method == Method::HEAD);
    }
    let live = service.admin(Method::GET, "/healthz").send().await.unwrap();
    assert_eq!(json(live, 200).await["status"], "ok");
    let ready = service.admin(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(json(ready, 200).await["status"], "ready");
    assert_eq!(refusal(service.get("/metrics").send().await.unwrap()).await, (404, 40400));

    let no_route = service.admin(Method::GET, "/api/ably").send().await.unwrap();
    insta::assert_snapshot!(rendered(no_route).await, @r#"
    HTTP/1.1 404 Not Found
    cache-control: no-store
    content-type: application/json
    x-ably-errorcode: 40400
    x-ably-errormessage: The route is unknown. The admin listener has /metrics, /healthz, /readyz and /revocations. (no-such-route)
    x-content-type-options: nosniff

    {"error":{"code":40400,"statusCode":404,"message":"The route is unknown. The admin listener has /metrics, /healthz, /readyz and /revocations. (no-such-route)","href":"https://help.ably.io/error/40400"}}
    "#);
    let no_method = service.admin(Method::POST, "/metrics").send().await.unwrap();
    assert_eq!(no_method.headers()["allow"], "GET, HEAD");
    assert_eq!(refusal(no_method).await, (405, 40500));
}

#[tokio::test]
async fn tokens_and_refusals_are_counted_and_timed() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[]).await;
    let issued = r#"tokens_issued_total{tenant="default",format="token_request"}"#;
    let took = |outcome: &str| format!(r#"token_duration_seconds_count{{tenant="default",outcome="{outcome}"}}"#);
    let (took_issued, took_refused) = (took("issued"), took("refused"));
    let series = [issued, &took_issued, &took_refused];
    assert_eq!(Samples::of(&service).await.all(series), [0, 0, 0]);

    json(service.token(&vendors.token("alice")).await, 200).await;
    json(service.token(&vendors.token("bob")).await, 200).await;
    refusal(service.get("/api/ably").send().await.unwrap()).await;
    let samples = Samples::of(&service).await;
    assert_eq!(samples.all(series), [2, 2, 1]);
    assert_eq!(samples.get(&refusals("session-token-missing", 401)), Some(1));
    let within = r#"token_duration_seconds_bucket{tenant="default",outcome="issued",le="+Inf"}"#;
    assert_eq!(samples.get(within), Some(2));

    refusal(service.token_with(&vendors.token("alice"), "clientId=bob").await).await;
    refusal(service.token_with(&vendors.token("alice"), "clientId=bob").await).await;
    let samples = Samples::of(&service).await;
    assert_eq!(samples.all(series), [2, 2, 3]);
    assert_eq!(samples.get(&refusals("client-id-of-another", 403)), Some(2));
    assert_eq!(samples.get(&refusals("session-token-missing", 401)), Some(1));
}

#[tokio::test]
async fn what_is_refused_before_it_is_known_whose_it_is_is_counted_apart() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[]).await;
    service.get("/nowhere").send().await.unwrap();
    service.request(Method::DELETE, "/api/ably").send().await.unwrap();
    service.get(&format!("/?{}", "x".repeat(17_000))).send().await.unwrap();
    service.request(Method::POST, "/api/ably").json(&json!({})).send().await.unwrap();
    service.raw(b"not http\r\n\r\n");
    // The admin listener's own are not among them.
    service.admin(Method::GET, "/nowhere").send().await.unwrap();
    let series = [
        r#"request_refusals_total{reason="no-such-route",status="404"}"#,
        r#"request_refusals_total{reason="no-such-route",status="405"}"#,
        r#"request_refusals_total{reason="head-too-large",status="431"}"#,
        r#"request_refusals_total{reason="body-refused",status="415"}"#,
        r#"request_refusals_total{reason="not-a-request",status="400"}"#,
    ];
    assert_eq!(Samples::of(&service).await.all(series), [1; 5]);
}

#[tokio::test]
async fn a_request_is_in_flight_until_it_is_answered_or_its_client_is_gone() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[]).await;
    let in_flight = async |wanted: i64| {
        for _ in 0..3000 {
            if Samples::of(&service).await.get("requests_in_flight") == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("there are never {wanted} requests in flight");
    };
    in_flight(0).await;
    vendors.clerk.set_delay(Duration::from_secs(1));
    let answered = tokio::spawn(service.get("/api/ably").bearer_auth(vendors.token("alice")).send());
    in_flight(1).await;
    json(answered.await.unwrap().unwrap(), 200).await;
    in_flight(0).await;

    let given_up = tokio::spawn(service.get("/api/ably").bearer_auth(vendors.token("bob")).send());
    in_flight(1).await;
    given_up.abort();
    in_flight(0).await;
}

#[tokio::test]
async fn how_users_are_found_is_counted() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[]).await;
    let series = ["remembered", "asked", "failed"]
        .map(|outcome| format!(r#"user_lookups_total{{tenant="default",outcome="{outcome}"}}"#));
    let counts = async || Samples::of(&service).await.all(series.each_ref().map(String::as_str));
    assert_eq!(counts().await, [0, 0, 0]);
    json(service.token(&vendors.token("alice")).await, 200).await;
    assert_eq!(counts().await, [0, 1, 0]);
    json(service.token(&vendors.token("alice")).await, 200).await;
    assert_eq!(counts().await, [1, 1, 0]);
    vendors.clerk.set_outage(Some(clerk::Outage::Status(500)));
    refusal(service.token(&vendors.token("bob")).await).await;
    assert_eq!(counts().await, [1, 1, 1]);
    json(service.token(&vendors.token_with(&json!({ "username": "alice" }))).await, 200).await;
    assert_eq!(counts().await, [1, 1, 1], "nobody has to be found whom the session token names");
}

#[tokio::test]
async fn refreshes_of_the_signing_keys_are_counted_and_the_last_good_one_has_its_time() {
    let vendors = Vendors::start().await;
    let begun_at = seconds_since_the_epoch();
    let service = vendors.service_with_admin("", &[]).await;
    let series = [
        r#"signing_key_refreshes_total{tenant="default",outcome="confirmed"}"#,
        r#"signing_key_refreshes_total{tenant="default",outcome="failed"}"#,
        r#"signing_keys_confirmed_timestamp_seconds{tenant="default"}"#,
    ];
    let [confirmed, failed, confirmed_at] = Samples::of(&service).await.all(series);
    assert_eq!((confirmed, failed), (1, 0));
    assert!((begun_at..=seconds_since_the_epoch()).contains(&confirmed_at));

    vendors.clerk.set_outage(Some(clerk::Outage::Status(500)));
    let header = json!({ "alg": "RS256", "kid": "ins_unknown", "typ": "JWT" });
    let unknown = vendors.clerk.mint_with_header(header, vendors.clerk.session_claims(&vendors.user("alice")));
    refusal(service.token(&unknown).await).await;
    let samples = Samples::of(&service).await;
    assert_eq!(samples.all(series), [1, 1, confirmed_at]);
    assert_eq!(samples.get(&refusals("token-unknown-kid", 401)), Some(1));

    let networkless = vendors.service_with_admin("", &[("CLERK_JWT_KEY", vendors.clerk.jwt_key())]).await;
    let samples = Samples::of(&networkless).await;
    assert_eq!(series.map(|series| samples.get(series)), [None; 3]);
}

#[tokio::test]
async fn exchanges_at_ably_are_counted_by_how_they_end() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("TOKEN_FORMAT", "token_details")]).await;
    let series = ["given", "refused", "unavailable"]
        .map(|outcome| format!(r#"ably_exchanges_total{{tenant="default",outcome="{outcome}"}}"#));
    let counts = async || Samples::of(&service).await.all(series.each_ref().map(String::as_str));
    assert_eq!(counts().await, [0, 0, 0]);
    for (outage, after) in [
        (None, [1, 0, 0]),
        (Some(Outage::Status(403)), [1, 1, 0]),
        (Some(Outage::Drop), [1, 1, 1]),
        (Some(Outage::LoseOneAnswer), [2, 1, 1]),
    ] {
        vendors.ably.set_outage(outage);
        service.token(&vendors.token("alice")).await;
        assert_eq!(counts().await, after);
    }
    let samples = Samples::of(&service).await;
    assert_eq!(samples.get(r#"tokens_issued_total{tenant="default",format="token_details"}"#), Some(2));
    assert_eq!(samples.get(&refusals("ably-refused", 403)), Some(1));
    assert_eq!(samples.get(&refusals("ably-unavailable", 503)), Some(1));
}

#[tokio::test]
async fn a_policy_that_is_taken_and_one_that_is_refused_show() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin(RULE, &[]).await;
    let series = [
        r#"policy_reloads_total{outcome="taken"}"#,
        r#"policy_reloads_total{outcome="refused"}"#,
        "policy_last_reload_successful",
        r#"policy_rules{tenant="default"}"#,
    ];
    let taken_at = async || Samples::of(&service).await.all(["policy_last_taken_timestamp_seconds"])[0];
    assert_eq!(Samples::of(&service).await.all(series), [0, 0, 1, 1]);
    let started = taken_at().await;
    assert!((0..=60).contains(&(seconds_since_the_epoch() - started)));

    service.replace_toml("[[grants]]\ncapability = 5");
    service.logged("the new configuration is refused; the old policy stays in force").await;
    assert_eq!(Samples::of(&service).await.all(series), [0, 1, 0, 1]);
    service.replace_toml("");
    service
        .logged("the new configuration takes the policy away; the old one stays in force. Restart if that is meant")
        .await;
    assert_eq!(Samples::of(&service).await.all(series), [0, 2, 0, 1]);
    assert_eq!(taken_at().await, started);

    let before = seconds_since_the_epoch();
    service.replace_toml(&(RULE.to_owned() + &RULE.replace("one", "two")));
    service.logged_where("rules", 2).await;
    assert_eq!(Samples::of(&service).await.all(series), [1, 2, 1, 2]);
    assert!(taken_at().await >= before);
}

#[tokio::test]
async fn a_redis_that_is_lost_shows_and_so_does_that_it_is_back() {
    let vendors = Vendors::start().await;
    let mut redis = RedisServer::start();
    let service = vendors.service_with_admin("", &[("REDIS_URL", &redis.url())]).await;
    // On a busy machine there may be more outages.
    let becomes = async |state: &str, least_outages: i64| {
        let series = ["starting", "ready", "degraded"].map(|state| format!(r#"store_state{{state="{state}"}}"#));
        for _ in 0..3000 {
            let samples = Samples::of(&service).await;
            let states = samples.all(series.each_ref().map(String::as_str));
            assert_eq!(states.iter().sum::<i64>(), 1, "{states:?}");
            let is_so = samples.get(&format!(r#"store_state{{state="{state}"}}"#)) == Some(1);
            let outages = samples.get("store_outages_total").unwrap();
            if is_so && outages >= least_outages {
                return outages;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the store is never {state} after {least_outages} outages");
    };
    let mut outages = becomes("ready", 0).await;
    for _ in 1..=2 {
        redis.kill();
        outages = becomes("degraded", outages + 1).await;
        assert!(redis.start_again());
        outages = becomes("ready", outages).await;
    }
}

/// Has happen what is counted only once it does, and returns a session token and the token that it was worth.
async fn provoke_everything(vendors: &Vendors, service: &Service) -> [String; 2] {
    let token = vendors.token("alice");
    let issued = json(service.token(&token).await, 200).await;
    let by_cookies = format!("__session={token}; __client_uat=1; __clerk_db_jwt=dvb_secret");
    json(service.token_by_cookies(&by_cookies).await, 200).await;
    refusal(service.token_with(&token, "clientId=somebody-else").await).await;
    refusal(service.token(&format!("{token}x")).await).await;
    service.get(&format!("/{token}?{token}")).send().await.unwrap();
    [token, issued["token"].as_str().unwrap().to_owned()]
}

#[tokio::test]
async fn nothing_of_a_request_or_a_secret_is_in_the_metrics() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("TOKEN_FORMAT", "token_details")]).await;
    let [token, ably_token] = provoke_everything(&vendors, &service).await;
    let scrape = service.scrape().await;
    assert!(scrape.contains("token-malformed"), "{scrape}");
    let user = vendors.user("alice");
    let (key_name, api_secret) = vendors.ably.api_key().split_once(':').unwrap();
    let absent = [
        token.as_str(),
        token.rsplit('.').next().unwrap(),
        &ably_token,
        &user,
        "alice",
        "somebody-else",
        "sess_",
        "dvb_secret",
        key_name,
        api_secret,
        vendors.clerk.secret_key(),
    ];
    for absent in absent {
        assert!(!scrape.contains(absent), "{absent} is in {scrape}");
    }
}

#[tokio::test]
async fn the_documentation_has_every_metric_with_its_type_and_its_labels() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("TOKEN_FORMAT", "token_details")]).await;
    provoke_everything(&vendors, &service).await;
    let scrape = service.scrape().await;
    let mut there = BTreeSet::new();
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(scrape.contains(&format!("# HELP {name} ")), "{name} has no help");
        let sample = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        let labels = scrape.lines().find_map(|line| line.strip_prefix(&format!("{sample}{{"))).unwrap_or_default();
        let labels = labels.split('}').next().unwrap().split(',');
        let labels: Vec<_> = labels.filter_map(|label| Some(label.split_once('=')?.0)).collect();
        there.insert(format!("`{name}` {kind} {}", labels.join(", ")).trim_end().to_owned());
    }
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        format!("{} {} {}", cells[1], cells[2], cells[3].replace('`', "")).trim_end().to_owned()
    });
    assert_eq!(rows.collect::<BTreeSet<_>>(), there);
}

#[tokio::test]
async fn port_0_is_no_admin_listener() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("ADMIN_PORT", "0")]).await;
    assert!(service.log().iter().all(|line| line["message"] != "admin listening"));
    let on = vendors.service_with_admin("", &[]).await;
    assert_eq!(on.logged("admin listening").await["address"], on.admin_address().to_string());
}

#[tokio::test]
async fn an_admin_port_that_is_taken_ends_the_start_with_a_cure() {
    let vendors = Vendors::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = vendors.settings();
    settings.push(("ADMIN_PORT".into(), taken.local_addr().unwrap().port().to_string()));
    let output = run(&settings, &["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    for words in ["cannot listen on 127.0.0.1:", "for the admin listener", "ADMIN_PORT=0"] {
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[tokio::test]
async fn a_signal_ends_both_listeners() {
    let vendors = Vendors::start().await;
    let mut service = vendors.service_with_admin("", &[]).await;
    let idle = [service.address(), service.admin_address()].map(|address| TcpStream::connect(address).unwrap());
    service.scrape().await;
    service.signal("TERM");
    let begun_at = Instant::now();
    let status = tokio::task::spawn_blocking(move || service.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(begun_at.elapsed() < Duration::from_secs(15), "an idle connection is waited for until the patience ends");
    drop(idle);
}

#[tokio::test]
async fn what_becomes_of_webhooks_and_of_revocations_is_counted() {
    let vendors = webhooks::vendors().await;
    vendors.clerk.set_retry_schedule(vec![Duration::from_millis(200); 50]);
    let settings = [("CLERK_WEBHOOK_SIGNING_SECRET", webhooks::SECRET), ("ABLY_REVOCABLE_TOKENS", "true")];
    let service = vendors.service_with_admin("", &settings).await;
    let url = format!("http://{}/webhooks/clerk", service.address());
    vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[webhooks::SECRET]).unwrap()]);
    let sign_out = async || {
        let claims = vendors.clerk.session_claims(&vendors.user("alice"));
        assert_eq!(service.token(&vendors.clerk.mint(claims.clone())).await.status(), StatusCode::OK);
        vendors.clerk.webhooks_settled().await;
        vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
    };
    let counted = async || {
        Samples::of(&service).await.all([
            r#"webhooks_total{tenant="default",outcome="applied"}"#,
            r#"revocations_total{tenant="default",outcome="accepted"}"#,
            r#"revocations_total{tenant="default",outcome="refused"}"#,
        ])
    };
    sign_out().await;
    vendors.clerk.webhooks_settled().await;
    assert_eq!(counted().await, [1, 1, 0]);
    vendors.ably.set_revocable_tokens(RevocableTokens::Off);
    sign_out().await;
    vendors.clerk.webhooks_settled().await;
    assert_eq!(counted().await, [2, 1, 1]);
    vendors.ably.set_revocable_tokens(RevocableTokens::On);
    vendors.ably.set_revocation_outage(Some(Outage::Status(503)));
    sign_out().await;
    let is_refused = |attempt: &Attempt| attempt.answer == Answer::Status(503);
    vendors.clerk.attempts_once(|attempts| attempts.iter().any(is_refused)).await;
    vendors.ably.set_revocation_outage(None);
    vendors.clerk.webhooks_settled().await;
    // The retry and the next delivery may both revoke.
    let [applied, accepted, refused] = counted().await;
    assert!((applied, refused) == (3, 1) && (2..=3).contains(&accepted), "{applied} {accepted} {refused}");
    let [postponed, unavailable] = Samples::of(&service).await.all([
        r#"webhooks_total{tenant="default",outcome="postponed"}"#,
        r#"revocations_total{tenant="default",outcome="unavailable"}"#,
    ]);
    assert!(postponed >= 1 && unavailable >= 1, "{postponed} {unavailable}");
}
