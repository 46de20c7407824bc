//! Keeps this replica and Redis in sync.

use std::{
    collections::HashMap,
    convert::Infallible,
    future, mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ::redis::{Client, FromRedisValue as _, PushInfo, PushKind, Value};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::{self, MissedTickBehavior},
};

use super::{
    super::{Forgotten, Restriction, restriction::RestrictionKey},
    connection::{Connection, Names, RedisFailure, decode, decode_forget},
    shared::{SharedState, SyncPhase},
};
use crate::clock::{self, UnixMillis};

/// How often Redis is probed, and gets what it lacks.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The pause before the first attempt to reconnect. Each next one is twice as long, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// How long a connection must last for an outage to end. So a Redis that keeps failing is neither called nor logged
/// more often than one that is down.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// How many restrictions or live tokens are written at once: few enough for Redis to answer within its timeout.
const BATCH: usize = 100;
/// How many pages of keys are scanned for the restrictions of an outage: about ten million keys.
const MAX_PAGES: usize = 20_000;
/// How long after its due time the copy of a task is kept that Redis has too.
const TASK_COPY_KEPT_FOR: Duration = Duration::from_mins(10);

/// The retries of an outage, which ends once a connection has lasted for [`STEADY_AFTER`].
struct Backoff {
    /// The pause before the next attempt.
    pause: Duration,
    /// The reasons that were logged: each is logged once.
    logged: Vec<String>,
}

impl Backoff {
    const NONE: Self = Self { pause: MIN_PAUSE, logged: Vec::new() };

    fn next_pause(&mut self) -> Duration {
        let next = MAX_PAUSE.min(self.pause * 2);
        mem::replace(&mut self.pause, next)
    }
}

/// Connects, and reconnects forever.
pub(super) async fn run(shared: Arc<SharedState>, client: Client, names: Names, address: String) {
    let mut backoff = Backoff::NONE;
    loop {
        let reason = connect(&shared, &client, &names, &address, &mut backoff).await;
        shared.connection.store(None);
        shared.set_backlog(None);
        shared.mark_lost();
        if !backoff.logged.contains(&reason) {
            tracing::warn!(redis = address, reason, "Redis cannot be used");
            backoff.logged.push(reason);
        }
        time::sleep(backoff.next_pause()).await;
    }
}

/// Connects, and keeps in sync until the connection is lost. Returns why it was lost.
async fn connect(shared: &SharedState, client: &Client, names: &Names, address: &str, backoff: &mut Backoff) -> String {
    let (pushed, mut pushes) = mpsc::unbounded_channel();
    let (broken, mut failures) = mpsc::channel(1);
    let first = shared.phase() == SyncPhase::Starting;
    let connection = match catch_up(shared, client, names, pushed, broken, &mut pushes).await {
        Ok(connection) => connection,
        Err(error) => return error.reason(),
    };
    shared.mark_synced();
    if first && let Some(policy) = connection.eviction_policy().await {
        tracing::warn!(
            redis = address,
            policy,
            "Redis drops keys when its memory is full: denials or live tokens can get lost; set its \
             maxmemory-policy to noeviction"
        );
    }
    let end_outage = async {
        if !first {
            time::sleep(STEADY_AFTER).await;
        }
        tracing::info!(redis = address, "Redis connected; in sync");
        *backoff = Backoff::NONE;
        future::pending::<Infallible>().await
    };
    tokio::select! {
        never = end_outage => match never {},
        reason = listen(shared, names, &mut pushes) => reason,
        Some(reason) = failures.recv() => reason,
        error = heartbeat(shared, &connection) => error.reason(),
        error = write_live_tokens(shared, &connection) => error.reason(),
        error = read_missed_restrictions(shared, &connection) => error.reason(),
    }
}

