//! The lines of the log. One event is one line, whatever its values contain: they come from clients, Clerk, Ably, Redis and
//! operators.
//!
//! [`Lines`] escapes every value, so no call site can forget to. It escapes what Rust's `Debug` escapes: control characters,
//! line and paragraph separators, and invisible characters such as those that change the direction of text.
//!
//! A line is formatted once, into a buffer that each thread uses again.

use std::{
    cell::Cell,
    fmt::{self, Debug, Display, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_core::span::Current;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::spans::{self, Spans, innermost};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Plain,
    Colored,
}

/// Passes each event to `write` as one line: the event's own fields, then those of the spans around it.
pub(super) struct Lines<F> {
    style: Style,
    levels: Targets,
    spans: Spans<Fields>,
    write: F,
}

impl<F> Lines<F> {
    /// Logs what `levels` lets through.
    pub(super) fn new(style: Style, levels: Targets, write: F) -> Self {
        Self { style, levels, spans: Spans::default(), write }
    }
}

impl<F: Fn(Level, &str) + 'static> Subscriber for Lines<F> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.levels.iter().map(|(_, level)| level).chain(self.levels.default_level()).max()
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let parent = if attributes.is_contextual() { innermost() } else { attributes.parent().cloned() };
        with_fields(|fields| {
            attributes.record(&mut Formatter { style: self.style, fields });
            self.spans.open(attributes.metadata(), parent, |span| {
                span.clear();
                span.append(fields);
            })
        })
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        with_fields(|fields| {
            values.record(&mut Formatter { style: self.style, fields });
            self.spans.change(id, |span| span.append(fields));
        });
    }

    fn record_follows_from(&self, _id: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let span = if event.is_contextual() { innermost() } else { event.parent().cloned() };
        with_fields(|fields| {
            let mut line = Formatter { style: self.style, fields };
            line.begin(level);
            event.record(&mut line);
            self.spans.read_outwards(span, |fields| line.fields.append(fields));
            (self.write)(level, line.end());
        });
    }

    fn enter(&self, id: &Id) {
        spans::enter(id);
    }

    fn exit(&self, id: &Id) {
        spans::exit(id);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.spans.add_handle(id);
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.spans.drop_handle(&id)
    }

    fn current_span(&self) -> Current {
        self.spans.current()
    }
}

/// Lends this thread's buffer for fields, empty.
fn with_fields<R>(format: impl FnOnce(&mut Fields) -> R) -> R {
    const KEPT_CAPACITY: usize = 16 * 1024;
    thread_local! {
        static FIELDS: Cell<Fields> = const { Cell::new(Fields::EMPTY) };
    }
    // A value that is formatted may log a line itself: that one gets a new buffer.
    let mut fields = FIELDS.try_with(Cell::take).unwrap_or_default();
    let result = format(&mut fields);
    if fields.text.capacity() <= KEPT_CAPACITY {
        fields.clear();
        let _ = FIELDS.try_with(|kept| kept.set(fields));
    }
    result
}

/// The line that says how many lines were dropped.
pub(super) fn dropped_lines(style: Style, dropped: u64) -> String {
    with_fields(|fields| {
        let mut line = Formatter { style, fields };
        line.begin(Level::WARN);
        line.text("message", |text| text.write_str("lines of the log were dropped: the output did not take them"));
        line.value("dropped", dropped, dropped);
        line.end().to_owned()
    })
}

/// Fields as text. Of several fields with one name, the first counts.
#[derive(Default)]
struct Fields {
    text: String,
    /// The name of each field, and where its text ends.
    ends: Vec<(&'static str, usize)>,
    names: Names,
}

impl Fields {
    const EMPTY: Self = Self { text: String::new(), ends: Vec::new(), names: Names(0) };

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.names = Names::default();
    }

    fn has(&self, name: &str) -> bool {
        self.names.meets(Names::of(name)) && self.ends.iter().any(|(known, _)| *known == name)
    }

    fn end(&mut self, name: &'static str) {
        self.names.add(Names::of(name));
        self.ends.push((name, self.text.len()));
    }

    /// Appends the fields of a span whose names are new.
    fn append(&mut self, span: &Self) {
        if !self.names.meets(span.names) {
            let start = self.text.len();
            self.text.push_str(&span.text);
            self.ends.extend(span.ends.iter().map(|(name, end)| (*name, start + end)));
            self.names.add(span.names);
            return;
        }
        let mut start = 0;
        for &(name, end) in &span.ends {
            if !self.has(name) {
                self.text.push_str(span.text.get(start..end).unwrap_or_default());
                self.end(name);
            }
            start = end;
        }
    }
}

