//! `sandbox dev` as a process: what it starts and prints, and that it leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod page;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

/// Not a test: the program that replaces the service. [`StubService`] runs it through this executable.
#[test]
#[ignore = "serves until it is stopped"]
fn stub_service() {
    let Ok(port) = std::env::var("SERVER_PORT") else {
        return;
    };
    match std::env::var("STUB").as_deref() {
        Ok("fails") => std::process::exit(7),
        Ok("unready") => sleep(Duration::from_mins(1)),
        _ => {}
    }
    let environment: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
    let files: Vec<_> = fs::read_dir(".").unwrap().map(|entry| entry.unwrap().file_name().into_string()).collect();
    let policy = fs::read_to_string("ably-clerk-auth.toml").unwrap();
    actix_web::rt::System::new()
        .block_on(async move {
            HttpServer::new(move || {
                let admin_port = std::env::var("ADMIN_PORT").ok();
                let authorized_parties = std::env::var("CLERK_AUTHORIZED_PARTIES").ok();
                let seen = json!({
                    "environment": environment, "files": files, "policy": policy, "admin_port": admin_port,
                    "authorized_parties": authorized_parties,
                });
                App::new()
                    .route("/readyz", web::get().to(HttpResponse::Ok))
                    .route("/exit", web::get().to(async || -> HttpResponse { std::process::exit(9) }))
                    .route("/seen", web::get().to(move || std::future::ready(HttpResponse::Ok().json(seen.clone()))))
            })
            .workers(1)
            .bind((Ipv4Addr::LOCALHOST, port.parse().unwrap()))
            .unwrap()
            .run()
            .await
        })
        .unwrap();
    if let Ok(path) = std::env::var("STUB_ENDED_IN_ORDER") {
        fs::write(path, "").unwrap();
    }
}

/// The `explain` command of the stub: prints its input, unless the policy selects another behavior.
const EXPLAIN: &str = r#"
if [ "$1" = explain ]; then
  input=$(cat)
  policy=$(cat ably-clerk-auth.toml)
  case "$policy" in
    hang) echo $$ > "$STUB_ENDED_IN_ORDER.hanging"; exec sleep 60 ;;
    mute) exit 1 ;;
    broken)
      echo "ably-clerk-auth: the configuration has 1 problem:" >&2
      echo "  - ably-clerk-auth.toml, line 7, column 3: no such key" >&2
      echo "Nothing was started." >&2
      exit 1 ;;
  esac
  printf '{"arguments":"%s","input":"%s","policy":"%s","api_key":"%s"}' "$*" "$input" "$policy" "$ABLY_API_KEY"
  exit
fi
"#;

struct StubService {
    directory: PathBuf,
}

impl StubService {
    fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let test = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\n{EXPLAIN}\nexec '{}' --ignored --exact stub_service --nocapture --test-threads 1\n",
            test.display()
        );
        let stub = Self { directory };
        fs::write(stub.program(), script).unwrap();
        fs::set_permissions(stub.program(), fs::Permissions::from_mode(0o755)).unwrap();
        stub
    }

    fn program(&self) -> PathBuf {
        self.directory.join("service")
    }

    fn ended_in_order(&self) -> PathBuf {
        self.directory.join("ended-in-order")
    }
}

impl Drop for StubService {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A sandbox on free ports, around the stub.
fn dev(stub: &StubService) -> Command {
    dev_with(stub, &stub.program())
}

fn dev_with(stub: &StubService, service: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command
        .args(["dev", "--json", "--page-port=0", "--service-port=0", "--clerk-port=0", "--ably-port=0", "--service"])
        .arg(service)
        .arg(format!("--set=STUB_ENDED_IN_ORDER={}", stub.ended_in_order().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in ["ABLY_API_KEY", "NEXT_ABLY_API_KEY", "CLERK_SECRET_KEY", "CLERK_PUBLISHABLE_KEY"] {
        command.env_remove(name);
    }
    command
}

fn start(command: &mut Command) -> (Child, Value) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        panic!("no JSON line but {line:?}; {errors}")
    });
    (child, ready)
}

/// Runs a sandbox that ends by itself.
fn run(command: &mut Command) -> (ExitStatus, String) {
    let mut child = command.spawn().unwrap();
    // Held open, because the sandbox ends with its input.
    let input = child.stdin.take();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    drop(input);
    (status, String::from_utf8(stderr).unwrap())
}

fn is_served(url: &str) -> bool {
    TcpStream::connect(url.strip_prefix("http://").unwrap().replace("localhost", "127.0.0.1")).is_ok()
}

fn text<'a>(ready: &'a Value, name: &str) -> &'a str {
    ready[name].as_str().unwrap_or_else(|| panic!("{name} in {ready}"))
}

