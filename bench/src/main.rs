//! Measures the service side by side with its peers: `make bench`. `docs/performance.md` says how, and what each row means.
//!
//! | module | what it does |
//! |---|---|
//! | `args` | the command line |
//! | `stand_ins`, `tokens` | stand-ins for Clerk and Ably; session tokens, signed in advance |
//! | `programs`, `process`, `redis` | the service and its peers, as child processes |
//! | `targets`, `cases` | what is measured |
//! | `load`, `floor` | the load, and the verification alone |
//! | `measure`, `summary`, `machine` | rounds over all targets; medians; cores |
//! | `report` | tables, chart and JSON |

mod args;
mod cases;
mod floor;
mod load;
mod machine;
mod measure;
mod process;
mod programs;
mod redis;
mod report;
mod run;
mod stand_ins;
mod summary;
mod targets;
mod tokens;

use clap::Parser as _;

use args::{Cli, Command};

fn main() -> anyhow::Result<()> {
    let Cli { command, options } = Cli::parse();
    match command.unwrap_or(Command::Targets) {
        Command::Targets => run::targets(&options),
        Command::Cases => run::cases(&options),
        Command::List => report::list(),
    }
}
