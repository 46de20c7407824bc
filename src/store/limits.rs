//! How much a store keeps, and why it cannot keep something.

/// The most that a replica keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Denials and marks in force. Each takes about 300 bytes.
    pub restrictions: usize,
    /// Restrictions that are over and kept for their timestamps, and idempotency keys. Beyond the limit, those that end
    /// first are forgotten: then an old event that arrives late can deny a user for a while, and a repeated event is
    /// handled again.
    pub remembered: usize,
    /// Denials and marks that wait for room. While one waits, no tokens are issued. Beyond the limit, only the latest
    /// expiry is kept, and no tokens are issued until it passes.
    pub waiting: usize,
    /// Live tokens, one for each user, session, organization and client ID. Each takes about 1,000 bytes.
    pub live_tokens: usize,
    /// Revocation tasks.
    pub tasks: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { restrictions: 200_000, remembered: 200_000, waiting: 1_000, live_tokens: 500_000, tasks: 100_000 }
    }
}

/// Why the store did not take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A limit is reached, here or in Redis.
    #[error("the store is full")]
    Full,
    /// Redis cannot be used now.
    #[error("the store cannot be reached")]
    Unavailable,
}
