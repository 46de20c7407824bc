//! The connection that reads the log.

use std::time::Duration;

use ::redis::{FromRedisValue, ParsingError, Value, aio::MultiplexedConnection, pipe};
use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{
    super::{LogPage, LogPosition, ReadLog, Reply},
    encoding,
};
use crate::{clock, redis::ConnectionLost};

/// The most entries of a page.
const PAGE: usize = 1_000;

/// Reads the log.
pub(super) struct LogReader {
    pub(super) connection: MultiplexedConnection,
    /// The key of the log.
    pub(super) log: String,
    /// Ends when the server is not the master any more, although it answers.
    pub(super) loss: BoxFuture<'static, ConnectionLost>,
}

/// Entries with their fields.
type Entries = Vec<(LogPosition, Vec<Vec<u8>>)>;

#[async_trait]
impl ReadLog for LogReader {
    async fn read(&mut self, after: LogPosition, wait: Duration) -> Reply<LogPage> {
        let log = &self.log;
        let mut pipeline = pipe();
        let read = pipeline.cmd("XREAD").arg("COUNT").arg(PAGE);
        // `BLOCK 0` would wait forever.
        if !wait.is_zero() {
            read.arg("BLOCK").arg(clock::millis(wait));
        }
        read.arg("STREAMS").arg(log).arg(after.to_string());
        pipeline.cmd("XRANGE").arg(log).arg("-").arg("+").arg("COUNT").arg(1);
        pipeline.cmd("XREVRANGE").arg(log).arg("+").arg("-").arg("COUNT").arg(1);
        let (read, first, last): (Option<Vec<(String, Entries)>>, Entries, Entries) = tokio::select! {
            biased;
            lost = &mut self.loss => return Err(lost),
            answers = pipeline.query_async(&mut self.connection) => answers?,
        };
        let entries = read.into_iter().flatten().flat_map(|(_, entries)| entries);
        let position = |entries: Entries| entries.first().map(|(position, _)| *position);
        Ok(LogPage {
            entries: entries.map(|(position, fields)| (position, encoding::entry_of(&fields))).collect(),
            first: position(first),
            last: position(last),
        })
    }
}

impl FromRedisValue for LogPosition {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        Self::parse(&String::from_redis_value(value)?).ok_or_else(|| "not a position in a stream".into())
    }
}
