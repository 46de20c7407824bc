//! Settings as operators write them, and mistakes as they make them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    redis_server::{Certificate, RedisServer},
    service::{Vendors, command, run, text},
};

/// Runs a command in a directory with this `.env`, without any variable.
fn run_with_dot_env(dot_env: &str, arguments: &[&str]) -> Output {
    let (mut command, directory) = command(&[]);
    fs::write(directory.path().join(".env"), dot_env).unwrap();
    fs::write(directory.path().join("claims.json"), r#"{ "username": "alice" }"#).unwrap();
    command.args(arguments).output().unwrap()
}

#[tokio::test]
async fn a_dot_env_shared_with_other_programs_is_read_as_node_reads_it() {
    let vendors = Vendors::start().await;
    let line = |(name, value): (String, String)| match name.as_str() {
        "ABLY_API_KEY" => format!("export {name} = '{value}' # the key\n"),
        "CLERK_AUTHORIZED_PARTIES" => format!("{name}=https://a.example, {value}\n"),
        _ => format!("{name}=\"{value}\"\n"),
    };
    let settings: String = vendors.settings().into_iter().map(line).collect();
    let (jwt_key, proxy_url) = (vendors.clerk.jwt_key().trim(), vendors.clerk.proxy_url());
    let dot_env = format!(
        "\u{feff}# Shared with the app\r\nNEXT_PUBLIC_APP_NAME=My App\r\n<<<<<<< ours\nPROMPT=it's $HOME\n{settings}\
         CLERK_JWT_KEY=\"{jwt_key}\"\nTOKEN_TTL=5m # short\nCLERK_PROXY_URL={proxy_url}\n"
    );
    let output = run_with_dot_env(&dot_env, &["check"]);
    let report = text(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report.contains("authorized parties  https://a.example, http://localhost:3000\n"), "{report}");
    assert!(report.contains("at most 300 s") && report.contains("from the PEM of CLERK_JWT_KEY"), "{report}");
}

#[test]
fn a_mistake_in_dot_env_ends_the_start_with_its_line_and_its_variable() {
    let output = run_with_dot_env("APP_NAME=My App\n\nADMIN_PORT=none\nTOKEN_TTL='5m\n", &["serve"]);
    let problems = text(&output);
    assert_eq!(output.status.code(), Some(1));
    for expected in [
        "ADMIN_PORT ([admin] port), from ADMIN_PORT (.env, line 3): not a port",
        "TOKEN_TTL ([token] ttl): TOKEN_TTL (.env, line 4): the quote is not closed",
    ] {
        assert!(problems.contains(expected), "{problems}");
    }
    assert!(!problems.contains("My App") && !problems.contains("APP_NAME"), "{problems}");
}

/// What `docker run --env-file` makes of a file: a value is the rest of its line, quotes and all.
fn read_as_docker_does(file: &str) -> Vec<(String, String)> {
    let lines = file.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()).collect()
}

#[test]
fn the_dot_env_of_the_readme_means_the_same_to_docker_and_to_the_service() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```dotenv\n").unwrap();
    let (dot_env, _) = rest.split_once("```").unwrap();
    let explain = ["explain", "--claims", "claims.json"];
    let as_file = run_with_dot_env(dot_env, &explain);

    let (mut as_variables, directory) = command(&read_as_docker_does(dot_env));
    fs::write(directory.path().join("claims.json"), r#"{ "username": "alice" }"#).unwrap();
    let as_variables = as_variables.args(explain).output().unwrap();
    assert_eq!(text(&as_file), text(&as_variables));
    assert_eq!((as_file.status.code(), as_variables.status.code()), (Some(0), Some(0)), "{}", text(&as_file));
}

