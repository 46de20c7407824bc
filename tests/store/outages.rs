//! Outages of Redis: under load, without notice, with and without loss of data.

use std::{slice, sync::Arc};

use ably_clerk_auth::{
    clock::{UnixMillis, millis},
    store::{
        Health, OnFailure, RecordOutcome, Restriction, RestrictionKind, StoreError, StoreLimits, StoredTask, Subject,
        TokenHolder, Verdict,
    },
    tenant::TenantName,
};
use redis::Connection;

use crate::{
    fixtures::{
        DENIED, LIFTED, MINUTE, NOW, Replica, ago, eventually, live_token, of_session, of_user, restriction, session,
        tasks_in,
    },
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
    topology::{Load, info, returns},
};

/// The data with which Redis comes back.
#[derive(Clone, Copy)]
enum Data {
    Kept,
    /// Those of the outage before.
    Older,
    Lost,
    /// Those of another server, with a denial of `user_3`.
    Anothers,
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_under_load_and_comes_back_with_its_data() {
    under_load(Data::Kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_under_load_and_comes_back_empty() {
    under_load(Data::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_under_load_and_comes_back_with_older_data() {
    under_load(Data::Older).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_under_load_and_comes_back_with_the_data_of_another_server() {
    under_load(Data::Anothers).await;
}

/// Two replicas keep storing restrictions and live tokens while Redis is killed and restarted three times.
async fn under_load(data: Data) {
    let mut server = RedisServer::start();
    let loads = [Load::of("user_1", Replica::of(&server).await), Load::of("user_2", Replica::of(&server).await)];
    let all_become = async |health| {
        for load in &loads {
            load.replica.becomes(health).await;
        }
    };
    let all_go_on = async || {
        for load in &loads {
            load.goes_on().await;
        }
    };
    let mut another = RedisServer::start();
    Replica::of(&another).await.record(restriction(of_user("user_3"), DENIED, ago(1))).await;
    another.kill();
    let mut saved = None;
    for _ in 0..3 {
        all_go_on().await;
        server.kill();
        all_become(Health::Degraded).await;
        all_go_on().await;
        match (data, saved.replace(server.saved())) {
            (Data::Lost, _) => server.forget_everything(),
            (Data::Older, Some(older)) => server.go_back_to(&older),
            (Data::Anothers, _) => server.go_back_to(&another.saved()),
            _ => {}
        }
        assert!(server.start_again());
        all_become(Health::Ready).await;
    }
    all_go_on().await;
    for load in &loads {
        let verdict = load.replica.verdict(&session("sess_1", "user_3", None));
        assert_eq!(verdict == Verdict::Denied, matches!(data, Data::Anothers), "{verdict:?}");
    }
    let [one, other] = loads;
    let replica = Arc::clone(&other.replica);
    other.ends(&[&*one.replica], &server.address()).await;
    one.ends(&[&*replica], &server.address()).await;
}

#[tokio::test]
async fn without_redis_a_replica_goes_on_with_what_it_knows() {
    let mut server = RedisServer::start();
    let replica = Replica::of(&server).await;
    replica.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    replica.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
    server.kill();
    replica.becomes(Health::Degraded).await;

    assert_eq!(replica.store.may_issue(), Ok(()));
    assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    // What it learns now, it tells the others later.
    let lifted = restriction(of_user("user_1"), LIFTED, NOW);
    assert_eq!(replica.store.record(&[lifted], &[], NOW).await, Err(StoreError::Unavailable));
    assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    let live = replica.store.live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), NOW).await;
    assert_eq!((live.live_tokens.len(), live.of_others), (1, Err(StoreError::Unavailable)));
    let put = replica.store.put_live_token(live_token("user_2", "sess_2", None, "bob", MINUTE), NOW).await;
    assert_eq!(put, Err(StoreError::Unavailable));
    let live = replica.store.live_tokens(&TenantName::default(), &TokenHolder::User("user_2".into()), NOW).await;
    assert_eq!(live.live_tokens.len(), 1);
}

#[tokio::test]
async fn without_redis_a_replica_with_refuse_issues_no_tokens() {
    let mut server = RedisServer::start();
    let replica = Replica::at(&server.address(), &StoreLimits::default(), OnFailure::Refuse);
    replica.becomes(Health::Ready).await;
    assert_eq!(replica.store.may_issue(), Ok(()));
    server.kill();
    replica.becomes(Health::Degraded).await;
    assert_eq!(replica.store.may_issue(), Err(StoreError::Unavailable));
    let late = live_token("user_1", "sess_1", None, "alice", MINUTE);
    assert_eq!(replica.store.put_live_token(late, NOW).await, Err(StoreError::Unavailable));
    assert!(server.start_again());
    replica.becomes(Health::Ready).await;
    assert_eq!(replica.store.may_issue(), Ok(()));
}

#[tokio::test]
async fn a_replica_that_never_reached_redis_issues_no_tokens() {
    let mut server = RedisServer::start();
    server.kill();
    let replica = Replica::at(&server.address(), &StoreLimits::default(), OnFailure::Degrade);
    let denied = restriction(of_user("user_1"), DENIED, NOW);
    assert_eq!(replica.store.record(&[denied], &[], NOW).await, Err(StoreError::Unavailable));
    assert_eq!(replica.health(), Health::Starting);
    assert_eq!(replica.store.may_issue(), Err(StoreError::Unavailable));
    assert!(server.start_again());
    replica.becomes(Health::Ready).await;
    let other = Replica::of(&server).await;
    assert_eq!(other.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
}

#[tokio::test]
async fn a_replica_learns_of_a_missed_lift_after_the_outage() {
    let mut server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let subject = session("sess_1", "user_1", None);
    one.record(restriction(of_user("user_1"), DENIED, ago(2))).await;
    eventually("the denial arrives", || other.verdict(&subject) == Verdict::Denied).await;
    server.kill();
    one.becomes(Health::Degraded).await;
    other.becomes(Health::Degraded).await;
    let lifted = restriction(of_user("user_1"), LIFTED, ago(1));
    assert_eq!(one.store.record(&[lifted], &[], NOW).await, Err(StoreError::Unavailable));
    // The denial must not win by being written back last.
    server.forget_everything();
    assert!(server.start_again());
    eventually("the lift arrives", || other.verdict(&subject) == Verdict::Clear).await;
    one.becomes(Health::Ready).await;
    assert_eq!(one.verdict(&subject), Verdict::Clear);
}

#[tokio::test]
async fn a_replica_writes_back_what_redis_lost() {
    let server = RedisServer::start();
    let one = Replica::of(&server).await;
    one.record(restriction(of_user("user_1"), LIFTED, ago(1))).await;
    let () = server.run("FLUSHALL");
    // Only the first replica knows that this event is outdated.
    let other = Replica::of(&server).await;
    other.record(restriction(of_user("user_1"), DENIED, ago(2))).await;
    let subject = session("sess_1", "user_1", None);
    eventually("the newer event arrives", || other.verdict(&subject) == Verdict::Clear).await;
    assert_eq!(one.verdict(&subject), Verdict::Clear);
}

#[tokio::test]
async fn after_an_outage_a_replica_forgets_all_users() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    assert_eq!(*one.forgotten.lock().unwrap(), [""; 0]);
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    let outcome = one.store.record(&[restriction(of_user("user_1"), LIFTED, NOW)], &[], NOW).await;
    assert_eq!(outcome, Err(StoreError::Unavailable));
    assert_eq!(*one.forgotten.lock().unwrap(), ["user_1 of default"]);
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(one.forgotten.lock().unwrap().last().unwrap(), "everyone");
}

#[tokio::test]
async fn a_restriction_that_others_record_in_an_outage_gets_tasks_if_it_concerns_a_token_of_the_outage() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    let member =
        |user: &str, organization: &str| Subject::Member { user: user.into(), organization: organization.into() };
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    for n in 1..=4 {
        let [user, session, organization] = ["user", "sess", "org"].map(|kind| format!("{kind}_{n}"));
        let live_token = live_token(&user, &session, Some(&organization), &user, 60 * MINUTE);
        assert_eq!(one.store.put_live_token(live_token, NOW).await, Err(StoreError::Unavailable));
    }
    for (subject, kind) in [
        (of_session("sess_1"), DENIED),
        (of_user("user_2"), DENIED),
        (member("user_3", "org_3"), RestrictionKind::NotBefore),
        (Subject::Organization("org_4".into()), RestrictionKind::NotBefore),
        // These concern no live token.
        (of_session("user_1"), DENIED),
        (of_user("user_9"), DENIED),
        (member("user_3", "org_4"), RestrictionKind::NotBefore),
        (Subject::Organization("org_9".into()), RestrictionKind::NotBefore),
    ] {
        other.record(restriction(subject, kind, ago(1))).await;
    }
    let of_another_tenant =
        Restriction { tenant: TenantName::parse("other").unwrap(), ..restriction(of_user("user_1"), DENIED, ago(1)) };
    other.record(of_another_tenant).await;
    other.record(restriction(of_user("user_4"), DENIED, ago(2))).await;
    other.record(restriction(of_user("user_4"), LIFTED, ago(1))).await;
    assert_eq!(tasks_in(&server), [""; 0]);
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(
        tasks_in(&server),
        [
            "revoke organization org_4",
            "revoke session sess_1",
            "revoke user user_2",
            "revoke user user_3 in organization org_3"
        ]
    );
    // In time.
    other.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    eventually("the denial arrives", || one.verdict(&session("sess_9", "user_1", None)) == Verdict::Denied).await;
    assert_eq!(tasks_in(&server).len(), 4);
}

#[tokio::test]
async fn a_silent_connection_is_noticed_without_a_request() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::impatient_at(&line.address());
    let other = Replica::of(&server).await;
    one.becomes(Health::Ready).await;
    line.becomes(Condition::Silent);
    one.becomes(Health::Degraded).await;
    other.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    let denied = restriction(of_user("user_2"), DENIED, ago(1));
    assert_eq!(one.store.record(&[denied], &[], NOW).await, Err(StoreError::Unavailable));
    line.becomes(Condition::Whole);
    for replica in [&one, &other] {
        for user in ["user_1", "user_2"] {
            let subject = session("sess_1", user, None);
            eventually("both know both", || replica.verdict(&subject) == Verdict::Denied).await;
        }
    }
}

#[tokio::test]
async fn a_task_that_a_replica_is_told_without_redis_is_performed_by_it_and_redis_gets_tasks_with_the_restriction() {
    let mut server = RedisServer::start();
    let one = Replica::of(&server).await;
    server.kill();
    one.becomes(Health::Degraded).await;
    let denied = restriction(of_user("user_1"), DENIED, ago(1));
    let tasks = [("first", NOW), ("again", NOW.after(MINUTE))].map(|(id, due)| StoredTask {
        id: id.to_owned(),
        due,
        payload: id.to_owned(),
    });
    for _ in 0..2 {
        let told = one.store.record(slice::from_ref(&denied), &tasks, NOW).await;
        assert_eq!(told, Err(StoreError::Unavailable));
    }
    assert_eq!(one.claims().await, ["first"]);
    assert_eq!(one.store.end_claim(&tasks[0], None).await, Err(StoreError::Unavailable));
    assert_eq!(one.claims().await, [""; 0]);

    assert!(server.start_again());
    one.becomes(Health::Ready).await;
    assert_eq!(tasks_in(&server), ["revoke user user_1"]);
    one.pass(MINUTE);
    assert_eq!(one.claims().await, ["again", "revoke user user_1"]);
}

#[tokio::test]
async fn a_restriction_that_redis_lost_is_written_back_together_with_tasks() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    for user in ["user_1", "user_2"] {
        let denied = restriction(of_user(user), DENIED, ago(1));
        let task = StoredTask { id: user.into(), due: NOW, payload: String::new() };
        one.store.record(&[denied], &[task], NOW).await.unwrap();
    }
    one.record(restriction(of_user("user_3"), LIFTED, ago(1))).await;
    // The tokens that were issued despite it have expired.
    let ended = UnixMillis(NOW.0 - millis(66 * MINUTE));
    one.record(Restriction { until: ended, ..restriction(of_user("user_4"), DENIED, ended) }).await;
    one.record(restriction(Subject::Organization("org_1".into()), RestrictionKind::NotBefore, ago(1))).await;
    eventually("all is known", || other.store.stats(other.now()).restrictions == 3).await;
    let () = server.run("FLUSHALL");
    for replica in [&one, &other] {
        eventually("the loss is noticed", || replica.outages() > 0).await;
        replica.becomes(Health::Ready).await;
    }
    // By one of the replicas, and once.
    let written_back = ["revoke organization org_1", "revoke user user_1", "revoke user user_2"];
    assert_eq!(tasks_in(&server), written_back);
    // The next return finds all of it.
    let outages = [&one, &other].map(Replica::outages);
    server.hang_up();
    for (replica, outages) in [&one, &other].into_iter().zip(outages) {
        returns(replica, outages + 1).await;
    }
    assert_eq!(tasks_in(&server), written_back);
}

#[tokio::test]
async fn a_task_without_a_restriction_survives_a_redis_that_lost_it() {
    let mut server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let task = |id: &str| StoredTask { id: id.to_owned(), due: NOW, payload: id.to_owned() };
    for id in ["done", "left"] {
        one.store.record(&[], &[task(id)], NOW).await.unwrap();
    }
    assert_eq!(other.claims().await, ["done", "left"]);
    one.store.end_claim(&task("done"), None).await.unwrap();
    server.kill();
    one.becomes(Health::Degraded).await;
    assert_eq!(one.store.record(&[], &[task("told meanwhile")], NOW).await, Err(StoreError::Unavailable));
    server.forget_everything();
    assert!(server.start_again());
    one.becomes(Health::Ready).await;
    other.becomes(Health::Ready).await;
    assert_eq!(other.claims().await, [""; 0]);
    assert_eq!(one.claims().await, ["left", "told meanwhile"]);
    for id in ["left", "told meanwhile"] {
        one.store.end_claim(&task(id), None).await.unwrap();
    }
    one.pass(StoredTask::LEASE);
    assert_eq!(one.claims().await, [""; 0]);
}

#[tokio::test]
async fn a_restriction_yields_to_a_newer_one_that_redis_lost() {
    let mut server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let subject = session("sess_1", "user_1", None);
    let denied = restriction(of_user("user_1"), DENIED, ago(2));
    one.record(restriction(of_user("user_1"), LIFTED, ago(1))).await;
    let () = server.run("FLUSHALL");
    assert_eq!(one.record_at_last(denied.clone()).await, RecordOutcome::Outdated);
    // The replicas write the newer one back.
    eventually("the loss is noticed", || one.outages() > 0).await;
    one.becomes(Health::Ready).await;
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.record(denied.clone()).await, RecordOutcome::Outdated);
    for replica in [&one, &other, &fresh] {
        assert_eq!(replica.verdict(&subject), Verdict::Clear);
    }

