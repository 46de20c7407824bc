//! Registers live tokens in Redis, in one call those that are issued at the same time.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::{Health, LiveToken, StoreError, line::Line};
use crate::clock::Clock;

/// The most live tokens of a call: few enough for Redis to answer within its timeout.
const MOST_AT_ONCE: usize = 100;
/// From the start of a call to that of the next. Each call costs several switches between threads, so a busy replica makes
/// fewer and larger ones.
const INTERVAL: Duration = Duration::from_millis(1);

/// A live token, and who waits for the outcome.
type Registration = (LiveToken, oneshot::Sender<Result<(), StoreError>>);

/// Live tokens that wait to be registered.
#[derive(Clone, Debug)]
pub(super) struct Registrations(mpsc::Sender<Registration>);

impl Registrations {
    /// Returns also a future that registers them, forever.
    pub(super) fn new(line: Arc<Line>, clock: Clock) -> (Self, impl Future<Output = ()>) {
        let (sender, mut receiver) = mpsc::channel::<Registration>(MOST_AT_ONCE);
        let serve = async move {
            let mut waiting = Vec::new();
            while receiver.recv_many(&mut waiting, MOST_AT_ONCE).await > 0 {
                let next = Instant::now() + INTERVAL;
                let (live_tokens, outcomes): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
                let (live_tokens, now) = (&live_tokens[..], clock());
                let registered =
                    line.call(|on| async move { on.commands.register(live_tokens, now).await.map(drop) }).await;
                if line.replica.health() != Health::Ready {
                    // Look-ups for restrictions that this replica does not know yet may have come before.
                    line.replica.were_unfound(live_tokens);
                }
                for outcome in outcomes {
                    // The request may have ended.
                    let _ = outcome.send(registered);
                }
                time::sleep_until(next).await;
            }
        };
        (Self(sender), serve)
    }

    /// Registers a live token: at once, or with the next call if there was one within [`INTERVAL`].
    pub(super) async fn register(&self, live_token: LiveToken) -> Result<(), StoreError> {
        let (outcome, answer) = oneshot::channel();
        self.0.send((live_token, outcome)).await.map_err(|_| StoreError::Unavailable)?;
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }
}
