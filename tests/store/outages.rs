//! Outages of Redis: under load, without notice, with and without loss of data.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use ably_clerk_auth::{
    store::{
        Coverage, DenialSource, Health, OnFailure, RecordOutcome, Restriction, RestrictionKind, StoreError,
        StoreLimits, StoredTask, TokenHolder, Verdict,
    },
    tenant::TenantName,
};

use crate::{
    fixtures::{MINUTE, NOW, Replica, ago, eventually, live_token, of_session, of_user, restriction, retry, session},
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
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
    let replicas = [Arc::new(Replica::of(&server).await), Arc::new(Replica::of(&server).await)];
    let stop = Arc::new(AtomicBool::new(false));
    let stored = Arc::new(Mutex::new(Vec::new()));
    let load: Vec<_> = (0..2)
        .map(|writer: usize| {
            let (replica, stop, stored) = (Arc::clone(&replicas[writer]), Arc::clone(&stop), Arc::clone(&stored));
            tokio::spawn(async move {
                let (mut answers, mut n) = ([0, 0], 0);
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let id = format!("sess_{writer}_{n}");
                    let denied = restriction(of_session(&id), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
                    match replica.store.record(denied, NOW).await {
                        Ok(_) => answers[0] += 1,
                        Err(StoreError::Unavailable) => answers[1] += 1,
                        Err(StoreError::Full) => panic!("there is room"),
                    }
                    assert_eq!(replica.verdict(&session(&id, "user_1", None)), Verdict::Denied);
                    // A degraded replica still issues tokens.
                    replica.store.put_live_token(live_token("user_1", &id, None, "alice", MINUTE), NOW).await.unwrap();
                    stored.lock().unwrap().push(id);
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                answers
            })
        })
        .collect();

    let more = async || {
        let before = stored.lock().unwrap().len();
        eventually("the load goes on", || stored.lock().unwrap().len() > before + 50).await;
    };
    for _ in 0..3 {
        more().await;
        server.kill();
        for replica in &replicas {
            replica.becomes(Health::Degraded).await;
        }
        more().await;
        if data == Data::Lost {
            server.forget_everything();
        }
        assert!(server.start_again());
        for replica in &replicas {
            replica.becomes(Health::Ready).await;
        }
    }
    more().await;
    stop.store(true, Ordering::Relaxed);
    for writer in load {
        let [stored, alone] = writer.await.unwrap();
        assert!(stored > 50 && alone > 50, "{stored} stored, {alone} learned without Redis: too little load");
    }

    let stored = stored.lock().unwrap().clone();
    let knows_all =
        |replica: &Replica| stored.iter().all(|id| replica.verdict(&session(id, "user_1", None)) == Verdict::Denied);
    for replica in &replicas {
        eventually("each replica knows what any learned", || knows_all(replica)).await;
    }
    let (tenant, user) = (TenantName::default(), TokenHolder::User("user_1".into()));
    let fresh = Replica::of(&server).await;
    eventually("Redis has all restrictions", || knows_all(&fresh)).await;
    let all_are_written = async {
        loop {
            let live = fresh.store.live_tokens(&tenant, &user, NOW).await;
            if live.coverage == Coverage::AllReplicas && live.live_tokens.len() == stored.len() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(MINUTE / 3, all_are_written).await.expect("Redis has all live tokens");
}

#[tokio::test]
async fn without_redis_a_replica_goes_on_with_what_it_knows() {
    let mut server = RedisServer::start();
    let replica = Replica::of(&server).await;
    replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))).await;
    replica.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
    server.kill();
    replica.becomes(Health::Degraded).await;

    assert_eq!(replica.store.may_issue(NOW), Ok(()));
    assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    // What it learns now, it tells the others later.
    let lifted = restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), NOW);
    assert_eq!(replica.store.record(lifted, NOW).await, Err(StoreError::Unavailable));
    assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    let live = replica.store.live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), NOW).await;
    assert_eq!((live.live_tokens.len(), live.coverage), (1, Coverage::ThisReplica));
    assert_eq!(replica.store.put_live_token(live_token("user_2", "sess_2", None, "bob", MINUTE), NOW).await, Ok(()));
}