#[test]
fn values_that_can_never_match_end_the_start_each_with_its_cure() {
    let settings = [
        ("ABLY_API_KEY", "app.key:secretsecret"),
        ("CLERK_PUBLISHABLE_KEY", "pk_live_Y2xlcmsuZXhhbXBsZS5jb20k"),
        ("CLERK_AUTHORIZED_PARTIES", "https://*.vercel.app, https://app.example.com/"),
        ("CORS_ALLOWED_ORIGINS", "https://app.example.com:443"),
        ("CLERK_DOMAIN", "clerk.satellite.example"),
        ("SERVER_PORT", "tcp://10.0.0.1:80"),
        ("ADMIN_PORT", "tcp://10.0.0.2:9464"),
    ];
    let output = run(&settings.map(|(name, value)| (name.to_owned(), value.to_owned())), &["serve"]);
    let problems = text(&output);
    assert_eq!(output.status.code(), Some(1));
    for expected in [
        "the configuration has 6 problems",
        "CLERK_AUTHORIZED_PARTIES ([clerk] authorized_parties): an origin with a wildcard matches no page",
        "for preview deployments, use a development instance of Clerk and leave the authorized parties unset",
        "CLERK_AUTHORIZED_PARTIES ([clerk] authorized_parties): an origin has a path, a slash at the end",
        "CORS_ALLOWED_ORIGINS ([cors] allowed_origins): an origin names the default port",
        "CLERK_DOMAIN ([clerk] domain): a domain begins with clerk., which the service adds itself; leave it out",
        "SERVER_PORT ([server] port): a URL, not a port. Kubernetes sets this variable for a Service of that name",
        "ADMIN_PORT ([admin] port): a URL, not a port. Kubernetes sets this variable for a Service of that name",
        "enableServiceLinks: false",
    ] {
        assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
    }
}

#[tokio::test]
async fn both_listeners_on_all_addresses_are_reached_by_ipv4_and_ipv6() {
    let vendors = Vendors::start().await;
    for host in ["::", "[::]"] {
        let service = vendors.service_with_admin("", &[("SERVER_HOST", host), ("ADMIN_HOST", host)]).await;
        for port in [service.address().port(), service.admin_address().port()] {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
        let settings = [("SERVER_HOST", host.to_owned()), ("SERVER_PORT", service.address().port().to_string())];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(run(&settings, &["healthcheck"]).status.code(), Some(0), "{host}");
    }
}

#[tokio::test]
async fn check_trusts_redis_by_its_own_authority_and_says_what_is_missing_without_it() {
    let vendors = Vendors::start().await;
    let certificate = Certificate::new();
    let redis = RedisServer::start_with_tls(&certificate);
    let authority = certificate.path().to_str().unwrap().to_owned();
    let check = |changes: &[_]| text(&run(&vendors.settings_for_check(changes), &["check"]));
    let url = redis.tls_url();
    let report = check(&[("REDIS_URL", &url)]);
    assert!(report.contains("UnknownIssuer; set REDIS_CA_FILE to the certificate of the CA"), "{report}");
    let report = check(&[("REDIS_URL", &url), ("REDIS_CA_FILE", &authority)]);
    assert!(report.contains("ok    Redis"), "{report}");

    // SSL_CERT_FILE is for the rest: here a server that speaks TLS, and no HTTP, is in Clerk's place.
    let clerk = format!("https://localhost:{}", redis.port());
    let report = check(&[("CLERK_API_URL", &clerk)]);
    assert!(report.contains("FAIL  signing keys") && report.contains("UnknownIssuer"), "{report}");
    let report = check(&[("CLERK_API_URL", &clerk), ("SSL_CERT_FILE", &authority)]);
    assert!(report.contains("FAIL  signing keys") && !report.contains("certificate"), "{report}");
}

/// The log of a service up to where it listens, started after a shell command in a mount namespace of its own. None where
/// that is not permitted.
fn log_of_service_after(mount: &str, settings: &[(String, String)]) -> Option<String> {
    let namespace = ["--user", "--map-root-user", "--mount"];
    if !Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success()) {
        return None;
    }
    let (service, directory) = command(settings);
    fs::write(directory.path().join("ably-clerk-auth.toml"), "[token]\ncapability = \"key\"\n").unwrap();
    let script = format!("{mount} && exec \"$0\"");
    let mut unshare = Command::new("unshare");
    unshare.args(namespace).args(["sh", "-c", &script]).arg(service.get_program());
    unshare.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(settings.iter().cloned());
    let mut child = unshare.current_dir(directory.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        log += &line;
        if line.contains("\"listening\"") {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    Some(log)
}

#[tokio::test]
async fn a_configuration_file_that_is_mounted_by_itself_is_warned_of_at_the_start() {
    let vendors = Vendors::start().await;
    let settings = vendors.settings();
    let warning = "ably-clerk-auth.toml is mounted as a single file";
    for (mount, expected) in [
        ("cp ably-clerk-auth.toml of-the-host.toml && mount --bind of-the-host.toml ably-clerk-auth.toml", true),
        ("mount --bind . . && cd \"$PWD\"", false),
    ] {
        let Some(log) = log_of_service_after(mount, &settings) else { return };
        assert!(log.contains("\"listening\""), "{log}");
        assert_eq!(log.contains(warning), expected, "{log}");
    }
}
