//! What a session may do: pure, without I/O.

use crate::ably::{Capability, TokenParams, Ttl};

/// The rights that tokens are issued with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// The longest life of a token; without it, Ably's default.
    pub ttl: Option<Ttl>,
}

/// The rights of one token. What is absent is Ably's default: the whole capability of the key, and 60 minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Resources and operations.
    pub capability: Option<Capability>,
    /// How long the token lives.
    pub ttl: Option<Ttl>,
}

impl Policy {
    /// What a client gets that asks for `asked`: less when it asks for less, never more.
    #[must_use]
    pub fn grant(&self, asked: TokenParams) -> Grant {
        let longest = self.ttl.unwrap_or(Ttl::ABLY_DEFAULT);
        Grant { capability: asked.capability, ttl: asked.ttl.map_or(self.ttl, |ttl| Some(ttl.min(longest))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_that_is_asked_for_is_lowered_to_the_longest_and_never_raised() {
        let hour = 60 * 60 * 1000;
        for (configured, asked, granted) in [
            (None, None, None),
            (None, Some(1000), Some(1000)),
            (None, Some(hour + 1), Some(hour)),
            (Some(5000), None, Some(5000)),
            (Some(5000), Some(1000), Some(1000)),
            (Some(5000), Some(u64::MAX), Some(5000)),
            (Some(2 * hour), Some(u64::MAX), Some(2 * hour)),
        ] {
            let policy = Policy { ttl: configured.and_then(Ttl::from_millis) };
            let asked = TokenParams { ttl: asked.and_then(Ttl::from_millis), ..TokenParams::default() };
            assert_eq!(policy.grant(asked).ttl, granted.and_then(Ttl::from_millis));
        }
    }
}