#[tokio::test]
async fn without_redis_a_replica_with_refuse_issues_no_tokens() {
    let mut server = RedisServer::start();
    let replica = Replica::at(&server.address(), &StoreLimits::default(), OnFailure::Refuse);
    replica.becomes(Health::Ready).await;
    assert_eq!(replica.store.may_issue(NOW), Ok(()));
    server.kill();
    replica.becomes(Health::Degraded).await;
    assert_eq!(replica.store.may_issue(NOW), Err(StoreError::Unavailable));
    let late = live_token("user_1", "sess_1", None, "alice", MINUTE);
    assert_eq!(replica.store.put_live_token(late, NOW).await, Err(StoreError::Unavailable));
    assert!(server.start_again());
    replica.becomes(Health::Ready).await;
    assert_eq!(replica.store.may_issue(NOW), Ok(()));
}

#[tokio::test]
async fn a_replica_that_never_reached_redis_issues_no_tokens() {
    let mut server = RedisServer::start();
    server.kill();
    let replica = Replica::at(&server.address(), &StoreLimits::default(), OnFailure::Degrade);
    let denied = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), NOW);
    assert_eq!(replica.store.record(denied, NOW).await, Err(StoreError::Unavailable));
    assert_eq!(replica.health(), Health::Starting);
    assert_eq!(replica.store.may_issue(NOW), Err(StoreError::Unavailable));
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
    one.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(2))).await;
    eventually("the denial arrives", || other.verdict(&subject) == Verdict::Denied).await;
    server.kill();
    one.becomes(Health::Degraded).await;
    other.becomes(Health::Degraded).await;
    let lifted = restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1));
    assert_eq!(one.store.record(lifted, NOW).await, Err(StoreError::Unavailable));
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
    one.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1))).await;
    let () = redis::cmd("FLUSHALL").query(&mut server.connection()).unwrap();
    // Only the first replica knows that this event is outdated.
    let other = Replica::of(&server).await;
    other.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(2))).await;
    let subject = session("sess_1", "user_1", None);
    eventually("the newer event arrives", || other.verdict(&subject) == Verdict::Clear).await;
    assert_eq!(one.verdict(&subject), Verdict::Clear);
}

#[tokio::test]
async fn after_an_outage_all_replicas_forget_all_users() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    assert_eq!(*one.forgotten.lock().unwrap(), [""; 0]);
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    let outcome = one.store.forget_user(&TenantName::default(), "user_1").await;
    assert_eq!(outcome, Err(StoreError::Unavailable));
    assert_eq!(*one.forgotten.lock().unwrap(), ["user_1 of default"]);
    line.becomes(Condition::Whole);
    for replica in [&one, &other] {
        eventually("everyone is forgotten", || replica.forgotten.lock().unwrap().contains(&"everyone".to_owned()))
            .await;
    }
}

#[tokio::test]
async fn a_replica_reports_late_restrictions_once() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    let denied = |user| restriction(of_user(user), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
    other.record(denied("in_time")).await;
    eventually("the restriction arrives", || one.verdict(&session("sess_1", "in_time", None)) == Verdict::Denied).await;
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    other.record(denied("late")).await;
    other.record(restriction(of_user("lifted"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1))).await;
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    assert_eq!(one.store.take_late_restrictions(), [denied("late")]);
    // A later restriction is not late.
    one.pass(MINUTE);
    other.record(Restriction { at: NOW.after(MINUTE), ..denied("in_time_again") }).await;
    eventually("the restriction arrives", || one.verdict(&session("sess_1", "in_time_again", None)) == Verdict::Denied)
        .await;
    assert_eq!(one.store.take_late_restrictions(), []);
}

