//! The queue of one API key's revocations. Webhooks, operator requests and revocation tasks all go through it.
//!
//! Ably revokes per key, and limits how often its revocation API may be called. [`Schedule`] decides when to make which call,
//! without I/O; this module makes the calls, logs them and counts their outcomes.

mod schedule;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::field::display;

pub use self::schedule::retry_of_target;
use self::schedule::{Added, Next, Paused, RevokeCall, Schedule};
use super::{ApiKey, KeyName, ReauthMargin, RestClient, RestError, Target, TargetOutcome, diagnosis};
use crate::clock::UnixMillis;

/// Revokes the tokens that one API key signed.
#[async_trait]
pub trait RevokeTokens: fmt::Debug + Send + Sync {
    /// Revokes tokens, at most [`RestClient::MAX_TARGETS`] targets at once. Returns the outcomes in the order of the targets.
    async fn revoke_tokens(&self, targets: &[Target], margin: ReauthMargin) -> Result<Vec<TargetOutcome>, RestError>;

    /// How much shorter the next pause after a failed call is: from 0, not at all, to 1, by half.
    fn jitter(&self) -> f64 {
        rand::random()
    }
}

/// An API key that revokes the tokens that it signed.
#[derive(Clone, Debug)]
pub struct RevokingKey {
    /// Ably's REST API.
    pub rest: RestClient,
    /// The key.
    pub api_key: ApiKey,
}

#[async_trait]
impl RevokeTokens for RevokingKey {
    async fn revoke_tokens(&self, targets: &[Target], margin: ReauthMargin) -> Result<Vec<TargetOutcome>, RestError> {
        self.rest.revoke_tokens(&self.api_key, targets, margin).await
    }
}

/// Counts of revocation targets by outcome. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct RevocationCounts {
    /// Ably revoked the tokens.
    pub accepted: Counter,
    /// Ably refused. A retry helps once the cause is fixed.
    pub refused: Counter,
    /// Ably did not revoke them yet; the service retries.
    pub unavailable: Counter,
}

/// The outcome of a revocation for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeOutcome {
    /// Ably revokes the target's tokens.
    Accepted {
        /// When the revocation takes effect.
        applies_at: UnixMillis,
    },
    /// Ably refuses. A retry helps once the cause is fixed.
    Refused {
        /// Ably's code, if it gave one.
        code: Option<u32>,
    },
    /// Ably did not revoke the target's tokens.
    Unavailable {
        /// When the queue makes calls again. None: the queue goes on with other targets.
        retry_at: Option<UnixMillis>,
    },
}

impl RevokeOutcome {
    /// Whether Ably revokes the target's tokens.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

/// The queue of one API key. Clones are the same queue.
#[derive(Clone, derive_more::Debug)]
#[debug("RevocationQueue {{ tenant: {:?}, key: {:?}, .. }}", self.0.tenant, self.0.key)]
pub struct RevocationQueue(Arc<QueueState>);

struct QueueState {
    tenant: String,
    key: KeyName,
    ably: Arc<dyn RevokeTokens>,
    counts: RevocationCounts,
    schedule: Mutex<Schedule<Waiting>>,
}

/// A caller that waits for the outcome of a target.
type Waiting = oneshot::Sender<RevokeOutcome>;

fn answer(callers: impl IntoIterator<Item = Waiting>, outcome: RevokeOutcome) {
    for caller in callers {
        // It fails if the caller has stopped waiting.
        let _ = caller.send(outcome);
    }
}

impl RevocationQueue {
    /// An empty queue of a key. `tenant` names it in the log.
    #[must_use]
    pub fn new(
        tenant: impl Into<String>,
        key: KeyName,
        ably: impl RevokeTokens + 'static,
        counts: RevocationCounts,
    ) -> Self {
        let (tenant, ably) = (tenant.into(), Arc::new(ably));
        Self(Arc::new(QueueState { tenant, key, ably, counts, schedule: Mutex::default() }))
    }

    /// The name of its key.
    #[must_use]
    pub fn key(&self) -> &KeyName {
        &self.0.key
    }

    /// Revokes tokens at Ably. Returns an outcome for each target.
    pub async fn revoke(&self, targets: &[Target], margin: ReauthMargin, now: UnixMillis) -> Vec<RevokeOutcome> {
        let (callers, answers): (Vec<_>, Vec<_>) = targets.iter().map(|_| oneshot::channel()).unzip();
        let added = self.0.schedule.lock().add(targets.iter().cloned().zip(callers), margin, now);
        match added {
            Added::Waits => {}
            Added::First => _ = tokio::spawn(self.clone().make_calls(now)),
            Added::TooSoon { retry_at } => {
                return vec![RevokeOutcome::Unavailable { retry_at: Some(retry_at) }; targets.len()];
            }
        }
        let outcomes = future::join_all(answers).await.into_iter();
        // An answer is missing only when the service stops.
        outcomes.map(|outcome| outcome.unwrap_or(RevokeOutcome::Unavailable { retry_at: None })).collect()
    }

