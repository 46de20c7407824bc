//! The log of restrictions that replicas follow.

use super::Restriction;

/// The position of an entry in the log. Later entries have greater positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("{millis}-{number}")]
pub struct LogPosition {
    /// When the entry was written, by the clock of Redis, in milliseconds; at least that of the entry before.
    pub millis: u64,
    /// The number of the entry within that millisecond.
    pub number: u64,
}

impl LogPosition {
    /// Reads a position as Redis writes it: `1700000000000-0`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (millis, number) = text.split_once('-')?;
        Some(Self { millis: millis.parse().ok()?, number: number.parse().ok()? })
    }
}

/// What a replica reads from the log at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The restrictions after the position that was asked for, the earliest first. `None`: an entry that this version cannot
    /// read.
    pub entries: Vec<(LogPosition, Option<Restriction>)>,
    /// The first entry of the log, read after `entries`. `None`: the log is empty.
    pub first: Option<LogPosition>,
    /// The last entry of the log, read after `entries`.
    pub last: Option<LogPosition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_as_in_redis_and_printed_as_redis_prints_them() {
        let position = LogPosition::parse;
        assert!(position("9-10").unwrap() < position("10-9").unwrap());
        assert!(position("9-9").unwrap() < position("9-10").unwrap());
        assert_eq!(position("1700000000000-3").unwrap().to_string(), "1700000000000-3");
        for bad in ["", "1", "-", "1-", "a-1", "1-2-3"] {
            assert_eq!(position(bad), None, "{bad}");
        }
    }
}
