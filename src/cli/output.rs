//! What a command prints on the standard output.

use std::time::Duration;

use crate::ably::Ttl;

/// The output of a command. The default: success, in silence.
#[derive(Default)]
pub(super) struct Output {
    pub(super) text: String,
    /// Whether the exit code is 1.
    pub(super) has_failed: bool,
}

/// The text without control characters, which could send commands to a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A ttl like `1h 30m`.
pub(super) fn in_words(ttl: Ttl) -> String {
    humantime::format_duration(Duration::from_millis(ttl.as_millis())).to_string()
}
