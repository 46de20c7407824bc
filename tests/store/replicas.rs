//! Several replicas that share a Redis.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use ably_clerk_auth::{
    clock::millis,
    store::{
        Claim, Health, OnFailure, Restriction, RestrictionKind, StoreError, StoreLimits, StoredTask, Subject,
        TokenHolder, Verdict,
    },
    tenant::TenantName,
};
use futures_util::future;
use serde_json::{Value, json};

use crate::{
    fixtures::{
        DENIED, LIFTED, MINUTE, NOW, Replica, ago, eventually, live_token, of_session, of_user, restriction, session,
    },
    redis_server::RedisServer,
    topology::info,
};

#[tokio::test]
async fn what_one_replica_learns_reaches_the_other() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let subject = session("sess_1", "user_1", Some("org_1"));

    one.record(restriction(Subject::Organization("org_1".into()), RestrictionKind::NotBefore, NOW)).await;
    eventually("the mark arrives", || other.verdict(&subject) == Verdict::Outdated).await;
    other.record(restriction(of_user("user_1"), DENIED, ago(2))).await;
    eventually("the denial arrives", || one.verdict(&subject) == Verdict::Denied).await;
    one.record(restriction(of_user("user_1"), LIFTED, ago(1))).await;
    eventually("the lift arrives", || other.verdict(&subject) == Verdict::Outdated).await;

    let given = live_token("user_1", "sess_1", None, "alice", MINUTE);
    one.put_live_token(given.clone()).await;
    let live = other.store.live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), NOW).await;
    assert_eq!((live.live_tokens, live.of_others), (vec![given], Ok(())));

    eventually("the user is forgotten", || other.forgotten.lock().unwrap().contains(&"user_1 of default".to_owned()))
        .await;
}

