//! The lines of the log. One event is one line, whatever its values contain: they come from clients, Clerk, Ably, Redis and
//! operators.
//!
//! The layer escapes every value, so no call site can forget to. It escapes what Rust's `Debug` escapes: control characters,
//! line and paragraph separators, and invisible characters such as those that change the direction of text.

use std::{
    borrow::Cow,
    fmt::{self, Debug, Write as _},
    io,
};

use tracing::{Subscriber, field::Field};
use tracing_subscriber::{
    Layer,
    field::{RecordFields, Visit},
    fmt::{FormatFields, format::Writer, layer},
    registry::LookupSpan,
};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Whether lines for people have colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    On,
    Off,
}

/// Writes each event as one line of this format.
pub(super) fn lines<S, W>(
    format: LogFormat,
    colors: Colors,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: io::Write + 'static,
{
    let plain = layer().with_target(false).with_ansi(colors == Colors::On);
    match format {
        LogFormat::Json => Box::new(plain.json().flatten_event(true).with_writer(move || JsonLine(writer()))),
        LogFormat::Pretty => Box::new(plain.fmt_fields(QuotedFields).with_writer(writer)),
    }
}

/// Whether a character could break or disguise a line.
fn misleads(c: char) -> bool {
    !matches!(c, '"' | '\'' | '\\') && c.escape_debug().len() > 1
}

/// The message as it is, then `name="value"` for each field. Numbers and booleans have no quotes.
struct QuotedFields;

impl<'writer> FormatFields<'writer> for QuotedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = QuotingVisitor { writer, separator: "", outcome: Ok(()) };
        fields.record(&mut visitor);
        visitor.outcome
    }
}

struct QuotingVisitor<'writer> {
    writer: Writer<'writer>,
    separator: &'static str,
    outcome: fmt::Result,
}

impl QuotingVisitor<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let (before, between, after) =
            if self.writer.has_ansi_escapes() { ("\x1b[3m", "\x1b[0m\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let (separator, name) = (self.separator, field.name());
        self.separator = " ";
        self.outcome = self.outcome.and_then(|()| match name {
            "message" => write!(self.writer, "{separator}{value}"),
            _ => write!(self.writer, "{separator}{before}{name}{between}={after}{value}"),
        });
    }

    fn text(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.write(field, format_args!("{}", Unquoted(text)));
        } else {
            self.write(field, format_args!("{text:?}"));
        }
    }
}

impl Visit for QuotingVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    /// Also for what is logged by its `Display`, which may hold anything.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, format_args!("{value}"));
    }
}

/// A text with its misleading characters escaped.
struct Unquoted<'a>(&'a str);

impl fmt::Display for Unquoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| if misleads(c) { write!(f, "{}", c.escape_debug()) } else { f.write_char(c) })
    }
}

/// Also escapes what JSON allows as it is and a terminal, or a reader of lines, may obey. The JSON means the same.
struct JsonLine<W>(W);

impl<W: io::Write> io::Write for JsonLine<W> {
    /// Takes whole lines: the layer writes each at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_plain = line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n'));
        if is_plain {
            self.0.write_all(line)?;
        } else {
            self.0.write_all(escape_in_json(&String::from_utf8_lossy(line)).as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// JSON with the misleading characters in its texts as `\uXXXX`.
fn escape_in_json(json: &str) -> Cow<'_, str> {
    let is_to_escape = |c: char| c != '\n' && misleads(c);
    if !json.contains(is_to_escape) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_to_escape(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A String takes everything.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use std::{
        error::Error,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// A line break and a line that looks like the service's own, a terminal's commands in both encodings, a deletion, line
    /// separators, and characters that turn text around or do not show.
    const HOSTILE: &str = "a\r\n2026-01-01T00:00:00Z  INFO token issued\u{1b}[2J\u{9b}31m\u{7f}\u{85}\u{2028}\u{2029}\
                           \u{202e}\u{2066}\u{200b}\u{feff}\u{e0001}\" client_id=\"b";

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, colors: Colors, log: impl Fn()) -> String {
        let written = Log::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, colors, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// In every way that a value gets into an event.
    fn log_hostile_values() {
        let error = io::Error::other(HOSTILE);
        tracing::info!(text = HOSTILE, option = Some(HOSTILE), "str");
        tracing::warn!(display = %HOSTILE, debug = ?HOSTILE, %error, "formatted");
        tracing::error!(error = &error as &(dyn Error + 'static), "error");
        tracing::info!("interpolated: {HOSTILE}");
        tracing::info!(message = HOSTILE);
        let span = tracing::info_span!("span", text = HOSTILE, display = %HOSTILE, late = tracing::field::Empty);
        span.record("late", tracing::field::display(HOSTILE));
        let _inside = span.enter();
        tracing::info!("in a span");
    }

    #[test]
    fn no_value_breaks_or_disguises_a_line_in_either_format() {
        for format in [LogFormat::Pretty, LogFormat::Json] {
            let log = logged(format, Colors::Off, log_hostile_values);
            assert_eq!(log.lines().count(), 6, "{log}");
            let hostile = log.chars().find(|&c| c != '\n' && misleads(c));
            assert_eq!(hostile, None, "{log:?}");
        }
    }

    #[test]
    fn text_is_quoted_and_numbers_are_not() {
        let log = logged(LogFormat::Pretty, Colors::Off, || {
            tracing::info!(text = "it's \\ \"so\"", display = %"größer", n = -1, m = 2_u16, yes = true, "user's \"text\"");
        });
        let fields = r#"INFO user's "text" text="it's \\ \"so\"" display="größer" n=-1 m=2 yes=true"#;
        assert_eq!(log.split_once("  ").unwrap().1, format!("{fields}\n"));
    }

    #[test]
    fn a_terminal_obeys_only_the_colors_of_the_log_itself() {
        let log = logged(LogFormat::Pretty, Colors::On, log_hostile_values);
        assert!(log.contains("\x1b[3mtext\x1b[0m"), "{log}");
        let without_colors = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[3m", "\x1b[31m", "\x1b[32m", "\x1b[33m"]
            .iter()
            .fold(log, |log, color| log.replace(color, ""));
        assert_eq!(without_colors.chars().find(|&c| c != '\n' && misleads(c)), None, "{without_colors:?}");
    }

    #[test]
    fn a_line_of_json_says_what_it_said_before_it_was_escaped() {
        let log = logged(LogFormat::Json, Colors::Off, || tracing::info!(text = HOSTILE, display = %HOSTILE, "m"));
        let line: Value = serde_json::from_str(&log).unwrap();
        assert_eq!((&line["text"], &line["display"]), (&HOSTILE.into(), &HOSTILE.into()));
        assert_eq!(escape_in_json("{\"a\":\"größer \u{1f600}\"}\n"), "{\"a\":\"größer \u{1f600}\"}\n");
    }
}
