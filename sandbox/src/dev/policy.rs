//! The policy in force: the service's configuration file, and whether the service took what was written there.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::explain::{self, Explainer, Params, Problem, Question};
use super::log::Said;
use super::service::CONFIGURATION;

/// The largest policy, in bytes.
pub(super) const LIMIT: usize = 64 * 1024;
/// What the sandbox starts with.
const STARTER: &str = include_str!("../../policy.toml");
/// The service looks at its file every second.
const PATIENCE: Duration = Duration::from_secs(4);

/// The text of the file to start with, or of the sandbox's own policy.
pub(super) fn read(file: Option<&Path>) -> io::Result<String> {
    let Some(file) = file else { return Ok(STARTER.to_owned()) };
    let limit = u64::try_from(LIMIT).unwrap_or(u64::MAX);
    let mut text = String::new();
    fs::File::open(file)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() > LIMIT {
        return Err(io::Error::other(format!("it is larger than {LIMIT} bytes")));
    }
    Ok(text)
}

/// What became of a policy that was to be put in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// The service took it. The sections named have other changes, which a restart would be needed for.
    InForce { waiting: Vec<String> },
    /// It has these problems, and was not written.
    Broken { problems: Vec<Problem> },
    /// The service refused it, and its log says why.
    Refused,
    /// It has no rules and the one in force has: the service takes that for an accident.
    TakesPolicyAway,
    /// It is written, and the service's log says nothing: its level leaves such things out.
    Untold,
}

/// The service's file, and what is known of it.
pub(super) struct InForce {
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    policy: String,
    /// What is in the file: what is not taken stays there.
    written: String,
    verdict: Verdict,
    said: UnboundedReceiver<Said>,
}

impl InForce {
    /// The service runs in `directory`, with this policy in its file, and is heard from there.
    pub(super) fn new(directory: &Path, policy: String, said: UnboundedReceiver<Said>) -> Self {
        let verdict = Verdict::InForce { waiting: Vec::new() };
        let state = State { written: policy.clone(), policy, verdict, said };
        Self { file: directory.join(CONFIGURATION), state: Mutex::new(state) }
    }

    /// The policy in force.
    pub(super) async fn policy(&self) -> String {
        self.state.lock().await.policy.clone()
    }

    /// Has the service take up this policy, and says whether it did. One after the other.
    pub(super) async fn put(&self, policy: String, explainer: &Explainer) -> Result<Verdict, explain::Failure> {
        let mut state = self.state.lock().await;
        // The service looks for changes, and would have nothing to say.
        if state.written == policy {
            return Ok(state.verdict.clone());
        }
        let question = Question { policy, session_token: None, params: Params::default() };
        let problems = explainer.explain(&question).await?.problems;
        if !problems.is_empty() {
            return Ok(Verdict::Broken { problems });
        }
        let policy = question.policy;
        while state.said.try_recv().is_ok() {}
        replace(&self.file, &policy)?;
        state.written.clone_from(&policy);
        state.verdict = timeout(PATIENCE, state.verdict()).await.unwrap_or(Verdict::Untold);
        if matches!(state.verdict, Verdict::InForce { .. } | Verdict::Untold) {
            state.policy = policy;
        }
        Ok(state.verdict.clone())
    }
}

impl State {
    async fn verdict(&mut self) -> Verdict {
        let mut waiting = Vec::new();
        loop {
            match self.said.recv().await {
                Some(Said::WaitsForRestart(section)) => waiting.push(section),
                Some(Said::Reloaded) => return Verdict::InForce { waiting },
                Some(Said::Refused) => return Verdict::Refused,
                Some(Said::TakesPolicyAway) => return Verdict::TakesPolicyAway,
                None => return Verdict::Untold,
            }
        }
    }
}

/// At once, since the service may look at any moment.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(text.as_bytes())?;
    new.persist(file)?;
    Ok(())
}
