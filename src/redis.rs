//! Redis or Valkey: where it is, how to reach the server that has the data, and what that tells of itself. In a cluster, or
//! behind sentinels, [`Deployment`] finds out which server that is.

mod address;
mod deployment;
mod failure;
mod findings;
mod info;
mod node;
mod sentinels;

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress, RedisSentinels};
pub(crate) use deployment::{Deployment, Master};
pub use failure::ConnectionLost;
pub use findings::RedisFindings;
pub use info::{Persistence, RedisInfo, RedisMode};
