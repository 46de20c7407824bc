//! Registers live tokens in Redis, in one call those that are issued at the same time on a runtime. Each worker has one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    runtime::{self, Handle},
    sync::{Semaphore, mpsc, oneshot},
    time::{self, Instant},
};

use super::{Health, LiveToken, StoreError, line::Line};
use crate::clock::Clock;

/// The most live tokens of a call: few enough for Redis to answer within its timeout.
const MOST_AT_ONCE: usize = 100;
/// The most calls at a time, of all runtimes, for the same reason.
const MOST_CALLS: usize = 4;
/// From the start of a call to that of the next. Each call costs several switches between threads, so a busy runtime makes
/// fewer and larger ones.
const INTERVAL: Duration = Duration::from_millis(1);

/// A live token, and who waits for the outcome.
type Registration = (LiveToken, oneshot::Sender<Result<(), StoreError>>);

/// Live tokens that wait to be registered.
pub(super) struct Registrations {
    line: Arc<Line>,
    clock: Clock,
    calls: Arc<Semaphore>,
    /// Each runtime has a queue, and a task that serves it until the store is dropped. Waking whoever waits from another one
    /// would cost a system call.
    queues: Mutex<HashMap<runtime::Id, mpsc::Sender<Registration>>>,
}

impl Registrations {
    pub(super) fn new(line: Arc<Line>, clock: Clock) -> Self {
        Self { line, clock, calls: Arc::new(Semaphore::new(MOST_CALLS)), queues: Mutex::default() }
    }

    /// Registers a live token: at once, unless a call of this runtime is under way or began within [`INTERVAL`]; then with the
    /// next one.
    pub(super) async fn register(&self, live_token: LiveToken) -> Result<(), StoreError> {
        let (outcome, answer) = oneshot::channel();
        self.queue().send((live_token, outcome)).await.map_err(|_| StoreError::Unavailable)?;
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// The queue of this runtime. Closed: its task has panicked.
    fn queue(&self) -> mpsc::Sender<Registration> {
        let runtime = Handle::current().id();
        let mut queues = self.queues.lock();
        let known = queues.get(&runtime).filter(|queue| !queue.is_closed());
        known.cloned().unwrap_or_else(|| {
            let (queue, waiting) = mpsc::channel(MOST_AT_ONCE);
            tokio::spawn(serve(Arc::clone(&self.line), Arc::clone(&self.clock), Arc::clone(&self.calls), waiting));
            queues.insert(runtime, queue.clone());
            queue
        })
    }
}

async fn serve(line: Arc<Line>, clock: Clock, calls: Arc<Semaphore>, mut queue: mpsc::Receiver<Registration>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MOST_AT_ONCE).await > 0 {
        let next = Instant::now() + INTERVAL;
        let (live_tokens, outcomes): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
        let (live_tokens, clock) = (&live_tokens[..], &clock);
        let call = calls.acquire().await;
        let registered =
            line.call(|on| async move { on.commands.register(live_tokens, clock()).await.map(drop) }).await;
        drop(call);
        if line.replica.health() != Health::Ready {
            // Look-ups for restrictions that this replica does not know yet may have come before. They may have found a token that
            // differs in its end only, which Redis will not lack.
            line.replica.were_unfound(live_tokens, clock());
        }
        for outcome in outcomes {
            // The request may have ended.
            let _ = outcome.send(registered);
        }
        time::sleep_until(next).await;
    }
}
