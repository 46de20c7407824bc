//! Connects to Redis or Valkey.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use ::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use async_trait::async_trait;

use super::{
    super::{Commands as _, Connect, Connected, ConnectionLost, ReadLog as _, Wait},
    address::{InvalidRedisAddress, RedisAddress},
    commands::RedisCommands,
    keys::Keys,
    prefix::RedisKeyPrefix,
    reader::LogReader,
};

/// Includes TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const COMMAND_TIMEOUT: Duration = Duration::from_millis(100);
/// A reader's answer may wait for an entry.
const READ_TIMEOUT: Duration = LogReader::WAIT.saturating_add(Duration::from_secs(1));

/// Connects to one Redis or Valkey server.
#[derive(derive_more::Debug)]
pub struct RedisConnector {
    address: RedisAddress,
    #[debug(skip)]
    client: Client,
    #[debug(skip)]
    keys: Arc<Keys>,
    #[debug(skip)]
    eviction_warning: Once,
}

impl RedisConnector {
    /// Does not call the server.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn new(address: &RedisAddress, prefix: &RedisKeyPrefix) -> Result<Self, InvalidRedisAddress> {
        let client = address.client().map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let keys = Arc::new(Keys::new(prefix));
        Ok(Self { address: address.clone(), client, keys, eviction_warning: Once::new() })
    }

    /// Connects as a store does. Returns the eviction policy of Redis if it evicts keys.
    pub async fn probe(&self) -> Result<Option<String>, ConnectionLost> {
        let (commands, _log) = self.connect_both().await?;
        Ok(commands.eviction_policy().await)
    }

    async fn connect_both(&self) -> Result<(RedisCommands, LogReader), ConnectionLost> {
        let (commands, log) = tokio::try_join!(self.connect_once(COMMAND_TIMEOUT), self.connect_once(READ_TIMEOUT))?;
        let commands = RedisCommands { connection: commands, keys: Arc::clone(&self.keys) };
        let mut log = LogReader { connection: log, keys: Arc::clone(&self.keys) };
        let state = commands.state().await?;
        log.read(state.last, Wait::No).await?;
        Ok((commands, log))
    }

    async fn connect_once(&self, response_timeout: Duration) -> Result<MultiplexedConnection, ConnectionLost> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

#[async_trait]
impl Connect for RedisConnector {
    async fn connect(&self) -> Result<Connected, ConnectionLost> {
        let (commands, log) = self.connect_both().await?;
        if !self.eviction_warning.is_completed()
            && let Some(policy) = commands.eviction_policy().await
        {
            self.eviction_warning.call_once(|| {
                tracing::warn!(
                    redis = %self.address,
                    policy,
                    "Redis drops keys when its memory is full: denials or live tokens can get lost; set its \
                     maxmemory-policy to noeviction"
                );
            });
        }
        Ok(Connected { commands: Box::new(commands), log: Box::new(log) })
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}
