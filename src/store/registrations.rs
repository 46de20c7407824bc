//! Registers live tokens in Redis, in one call those that are issued at the same time on a thread.

use std::{
    collections::HashMap,
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{self, Instant},
};

use super::{Health, LiveToken, StoreError, line::Line};
use crate::clock::Clock;

/// The most live tokens of a call: few enough for Redis to answer within its timeout.
const MOST_AT_ONCE: usize = 100;
/// From the start of a call to that of the next. Each call costs several switches between threads, so a busy thread makes
/// fewer and larger ones.
const INTERVAL: Duration = Duration::from_millis(1);

/// A live token, and who waits for the outcome.
type Registration = (LiveToken, oneshot::Sender<Result<(), StoreError>>);

/// Live tokens that wait to be registered.
pub(super) struct Registrations {
    line: Arc<Line>,
    clock: Clock,
    queues: Mutex<Queues>,
}

/// Each thread has a queue, and on its runtime a task that serves it: whoever waits is woken on their own thread. To wake
/// each from another thread would be a system call each.
#[derive(Default)]
struct Queues {
    by_thread: HashMap<ThreadId, mpsc::Sender<Registration>>,
    /// Ends with the store.
    serving: JoinSet<()>,
}

impl Registrations {
    pub(super) fn new(line: Arc<Line>, clock: Clock) -> Self {
        Self { line, clock, queues: Mutex::default() }
    }

    /// Registers a live token: at once, or with the next call if there was one on this thread within [`INTERVAL`].
    pub(super) async fn register(&self, live_token: LiveToken) -> Result<(), StoreError> {
        let (outcome, answer) = oneshot::channel();
        self.queue().send((live_token, outcome)).await.map_err(|_| StoreError::Unavailable)?;
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// The queue of this thread. Closed: its runtime has ended, or its task has panicked.
    fn queue(&self) -> mpsc::Sender<Registration> {
        let thread = thread::current().id();
        let Queues { by_thread, serving } = &mut *self.queues.lock();
        let known = by_thread.get(&thread).filter(|queue| !queue.is_closed());
        known.cloned().unwrap_or_else(|| {
            let (queue, waiting) = mpsc::channel(MOST_AT_ONCE);
            serving.spawn(serve(Arc::clone(&self.line), Arc::clone(&self.clock), waiting));
            by_thread.insert(thread, queue.clone());
            queue
        })
    }
}

async fn serve(line: Arc<Line>, clock: Clock, mut queue: mpsc::Receiver<Registration>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MOST_AT_ONCE).await > 0 {
        let next = Instant::now() + INTERVAL;
        let (live_tokens, outcomes): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
        let (live_tokens, now) = (&live_tokens[..], clock());
        let registered = line.call(|on| async move { on.commands.register(live_tokens, now).await.map(drop) }).await;
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
}
