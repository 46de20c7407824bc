//! The lines of the log. One event is one line, whatever its values contain: they come from clients, Clerk, Ably, Redis and
//! operators.
//!
//! The layer escapes every value, so no call site can forget to. It escapes what Rust's `Debug` escapes: control characters,
//! line and paragraph separators, and invisible characters such as those that change the direction of text.

use std::{
    borrow::Cow,
    fmt::{self, Debug, Write as _},
    time::SystemTime,
};

use serde::Serialize;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Plain,
    Colored,
}

/// Passes each event to `write` as one line: the event's own fields, then those of the spans around it.
pub(super) struct Lines<F> {
    pub(super) style: Style,
    pub(super) write: F,
}

impl<F> Lines<F> {
    fn fields(&self) -> Fields {
        Fields { style: self.style, text: String::new(), ends: Vec::new() }
    }
}

impl<S, F> Layer<S> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn(&str) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = self.fields();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = self.fields();
        line.begin(*event.metadata().level());
        event.record(&mut line);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.append(fields);
            }
        }
        line.text.push_str(if self.style == Style::Json { "}\n" } else { "\n" });
        (self.write)(&line.text);
    }
}

/// Fields as text. Of several fields with one name, the first counts.
struct Fields {
    style: Style,
    text: String,
    /// The name of each field, and where its text ends.
    ends: Vec<(&'static str, usize)>,
}

impl Fields {
    fn begin(&mut self, level: Level) {
        let time = humantime::format_rfc3339_micros(SystemTime::now());
        self.ends.extend([("timestamp", 0), ("level", 0)]);
        // Writing to a String cannot fail, here and below.
        let _ = match self.style {
            Style::Json => write!(self.text, r#"{{"timestamp":"{time}","level":"{level}""#),
            Style::Plain => write!(self.text, "{time} {level:>5}"),
            Style::Colored => {
                write!(self.text, "\x1b[2m{time}\x1b[0m \x1b[{}m{level:>5}\x1b[0m", color(level))
            }
        };
    }

    fn has(&self, name: &str) -> bool {
        self.ends.iter().any(|(known, _)| *known == name)
    }

    /// Adds a text in quotes, or a number or boolean without.
    fn value(&mut self, field: &Field, value: impl Debug + Serialize) {
        let name = field.name();
        if self.has(name) {
            return;
        }
        let _ = match self.style {
            Style::Json => {
                let json = serde_json::to_string(&value).unwrap_or_default();
                write!(self.text, r#","{name}":{}"#, escape_in_json(&json))
            }
            Style::Plain => write!(self.text, " {name}={value:?}"),
            Style::Colored => write!(self.text, " \x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value:?}"),
        };
        self.ends.push((name, self.text.len()));
    }

    /// Appends the fields of a span whose names are new.
    fn append(&mut self, span: &Self) {
        let mut start = 0;
        for &(name, end) in &span.ends {
            if !self.has(name) {
                self.text.push_str(span.text.get(start..end).unwrap_or_default());
                self.ends.push((name, self.text.len()));
            }
            start = end;
        }
    }
}

fn color(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.style != Style::Json && field.name() == "message" {
            let _ = write!(self.text, " {}", Unquoted(value));
        } else {
            self.value(field, value);
        }
    }

    /// Also for values that are logged by their `Display`, which may contain anything.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, value);
    }
}

/// Whether a character could break or disguise a line.
fn misleads(c: char) -> bool {
    !matches!(c, ' '..='~') && c.escape_debug().len() > 1
}

/// Displays a text with misleading characters escaped.
struct Unquoted<'a>(&'a str);

impl fmt::Display for Unquoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| if misleads(c) { write!(f, "{}", c.escape_debug()) } else { f.write_char(c) })
    }
}

