//! A line to Redis for one replica alone, which can be cut, be slow, or go silent as a network does that loses everything.

use std::{future, time::Duration};

use ably_clerk_auth::redis::RedisAddress;
use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};

/// How a line is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    Whole,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections stay, and nothing comes through.
    Silent,
    /// Commands reach Redis, and no answer comes back.
    Mute,
    /// Nothing comes through connections from before any more, ever. New ones are whole.
    Replaced,
    /// Each answer comes so late. Such connections end with this condition.
    Slow(Duration),
}

/// A line through which a replica, or another node of the cluster, reaches Redis.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    condition: watch::Sender<Condition>,
}

impl Proxy {
    pub(crate) async fn to(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (condition, watched) = watch::channel(Condition::Whole);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, redis, watched.clone()));
            }
        });
        Self { port, condition }
    }

    pub(crate) fn address(&self) -> RedisAddress {
        RedisAddress::parse(&self.url()).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://aca:PASSWORD@127.0.0.1:{}", self.port)
    }

    pub(crate) fn becomes(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

async fn carry(mut near: TcpStream, redis: u16, mut condition: watch::Receiver<Condition>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", redis)).await else { return };
    let first = *condition.borrow();
    loop {
        let now = *condition.borrow_and_update();
        match now {
            Condition::Cut => return,
            Condition::Silent => condition.changed().await.unwrap(),
            Condition::Mute => tokio::select! {
                _ = io::copy(&mut near, &mut far) => return,
                _ = condition.changed() => {}
            },
            Condition::Replaced if first != now => return future::pending().await,
            Condition::Whole | Condition::Replaced => tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => return,
                _ = condition.changed() => {}
            },
            Condition::Slow(delay) => tokio::select! {
                _ = copy_slowly(&mut near, &mut far, delay) => return,
                _ = condition.changed() => return,
            },
        }
    }
}

async fn copy_slowly(near: &mut TcpStream, far: &mut TcpStream, delay: Duration) -> io::Result<()> {
    let ((mut commands, mut to_near), (mut answers, mut to_far)) = (near.split(), far.split());
    let answer = async {
        let mut buffer = vec![0; 65_536];
        while let read @ 1.. = answers.read(&mut buffer).await? {
            time::sleep(delay).await;
            to_near.write_all(&buffer[..read]).await?;
        }
        Ok(())
    };
    let command = async {
        io::copy(&mut commands, &mut to_far).await?;
        to_far.shutdown().await
    };
    tokio::try_join!(command, answer).map(drop)
}