fn assert_everything_ends(ready: &Value) {
    let deadline = Instant::now() + Duration::from_secs(10);
    for name in ["service", "page", "clerk", "ably"] {
        while is_served(text(ready, name)) {
            assert!(Instant::now() < deadline, "{name} outlives the sandbox");
            sleep(Duration::from_millis(10));
        }
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn it_starts_everything_and_stops_everything_when_its_input_ends() {
    let stub = StubService::new("input-ends");
    let (mut sandbox, ready) = start(dev(&stub).env("SOME_SETTING", "1").env("LOG_LEVEL", "debug"));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    let page = client.get(text(&ready, "page")).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    assert!(page.text().await.unwrap().contains("id=\"get-token\""));
    let config = client.get(format!("{}/config.json", text(&ready, "page"))).send().await.unwrap();
    let config: Value = config.json().await.unwrap();
    assert_eq!(config["publishable_key"], ready["publishable_key"]);

    let seen = client.get(format!("{}/seen", text(&ready, "service"))).send().await.unwrap();
    let seen: Value = seen.json().await.unwrap();
    let has = |name: &str| seen["environment"].as_array().unwrap().contains(&name.into());
    assert!(has("ABLY_API_KEY") && has("CLERK_AUTHORIZED_PARTIES") && has("LOG_LEVEL"));
    assert!(!has("SOME_SETTING") && !has("HOME"), "the service does not inherit the environment: {seen}");
    assert_eq!(seen["files"], json!([{"Ok": "ably-clerk-auth.toml"}]), "its directory contains only its configuration");
    assert!(seen["policy"].as_str().unwrap().contains("[[grants]]"), "the default policy has rules");

    drop(sandbox.stdin.take());
    assert!(sandbox.wait().unwrap().success());
    assert_everything_ends(&ready);
    assert!(stub.ended_in_order().exists(), "the service is stopped, not killed");
}

#[tokio::test]
async fn the_admin_listener_has_a_free_port_by_default() {
    let stub = StubService::new("admin-port");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for set in [None, Some("41007"), Some("0")] {
        let mut command = dev(&stub);
        command.args(set.map(|port| format!("--set=ADMIN_PORT={port}")));
        let (_sandbox, ready) = start(&mut command);
        let seen = client.get(format!("{}/seen", text(&ready, "service"))).send().await.unwrap();
        let seen: Value = seen.json().await.unwrap();
        let port = text(&seen, "admin_port");
        if let Some(set) = set {
            assert_eq!(port, set);
        }
        if port == "0" {
            assert_eq!((&ready["admin"], &ready["revoke"]), (&Value::Null, &Value::Null), "{ready}");
            continue;
        }
        assert!(!text(&ready, "service").ends_with(&format!(":{port}")), "{ready}");
        assert_eq!(text(&ready, "admin"), format!("http://127.0.0.1:{port}"));
        let revoke = text(&ready, "revoke");
        let program = stub.program();
        assert!(revoke.starts_with(&format!("ADMIN_PORT={port} ")), "{revoke}");
        assert!(program.ends_with(revoke.split(' ').nth(1).unwrap()), "{revoke}");
        assert!(revoke.contains(" revoke --user user_"), "{revoke}");
    }
}

#[test]
fn it_prints_commands_to_get_and_to_revoke_a_token() {
    let stub = StubService::new("says");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command
        .args(["dev", "--page-port=0", "--service-port=0", "--clerk-port=0", "--ably-port=0", "--service"])
        .arg(stub.program())
        .arg(format!("--set=STUB_ENDED_IN_ORDER={}", stub.ended_in_order().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for name in ["ABLY_API_KEY", "NEXT_ABLY_API_KEY", "CLERK_SECRET_KEY", "CLERK_PUBLISHABLE_KEY"] {
        command.env_remove(name);
    }
    let mut sandbox = command.spawn().unwrap();
    let printed: Vec<String> = BufReader::new(sandbox.stdout.as_mut().unwrap())
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.contains("Ctrl-C"))
        .collect();
    signal(&sandbox, "TERM");
    assert!(sandbox.wait().unwrap().success());
    let curl = printed.iter().position(|line| line.starts_with("  curl -sH")).unwrap();
    assert!(printed[curl + 1].starts_with("  ADMIN_PORT="), "{printed:?}");
    assert!(printed[curl + 1].contains(" revoke --user user_"), "{printed:?}");
}

#[tokio::test]
async fn an_app_gets_its_settings_and_may_use_the_stand_ins() {
    const APP: &str = "https://app.test:5173";
    let stub = StubService::new("app");
    let (_sandbox, ready) = start(dev(&stub).arg("--app").arg(format!("{APP}/")));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let app = &ready["app"];
    assert_eq!(app["origin"], APP);
    for (of, name, field) in [
        ("vite", "VITE_CLERK_PUBLISHABLE_KEY", "publishable_key"),
        ("next", "NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", "publishable_key"),
        ("next", "CLERK_SECRET_KEY", "secret_key"),
        ("next", "NEXT_PUBLIC_CLERK_PROXY_URL", "clerk_proxy_url"),
    ] {
        assert_eq!(app[of][name], ready[field], "{name}");
    }
    let ably: Value = serde_json::from_str(text(&app["vite"], "VITE_ABLY_OPTIONS")).unwrap();
    assert!(text(&ready, "ably").ends_with(&format!(":{}", ably["port"])), "{ably}");
    for (origin, is_allowed) in [(APP, true), ("https://app.test:5174", false)] {
        let url = format!("{}/v1/client", text(&ready, "clerk_proxy_url"));
        let answer = client.get(url).header("origin", origin).send().await.unwrap();
        assert_eq!(answer.headers().contains_key("access-control-allow-origin"), is_allowed, "{origin}");
    }
    let seen = client.get(format!("{}/seen", text(&ready, "service"))).send().await.unwrap();
    let seen: Value = seen.json().await.unwrap();
    assert!(text(&seen, "authorized_parties").split(',').any(|party| party == APP), "{seen}");

    let (_sandbox, ready) = start(&mut dev(&stub));
    assert_eq!(ready["app"], Value::Null);
    let (status, errors) = run(dev(&stub).arg("--app=localhost:5173"));
    assert_eq!(status.code(), Some(2));
    assert!(errors.contains("such as http://localhost:5173"), "{errors}");
}

#[test]
fn a_signal_stops_everything_in_order() {
    for name in ["INT", "TERM", "HUP"] {
        let stub = StubService::new(name);
        let (mut sandbox, ready) = start(&mut dev(&stub));
        let input = sandbox.stdin.take();
        signal(&sandbox, name);
        assert!(sandbox.wait().unwrap().success(), "{name}");
        assert_everything_ends(&ready);
        assert!(stub.ended_in_order().exists(), "{name}");
        drop(input);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn even_a_killed_sandbox_leaves_no_service_behind() {
    let stub = StubService::new("killed");
    let (mut sandbox, ready) = start(&mut dev(&stub));
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();
    assert_everything_ends(&ready);
}

#[tokio::test]
async fn it_ends_with_the_service() {
    let stub = StubService::new("service-ends");
    let (mut sandbox, ready) = start(&mut dev(&stub));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let _cut_off = client.get(format!("{}/exit", text(&ready, "service"))).send().await;
    let input = sandbox.stdin.take();
    assert_eq!(sandbox.wait().unwrap().code(), Some(1));
    drop(input);
    let mut errors = String::new();
    sandbox.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("the service ended unexpectedly: exit code 9"), "{errors}");
    assert_everything_ends(&ready);
}

#[test]
fn a_service_that_cannot_start_is_reported_with_its_exit_code() {
    let stub = StubService::new("fails");
    let (status, errors) = run(dev(&stub).arg("--set=STUB=fails"));
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("the service ended before it was ready: exit code 7"), "{errors}");

    let (status, errors) = run(&mut dev_with(&stub, Path::new("/nowhere/service")));
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("service not found at /nowhere/service"), "{errors}");
}

#[test]
fn it_can_be_stopped_while_the_service_is_not_ready() {
    let stub = StubService::new("unready");
    let mut sandbox = dev(&stub).arg("--set=STUB=unready").spawn().unwrap();
    sleep(Duration::from_millis(300));
    let input = sandbox.stdin.take();
    signal(&sandbox, "TERM");
    let begun = Instant::now();
    assert!(sandbox.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(input);
}

#[test]
fn a_busy_port_is_named_with_the_flag_that_changes_it() {
    let stub = StubService::new("busy");
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    for flag in ["--page-port", "--service-port", "--clerk-port", "--ably-port"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        command.args(["dev", "--json", "--service"]).arg(stub.program()).stdin(Stdio::piped()).stderr(Stdio::piped());
        for each in ["--page-port", "--service-port", "--clerk-port", "--ably-port"] {
            command.arg(format!("{each}={}", if each == flag { port } else { 0 }));
        }
        let (status, errors) = run(&mut command);
        assert_eq!(status.code(), Some(1));
        assert!(errors.contains(&format!("port {port} is in use")) && errors.contains(flag), "{flag}: {errors}");
    }
}

#[test]
fn it_refuses_to_start_with_real_keys() {
    let stub = StubService::new("live-keys");
    for (name, value) in [
        ("ABLY_API_KEY", "app.key:secret"),
        ("NEXT_ABLY_API_KEY", "app.key:secret"),
        ("CLERK_SECRET_KEY", "sk_live_1"),
        ("CLERK_PUBLISHABLE_KEY", "pk_live_1"),
        ("NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", "pk_live_1"),
        ("VITE_CLERK_PUBLISHABLE_KEY", "pk_live_1"),
    ] {
        for (status, errors) in [run(dev(&stub).env(name, value)), run(dev(&stub).arg(format!("--set={name}={value}")))]
        {
            assert_eq!(status.code(), Some(1), "{name}");
            assert!(errors.contains(name) && !errors.contains(value), "{errors}");
        }
    }
}
