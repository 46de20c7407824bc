//! Outages of the stand-in.

/// An outage of Ably's REST API. It does not affect the WebSocket, CORS preflights and `/sandbox/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Every call gets this status, and 100 times the status as the code.
    Status(u16),
    /// No call gets an answer, even after the outage.
    Hang,
    /// The connection closes without an answer.
    Drop,
    /// Every call gets 429, 42910 and `Retry-After`.
    RateLimited {
        /// In seconds.
        retry_after_s: u32,
    },
    /// The next call is processed, but its answer is lost; then the outage ends.
    LoseOneAnswer,
}
