//! Keeps what this replica knows and what is in Redis the same.

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
    link::{Link, Names, RedisFailure, decode, decode_drop},
    shared::{Phase, Shared},
};
use crate::clock::{self, UnixMillis};

/// How often Redis is asked whether it is there, and given what it lacks.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long after a loss the first attempt comes, and how long the pauses between attempts become.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));
/// How long a connection must hold for an outage to be over. A Redis that fails again at once is not asked more often, nor
/// told of more often, than one that cannot be reached.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// How many restrictions or live_tokens go to Redis at once: so few that it needs but a part of its time to answer.
const BATCH: usize = 100;
/// How many pages of keys are looked through for what was said in an absence: some ten million keys.
const MOST_PAGES: usize = 20_000;
/// For how long after it was due a copy of work is kept that Redis has too.
const WORK_KEPT_FOR: Duration = Duration::from_mins(10);

/// An outage of Redis. It lasts until a connection has held for [`STEADY_AFTER`], however many are made meanwhile.
struct Outage {
    /// How long to wait before the next attempt.
    pause: Duration,
    /// What was told of it: each reason is told once.
    told: Vec<String>,
}

impl Outage {
    const NONE: Self = Self { pause: PAUSES.0, told: Vec::new() };

    fn next_pause(&mut self) -> Duration {
        let (_, longest) = PAUSES;
        let next = longest.min(self.pause * 2);
        mem::replace(&mut self.pause, next)
    }
}

/// Connects, and connects again, for good.
pub(super) async fn keep(shared: Arc<Shared>, client: Client, names: Names, address: String) {
    let mut outage = Outage::NONE;
    loop {
        let reason = in_step(&shared, &client, &names, &address, &mut outage).await;
        shared.link.store(None);
        shared.hear_backlog(None);
        shared.fall_out();
        if !outage.told.contains(&reason) {
            tracing::warn!(redis = address, reason, "Redis cannot be used");
            outage.told.push(reason);
        }
        time::sleep(outage.next_pause()).await;
    }
}

/// One connection, from its making to its loss. Returns why it was lost.
async fn in_step(shared: &Shared, client: &Client, names: &Names, address: &str, outage: &mut Outage) -> String {
    let (pushed, mut pushes) = mpsc::unbounded_channel();
    let (broken, mut breaks) = mpsc::channel(1);
    let first = shared.phase() == Phase::Starting;
    let link = match catch_up(shared, client, names, pushed, broken, &mut pushes).await {
        Ok(link) => link,
        Err(trouble) => return trouble.reason(),
    };
    shared.fall_in();
    if first && let Some(policy) = link.evicts_by().await {
        tracing::warn!(
            redis = address,
            policy,
            "this Redis drops keys when its memory is full: denials or live tokens can get lost; set its \
             maxmemory-policy to noeviction"
        );
    }
    let hold = async {
        if !first {
            time::sleep(STEADY_AFTER).await;
        }
        tracing::info!(redis = address, "in step with Redis");
        *outage = Outage::NONE;
        future::pending::<Infallible>().await
    };
    tokio::select! {
        never = hold => match never {},
        reason = listen(shared, names, &mut pushes) => reason,
        Some(reason) = breaks.recv() => reason,
        trouble = beat(shared, &link) => trouble.reason(),
        trouble = write_grants(shared, &link) => trouble.reason(),
        trouble = read_what_was_said(shared, &link) => trouble.reason(),
    }
}

/// Subscribes, reads all that holds, and writes what Redis lacks.
async fn catch_up(
    shared: &Shared,
    client: &Client,
    names: &Names,
    pushed: mpsc::UnboundedSender<PushInfo>,
    broken: mpsc::Sender<String>,
    pushes: &mut UnboundedReceiver<PushInfo>,
) -> Result<Arc<Link>, RedisFailure> {
    let link = Arc::new(Link::open(client, names.clone(), pushed, broken).await?);
    // From here on what is learned goes to Redis: no gap between what is written back below and what comes.
    shared.link.store(Some(Arc::clone(&link)));
    read_all(shared, &link).await?;
    write_facts(shared, &link).await?;
    write_work(shared, &link).await?;
    if shared.missed_a_drop.load(Ordering::Relaxed) {
        link.publish_drop(None).await?;
        shared.missed_a_drop.store(false, Ordering::Relaxed);
    }
    if shared.phase() == Phase::Away {
        // What others said of users meanwhile was not heard.
        (shared.local.on_forget)(Forgotten::Everyone);
    }
    while let Ok(push) = pushes.try_recv() {
        heed(shared, names, &push);
    }
    Ok(link)
}

/// Learns all that holds, and finds out what Redis lacks of it.
async fn read_all(shared: &Shared, link: &Link) -> Result<(), RedisFailure> {
    let now = shared.now();
    // What is missed from here on may come too late to be among what is read.
    let missed = shared.missed_facts.load(Ordering::Relaxed);
    let there = link.holding().await?;
    let mut known = HashMap::with_capacity(there.len());
    for restriction in there {
        // One that there is no room for is missed, and tried again.
        let _ = shared.hear(&restriction, now);
        known.insert(restriction.key(), restriction);
    }
    shared.regained_facts.store(missed, Ordering::Release);
    // What waits for room here Redis may have room for.
    for restriction in shared.local.restrictions.active(now).into_iter().chain(shared.local.restrictions.waiting()) {
        if known.get(&restriction.key()) != Some(&restriction) {
            // Without room to note it, there are no tokens until there is.
            let _ = shared.write_later(&restriction);
        }
    }
    Ok(())
}

