//! The `sandbox` command: `dev` runs the service between stand-ins on this machine, without any account.

mod dev;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Stand-ins for Clerk and Ably on this machine, and the service between them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start both stand-ins, the service, and a page that shows each step from session to connection
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
