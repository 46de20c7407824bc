//! How the service and its peers are started.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{args::Service, load::ORIGIN, process::Program, stand_ins::StandIns, tokens::DENIAL_TTL};

/// As many tokens as the load takes, with the default time until a whole burst is refilled: 20 seconds.
const TOKEN_LIMIT: [(&str, &str); 2] = [("LIMITS_TOKENS_PER_MINUTE", "999999"), ("LIMITS_TOKENS_BURST", "333333")];

/// The service with its default configuration, apart from keys, addresses, the token limit, and how long session tokens may
/// live.
pub(crate) fn service(service: &Service, stand_ins: &StandIns, changes: &[(&str, &str)], toml: &str) -> Program {
    let mut environment = keys(stand_ins);
    environment.push(("REVOCATION_DENIAL_TTL".to_owned(), DENIAL_TTL.to_owned()));
    environment
        .extend(TOKEN_LIMIT.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Program {
        path: service.path.clone(),
        arguments: Vec::new(),
        port_variable: "SERVER_PORT",
        admin_port_variable: Some("ADMIN_PORT"),
        environment,
        toml: toml.to_owned(),
    }
}

/// The binary that `cargo build --release` makes of the service.
pub(crate) fn default_service() -> Result<Service> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/ably-clerk-auth");
    ensure!(path.is_file(), "the service is not built: run `cargo build --release`, or name a binary with --service");
    Ok(Service { name: String::new(), path: path.canonicalize()? })
}

/// A peer in Rust, whose binary is beside this one.
pub(crate) fn rust_peer(name: &str, stand_ins: &StandIns) -> Result<Program> {
    let path = env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{name} is not built: run `cargo build --release --workspace` in bench");
    Ok(peer(path, Vec::new(), stand_ins))
}

/// A peer in Node.
pub(crate) fn node_peer(script: &str, stand_ins: &StandIns) -> Result<Program> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/node");
    ensure!(directory.join("node_modules").is_dir(), "run `npm ci --ignore-scripts` in bench/peers/node");
    let script = directory.join(script).to_str().context("a path is not UTF-8")?.to_owned();
    Ok(peer(PathBuf::from("node"), vec![script], stand_ins))
}

fn peer(path: PathBuf, arguments: Vec<String>, stand_ins: &StandIns) -> Program {
    let mut environment = keys(stand_ins);
    environment.push(("CLERK_JWT_KEY".to_owned(), stand_ins.clerk.jwt_key().to_owned()));
    environment.push(("NODE_ENV".to_owned(), "production".to_owned()));
    Program { path, arguments, port_variable: "PORT", admin_port_variable: None, environment, toml: String::new() }
}

fn keys(stand_ins: &StandIns) -> Vec<(String, String)> {
    let StandIns { clerk, ably, .. } = stand_ins;
    [
        ("ABLY_API_KEY", ably.api_key().to_owned()),
        ("ABLY_REST_URL", ably.url()),
        ("CLERK_API_URL", clerk.url()),
        ("CLERK_AUTHORIZED_PARTIES", ORIGIN.to_owned()),
        ("CLERK_PUBLISHABLE_KEY", clerk.publishable_key().to_owned()),
        ("CLERK_SECRET_KEY", clerk.secret_key().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// A policy with so many rules, of which so many match every session here.
pub(crate) fn policy(rules: usize, matching: usize) -> String {
    let one_in = rules / matching.max(1);
    let rule = |number: usize| {
        let plan = if number.is_multiple_of(one_in) { "pro".to_owned() } else { format!("plan-{number}") };
        format!(
            "[[grants]]\nname = \"rule {number}\"\nwhen = {{ plan = \"{plan}\" }}\n\
             capability = {{ \"rooms:{{user_id}}:{number}:*\" = [\"subscribe\", \"publish\"] }}\n\n"
        )
    };
    (0..rules).map(rule).collect()
}
