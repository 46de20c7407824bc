//! The policy in force: writes the service's configuration file, and reports whether the service accepted it.

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
/// The default policy.
const STARTER: &str = include_str!("../../policy.toml");
/// The service checks its file every second.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Reads the given file, or returns the sandbox's own policy.
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

/// The result of putting a policy in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum ApplyOutcome {
    /// The service accepted it. Other changes, in the sections of `waiting`, need a restart.
    InForce { waiting: Vec<String> },
    /// The policy has these problems, and was not written.
    Invalid { problems: Vec<PolicyProblem> },
    /// The service rejected it; its log has the reason.
    Rejected,
    /// It has no rules, unlike the policy in force; the service assumes an accident.
    RemovesRules,
    /// The policy is written, but the log level hides the result.
    Unknown,
}

/// The service's configuration file and its state.
pub(super) struct PolicyFile {
    file: PathBuf,
    state: Mutex<PolicyState>,
}

struct PolicyState {
    policy: String,
    /// The content of the file, even if the service rejected it.
    written: String,
    outcome: ApplyOutcome,
    events: UnboundedReceiver<ReloadEvent>,
}

impl PolicyFile {
    /// The file in `directory`, with this policy in force.
    pub(super) fn new(directory: &Path, policy: String, events: UnboundedReceiver<ReloadEvent>) -> Self {
        let outcome = ApplyOutcome::InForce { waiting: Vec::new() };
        let state = PolicyState { written: policy.clone(), policy, outcome, events };
        Self { file: directory.join(CONFIGURATION), state: Mutex::new(state) }
    }

    pub(super) async fn policy(&self) -> String {
        self.state.lock().await.policy.clone()
    }

    /// Puts a policy in force, one call at a time.
    pub(super) async fn put(
        &self,
        policy: String,
        explainer: &Explainer,
    ) -> Result<ApplyOutcome, explain::ExplainError> {
        let mut state = self.state.lock().await;
        // The service does not react to an unchanged file.
        if state.written == policy {
            return Ok(state.outcome.clone());
        }
        let request = ExplainRequest { policy, session_token: None, params: Params::default() };
        let problems = explainer.explain(&request).await?.problems;
        if !problems.is_empty() {
            return Ok(ApplyOutcome::Invalid { problems });
        }
        let policy = request.policy;
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
                Some(ReloadEvent::Rejected) => return ApplyOutcome::Rejected,
                Some(ReloadEvent::RemovesRules) => return ApplyOutcome::RemovesRules,
                None => return ApplyOutcome::Unknown,
            }
        }
    }
}

/// Replaces the file atomically, because the service may read it at any moment.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(text.as_bytes())?;
    new.persist(file)?;
    Ok(())
}
