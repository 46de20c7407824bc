//! Lines to Redis that are worse than cut: slow ones, mute ones, and those of which one end is gone.

use std::time::Duration;

use ably_clerk_auth::store::{Health, StoreError, Verdict};
use tokio::time;

use crate::{
    fixtures::{DENIED, NOW, Replica, ago, eventually, of_user, restriction, session},
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
    topology::returns,
};

async fn both_learn(replicas: [&Replica; 2], user: &str) {
    let subject = session("sess_1", user, None);
    for replica in replicas {
        eventually("the denial is known", || replica.verdict(&subject) == Verdict::Denied).await;
    }
}

#[tokio::test]
async fn a_redis_that_takes_a_second_for_each_command_is_not_waited_for() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let (replica, other) = (Replica::impatient_at(&line.address()), Replica::of(&server).await);
    replica.becomes(Health::Ready).await;
    line.becomes(Condition::Slow(Duration::from_secs(1)));
    replica.becomes(Health::Degraded).await;
    let denial = restriction(of_user("user_1"), DENIED, ago(1));
    assert_eq!(replica.store.record(&[denial], &[], NOW).await, Err(StoreError::Unavailable));
    assert_eq!(replica.store.may_issue(), Ok(()));
    assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    line.becomes(Condition::Whole);
    both_learn([&replica, &other], "user_1").await;
}

#[tokio::test]
async fn with_a_redis_that_never_answers_a_new_replica_issues_no_tokens() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    line.becomes(Condition::Mute);
    let replica = Replica::impatient_at(&line.address());
    let denial = restriction(of_user("user_1"), DENIED, ago(1));
    assert_eq!(replica.store.record(&[denial], &[], NOW).await, Err(StoreError::Unavailable));
    // It has given up several connections by then.
    time::sleep(Duration::from_secs(3)).await;
    assert_eq!((replica.health(), replica.store.may_issue()), (Health::Starting, Err(StoreError::Unavailable)));
    line.becomes(Condition::Whole);
    let other = Replica::of(&server).await;
    both_learn([&replica, &other], "user_1").await;
    replica.becomes(Health::Ready).await;
}

#[tokio::test]
async fn a_connection_whose_far_end_is_gone_is_replaced() {
    let server = RedisServer::start();
    let line = Proxy::to(server.port()).await;
    let (replica, other) = (Replica::impatient_at(&line.address()), Replica::of(&server).await);
    replica.becomes(Health::Ready).await;
    let outages = replica.outages();
    line.becomes(Condition::Replaced);
    returns(&replica, outages + 1).await;
    other.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    both_learn([&replica, &other], "user_1").await;
}
