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

use super::explain::{self, ExplainRequest, Explainer, Params, PolicyProblem};
use super::log::ReloadEvent;
use super::service::CONFIGURATION;

/// The largest policy, in bytes.
pub(super) const LIMIT: usize = 64 * 1024;
/// What the sandbox starts with.
const STARTER: &str = include_str!("../../policy.toml");
/// The service looks at its file every second.
const TIMEOUT: Duration = Duration::from_secs(4);

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
pub(super) enum ApplyOutcome {
    /// The service took it. The sections named have other changes, which a restart would be needed for.
    InForce { waiting: Vec<String> },
    /// It has these problems, and was not written.
    Broken { problems: Vec<PolicyProblem> },
    /// The service refused it, and its log says why.
    Refused,
    /// It has no rules and the one in force has: the service takes that for an accident.
    RemovesRules,
    /// It is written, and the service's log says nothing: its level leaves such things out.
    Unknown,
}

/// The service's file, and what is known of it.
pub(super) struct PolicyFile {
    file: PathBuf,
    state: Mutex<PolicyState>,
}

struct PolicyState {
    policy: String,
    /// What is in the file: what is not taken stays there.
    written: String,
    outcome: ApplyOutcome,
    events: UnboundedReceiver<ReloadEvent>,
}

impl PolicyFile {
    /// The service runs in `directory`, with this policy in its file, and is heard from there.
    pub(super) fn new(directory: &Path, policy: String, events: UnboundedReceiver<ReloadEvent>) -> Self {
        let outcome = ApplyOutcome::InForce { waiting: Vec::new() };
        let state = PolicyState { written: policy.clone(), policy, outcome, events };
        Self { file: directory.join(CONFIGURATION), state: Mutex::new(state) }
    }

    /// The policy in force.
    pub(super) async fn policy(&self) -> String {
        self.state.lock().await.policy.clone()
    }

    /// Has the service take up this policy, and says whether it did. One after the other.
    pub(super) async fn put(
        &self,
        policy: String,
        explainer: &Explainer,
    ) -> Result<ApplyOutcome, explain::ExplainError> {
        let mut state = self.state.lock().await;
        // The service looks for changes, and would have nothing to say.
        if state.written == policy {
            return Ok(state.outcome.clone());
        }
        let request_to_explain = ExplainRequest { policy, session_token: None, params: Params::default() };
        let problems = explainer.explain(&request_to_explain).await?.problems;
        if !problems.is_empty() {
            return Ok(ApplyOutcome::Broken { problems });
        }
        let policy = request_to_explain.policy;
        while state.events.try_recv().is_ok() {}
        replace(&self.file, &policy)?;
        state.written.clone_from(&policy);
        state.outcome = timeout(TIMEOUT, state.outcome()).await.unwrap_or(ApplyOutcome::Unknown);
        if matches!(state.outcome, ApplyOutcome::InForce { .. } | ApplyOutcome::Unknown) {
            state.policy = policy;
        }
        Ok(state.outcome.clone())
    }
}

impl PolicyState {
    async fn outcome(&mut self) -> ApplyOutcome {
        let mut waiting = Vec::new();
        loop {
            match self.events.recv().await {
                Some(ReloadEvent::NeedsRestart(section)) => waiting.push(section),
                Some(ReloadEvent::Reloaded) => return ApplyOutcome::InForce { waiting },
                Some(ReloadEvent::Refused) => return ApplyOutcome::Refused,
                Some(ReloadEvent::RemovesRules) => return ApplyOutcome::RemovesRules,
                None => return ApplyOutcome::Unknown,
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
