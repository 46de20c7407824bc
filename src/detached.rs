//! Work that outlives the request that began it: a client that goes away must not stop it, nor take a pooled connection
//! with it.

use tokio::runtime::Handle;
use tracing::Instrument as _;

/// Runs work on a runtime that lives as long as the service.
#[derive(Clone, Debug)]
pub struct Detached(Handle);

/// The work panicked, or the service is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was interrupted")]
pub struct Interrupted;

impl Detached {
    /// Work on the current runtime. Panics outside of one.
    #[must_use]
    pub fn on_current_runtime() -> Self {
        Self(Handle::current())
    }

    /// Runs `work` to its end, even if the returned future is dropped. Events of the work carry the current span.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Interrupted> {
        // The error is left out of the log: it holds the message of a panic, which may hold a value of the request.
        self.0.spawn(work.in_current_span()).await.map_err(|_| Interrupted)
    }
}
