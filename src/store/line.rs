//! The connection to Redis that a replica uses for commands.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    Commands, ConnectionLost, Reply, StoreError,
    replica::{Replica, lost},
};

/// A connection, used until its first failure.
pub(super) struct Connection {
    pub(super) commands: Box<dyn Commands>,
    /// For why it was lost.
    pub(super) lost: mpsc::Sender<ConnectionLost>,
}

/// A panic is a loss like any other.
pub(super) async fn caught<T>(work: impl Future<Output = Reply<T>>) -> Reply<T> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.unwrap_or_else(|_| lost("this replica failed: report it as a bug"))
}

/// The connection in use, if Redis can be used.
pub(super) struct Line {
    pub(super) replica: Arc<Replica>,
    used: Mutex<Option<Arc<Connection>>>,
}

impl Line {
    pub(super) fn new(replica: Arc<Replica>) -> Self {
        Self { replica, used: Mutex::default() }
    }

    pub(super) fn connect(&self, connection: &Arc<Connection>) {
        *self.used.lock() = Some(Arc::clone(connection));
    }

    /// Sends a command. A connection whose command fails is not used again.
    pub(super) async fn call<T, F: Future<Output = Reply<T>>>(
        &self,
        command: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, StoreError> {
        let connection = self.used.lock().clone().ok_or(StoreError::Unavailable)?;
        let answer = caught(command(Arc::clone(&connection))).await;
        if let Err(lost) = &answer {
            self.lose(&connection, lost.clone());
        }
        // Else the answer is that of a Redis that was given up meanwhile.
        let is_used = self.used.lock().as_ref().is_some_and(|used| Arc::ptr_eq(used, &connection));
        answer.ok().filter(|_| is_used).ok_or(StoreError::Unavailable)
    }

    /// Stops using a connection.
    pub(super) fn lose(&self, connection: &Arc<Connection>, reason: ConnectionLost) {
        let mut used = self.used.lock();
        if used.as_ref().is_none_or(|used| Arc::ptr_eq(used, connection)) {
            *used = None;
            // While the line is locked: later, the replica may be ready again.
            self.replica.lose();
        }
        drop(used);
        // Full: already reported. Closed: the loss was noticed.
        let _ = connection.lost.try_send(reason);
    }
}
