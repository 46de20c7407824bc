//! Connects the store to Redis or Valkey.

use std::{sync::Once, time::Duration};

use async_trait::async_trait;

use super::{
    super::{Commands as _, Connect, Connected, LONGEST_WAIT, ReadLog as _, Reply},
    commands::RedisCommands,
    keys::{Keys, LOG, PROBE, RedisKeyPrefix},
    reader::LogReader,
};
use crate::redis::{Deployment, InvalidRedisAddress, Master, RedisAddress, RedisFindings};

/// A reader's answer may wait for an entry.
const READ_TIMEOUT: Duration = LONGEST_WAIT.saturating_add(Duration::from_secs(1));

const DROPS_KEYS: &str = "Redis drops keys when its memory is full: denials or live tokens can get lost; set its \
    maxmemory-policy to noeviction";

/// Connects to the server that has the data. All keys have one hash tag, so one master of a cluster has all of them. When
/// another server takes over, the connection is lost, and the next one goes to that.
#[derive(derive_more::Debug)]
#[debug("RedisConnector({})", deployment.address)]
pub struct RedisConnector {
    deployment: Deployment,
    keys: Keys,
    eviction_warning: Once,
}

/// The commands that the user needs, in a form that changes nothing that lasts. `KEY` is a key that does not exist. The last
/// one removes what `HSET` left if `HDEL` is refused.
const NEEDED: &str = "EVALSHA 0000000000000000000000000000000000000000 1 KEY, SCRIPT LOAD return, \
    GET KEY, SET KEY value XX, PTTL KEY, \
    HSET KEY field value, HSETNX KEY field value, HGET KEY field, HGETALL KEY, HLEN KEY, HSCAN KEY 0, \
    HDEL KEY field, \
    ZADD KEY XX 0 member, ZREM KEY member, ZCOUNT KEY 0 0, ZSCORE KEY member, ZRANGE KEY 0 0, \
    ZRANGEBYSCORE KEY 0 0, ZSCAN KEY 0, \
    XADD KEY NOMKSTREAM * field value, XREAD STREAMS KEY 0, XRANGE KEY - +, XREVRANGE KEY + -, \
    PEXPIRE KEY 0";

impl RedisConnector {
    /// Does not call the server.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn new(address: &RedisAddress, prefix: &RedisKeyPrefix) -> Result<Self, InvalidRedisAddress> {
        let keys = Keys::new(prefix);
        Ok(Self { deployment: Deployment::new(address, keys.named(PROBE))?, keys, eviction_warning: Once::new() })
    }

    /// Waits for each answer at least so long: for tests that are not about a slow Redis, on a busy machine.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.deployment.patience = patience;
        self
    }

    /// Connects as a store does, and looks around. Fails if the store could not connect.
    pub async fn probe(&self) -> Reply<RedisFindings> {
        let master = self.deployment.master().await?;
        let needed = NEEDED.replace("KEY", &self.keys.named(PROBE));
        let needed: Vec<_> = needed.split(", ").map(str::to_owned).collect();
        let findings = RedisFindings::of(&master, &needed).await?;
        if findings.refused.is_empty() {
            self.connect_to(master).await?;
        }
        Ok(findings)
    }

    async fn connect_to(&self, master: Master) -> Reply<Connected> {
        let Master { node, connection, loss, .. } = master;
        let reading = self.deployment.open(&node, READ_TIMEOUT).await?;
        let mut log = LogReader { connection: reading, log: self.keys.named(LOG), loss };
        let commands = RedisCommands::new(connection, self.keys.clone()).await?;
        let state = commands.state().await?;
        log.read(state.last, Duration::ZERO).await?;
        Ok(Connected { commands: Box::new(commands), log: Box::new(log) })
    }
}

#[async_trait]
impl Connect for RedisConnector {
    async fn connect(&self) -> Reply<Connected> {
        let master = self.deployment.master().await?;
        if let Some(policy) = master.info.evicts() {
            self.eviction_warning.call_once(|| tracing::warn!(redis = self.address(), policy, "{DROPS_KEYS}"));
        }
        self.connect_to(master).await
    }

    fn address(&self) -> String {
        self.deployment.address.to_string()
    }
}
