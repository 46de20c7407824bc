//! The service's log on its way to whoever started the sandbox. Every line is passed on as it is; those that tell what
//! the service made of a changed policy are understood too, since nothing else tells it.

use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Write};
use std::thread::{self, JoinHandle};

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// The format that the service would choose itself if it wrote there.
    pub(super) fn format(self) -> &'static str {
        let is_terminal = match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        };
        if is_terminal { "pretty" } else { "json" }
    }
}

/// What the service events of a configuration file that changed under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReloadEvent {
    /// Its policy is in force.
    Reloaded,
    /// It is broken; nothing changed.
    Refused,
    /// It takes the rules away that are in force; nothing changed.
    RemovesRules,
    /// Other settings of this section changed too, and need a restart. Comes before [`ReloadEvent::Reloaded`].
    NeedsRestart(String),
}

/// Passes the log on until it ends, on a thread of its own: whoever reads the output may let it wait.
pub(super) fn pass_on(
    log: PipeReader,
    output: Output,
    events: UnboundedSender<ReloadEvent>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("service-log".to_owned()).spawn(move || {
        let mut log = BufReader::new(log);
        let mut line = Vec::new();
        while matches!(log.read_until(b'\n', &mut line), Ok(1..)) {
            // When nobody reads the log any more, the service must be able to write it all the same.
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

/// A line in either of the service's formats.
fn parse_reload_event(line: &str) -> Option<ReloadEvent> {
    let event = serde_json::from_str(line).ok().or_else(|| pretty(line))?;
    let says = |beginning| event.message.starts_with(beginning);
    if says("the policy is reloaded") {
        Some(ReloadEvent::Reloaded)
    } else if says("the new configuration is refused") {
        Some(ReloadEvent::Refused)
    } else if says("the new configuration takes the policy away") {
        Some(ReloadEvent::RemovesRules)
    } else if says("changed settings of this section take effect with a restart") {
        Some(ReloadEvent::NeedsRestart(event.section.unwrap_or_default()))
    } else {
        None
    }
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
    fn what_the_service_says_of_a_changed_policy_is_understood_in_both_formats() {
        for (message, fields, json_fields, expected) in [
            ("the policy is reloaded", " rules=3", r#","rules":3"#, Some(ReloadEvent::Reloaded)),
            ("the new configuration is refused; the old policy stays in force", "", "", Some(ReloadEvent::Refused)),
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
}
