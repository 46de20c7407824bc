//! Clerk's reverification: how recently a user has verified which factors.

use std::time::Duration;

use super::finding::Finding;
use crate::clerk::FactorAge;

/// The factors to verify, and how recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{level} verified less than {within_minutes} min ago")]
pub struct Reverification {
    level: Level,
    within_minutes: u64,
}

/// Clerk's levels of reverification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
pub enum Level {
    /// The first factor.
    #[display("first factor")]
    FirstFactor,
    /// The second factor; for a user with only one factor, that one.
    #[display("second factor")]
    SecondFactor,
    /// Both factors; for a user without a second factor, the first.
    #[display("both factors")]
    MultiFactor,
}

/// Why a reverification is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReverification {
    /// An unknown level.
    #[error("{0:?} is not a level: use first_factor, second_factor or multi_factor")]
    Level(String),
    /// Clerk counts whole minutes.
    #[error("Clerk counts whole minutes: write at least 1m, without seconds")]
    Minutes,
}

impl Level {
    /// Parses Clerk's name of a level.
    pub fn parse(text: &str) -> Result<Self, InvalidReverification> {
        match text {
            "first_factor" => Ok(Self::FirstFactor),
            "second_factor" => Ok(Self::SecondFactor),
            "multi_factor" => Ok(Self::MultiFactor),
            other => Err(InvalidReverification::Level(other.to_owned())),
        }
    }
}

impl Reverification {
    /// Checks that `within` is a positive number of whole minutes.
    pub fn new(level: Level, within: Duration) -> Result<Self, InvalidReverification> {
        let within_minutes = within.as_secs() / 60;
        if within_minutes == 0 || within != Duration::from_mins(within_minutes) {
            return Err(InvalidReverification::Minutes);
        }
        Ok(Self { level, within_minutes })
    }

    /// Decides as Clerk does. An age equal to the limit is too old. A level that a user cannot reach falls back to the
    /// factor that they have, except that a second factor alone never counts as both.
    pub(super) fn check(self, age: FactorAge) -> Finding {
        let check_age =
            |minutes: u64| if minutes < self.within_minutes { Finding::HOLDS } else { Finding::TOO_LONG_AGO };
        match (self.level, age.first_minutes, age.second_minutes) {
            (_, None, None) | (Level::FirstFactor | Level::MultiFactor, None, _) => Finding::NEVER_VERIFIED,
            (Level::FirstFactor, Some(first), _) | (_, Some(first), None) => check_age(first),
            (Level::SecondFactor, _, Some(second)) => check_age(second),
            (Level::MultiFactor, Some(first), Some(second)) => check_age(first.max(second)),
        }
    }
}
