//! What a command prints on the standard output.

use std::time::Duration;

use crate::ably::Ttl;

/// The output of a command, and whether its exit code is 0.
#[derive(Default)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) is_success: bool,
}

impl Output {
    /// The output of a command that prints nothing if all is well.
    pub(super) const SILENCE: Self = Self { text: String::new(), is_success: true };
}

/// The text without control characters, which could send commands to a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A ttl like `1h 30m`.
pub(super) fn in_words(ttl: Ttl) -> String {
    humantime::format_duration(Duration::from_millis(ttl.as_millis())).to_string()
}