    server.kill();
    one.becomes(Health::Degraded).await;
    assert_eq!(one.store.record(slice::from_ref(&denied), &[], NOW).await, Err(StoreError::Unavailable));
    assert_eq!(one.verdict(&subject), Verdict::Clear);
    drop((other, fresh));
    server.forget_everything();
    assert!(server.start_again());
    one.becomes(Health::Ready).await;
    let late = Replica::of(&server).await;
    assert_eq!(late.record(denied).await, RecordOutcome::Outdated);
}

#[tokio::test]
async fn stats_count_outages_and_what_redis_lacks() {
    let mut server = RedisServer::start();
    let replica = Replica::of(&server).await;
    let stats = || replica.store.stats(NOW);
    let lacks = || (stats().unrecorded_restrictions, stats().unrecorded_tasks);
    let task = |id: String| StoredTask { id, due: NOW.after(MINUTE), payload: String::new() };
    assert_eq!((replica.health(), stats().outages, lacks()), (Health::Ready, 0, (0, 0)));
    let other = Replica::of(&server).await;
    other.store_task(task("of the other replica".to_owned())).await;
    eventually("the task of the other replica is counted", || stats().tasks.count == 1).await;
    drop(other);

    for outage in 1..=2 {
        server.kill();
        eventually("the outage is counted", || stats().outages == outage).await;
        assert_eq!(replica.health(), Health::Degraded);
        let outages = usize::try_from(outage).unwrap();
        // During the outage it counts its own tasks.
        assert_eq!(stats().tasks.count, outages - 1);
        let denied = restriction(of_user(&format!("user_{outage}")), DENIED, ago(1));
        let recorded = replica.store.record(&[denied], &[task(outage.to_string())], NOW).await;
        assert_eq!(recorded, Err(StoreError::Unavailable));
        assert_eq!((lacks(), stats().restrictions), ((1, outages), outages));
        assert_eq!(stats().tasks.count, outages);

        assert!(server.start_again());
        replica.becomes(Health::Ready).await;
        assert_eq!((lacks(), stats().outages), ((0, 0), outage));
        // Redis has the other replica's task and one for each denial.
        eventually("all tasks are counted", || stats().tasks.count == 1 + outages + outages).await;
    }
}

