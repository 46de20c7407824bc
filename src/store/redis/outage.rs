//! The last outage of Redis, and which restrictions this replica learned too late because of it.

use std::time::Duration;

use crate::clock::UnixMillis;

/// The last outage of Redis, if any. An outage that begins while tokens from the last one may live extends it, the time
/// between included.
#[derive(Debug, Default)]
pub(super) struct Outage(Option<Span>);

#[derive(Clone, Copy, Debug)]
struct Span {
    from: UnixMillis,
    /// `None` while it lasts.
    to: Option<UnixMillis>,
    /// The start of the time whose restrictions may have expired unread.
    unread_from: Option<UnixMillis>,
}

impl Outage {
    /// For how long after an outage other replicas may still write what they learned during it. Also the tolerance
    /// between the clocks.
    const RECONNECT_MARGIN: Duration = Duration::from_secs(10);
    /// How long tokens issued during an outage can outlive it: an hour, after an exchange within two minutes.
    const TOKENS_OUTLIVE_BY: Duration = Duration::from_mins(65);
    /// The shortest denial that an event can cause.
    const SHORTEST_DENIAL: Duration = Duration::from_mins(2);

    pub(super) fn begin(&mut self, now: UnixMillis) {
        let recent = self.0.filter(|span| span.to.is_some_and(|to| now < to.after(Self::TOKENS_OUTLIVE_BY)));
        let (from, unread_from) = recent.map_or((now, None), |span| (span.from, span.unread_from));
        self.0 = Some(Span { from, to: None, unread_from: unread_from.or(Some(now)) });
    }

    pub(super) fn end(&mut self, now: UnixMillis) {
        if let Some(span) = &mut self.0 {
            span.to = Some(now);
            // After a shorter outage every denial from it is still active.
            span.unread_from = span.unread_from.filter(|from| from.after(Self::SHORTEST_DENIAL) <= now);
        }
    }

    /// Whether a restriction from an event at `at`, learned now, came too late: tokens may violate it.
    pub(super) fn is_late(&self, at: UnixMillis, now: UnixMillis) -> bool {
        let reconnected_lately = |span: Span| span.to.is_none_or(|to| now < to.after(Self::RECONNECT_MARGIN));
        self.0.is_some_and(reconnected_lately) || self.may_date_from(at, now)
    }

    /// Whether the event may date from the outage, and tokens issued during the outage may still live.
    pub(super) fn may_date_from(&self, at: UnixMillis, now: UnixMillis) -> bool {
        let Some(Span { from, to, .. }) = self.0 else { return false };
        let is_before_end = to.is_none_or(|to| at <= to.after(Self::RECONNECT_MARGIN));
        let has_tokens = to.is_none_or(|to| now < to.after(Self::TOKENS_OUTLIVE_BY));
        from <= at.after(Self::RECONNECT_MARGIN) && is_before_end && has_tokens
    }

    /// Whether restrictions may have come and expired during the outage.
    pub(super) fn has_unread(&self) -> bool {
        self.0.is_some_and(|span| span.unread_from.is_some())
    }

    /// Marks those as read.
    pub(super) fn mark_read(&mut self) {
        if let Some(span) = &mut self.0 {
            span.unread_from = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn at(seconds: u64) -> UnixMillis {
        START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_restriction_is_late_just_after_an_outage_and_for_an_hour_if_it_dates_from_it() {
        let mut outage = Outage::default();
        assert!(!outage.is_late(at(100), at(100)));
        outage.begin(at(100));
        assert!(outage.is_late(at(0), at(150)));
        outage.end(at(200));
        for (event, learned, late) in [
            (0, 209, true),
            (0, 210, false),
            (89, 300, false),
            (90, 300, true),
            (210, 300, true),
            (211, 300, false),
            (150, 200 + 65 * 60 - 1, true),
            (150, 200 + 65 * 60, false),
        ] {
            assert_eq!(outage.is_late(at(event), at(learned)), late, "an event at {event} s, learned at {learned} s");
        }
    }

    #[test]
    fn an_outage_extends_the_last_one_while_its_tokens_may_live() {
        let mut outage = Outage::default();
        outage.begin(at(100));
        outage.end(at(200));
        outage.begin(at(1000));
        outage.end(at(1001));
        assert!(outage.is_late(at(150), at(1100)));
        let later = 1001 + 65 * 60;
        outage.begin(at(later));
        outage.end(at(later + 1));
        assert!(!outage.is_late(at(150), at(later + 100)));
        assert!(outage.is_late(at(later), at(later + 100)));
    }

    #[test]
    fn restrictions_of_an_outage_longer_than_a_denial_are_read_once() {
        let mut outage = Outage::default();
        outage.begin(at(0));
        outage.end(at(119));
        assert!(!outage.has_unread());
        outage.begin(at(200));
        outage.end(at(320));
        assert!(outage.has_unread());
        // Lost again before they were read.
        outage.begin(at(330));
        outage.end(at(331));
        assert!(outage.has_unread());
        outage.mark_read();
        outage.begin(at(400));
        outage.end(at(401));
        assert!(!outage.has_unread());
    }
}
