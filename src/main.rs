//! Parses the arguments and runs one command.

use std::process::ExitCode;

use ably_clerk_auth::{cli::Cli, telemetry};
use clap::Parser as _;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let code = run();
    telemetry::flush();
    code
}

#[tokio::main]
async fn run() -> ExitCode {
    Cli::parse().run().await
}
