//! A stand-in's clock: this machine's, ahead of it by an offset.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A clock that is ahead of this machine's.
#[derive(Debug)]
pub(crate) struct Clock {
    offset_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn ahead_by(offset_ms: i64) -> Self {
        Self { offset_ms: AtomicI64::new(offset_ms) }
    }

    pub(crate) fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// The time in milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        let machine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset_ms = self.offset_ms.load(Ordering::Relaxed);
        i64::try_from(machine.as_millis()).unwrap_or(i64::MAX).saturating_add(offset_ms)
    }

    /// The time as a `Date` header needs it.
    pub(crate) fn now(&self) -> SystemTime {
        let since_epoch = Duration::from_millis(u64::try_from(self.now_ms()).unwrap_or(0));
        UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
    }
}
