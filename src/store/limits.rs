//! How much a store keeps, and why it cannot keep something.

/// The most that a replica keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Restrictions that have ended and are kept for their timestamps. Beyond the limit, those that end first are forgotten:
    /// then an old event that arrives late can deny a user for a while. Those in force have no limit.
    pub ended_restrictions: usize,
    /// Idempotency keys. Beyond the limit, those that end first are forgotten: then a repeated event is handled again.
    pub idempotency_keys: usize,
    /// Live tokens, one for each user, session, organization and client ID. Each takes about 200 bytes.
    pub live_tokens: usize,
    /// Revocation tasks.
    pub tasks: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { ended_restrictions: 200_000, idempotency_keys: 200_000, live_tokens: 500_000, tasks: 100_000 }
    }
}

/// Why the store did not take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A limit of live tokens or tasks is reached.
    #[error("the store is full")]
    Full,
    /// Redis cannot be used now.
    #[error("the store cannot be reached")]
    Unavailable,
}
