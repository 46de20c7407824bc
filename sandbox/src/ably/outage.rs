//! The ways in which the stand-in can fail.

/// A way for Ably's REST side to be down. The WebSocket, CORS preflights and `/sandbox/` go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Every call is answered with this status, and a code of a hundred times as much.
    Status(u16),
    /// No call is answered, even after the outage.
    Hang,
    /// The connection is closed without an answer.
    Drop,
    /// Every call is answered with 429 and 42910, and with when to come again.
    RateLimited {
        /// In seconds.
        retry_after_s: u32,
    },
    /// The next call is carried out and its answer lost; then the outage is over.
    LoseOneAnswer,
}
