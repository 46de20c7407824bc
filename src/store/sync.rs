//! Connects a replica to Redis, and keeps the two in sync.

use std::{convert::Infallible, future, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};

use super::{
    Commands, Connect, Connected, ConnectionLost, LONGEST_WAIT, ReadLog, RecordOutcome, Reply,
    line::{Connection, Line, caught},
    replica::{DIFFERENT_DATA, Replica, lost},
    restrictions::Source,
};
use crate::clock::Clock;

/// The pause between two readings of the state of Redis.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The pause before the first attempt to reconnect. Each next one is twice as long, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// How long a connection must last for an outage to end. So a Redis that keeps failing is neither called nor logged
/// more often than one that is down.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// How many restrictions, tasks or live tokens are written at once: few enough for Redis to answer within its timeout.
const BATCH: usize = 100;

/// Connects, and reconnects forever.
pub(super) async fn run(line: Arc<Line>, redis: Arc<dyn Connect>, clock: Clock) {
    let mut sync = Sync { line, clock, address: redis.address(), pause: MIN_PAUSE, logged: Vec::new() };
    loop {
        let Err(lost) = sync.keep(&*redis).await;
        if !sync.logged.contains(&lost) {
            tracing::warn!(redis = sync.address, reason = %lost, "Redis cannot be used");
            sync.logged.push(lost);
        }
        time::sleep(sync.pause).await;
        sync.pause = MAX_PAUSE.min(sync.pause * 2);
    }
}

struct Sync {
    line: Arc<Line>,
    clock: Clock,
    address: String,
    /// The pause before the next attempt.
    pause: Duration,
    /// The reasons of this outage that were logged: each is logged once.
    logged: Vec<ConnectionLost>,
}

impl Sync {
    /// Connects, and keeps in sync. Returns only when the connection is lost.
    async fn keep(&mut self, redis: &dyn Connect) -> Reply<Infallible> {
        let connect = async {
            self.line.replica.forget_unfound((self.clock)());
            redis.connect().await
        };
        let Connected { commands, mut log } = caught(connect).await?;
        let (lost, mut reasons) = mpsc::channel(1);
        let connection = Arc::new(Connection { commands, lost });
        let reason = tokio::select! {
            biased;
            Some(reason) = reasons.recv() => reason,
            Err(reason) = caught(self.stay(&connection, &mut *log)) => reason,
        };
        self.line.lose(&connection, reason.clone());
        Err(reason)
    }

    /// Catches up and follows the log. Returns only when the connection is lost.
    async fn stay(&mut self, connection: &Arc<Connection>, log: &mut dyn ReadLog) -> Reply<Infallible> {
        self.catch_up(connection, log).await?;
        let (line, clock) = (Arc::clone(&self.line), Arc::clone(&self.clock));
        let (never, ..) = tokio::try_join!(
            biased;
            follow(&line.replica, &clock, log),
            heartbeat(&line.replica, &clock, &*connection.commands),
            self.end_outage(),
        )?;
        Ok(never)
    }

    async fn end_outage(&mut self) -> Reply<Infallible> {
        if !self.logged.is_empty() {
            time::sleep(STEADY_AFTER).await;
        }
        tracing::info!(redis = self.address, "Redis connected; in sync");
        (self.pause, self.logged) = (MIN_PAUSE, Vec::new());
        future::pending().await
    }

    /// Reads what Redis knows, writes what it lacks, and reads the log to its end.
    async fn catch_up(&self, connection: &Arc<Connection>, log: &mut dyn ReadLog) -> Reply<()> {
        let (replica, commands) = (&*self.line.replica, &*connection.commands);
        let now = || (self.clock)();
        replica.begin(commands.state().await?);
        // From here on what this replica learns and issues goes to Redis directly, so nothing is missed before the writes below.
        self.line.connect(connection);
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let (next, page) = commands.restrictions(at).await?;
            for restriction in &page {
                replica.learn(restriction, Source::Redis, now());
            }
            cursor = next;
        }
        for part in replica.live_tokens.parts(now()) {
            for live_tokens in part.chunks(BATCH) {
                let lacked = commands.register(live_tokens, now()).await?;
                let lacked = live_tokens.iter().zip(lacked).filter(|(_, lacked)| *lacked);
                replica.were_unfound(lacked.map(|(live_token, _)| live_token), now());
            }
        }
        while let missing @ [_, ..] = &*replica.restrictions.unrecorded(BATCH) {
            // What Redis lacks, it lacks with the tasks that followed, even if it has the same client ID of an older event.
            commands.record(missing, &replica.tasks_of(missing, now()), RecordOutcome::Confirmed, now()).await?;
            for written in missing {
                replica.restrictions.apply(written, Source::Redis, now());
            }
        }
        let end = commands.state().await?.last;
        // Once at least: the log's connection has to see the end.
        loop {
            let page = log.read(replica.position(), Duration::ZERO).await?;
            if page.entries.is_empty() && page.last < Some(end) {
                return lost(DIFFERENT_DATA);
            }
            replica.apply_log(page, now())?;
            if replica.position() >= end {
                break;
            }
        }
        // What this replica is told meanwhile, it records itself, and other replicas find the tokens that are registered by now.
        for tasks in replica.tasks_of(&replica.late(), now()).chunks(BATCH) {
            commands.record(&[], tasks, RecordOutcome::New, now()).await?;
        }
        replica.becomes_ready(now());
        Ok(())
    }
}

/// Applies the entries of the log as they come. Returns only when the connection is lost.
async fn follow(replica: &Replica, clock: &Clock, log: &mut dyn ReadLog) -> Reply<Infallible> {
    loop {
        let page = log.read(replica.position(), LONGEST_WAIT).await?;
        replica.apply_log(page, clock())?;
    }
}

/// Reads the state of Redis from time to time. Returns only when the connection is lost.
async fn heartbeat(replica: &Replica, clock: &Clock, commands: &dyn Commands) -> Reply<Infallible> {
    loop {
        let position = replica.position();
        replica.check(&commands.state().await?, position, clock())?;
        time::sleep(HEARTBEAT).await;
    }
}