#[tokio::test]
async fn a_silent_connection_is_noticed_without_a_request() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    line.becomes(Condition::Silent);
    one.becomes(Health::Degraded).await;
    other.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))).await;
    let denied = restriction(of_user("user_2"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
    assert_eq!(one.store.record(denied, NOW).await, Err(StoreError::Unavailable));
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
    retry!(one, one.store.enqueue_task(task("before", NOW.after(MINUTE)), NOW));
    retry!(one, one.store.enqueue_task(task("done", NOW), NOW));
    assert_eq!(other.store.claim_tasks(9, NOW).await.len(), 1);
    retry!(other, other.store.complete_task("done"));
    // Messages arrive in order: once this one does, the other replica knows that the task is done.
    one.record(restriction(of_user("user_1"), RestrictionKind::NotBefore, NOW)).await;
    server.kill();
    one.becomes(Health::Degraded).await;
    other.becomes(Health::Degraded).await;

    assert_eq!(one.store.enqueue_task(task("urgent", NOW), NOW).await, Err(StoreError::Unavailable));
    assert_eq!(one.store.enqueue_task(task("meanwhile", NOW.after(MINUTE)), NOW).await, Err(StoreError::Unavailable));
    assert_eq!(one.store.claim_tasks(9, NOW).await, [task("urgent", NOW)]);
    assert_eq!(one.store.complete_task("urgent").await, Err(StoreError::Unavailable));

    server.forget_everything();
    assert!(server.start_again());
    one.becomes(Health::Ready).await;
    other.becomes(Health::Ready).await;
    let mut left: Vec<_> =
        other.store.claim_tasks(9, NOW.after(MINUTE)).await.into_iter().map(|task| task.id).collect();
    left.sort();
    assert_eq!(left, ["before", "meanwhile"]);
}

#[tokio::test]
async fn a_denial_that_redis_has_no_memory_for_stops_all_tokens_until_it_is_stored() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    let known = live_token("user_1", "sess_1", None, "alice", MINUTE);
    replica.put_live_token(known.clone()).await;
    server.set_memory(1);

    // Without memory for a live token, only that token is refused.
    let new = live_token("user_2", "sess_2", None, "bob", MINUTE);
    assert_eq!(replica.store.put_live_token(new, NOW).await, Err(StoreError::Full));
    assert_eq!(replica.store.put_live_token(known, NOW).await, Ok(()));
    assert_eq!(replica.store.may_issue(NOW), Ok(()));
    let task = StoredTask { id: "1".into(), due: NOW, payload: String::new() };
    assert_eq!(replica.store.enqueue_task(task, NOW).await, Err(StoreError::Full));

    // Without memory for a denial, all tokens are refused.
    let denied = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
    assert_eq!(replica.store.record(denied.clone(), NOW).await, Err(StoreError::Full));
    assert_eq!(replica.health(), Health::Full);
    assert_eq!(replica.store.may_issue(NOW), Err(StoreError::Full));
    assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);

    server.set_memory(0);
    replica.becomes(Health::Ready).await;
    assert_eq!(replica.store.may_issue(NOW), Ok(()));
    assert_eq!(replica.record(denied).await, RecordOutcome::Repeated);
}

#[tokio::test]
async fn without_redis_a_denial_without_room_is_refused_and_waits() {
    let mut server = RedisServer::start();
    let limits = StoreLimits { restrictions: 1, remembered: 1, ..StoreLimits::default() };
    let replica = Replica::at(&server.address(), &limits, OnFailure::Degrade);
    replica.becomes(Health::Ready).await;
    server.kill();
    replica.becomes(Health::Degraded).await;
    let denied = |user| restriction(of_user(user), RestrictionKind::Denied(DenialSource::Clerk), NOW);
    assert_eq!(replica.store.record(denied("user_1"), NOW).await, Err(StoreError::Unavailable));
    let longer = Restriction { until: NOW.after(20 * MINUTE), ..denied("user_2") };
    assert_eq!(replica.store.record(longer, NOW).await, Err(StoreError::Full));
    assert_eq!(replica.store.may_issue(NOW), Err(StoreError::Full));

    // It waits for room and for Redis.
    replica.pass(10 * MINUTE);
    assert_eq!(replica.store.may_issue(replica.now()), Err(StoreError::Full));
    assert_eq!(replica.verdict(&session("sess_1", "user_2", None)), Verdict::Denied);
    assert!(server.start_again());
    eventually("it is written", || replica.store.stats(replica.now()).unwritten_restrictions == 0).await;
    let other = Replica::of(&server).await;
    assert_eq!(other.verdict(&session("sess_1", "user_2", None)), Verdict::Denied);
}

