//! What `check` tells of a Redis.

use std::time::{Duration, Instant};

use ::redis::{ErrorKind, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection, cmd};

use super::{super::ConnectionLost, keys::Keys};

/// A Redis that answers.
#[derive(Clone, Debug)]
pub struct RedisFindings {
    /// How it is set up.
    pub mode: RedisMode,
    /// The server that has the data: host and port.
    pub node: String,
    /// Its name and version, if it tells them.
    pub server: Option<String>,
    /// Its `maxmemory-policy`, if it tells it.
    pub eviction_policy: Option<String>,
    /// What a restart leaves, if it tells it.
    pub persistence: Option<Persistence>,
    /// The commands that the user needs and may not run.
    pub refused: Vec<String>,
    /// Those that the service can do without.
    pub refused_extras: Vec<String>,
    /// The time of one command.
    pub round_trip: Duration,
}

/// How Redis is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
pub enum RedisMode {
    /// One server, or one behind an address that a managed service moves.
    #[display("single server")]
    Single,
    /// Nodes that share the keys.
    #[display("cluster")]
    Cluster,
    /// A master that sentinels name.
    #[display("master of sentinels")]
    Sentinel,
}

/// What a restart of Redis leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It keeps an append-only file.
    AppendOnlyFile,
    /// It keeps snapshots at most, with this many changes since the last one.
    Snapshots {
        /// The number of changes.
        changes_since: u64,
    },
}

/// The answer to `INFO`. Empty if the user may not ask.
#[derive(Debug, Default)]
pub(super) struct ServerInfo(String);

/// The policy with which Redis drops no keys.
const NO_EVICTION: &str = "noeviction";

/// The commands that the user needs, in a form that changes nothing that lasts. `KEY` is a key that does not exist.
const NEEDED: [&str; 26] = [
    "EVALSHA 0000000000000000000000000000000000000000 1 KEY",
    "SCRIPT LOAD return",
    "GET KEY",
    "SET KEY value XX",
    "PTTL KEY",
    "HSET KEY field value",
    "HSETNX KEY field value",
    "HGET KEY field",
    "HEXISTS KEY field",
    "HLEN KEY",
    "HSCAN KEY 0",
    "HDEL KEY field",
    "ZADD KEY XX 0 member",
    "ZREM KEY member",
    "ZCARD KEY",
    "ZCOUNT KEY 0 0",
    "ZSCORE KEY member",
    "ZRANGE KEY 0 0",
    "ZRANGEBYSCORE KEY 0 0",
    "ZREMRANGEBYSCORE KEY 0 0",
    "ZSCAN KEY 0",
    "XADD KEY NOMKSTREAM * field value",
    "XREAD STREAMS KEY 0",
    "XRANGE KEY - +",
    "XREVRANGE KEY + -",
    // Removes what `HSET` left if `HDEL` is refused.
    "PEXPIRE KEY 0",
];
/// The service can do without these: what it tells of Redis, and the nodes of a cluster that no URL names.
const EXTRAS: [&str; 1] = ["INFO server"];
const EXTRAS_OF_A_CLUSTER: [&str; 2] = ["INFO server", "CLUSTER SLOTS"];

impl RedisFindings {
    pub(super) async fn of(
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        node: String,
        mode: Option<RedisMode>,
    ) -> Result<Self, ConnectionLost> {
        let info = ServerInfo::of(connection).await;
        let mode = mode.or(info.mode()).unwrap_or(RedisMode::Single);
        let extras = if mode == RedisMode::Cluster { &EXTRAS_OF_A_CLUSTER[..] } else { &EXTRAS };
        let begun = Instant::now();
        is_refused(connection, NEEDED[0], keys).await?;
        let round_trip = begun.elapsed();
        Ok(Self {
            mode,
            node,
            server: info.server(),
            eviction_policy: info.eviction_policy().map(str::to_owned),
            persistence: info.persistence(),
            refused: refused_of(connection, &NEEDED, keys).await?,
            refused_extras: refused_of(connection, extras, keys).await?,
            round_trip,
        })
    }