#[tokio::test]
async fn a_redis_that_forgot_its_scripts_gets_the_live_token_that_it_could_not_register() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    server.run::<()>("SCRIPT FLUSH");
    let live_token = live_token("user_1", "sess_1", None, "alice", MINUTE);
    assert_eq!(replica.store.put_live_token(live_token.clone(), NOW).await, Err(StoreError::Unavailable));
    replica.becomes(Health::Ready).await;
    let other = Replica::of(&server).await;
    let live = other.store.live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), NOW).await;
    assert_eq!(live.live_tokens, [live_token]);
}

/// Commands that make Redis refuse all writes, and accept them again.
const REFUSALS: [[&str; 2]; 4] = [
    ["CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"],
    ["CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"],
    ["REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"],
    ["ACL SETUSER aca -set -zadd", "ACL SETUSER aca +set +zadd"],
];

#[tokio::test]
async fn a_redis_that_refuses_writes_is_one_outage() {
    for [refuse, take] in REFUSALS {
        let server = RedisServer::start();
        let replica = Replica::of(&server).await;
        let () = server.run(refuse);
        for n in 0..5 {
            // A degraded replica still issues tokens.
            let given = live_token("user_1", &format!("sess_{n}"), None, "alice", MINUTE);
            assert_eq!(replica.store.put_live_token(given, NOW).await, Err(StoreError::Unavailable));
            reconnects(&server).await;
        }
        assert_eq!((replica.health(), replica.store.stats(NOW).outages), (Health::Degraded, 1), "{refuse:?}");
        assert_eq!(*replica.forgotten.lock().unwrap(), [""; 0]);
        let () = server.run(take);
        replica.becomes(Health::Ready).await;
        assert_eq!(*replica.forgotten.lock().unwrap(), ["everyone"]);
    }
}