#[tokio::test]
async fn a_denial_without_room_in_memory_is_written_to_redis() {
    let mut server = RedisServer::start();
    let limits = StoreLimits { restrictions: 1, ..StoreLimits::default() };
    let replica = Replica::at(&server.address(), &limits, OnFailure::Degrade);
    replica.becomes(Health::Ready).await;
    server.kill();
    replica.becomes(Health::Degraded).await;
    let denied = |user| restriction(of_user(user), RestrictionKind::Denied(DenialSource::Clerk), NOW);
    assert_eq!(replica.store.record(denied("user_1"), NOW).await, Err(StoreError::Unavailable));
    assert_eq!(replica.store.record(denied("user_2"), NOW).await, Err(StoreError::Full));
    assert!(server.start_again());
    eventually("both are written", || replica.store.stats(NOW).unwritten_restrictions == 0).await;
    let other = Replica::of(&server).await;
    for user in ["user_1", "user_2"] {
        let subject = session("sess_1", user, None);
        eventually("the denial arrives", || other.verdict(&subject) == Verdict::Denied).await;
    }
    assert_eq!(replica.store.may_issue(NOW), Err(StoreError::Full));
}

#[tokio::test]
async fn a_replica_learns_a_restriction_when_it_has_room_for_it() {
    let server = RedisServer::start();
    let large = Replica::of(&server).await;
    let small =
        Replica::at(&server.address(), &StoreLimits { restrictions: 1, ..StoreLimits::default() }, OnFailure::Degrade);
    small.becomes(Health::Ready).await;
    let mut first = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), NOW);
    first.until = NOW.after(MINUTE);
    large.record(first).await;
    small.becomes(Health::Full).await;
    large.record(restriction(of_user("user_2"), RestrictionKind::Denied(DenialSource::Clerk), NOW)).await;
    small.pass(MINUTE);
    eventually("it learns the other denial", || small.verdict(&session("sess_1", "user_2", None)) == Verdict::Denied)
        .await;
}

#[tokio::test]
async fn a_replica_is_full_until_it_has_read_the_restriction_that_it_had_no_room_for() {
    let server = RedisServer::start();
    let large = Replica::of(&server).await;
    let small =
        Replica::at(&server.address(), &StoreLimits { restrictions: 1, ..StoreLimits::default() }, OnFailure::Degrade);
    small.becomes(Health::Ready).await;
    let first = Restriction {
        until: NOW.after(MINUTE),
        ..restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), NOW)
    };
    large.record(first).await;
    large.record(restriction(of_user("user_2"), RestrictionKind::Denied(DenialSource::Clerk), NOW)).await;
    // Messages arrive in order, and a lift takes no room.
    large.record(restriction(of_user("user_3"), RestrictionKind::Lifted(DenialSource::Clerk), NOW)).await;
    let (tenant, last) = (TenantName::default(), of_user("user_3"));
    let restrictions = small.store.restrictions();
    eventually("all restrictions arrive", || restrictions.is_lifted_since(&tenant, &last, DenialSource::Clerk, ago(1)))
        .await;

    small.pass(MINUTE);
    // Nothing else has run since.
    assert!(restrictions.has_room(small.now()));
    assert_eq!(small.verdict(&session("sess_1", "user_2", None)), Verdict::Clear);
    assert_eq!(small.health(), Health::Full);
    assert_eq!(small.store.may_issue(small.now()), Err(StoreError::Full));
    eventually("it learns the other denial", || small.verdict(&session("sess_1", "user_2", None)) == Verdict::Denied)
        .await;
    small.pass(9 * MINUTE);
    small.becomes(Health::Ready).await;
}

