//! Points in time as Ably and Clerk write them: whole milliseconds since the Unix epoch.
//!
//! Functions that decide take a [`UnixMillis`] from their caller; only the edge of the program reads the clock.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The current time, for parts that act on their own.
pub type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The system clock's time.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The time after `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

impl From<SystemTime> for UnixMillis {
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, millis))
    }
}

/// A duration in whole milliseconds, capped at `i64::MAX`.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
