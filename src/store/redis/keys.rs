//! The names of keys in Redis.

use super::prefix::RedisKeyPrefix;
use crate::tenant::TenantName;

/// The names of keys. All have the same hash tag, so that a script may use several keys in a cluster. The tag is the
/// version of this format.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    /// Identifies the data: after a loss it is another.
    pub(super) data_id: String,
    /// The rows of the restrictions, ended ones included, by ID.
    pub(super) restrictions: String,
    /// The IDs of the active restrictions, by their end.
    pub(super) active: String,
    /// The IDs of the ended restrictions, by when they are forgotten.
    pub(super) ended: String,
    /// The stream that replicas follow.
    pub(super) log: String,
    /// The tasks, by ID.
    pub(super) tasks: String,
    /// The IDs of the tasks, by the time from which they can be claimed.
    pub(super) claimable: String,
    /// The IDs of the tasks, by first due time.
    pub(super) due: String,
    /// No key has this name for long: it is for finding out what Redis accepts.
    pub(super) probe: String,
}

impl Keys {
    pub(super) fn new(prefix: &RedisKeyPrefix) -> Self {
        let prefix = format!("{}{{v3}}:", prefix.as_str());
        let named = |name: &str| format!("{prefix}{name}");
        Self {
            data_id: named("data_id"),
            restrictions: named("restrictions"),
            active: named("active"),
            ended: named("ended"),
            log: named("log"),
            tasks: named("tasks"),
            claimable: named("claimable"),
            due: named("due"),
            probe: named("probe"),
            prefix,
        }
    }

    /// The live tokens of a user.
    pub(super) fn live_tokens(&self, tenant: &TenantName, user: &str) -> String {
        format!("{}tokens:{tenant}:{user}", self.prefix)
    }

    /// A part of the index of users by the holders of their live tokens. Redis has at most one with this slot and number of
    /// digits.
    pub(super) fn holders(&self, slot: u16, digits: usize) -> String {
        format!("{}holders:{slot:0digits$x}", self.prefix)
    }

    /// The state of an idempotency key.
    pub(super) fn idempotency(&self, key: &str) -> String {
        format!("{}idempotency:{key}", self.prefix)
    }
}
