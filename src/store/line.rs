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
#[derive(Default)]
pub(super) struct Line(ArcSwapOption<Connection>);

impl Connection {
    /// A connection, and what receives why it was lost.
    pub(super) fn new(commands: Box<dyn Commands>) -> (Arc<Self>, mpsc::Receiver<ConnectionLost>) {
        let (lost, reasons) = mpsc::channel(1);
        (Arc::new(Self { commands, lost }), reasons)
    }
}

impl Line {
    pub(super) fn in_use(&self) -> Option<Arc<Connection>> {
        self.0.load_full()
    }

    pub(super) fn uses(&self, connection: &Arc<Connection>) -> bool {
        self.0.load().as_ref().is_some_and(|used| Arc::ptr_eq(used, connection))
    }

    pub(super) fn connect(&self, connection: &Arc<Connection>) {
        self.0.store(Some(Arc::clone(connection)));
    }

    /// What a connection answered. One whose command fails is not used again.
    pub(super) fn answered<T>(
        &self,
        replica: &Replica,
        connection: &Arc<Connection>,
        answer: Result<T, ConnectionLost>,
    ) -> Result<T, StoreError> {
        match answer {
            Ok(answer) if self.uses(connection) => Ok(answer),
            Ok(_) => Err(StoreError::Unavailable),
            Err(lost) => {
                self.lose(replica, connection, lost);
                Err(StoreError::Unavailable)
            }
        }
    }

    /// Stops using a connection.
    pub(super) fn lose(&self, replica: &Replica, connection: &Arc<Connection>, reason: ConnectionLost) {
        let used = self.0.compare_and_swap(&Some(Arc::clone(connection)), None);
        if used.as_ref().is_some_and(|used| Arc::ptr_eq(used, connection)) {
            replica.lose();
        }
        // Full: already reported. Closed: nobody waits for it.
        let _ = connection.lost.try_send(reason);
    }
}
