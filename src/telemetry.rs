//! What the service tells its operator: logs, one line an event, to standard output; and [`metrics`].

mod lines;
pub mod metrics;

use std::{
    io::{self, IsTerminal as _},
    panic,
};

use tracing::Level;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use self::lines::LogFormat;
use self::lines::{Colors, lines};

/// Starts logging, once for the process.
///
/// Libraries are heard from `warn` on only, whatever the level: at `trace` some would log headers.
pub fn init(format: LogFormat, level: Level) {
    let levels = Targets::new()
        .with_default(Level::WARN)
        // A stranger's malformed request is no error of ours.
        .with_target("actix_http", LevelFilter::OFF)
        .with_target("ably_clerk_auth", level);
    let colors = if io::stdout().is_terminal() { Colors::On } else { Colors::Off };
    tracing_subscriber::registry().with(levels).with(lines(format, colors, io::stdout)).init();
    panic::set_hook(Box::new(|panic| {
        // The message is left out: it may hold a value of the request.
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "a bug made a task panic; please report it");
    }));
}
