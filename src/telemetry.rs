//! The log, one line per event on standard output, and the [`metrics`].

mod lines;
pub mod metrics;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::IpAddr,
    panic,
};

use serde::Deserialize;
use tracing::{Level, Span, field::display};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::lines::{Lines, Style};

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Starts logging, once for the process.
///
/// From libraries, it logs only warnings and errors at any level: at `trace` some log headers.
pub fn init(format: LogFormat, level: Level) {
    let levels = Targets::new()
        .with_default(Level::WARN)
        // A client's malformed request is not this service's error.
        .with_target("actix_http", LevelFilter::OFF)
        .with_target("ably_clerk_auth", level);
    let style = match format {
        LogFormat::Json => Style::Json,
        LogFormat::Pretty if io::stdout().is_terminal() => Style::Colored,
        LogFormat::Pretty => Style::Plain,
    };
    // A line that cannot be written is lost.
    let write = |line: &str| drop(io::stdout().write_all(line.as_bytes()));
    tracing_subscriber::registry().with(levels).with(Lines { style, write }).init();
    panic::set_hook(Box::new(|panic| {
        // The message is left out: it may hold a value of the request.
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "a bug made a task panic; please report it");
    }));
}

/// The span around a request. Every event in it has these fields.
///
/// Its level is `error`, so that it exists at every log level.
#[must_use]
pub fn request_span(request_id: &str, client_address: Option<IpAddr>) -> Span {
    let client_address = client_address.map(display);
    tracing::error_span!("request", request_id, client_address)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_request_span_exists_at_every_level_and_has_an_address_only_if_known() {
        let written = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&written);
        let write = move |line: &str| writer.lock().unwrap().push_str(line);
        let levels = Targets::new().with_default(Level::ERROR);
        let subscriber = tracing_subscriber::registry().with(levels).with(Lines { style: Style::Plain, write });
        tracing::subscriber::with_default(subscriber, || {
            for address in [None, Some([192, 0, 2, 7].into())] {
                request_span("id", address).in_scope(|| tracing::error!("failed"));
            }
        });
        let written = written.lock().unwrap();
        let lines: Vec<_> = written.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest).collect();
        let with_address = r#"ERROR failed request_id="id" client_address="192.0.2.7""#;
        assert_eq!(lines, [r#"ERROR failed request_id="id""#, with_address]);
    }
}