    /// Makes one call after another until no target waits.
    async fn make_calls(self, now: UnixMillis) {
        let start = Instant::now();
        let time = || now.after(start.elapsed());
        loop {
            let next = self.0.schedule.lock().next(time());
            match next {
                Next::RevokeCall(call) => {
                    let result = self.call(call.targets.clone(), call.margin).await;
                    self.finish(call, result, time());
                }
                Next::Leave(callers) => answer(callers, RevokeOutcome::Unavailable { retry_at: None }),
                Next::Sleep(pause) => sleep(pause).await,
                Next::Stop => return,
            }
        }
    }

    /// Answers the callers of a call, except those whose targets wait for the next call.
    fn finish(&self, call: RevokeCall<Waiting>, result: Result<Vec<TargetOutcome>, RestError>, now: UnixMillis) {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(error) if error.is_temporary() => {
                self.0.counts.unavailable.inc();
                let targets = call.targets.len();
                let retry_at = self.pause(call, error.retry_after(), now);
                let QueueState { tenant, key, .. } = &*self.0;
                tracing::warn!(%tenant, %key, %error, targets, retry_at = retry_at.0, "Ably did not revoke tokens; the service retries");
                return;
            }
            Err(error) if call.targets.len() > 1 && error.may_concern_one_target() => {
                let QueueState { tenant, key, .. } = &*self.0;
                let targets = call.targets.len();
                tracing::warn!(%tenant, %key, %error, targets, "Ably refuses a call; the service tries with fewer targets");
                self.0.schedule.lock().refused(call);
                return;
            }
            Err(error) => {
                self.0.schedule.lock().reset_backoff();
                let outcome = self.call_refused(&error, &call.targets);
                answer(call.callers.into_iter().flatten().map(|waiting| waiting.caller), outcome);
                return;
            }
        };
        let mut limited = RevokeCall { targets: Vec::new(), callers: Vec::new(), margin: call.margin };
        for ((target, callers), outcome) in call.targets.into_iter().zip(call.callers).zip(outcomes) {
            let revoked = self.log_and_count(&target, outcome);
            if outcome.is_err_and(|error| error.is_rate_limit()) {
                limited.targets.push(target);
                limited.callers.push(callers);
            } else {
                answer(callers.into_iter().map(|waiting| waiting.caller), revoked);
            }
        }
        if limited.targets.is_empty() {
            self.0.schedule.lock().succeeded(call.margin);
        } else {
            self.pause(limited, None, now);
        }
    }

    async fn call(&self, targets: Vec<Target>, margin: ReauthMargin) -> Result<Vec<TargetOutcome>, RestError> {
        let ably = Arc::clone(&self.0.ably);
        let call = tokio::spawn(async move { ably.revoke_tokens(&targets, margin).await });
        // The queue goes on even if a call panics.
        call.await.unwrap_or(Err(RestError::Malformed))
    }

    /// Pauses the calls, and answers the callers that do not wait that long. Returns the end of the pause.
    fn pause(&self, call: RevokeCall<Waiting>, retry_after: Option<Duration>, now: UnixMillis) -> UnixMillis {
        let Paused { retry_at, left } = self.0.schedule.lock().failed(call, retry_after, now, self.0.ably.jitter());
        answer(left, RevokeOutcome::Unavailable { retry_at: Some(retry_at) });
        retry_at
    }

    fn log_and_count(&self, target: &Target, outcome: TargetOutcome) -> RevokeOutcome {
        let QueueState { tenant, key, counts, .. } = &*self.0;
        match outcome {
            Ok(applies_at) => {
                counts.accepted.inc();
                tracing::info!(%tenant, %key, %target, "tokens revoked");
                RevokeOutcome::Accepted { applies_at }
            }
            Err(error) if error.is_temporary() => {
                counts.unavailable.inc();
                tracing::warn!(%tenant, %key, %target, %error, "Ably did not revoke these tokens; the service retries");
                RevokeOutcome::Unavailable { retry_at: None }
            }
            Err(error) => {
                counts.refused.inc();
                let (cause, cure) = diagnosis(error.code());
                tracing::error!(%tenant, %key, %target, %error, cause, cure, "Ably refuses to revoke these tokens");
                RevokeOutcome::Refused { code: error.code() }
            }
        }
    }

    fn call_refused(&self, error: &RestError, targets: &[Target]) -> RevokeOutcome {
        let QueueState { tenant, key, counts, .. } = &*self.0;
        counts.refused.inc_by(targets.len().try_into().unwrap_or(u64::MAX));
        let target = if let [target] = targets { Some(display(target)) } else { None };
        let (cause, cure) = diagnosis(error.code());
        tracing::error!(
            %tenant,
            %key,
            %error,
            target,
            targets = targets.len(),
            cause,
            cure,
            "Ably refuses to revoke tokens: new tokens are refused here, and connections last until their token ends"
        );
        RevokeOutcome::Refused { code: error.code() }
    }
}