#[tokio::test]
async fn a_lift_that_redis_has_no_memory_for_stops_no_tokens() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    server.set_memory(1);
    let lifted = restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1));
    assert_eq!(replica.store.record(lifted.clone(), NOW).await, Err(StoreError::Full));
    let over = Restriction {
        until: NOW,
        ..restriction(of_user("user_2"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))
    };
    assert_eq!(replica.store.record(over, NOW).await, Err(StoreError::Full));
    assert_eq!((replica.health(), replica.store.may_issue(NOW)), (Health::Ready, Ok(())));

    // A denial stops all tokens until it expires.
    let denied = restriction(of_user("user_3"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
    assert_eq!(replica.store.record(denied, NOW).await, Err(StoreError::Full));
    assert_eq!((replica.health(), replica.store.may_issue(NOW)), (Health::Full, Err(StoreError::Full)));
    replica.pass(10 * MINUTE);
    replica.becomes(Health::Ready).await;
    assert_eq!(replica.store.stats(replica.now()).unwritten_restrictions, 3);

    server.set_memory(0);
    eventually("all are written", || replica.store.stats(replica.now()).unwritten_restrictions == 0).await;
    let other = Replica::of(&server).await;
    assert_eq!(other.record(lifted).await, RecordOutcome::Repeated);
}

#[tokio::test]
async fn a_restriction_yields_to_a_newer_one_that_redis_lost() {
    let mut server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let subject = session("sess_1", "user_1", None);
    let denied = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(2));
    one.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1))).await;
    let again = restriction(of_user("user_2"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1));
    one.record(again.clone()).await;
    let () = redis::cmd("FLUSHALL").query(&mut server.connection()).unwrap();
    assert_eq!(one.record(denied.clone()).await, RecordOutcome::Outdated);
    // Redis has the newer one instead.
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.record(denied.clone()).await, RecordOutcome::Outdated);
    for replica in [&one, &other, &fresh] {
        assert_eq!(replica.verdict(&subject), Verdict::Clear);
    }

    server.kill();
    one.becomes(Health::Degraded).await;
    assert_eq!(one.store.record(denied.clone(), NOW).await, Ok(RecordOutcome::Outdated));
    assert_eq!(one.verdict(&subject), Verdict::Clear);
    // A repeated event is not outdated.
    assert_eq!(one.store.record(again, NOW).await, Err(StoreError::Unavailable));
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
    assert_eq!((stats().health, stats().outages, stats().unwritten_restrictions), (Health::Ready, 0, 0));
    let other = Replica::of(&server).await;
    retry!(other, other.store.enqueue_task(task("of the other replica"), NOW));
    eventually("the task of the other replica is counted", || stats().tasks.count == 1).await;
    drop(other);

    for outage in 1..=2 {
        server.kill();
        eventually("the outage is counted", || stats().outages == outage).await;
        assert_eq!(stats().health, Health::Degraded);
        let denied =
            restriction(of_user(&format!("user_{outage}")), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
        assert_eq!(replica.store.record(denied, NOW).await, Err(StoreError::Unavailable));
        assert_eq!((stats().unwritten_restrictions, stats().restrictions), (1, usize::try_from(outage).unwrap()));
        // During the outage it counts its own tasks.
        assert_eq!(replica.store.enqueue_task(task(&outage.to_string()), NOW).await, Err(StoreError::Unavailable));
        assert_eq!(stats().tasks.count, usize::try_from(outage).unwrap());

        assert!(server.start_again());
        replica.becomes(Health::Ready).await;
        assert_eq!((stats().unwritten_restrictions, stats().outages), (0, outage));
        let count = usize::try_from(outage).unwrap() + 1;
        eventually("Redis has its tasks again", || stats().tasks.count == count).await;
    }
}

#[tokio::test]
async fn a_connection_lost_while_redis_is_full_is_reestablished_once() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    let known = live_token("user_1", "sess_1", None, "alice", MINUTE);
    replica.put_live_token(known.clone()).await;
    server.set_memory(1);
    let before = replica.store.stats(NOW).outages;
    server.hang_up();
    eventually("the connection is lost", || replica.store.stats(NOW).outages > before).await;
    replica.becomes(Health::Ready).await;
    // It writes its live tokens back, is refused, and retries with each heartbeat.
    let refused_before = refused_for_memory(&server);
    eventually("it has retried", || refused_for_memory(&server) > refused_before + 3).await;
    assert_eq!((replica.health(), replica.store.stats(NOW).outages), (Health::Ready, before + 1));
    assert_eq!(replica.store.put_live_token(known, NOW).await, Ok(()));
}

