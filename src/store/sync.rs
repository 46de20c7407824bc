//! Connects a replica to Redis, and keeps the two in sync.

use std::{convert::Infallible, future, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};

use super::{
    Commands, Connect, Connected, LONGEST_WAIT, ReadLog, RecordOutcome, Reply,
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
    let address = redis.address();
    // The pause before the next attempt, and the reasons of this outage that were logged: each is logged once.
    let (mut pause, mut logged) = (MIN_PAUSE, Vec::new());
    loop {
        let end_outage = async {
            if !logged.is_empty() {
                time::sleep(STEADY_AFTER).await;
            }
            tracing::info!(redis = address, "Redis connected; in sync");
            (pause, logged) = (MIN_PAUSE, Vec::new());
            future::pending().await
        };
        let Err(lost) = keep(&line, &*redis, &clock, end_outage).await;
        if !logged.contains(&lost) {
            tracing::warn!(redis = address, reason = %lost, "Redis cannot be used");
            logged.push(lost);
        }
        time::sleep(pause).await;
        pause = MAX_PAUSE.min(pause * 2);
    }
}

/// Connects, catches up and follows the log. Returns only when the connection is lost.
async fn keep(
    line: &Line,
    redis: &dyn Connect,
    clock: &Clock,
    end_outage: impl Future<Output = Reply<Infallible>>,
) -> Reply<Infallible> {
    let connect = async {
        line.replica.forget_unfound(clock());
        redis.connect().await
    };
    let Connected { commands, mut log } = caught(connect).await?;
    let (lost, mut reasons) = mpsc::channel(1);
    let connection = Arc::new(Connection { commands, lost });
    let stay = async {
        catch_up(line, clock, &connection, &mut *log).await?;
        let follow = follow(&line.replica, clock, &mut *log);
        let heartbeat = heartbeat(&line.replica, &*connection.commands);
        tokio::try_join!(biased; follow, heartbeat, end_outage)
    };
    let reason = tokio::select! {
        biased;
        Some(reason) = reasons.recv() => reason,
        Err(reason) = caught(stay) => reason,
    };
    line.lose(&connection, reason.clone());
    Err(reason)
}

/// Reads what Redis knows, writes what it lacks, and reads the log to its end.
async fn catch_up(line: &Line, clock: &Clock, connection: &Arc<Connection>, log: &mut dyn ReadLog) -> Reply<()> {
    let (replica, commands) = (&*line.replica, &*connection.commands);
    replica.begin(commands.state().await?);
    // From here on what this replica learns and issues goes to Redis directly, so nothing is missed before the writes below.
    line.connect(connection);
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let (next, page) = commands.restrictions(at).await?;
        for restriction in &page {
            replica.learn(restriction, Source::Redis, clock());
        }
        cursor = next;
    }
    for part in replica.live_tokens.parts(clock()) {
        for live_tokens in part.chunks(BATCH) {
            let lacked = commands.register(live_tokens, clock()).await?;
            let lacked = live_tokens.iter().zip(lacked).filter(|(_, lacked)| *lacked);
            replica.were_unfound(lacked.map(|(live_token, _)| live_token), clock());
        }
    }
    while let missing @ [_, ..] = &*replica.restrictions.unrecorded(BATCH) {
        // What Redis lacks, it lacks with the tasks that followed, even if it has the same client ID of an older event.
        commands.record(missing, &replica.tasks_of(missing, clock()), RecordOutcome::Confirmed, clock()).await?;
        for written in missing {
            replica.restrictions.apply(written, Source::Redis, clock());
        }
    }
    let end = commands.state().await?.last;
    // Once at least: the log's connection has to see the end.
    loop {
        let page = log.read(replica.position(), Duration::ZERO).await?;
        if page.entries.is_empty() && page.last < Some(end) {
            return lost(DIFFERENT_DATA);
        }
        replica.apply_log(page, clock())?;
        if replica.position() >= end {
            break;
        }
    }
    // What this replica is told meanwhile, it records itself, and other replicas find the tokens that are registered by now.
    for tasks in replica.tasks_of(&replica.late(), clock()).chunks(BATCH) {
        commands.record(&[], tasks, RecordOutcome::New, clock()).await?;
    }
    replica.becomes_ready(time::Instant::now());
    Ok(())
}

/// Applies the entries of the log as they come. Returns only when the connection is lost.
async fn follow(replica: &Replica, clock: &Clock, log: &mut dyn ReadLog) -> Reply<Infallible> {
    loop {
        let page = log.read(replica.position(), LONGEST_WAIT).await?;
        replica.apply_log(page, clock())?;
    }
}

/// Reads the state of Redis from time to time. Returns only when the connection is lost.
async fn heartbeat(replica: &Replica, commands: &dyn Commands) -> Reply<Infallible> {
    loop {
        let position = replica.position();
        replica.check(&commands.state().await?, position, time::Instant::now())?;
        time::sleep(HEARTBEAT).await;
    }
}
