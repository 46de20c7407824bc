//! The connection to Redis that a replica uses for commands.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;

use super::{Commands, ConnectionLost, StoreError, replica::Replica};

/// A connection, used until its first failure.
pub(super) struct Connection {
    pub(super) commands: Box<dyn Commands>,
    lost: mpsc::Sender<ConnectionLost>,
}

/// The connection in use, if Redis can be used.
pub(super) struct Line {
    replica: Arc<Replica>,
    used: ArcSwapOption<Connection>,
}

impl Connection {
    /// A connection, and what receives why it was lost.
    pub(super) fn new(commands: Box<dyn Commands>) -> (Arc<Self>, mpsc::Receiver<ConnectionLost>) {
        let (lost, reasons) = mpsc::channel(1);
        (Arc::new(Self { commands, lost }), reasons)
    }
}

impl Line {
    pub(super) fn new(replica: Arc<Replica>) -> Self {
        Self { replica, used: ArcSwapOption::empty() }
    }

    pub(super) fn connect(&self, connection: &Arc<Connection>) {
        self.used.store(Some(Arc::clone(connection)));
    }

    /// Sends a command. A connection whose command fails is not used again.
    pub(super) async fn call<T, F: Future<Output = Result<T, ConnectionLost>>>(
        &self,
        command: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, StoreError> {
        let connection = self.used.load_full().ok_or(StoreError::Unavailable)?;
        match command(Arc::clone(&connection)).await {
            // Else the answer is that of a Redis that was given up meanwhile.
            Ok(answer) if self.uses(&connection) => Ok(answer),
            Ok(_) => Err(StoreError::Unavailable),
            Err(lost) => {
                self.lose(&connection, lost);
                Err(StoreError::Unavailable)
            }
        }
    }

    fn uses(&self, connection: &Arc<Connection>) -> bool {
        self.used.load().as_ref().is_some_and(|used| Arc::ptr_eq(used, connection))
    }

    /// Stops using a connection.
    pub(super) fn lose(&self, connection: &Arc<Connection>, reason: ConnectionLost) {
        let used = self.used.compare_and_swap(&Some(Arc::clone(connection)), None);
        if used.as_ref().is_some_and(|used| Arc::ptr_eq(used, connection)) {
            self.replica.lose();
        }
        // Full: already reported. Closed: nobody waits for it.
        let _ = connection.lost.try_send(reason);
    }
}
