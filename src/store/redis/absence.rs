//! When this replica was without Redis, and what it then heard too late to have refused anybody by it.

use std::time::Duration;

use crate::clock::UnixMillis;

/// The time without Redis, if there was any lately. Several absences are one, from the beginning of the first to the end
/// of the last.
#[derive(Debug, Default)]
pub(super) struct Absence(Option<Span>);

#[derive(Clone, Copy, Debug)]
struct Span {
    from: UnixMillis,
    /// None while it lasts.
    to: Option<UnixMillis>,
    /// From when on what was said, and may be over by now, was not read.
    unread_from: Option<UnixMillis>,
}

impl Absence {
    /// For how long after an absence others may still write back what they learned meanwhile: they came back at the same
    /// time, or a little later. By as much may the clocks be apart that events and absences are told by.
    pub(super) const OTHERS_COME_BACK_WITHIN: Duration = Duration::from_secs(10);
    /// For how long after an absence there are tokens that were issued in it: one that can be revoked lives for an hour,
    /// and is exchanged for within two minutes.
    const TOKENS_OUTLIVE_IT_BY: Duration = Duration::from_mins(65);
    /// No event denies anybody for less.
    pub(super) const SHORTEST_DENIAL: Duration = Duration::from_mins(2);

    pub(super) fn begin(&mut self, now: UnixMillis) {
        let recent = self.0.filter(|span| span.to.is_some_and(|to| now < to.after(Self::TOKENS_OUTLIVE_IT_BY)));
        let (from, unread_from) = recent.map_or((now, None), |span| (span.from, span.unread_from));
        self.0 = Some(Span { from, to: None, unread_from: unread_from.or(Some(now)) });
    }

    pub(super) fn end(&mut self, now: UnixMillis) {
        if let Some(span) = &mut self.0 {
            span.to = Some(now);
            // After a shorter one all that was said meanwhile still holds.
            span.unread_from = span.unread_from.filter(|from| from.after(Self::SHORTEST_DENIAL) <= now);
        }
    }

    /// Whether what is heard now of an event of that time came too late: tokens may have been issued against it.
    pub(super) fn makes_late(&self, at: UnixMillis, now: UnixMillis) -> bool {
        let is_just_back = |span: Span| span.to.is_none_or(|to| now < to.after(Self::OTHERS_COME_BACK_WITHIN));
        self.0.is_some_and(is_just_back) || self.is_of_it(at, now)
    }

    /// Whether an event of that time may be of an absence of which there are still tokens.
    pub(super) fn is_of_it(&self, at: UnixMillis, now: UnixMillis) -> bool {
        let Some(Span { from, to, .. }) = self.0 else { return false };
        let is_before_its_end = to.is_none_or(|to| at <= to.after(Self::OTHERS_COME_BACK_WITHIN));
        let has_tokens = to.is_none_or(|to| now < to.after(Self::TOKENS_OUTLIVE_IT_BY));
        from <= at.after(Self::OTHERS_COME_BACK_WITHIN) && is_before_its_end && has_tokens
    }

    /// Whether something may have been said in it that was over at its end.
    pub(super) fn has_unread(&self) -> bool {
        self.0.is_some_and(|span| span.unread_from.is_some())
    }

    /// Says that it has been read what was said in it.
    pub(super) fn was_read(&mut self) {
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
    fn late_is_what_is_heard_just_after_an_absence_and_for_an_hour_what_is_of_it() {
        let mut absence = Absence::default();
        assert!(!absence.makes_late(at(100), at(100)));
        absence.begin(at(100));
        assert!(absence.makes_late(at(0), at(150)));
        absence.end(at(200));
        for (event, heard, late) in [
            (0, 209, true),
            (0, 210, false),
            (89, 300, false),
            (90, 300, true),
            (210, 300, true),
            (211, 300, false),
            (150, 200 + 65 * 60 - 1, true),
            (150, 200 + 65 * 60, false),
        ] {
            assert_eq!(absence.makes_late(at(event), at(heard)), late, "an event at {event} s, heard at {heard} s");
        }
    }

    #[test]
    fn absences_are_one_while_there_are_tokens_of_the_first() {
        let mut absence = Absence::default();
        absence.begin(at(100));
        absence.end(at(200));
        absence.begin(at(1000));
        absence.end(at(1001));
        assert!(absence.makes_late(at(150), at(1100)));
        let later = 1001 + 65 * 60;
        absence.begin(at(later));
        absence.end(at(later + 1));
        assert!(!absence.makes_late(at(150), at(later + 100)));
        assert!(absence.makes_late(at(later), at(later + 100)));
    }

    #[test]
    fn what_was_said_in_an_absence_that_outlasts_a_denial_is_to_be_read_once() {
        let mut absence = Absence::default();
        absence.begin(at(0));
        absence.end(at(119));
        assert!(!absence.has_unread());
        absence.begin(at(200));
        absence.end(at(320));
        assert!(absence.has_unread());
        // Lost again before it was read.
        absence.begin(at(330));
        absence.end(at(331));
        assert!(absence.has_unread());
        absence.was_read();
        absence.begin(at(400));
        absence.end(at(401));
        assert!(!absence.has_unread());
    }
}
