//! Parses the arguments and runs one command.

use std::process::ExitCode;

use ably_clerk_auth::cli::Cli;
use clap::Parser as _;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