/// A set that may hold a name: a bit for each, which names can share.
#[derive(Clone, Copy, Default)]
struct Names(u64);

impl Names {
    fn of(name: &str) -> Self {
        let [first, .., last] = name.as_bytes() else { return Self(1) };
        Self(1 << ((usize::from(*first) * 7 + usize::from(*last) * 13 + name.len()) % 64))
    }

    fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

/// Adds fields as text.
struct Formatter<'a> {
    style: Style,
    fields: &'a mut Fields,
}

// Writing to a String cannot fail.
impl Formatter<'_> {
    fn begin(&mut self, level: Level) {
        let text = &mut self.fields.text;
        match self.style {
            Style::Json => {
                text.push_str(r#"{"timestamp":""#);
                push_now(text);
                text.push_str(r#"","level":""#);
                text.push_str(level.as_str());
                text.push('"');
            }
            Style::Plain => {
                push_now(text);
                let _ = write!(text, " {level:>5}");
            }
            Style::Colored => {
                text.push_str("\x1b[2m");
                push_now(text);
                let _ = write!(text, "\x1b[0m \x1b[{}m{level:>5}\x1b[0m", color(level));
            }
        }
        self.fields.end("timestamp");
        self.fields.end("level");
    }

    /// Ends the line, and returns it.
    fn end(&mut self) -> &str {
        self.fields.text.push_str(if self.style == Style::Json { "}\n" } else { "\n" });
        &self.fields.text
    }

    /// Adds a field, unless there is one of this name.
    fn field(&mut self, name: &'static str, write: impl FnOnce(&mut String)) {
        if self.fields.has(name) {
            return;
        }
        let text = &mut self.fields.text;
        let [before, after] = match self.style {
            Style::Json => [",\"", "\":"],
            Style::Plain => [" ", "="],
            Style::Colored => [" \x1b[3m", "\x1b[0m\x1b[2m=\x1b[0m"],
        };
        for part in [before, name, after] {
            text.push_str(part);
        }
        write(text);
        self.fields.end(name);
    }

    /// Adds a text in quotes.
    fn text(&mut self, name: &'static str, write: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) {
        let escape = if self.style == Style::Json { escape_for_json } else { escape_for_quotes };
        if self.style != Style::Json && name == "message" {
            self.fields.text.push(' ');
            let _ = write(&mut Escaped { text: &mut self.fields.text, escape: escape_unquoted });
            return;
        }
        self.field(name, |text| {
            text.push('"');
            let _ = write(&mut Escaped { text, escape });
            text.push('"');
        });
    }

    /// Adds a number or boolean.
    fn value(&mut self, name: &'static str, json: impl Display, plain: impl Debug) {
        let style = self.style;
        self.field(name, |text| {
            let _ = if style == Style::Json { write!(text, "{json}") } else { write!(text, "{plain:?}") };
        });
    }
}

impl Visit for Formatter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), |text| text.write_str(value));
    }

    /// Also for values that are logged by their `Display`, which may contain anything.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), |text| write!(text, "{value:?}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field.name(), value, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field.name(), value, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field.name(), value, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field.name(), serde_json::Value::from(value), value);
    }
}