#[tokio::test]
async fn what_an_emptied_redis_lost_is_written_back_without_a_lost_connection() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    one.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    let given = live_token("user_1", "sess_1", None, "alice", MINUTE);
    one.put_live_token(given.clone()).await;
    let () = server.run("FLUSHALL");
    for replica in [&one, &other] {
        eventually("the loss is noticed", || replica.outages() > 0).await;
        replica.becomes(Health::Ready).await;
    }
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    let user = TokenHolder::User("user_1".into());
    assert_eq!(fresh.store.live_tokens(&TenantName::default(), &user, NOW).await.live_tokens, [given]);
    // There is no further outage.
    let outages = one.outages();
    heartbeats_pass(&server).await;
    assert_eq!(one.outages(), outages);
}

#[tokio::test]
async fn what_an_emptied_redis_lost_is_written_back_when_it_has_memory() {
    let server = RedisServer::start();
    let one = Replica::of(&server).await;
    one.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    server.set_memory(1);
    let () = server.run("FLUSHALL");
    one.becomes(Health::Degraded).await;
    reconnects(&server).await;
    assert_eq!(one.outages(), 1);
    server.set_memory(0);
    one.becomes(Health::Ready).await;
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
}

/// Waits until somebody has connected to Redis.
async fn reconnects(server: &RedisServer) {
    let mut admin = server.connection();
    let mut connections = || statistic(&mut admin, "stats", "total_connections_received:");
    let before = connections();
    eventually("somebody connects", || connections() > before).await;
}

