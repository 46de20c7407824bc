//! Parses the arguments and runs one command.

use std::process::ExitCode;

use ably_clerk_auth::cli::Cli;
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