/// Commands that Redis refused for lack of memory.
fn refused_for_memory(server: &RedisServer) -> u64 {
    let stats: String = redis::cmd("INFO").arg("errorstats").query(&mut server.connection()).unwrap();
    let count = stats.lines().find_map(|line| line.strip_prefix("errorstat_OOM:count="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// Commands that make Redis refuse all writes, and accept them again.
const REFUSALS: [[&[&str]; 2]; 3] = [
    [&["CONFIG", "SET", "min-replicas-to-write", "1"], &["CONFIG", "SET", "min-replicas-to-write", "0"]],
    [&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]],
    [&["ACL", "SETUSER", "aca", "-set", "-zadd"], &["ACL", "SETUSER", "aca", "+set", "+zadd"]],
];

fn command(server: &RedisServer, words: &[&str]) {
    let (name, arguments) = words.split_first().unwrap();
    let () = redis::cmd(name).arg(arguments).query(&mut server.connection()).unwrap();
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_one_outage() {
    for [refuse, take] in REFUSALS {
        let server = RedisServer::start();
        let replica = Replica::of(&server).await;
        command(&server, refuse);
        for n in 0..40 {
            // A degraded replica still issues tokens.
            replica.put_live_token(live_token("user_1", &format!("sess_{n}"), None, "alice", MINUTE)).await;
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        assert_eq!((replica.health(), replica.store.stats(NOW).outages), (Health::Degraded, 1), "{refuse:?}");
        assert_eq!(*replica.forgotten.lock().unwrap(), [""; 0]);
        command(&server, take);
        replica.becomes(Health::Ready).await;
        assert_eq!(*replica.forgotten.lock().unwrap(), ["everyone"]);
    }
}

#[tokio::test]
async fn what_an_emptied_redis_lost_is_written_back_without_a_lost_connection() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    one.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))).await;
    let given = live_token("user_1", "sess_1", None, "alice", MINUTE);
    one.put_live_token(given.clone()).await;
    let task = StoredTask { id: "1".into(), due: NOW, payload: String::new() };
    retry!(one, one.store.enqueue_task(task.clone(), NOW));
    command(&server, &["FLUSHALL"]);
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
    assert_eq!(fresh.store.claim_tasks(9, NOW).await, [task]);
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
    one.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))).await;
    server.set_memory(1);
    command(&server, &["FLUSHALL"]);
    one.becomes(Health::Full).await;
    let asked = commands(&server);
    eventually("some heartbeats pass", || commands(&server) > asked + 20).await;
    assert_eq!(one.store.stats(NOW).outages, 1);
    server.set_memory(0);
    one.becomes(Health::Ready).await;
    eventually("it is written", || one.store.stats(NOW).unwritten_restrictions == 0).await;
    let fresh = Replica::of(&server).await;
    assert_eq!(fresh.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
}

/// Commands that Redis has processed.
fn commands(server: &RedisServer) -> u64 {
    let stats: String = redis::cmd("INFO").arg("stats").query(&mut server.connection()).unwrap();
    let count = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
    count.trim().parse().unwrap()
}

#[tokio::test]
async fn a_live_token_extended_while_redis_is_full_reaches_the_others_when_it_has_memory() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    one.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
    let extended = live_token("user_1", "sess_1", None, "alice", 60 * MINUTE);
    server.set_memory(1);
    one.put_live_token(extended.clone()).await;
    server.set_memory(0);
    let (tenant, user) = (TenantName::default(), TokenHolder::User("user_1".into()));
    let known = async {
        while other.store.live_tokens(&tenant, &user, NOW).await.live_tokens != [extended.clone()] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(MINUTE / 3, known).await.expect("the other replica knows of the longer life");
}

