//! Redis or Valkey, as replicas share it: a connection for commands, and one that reads the log, both to the server that has
//! the data. In a cluster, or behind sentinels, the connector finds out which one that is.

mod address;
mod commands;
mod connector;
mod encoding;
mod failure;
mod findings;
mod keys;
mod live_tokens;
mod node;
mod prefix;
mod reader;
mod sentinels;

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress, RedisSentinels};
pub use connector::RedisConnector;
pub use findings::{Persistence, RedisFindings, RedisMode};
pub use prefix::RedisKeyPrefix;
