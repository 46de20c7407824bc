//! The command line: `serve` (default), `check`, `explain`, `revoke`, `healthcheck`.

mod check;
mod explain;
mod healthcheck;
mod policy_cases;
mod revoke;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{Config, InvalidPolicyTests, Problems, Sources, mount_warning},
    server::{Server, StartError},
    telemetry,
};

/// Turns a Clerk session into an Ably token: the authUrl for browser apps.
///
/// Settings come from the environment and a TOML file; two are required: ABLY_API_KEY and CLERK_PUBLISHABLE_KEY.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Cli {
    /// The TOML file with settings; without it, ably-clerk-auth.toml in the working directory, if it is there
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Default, Subcommand)]
enum Command {
    /// Answer requests, until SIGTERM or SIGINT (default)
    #[default]
    Serve,
    /// Check the settings, the keys, Redis and the clock; exit with 0 if the service would work
    Check {
        /// Only run these tests of the policy: no network, no keys; exit with 0 if all pass
        #[arg(long, value_name = "FILE")]
        policy_tests: Option<PathBuf>,
    },
    /// Say who a session is, which rules match it and why, and what it gets; exit with 0 if that is a token
    Explain(explain::Arguments),
    /// Have the running service end somebody's access now; exit with 0 if all of it is done
    Revoke(revoke::Arguments),
    /// Ask the running service whether it lives; exit with 0 if it does. For a container's HEALTHCHECK
    Healthcheck,
}

const AFTER_HELP: &str = "\
Settings, each a variable or a key of the TOML file ([section] key is SECTION_KEY). The first of these that has a value
counts: NAME, NAME_FILE (the path of a file with the value), both again in .env, the TOML file, the default. A list is
comma-separated; an empty variable counts as unset; two names of one setting with different values are an error.
Who may do what is for the file alone: [[grants]] tables and [token] require. So is which [[tenants]] there are, if there
are several; their variables are those below behind TENANTS_NAME_.
  ABLY_API_KEY              appId.keyId:secret; required. Also: NEXT_ABLY_API_KEY
  ABLY_REST_URL             [https://main.realtime.ably.net]
  ABLY_REVOCABLE_TOKENS     true when the key has revocable tokens on [false]
  CLERK_PUBLISHABLE_KEY     pk_...; required. Also: NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY, VITE_CLERK_PUBLISHABLE_KEY
  CLERK_SECRET_KEY          sk_...; for usernames that are not in the session token
  CLERK_JWT_KEY             PEM public key: verification without any network
  CLERK_API_URL             [https://api.clerk.com]
  CLERK_AUTHORIZED_PARTIES  origins of your app
  CLERK_NATIVE_APPS         true accepts Bearer tokens without azp [false]
  CLERK_AUDIENCE            values that aud may have
  CLERK_CLOCK_SKEW_MS       [5000]
  CLERK_PROXY_URL           Frontend API proxy
  CLERK_DOMAIN              satellite domain, or several, without clerk.
  CLERK_USER_CACHE_TTL      [5m]
  CLERK_WEBHOOK_SIGNING_SECRET  whsec_..., or several
  TOKEN_FORMAT              token_request, jwt or token_details [token_request]
  TOKEN_TTL                 longest life of a token, e.g. 30m [Ably's 60m]
  TOKEN_CLIENT_ID           template of {username}, {user_id}, {claim.NAME} [{username}]
  TOKEN_CAPABILITY          key: it is meant that tokens have the key's own capability, without [[grants]]
  TOKEN_SIGNED_OUT          what an SDK does when the user is signed out: retry or fail [retry]
  REVOCATION_DENIAL_TTL     how long who has signed out is refused, and the longest life of a session token [10m]
  REDIS_URL                 rediss://...: what replicas share
  REDIS_CA_FILE             PEM bundle: who may sign Redis's certificate [the system's]
  REDIS_PREFIX              [aca:]
  REDIS_ON_FAILURE          degrade or refuse [degrade]
  CORS_ALLOWED_ORIGINS      origins whose pages may read answers [the authorized parties]
  SERVER_HOST, SERVER_PORT  0.0.0.0: all of IPv4; :: all of IPv4 and IPv6 [127.0.0.1, 8080]. Also: HOST, PORT
  SERVER_TRUSTED_PROXIES    networks whose X-Forwarded-For or Forwarded is believed, for the log [none]
  ADMIN_HOST, ADMIN_PORT    listener for /metrics and revoke; port 0: none [127.0.0.1, 9464]
  ADMIN_TOKEN               what revoke has to show (16 characters or more); without one, it works on loopback only
  LIMITS_TOKENS_PER_MINUTE  tokens per user and replica; 0: no limit [60]
  LIMITS_TOKENS_BURST       how many of them at once [20]
  LIMITS_MAX_IN_FLIGHT      requests for a token that are worked on at once [1024]
  LIMITS_CONNECTIONS        open connections of the public listener [10000]
  LOG_FORMAT                pretty or json [pretty on a terminal]
  LOG_LEVEL                 error, warn, info, debug or trace [info]

.env is read as Node's --env-file reads it. Outgoing HTTPS heeds HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE.

Exit codes: 0 success, 1 failure (of any command; of explain: no token; of
revoke: something is not done), 2 an argument that is not known";

/// Why a command failed, in words for whoever ran it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}Nothing was started. `ably-clerk-auth --help` lists all settings.")]
    Config(#[from] Problems),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the server stopped: {0}")]
    Serve(std::io::Error),
    #[error("{0}")]
    Unhealthy(String),
    #[error(transparent)]
    PolicyTests(#[from] InvalidPolicyTests),
    #[error("{0}")]
    Input(String),
}

impl Cli {
    /// Runs the command. 0 is success.
    pub async fn run(self) -> ExitCode {
        let config = self.config.as_deref();
        let outcome = match self.command.unwrap_or_default() {
            Command::Serve => serve(config).await,
            Command::Check { policy_tests: Some(file) } => return policy_cases::run(config, &file).await,
            Command::Check { policy_tests: None } => return check::run(config).await,
            Command::Explain(arguments) => return explain::run(config, arguments).await,
            Command::Revoke(arguments) => return revoke::run(config, arguments).await,
            Command::Healthcheck => healthcheck::run(config).await,
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                complain(&failure);
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(config: Option<&std::path::Path>) -> Result<(), Failure> {
    let path = config.map(std::path::Path::to_owned);
    let file = Sources::toml_file(config);
    let mount_warning = mount_warning(Sources::toml_path(config));
    let (config, _) = Config::load(&Sources::with_file(config, &file))?;
    telemetry::init(config.log.format, config.log.level);
    for warning in config.warnings().into_iter().chain(mount_warning) {
        tracing::warn!("{warning}");
    }
    let mut server = Server::bind(&config)?;
    let address = server.address();
    server.reload_policy(config, path, file)?;
    if let Some(address) = server.admin_address() {
        tracing::info!(%address, "admin listening");
    }
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    server.run_until_stopped().await.map_err(Failure::Serve)?;
    tracing::info!("stopped");
    Ok(())
}

#[expect(clippy::print_stderr, reason = "what a command says of its failure is for the terminal, not for the log")]
fn complain(failure: &Failure) {
    eprintln!("ably-clerk-auth: {failure}");
}
