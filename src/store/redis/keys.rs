//! The names of keys in Redis.

use crate::tenant::TenantName;

/// The start of every key, so that other applications can use the same Redis.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
pub struct RedisKeyPrefix(String);

impl RedisKeyPrefix {
    /// Checks a prefix: 1 to 64 of `A-Z a-z 0-9 : . _ -`, so that no character is special in an ACL pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b":._-".contains(&b);
        let is_valid = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        is_valid.then(|| Self(text.to_owned())).ok_or("not 1 to 64 of the characters A-Z a-z 0-9 : . _ -")
    }
}

/// Identifies the data: after a loss it is another.
pub(super) const DATA_ID: &str = "data_id";
/// The rows of the restrictions, ended ones included, by ID.
pub(super) const RESTRICTIONS: &str = "restrictions";
/// The IDs of the restrictions, by their end.
pub(super) const ENDS: &str = "ends";
/// The stream that replicas follow.
pub(super) const LOG: &str = "log";
/// The payloads of the tasks, by ID.
pub(super) const TASKS: &str = "tasks";
/// The IDs of the tasks, by the time from which they can be claimed.
pub(super) const CLAIMABLE: &str = "claimable";
/// The IDs of the tasks, by first due time.
pub(super) const DUE: &str = "due";
/// No key has this name for long: it is for finding out what Redis accepts.
pub(super) const PROBE: &str = "probe";

/// The names of keys. All have the same hash tag, so that a script may use several keys in a cluster. The tag is the
/// version of this format.
#[derive(Clone, Debug)]
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn new(prefix: &RedisKeyPrefix) -> Self {
        Self(format!("{prefix}{{v4}}:"))
    }

    /// A key that there is once.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// The live tokens of a user.
    pub(super) fn live_tokens(&self, tenant: &TenantName, user: &str) -> String {
        [&self.0, "tokens:", tenant.as_str(), ":", user].concat()
    }

    /// A part of the index of a tenant's users.
    pub(super) fn users(&self, tenant: &TenantName, part: u32) -> String {
        format!("{}users:{tenant}:{part}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_no_characters_that_are_special_in_a_pattern() {
        assert!(RedisKeyPrefix::parse("aca:").is_ok());
        for bad in ["", "a b", "a*", "{a}", "[a]", "é", &"x".repeat(65)] {
            assert!(RedisKeyPrefix::parse(bad).is_err(), "{bad}");
        }
    }
}
