//! The commands, as an operator types them.

use std::{fs, net::TcpListener, process::Output, time::Duration};

use sandbox::clerk::Outage;

use crate::{
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
    service::{Vendors, checked, command, run, text},
};

/// A report with what differs from run to run replaced.
fn stable(vendors: &Vendors, report: &str) -> String {
    let mut stable = String::new();
    for line in report.lines() {
        let line = line
            .replace(&vendors.clerk.url(), "<clerk>")
            .replace(&vendors.ably.url(), "<ably>")
            .replace(vendors.ably.key_name(), "<key name>");
        // A Date header is up to a second old.
        let line = line.split_once("ours is ").map_or(line.clone(), |(before, _)| format!("{before}ours is <offset>"));
        stable += &line;
        stable.push('\n');
    }
    stable
}

#[tokio::test]
async fn check_shows_the_settings_and_that_they_work() {
    let vendors = Vendors::start().await;
    let output = run(&vendors.settings_for_check(&[]), &["check"]);
    insta::assert_snapshot!(stable(&vendors, &text(&output)), @r"
          listens on          127.0.0.1:0
          admin listener      off
          Redis               none: this replica keeps denials and live tokens in memory
          Clerk instance      clerk.sandbox.example (development, from CLERK_PUBLISHABLE_KEY)
          secret key          set, from CLERK_SECRET_KEY
          authorized parties  http://localhost:3000
          Ably API key        <key name>, from ABLY_API_KEY
          revocable tokens    off
          webhooks            off: no signing secret
          client ID           {username}
          token               token request, Ably's 60 minutes
          policy              none: the key's own capability
          CORS origins        http://localhost:3000
    ok    signing keys        1 from <clerk>/v1/jwks
    ok    same instance       the signing keys are those of clerk.sandbox.example
    ok    Clerk's clock       ours is <offset>
    ok    secret key          accepted by <clerk>/
    ok    Ably's clock        ours is <offset>
    ok    Ably                answers at <ably>/; the API key is not tried
    warn  no policy: every signed-in user gets the API key's whole capability; write [[grants]], or confirm it with TOKEN_CAPABILITY=key
    The service would work.
    ");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn check_warns_of_what_may_surprise() {
    let vendors = Vendors::start().await;
    for mut user in vendors.clerk.users() {
        user.username = None;
        vendors.clerk.set_user(user);
    }
    let output = run(&vendors.settings_for_check(&[("CLERK_AUTHORIZED_PARTIES", "")]), &["check"]);
    let report = text(&output);
    for warning in [
        "warn  no authorized parties",
        "warn  no CORS origins",
        "warn  no policy",
        "warn  no user of this Clerk instance has a username",
    ] {
        assert!(report.contains(warning), "{report}");
    }
    assert_eq!(output.status.code(), Some(0));

    let networkless =
        vendors.settings_for_check(&[("CLERK_SECRET_KEY", ""), ("CLERK_JWT_KEY", vendors.clerk.jwt_key())]);
    let report = text(&run(&networkless, &["check"]));
    assert!(report.contains("warn  no secret key") && report.contains("ok    Clerk's clock"), "{report}");
}

#[tokio::test]
async fn check_fails_when_a_key_or_a_party_does() {
    let vendors = Vendors::start().await;
    let output = run(&vendors.settings_for_check(&[("CLERK_SECRET_KEY", "sk_test_wrong")]), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output);
    assert!(report.contains("FAIL  secret key") && report.contains("FAIL  signing keys"), "{report}");
    assert!(report.contains("The service would not work"), "{report}");

    vendors.clerk.set_outage(Some(Outage::Drop));
    let output = run(&vendors.settings_for_check(&[]), &["check"]);
    assert!(text(&output).contains("no answer"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn check_fails_when_the_keys_are_of_two_instances() {
    let (vendors, others) = (Vendors::start().await, Vendors::start().await);
    let (api_url, jwt_key) = (others.clerk.url(), others.clerk.jwt_key());
    let secret_key = [("CLERK_SECRET_KEY", others.clerk.secret_key()), ("CLERK_API_URL", &api_url)];
    let pem = [("CLERK_JWT_KEY", jwt_key)];
    for changes in [&secret_key[..], &pem[..]] {
        let output = run(&vendors.settings_for_check(changes), &["check"]);
        assert!(text(&output).contains("use the keys of one Clerk instance"), "{}", text(&output));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[tokio::test]
async fn check_fails_when_the_clock_is_too_far_off_for_ably() {
    let vendors = Vendors::start().await;
    let options = sandbox::ably::Options { clock_offset_ms: 300_000, ..sandbox::ably::Options::default() };
    let ably = sandbox::ably::Ably::start(options).await.unwrap();
    let output = run(&vendors.settings_for_check(&[("ABLY_REST_URL", &ably.url())]), &["check"]);
    assert!(text(&output).contains("s behind, which is too much: set our clock"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn check_uses_redis_as_the_service_would() {
    let vendors = Vendors::start().await;
    let redis = RedisServer::start();
    let address = |user: &str| format!("redis://{user}127.0.0.1:{}", redis.port());
    let mut admin = redis.connection();
    let read = |output: Output| {
        let report = text(&output);
        assert!(!report.contains("PASSWORD"), "{report}");
        (report, output.status.code())
    };
    let check = |url: &str| read(checked(&vendors.settings_for_check(&[("REDIS_URL", url)])));
    let printed = address("");

    let (report, code) = check(&redis.url());
    for line in [
        &*format!("\nok    Redis               answers at {printed}: single server, "),
        " ms a round trip\n",
        "\n      Redis memory        maxmemory-policy noeviction\n",
        "\n      Redis persistence   append-only file\n",
        "\nok    Redis user          may run what the service needs\n",
    ] {
        assert!(report.contains(line), "{line}: {report}");
    }
    assert!(report.ends_with("The service would work.\n") && !report.contains("warn  Redis"), "{report}");
    assert_eq!(code, Some(0));
    let drops_keys = "warn  Redis drops keys when its memory is full";
    let () = ::redis::cmd("CONFIG").arg(&["SET", "maxmemory-policy", "allkeys-lru"]).query(&mut admin).unwrap();
    let (report, code) = check(&redis.url());
    assert!(report.contains(drops_keys) && report.contains("from allkeys-lru"), "{report}");
    assert_eq!(code, Some(0));
    // A user that may not ask for that can use Redis all the same.
    let () = ::redis::cmd("ACL").arg(&["SETUSER", "aca", "-info"]).query(&mut admin).unwrap();
    let (report, code) = check(&redis.url());
    assert!(report.contains("ok    Redis") && !report.contains(drops_keys), "{report}");
    assert_eq!(code, Some(0));

    for (url, reason) in [
        (address(""), "it answered NOAUTH"),
        (address("aca:PASSWORDS@"), "authentication failed"),
        // It speaks no TLS.
        (redis.url().replace("redis:", "rediss:"), "it "),
    ] {
        let check = if url.starts_with("rediss:") { |settings: &[_]| run(settings, &["check"]) } else { checked };
        let (report, code) = read(check(&vendors.settings_for_check(&[("REDIS_URL", &url)])));
        let printed = printed.replace("redis:", url.split_once("//").unwrap().0);
        assert!(report.contains(&format!("FAIL  Redis               {printed}: {reason}")), "{report}");
        assert!(report.ends_with("The service would not work as it is.\n"), "{report}");
        assert_eq!(code, Some(1));
    }
    let () = ::redis::cmd("ACL").arg(&["SETUSER", "aca", "-evalsha", "-xread"]).query(&mut admin).unwrap();
    let (report, code) = check(&redis.url());
    assert!(report.contains("\nFAIL  Redis user          may not run evalsha, xread"), "{report}");
    assert_eq!(code, Some(1));
}

/// `check` beside this runtime, which carries its line to Redis.
async fn check_over_a_line(settings: Vec<(String, String)>) -> Output {
    tokio::task::spawn_blocking(move || run(&settings, &["check"])).await.unwrap()
}

#[tokio::test]
async fn check_warns_of_a_redis_that_is_far_away() {
    let (vendors, redis) = (Vendors::start().await, RedisServer::start());
    let line = Proxy::to(redis.port()).await;
    line.becomes(Condition::Slow(Duration::from_millis(30)));
    let report = text(&check_over_a_line(vendors.settings_for_check(&[("REDIS_URL", &line.url())])).await);
    assert!(report.contains("warn  a command to Redis takes ") && report.contains("100 ms is an outage"), "{report}");
}

#[tokio::test]
async fn check_fails_when_redis_takes_no_writes() {
    let vendors = Vendors::start().await;
    let redis = RedisServer::start_with(&["--min-replicas-to-write", "1"]);
    let output = checked(&vendors.settings_for_check(&[("REDIS_URL", &redis.url())]));
    let report = text(&output);
    let line = format!("FAIL  Redis               redis://127.0.0.1:{}: it answered NOREPLICAS", redis.port());
    assert!(report.contains(&line), "{report}");
    assert_eq!(output.status.code(), Some(1), "{report}");
}

#[tokio::test]
async fn check_fails_in_time_when_redis_is_not_there() {
    let vendors = Vendors::start().await;
    let mut redis = RedisServer::start();
    let silent = Proxy::to(redis.port()).await;
    silent.becomes(Condition::Silent);
    let silent = silent.url();
    let gone = redis.url();
    let check = |url: &str| check_over_a_line(vendors.settings_for_check(&[("REDIS_URL", url)]));
    let [silent_printed, gone_printed] = [&silent, &gone].map(|url| url.replace("aca:PASSWORD@", ""));
    let output = check(&silent).await;
    assert!(
        text(&output).contains(&format!("FAIL  Redis               {silent_printed}: it did not answer in time")),
        "{}",
        text(&output)
    );
    assert_eq!(output.status.code(), Some(1));
    redis.kill();
    let output = check(&gone).await;
    assert!(
        text(&output).contains(&format!("FAIL  Redis               {gone_printed}: Connection refused")),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("the service issues no tokens until Redis works"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(1));

    // Policy tests need no network.
    let directory = tempfile::tempdir().unwrap();
    let tests = directory.path().join("tests.toml");
    fs::write(
        &tests,
        "[[cases]]\nname = \"anybody\"\nclaims = { sub = \"user_1\", username = \"alice\" }\nexpect = { capability = \"key\" }\n",
    )
    .unwrap();
    let output = run(&[("REDIS_URL".to_owned(), gone)], &["check", "--policy-tests", tests.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn check_shows_how_access_ends_and_warns_of_what_belongs_to_all_tenants() {
    let vendors = Vendors::start().await;
    let secrets = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let changes = [
        ("CLERK_WEBHOOK_SIGNING_SECRET", secrets),
        ("ABLY_REVOCABLE_TOKENS", "true"),
        ("REDIS_URL", "redis://nobody:hunter2@redis.invalid"),
    ];
    let report = text(&run(&vendors.settings_for_check(&changes), &["check"]));
    for line in [
        "      revocable tokens    on\n",
        "      webhooks            on: 2 signing secrets\n",
        "FAIL  Redis               redis://redis.invalid: ",
        "warn  Redis without TLS: others on the network can read",
    ] {
        assert!(report.contains(line), "{line} is not in {report}");
    }
    assert!(!report.contains("hunter2") && !report.contains("whsec_"), "{report}");
    let one = text(&run(&vendors.settings_for_check(&[("CLERK_WEBHOOK_SIGNING_SECRET", &secrets[..38])]), &["check"]));
    assert!(one.contains("webhooks            on: 1 signing secret\n"), "{one}");
    assert!(one.contains("warn  webhooks without revocable tokens"), "{one}");
}

#[tokio::test]
async fn healthcheck_tells_whether_the_service_is_alive() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let port = service.address().port().to_string();
    let settings = |host: &str| [("SERVER_HOST".to_owned(), host.to_owned()), ("SERVER_PORT".to_owned(), port.clone())];
    assert_eq!(run(&settings("127.0.0.1"), &["healthcheck"]).status.code(), Some(0));
    assert_eq!(run(&settings("0.0.0.0"), &["healthcheck"]).status.code(), Some(0));
    drop(service);
    let output = run(&settings("127.0.0.1"), &["healthcheck"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no answer from"), "{}", text(&output));
}

#[test]
fn help_and_version_are_complete() {
    let help = text(&run(&[], &["--help"]));
    for word in ["serve", "check", "explain", "revoke", "healthcheck", "--config"] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
    for setting in ably_clerk_auth::config::settings::ALL {
        assert_eq!(help.contains(&setting.variable()), !setting.file_only, "{}", setting.variable());
    }
    assert_eq!(text(&run(&[], &["--version"])).trim(), concat!("ably-clerk-auth ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unreadable_file_or_a_taken_port_ends_the_start_with_a_cure() {
    let missing = run(&[], &["--config", "nowhere.toml"]);
    assert!(text(&missing).contains("nowhere.toml cannot be read"), "{}", text(&missing));
    assert_eq!(missing.status.code(), Some(1));

    let (mut broken, directory) = command(&[]);
    fs::write(directory.path().join("ably-clerk-auth.toml"), "[ably]\napi_key = \"hush").unwrap();
    let broken = broken.output().unwrap();
    assert!(text(&broken).contains("line 2, column"), "{}", text(&broken));
    assert!(!text(&broken).contains("hush"));

    let unset = text(&run(&[], &[]));
    assert!(
        unset.contains("ABLY_API_KEY ([ably] api_key): not set") && unset.contains("CLERK_PUBLISHABLE_KEY"),
        "{unset}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = [
        ("ABLY_API_KEY", "app.key:secret"),
        ("CLERK_PUBLISHABLE_KEY", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k"),
        ("SERVER_PORT", &taken.local_addr().unwrap().port().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let busy = run(&settings, &["serve"]);
    assert!(text(&busy).contains("cannot listen on"), "{}", text(&busy));
    assert_eq!(busy.status.code(), Some(1));
}

#[test]
fn broken_sources_are_reported_with_all_other_problems() {
    let (mut command, directory) = command(&[("TOKEN_TTL".into(), "0s".into())]);
    fs::write(directory.path().join(".env"), "# comment\n\nLOG_LEVEL=\"hush\n").unwrap();
    fs::write(directory.path().join("ably-clerk-auth.toml"), "[token]\nttl = hush").unwrap();
    let report = text(&command.output().unwrap());
    for expected in ["LOG_LEVEL (.env, line 3):", "ably-clerk-auth.toml, line 2, column", "TOKEN_TTL", "ABLY_API_KEY"] {
        assert!(report.contains(expected), "{expected} is not in {report}");
    }
    assert!(!report.contains("hush"), "{report}");
}

#[tokio::test]
async fn a_file_and_dot_env_in_the_working_directory_are_read() {
    let vendors = Vendors::start().await;
    let (mut command, directory) = command(&[]);
    let settings = vendors.settings_for_check(&[]);
    let dot_env: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fs::write(directory.path().join(".env"), dot_env.join("\n")).unwrap();
    fs::write(directory.path().join("ably-clerk-auth.toml"), "[token]\nttl = \"90s\"\n").unwrap();
    let output = command.arg("check").output().unwrap();
    let report = text(&output);
    assert!(report.contains("at most 90 s") && report.contains("ABLY_API_KEY (.env, line "), "{report}");
}