/// Subscribes, reads the active restrictions, and writes what Redis lacks.
async fn catch_up(
    shared: &SharedState,
    client: &Client,
    names: &Names,
    pushed: mpsc::UnboundedSender<PushInfo>,
    broken: mpsc::Sender<String>,
    pushes: &mut UnboundedReceiver<PushInfo>,
) -> Result<Arc<Connection>, RedisFailure> {
    let connection = Arc::new(Connection::open(client, names.clone(), pushed, broken).await?);
    // From here on new restrictions go to Redis directly, so none is missed between this and the writes below.
    shared.connection.store(Some(Arc::clone(&connection)));
    read_all(shared, &connection).await?;
    write_restrictions(shared, &connection).await?;
    write_tasks(shared, &connection).await?;
    if shared.missed_forget.load(Ordering::Relaxed) {
        connection.publish_forget(None).await?;
        shared.missed_forget.store(false, Ordering::Relaxed);
    }
    if shared.phase() == SyncPhase::Lost {
        // Messages to forget users were missed during the outage.
        (shared.local.on_forget)(Forgotten::Everyone);
    }
    while let Ok(push) = pushes.try_recv() {
        apply_message(shared, names, &push);
    }
    Ok(connection)
}

/// Reads the active restrictions, and notes which of them Redis lacks.
async fn read_all(shared: &SharedState, connection: &Connection) -> Result<(), RedisFailure> {
    let now = shared.now();
    // A restriction missed from here on may not be part of this read.
    let missed = shared.missed_restrictions.load(Ordering::Relaxed);
    let stored = connection.active().await?;
    let mut known = HashMap::with_capacity(stored.len());
    for restriction in stored {
        // Without room it counts as missed, and is read again later.
        let _ = shared.apply_stored(&restriction, now);
        known.insert(restriction.key(), restriction);
    }
    shared.recovered_restrictions.store(missed, Ordering::Release);
    // Redis may have room for those that wait for room here.
    for restriction in shared.local.restrictions.active(now).into_iter().chain(shared.local.restrictions.waiting()) {
        if known.get(&restriction.key()) != Some(&restriction) {
            // If this fails, no tokens are issued until there is room.
            let _ = shared.write_later(&restriction);
        }
    }
    Ok(())
}

/// Writes the restrictions that Redis lacks.
async fn write_restrictions(shared: &SharedState, connection: &Connection) -> Result<(), RedisFailure> {
    loop {
        let now = shared.now();
        let batch: Vec<(RestrictionKey, Restriction)> = {
            let unwritten = shared.unwritten();
            if unwritten.is_empty() {
                shared.redis_is_full.store(false, Ordering::Relaxed);
                return Ok(());
            }
            unwritten.iter().take(BATCH).map(|(key, restriction)| (key.clone(), restriction.clone())).collect()
        };
        let restrictions: Vec<_> = batch.iter().map(|(_, restriction)| restriction.clone()).collect();
        let known = match connection.record(&restrictions, now).await {
            Err(RedisFailure::Full) => {
                // Liftings can wait: nobody gets a token for lack of them.
                let unwritten = shared.unwritten();
                let lacks_active = unwritten.values().any(|restriction| restriction.terms().is_active(now));
                shared.redis_is_full.store(lacks_active, Ordering::Relaxed);
                return Ok(());
            }
            outcome => outcome?,
        };
        let mut unwritten = shared.unwritten();
        for (key, restriction) in &batch {
            if unwritten.get(key) == Some(restriction) {
                unwritten.remove(key);
            }
        }
        drop(unwritten);
        for restriction in known.iter().flatten() {
            // Redis had a newer one.
            if shared.local.restrictions.newer_than(restriction).is_none() {
                let _ = shared.apply_stored(restriction, now);
            }
        }
    }
}

/// Writes the tasks that this replica knows, in case Redis lacks them.
async fn write_tasks(shared: &SharedState, connection: &Connection) -> Result<(), RedisFailure> {
    for task in shared.local.tasks.all() {
        match connection.enqueue(&task).await {
            Err(RedisFailure::Full) => {
                shared.redis_lacks_tasks.store(true, Ordering::Relaxed);
                return Ok(());
            }
            outcome => outcome?,
        }
    }
    shared.redis_lacks_tasks.store(false, Ordering::Relaxed);
    Ok(())
}

