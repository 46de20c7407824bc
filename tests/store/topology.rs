//! What tests of clusters and of sentinels have in common: servers that replicate each other, and load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ably_clerk_auth::{
    redis::RedisAddress,
    store::{Health, StoreError, TokenHolder, Verdict},
    tenant::TenantName,
};
use redis::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use crate::{
    fixtures::{DENIED, MINUTE, NOW, PATIENCE, Replica, ago, eventually, live_token, of_session, restriction, session},
    redis_server::{RedisServer, run},
};

/// The lines of `INFO`.
pub(crate) fn info(connection: &mut Connection, section: &str) -> String {
    run(connection, &format!("INFO {section}")).unwrap()
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

/// The URLs of nodes on these ports, for the documented user.
pub(crate) fn urls(scheme: &str, ports: impl IntoIterator<Item = u16>) -> String {
    let urls = ports.into_iter().map(|port| format!("{scheme}://aca:PASSWORD@127.0.0.1:{port}"));
    urls.collect::<Vec<_>>().join(",")
}

/// Waits until a replica had this many outages, and is ready again.
pub(crate) async fn returns(replica: &Replica, outages: u64) {
    let is_back = || replica.outages() >= outages && replica.health() == Health::Ready;
    eventually("the replica is ready again", is_back).await;
}

/// Waits until replicas that were ready have lost Redis. Prints how long that took; `docs/revocation.md` has the longest time.
#[expect(clippy::print_stdout, reason = "a time on a busy machine proves nothing, but shows whether the page is right")]
pub(crate) async fn lost_by(replicas: &[&Replica], since: &str) {
    let start = Instant::now();
    for replica in replicas {
        eventually("the replica loses Redis", || replica.outages() > 0).await;
    }
    println!("used for {:?} after {since}", start.elapsed());
}

/// Waits until no replica uses a server that still is a master.
pub(crate) async fn is_left_alone(server: &RedisServer) {
    let mut admin = server.connection();
    let is_left = || !run::<String>(&mut admin, "CLIENT LIST").unwrap().contains("user=aca");
    eventually("the replicas leave the server", is_left).await;
    assert!(info(&mut admin, "replication").contains("role:master"));
}

/// A replica that denies one session of a user after the other, and registers a live token for each.
pub(crate) struct Load {
    pub(crate) replica: Arc<Replica>,
    user: &'static str,
    denied: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    pub(crate) fn of(user: &'static str, replica: Replica) -> Self {
        let (replica, denied, stop) = (Arc::new(replica), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let task = {
            let (replica, denied, stop) = (Arc::clone(&replica), Arc::clone(&denied), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = session_id(user, denied.load(Ordering::Relaxed));
                    // Both are kept if Redis cannot be used.
                    let denial = restriction(of_session(&id), DENIED, ago(1));
                    let _ = replica.store.record(&[denial], &[], NOW).await;
                    assert_eq!(replica.verdict(&session(&id, user, None)), Verdict::Denied);
                    let put = replica.store.put_live_token(live_token(user, &id, None, "alice", MINUTE), NOW).await;
                    assert_ne!(put, Err(StoreError::Full));
                    denied.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        Self { replica, user, denied, stop, task }
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
            replica.verdict(&session(&session_id(self.user, n), self.user, None)) == Verdict::Denied
        };
        self.replica.becomes(Health::Ready).await;
        let fresh = Replica::ready_at(address).await;
        for replica in others.iter().copied().chain([&*self.replica, &fresh]) {
            eventually("every denial is known", || (0..denied).all(|n| is_denied(replica, n))).await;
        }
        let holder = TokenHolder::User(self.user.into());
        let all_are_registered = async {
            loop {
                let live = fresh.store.live_tokens(&TenantName::default(), &holder, NOW).await;
                if live.of_others.is_ok() && live.live_tokens.len() == denied {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all_are_registered).await.expect("Redis has all live tokens");
    }
}

fn session_id(user: &str, number: usize) -> String {
    format!("sess_{number}_of_{user}")
}
