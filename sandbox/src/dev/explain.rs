//! Explains what a policy gives a session, by running the service with `explain --json`.

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

/// The most concurrent runs, and the time limit of one, including its wait for the others.
const MOST_CONCURRENT: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Many times the output for the largest accepted policy.
const OUTPUT_LIMIT: u64 = 4 * 1024 * 1024;

/// The beginning of the last line of the service's error message, which is for terminals.
const TERMINAL_HINT: &str = "\nNothing was started.";

/// A policy to explain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainRequest {
    /// The configuration file.
    pub(super) policy: String,
    /// The session token. Without it, the policy is only checked.
    #[serde(default)]
    pub(super) session_token: Option<String>,
    /// The token params of the client.
    #[serde(default)]
    pub(super) params: Params,
}

/// Token params as a client sends them.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    capability: Option<String>,
    ttl: Option<String>,
    #[serde(rename = "clientId")]
    client_id: Option<String>,
}

/// The result of a run.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ExplainReport {
    /// The output of `explain --json`; null without a session or with an invalid policy.
    explanation: Option<Value>,
    /// The problems of the policy.
    pub(super) problems: Vec<PolicyProblem>,
}

/// A problem of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PolicyProblem {
    /// The position, from 1; `None` for a problem of a setting.
    at: Option<Position>,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Position {
    line: u32,
    column: u32,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("the service took longer than {} s to explain and was stopped", TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot run the service: {0}")]
    Run(#[from] io::Error),
    #[error("the output of the service is not in the expected form")]
    UnknownOutput,
}

/// Runs the service's `explain` command.
pub(super) struct Explainer {
    program: Program,
    /// The parent of the directory of each run.
    directory: PathBuf,
    permits: Semaphore,
}

impl Explainer {
    pub(super) fn new(program: Program, directory: PathBuf) -> Self {
        Self { program, directory, permits: Semaphore::new(MOST_CONCURRENT) }
    }

    pub(super) async fn explain(&self, request: &ExplainRequest) -> Result<ExplainReport, ExplainError> {
        let run = async {
            let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
            self.run(request).await
        };
        // On a timeout, dropping the run kills its process.
        timeout(TIMEOUT, run).await.map_err(|_| ExplainError::Timeout)?
    }

    async fn run(
        &self,
        ExplainRequest { policy, session_token, params }: &ExplainRequest,
    ) -> Result<ExplainReport, ExplainError> {
        let directory = tempfile::Builder::new().prefix("explain-").tempdir_in(&self.directory)?;
        fs::write(directory.path().join(CONFIGURATION), policy)?;
        // Empty claims suffice to check a policy.
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
                // A program that does not read its input reports the reason itself.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), stdout_text, stderr_text) = tokio::join!(feed, text(stdout), text(stderr));
        let (stdout_text, stderr_text) = (stdout_text?, stderr_text?);
        child.wait().await?;
        if let Ok(explanation @ Value::Object(_)) = serde_json::from_str(&stdout_text) {
            let explanation = session_token.as_ref().map(|_| explanation);
            return Ok(ExplainReport { explanation, problems: Vec::new() });
        }
        match problems(&stderr_text) {
            problems if problems.is_empty() => Err(ExplainError::UnknownOutput),
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

/// The problems in an error message of the service: the list of a rejected configuration, or the whole message.
fn problems(error: &str) -> Vec<PolicyProblem> {
    let error = error.trim();
    let error = error.strip_prefix("ably-clerk-auth: ").unwrap_or(error);
    let Some((_heading, list)) = error.split_once("\n  - ") else {
        let whole = PolicyProblem { at: None, message: error.to_owned() };
        return if error.is_empty() { Vec::new() } else { vec![whole] };
    };
    let list = list.rsplit_once(TERMINAL_HINT).map_or(list, |(list, _)| list);
    list.split("\n  - ").map(problem).collect()
}

fn problem(text: &str) -> PolicyProblem {
    match with_position(text) {
        Some((at, message)) => PolicyProblem { at: Some(at), message: message.to_owned() },
        None => PolicyProblem { at: None, message: text.to_owned() },
    }
}

/// `ably-clerk-auth.toml, line 3, column 16: what is wrong`
fn with_position(text: &str) -> Option<(Position, &str)> {
    let rest = text.strip_prefix(CONFIGURATION)?.strip_prefix(", line ")?;
    let (line, rest) = rest.split_once(", column ")?;
    let (column, message) = rest.split_once(": ")?;
    Some((Position { line: line.parse().ok()?, column: column.parse().ok()? }, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(error: &str) -> Vec<(Option<(u32, u32)>, String)> {
        let position = |Position { line, column }| (line, column);
        problems(error).into_iter().map(|PolicyProblem { at, message }| (at.map(position), message)).collect()
    }

    #[test]
    fn each_problem_of_a_configuration_has_its_position() {
        let error = "ably-clerk-auth: the configuration has 3 problems:\n  \
             - ably-clerk-auth.toml, line 3, column 16: [[grants]] number 1: the resource \"a: b\": no\n  \
             - SERVER_PORT ([server] port): not a port\n  \
             - ably-clerk-auth.toml, line 5, column 1: one\nand more\n\
             Nothing was started. `ably-clerk-auth --help` lists all settings.\n";
        let expected = [
            (Some((3, 16)), "[[grants]] number 1: the resource \"a: b\": no"),
            (None, "SERVER_PORT ([server] port): not a port"),
            (Some((5, 1)), "one\nand more"),
        ];
        assert_eq!(parsed(error), expected.map(|(at, message)| (at, message.to_owned())));
    }

    #[test]
    fn any_other_error_is_one_problem() {
        assert_eq!(
            parsed("ably-clerk-auth: no session token was given\n"),
            [(None, "no session token was given".to_owned())]
        );
        assert!(parsed("\n").is_empty());
    }

    #[test]
    fn the_service_has_this_hint() {
        let source = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../src/cli/failure.rs")).unwrap();
        assert!(source.contains(TERMINAL_HINT.trim_start()));
    }
}
