//! The offset of this machine's clock from a vendor's, measured by their responses.
//!
//! Ably refuses every token request whose timestamp is more than 2 minutes off (40104), which only clients would notice.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::unix_millis::{UnixMillis, millis};

/// The log warns about a larger offset.
const TOLERATED: Duration = Duration::from_secs(30);

/// The offset of our clock from another, with its uncertainty, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// The most likely offset. Negative if our clock is behind.
    pub ms: i64,
    /// The maximum distance to the true offset.
    pub uncertainty_ms: i64,
}

impl ClockOffset {
    /// Compares our clock with the time in a response, which is rounded down to `resolution`. The response arrived at
    /// `received_at` by our clock, `round_trip` after the request was sent, and was made at any moment between.
    #[must_use]
    pub fn of_answer(theirs: UnixMillis, resolution: Duration, received_at: UnixMillis, round_trip: Duration) -> Self {
        let (step, round_trip) = (millis(resolution), millis(round_trip));
        let ours = received_at.0.saturating_sub(round_trip / 2);
        let ms = ours.saturating_sub(theirs.0.saturating_add(step / 2));
        Self { ms, uncertainty_ms: step.saturating_add(round_trip).saturating_add(1) / 2 }
    }

    /// Whether the clocks are certainly further apart than `limit_ms`.
    #[must_use]
    pub fn exceeds(self, limit_ms: i64) -> bool {
        self.ms.saturating_abs().saturating_sub(self.uncertainty_ms) > limit_ms
    }

    /// Whether the clocks are certainly within `limit_ms`.
    #[must_use]
    pub fn is_within(self, limit_ms: i64) -> bool {
        self.ms.saturating_abs().saturating_add(self.uncertainty_ms) <= limit_ms
    }

    /// The offset in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "53 bits of milliseconds are 285,000 years")]
    pub fn seconds(self) -> f64 {
        self.ms as f64 / 1000.0
    }
}

/// In words: `1.5 s ahead`.
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, direction) = (self.ms.unsigned_abs(), if self.ms < 0 { "behind" } else { "ahead" });
        match ms {
            0..1000 => f.write_str("within a second"),
            _ => write!(f, "{}.{} s {direction}", ms / 1000, ms % 1000 / 100),
        }
    }
}

/// Watches our clock's offset from one vendor's. Clones share their state; the default ignores everything.
#[derive(Clone, Debug, Default)]
pub struct ClockWatch(Option<Arc<Watched>>);

#[derive(derive_more::Debug)]
#[debug("{vendor}")]
struct Watched {
    tenant: String,
    vendor: &'static str,
    record: Box<dyn Fn(ClockOffset) + Send + Sync>,
    is_off: AtomicBool,
}

impl ClockWatch {
    /// Watches a vendor's clock for a tenant. Calls `record` with every offset.
    pub fn new(
        tenant: impl Into<String>,
        vendor: &'static str,
        record: impl Fn(ClockOffset) + Send + Sync + 'static,
    ) -> Self {
        let is_off = AtomicBool::new(false);
        Self(Some(Arc::new(Watched { tenant: tenant.into(), vendor, record: Box::new(record), is_off })))
    }

    /// Records an offset, and logs once when our clock is off and once when it is right again.
    pub fn observe(&self, offset: Option<ClockOffset>) {
        let (Some(watched), Some(offset)) = (&self.0, offset) else { return };
        (watched.record)(offset);
        let Some(is_off) = is_off(offset) else { return };
        let Watched { tenant, vendor, .. } = &**watched;
        match (watched.is_off.swap(is_off, Ordering::Relaxed), is_off) {
            (false, true) => tracing::warn!(
                tenant,
                vendor,
                %offset,
                "this machine's clock is off; set it by NTP. Beyond 2 minutes Ably refuses every token request (40104)"
            ),
            (true, false) => tracing::info!(tenant, vendor, %offset, "this machine's clock is right again"),
            _ => {}
        }
    }
}

/// Whether our clock is off. `None` if the offset is too uncertain, so that the log does not alternate at the limit.
fn is_off(offset: ClockOffset) -> Option<bool> {
    let limit_ms = millis(TOLERATED);
    match (offset.exceeds(limit_ms), offset.is_within(limit_ms)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn offset(ms: i64, uncertainty_ms: i64) -> ClockOffset {
        ClockOffset { ms, uncertainty_ms }
    }

    #[test]
    fn an_offset_is_taken_in_the_middle_of_the_round_trip_and_of_the_second() {
        for (theirs, resolution, received_at, round_trip_ms, expected) in [
            // Made at 10.500 by both clocks, most likely.
            (10_000, SECOND, 10_500, 0, offset(0, 500)),
            (10_000, SECOND, 10_700, 400, offset(0, 700)),
            (10_000, SECOND, 131_000, 1000, offset(120_000, 1000)),
            (131_000, SECOND, 11_500, 0, offset(-120_000, 500)),
            (10_123, Duration::ZERO, 10_173, 100, offset(0, 50)),
        ] {
            let round_trip = Duration::from_millis(round_trip_ms);
            let measured = ClockOffset::of_answer(UnixMillis(theirs), resolution, UnixMillis(received_at), round_trip);
            assert_eq!(measured, expected, "{theirs} {received_at} {round_trip_ms}");
        }
    }

    #[test]
    fn the_true_offset_is_never_further_away_than_the_uncertainty() {
        for truth in [-31_000_i64, -1, 0, 250, 31_000] {
            for (sent, there, back) in [(0, 0, 0), (499, 1, 2000), (500, 2000, 1), (999, 700, 701)] {
                let answered_at = 1_000_000 + sent + there;
                let theirs = (answered_at - truth).div_euclid(1000) * 1000;
                let round_trip = Duration::from_millis(u64::try_from(there + back).unwrap());
                let received_at = UnixMillis(answered_at + back);
                let measured = ClockOffset::of_answer(UnixMillis(theirs), SECOND, received_at, round_trip);
                assert!((measured.ms - truth).abs() <= measured.uncertainty_ms, "{truth}: {measured:?}");
            }
        }
    }

    #[test]
    fn a_clock_is_off_or_right_only_when_the_offset_is_certain_enough() {
        for (offset, expected) in [
            (offset(30_000, 0), Some(false)),
            (offset(30_001, 0), Some(true)),
            (offset(-30_001, 0), Some(true)),
            (offset(30_200, 500), None),
            (offset(29_800, 500), None),
            (offset(29_500, 500), Some(false)),
            (offset(-30_501, 500), Some(true)),
        ] {
            assert_eq!(is_off(offset), expected, "{offset:?}");
        }
    }

    #[test]
    fn every_offset_is_recorded_and_a_response_without_one_changes_nothing() {
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let watch = {
            let recorded = Arc::clone(&recorded);
            ClockWatch::new("default", "ably", move |offset| recorded.lock().unwrap().push(offset.seconds()))
        };
        watch.observe(None);
        watch.observe(Some(offset(-121_500, 500)));
        watch.clone().observe(Some(offset(250, 500)));
        watch.observe(None);
        assert_eq!(*recorded.lock().unwrap(), [-121.5, 0.25]);
        ClockWatch::default().observe(Some(offset(1, 1)));
    }

    #[test]
    fn an_offset_is_printed_in_words() {
        for (ms, words) in
            [(999, "within a second"), (-999, "within a second"), (1500, "1.5 s ahead"), (-121_050, "121.0 s behind")]
        {
            assert_eq!(offset(ms, 0).to_string(), words);
        }
    }
}
