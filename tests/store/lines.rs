//! Lines to Redis that are worse than cut: slow ones, mute ones, and those of which one end is gone.

use std::time::Duration;

use ably_clerk_auth::{
    redis::RedisAddress,
    store::{Health, StoreError, Verdict},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    time,
};

use crate::{
    fixtures::{DENIED, NOW, Replica, ago, eventually, of_user, restriction, session},
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
    topology::{returns, urls},
};

/// How the answers come.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    AtOnce,
    Never,
}

/// A line to Redis.
struct Line {
    port: u16,
    /// On connections that begin from now on, and whether those from before get any.
    answers: watch::Sender<(Answers, usize)>,
}

impl Line {
    async fn to(redis: u16, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answers, watched) = watch::channel((answers, 0));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry_answers(far_read, near_write, watched.clone()));
                tokio::spawn(carry_commands(near_read, far_write));
            }
        });
        Self { port, answers }
    }

    fn address(&self) -> RedisAddress {
        RedisAddress::parse(&urls("redis", [self.port])).unwrap()
    }

    fn set(&self, answers: Answers) {
        self.answers.send_modify(|(now, _)| *now = answers);
    }

    /// The far ends of all connections vanish. New ones are as before.
    fn lose_far_ends(&self) {
        self.answers.send_modify(|(_, lost)| *lost += 1);
    }
}

async fn carry_commands(mut near: OwnedReadHalf, mut far: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut near, &mut far).await;
}

async fn carry_answers(
    mut far: OwnedReadHalf,
    mut near: OwnedWriteHalf,
    mut answers: watch::Receiver<(Answers, usize)>,
) {
    let (_, lost) = *answers.borrow();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(read @ 1..) = far.read(&mut buffer).await else { return };
        let how = answers.borrow_and_update().0;
        match how {
            Answers::AtOnce => {}
            Answers::Never => _ = answers.wait_for(|(now, _)| *now != Answers::Never).await,
        }
        if answers.borrow().1 != lost {
            // The near end never learns of it.
            let _ = answers.wait_for(|_| false).await;
            return;
        }
        if near.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

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
    let line = Line::to(server.port(), Answers::Never).await;
    let replica = Replica::impatient_at(&line.address());
    let denial = restriction(of_user("user_1"), DENIED, ago(1));
    assert_eq!(replica.store.record(&[denial], &[], NOW).await, Err(StoreError::Unavailable));
    // It has given up several connections by then.
    time::sleep(Duration::from_secs(3)).await;
    assert_eq!((replica.health(), replica.store.may_issue()), (Health::Starting, Err(StoreError::Unavailable)));
    line.set(Answers::AtOnce);
    let other = Replica::of(&server).await;
    both_learn([&replica, &other], "user_1").await;
    replica.becomes(Health::Ready).await;
}

#[tokio::test]
async fn a_connection_whose_far_end_is_gone_is_replaced() {
    let server = RedisServer::start();
    let line = Line::to(server.port(), Answers::AtOnce).await;
    let (replica, other) = (Replica::impatient_at(&line.address()), Replica::of(&server).await);
    replica.becomes(Health::Ready).await;
    let outages = replica.outages();
    line.lose_far_ends();
    returns(&replica, outages + 1).await;
    other.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
    both_learn([&replica, &other], "user_1").await;
}