    /// The eviction policy, if Redis drops keys when its memory is full.
    #[must_use]
    pub fn evicts(&self) -> Option<&str> {
        self.eviction_policy.as_deref().filter(|policy| *policy != NO_EVICTION)
    }
}

/// The names in an ACL of the commands that Redis refuses this user.
async fn refused_of(
    connection: &mut MultiplexedConnection,
    commands: &[&str],
    keys: &Keys,
) -> Result<Vec<String>, ConnectionLost> {
    let mut refused = Vec::new();
    for command in commands {
        if is_refused(connection, command, keys).await? {
            let mut words = command.split(' ');
            let name = words.by_ref().take(if has_subcommands(command) { 2 } else { 1 });
            refused.push(name.collect::<Vec<_>>().join("|").to_ascii_lowercase());
        }
    }
    Ok(refused)
}

fn has_subcommands(command: &str) -> bool {
    command.starts_with("SCRIPT ") || command.starts_with("CLUSTER ")
}

/// Whether the user may not run a command.
async fn is_refused(
    connection: &mut MultiplexedConnection,
    command: &str,
    keys: &Keys,
) -> Result<bool, ConnectionLost> {
    let mut words = command.split(' ').map(|word| if word == "KEY" { &keys.probe } else { word });
    let mut sent = cmd(words.next().unwrap_or_default());
    for word in words {
        sent.arg(word);
    }
    match sent.query_async::<Value>(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(true),
        Err(error) if error.is_io_error() || error.is_timeout() => Err(error.into()),
        _ => Ok(false),
    }
}

impl ServerInfo {
    pub(super) async fn of(connection: &mut MultiplexedConnection) -> Self {
        let info: RedisResult<String> = cmd("INFO").query_async(connection).await;
        Self(info.unwrap_or_default())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// `None` if it does not tell.
    pub(super) fn mode(&self) -> Option<RedisMode> {
        let is_cluster = self.value("redis_mode") == Some("cluster") || self.value("cluster_enabled") == Some("1");
        (!self.0.is_empty()).then_some(if is_cluster { RedisMode::Cluster } else { RedisMode::Single })
    }

    /// The eviction policy, if Redis drops keys when its memory is full.
    pub(super) fn evicts(&self) -> Option<&str> {
        self.eviction_policy().filter(|policy| *policy != NO_EVICTION)
    }

    fn eviction_policy(&self) -> Option<&str> {
        self.value("maxmemory_policy")
    }

    fn server(&self) -> Option<String> {
        let valkey = self.value("valkey_version").map(|version| format!("Valkey {version}"));
        valkey.or_else(|| self.value("redis_version").map(|version| format!("Redis {version}")))
    }

    fn persistence(&self) -> Option<Persistence> {
        match self.value("aof_enabled")? {
            "0" => {
                Some(Persistence::Snapshots { changes_since: self.value("rdb_changes_since_last_save")?.parse().ok()? })
            }
            _ => Some(Persistence::AppendOnlyFile),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_information_of_redis_and_valkey_is_understood() {
        let info = ServerInfo("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\naof_enabled:1\r\n".into());
        assert_eq!((info.server().as_deref(), info.mode()), (Some("Redis 7.0.15"), Some(RedisMode::Single)));
        assert_eq!((info.persistence(), info.evicts()), (Some(Persistence::AppendOnlyFile), None));
        let info = ServerInfo(
            "redis_version:7.2.4\r\nvalkey_version:8.1.0\r\nredis_mode:cluster\r\nmaxmemory_policy:allkeys-lru\r\n\
             aof_enabled:0\r\nrdb_changes_since_last_save:12\r\n"
                .into(),
        );
        assert_eq!((info.server().as_deref(), info.mode()), (Some("Valkey 8.1.0"), Some(RedisMode::Cluster)));
        assert_eq!(info.persistence(), Some(Persistence::Snapshots { changes_since: 12 }));
        assert_eq!(info.evicts(), Some("allkeys-lru"));
        let unknown = ServerInfo::default();
        assert_eq!((unknown.mode(), unknown.server(), unknown.persistence()), (None, None, None));
    }
}
