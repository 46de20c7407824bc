//! The command line.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};

/// Measures ably-clerk-auth side by side with its peers, on one machine in one run.
#[derive(Debug, Parser)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Command {
    /// Every target, interleaved: the default.
    Targets,
    /// Cold and hostile cases: a flood, idle connections, a slow Clerk, reconnecting clients, many users, many rules.
    Cases,
    /// The names of all targets and cases.
    List,
}

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only these targets or cases, comma-separated.
    #[arg(long, global = true, env = "BENCH_ONLY", value_delimiter = ',', hide_env_values = true)]
    pub(crate) only: Vec<String>,
    /// How often each target is measured.
    #[arg(long, global = true, env = "BENCH_ROUNDS", default_value_t = 5)]
    pub(crate) rounds: usize,
    /// How long a measurement takes. Each target has two a round: at saturation, and at half that rate.
    #[arg(long, global = true, env = "BENCH_SECONDS", default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// A binary of the service, as PATH or NAME=PATH. Repeat it to compare several. The default is that of `cargo build
    /// --release`.
    #[arg(long = "service", global = true, value_name = "[NAME=]PATH")]
    pub(crate) services: Vec<Service>,
    /// Where to write JSON, table and chart. Without it, or with --only, nothing is written.
    #[arg(long, global = true)]
    pub(crate) results: Option<PathBuf>,
}

impl Options {
    /// Whether a target or case with this name is to be measured.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.is_whole() || self.only.iter().any(|one| one == name)
    }

    /// Whether all targets and cases are to be measured.
    pub(crate) fn is_whole(&self) -> bool {
        self.only.iter().all(String::is_empty)
    }
}

/// A binary of the service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Precedes the names of its targets. Empty: there is only one.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = text.split_once('=').unwrap_or(("", text));
        let path = std::path::absolute(path).map_err(|error| error.to_string())?;
        if path.is_file() { Ok(Self { name: name.to_owned(), path }) } else { Err("no such file".to_owned()) }
    }
}