/// Waits until some heartbeats have passed. There is nothing else to do.
async fn heartbeats_pass(server: &RedisServer) {
    let mut admin = server.connection();
    let mut scripts = || statistic(&mut admin, "commandstats", "cmdstat_evalsha:calls=");
    let before = scripts();
    eventually("some heartbeats pass", || scripts() > before + 6).await;
}

fn statistic(admin: &mut Connection, section: &str, name: &str) -> u64 {
    let info = info(admin, section);
    let number = info.lines().find_map(|line| line.strip_prefix(name)?.split(',').next()).unwrap();
    number.trim().parse().unwrap()
}

#[tokio::test]
async fn what_redis_has_no_memory_for_is_written_when_it_has() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    one.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
    server.set_memory(1);
    let extended = live_token("user_1", "sess_1", None, "alice", 60 * MINUTE);
    assert_eq!(one.store.put_live_token(extended.clone(), NOW).await, Err(StoreError::Unavailable));
    let denied = restriction(of_user("user_1"), DENIED, ago(1));
    assert_eq!(one.store.record(&[denied], &[], NOW).await, Err(StoreError::Unavailable));
    let task = StoredTask { id: "1".into(), due: NOW, payload: "told meanwhile".into() };
    assert_eq!(one.store.record(&[], &[task], NOW).await, Err(StoreError::Unavailable));
    assert_eq!((one.health(), one.store.may_issue()), (Health::Degraded, Ok(())));
    assert_eq!(one.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);

    server.set_memory(0);
    for replica in [&one, &other] {
        replica.becomes(Health::Ready).await;
    }
    eventually("the denial arrives", || other.verdict(&session("sess_1", "user_1", None)) == Verdict::Denied).await;
    let user = TokenHolder::User("user_1".into());
    assert_eq!(other.store.live_tokens(&TenantName::default(), &user, NOW).await.live_tokens, [extended]);
    assert!(tasks_in(&server).contains(&"revoke user user_1".to_owned()));
    assert!(one.claims().await.contains(&"told meanwhile".to_owned()));
}

