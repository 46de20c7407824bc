//! The command `sandbox`: `dev` shows the service at work on this machine, with no account anywhere.

mod dev;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Stand-ins for Clerk and Ably, and the service between them, on this machine only")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start both stand-ins, the service, and a page that shows the whole line from session to connection
    Dev(dev::DevOptions),
    #[command(hide = true)]
    TiedToParent(dev::TiedToParent),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Dev(options) => dev::run(options),
        Command::TiedToParent(command) => command.become_the_program(),
    }
}
