//! Passes on the service's log, and recognizes the messages about a changed policy, which the service reports nowhere
//! else.

use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Write};
use std::thread::{self, JoinHandle};

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;

/// The destination of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// The format that the service chooses for this destination.
    pub(super) fn format(self) -> &'static str {
        let is_terminal = match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        };
        if is_terminal { "pretty" } else { "json" }
    }
}

/// A log message about a changed configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReloadEvent {
    /// The new policy is in force.
    Reloaded,
    /// The configuration is invalid; nothing changed.
    Rejected,
    /// The new policy has no rules; nothing changed.
    RemovesRules,
    /// Other settings of this section changed and need a restart. Precedes [`ReloadEvent::Reloaded`].
    NeedsRestart(String),
}

/// How the service's messages begin.
const MESSAGES: [(&str, ReloadEvent); 4] = [
    ("the policy is reloaded", ReloadEvent::Reloaded),
    ("the new configuration is refused", ReloadEvent::Rejected),
    ("the new configuration takes the policy away", ReloadEvent::RemovesRules),
    ("changed settings of this section take effect with a restart", ReloadEvent::NeedsRestart(String::new())),
];

/// Passes the log on until it ends. It has its own thread, because the reader of the output may be slow.
pub(super) fn pass_on(
    log: PipeReader,
    output: Output,
    events: UnboundedSender<ReloadEvent>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("service-log".to_owned()).spawn(move || {
        let mut log = BufReader::new(log);
        let mut line = Vec::new();
        while matches!(log.read_until(b'\n', &mut line), Ok(1..)) {
            // The service must be able to write even if the output is closed.
            let _ = match output {
                Output::Stdout => io::stdout().write_all(&line),
                Output::Stderr => io::stderr().write_all(&line),
            };
            if let Some(event) = str::from_utf8(&line).ok().and_then(parse_reload_event) {
                let _ = events.send(event);
            }
            line.clear();
        }
    })
}

#[derive(Deserialize)]
struct LogLine {
    message: String,
    section: Option<String>,
}

/// Parses a line in either log format.
fn parse_reload_event(line: &str) -> Option<ReloadEvent> {
    let LogLine { message, section } = serde_json::from_str(line).ok().or_else(|| pretty(line))?;
    let (_, event) = MESSAGES.into_iter().find(|(beginning, _)| message.starts_with(beginning))?;
    Some(match event {
        ReloadEvent::NeedsRestart(_) => ReloadEvent::NeedsRestart(section.unwrap_or_default()),
        event => event,
    })
}

/// Time, level, message, fields.
fn pretty(line: &str) -> Option<LogLine> {
    let (_time, rest) = line.trim().split_once(' ')?;
    let (_level, message) = rest.trim_start().split_once(' ')?;
    let section = message.rsplit_once("section=\"").and_then(|(_, rest)| rest.split_once('"'));
    Some(LogLine { message: message.to_owned(), section: section.map(|(section, _)| section.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_about_a_changed_policy_are_recognized_in_both_formats() {
        for (message, fields, json_fields, expected) in [
            ("the policy is reloaded", " rules=3", r#","rules":3"#, Some(ReloadEvent::Reloaded)),
            ("the new configuration is refused; the old policy stays in force", "", "", Some(ReloadEvent::Rejected)),
            ("the new configuration takes the policy away; the old", "", "", Some(ReloadEvent::RemovesRules)),
            (
                "changed settings of this section take effect with a restart",
                r#" section="token""#,
                r#","section":"token""#,
                Some(ReloadEvent::NeedsRestart("token".to_owned())),
            ),
            // A rule can have any name.
            ("token issued", r#" rules=["the policy is reloaded"]"#, r#","rules":["the policy is reloaded"]"#, None),
        ] {
            let pretty = format!("2026-11-21T23:57:26.452817Z  INFO {message}{fields}\n");
            assert_eq!(parse_reload_event(&pretty), expected, "{pretty}");
            let json = format!(r#"{{"timestamp":"2026","level":"INFO","message":"{message}"{json_fields}}}"#);
            assert_eq!(parse_reload_event(&json), expected, "{json}");
        }
        assert_eq!(parse_reload_event("\n"), None);
    }

    #[test]
    fn the_service_has_these_messages() {
        let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../src/reload.rs")).unwrap();
        for (message, _) in MESSAGES {
            assert!(source.contains(message), "{message}");
        }
    }
}