/// Writes the live tokens that this replica knows, in case Redis lost them; again whenever Redis had no memory for one.
/// Returns only when the connection is lost.
async fn write_live_tokens(shared: &SharedState, connection: &Connection) -> RedisFailure {
    loop {
        for batch in shared.local.live_tokens.all(shared.now()).chunks(BATCH) {
            loop {
                match connection.put_live_tokens(batch, shared.now()).await {
                    Ok(()) => break,
                    Err(RedisFailure::Full) => time::sleep(HEARTBEAT).await,
                    Err(lost) => return lost,
                }
            }
        }
        shared.redis_lacks_live_tokens.notified().await;
    }
}

/// After an outage longer than a denial, reads the restrictions that came and expired during it: tokens that violate
/// them may live on. Returns only when the connection is lost.
async fn read_missed_restrictions(shared: &SharedState, connection: &Connection) -> RedisFailure {
    if shared.last_outage().has_unread() {
        let (mut cursor, mut pages) = (0, 0);
        loop {
            let (next, restrictions) = match connection.scan_recent(cursor).await {
                Ok(page) => page,
                Err(error) => return error,
            };
            let now = shared.now();
            for restriction in restrictions {
                // Without room it counts as missed, and is read again later.
                let _ = shared.apply_stored(&restriction, now);
            }
            pages += 1;
            if next == 0 {
                break;
            }
            if pages == MAX_PAGES {
                tracing::warn!(
                    "Redis has too many keys to read all restrictions from the outage: tokens issued during it despite \
                     a denial that has expired since may live until they expire"
                );
                break;
            }
            cursor = next;
        }
        shared.last_outage().mark_read();
    }
    future::pending().await
}

/// The periodic work of a connection. Returns only when the connection is lost.
async fn heartbeat(shared: &SharedState, connection: &Connection) -> RedisFailure {
    let mut ticks = time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = shared.now();
        shared.apply_waiting(now);
        if shared.misses_restrictions()
            && shared.local.restrictions.has_room(now)
            && let Err(error) = read_all(shared, connection).await
        {
            return error;
        }
        let outcome = match connection.backlog().await {
            Ok(backlog) => {
                shared.set_backlog(Some(backlog));
                write_restrictions(shared, connection).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            return error;
        }
        if shared.redis_lacks_tasks.load(Ordering::Relaxed)
            && let Err(error) = write_tasks(shared, connection).await
        {
            return error;
        }
        shared.local.tasks.remove_claimable_before(UnixMillis(now.0.saturating_sub(clock::millis(TASK_COPY_KEPT_FOR))));
    }
}

/// Applies the messages of other replicas. Returns only when the connection is lost, and says why.
async fn listen(shared: &SharedState, names: &Names, pushes: &mut UnboundedReceiver<PushInfo>) -> String {
    while let Some(push) = pushes.recv().await {
        if push.kind == PushKind::Disconnection {
            break;
        }
        apply_message(shared, names, &push);
    }
    "the connection was closed".to_owned()
}

fn apply_message(shared: &SharedState, names: &Names, push: &PushInfo) {
    let (PushKind::Message, [channel, message]) = (&push.kind, push.data.as_slice()) else { return };
    let (Ok(channel), Ok(message)) = (text(channel), text(message)) else { return };
    if channel == names.restrictions_channel() {
        if let Some(restriction) = decode(&message) {
            // Without room it counts as missed, and is read again later.
            let _ = shared.apply_stored(&restriction, shared.now());
        }
    } else if channel == names.forget_channel() {
        match decode_forget(&message) {
            Some((tenant, user)) => (shared.local.on_forget)(Forgotten::User(&tenant, &user)),
            None => (shared.local.on_forget)(Forgotten::Everyone),
        }
    } else if channel == names.done_channel() {
        shared.local.tasks.complete(&message);
    }
}

fn text(value: &Value) -> Result<String, ::redis::ParsingError> {
    String::from_redis_value_ref(value)
}
