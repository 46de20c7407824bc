//! The password of Redis does not get into the log.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use ably_clerk_auth::{
    redis::RedisAddress,
    store::{Health, OnFailure, StoreLimits},
};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    fixtures::{NOW, Replica, eventually},
    redis_server::RedisServer,
};

/// The log, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(self.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_correct_password_is_not_logged() {
    let server = RedisServer::start();
    let log = Log::default();
    let _listening = log.listen();
    let replica = Replica::of(&server).await;
    eventually("it is in sync", || log.text().contains("Redis connected; in sync")).await;
    assert!(!log.text().contains("PASSWORD"), "{}", log.text());
    assert!(!format!("{:?} {:?}", server.address(), replica.store).contains("PASSWORD"));
}

#[tokio::test]
async fn a_wrong_password_is_not_logged() {
    let server = RedisServer::start();
    let log = Log::default();
    let _listening = log.listen();
    let address = RedisAddress::parse(&format!("redis://aca:hunter2@127.0.0.1:{}", server.port())).unwrap();
    let replica = Replica::at(&address, &StoreLimits::default(), OnFailure::Degrade);
    eventually("it is logged", || log.text().contains("Redis cannot be used")).await;
    assert_eq!(replica.health(), Health::Starting);
    assert!(!log.text().contains("hunter2"), "{}", log.text());
}

#[tokio::test]
async fn a_password_that_the_server_repeats_is_not_logged() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // As Redis 5 answers HELLO.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(_)) = lines.next() {
                let answer =
                    "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `aca`, `hunter2`, \r\n";
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    let log = Log::default();
    let _listening = log.listen();
    let address = RedisAddress::parse(&format!("redis://aca:hunter2@127.0.0.1:{port}")).unwrap();
    let replica = Replica::at(&address, &StoreLimits::default(), OnFailure::Degrade);
    eventually("it is logged", || log.text().contains("Redis cannot be used")).await;
    assert_eq!(replica.store.health(), Health::Starting);
    assert!(!log.text().contains("hunter2"), "{}", log.text());
}

#[tokio::test]
async fn an_outage_logs_one_line_and_its_end_another() {
    let mut server = RedisServer::start();
    let log = Log::default();
    let _listening = log.listen();
    let replica = Replica::of(&server).await;
    // A loading Redis logs another reason than a closed port. Here the port is closed.
    server.kill();
    replica.becomes(Health::Degraded).await;
    eventually("it is refused", || log.text().contains("refused")).await;
    let before = log.text().matches("Redis cannot be used").count();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(log.text().matches("Redis cannot be used").count(), before);
    assert!(before <= 2, "{}", log.text());
    assert!(server.start_again());
    replica.becomes(Health::Ready).await;
    // The end is logged after some seconds without another loss.
    assert_eq!(log.text().matches("Redis connected; in sync").count(), 1);
    eventually("the end is logged", || log.text().matches("Redis connected; in sync").count() == 2).await;
}

#[tokio::test]
async fn repeated_losses_of_the_connection_are_one_outage_in_the_log() {
    let server = RedisServer::start();
    let log = Log::default();
    let _listening = log.listen();
    let replica = Replica::of(&server).await;
    for outages in 1..=4 {
        server.hang_up();
        eventually("the connection is lost", || replica.store.stats(NOW).outages == outages).await;
        replica.becomes(Health::Ready).await;
    }
    let text = log.text();
    let mut reasons: Vec<_> =
        text.lines().filter_map(|line| line.split_once("Redis cannot be used")?.1.into()).collect();
    let logged = reasons.len();
    reasons.sort_unstable();
    reasons.dedup();
    // A lost connection can have several reasons; each is logged once.
    assert_eq!((logged, text.matches("Redis connected; in sync").count()), (reasons.len(), 1), "{text}");
    assert!((1..4).contains(&logged), "{text}");
}
