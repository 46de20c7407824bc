//! What tests of clusters and of sentinels have in common: servers that replicate each other, and load.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ably_clerk_auth::{
    store::{
        Coverage, DenialSource, Health, OnFailure, RedisAddress, RestrictionKind, StoreLimits, TokenHolder, Verdict,
    },
    tenant::TenantName,
};
use redis::{Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::fixtures::{MINUTE, NOW, Replica, ago, eventually, live_token, of_session, restriction, session};

/// A port that is free for a moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Runs a command of words.
pub(crate) fn command<T: FromRedisValue>(connection: &mut Connection, words: &str) -> redis::RedisResult<T> {
    let mut words = words.split(' ');
    redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query(connection)
}

/// The lines of `INFO`.
pub(crate) fn info(connection: &mut Connection, section: &str) -> String {
    command(connection, &format!("INFO {section}")).unwrap()
}

/// Stops a server's process as a machine does that hangs. Returns its ID.
pub(crate) fn pause(connection: &mut Connection) -> Pid {
    let information = info(connection, "server");
    let id = information.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
    let process = Pid::from_raw(id.trim().parse().unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    process
}

pub(crate) fn resume(process: Pid) {
    kill_process(process, Signal::CONT).unwrap();
}

/// A certificate for 127.0.0.1, and its key.
pub(crate) struct Certificate {
    directory: TempDir,
    pub(crate) pem: Vec<u8>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(directory.path().join("cert.pem"), own.cert.pem()).unwrap();
        fs::write(directory.path().join("key.pem"), own.signing_key.serialize_pem()).unwrap();
        Self { directory, pem: own.cert.pem().into() }
    }

    /// The arguments of a server that has it.
    pub(crate) fn arguments(&self, port: u16) -> Vec<String> {
        self.settings(port).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }

    /// The settings of a server that has it, by name.
    pub(crate) fn settings(&self, port: u16) -> [(&'static str, String); 5] {
        let path = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        [
            ("tls-port", port.to_string()),
            ("tls-cert-file", path("cert.pem")),
            ("tls-key-file", path("key.pem")),
            ("tls-ca-cert-file", path("cert.pem")),
            ("tls-auth-clients", "no".to_owned()),
        ]
    }
}

/// The URLs of nodes on these ports, for the documented user.
pub(crate) fn urls(scheme: &str, ports: impl IntoIterator<Item = u16>) -> String {
    let urls = ports.into_iter().map(|port| format!("{scheme}://aca:PASSWORD@127.0.0.1:{port}"));
    urls.collect::<Vec<_>>().join(",")
}

/// A replica that is ready.
pub(crate) async fn ready(address: &RedisAddress) -> Replica {
    let replica = Replica::at(address, &StoreLimits::default(), OnFailure::Degrade);
    replica.becomes(Health::Ready).await;
    replica
}

/// Waits until a replica had this many outages, and is ready again.
pub(crate) async fn returns(replica: &Replica, outages: u64) {
    let is_back = || replica.store.stats(NOW).outages >= outages && replica.health() == Health::Ready;
    eventually("the replica is ready again", is_back).await;
}

/// A replica that denies one session after the other, and registers a live token for each.
pub(crate) struct Load {
    pub(crate) replica: Arc<Replica>,
    denied: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    pub(crate) fn on(replica: Replica) -> Self {
        let (replica, denied, stop) = (Arc::new(replica), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let task = {
            let (replica, denied, stop) = (Arc::clone(&replica), Arc::clone(&denied), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("sess_{}", denied.load(Ordering::Relaxed));
                    let denial = restriction(of_session(&id), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
                    // Both are kept if Redis cannot be used.
                    let _ = replica.store.record(denial, NOW).await;
                    let _ = replica.store.put_live_token(live_token("user_1", &id, None, "alice", MINUTE), NOW).await;
                    denied.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        Self { replica, denied, stop, task }
    }

    /// Waits until it has gone on for a while.
    pub(crate) async fn goes_on(&self) {
        let before = self.denied.load(Ordering::Relaxed);
        eventually("the load goes on", || self.denied.load(Ordering::Relaxed) > before + 50).await;
    }

    /// Stops it. Every replica, and one that starts now, must come to know all of it.
    pub(crate) async fn ends(self, others: &[&Replica], address: &RedisAddress) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let denied = self.denied.load(Ordering::Relaxed);
        let is_denied = |replica: &Replica, n: usize| {
            replica.verdict(&session(&format!("sess_{n}"), "user_1", None)) == Verdict::Denied
        };
        self.replica.becomes(Health::Ready).await;
        let fresh = ready(address).await;
        for replica in others.iter().copied().chain([&*self.replica, &fresh]) {
            eventually("every denial is known", || (0..denied).all(|n| is_denied(replica, n))).await;
        }
        let holder = TokenHolder::User("user_1".into());
        let all_are_registered = async {
            loop {
                let live = fresh.store.live_tokens(&TenantName::default(), &holder, NOW).await;
                if live.coverage == Coverage::AllReplicas && live.live_tokens.len() == denied {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(MINUTE / 3, all_are_registered).await.expect("Redis has all live tokens");
    }
}
