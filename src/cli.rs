//! The command line: `serve` (default), `check`, `explain`, `revoke`, `healthcheck`.

mod check;
mod explain;
mod failure;
mod healthcheck;
mod listener;
mod output;
mod policy_cases;
mod revoke;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::{failure::Failure, output::Output};
use crate::{
    config::{Config, Sources, mount_warning, settings},
    server::Server,
    telemetry,
};

/// Turns a Clerk session into an Ably token: the authUrl for browser apps.
///
/// Settings come from the environment and a TOML file. Two are required: ABLY_API_KEY and CLERK_PUBLISHABLE_KEY.
#[derive(Debug, Parser)]
#[command(version, after_help = after_help())]
pub struct Cli {
    /// The TOML file with settings [default: ably-clerk-auth.toml in the working directory, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Default, Subcommand)]
enum Command {
    /// Answer requests until SIGTERM or SIGINT (default)
    #[default]
    Serve,
    /// Check the settings, the keys, Redis and the clock. Exit code 0: the service would work
    Check {
        /// Only run these policy tests, without network or keys. Exit code 0: all pass
        #[arg(long, value_name = "FILE")]
        policy_tests: Option<PathBuf>,
    },
    /// Show who a session is, which rules match and why, and what it gets. Exit code 0: a token
    Explain(explain::ExplainArguments),
    /// Tell the running service to end a user's access now. Exit code 0: everything is done
    Revoke(revoke::RevokeArguments),
    /// Ask the running service whether it is alive, for a container's HEALTHCHECK. Exit code 0: it is alive
    Healthcheck,
}

fn after_help() -> String {
    let settings = settings::help();
    format!(
        "\
Settings: each is an environment variable, or a key of the TOML file ([section] key is SECTION_KEY). The first of these
that has a value counts: NAME; NAME_FILE, the path of a file that holds the value; both in .env; the TOML file; the default,
here in brackets. A list is comma-separated. An empty variable counts as unset. Two names of one setting must have the same
value. Rules ([[grants]]) and [token] require stand in the TOML file only. With several [[tenants]], the variables of a
tenant's settings start with TENANTS_NAME_.
{settings}
.env is read as Node's --env-file reads it. Outgoing HTTPS uses HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE.

Examples:
  ably-clerk-auth check                                       check the settings, the keys, Redis and the clock
  ably-clerk-auth check --policy-tests policy-tests.toml      run policy tests, without network or keys
  ably-clerk-auth explain --help                              options of a command

Exit codes: 0 success; 1 failure (of explain: no token; of revoke: not everything is done); 2 unknown argument"
    )
}

impl Cli {
    /// Runs the command.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command reports on the terminal, not in the log")]
    pub async fn run(self) -> ExitCode {
        let config = self.config.as_deref();
        let outcome = match self.command.unwrap_or_default() {
            Command::Serve => serve(config).await,
            Command::Check { policy_tests: Some(file) } => policy_cases::run(config, &file).await,
            Command::Check { policy_tests: None } => check::run(config).await,
            Command::Explain(arguments) => explain::run(config, arguments).await,
            Command::Revoke(arguments) => revoke::run(config, arguments).await,
            Command::Healthcheck => healthcheck::run(config).await,
        };
        match outcome {
            Ok(Output { text, has_failed }) => {
                print!("{text}");
                ExitCode::from(u8::from(has_failed))
            }
            Err(failure) => {
                eprintln!("ably-clerk-auth: {failure}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(config: Option<&Path>) -> Result<Output, Failure> {
    let path = config.map(Path::to_owned);
    let file = Sources::toml_file(config);
    let mount_warning = mount_warning(Sources::toml_path(config));
    let (config, _) = Config::load(&Sources::with_file(config, &file))?;
    telemetry::init(config.log.format, config.log.level).map_err(Failure::Log)?;
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
    Ok(Output::default())
}
