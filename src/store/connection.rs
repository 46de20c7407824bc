//! What a store needs of a Redis: two connections to the same data.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{Claim, LiveToken, RecordOutcome, Restriction, StoredTask, TaskBacklog, TokenHolder};
use crate::{clock::UnixMillis, redis::ConnectionLost, tenant::TenantName};

/// What Redis answers.
pub type Reply<T> = Result<T, ConnectionLost>;

/// The longest wait for entries of the log.
pub const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Connects to the Redis that replicas share.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync {
    /// Connects once for commands, and once to read the log. Fails if Redis takes no writes.
    async fn connect(&self) -> Reply<Connected>;

    /// Where it connects to, without secrets.
    fn address(&self) -> String;
}

/// Two connections.
#[derive(derive_more::Debug)]
#[debug("Connected")]
pub struct Connected {
    /// For commands.
    pub commands: Box<dyn Commands>,
    /// For the log. It waits for entries, so it has a connection of its own.
    pub log: Box<dyn ReadLog>,
}

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

/// Reads the log.
#[async_trait]
pub trait ReadLog: Send {
    /// The next entries after a position, at most 1,000. If there are none, waits for the first one, at most for `wait`, which
    /// does not exceed [`LONGEST_WAIT`].
    async fn read(&mut self, after: LogPosition, wait: Duration) -> Reply<LogPage>;
}

/// The state of the shared data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedState {
    /// Identifies the data: after a loss it is another.
    pub data_id: String,
    /// The last entry of the log.
    pub last: LogPosition,
    /// The tasks.
    pub backlog: TaskBacklog,
}

/// Commands to Redis. After an error the connection is not used again.
#[async_trait]
pub trait Commands: Send + Sync {
    /// The state of the shared data. Writes, so that a Redis that takes no writes is found: gives the data an ID if it has
    /// none, and the log a first entry if it is empty.
    async fn state(&self) -> Reply<SharedState>;

    /// A page of the recorded restrictions, ended ones included, and the cursor of the next one. The first cursor is 0. What
    /// stays recorded during the whole scan is in one of its pages.
    async fn restrictions(&self, cursor: u64) -> Reply<(Option<u64>, Vec<Restriction>)>;

    /// Records the restrictions that are newer than the recorded ones, and appends them to the log. Returns for each the one
    /// recorded before. Stores the tasks with new IDs if there is no restriction, or if the outcome of one is
    /// [`RecordOutcome::New`] or `tasks_if`.
    async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        tasks_if: RecordOutcome,
        now: UnixMillis,
    ) -> Reply<Vec<Option<Restriction>>>;

    /// Registers live tokens. A known later end stays. Returns for each whether it was not registered with this end before: what
    /// has another end may be another replica's token, and look-ups before that did not find this one.
    async fn register(&self, live_tokens: &[LiveToken], now: UnixMillis) -> Reply<Vec<bool>>;

    /// The registered live tokens of a holder.
    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Reply<Vec<LiveToken>>;

    /// Claims tasks for [`StoredTask::LEASE`]. Their due times are the first ones.
    async fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Reply<Vec<StoredTask>>;

    /// Ends the claim of a task: removes it, or puts back what is left of it, to be claimed from `retry_at` on. Without effect if
    /// it was removed, or has become due later meanwhile.
    async fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) -> Reply<()>;
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