/// Gives Redis the restrictions that it lacks.
async fn write_facts(shared: &Shared, link: &Link) -> Result<(), RedisFailure> {
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
        let known = match link.record(&restrictions, now).await {
            Err(RedisFailure::Full) => {
                // What refuses nobody can wait without anybody being let in.
                let unwritten = shared.unwritten();
                let lacks_a_refusal = unwritten.values().any(|restriction| restriction.terms().is_active(now));
                shared.redis_is_full.store(lacks_a_refusal, Ordering::Relaxed);
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
            // What is newer there than here is news.
            if shared.local.restrictions.newer_than(restriction).is_none() {
                let _ = shared.hear(restriction, now);
            }
        }
    }
}

/// Gives Redis the work that this replica knows, in case it lacks it.
async fn write_work(shared: &Shared, link: &Link) -> Result<(), RedisFailure> {
    for waiting in shared.local.tasks.all() {
        match link.enqueue(&waiting).await {
            Err(RedisFailure::Full) => {
                shared.work_refused.store(true, Ordering::Relaxed);
                return Ok(());
            }
            outcome => outcome?,
        }
    }
    shared.work_refused.store(false, Ordering::Relaxed);
    Ok(())
}

/// Gives Redis the live_tokens that this replica knows, in case it has lost them, and again whenever it had no memory for one.
/// Returns only when the connection is lost.
async fn write_grants(shared: &Shared, link: &Link) -> RedisFailure {
    loop {
        for batch in shared.local.live_tokens.all(shared.now()).chunks(BATCH) {
            loop {
                match link.put_grants(batch, shared.now()).await {
                    Ok(()) => break,
                    Err(RedisFailure::Full) => time::sleep(HEARTBEAT).await,
                    Err(lost) => return lost,
                }
            }
        }
        shared.grant_refused.notified().await;
    }
}

/// After an absence that outlasts a denial, reads what was said in it and is over by now: tokens that were issued
/// meanwhile live on. Returns only when the connection is lost.
async fn read_what_was_said(shared: &Shared, link: &Link) -> RedisFailure {
    if shared.absence().has_unread() {
        let (mut cursor, mut pages) = (0, 0);
        loop {
            let (next, restrictions) = match link.said(cursor).await {
                Ok(page) => page,
                Err(trouble) => return trouble,
            };
            let now = shared.now();
            for restriction in restrictions {
                // One that there is no room for is missed, and tried again.
                let _ = shared.hear(&restriction, now);
            }
            pages += 1;
            if next == 0 {
                break;
            }
            if pages == MOST_PAGES {
                tracing::warn!(
                    "Redis has so many keys that not all was read that was said while it could not be used: tokens that \
                     were issued meanwhile against a denial that is over by now may live until they end"
                );
                break;
            }
            cursor = next;
        }
        shared.absence().was_read();
    }
    future::pending().await
}

/// Does what is to be done again and again. Returns only when the connection is lost.
async fn beat(shared: &Shared, link: &Link) -> RedisFailure {
    let mut beats = time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let now = shared.now();
        shared.apply_waiting(now);
        if shared.misses_facts()
            && shared.local.restrictions.has_room(now)
            && let Err(trouble) = read_all(shared, link).await
        {
            return trouble;
        }
        let outcome = match link.backlog().await {
            Ok(backlog) => {
                shared.hear_backlog(Some(backlog));
                write_facts(shared, link).await
            }
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = outcome {
            return trouble;
        }
        if shared.work_refused.load(Ordering::Relaxed)
            && let Err(trouble) = write_work(shared, link).await
        {
            return trouble;
        }
        shared.local.tasks.remove_claimable_before(UnixMillis(now.0.saturating_sub(clock::millis(WORK_KEPT_FOR))));
    }
}

/// Heeds what replicas tell each other. Returns only when the connection is lost.
async fn listen(shared: &Shared, names: &Names, pushes: &mut UnboundedReceiver<PushInfo>) -> String {
    while let Some(push) = pushes.recv().await {
        if push.kind == PushKind::Disconnection {
            break;
        }
        heed(shared, names, &push);
    }
    "the connection was closed".to_owned()
}

fn heed(shared: &Shared, names: &Names, push: &PushInfo) {
    let (PushKind::Message, [channel, message]) = (&push.kind, push.data.as_slice()) else { return };
    let (Ok(channel), Ok(message)) = (text(channel), text(message)) else { return };
    if channel == names.facts_channel() {
        if let Some(restriction) = decode(&message) {
            // One that there is no room for is missed, and read again when there is.
            let _ = shared.hear(&restriction, shared.now());
        }
    } else if channel == names.drops_channel() {
        match decode_drop(&message) {
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
