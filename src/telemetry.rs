//! The log, one line per event on standard output, and the [`metrics`].

mod lines;
pub mod metrics;
mod spans;
mod writer;

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    net::IpAddr,
    os::fd::AsFd as _,
    panic,
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use serde::Deserialize;
use tracing::{Level, Span};
use tracing_subscriber::filter::{LevelFilter, Targets};

use self::{
    lines::{Lines, Style},
    writer::{Lost, Writer},
};

/// Writes the log of this process.
static WRITER: OnceLock<Writer> = OnceLock::new();

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Starts logging, once for the process. Another thread writes the lines: call [`flush`] before the process ends.
///
/// From libraries, it logs only warnings and errors at any level: at `trace` some log headers.
pub fn init(format: LogFormat, level: Level) -> io::Result<()> {
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
    // Not `Stdout`, which would split a batch at its last line break.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let writer = Writer::start(output, move |dropped| lines::dropped_lines(style, dropped))?;
    let writer = WRITER.get_or_init(|| writer);
    let write = |level, line: &str| writer.append(level, line);
    tracing::subscriber::set_global_default(Lines::new(style, levels, write)).map_err(io::Error::other)?;
    panic::set_hook(Box::new(|panic| {
        // The message is left out: it may hold a value of the request.
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "a bug made a task panic; please report it");
        // The panic may end the process.
        let _ = writer.flush();
    }));
    Ok(())
}

/// Keeps the stop from waiting for an output that takes nothing: from now on, the log drops a warning that has no room.
pub fn stop_waiting() {
    if let Some(writer) = WRITER.get() {
        writer.stop_waiting();
    }
}

/// Waits until the log is written, for a few seconds at most. For the end of the process.
pub fn flush() {
    let Some(writer) = WRITER.get() else { return };
    writer.stop_waiting();
    if let Err(Lost { lines }) = writer.flush() {
        report_on_stderr(format!(
            "ably-clerk-auth: {lines} lines of the log are lost: standard output did not take them\n"
        ));
    }
}

/// Writes to standard error, which may be the same pipe: it may take nothing either.
fn report_on_stderr(text: String) {
    const PATIENCE: Duration = Duration::from_millis(500);
    let (written, is_written) = mpsc::channel();
    let write = move || {
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = written.send(());
    };
    let _ = thread::Builder::new().spawn(write);
    let _ = is_written.recv_timeout(PATIENCE);
}

/// The metrics of the log.
#[derive(Debug)]
pub struct LogCollector;

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = WRITER.get().map_or(0, Writer::dropped);
        let help = "Lines of the log that standard output did not take.";
        // The text format writes the samples of gauges and counters alike.
        encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?.encode_gauge(&dropped)
    }
}

/// The span around a request. Every event in it has these fields.
///
/// Its level is `error`, so that it exists at every log level.
#[must_use]
pub fn request_span(request_id: &str, client_address: Option<IpAddr>) -> Span {
    let client_address = client_address.map(address_text);
    tracing::error_span!("request", request_id, client_address)
}

/// An address as text, several times as fast as by the `Display` of an IPv4 address.
fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        for (unit, needed_from) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= needed_from {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_request_span_exists_at_every_level_and_has_an_address_only_if_known() {
        let written = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&written);
        let write = move |_, line: &str| writer.lock().unwrap().push_str(line);
        let levels = Targets::new().with_default(Level::ERROR);
        let subscriber = Lines::new(Style::Plain, levels, write);
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

    #[test]
    fn an_address_is_written_as_its_display() {
        let v4 = (0..=255_u8).flat_map(|octet| [[octet, 0, 9, 255], [10, octet, 99, 100], [1, 2, 3, octet]]);
        let v4 = v4.map(IpAddr::from);
        let v6 = ["::1", "2001:db8::1", "::ffff:192.0.2.7"].map(|address| address.parse().unwrap());
        for address in v4.chain(v6) {
            assert_eq!(address_text(address), address.to_string());
        }
    }

    /// Ends as a process does whose main thread panics: the test runner calls `exit` after it.
    #[test]
    #[ignore = "`the_last_lines_before_a_panic_are_written` runs it in a process of its own"]
    fn panics_after_a_line() {
        init(LogFormat::Json, Level::INFO).unwrap();
        tracing::info!("the last line");
        panic!("as intended");
    }

    #[test]
    fn the_last_lines_before_a_panic_are_written() {
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        let output = tests.args(["panics_after_a_line", "--ignored", "--nocapture"]).output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        let [line, panic] =
            ["the last line", "a bug made a task panic; please report it"].map(|message| log.find(message));
        assert!(line.is_some() && line < panic, "{log}");
        assert!(!log.contains("as intended"), "{log}");
    }
}