/// JSON with the misleading characters in its texts as `\uXXXX`.
fn escape_in_json(json: &str) -> Cow<'_, str> {
    if !json.contains(misleads) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if misleads(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
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
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// A line break and a line that looks like the service's own, terminal commands in both encodings, a deletion, line
    /// separators, and characters that reverse text or are invisible.
    const HOSTILE: &str = "a\r\n2026-01-01T00:00:00Z  INFO token issued\u{1b}[2J\u{9b}31m\u{7f}\u{85}\u{2028}\u{2029}\
                           \u{202e}\u{2066}\u{200b}\u{feff}\u{e0001}\" client_id=\"b";

    fn logged(style: Style, log: impl Fn()) -> String {
        let written = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&written);
        let write = move |line: &str| writer.lock().unwrap().push_str(line);
        let subscriber = tracing_subscriber::registry().with(Lines { style, write });
        tracing::subscriber::with_default(subscriber, log);
        written.lock().unwrap().clone()
    }

    /// Logs the value in every way that an event or span can.
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
        for style in [Style::Plain, Style::Json] {
            let log = logged(style, log_hostile_values);
            assert_eq!(log.lines().count(), 6, "{log}");
            let hostile = log.chars().find(|&c| c != '\n' && misleads(c));
            assert_eq!(hostile, None, "{log:?}");
        }
    }

    #[test]
    fn text_is_quoted_and_numbers_are_not() {
        let log = logged(Style::Plain, || {
            tracing::info!(text = "it's \\ \"so\"", display = %"größer", n = -1, m = 2_u16, yes = true, "user's \"text\"");
        });
        let fields = r#"INFO user's "text" text="it's \\ \"so\"" display="größer" n=-1 m=2 yes=true"#;
        assert_eq!(log.split_once("  ").unwrap().1, format!("{fields}\n"));
    }

    #[test]
    fn a_terminal_obeys_only_the_colors_of_the_log_itself() {
        let log = logged(Style::Colored, log_hostile_values);
        assert!(log.contains("\x1b[3mtext\x1b[0m"), "{log}");
        let without_colors = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[3m", "\x1b[31m", "\x1b[32m", "\x1b[33m"]
            .iter()
            .fold(log, |log, color| log.replace(color, ""));
        assert_eq!(without_colors.chars().find(|&c| c != '\n' && misleads(c)), None, "{without_colors:?}");
    }

    #[test]
    fn escaping_does_not_change_the_meaning_of_json() {
        let log = logged(Style::Json, || tracing::info!(text = HOSTILE, display = %HOSTILE, "m"));
        let line: Value = serde_json::from_str(&log).unwrap();
        assert_eq!((&line["text"], &line["display"]), (&HOSTILE.into(), &HOSTILE.into()));
        assert_eq!(escape_in_json("\"größer \u{1f600}\""), "\"größer \u{1f600}\"");
    }

    #[test]
    fn an_event_has_the_fields_of_the_spans_around_it_once_each_and_the_nearest_value() {
        let in_spans = || {
            let outer = tracing::info_span!("outer", request_id = "a\nb", client_address = "1.2.3.4", user = "outer");
            let _outer = outer.enter();
            tracing::info!(tenant = "t", "first");
            let inner = tracing::info_span!("inner", user = 7, late = tracing::field::Empty, never = None::<&str>);
            inner.record("late", true);
            let _inner = inner.enter();
            tracing::info!(request_id = "its own", level = "a field", "second");
        };
        let pretty = logged(Style::Plain, in_spans);
        let lines: Vec<_> = pretty.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        assert_eq!(
            lines,
            [
                r#"INFO first tenant="t" request_id="a\nb" client_address="1.2.3.4" user="outer""#,
                r#"INFO second request_id="its own" user=7 late=true client_address="1.2.3.4""#,
            ]
        );
        let json = logged(Style::Json, in_spans);
        let lines: Vec<_> = json.lines().map(|line| line.split_once(r#","level":"#).unwrap().1).collect();
        assert_eq!(
            lines,
            [
                r#""INFO","message":"first","tenant":"t","request_id":"a\nb","client_address":"1.2.3.4","user":"outer"}"#,
                r#""INFO","message":"second","request_id":"its own","user":7,"late":true,"client_address":"1.2.3.4"}"#,
            ]
        );
    }
}
