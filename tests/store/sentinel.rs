//! A master that sentinels watch.

use std::{
    collections::HashMap,
    fs,
    process::{Child, Stdio},
};

use ably_clerk_auth::{
    redis::{RedisAddress, RedisFindings, RedisMode, RedisSentinels},
    store::{Connect as _, Health},
};
use redis::Connection;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    fixtures::{PATIENCE, Replica, connector, eventually},
    redis_server::{self, Certificate, RedisServer, free_port, run},
    topology::{Load, info, is_left_alone, lost_by, pause, resume, returns, urls},
};

/// The sentinels' users: the administrator, as whom they know each other, and the service's.
pub(crate) const USERS: &str = "\
user default off
user admin on >admin ~* &* +@all
user watcher on >WATCHER resetchannels +sentinel|get-master-addr-by-name +sentinel|master
sentinel sentinel-user admin
sentinel sentinel-pass admin";

/// A sentinel, with a directory and a port of its own.
struct Sentinel {
    port: u16,
    /// Where the service connects to.
    service_port: u16,
    /// For the administrator.
    login: &'static str,
    _directory: TempDir,
    process: Child,
}

impl Sentinel {
    /// Watches the master on a port.
    fn start(master: u16, users: &'static str, certificate: Option<&Certificate>) -> Self {
        let (port, tls_port) = (free_port(), free_port());
        let directory = tempfile::tempdir().unwrap();
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("sentinel monitor main 127.0.0.1 {master} 2"),
            "sentinel auth-user main sentinel".to_owned(),
            "sentinel auth-pass main sentinel".to_owned(),
            "sentinel down-after-milliseconds main 1000".to_owned(),
            "sentinel failover-timeout main 5000".to_owned(),
            users.to_owned(),
        ];
        if let Some(certificate) = certificate {
            lines.extend(certificate.settings(tls_port).map(|(name, value)| format!("{name} {value}")));
        }
        let file = directory.path().join("sentinel.conf");
        fs::write(&file, lines.join("\n")).unwrap();
        let process = redis_server::program()
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(redis_server::HOW_TO_INSTALL);
        let service_port = if certificate.is_some() { tls_port } else { port };
        let login = if users.is_empty() { "" } else { "admin:admin@" };
        Self { port, service_port, login, _directory: directory, process }
    }

    fn try_connection(&self) -> Option<Connection> {
        redis::Client::open(format!("redis://{}127.0.0.1:{}", self.login, self.port)).unwrap().get_connection().ok()
    }

    fn connection(&self) -> Connection {
        self.try_connection().unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A master, its replica, and three sentinels.
pub(crate) struct Watched {
    pub(crate) master: RedisServer,
    _replica: RedisServer,
    /// The ports under which the sentinels know them.
    ports: [u16; 2],
    sentinels: Vec<Sentinel>,
}

impl Watched {
    pub(crate) async fn start(users: &'static str, certificate: Option<&Certificate>) -> Self {
        let tls_ports = [free_port(), free_port()];
        let start = |tls_port: u16, more: &str| {
            let arguments = format!(
                "--user sentinel on >sentinel ~* &* +@all --masteruser admin --masterauth admin --repl-diskless-sync-delay \
                 0{more}"
            );
            let tls = certificate.map(|certificate| certificate.arguments(tls_port)).unwrap_or_default();
            RedisServer::start_with(&arguments.split(' ').chain(tls.iter().map(String::as_str)).collect::<Vec<_>>())
        };
        let master = start(tls_ports[0], "");
        let master_port = if certificate.is_some() { tls_ports[0] } else { master.port() };
        let replica = start(tls_ports[1], &format!(" --replicaof 127.0.0.1 {master_port}"));
        let replica_port = if certificate.is_some() { tls_ports[1] } else { replica.port() };
        let mut admin = replica.connection();
        let is_in_sync = || info(&mut admin, "replication").contains("master_link_status:up");
        eventually("the replica is in sync", is_in_sync).await;
        let sentinels = (0..3).map(|_| Sentinel::start(master_port, users, certificate)).collect();
        let watched = Self { master, _replica: replica, ports: [master_port, replica_port], sentinels };
        for sentinel in &watched.sentinels {
            eventually("the sentinel answers", || sentinel.try_connection().is_some()).await;
            let mut admin = sentinel.connection();
            let knows_all = || {
                let known: HashMap<String, String> = run(&mut admin, "SENTINEL MASTER main").unwrap();
                ["flags", "num-slaves", "num-other-sentinels"].map(|name| known[name].as_str()) == ["master", "1", "2"]
            };
            eventually("the sentinels know all", knows_all).await;
        }
        watched
    }

    pub(crate) fn urls(&self, scheme: &str) -> String {
        urls(scheme, self.sentinels.iter().map(|sentinel| sentinel.service_port))
    }

    pub(crate) fn address(&self) -> RedisAddress {
        let sentinels = RedisSentinels::new("main".to_owned()).with_login(Some("watcher"), &"WATCHER".into());
        RedisAddress::parse_sentinels(&self.urls("redis"), sentinels).unwrap()
    }

    /// For sentinels that do not know the master's user. They are at `localhost`, and name the master by its IP address.
    fn address_over_tls(&self, certificate: &Certificate) -> RedisAddress {
        let urls = self.urls("rediss").replace("127.0.0.1", "localhost");
        let address = RedisAddress::parse_sentinels(&urls, RedisSentinels::new("main".to_owned())).unwrap();
        address.trusting(certificate.pem()).unwrap()
    }

    /// Waits until all sentinels name the former replica.
    async fn fails_over(&self) {
        for sentinel in &self.sentinels {
            let mut admin = sentinel.connection();
            let names = || {
                let named: (String, u16) = run(&mut admin, "SENTINEL GET-MASTER-ADDR-BY-NAME main").unwrap();
                named.1 == self.ports[1]
            };
            eventually("the sentinels name another master", names).await;
        }
    }

    async fn fails_over_without_loss(mut self, address: &RedisAddress) {
        let load = Load::of("user_1", Replica::ready_at(address).await);
        let other = Replica::ready_at(address).await;
        load.goes_on().await;
        self.master.kill();
        self.fails_over().await;
        for replica in [&*load.replica, &other] {
            returns(replica, 1).await;
        }
        load.goes_on().await;
        // With its old data, and as a master until a sentinel tells it otherwise.
        assert!(self.master.start_again());
        load.goes_on().await;
        load.ends(&[&other], address).await;
    }
}

/// Connects, as often as a sentinel takes longer than the service waits. Returns what was found, or why it could not be used.
async fn probe(address: &RedisAddress) -> Result<RedisFindings, String> {
    loop {
        match connector(address).probe().await {
            Err(lost) if lost.0.contains("it did not answer in time") => {}
            outcome => return outcome.map_err(|lost| lost.0),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_the_middle_of_load_loses_nothing() {
    let watched = Watched::start(USERS, None).await;
    let address = watched.address();
    let found = probe(&address).await.unwrap();
    assert_eq!((found.mode, found.node), (RedisMode::Sentinel, format!("127.0.0.1:{}", watched.ports[0])));
    watched.fails_over_without_loss(&address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_over_tls_to_a_master_that_sentinels_name_loses_nothing() {
    let certificate = Certificate::new();
    let watched = Watched::start("", Some(&certificate)).await;
    let address = watched.address_over_tls(&certificate);
    let found = probe(&address).await.unwrap();
    assert_eq!((found.mode, found.node), (RedisMode::Sentinel, format!("127.0.0.1:{}", watched.ports[0])));
    watched.fails_over_without_loss(&address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_master_left_alone_after_a_failover_is_not_used_any_more() {
    let watched = Watched::start(USERS, None).await;
    let load = Load::of("user_1", Replica::ready_at(&watched.address()).await);
    let other = Replica::ready_at(&watched.address()).await;
    load.goes_on().await;
    // From now on the sentinels cannot reach it. It goes on as a master, and its clients stay.
    let mut admin = watched.master.connection();
    let () = run(&mut admin, "ACL SETUSER sentinel off").unwrap();
    let _: i64 = run(&mut admin, "CLIENT KILL USER sentinel").unwrap();
    watched.fails_over().await;
    let replicas = [&*load.replica, &other];
    lost_by(&replicas, "the sentinels agreed").await;
    for replica in replicas {
        returns(replica, 1).await;
    }
    is_left_alone(&watched.master).await;
    load.goes_on().await;
    load.ends(&[&other], &watched.address()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_reaches_too_few_sentinels_does_not_use_their_master() {
    let watched = Watched::start(USERS, None).await;
    let replica = Replica::ready_at(&watched.address()).await;
    let paused = [0, 1].map(|n| pause(&mut watched.sentinels[n].connection()));
    lost_by(&[&replica], "two of three sentinels hung").await;
    replica.becomes(Health::Degraded).await;
    let refused = async {
        // The third one can be slow.
        while !connector(&watched.address())
            .connect()
            .await
            .unwrap_err()
            .0
            .starts_with("1 of 3 sentinels name the master; ")
        {}
    };
    timeout(PATIENCE, refused).await.unwrap();
    for process in paused {
        resume(process);
    }
    replica.becomes(Health::Ready).await;
}

#[tokio::test]
async fn a_master_with_a_tls_certificate_for_another_host_is_named_in_the_reason() {
    let certificate = Certificate::naming(&["localhost"]);
    let watched = Watched::start("", Some(&certificate)).await;
    let reason = probe(&watched.address_over_tls(&certificate)).await.unwrap_err();
    assert!(reason.starts_with(&format!("127.0.0.1:{}: ", watched.ports[0])), "{reason}");
    assert!(reason.contains("certificate not valid for name"), "{reason}");
}

#[tokio::test]
async fn a_mistake_in_the_settings_is_named() {
    let server = RedisServer::start();
    let sentinel = Sentinel::start(server.port(), "", None);
    eventually("the sentinel answers", || sentinel.try_connection().is_some()).await;
    let reason = async |address: &RedisAddress| probe(address).await.unwrap_err();
    let of = |port: u16, name: &str| {
        let url = format!("redis://127.0.0.1:{port}");
        RedisAddress::parse_sentinels(&url, RedisSentinels::new(name.to_owned())).unwrap()
    };
    let expected =
        format!("0 of 1 sentinels name the master; 127.0.0.1:{}: it knows no master of this name", sentinel.port);
    assert_eq!(reason(&of(sentinel.port, "other")).await, expected);
    let as_sentinels = RedisAddress::parse_sentinels(&server.url(), RedisSentinels::new("main".to_owned())).unwrap();
    let not_one = reason(&as_sentinels).await;
    assert!(not_one.ends_with(": it is not a sentinel"), "{not_one}");
    let forgotten = RedisAddress::parse(&format!("redis://127.0.0.1:{}", sentinel.port)).unwrap();
    let forgotten = reason(&forgotten).await;
    assert!(forgotten.contains("if it is a sentinel, set REDIS_SENTINEL_MASTER"), "{forgotten}");
}
