//! `[limits]`: how much a replica does at once, and for a user.

use std::num::NonZeroU32;

use super::{reader::Reader, settings};
use crate::limits::TokenQuota;

/// The limits of a replica.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Tokens per user, if they are limited.
    pub tokens: Option<TokenQuota>,
    /// Token requests worked on at once.
    pub max_in_flight: NonZeroU32,
    /// Open connections of the public listener.
    pub connections: NonZeroU32,
}

impl LimitsConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let per_minute = reader.value(&settings::LIMITS_TOKENS_PER_MINUTE, |text| {
            number(text).ok_or("not a whole number up to 1000000; use 0 for no rate limit")
        });
        let burst = reader.value(&settings::LIMITS_TOKENS_BURST, |text| {
            positive(text).map_err(|error| format!("{error}; for no rate limit set LIMITS_TOKENS_PER_MINUTE=0"))
        });
        let max_in_flight = reader.value(&settings::LIMITS_MAX_IN_FLIGHT, positive);
        let connections = reader.value(&settings::LIMITS_CONNECTIONS, positive);
        let (per_minute, burst) = (per_minute?, burst?);
        let tokens = NonZeroU32::new(per_minute).map(|per_minute| TokenQuota { per_minute, burst });
        Some(Self { tokens, max_in_flight: max_in_flight?, connections: connections? })
    }
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= 1_000_000)
}

fn positive(text: &str) -> Result<NonZeroU32, &'static str> {
    number(text).and_then(NonZeroU32::new).ok_or("not a whole number from 1 to 1000000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::Sources;

    fn read(environment: &[(&str, &str)]) -> Result<LimitsConfig, String> {
        let sources = Sources::for_test(environment, "");
        let mut reader = Reader::new(&sources);
        let config = LimitsConfig::read(&mut reader);
        reader.finish(config).map(|(config, _)| config).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_rate_limit_can_be_turned_off_and_shedding_cannot() {
        assert_eq!(read(&[("LIMITS_TOKENS_PER_MINUTE", "0")]).unwrap().tokens, None);
        let quota = read(&[("LIMITS_TOKENS_PER_MINUTE", "1"), ("LIMITS_TOKENS_BURST", "2")]).unwrap().tokens.unwrap();
        assert_eq!((quota.per_minute.get(), quota.burst.get()), (1, 2));
        let problem = read(&[("LIMITS_TOKENS_BURST", "0")]).unwrap_err();
        assert!(problem.contains("for no rate limit set LIMITS_TOKENS_PER_MINUTE=0"), "{problem}");
        let problem = read(&[("LIMITS_MAX_IN_FLIGHT", "0")]).unwrap_err();
        assert!(problem.contains("LIMITS_MAX_IN_FLIGHT ([limits] max_in_flight): not a whole number"), "{problem}");
    }

    #[test]
    fn an_implausible_number_is_refused() {
        for name in ["LIMITS_TOKENS_PER_MINUTE", "LIMITS_TOKENS_BURST", "LIMITS_MAX_IN_FLIGHT", "LIMITS_CONNECTIONS"] {
            for value in ["-1", "1.5", "1k", "unlimited", "1000001", "99999999999999999999"] {
                assert!(read(&[(name, value)]).unwrap_err().contains(name), "{name}={value}");
            }
            assert!(read(&[(name, "1000000")]).is_ok(), "{name}");
        }
    }
}
