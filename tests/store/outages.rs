//! Outages of Redis: under load, without notice, with and without loss of data.

use std::{slice, sync::Arc};

use ably_clerk_auth::{
    store::{
        Claim, Health, OnFailure, RecordOutcome, RestrictionKind, StoreError, StoreLimits, StoredTask, TokenHolder,
        Verdict,
    },
    tenant::TenantName,
};

use crate::{
    fixtures::{
        DENIED, LIFTED, MINUTE, NOW, Replica, ago, eventually, live_token, of_session, of_user, queued, restriction,
        retry, session,
    },
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
    topology::Load,
};

/// Whether Redis keeps its data.
#[derive(Clone, Copy, PartialEq)]
enum Data {
    Kept,
    Lost,
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_under_load_and_comes_back_with_its_data() {
    under_load(Data::Kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_under_load_and_comes_back_empty() {
    under_load(Data::Lost).await;
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
    for _ in 0..3 {
        all_go_on().await;
        server.kill();
        all_become(Health::Degraded).await;
        all_go_on().await;
        if data == Data::Lost {
            server.forget_everything();
        }
        assert!(server.start_again());
        all_become(Health::Ready).await;
    }
    all_go_on().await;
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
async fn a_denial_is_late_for_the_tokens_that_were_issued_while_it_was_unknown() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    let denied = |user| restriction(of_user(user), DENIED, ago(1));
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    for user in ["late", "lifted", "free"] {
        let _ = one.store.put_live_token(live_token(user, "sess_1", None, user, 60 * MINUTE), NOW).await;
    }
    for user in ["late", "lifted", "without_tokens"] {
        other.record(denied(user)).await;
    }
    other.record(restriction(of_user("lifted"), LIFTED, NOW)).await;
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(one.store.late_restrictions(), [denied("late")]);
    one.store.settle_late_restriction(&denied("late"));
    // In time.
    other.record(denied("free")).await;
    eventually("the denial arrives", || one.verdict(&session("sess_1", "free", None)) == Verdict::Denied).await;
    assert_eq!(one.store.late_restrictions(), []);
}

#[tokio::test]
async fn a_silent_connection_is_noticed_without_a_request() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
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
async fn tasks_survive_an_outage_and_are_performed_during_it() {
    let mut server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let task = |id: &str, due| StoredTask { id: id.to_owned(), due, payload: String::new() };
    retry!(one, one.store.record(&[], &[queued(task("before", NOW.after(MINUTE)))], NOW));
    retry!(one, one.store.record(&[], &[queued(task("done", NOW))], NOW));
    assert_eq!(other.store.claim_tasks(Claim::Due(9), NOW).await.len(), 1);
    retry!(other, other.store.complete_task("done", NOW));
    // Messages arrive in order: once this one does, the other replica knows that the task is done.
    one.record(restriction(of_user("user_1"), RestrictionKind::NotBefore, NOW)).await;
    server.kill();
    one.becomes(Health::Degraded).await;
    other.becomes(Health::Degraded).await;

    assert_eq!(one.store.record(&[], &[queued(task("urgent", NOW))], NOW).await, Err(StoreError::Unavailable));
    assert_eq!(
        one.store.record(&[], &[queued(task("meanwhile", NOW.after(MINUTE)))], NOW).await,
        Err(StoreError::Unavailable)
    );
    assert_eq!(one.store.claim_tasks(Claim::Due(9), NOW).await, [task("urgent", NOW)]);
    assert_eq!(one.store.complete_task("urgent", NOW).await, Err(StoreError::Unavailable));

    server.forget_everything();
    assert!(server.start_again());
    one.becomes(Health::Ready).await;
    other.becomes(Health::Ready).await;
    let mut left: Vec<_> =
        other.store.claim_tasks(Claim::Due(9), NOW.after(MINUTE)).await.into_iter().map(|task| task.id).collect();
    left.sort();
    assert_eq!(left, ["before", "meanwhile"]);
}

#[tokio::test]
async fn a_restriction_yields_to_a_newer_one_that_redis_lost() {
    let mut server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let subject = session("sess_1", "user_1", None);
    let denied = restriction(of_user("user_1"), DENIED, ago(2));
    one.record(restriction(of_user("user_1"), LIFTED, ago(1))).await;
    let again = restriction(of_user("user_2"), LIFTED, ago(1));
    one.record(again.clone()).await;
    let () = server.run("FLUSHALL");
    assert_eq!(one.record(denied.clone()).await, RecordOutcome::Outdated);
    // The replicas write the newer one back.
    eventually("the loss is noticed", || one.store.stats(NOW).outages == 1).await;
    one.becomes(Health::Ready).await;
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.record(denied.clone()).await, RecordOutcome::Outdated);
    for replica in [&one, &other, &fresh] {
        assert_eq!(replica.verdict(&subject), Verdict::Clear);
    }

    server.kill();
    one.becomes(Health::Degraded).await;
    assert_eq!(one.store.record(slice::from_ref(&denied), &[], NOW).await, Ok(vec![RecordOutcome::Outdated]));
    assert_eq!(one.verdict(&subject), Verdict::Clear);
    // A repeated event is not outdated.
    assert_eq!(one.store.record(&[again], &[], NOW).await, Err(StoreError::Unavailable));
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
    let task = |id: &str| StoredTask { id: id.to_owned(), due: NOW.after(MINUTE), payload: String::new() };
    assert_eq!((stats().health, stats().outages, stats().unrecorded_restrictions), (Health::Ready, 0, 0));
    let other = Replica::of(&server).await;
    retry!(other, other.store.record(&[], &[queued(task("of the other replica"))], NOW));
    eventually("the task of the other replica is counted", || stats().tasks.count == 1).await;
    drop(other);

    for outage in 1..=2 {
        server.kill();
        eventually("the outage is counted", || stats().outages == outage).await;
        assert_eq!(stats().health, Health::Degraded);
        let denied = restriction(of_user(&format!("user_{outage}")), DENIED, ago(1));
        assert_eq!(replica.store.record(&[denied], &[], NOW).await, Err(StoreError::Unavailable));
        assert_eq!((stats().unrecorded_restrictions, stats().restrictions), (1, usize::try_from(outage).unwrap()));
        // During the outage it counts its own tasks.
        assert_eq!(
            replica.store.record(&[], &[queued(task(&outage.to_string()))], NOW).await,
            Err(StoreError::Unavailable)
        );
        assert_eq!(stats().tasks.count, usize::try_from(outage).unwrap());

        assert!(server.start_again());
        replica.becomes(Health::Ready).await;
        assert_eq!((stats().unrecorded_restrictions, stats().outages), (0, outage));
        let count = usize::try_from(outage).unwrap() + 1;
        eventually("Redis has its tasks again", || stats().tasks.count == count).await;
    }
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
        for n in 0..40 {
            // A degraded replica still issues tokens.
            let put =
                replica.store.put_live_token(live_token("user_1", &format!("sess_{n}"), None, "alice", MINUTE), NOW);
            assert_ne!(put.await, Err(StoreError::Full));
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
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
    let task = StoredTask { id: "1".into(), due: NOW, payload: String::new() };
    retry!(one, one.store.record(&[], &[queued(task.clone())], NOW));
    let () = server.run("FLUSHALL");
    for replica in [&one, &other] {
        eventually("the loss is noticed", || replica.store.stats(NOW).outages > 0).await;
        replica.becomes(Health::Ready).await;
    }
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    let (tenant, user) = (TenantName::default(), TokenHolder::User("user_1".into()));
    let written_back = async {
        while fresh.store.live_tokens(&tenant, &user, NOW).await.live_tokens != [given.clone()] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(MINUTE / 3, written_back).await.expect("Redis has the live token");
    assert_eq!(fresh.store.claim_tasks(Claim::Due(9), NOW).await, [task]);
    // There is no further outage.
    let outages = one.store.stats(NOW).outages;
    let asked = commands(&server);
    eventually("some heartbeats pass", || commands(&server) > asked + 20).await;
    assert_eq!(one.store.stats(NOW).outages, outages);
}

#[tokio::test]
async fn what_an_emptied_redis_lost_is_written_back_when_it_has_memory() {
    let server = RedisServer::start();
    let one = Replica::of(&server).await;
    one.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    server.set_memory(1);
    let () = server.run("FLUSHALL");
    one.becomes(Health::Degraded).await;
    let asked = commands(&server);
    eventually("it tries again", || commands(&server) > asked + 20).await;
    assert_eq!(one.store.stats(NOW).outages, 1);
    server.set_memory(0);
    one.becomes(Health::Ready).await;
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
}

/// Commands that Redis has processed.
fn commands(server: &RedisServer) -> u64 {
    let stats: String = server.run("INFO stats");
    let count = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
    count.trim().parse().unwrap()
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
    let task = StoredTask { id: "1".into(), due: NOW, payload: String::new() };
    assert_eq!(one.store.record(&[], &[queued(task.clone())], NOW).await, Err(StoreError::Unavailable));
    assert_eq!((one.health(), one.store.may_issue()), (Health::Degraded, Ok(())));
    assert_eq!(one.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);

    server.set_memory(0);
    for replica in [&one, &other] {
        replica.becomes(Health::Ready).await;
    }
    assert_eq!(other.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    let user = TokenHolder::User("user_1".into());
    assert_eq!(other.store.live_tokens(&TenantName::default(), &user, NOW).await.live_tokens, [extended]);
    assert_eq!(other.store.claim_tasks(Claim::Due(9), NOW).await, [task]);
}

#[tokio::test]
async fn a_restriction_that_is_recorded_late_is_followed_by_a_look_up_of_live_tokens() {
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
    assert_eq!(one.store.late_restrictions(), [denied]);
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
    let missed = restriction(of_session("sess_1"), DENIED, NOW);
    other.record(missed.clone()).await;
    for replica in [&one, &other] {
        replica.pass(11 * MINUTE);
    }
    // Issued after the denial had ended.
    let _ = one.store.put_live_token(live_token("user_2", "sess_2", None, "bob", 60 * MINUTE), one.now()).await;
    other.record(restriction(of_session("sess_2"), DENIED, NOW)).await;
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(one.store.late_restrictions(), [missed]);
    assert_eq!(one.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
}
