//! How restrictions and log entries are written in Redis.

use super::super::{Restriction, Topic};
use crate::clock::UnixMillis;

/// How many entries the log keeps, or some more.
pub(super) const LOG_LENGTH: usize = 100_000;
/// The digits of a rank.
const RANK_BYTES: usize = 32;

/// The ID of a restriction: of all with the same, one counts.
pub(super) fn id_of(restriction: &Restriction) -> String {
    json(&(&restriction.tenant, &restriction.subject, restriction.topic()))
}

/// The row of a restriction: its rank, by which scripts compare it, then JSON.
pub(super) fn row_of(restriction: &Restriction) -> String {
    restriction.rank() + &json(restriction)
}

/// The text in the row of an older one that this one only confirms.
pub(super) fn text_if_confirmed(restriction: &Restriction) -> Option<String> {
    (restriction.topic() == Topic::ClientId).then(|| json(&restriction.kind))
}

pub(super) fn restriction_of(row: &[u8]) -> Option<Restriction> {
    let read = serde_json::from_slice(row.get(RANK_BYTES..).unwrap_or_default());
    read.inspect_err(|_| warn_of_foreign_data()).ok()
}

/// The restriction of an entry with these fields. `None`: the first entry of a log, or one that this version cannot read.
pub(super) fn entry_of(fields: &[Vec<u8>]) -> Option<Restriction> {
    fields.get(1).filter(|row| !row.is_empty()).and_then(|row| restriction_of(row))
}

/// The time in a score of a sorted set.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
pub(super) fn time_of(score: f64) -> UnixMillis {
    UnixMillis(score as i64)
}

/// Never fails: the values are strings, numbers, and enums of them.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn warn_of_foreign_data() {
    tracing::warn!("ignoring data in Redis under this service's prefix that this service did not write");
}