#[tokio::test]
async fn a_restriction_from_a_replica_that_reconnects_later_is_late() {
    let server = RedisServer::start();
    let lines = [Proxy::to(server.port()).await, Proxy::to(server.port()).await];
    let [one, other] =
        [0, 1].map(|n: usize| Replica::at(&lines[n].address(), &StoreLimits::default(), OnFailure::Degrade));
    for (replica, line) in [&one, &other].into_iter().zip(&lines) {
        replica.becomes(Health::Ready).await;
        line.becomes(Condition::Cut);
        replica.becomes(Health::Degraded).await;
    }
    let [denied, later] = ["user_1", "user_2"]
        .map(|user| restriction(of_user(user), RestrictionKind::Denied(DenialSource::Clerk), ago(1)));
    assert_eq!(one.store.record(denied.clone(), NOW).await, Err(StoreError::Unavailable));
    lines[1].becomes(Condition::Whole);
    other.becomes(Health::Ready).await;
    assert_eq!(other.store.take_late_restrictions(), []);
    lines[0].becomes(Condition::Whole);
    eventually("the restriction arrives", || other.verdict(&session("sess_1", "user_1", None)) == Verdict::Denied)
        .await;
    assert_eq!(other.store.take_late_restrictions(), std::slice::from_ref(&denied));

    // What counts is the time of the event, not of the reconnection.
    one.becomes(Health::Ready).await;
    other.pass(5 * MINUTE);
    one.record(later.clone()).await;
    eventually("the restriction arrives", || other.verdict(&session("sess_1", "user_2", None)) == Verdict::Denied)
        .await;
    assert_eq!(other.store.take_late_restrictions(), [later]);
}

#[tokio::test]
async fn a_replica_learns_of_a_denial_that_expired_during_its_outage() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let one = Replica::over(&line).await;
    let other = Replica::of(&server).await;
    // More than one page.
    for n in 0..600 {
        other
            .record(restriction(of_user(&format!("user_{n}")), RestrictionKind::Lifted(DenialSource::Clerk), ago(1)))
            .await;
    }
    let known = restriction(of_session("sess_known"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
    other.record(known).await;
    eventually("the restriction arrives", || one.verdict(&session("sess_known", "user_1", None)) == Verdict::Denied)
        .await;
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    let missed = restriction(of_session("sess_1"), RestrictionKind::Denied(DenialSource::Clerk), NOW);
    other.record(missed.clone()).await;
    // Redis may have removed it from what is in force; it still remembers the event.
    command(&server, &["DEL", "aca:{v2}:holding"]);
    other.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), NOW)).await;
    other.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), NOW.after(MINUTE))).await;
    // Not in the outage, and expired.
    other.record(restriction(of_session("sess_2"), RestrictionKind::Denied(DenialSource::Clerk), ago(60_000))).await;
    for replica in [&one, &other] {
        replica.pass(11 * MINUTE);
    }
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    let mut late = Vec::new();
    eventually("the denial is reported as late", || {
        late.extend(one.store.take_late_restrictions());
        late.contains(&missed)
    })
    .await;
    assert_eq!(one.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);

    // Once.
    line.becomes(Condition::Cut);
    one.becomes(Health::Degraded).await;
    line.becomes(Condition::Whole);
    one.becomes(Health::Ready).await;
    late.extend(one.store.take_late_restrictions());
    assert_eq!(late, [missed]);
}

#[tokio::test]
async fn tasks_that_redis_has_no_memory_for_after_an_outage_are_performed_and_written_later() {
    let mut server = RedisServer::start_with(&["--maxmemory", "1"]);
    server.set_memory(0);
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    let task = |id: &str, due| StoredTask { id: id.to_owned(), due, payload: String::new() };
    server.kill();
    one.becomes(Health::Degraded).await;
    for (id, due) in [("now", NOW), ("later", NOW.after(MINUTE))] {
        assert_eq!(one.store.enqueue_task(task(id, due), NOW).await, Err(StoreError::Unavailable));
    }
    assert!(server.start_again());
    one.becomes(Health::Ready).await;
    assert_eq!(one.store.stats(NOW).unwritten_tasks, 2);
    assert_eq!(one.store.claim_tasks(9, NOW).await, [task("now", NOW)]);
    let _ = one.store.complete_task("now").await;
    server.set_memory(0);
    eventually("the task is written", || one.store.stats(NOW).unwritten_tasks == 0).await;
    other.becomes(Health::Ready).await;
    assert_eq!(other.store.claim_tasks(9, NOW.after(MINUTE)).await, [task("later", NOW.after(MINUTE))]);
}
