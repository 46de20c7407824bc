//! What the store says to Redis, and how it writes there: one connection for commands, and one that reads the log.

mod commands;
mod connector;
mod encoding;
mod keys;
mod live_tokens;
mod reader;

pub use connector::RedisConnector;
pub use keys::RedisKeyPrefix;
