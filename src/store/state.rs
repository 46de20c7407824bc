//! The limits and the state of a store, and what its user is told.

use std::sync::Arc;

use serde::Deserialize;

use super::{Restriction, StoredTask, TaskBacklog};
use crate::{clock::UnixMillis, tenant::TenantName};

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

/// What happens during an outage of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The replica continues with what it knows, and learns late what others learn meanwhile.
    Degrade,
    /// No tokens are issued.
    Refuse,
}

/// The state of a store. Its name is the one in `/readyz` and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
#[display(rename_all = "lowercase")]
pub enum Health {
    /// The recorded restrictions are not all loaded yet.
    Starting,
    /// The store works.
    Ready,
    /// An outage of Redis: this replica goes on with what it knows.
    Degraded,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Denials and marks in force, as this replica knows.
    pub restrictions: usize,
    /// Live tokens that this replica issued, one for each user, session, organization, client ID, format and API key.
    pub live_tokens: usize,
    /// Waiting tasks: those in Redis a moment ago, and those that this replica keeps itself.
    pub tasks: TaskBacklog,
    /// During an outage, restrictions that Redis may lack.
    pub unrecorded_restrictions: usize,
    /// During an outage, tasks that this replica keeps itself.
    pub unrecorded_tasks: usize,
    /// Outages of Redis since the start.
    pub outages: u64,
}

/// Users to remove from a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten<'a> {
    /// One user of a tenant.
    User(&'a TenantName, &'a str),
    /// All users of all tenants, after an outage in which messages may have been missed.
    Everyone,
}

/// Removes users from the caches of this replica. It must not block.
pub type OnForget = Arc<dyn Fn(Forgotten<'_>) + Send + Sync>;

/// The tasks that find and revoke all tokens that a restriction ends. Their IDs differ for each start of this replica, of which
/// the number is given, since those of an earlier one may wait.
pub type TasksOf = Arc<dyn Fn(&Restriction, u64, UnixMillis) -> Vec<StoredTask> + Send + Sync>;