#[tokio::test]
async fn a_replica_knows_all_restrictions_once_it_is_ready() {
    let server = RedisServer::start();
    let one = Replica::of(&server).await;
    // More than one page.
    for n in 0..1200 {
        one.record(restriction(of_session(&format!("sess_{n}")), DENIED, ago(1))).await;
    }
    let other = Replica::at(&server.address(), &StoreLimits::default(), OnFailure::Degrade);
    assert_eq!(other.health(), Health::Starting);
    assert_eq!(other.store.may_issue(), Err(StoreError::Unavailable));
    other.becomes(Health::Ready).await;
    for n in 0..1200 {
        assert_eq!(other.verdict(&session(&format!("sess_{n}"), "user_1", None)), Verdict::Denied);
    }
    assert_eq!(other.store.may_issue(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_misses_nothing_that_is_stored_while_it_starts_or_reconnects() {
    let server = RedisServer::start();
    let one = Arc::new(Replica::of(&server).await);
    let (stored, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writing = {
        let (one, stored, stop) = (Arc::clone(&one), Arc::clone(&stored), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let id = format!("sess_{}", stored.load(Ordering::Relaxed));
                // It reconnects too.
                one.record_at_last(restriction(of_session(&id), DENIED, ago(1))).await;
                stored.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };
    let knows = |replica: &Replica, range: std::ops::Range<usize>| {
        range.into_iter().all(|n| replica.verdict(&session(&format!("sess_{n}"), "user_1", None)) == Verdict::Denied)
    };
    let mut others = Vec::new();
    let more = async || {
        let before = stored.load(Ordering::Relaxed);
        eventually("the load goes on", || stored.load(Ordering::Relaxed) > before + 20).await;
    };
    for _ in 0..8 {
        more().await;
        let before = stored.load(Ordering::Relaxed);
        let other = Replica::of(&server).await;
        assert!(knows(&other, 0..before), "a ready replica knows what was stored before its start");
        let during = stored.load(Ordering::Relaxed);
        eventually("it learns what was stored while it started", || knows(&other, before..during)).await;
        others.push(other);

        server.hang_up();
        more().await;
        for replica in others.iter().chain([&*one]) {
            replica.becomes(Health::Ready).await;
        }
        let during = stored.load(Ordering::Relaxed);
        for other in &others {
            eventually("it learns what was stored while it reconnected", || knows(other, 0..during)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_claimed_once_however_many_claim_at_once() {
    let server = RedisServer::start();
    let replicas = [Arc::new(Replica::of(&server).await), Arc::new(Replica::of(&server).await)];
    for n in 0..200 {
        let task = StoredTask { id: n.to_string(), due: NOW, payload: String::new() };
        replicas[0].store_task(task.clone()).await;
    }
    let claimed = Arc::new(Mutex::new(Vec::new()));
    let claimants: Vec<_> = (0..16)
        .map(|n| {
            let (replica, claimed) = (Arc::clone(&replicas[n % 2]), Arc::clone(&claimed));
            tokio::spawn(async move {
                loop {
                    let tasks = replica.store.claim_tasks(Claim::Due(3), NOW).await.unwrap();
                    if tasks.is_empty() {
                        break;
                    }
                    claimed.lock().unwrap().extend(tasks.into_iter().map(|task| task.id));
                }
            })
        })
        .collect();
    for claimant in claimants {
        claimant.await.unwrap();
    }
    let claimed = claimed.lock().unwrap();
    assert_eq!((claimed.len(), claimed.iter().collect::<HashSet<_>>().len()), (200, 200));
}

#[tokio::test]
async fn the_task_of_a_dead_replica_is_claimed_by_another() {
    let server = RedisServer::start();
    let other = Replica::of(&server).await;
    {
        let dead = Replica::of(&server).await;
        let task = StoredTask { id: "one".into(), due: NOW, payload: "payload".into() };
        dead.store_task(task.clone()).await;
        assert_eq!(dead.store.claim_tasks(Claim::Due(1), NOW).await.unwrap().len(), 1);
    }
    assert_eq!(other.store.claim_tasks(Claim::Due(1), NOW).await.unwrap(), []);
    let claimed = other.store.claim_tasks(Claim::Due(1), NOW.after(StoredTask::LEASE)).await.unwrap();
    assert_eq!(claimed.into_iter().map(|task| task.payload).collect::<Vec<_>>(), ["payload"]);
}

#[tokio::test]
async fn services_with_different_prefixes_share_nothing() {
    let server = RedisServer::start();
    let replica = |address, prefix| Replica::with_prefix(&address, prefix, &StoreLimits::default(), OnFailure::Degrade);
    let one = replica(server.address(), "aca:");
    let other = replica(server.address_for("other:"), "other:");
    one.becomes(Health::Ready).await;
    other.becomes(Health::Ready).await;
    one.record(restriction(of_user("user_1"), DENIED, NOW)).await;
    one.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
    one.store_task(StoredTask { id: "1".into(), due: NOW, payload: String::new() }).await;
    // Messages arrive in order.
    other.record(restriction(of_user("user_2"), DENIED, NOW)).await;
    assert_eq!(other.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    assert_eq!(
        other.store.live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), NOW).await.live_tokens,
        []
    );
    assert_eq!(other.store.claim_tasks(Claim::Due(1), NOW).await.unwrap(), []);
    let keys: Vec<String> = server.run("KEYS *");
    assert!(keys.iter().all(|key| key.starts_with("aca:") || key.starts_with("other:")), "{keys:?}");
}

#[tokio::test]
async fn expired_data_leaves_redis() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    replica.record(restriction(of_user("user_1"), DENIED, NOW)).await;
    replica.record(restriction(of_user("user_2"), LIFTED, NOW)).await;
    replica.put_live_token(live_token("user_1", "sess_1", Some("org_1"), "alice", MINUTE)).await;
    for (pattern, count) in [("*:tokens:*", 1), ("*:users:*", 1)] {
        let keys: Vec<String> = server.run(&format!("KEYS {pattern}"));
        assert_eq!(keys.len(), count);
        for key in keys {
            let left: i64 = server.run(&format!("PTTL {key}"));
            assert!((1..=millis(MINUTE)).contains(&left), "{key}: {left}");
        }
    }
    // Restrictions have no TTL, so that Redis does not evict them: the next restriction removes those that are forgotten.
    replica.pass(10 * MINUTE + Restriction::REMEMBERED_FOR);
    for user in ["user_3", "user_4"] {
        let until = replica.now();
        replica.record(Restriction { until, ..restriction(of_user(user), LIFTED, until) }).await;
    }
    let left: usize = server.run("HLEN aca:{v4}:restrictions");
    assert_eq!(left, 2);
}

#[tokio::test]
async fn foreign_data_is_ignored_and_what_can_be_read_beside_it_counts() {
    let server = RedisServer::start();
    let one = Replica::of(&server).await;
    one.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    let row = |user: &str, kind: Value| {
        let (subject, until) = (json!({ "user": user }), NOW.after(MINUTE));
        let later =
            json!({ "tenant": "default", "subject": subject, "kind": kind, "at": NOW, "until": until, "later": 1 });
        format!("{:032}{later}", 0)
    };
    let [readable, unreadable] =
        [row("user_2", json!({ "denied": "clerk" })), row("user_3", json!({ "denied": "later" }))];
    let mut foreign = redis::pipe();
    for value in [&*readable, &unreadable, "rubbish", "", "ünïcode that ends amid a ränk"] {
        foreign.cmd("HSET").arg("aca:{v4}:restrictions").arg(value).arg(value);
        for kind in ["restriction", "user", "done", "rubbish"] {
            foreign.cmd("XADD").arg(&["aca:{v4}:log", "*", kind, value]);
        }
    }
    let id = r#"["default",{"user":"user_4"},{"denial":"clerk"}]"#;
    foreign.cmd("HSET").arg(&["aca:{v4}:restrictions", id, "rubbish"]);
    let () = foreign.query(&mut server.connection()).unwrap();
    let other = Replica::of(&server).await;
    one.record(restriction(of_user("user_4"), DENIED, ago(1))).await;
    let verdicts =
        |of: &Replica| ["user_1", "user_2", "user_3", "user_4"].map(|user| of.verdict(&session("sess_1", user, None)));
    for replica in [&one, &other] {
        let expected = [Verdict::Denied, Verdict::Denied, Verdict::Clear, Verdict::Denied];
        eventually("the replicas go on", || verdicts(replica) == expected).await;
    }
}

#[tokio::test]
async fn a_live_token_takes_one_command_and_those_that_are_issued_at_the_same_time_share_one() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    let mut admin = server.connection();
    let mut registrations = || {
        let stats = info(&mut admin, "commandstats");
        let calls = |start| {
            let calls = stats.lines().find_map(|line| line.strip_prefix(start)?.split(',').next());
            calls.unwrap().parse::<i64>().unwrap()
        };
        // The other scripts read the state, each with one SET.
        calls("cmdstat_evalsha:calls=") - calls("cmdstat_set:calls=")
    };
    let put = |n| replica.put_live_token(live_token(&format!("user_{n}"), "sess_1", None, "alice", MINUTE));
    let start = registrations();
    for n in 0..50 {
        put(n).await;
    }
    let sequential = registrations();
    assert_eq!(sequential - start, 50);
    future::join_all((50..100).map(put)).await;
    let shared = registrations() - sequential;
    assert!((1..25).contains(&shared), "{shared} commands");
}
