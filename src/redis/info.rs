//! What a Redis tells of itself.

use ::redis::{InfoDict, RedisResult, aio::MultiplexedConnection, cmd};

/// The answer to `INFO`. Empty if the user may not ask.
#[derive(Clone, Debug)]
pub struct RedisInfo(InfoDict);

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

impl RedisInfo {
    pub(super) async fn of(connection: &mut MultiplexedConnection) -> Self {
        let info: RedisResult<InfoDict> = cmd("INFO").query_async(connection).await;
        Self(info.unwrap_or_else(|_| InfoDict::new("")))
    }

    fn value(&self, name: &str) -> Option<String> {
        self.0.get(name)
    }

    /// A single server, or a node of a cluster.
    pub(super) fn mode(&self) -> RedisMode {
        let is_cluster =
            self.value("redis_mode").as_deref() == Some("cluster") || self.0.get("cluster_enabled") == Some(1);
        if is_cluster { RedisMode::Cluster } else { RedisMode::Single }
    }

    /// The server's name and version, if it tells them.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        let valkey = self.value("valkey_version").map(|version| format!("Valkey {version}"));
        valkey.or_else(|| self.value("redis_version").map(|version| format!("Redis {version}")))
    }

    /// Its `maxmemory-policy`, if it tells it.
    #[must_use]
    pub fn eviction_policy(&self) -> Option<String> {
        self.value("maxmemory_policy")
    }

    /// The eviction policy, if Redis drops keys when its memory is full.
    #[must_use]
    pub fn evicts(&self) -> Option<String> {
        self.eviction_policy().filter(|policy| policy != "noeviction")
    }

    /// What a restart leaves, if it tells it.
    #[must_use]
    pub fn persistence(&self) -> Option<Persistence> {
        if self.value("aof_enabled")? == "0" {
            Some(Persistence::Snapshots { changes_since: self.0.get("rdb_changes_since_last_save")? })
        } else {
            Some(Persistence::AppendOnlyFile)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_information_of_redis_and_valkey_is_understood() {
        let info = |text| RedisInfo(InfoDict::new(text));
        let redis = info("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\naof_enabled:1\r\n");
        assert_eq!((redis.server().as_deref(), redis.mode()), (Some("Redis 7.0.15"), RedisMode::Single));
        assert_eq!((redis.persistence(), redis.evicts()), (Some(Persistence::AppendOnlyFile), None));
        let valkey = info(
            "redis_version:7.2.4\r\nvalkey_version:8.1.0\r\nredis_mode:cluster\r\nmaxmemory_policy:allkeys-lru\r\n\
             aof_enabled:0\r\nrdb_changes_since_last_save:12\r\n",
        );
        assert_eq!((valkey.server().as_deref(), valkey.mode()), (Some("Valkey 8.1.0"), RedisMode::Cluster));
        assert_eq!(valkey.persistence(), Some(Persistence::Snapshots { changes_since: 12 }));
        assert_eq!(valkey.evicts().as_deref(), Some("allkeys-lru"));
        assert_eq!(info("cluster_enabled:1\r\n").mode(), RedisMode::Cluster);
        let unknown = info("");
        assert_eq!((unknown.mode(), unknown.server(), unknown.persistence()), (RedisMode::Single, None, None));
    }
}