#[tokio::test]
async fn a_restriction_that_is_recorded_late_gets_tasks_and_they_find_the_tokens_of_all_replicas() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    let denied = restriction(of_user("user_1"), DENIED, ago(1));
    assert_eq!(one.store.record(slice::from_ref(&denied), &[], NOW).await, Err(StoreError::Unavailable));
    let lifted = restriction(of_user("user_2"), LIFTED, ago(1));
    assert_eq!(one.store.record(&[lifted], &[], NOW).await, Err(StoreError::Unavailable));
    other.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(tasks_in(&server), ["revoke user user_1"]);
    let user = TokenHolder::User("user_1".into());
    assert_eq!(one.store.live_tokens(&TenantName::default(), &user, NOW).await.live_tokens.len(), 1);
    eventually("the denial arrives", || other.verdict(&session("sess_1", "user_1", None)) == Verdict::Denied).await;
}

#[tokio::test]
async fn a_replica_learns_of_a_denial_that_expired_during_its_outage() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    // More than one page.
    for n in 0..600 {
        other.record(restriction(of_user(&format!("user_{n}")), LIFTED, ago(1))).await;
    }
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    let _ = one.store.put_live_token(live_token("user_1", "sess_1", None, "alice", 60 * MINUTE), NOW).await;
    other.record(restriction(of_session("sess_1"), DENIED, NOW)).await;
    for replica in [&one, &other] {
        replica.pass(11 * MINUTE);
    }
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(tasks_in(&server), ["revoke session sess_1"]);
    assert_eq!(one.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
}
