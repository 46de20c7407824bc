//! What a policy would do for a session, in the service's own words: its executable, run as `explain --json` over the
//! policy's text.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::service::{CONFIGURATION, Program};

/// How many run at once, and how long one may take, its wait for the others included.
const MOST_CONCURRENT: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(5);
/// An explanation has a few lines a condition; this is many times that of the largest policy that is let in.
const OUTPUT_LIMIT: u64 = 4 * 1024 * 1024;

/// Something to explain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainRequest {
    /// The text of the configuration file.
    pub(super) policy: String,
    /// Whose session; without one, the policy is only checked.
    #[serde(default)]
    pub(super) session_token: Option<String>,
    /// What the client asks for.
    #[serde(default)]
    pub(super) params: Params,
}

/// Token params as a client writes them.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    capability: Option<String>,
    ttl: Option<String>,
    #[serde(rename = "clientId")]
    client_id: Option<String>,
}

/// What the service says.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ExplainReport {
    /// What `explain --json` prints; null when it could not begin, or there was no session to explain.
    explanation: Option<Value>,
    /// What is wrong with the policy, if anything.
    pub(super) problems: Vec<PolicyProblem>,
}

/// A mistake in the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PolicyProblem {
    /// Where it is, counted from 1; a problem of a setting has no place.
    at: Option<Position>,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Position {
    line: u32,
    column: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("the service took longer than {} s to explain, and was stopped", TIMEOUT.as_secs())]
    Timeout,
    #[error("the service cannot be run: {0}")]
    Run(#[from] io::Error),
    #[error("the service said nothing that this page understands")]
    Unintelligible,
}

/// Runs the service to explain.
pub(super) struct Explainer {
    program: Program,
    /// Where directories are made for each run.
    directory: PathBuf,
    places: Semaphore,
}

impl Explainer {
    pub(super) fn new(program: Program, directory: PathBuf) -> Self {
        Self { program, directory, places: Semaphore::new(MOST_CONCURRENT) }
    }

    pub(super) async fn explain(&self, request: &ExplainRequest) -> Result<ExplainReport, ExplainError> {
        let in_turn = async {
            let _place = self.places.acquire().await.map_err(io::Error::other)?;
            self.run(request).await
        };
        // Given up, the run is dropped, and its process killed.
        timeout(TIMEOUT, in_turn).await.map_err(|_| ExplainError::Timeout)?
    }

    async fn run(
        &self,
        ExplainRequest { policy, session_token, params }: &ExplainRequest,
    ) -> Result<ExplainReport, ExplainError> {
        let directory = tempfile::Builder::new().prefix("explain-").tempdir_in(&self.directory)?;
        fs::write(directory.path().join(CONFIGURATION), policy)?;
        // Nobody's claims do: whether a policy can be read depends on no session.
        let (source, input) = session_token.as_ref().map_or(("--claims", "{}"), |token| ("--session-token", token));
        let mut arguments = vec!["explain".to_owned(), source.to_owned(), "-".to_owned(), "--json".to_owned()];
        for (name, value) in [("capability", &params.capability), ("ttl", &params.ttl), ("clientId", &params.client_id)]
        {
            arguments.extend(value.iter().flat_map(|value| ["--param".to_owned(), format!("{name}={value}")]));
        }
        let mut child = self
            .program
            .command(directory.path(), arguments)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that reads nothing says why on its own.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), printed, complained) = tokio::join!(feed, text(stdout), text(stderr));
        let (printed, complained) = (printed?, complained?);
        child.wait().await?;
        if let Ok(explanation @ Value::Object(_)) = serde_json::from_str(&printed) {
            let explanation = session_token.as_ref().map(|_| explanation);
            return Ok(ExplainReport { explanation, problems: Vec::new() });
        }
        match problems(&complained) {
            problems if problems.is_empty() => Err(ExplainError::Unintelligible),
            problems => Ok(ExplainReport { explanation: None, problems }),
        }
    }
}

async fn text(from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut text = String::new();
    if let Some(from) = from {
        from.take(OUTPUT_LIMIT).read_to_string(&mut text).await?;
    }
    Ok(text)
}

/// The list of a refused configuration, or else all that was said, as one problem.
fn problems(complaint: &str) -> Vec<PolicyProblem> {
    let complaint = complaint.trim();
    let complaint = complaint.strip_prefix("ably-clerk-auth: ").unwrap_or(complaint);
    let Some((_heading, list)) = complaint.split_once("\n  - ") else {
        let whole = PolicyProblem { at: None, message: complaint.to_owned() };
        return if complaint.is_empty() { Vec::new() } else { vec![whole] };
    };
    // The last line tells someone in a terminal where help is.
    let list = list.rsplit_once("\nNothing was started.").map_or(list, |(list, _)| list);
    list.split("\n  - ").map(problem).collect()
}

fn problem(text: &str) -> PolicyProblem {
    match placed(text) {
        Some((at, message)) => PolicyProblem { at: Some(at), message: message.to_owned() },
        None => PolicyProblem { at: None, message: text.to_owned() },
    }
}

/// `ably-clerk-auth.toml, line 3, column 16: what is wrong`
fn placed(text: &str) -> Option<(Position, &str)> {
    let rest = text.strip_prefix(CONFIGURATION)?.strip_prefix(", line ")?;
    let (line, rest) = rest.split_once(", column ")?;
    let (column, message) = rest.split_once(": ")?;
    Some((Position { line: line.parse().ok()?, column: column.parse().ok()? }, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(complaint: &str) -> Vec<(Option<(u32, u32)>, String)> {
        let place = |Position { line, column }| (line, column);
        problems(complaint).into_iter().map(|PolicyProblem { at, message }| (at.map(place), message)).collect()
    }

    #[test]
    fn each_problem_of_a_configuration_is_told_with_its_place() {
        let complaint = "ably-clerk-auth: the configuration has 3 problems:\n  \
             - ably-clerk-auth.toml, line 3, column 16: [[grants]] number 1: the resource \"a: b\": no\n  \
             - SERVER_PORT ([server] port): not a port\n  \
             - ably-clerk-auth.toml, line 5, column 1: one\nand more\n\
             Nothing was started. `ably-clerk-auth --help` lists all settings.\n";
        let expected = [
            (Some((3, 16)), "[[grants]] number 1: the resource \"a: b\": no"),
            (None, "SERVER_PORT ([server] port): not a port"),
            (Some((5, 1)), "one\nand more"),
        ];
        assert_eq!(told(complaint), expected.map(|(at, message)| (at, message.to_owned())));
    }

    #[test]
    fn any_other_complaint_is_one_problem_and_silence_none() {
        assert_eq!(
            told("ably-clerk-auth: no session token was given\n"),
            [(None, "no session token was given".to_owned())]
        );
        assert!(told("\n").is_empty());
    }
}
