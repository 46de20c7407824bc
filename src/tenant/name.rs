//! The name of a tenant.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a tenant in configuration, logs and metrics: 1 to 40 of `a-z`, `0-9` and `-`, with a letter or digit at both
/// ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Arc<str>);

/// An invalid tenant name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's name is 1 to 40 of a-z, 0-9 and -, with a letter or a digit at both ends")]
pub struct InvalidTenantName;

impl TenantName {
    const LONGEST: usize = 40;

    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, InvalidTenantName> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = (1..=Self::LONGEST).contains(&text.len())
            && text.bytes().all(|b| is_plain(b) || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_name { Ok(Self(text.into())) } else { Err(InvalidTenantName) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TenantName {
    type Error = InvalidTenantName;

    fn try_from(text: String) -> Result<Self, InvalidTenantName> {
        Self::parse(&text)
    }
}

impl From<TenantName> for String {
    fn from(name: TenantName) -> Self {
        name.as_str().to_owned()
    }
}

/// The name of the only tenant where the configuration has no `[[tenants]]`.
impl Default for TenantName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for name in ["a", "acme", "acme-2", "0", &"a".repeat(40)] {
            assert!(TenantName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "-", "a-", "-a", "Acme", "a_b", "a.b", "ä", "a b", &"a".repeat(41)] {
            assert_eq!(TenantName::parse(name), Err(InvalidTenantName), "{name}");
        }
    }
}
