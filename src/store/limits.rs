//! How much a store keeps, and why it cannot keep something.

/// The most that a replica keeps in memory. Restrictions in force and their revocation tasks have no limit: they come only
/// from signed events and operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Restrictions that have ended and are remembered. Beyond the limit, those that ended first are forgotten: then an old
    /// event that arrives late can deny a user for a while.
    pub ended_restrictions: usize,
    /// Live tokens, one for each user, session, organization, client ID, format and API key. Each takes about 200 bytes.
    pub live_tokens: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { ended_restrictions: 200_000, live_tokens: 500_000 }
    }
}

/// Why the store did not take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The limit of live tokens is reached.
    #[error("the store is full")]
    Full,
    /// Redis cannot be used now.
    #[error("the store cannot be reached")]
    Unavailable,
}