/// Adds the current time in UTC, with microseconds.
fn push_now(text: &mut String) {
    thread_local! {
        /// The second that was last formatted on this thread, and its text.
        static SECOND: Cell<(u64, String)> = const { Cell::new((0, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut formatted) = SECOND.try_with(Cell::take).unwrap_or_default();
    if second != now.as_secs() || formatted.is_empty() {
        second = now.as_secs();
        formatted.clear();
        let time = UNIX_EPOCH + Duration::from_secs(second);
        let _ = write!(formatted, "{}", humantime::format_rfc3339_seconds(time));
    }
    text.push_str(formatted.trim_end_matches('Z'));
    let _ = SECOND.try_with(|kept| kept.set((second, formatted)));
    text.push('.');
    let micros = now.subsec_micros();
    text.extend([100_000, 10_000, 1000, 100, 10, 1].iter().filter_map(|unit| char::from_digit(micros / unit % 10, 10)));
    text.push('Z');
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

/// Adds what is written to `text`, escaped.
struct Escaped<'a> {
    text: &'a mut String,
    escape: fn(&str) -> String,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        // Not `all`, which would look at one byte at a time.
        if piece.bytes().fold(true, |all, byte| all & is_plain(byte)) {
            self.text.push_str(piece);
        } else {
            self.text.push_str(&(self.escape)(piece));
        }
        Ok(())
    }
}

/// Whether a byte stands for itself in every style.
#[expect(clippy::needless_bitwise_bool, reason = "without branches, many bytes are compared at once")]
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

/// Whether a character could break or disguise a line.
fn misleads(c: char) -> bool {
    !matches!(c, ' '..='~') && c.escape_debug().len() > 1
}

/// Text between quotes in JSON, with misleading characters as `\uXXXX`.
fn escape_for_json(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap_or_default();
    let text = without_quotes(&json);
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Text between quotes, as Rust's `Debug` has it.
fn escape_for_quotes(text: &str) -> String {
    without_quotes(&format!("{text:?}")).to_owned()
}

fn without_quotes(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default()
}

/// Text without quotes around it.
fn escape_unquoted(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) {
            escaped.extend(c.escape_debug());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::{
        error::Error,
        io, panic,
        sync::{Arc, Mutex},
        thread,
    };

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// A line break and a line that looks like the service's own, terminal commands in both encodings, a deletion, line
    /// separators, and characters that reverse text or are invisible.
    const HOSTILE: &str = "a\r\n2026-01-01T00:00:00Z  INFO token issued\u{1b}[2J\u{9b}31m\u{7f}\u{85}\u{2028}\u{2029}\
                           \u{202e}\u{2066}\u{200b}\u{feff}\u{e0001}\" client_id=\"b";

    fn logged(style: Style, log: impl Fn()) -> String {
        let written = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&written);
        let write = move |_, line: &str| writer.lock().unwrap().push_str(line);
        let levels = Targets::new().with_default(Level::TRACE);
        tracing::subscriber::with_default(Lines::new(style, levels, write), log);
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
        assert_eq!(escape_for_json("größer \u{1f600}"), "größer \u{1f600}");
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

    /// What the quoted and the unquoted text of each style must be, without shortcuts.
    fn expected(style: Style, text: &str) -> [String; 2] {
        if style == Style::Json {
            let json = serde_json::to_string(text).unwrap();
            let units = |c: char| c.encode_utf16(&mut [0; 2]).to_vec();
            let escape = |c: char| match units(c).as_slice() {
                _ if !misleads(c) => c.to_string(),
                [high, low] => format!("\\u{high:04x}\\u{low:04x}"),
                units => format!("\\u{:04x}", units[0]),
            };
            let json: String = json.chars().map(escape).collect();
            [json.clone(), json]
        } else {
            let escape = |c: char| if misleads(c) { c.escape_debug().to_string() } else { c.to_string() };
            [format!("{text:?}"), text.chars().map(escape).collect()]
        }
    }

    /// Displays its texts one after the other, as a `Display` with several pieces does.
    struct Pieces<'a>(&'a [String]);

    impl Debug for Pieces<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|piece| f.write_str(piece))
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let hostile = proptest::sample::select(HOSTILE.chars().collect::<Vec<_>>());
        let c = prop_oneof![any::<char>(), proptest::char::range('\0', '\u{ff}'), hostile];
        prop_oneof!["[ -~]{0,40}", proptest::collection::vec(c, 0..40).prop_map(String::from_iter)]
    }

    proptest! {
        #[test]
        fn any_text_in_any_pieces_is_escaped_as_it_is_without_the_shortcut_for_plain_text(
            pieces in proptest::collection::vec(any_text(), 0..4),
        ) {
            let text = pieces.concat();
            for style in [Style::Json, Style::Plain, Style::Colored] {
                let [quoted, unquoted] = expected(style, &text);
                let log = logged(style, || {
                    tracing::info!(message = &*text, text = &*text);
                    tracing::info!(message = ?Pieces(&pieces), text = ?Pieces(&pieces));
                });
                let fields = match style {
                    Style::Json => format!(r#""message":{quoted},"text":{quoted}}}"#),
                    Style::Plain => format!("INFO {unquoted} text={quoted}"),
                    Style::Colored => format!("INFO\u{1b}[0m {unquoted} \u{1b}[3mtext\u{1b}[0m\u{1b}[2m=\u{1b}[0m{quoted}"),
                };
                prop_assert_eq!(log.lines().count(), 2);
                for line in log.lines() {
                    prop_assert!(line.ends_with(&fields), "{:?} {:?}", line, fields);
                }
            }
        }
    }

    #[test]
    fn the_time_is_now_in_utc_with_microseconds() {
        let micros = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_micros();
        for _ in 0..1000 {
            let before = micros(SystemTime::now());
            let log = logged(Style::Plain, || tracing::info!("now"));
            let time = log.split(' ').next().unwrap();
            let logged = micros(humantime::parse_rfc3339(time).unwrap());
            assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{time}");
            assert!((before..=micros(SystemTime::now())).contains(&logged), "{time}");
        }
    }

    #[test]
    fn numbers_are_written_as_before() {
        let log =
            || tracing::info!(a = i64::MIN, b = u64::MAX, c = 1.5, d = 1e300, e = f64::NAN, f = false, g = u128::MAX);
        for (style, expected) in [
            (
                Style::Plain,
                "a=-9223372036854775808 b=18446744073709551615 c=1.5 d=1e300 e=NaN f=false \
                 g=\"340282366920938463463374607431768211455\"\n",
            ),
            (
                Style::Json,
                r#""a":-9223372036854775808,"b":18446744073709551615,"c":1.5,"d":1e+300,"e":null,"f":false,"#,
            ),
        ] {
            let log = logged(style, log);
            assert!(log.contains(expected), "{log} {expected}");
        }
    }

    struct Unformattable;

    impl Debug for Unformattable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("a value that cannot be formatted");
        }
    }

    #[test]
    fn a_value_that_panics_leaves_nothing_in_later_lines() {
        let log = logged(Style::Plain, || {
            panic::catch_unwind(|| tracing::info!(text = "first", value = ?Unformattable)).unwrap_err();
            tracing::info!("second");
        });
        assert_eq!(log.split_once("  ").unwrap().1, "INFO second\n");
    }

    #[test]
    fn a_line_that_is_logged_within_another_has_a_buffer_of_its_own() {
        with_fields(|outer| {
            outer.text.push_str("outer");
            with_fields(|inner| assert_eq!(inner.text, ""));
            assert_eq!(outer.text, "outer");
        });
        with_fields(|later| assert_eq!(later.text, ""));
    }

    #[test]
    fn the_notice_of_dropped_lines_has_the_form_of_the_others() {
        let json: Value = serde_json::from_str(&dropped_lines(Style::Json, 7)).unwrap();
        assert_eq!((&json["level"], &json["dropped"]), (&"WARN".into(), &7.into()));
        let plain = dropped_lines(Style::Plain, 7);
        let (_, text) = plain.split_once(' ').unwrap();
        assert_eq!(text, " WARN lines of the log were dropped: the output did not take them dropped=7\n");
    }

    #[test]
    fn a_span_outlives_its_scope_as_long_as_a_handle_or_a_child_needs_it() {
        let log = logged(Style::Plain, || {
            let outer = tracing::info_span!("outer", outer = 1);
            let inner = outer.in_scope(|| tracing::info_span!("inner", inner = 2));
            drop(outer);
            // It takes the next place.
            let _other = tracing::info_span!("other", other = 3);
            inner.in_scope(|| tracing::info!("in both"));
            let again = inner.in_scope(tracing::Span::current);
            drop(inner);
            thread::scope(|scope| {
                let dispatch = tracing::dispatcher::get_default(Clone::clone);
                scope.spawn(move || {
                    tracing::dispatcher::with_default(&dispatch, || {
                        tracing::info!("in none");
                        again.in_scope(|| tracing::info!("on another thread"));
                    });
                });
            });
            let parent = tracing::info_span!("parent", parent = 4);
            tracing::info!(parent: &parent, "of a parent");
            parent.in_scope(|| tracing::info!(parent: None, "of no parent"));
        });
        let lines: Vec<_> = log.lines().map(|line| line.split_once("  INFO ").unwrap().1).collect();
        assert_eq!(
            lines,
            [
                "in both inner=2 outer=1",
                "in none",
                "on another thread inner=2 outer=1",
                "of a parent parent=4",
                "of no parent",
            ]
        );
    }
}
