//! Redis or Valkey, as replicas share it: a connection for commands, and one that reads the log.

mod address;
mod commands;
mod connector;
mod encoding;
mod failure;
mod keys;
mod live_tokens;
mod prefix;
mod reader;

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress};
pub use connector::RedisConnector;
pub use prefix::RedisKeyPrefix;
