//! Redis or Valkey, as replicas share it.

mod address;
mod connection;
mod prefix;

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress};
pub use prefix::RedisKeyPrefix;

/// Stand-in until the connector is merged.
#[derive(Debug)]
pub struct RedisConnector;
impl RedisConnector {
    /// None.
    pub fn new(_: &RedisAddress, _: &RedisKeyPrefix) -> Result<Self, InvalidRedisAddress> {
        Err(InvalidRedisAddress::NotAUrl)
    }
}
#[async_trait::async_trait]
impl super::Connect for RedisConnector {
    async fn connect(&self) -> Result<super::Connected, super::ConnectionLost> {
        Err(super::ConnectionLost(String::new()))
    }
    fn address(&self) -> String {
        String::new()
    }
}
