//! The faults of a schedule, and how often each happened.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ably_clerk_auth::{
    clock::{self, UnixMillis},
    store::Health,
};
use futures_util::future;
use tokio::time::sleep;

use crate::{
    ably::AblyFault,
    moments,
    network::Line,
    random::Random,
    redis::NoWrites,
    replica::{self, REPLICAS},
    schedule, work,
    world::{World, lock},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    CommandsCut,
    ReaderCut,
    BothCut,
    /// Redis is away from all replicas, and returns with its data.
    RedisAway,
    LostPackets,
    LookUpsHang,
    SlowRedis,
    ReplicaCrash,
    Failover,
    OldMasterGoesOn,
    FailoverBehindProxy,
    RestartEmpty,
    RestartWithOlderData,
    OtherDataBehindProxy,
    PowerCut,
    LogTrimmed,
    OutOfMemory,
    ReadOnly,
    AblyCutFromOne,
    AblyUnreachable,
    AblySlow,
    AblyAnswersLost,
    AblyRateLimited,
    AblyRevokesSome,
    ClockSkew,
    /// Also of a line that was cut.
    LateWebhook,
    /// Also because the line was cut before the answer.
    RepeatedWebhook,
}

impl Fault {
    pub(crate) const ALL: [Self; 27] = [
        Self::CommandsCut,
        Self::ReaderCut,
        Self::BothCut,
        Self::RedisAway,
        Self::LostPackets,
        Self::LookUpsHang,
        Self::SlowRedis,
        Self::ReplicaCrash,
        Self::Failover,
        Self::OldMasterGoesOn,
        Self::FailoverBehindProxy,
        Self::RestartEmpty,
        Self::RestartWithOlderData,
        Self::OtherDataBehindProxy,
        Self::PowerCut,
        Self::LogTrimmed,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::AblyCutFromOne,
        Self::AblyUnreachable,
        Self::AblySlow,
        Self::AblyAnswersLost,
        Self::AblyRateLimited,
        Self::AblyRevokesSome,
        Self::ClockSkew,
        Self::LateWebhook,
        Self::RepeatedWebhook,
    ];

    /// Those that happen at a time of their own: all but the last three.
    const TIMED: &[Self] = Self::ALL.split_at(Self::ALL.len() - 3).0;
}

pub(crate) struct FaultLog {
    pub(crate) happened: BTreeSet<Fault>,
    /// When replicas could not rely on Redis or on each other.
    spans: Vec<(UnixMillis, UnixMillis)>,
    /// When a replica, or every replica, could not use Redis at all.
    outages: Vec<(Option<usize>, UnixMillis, UnixMillis)>,
    until: UnixMillis,
    /// Whether look-ups hang again after all faults have ended.
    pub(crate) do_look_ups_hang_late: bool,
}

impl FaultLog {
    /// How long after the last fault every replica works again.
    const RECOVERY: Duration = Duration::from_secs(5);
    /// How long what one replica was told takes to the others.
    const SPREAD: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self {
            happened: BTreeSet::new(),
            spans: Vec::new(),
            outages: Vec::new(),
            until: UnixMillis(0),
            do_look_ups_hang_late: false,
        }
    }

    /// Whether all faults have ended.
    pub(crate) fn are_over(&self, now: UnixMillis) -> bool {
        self.until <= now
    }

    pub(crate) fn note(&mut self, fault: Fault) {
        self.happened.insert(fault);
    }

    pub(crate) fn disturb(&mut self, from: UnixMillis, to: UnixMillis) {
        self.spans.push((from, to));
    }

    /// From when on there was no disturbance before `time`.
    fn calm_since(&self, time: UnixMillis) -> Option<UnixMillis> {
        let before = self.spans.iter().filter(|(from, _)| *from <= time);
        let last = before.map(|(_, to)| *to).max().unwrap_or(UnixMillis(0));
        let calm = last.after(Self::RECOVERY);
        (calm <= time).then_some(calm)
    }

    /// Whether a replica has surely been without Redis since `since`, and has had the time to find out.
    pub(crate) fn is_without_redis(&self, replica: usize, since: UnixMillis, time: UnixMillis) -> bool {
        const NOTICED_WITHIN: Duration = Duration::from_secs(2);
        self.outages.iter().any(|(whose, from, to)| {
            whose.is_none_or(|number| number == replica) && since.max(*from).after(NOTICED_WITHIN) <= time && time < *to
        })
    }

    /// Whether a replica that started at `started` has had no Redis until `time`.
    pub(crate) fn is_starting_without_redis(&self, replica: usize, started: UnixMillis, time: UnixMillis) -> bool {
        self.outages
            .iter()
            .any(|(whose, from, to)| whose.is_none_or(|number| number == replica) && *from <= started && time < *to)
    }

    /// Whether replicas could not rely on Redis or on each other at some time.
    pub(crate) fn is_disturbed(&self, from: UnixMillis, to: UnixMillis) -> bool {
        self.spans.iter().any(|(start, end)| *start <= to && from <= *end)
    }

    /// The same, or replicas still recovered from that.
    pub(crate) fn is_disturbed_or_recovering(&self, from: UnixMillis, to: UnixMillis) -> bool {
        self.is_disturbed(UnixMillis(from.0 - clock::millis(Self::RECOVERY)), to)
    }

    /// Whether every replica works at `time`.
    pub(crate) fn is_calm(&self, time: UnixMillis) -> bool {
        self.calm_since(time).is_some()
    }

    /// Whether every replica has heard by `time` what was answered at `answered`.
    pub(crate) fn is_heard_by_all(&self, answered: UnixMillis, time: UnixMillis) -> bool {
        self.calm_since(time).is_some_and(|calm| calm.max(answered).after(Self::SPREAD) <= time)
    }
}

/// Causes faults until `until`, in a schedule of a length. All have ended then.
pub(crate) fn cause(world: &Arc<World>, until: UnixMillis, length: Duration) {
    lock(&world.faults).until = until;
    let count = world.random(|random| random.within(1..6));
    for _ in 0..count {
        tokio::spawn(cause_one(Arc::clone(world), length));
    }
}

/// After all other faults, Ably cannot be used for a while, or look-ups hang, at every replica. Returns until when.
pub(crate) fn fail_late(world: &Arc<World>) -> UnixMillis {
    const LOOK_UPS_HANG: Duration = Duration::from_secs(30);
    /// Longer than a task waits for the queue.
    const ABLY_FAILS: Duration = Duration::from_secs(90);
    let now = world.now();
    let is_ably = world.random(|random| random.percent(50));
    let end = now.after(if is_ably { ABLY_FAILS } else { LOOK_UPS_HANG });
    if is_ably {
        fail_ably_now(world, end);
        tokio::spawn(work::give_late(Arc::clone(world)));
    } else {
        world.trace(|| "fault: look-ups hang at all replicas".into());
        let mut faults = lock(&world.faults);
        faults.note(Fault::LookUpsHang);
        faults.disturb(now, end);
        faults.do_look_ups_hang_late = true;
        (0..REPLICAS).for_each(|number| lock(&world.network).hang_look_ups(number, end));
    }
    end
}

async fn cause_one(world: Arc<World>, length: Duration) {
    /// Long enough for both revocations.
    const MINUTES: Duration = Duration::from_secs(175);
    let until = world.now().after(length);
    let (fault, start, lasts, number) = world.random(|random| {
        let is_long = schedule::is_long(length) && random.percent(50);
        let length = u64::try_from(length.as_millis()).unwrap();
        let start = random.within(0..if is_long { length / 6 } else { length * 9 / 10 });
        let longest = random.pick(&[700, 3000, 15_000, 70_000]);
        let lasts = if is_long { random.within(150_000..length) } else { random.within(50..longest) };
        let lasts = lasts.min(length - start);
        let is_cut = is_long && random.percent(65);
        let fault =
            random.pick(if is_cut { &[Fault::CommandsCut, Fault::BothCut, Fault::RedisAway] } else { Fault::TIMED });
        (fault, start, lasts, random.index(REPLICAS))
    });
    if fault == Fault::RestartWithOlderData {
        world.pause(start / 2).await;
        lock(&world.redis).save();
        world.pause(start - start / 2).await;
    } else {
        world.pause(start).await;
    }
    let is_cut_for_minutes = fault == Fault::BothCut && Duration::from_millis(lasts) >= MINUTES;
    let losing = if is_cut_for_minutes { moments::is_about_to_be_cut_off(&world, number).await } else { None };
    let now = world.now();
    let end = until.min(now.after(Duration::from_millis(lasts)));
    if let Some(losing) = losing {
        tokio::spawn(moments::is_issued_again(Arc::clone(&world), number, losing, end));
    }
    lock(&world.faults).note(fault);
    world.trace(|| format!("fault: {fault:?} for {lasts} ms (replica {number})"));
    if !matches!(
        fault,
        Fault::AblyCutFromOne
            | Fault::AblyUnreachable
            | Fault::AblySlow
            | Fault::AblyAnswersLost
            | Fault::AblyRateLimited
            | Fault::AblyRevokesSome
    ) {
        lock(&world.faults).disturb(now, end);
    }
    match fault {
        Fault::CommandsCut | Fault::BothCut | Fault::PowerCut => {
            lock(&world.faults).outages.push((Some(number), now, end));
        }
        Fault::OutOfMemory | Fault::ReadOnly | Fault::RedisAway => {
            lock(&world.faults).outages.push((None, now, end));
        }
        _ => {}
    }
    match fault {
        Fault::CommandsCut => cut_off(&world, number, &[Line::Commands], end).await,
        Fault::ReaderCut => lock(&world.network).cut(number, Line::Reader, end),
        Fault::BothCut => cut_off(&world, number, &Line::ALL, end).await,
        Fault::RedisAway => {
            let cuts = (0..REPLICAS).map(|number| cut_off(&world, number, &Line::ALL, end));
            future::join_all(cuts).await;
        }
        Fault::LostPackets => {
            for line in Line::ALL {
                lock(&world.network).lose_packets(number, line, end);
            }
        }
        Fault::LookUpsHang => lock(&world.network).hang_look_ups(number, end),
        Fault::SlowRedis => lock(&world.network).slow_down(end),
        Fault::ReplicaCrash => crash_and_start(&world, number, lasts, until),
        Fault::PowerCut => cut_power(&world, number, lasts, end).await,
        Fault::Failover => fail_over(&world, lag(&world)),
        Fault::FailoverBehindProxy => fail_over_behind_proxy(&world, now).await,
        Fault::OtherDataBehindProxy => {
            let (lag, id) = (lag(&world), world.random(Random::next));
            lock(&world.redis).replace_behind_proxy(lag, id, now);
            lose_data(&world);
        }
        Fault::OldMasterGoesOn => fail_over_and_leave_master(&world, now, lasts, end).await,
        Fault::RestartEmpty => {
            lock(&world.redis).restart_empty();
            lose_data(&world);
        }
        Fault::RestartWithOlderData => {
            lock(&world.redis).restart_with_older_data();
            lose_data(&world);
        }
        Fault::LogTrimmed => lock(&world.redis).trim(end),
        Fault::OutOfMemory => lock(&world.redis).refuse_writes(NoWrites::OutOfMemory, end),
        Fault::ReadOnly => lock(&world.redis).refuse_writes(NoWrites::ReadOnly, end),
        Fault::AblyCutFromOne => lock(&world.ably).fail(AblyFault::Unreachable, Some(number), end),
        Fault::AblyUnreachable => lock(&world.ably).fail(AblyFault::Unreachable, None, end),
        Fault::AblySlow => lock(&world.ably).fail(AblyFault::Slow, None, end),
        Fault::AblyAnswersLost => lock(&world.ably).fail(AblyFault::AnswersLost, None, end),
        Fault::AblyRateLimited => lock(&world.ably).fail(AblyFault::RateLimited, None, end),
        Fault::AblyRevokesSome => lock(&world.ably).fail(AblyFault::RevokesSome, None, end),
        Fault::ClockSkew | Fault::LateWebhook | Fault::RepeatedWebhook => unreachable!("not timed"),
    }
}

/// Cuts off a replica from Redis until `end`.
async fn cut_off(world: &Arc<World>, number: usize, lines: &[Line], end: UnixMillis) {
    let now = world.now();
    for line in lines {
        lock(&world.network).cut(number, *line, end);
    }
    moments::is_cut_off(world, number, end);
    world.sleep_until(UnixMillis(end.0 - 1)).await;
    check_own_revocations(world, number, now);
}

/// Cuts off a replica at a certain moment.
pub(crate) fn cut_off_now(world: &World, number: usize, end: UnixMillis) {
    lock(&world.faults).note(Fault::BothCut);
    world.trace(|| format!("fault: replica {number} is cut off until {}", end.0));
    take_redis_away(world, number, end);
}

/// A replica has no Redis until `end`.
fn take_redis_away(world: &World, number: usize, end: UnixMillis) {
    let now = world.now();
    for line in Line::ALL {
        lock(&world.network).cut(number, line, end);
    }
    let mut faults = lock(&world.faults);
    faults.disturb(now, end);
    faults.outages.push((Some(number), now, end));
}

/// Ably cannot be used from a certain moment on.
pub(crate) fn fail_ably_now(world: &World, end: UnixMillis) {
    world.trace(|| format!("fault: Ably cannot be used until {}", end.0));
    lock(&world.faults).note(Fault::AblyUnreachable);
    lock(&world.ably).fail(AblyFault::Unreachable, None, end);
}

/// Redis loses its data, and all replicas restart but one, which is cut off.
async fn cut_power(world: &Arc<World>, number: usize, lasts: u64, end: UnixMillis) {
    for line in Line::ALL {
        lock(&world.network).cut(number, line, end);
    }
    lock(&world.redis).restart_empty();
    let others = (0..REPLICAS).filter(|other| *other != number);
    let crashed: Vec<_> = others.filter(|other| crash(world, *other)).collect();
    lose_data(world);
    world.pause(100.min(lasts)).await;
    for other in crashed {
        replica::start(world, other);
    }
    moments::are_tokens_lost(world);
}

async fn fail_over_behind_proxy(world: &World, now: UnixMillis) {
    /// Replicas see by the log that it happened: the last entry that they have read is lost.
    const READ_WITHIN: Duration = Duration::from_secs(1);
    let lag = lag(world) + READ_WITHIN + Duration::from_millis(1);
    lock(&world.faults).disturb(now, now.after(3 * READ_WITHIN));
    let read = lock(&world.redis).append_any(now);
    sleep(READ_WITHIN).await;
    let mut redis = lock(&world.redis);
    // Else another fault was faster.
    let happens = redis.has_entry(read) && redis.fail_over_behind_proxy(read, lag, world.now());
    drop(redis);
    if happens {
        lose_data(world);
    }
}

/// Some connections lead to the old master, some to the new one.
async fn fail_over_and_leave_master(world: &World, now: UnixMillis, lasts: u64, end: UnixMillis) {
    let lag = if world.random(|random| random.percent(50)) { Duration::ZERO } else { lag(world) };
    let old = lock(&world.redis).fail_over(lag, now);
    let new = lock(&world.redis).master;
    lock(&world.checker).splits(now);
    for number in 0..REPLICAS {
        for line in Line::ALL {
            if world.random(|random| random.percent(50)) {
                lock(&world.network).lead_to_old_master(number, line, old, now, end);
            }
        }
        if world.random(|random| random.percent(75)) {
            lock(&world.network).reset(number, now);
        }
    }
    world.pause(lasts - 1).await;
    check_splits(world, [old, new]);
    world.pause(1).await;
    lock(&world.redis).stop(old);
    lock(&world.checker).is_united();
    lose_data(world);
}

fn lag(world: &World) -> Duration {
    Duration::from_millis(world.random(|random| random.pick(&[0, 10, 500, 5000, 55_000])))
}

/// Whether the replica was running.
fn crash(world: &World, number: usize) -> bool {
    let crashed = lock(&world.replicas).crash(number);
    if let Some(run) = &crashed {
        lock(&world.checker).crashed(run.run);
    }
    crashed.is_some()
}

fn crash_and_start(world: &Arc<World>, number: usize, lasts: u64, until: UnixMillis) {
    if crash(world, number) {
        find_lost(world);
        let world = Arc::clone(world);
        tokio::spawn(async move {
            world.pause(lasts).await;
            start_maybe_without_redis(&world, number, until);
        });
    }
}

/// A replica crashes at a certain moment.
pub(crate) fn crash_now(world: &Arc<World>, number: usize) {
    let (now, lasts) = (world.now(), world.random(|random| random.within(50..3000)));
    let until = {
        let mut faults = lock(&world.faults);
        faults.note(Fault::ReplicaCrash);
        faults.disturb(now, now.after(Duration::from_millis(lasts)));
        faults.until
    };
    world.trace(|| format!("fault: replica {number} crashes for {lasts} ms"));
    crash_and_start(world, number, lasts, until);
}

fn fail_over(world: &World, lag: Duration) {
    let mut redis = lock(&world.redis);
    let old = redis.fail_over(lag, world.now());
    redis.stop(old);
    drop(redis);
    lose_data(world);
}

/// A failover at a certain moment. It loses the writes of the last `lag`.
pub(crate) fn fail_over_now(world: &World, lag: Duration) {
    let now = world.now();
    let mut faults = lock(&world.faults);
    faults.note(Fault::Failover);
    faults.disturb(now, now);
    drop(faults);
    world.trace(|| format!("fault: failover that loses {lag:?}"));
    fail_over(world, lag);
}

/// Starts a replica, which sometimes cannot reach Redis at first.
fn start_maybe_without_redis(world: &Arc<World>, number: usize, until: UnixMillis) {
    let now = world.now();
    let lasts = world.random(|random| random.pick(&[0, 0, 400, 4000]));
    let end = until.min(now.after(Duration::from_millis(lasts)));
    if now < end {
        take_redis_away(world, number, end);
    }
    replica::start(world, number);
}

/// A replica whose two connections lead to different data must know.
fn check_splits(world: &World, nodes: [usize; 2]) {
    const NOTICED_WITHIN_MS: i64 = 4000;
    let now = world.now();
    let redis = lock(&world.redis);
    for replica in lock(&world.replicas).running() {
        let split = lock(&world.network).split(replica.number, redis.master, now);
        let [commands, reader] =
            split.filter(|split| nodes.iter().all(|node| split.contains(node))).unwrap_or_default();
        let is_other = redis.has_more(commands, reader, UnixMillis(now.0 - NOTICED_WITHIN_MS));
        if is_other
            && lock(&world.network).is_split_since(replica.number, UnixMillis(now.0 - NOTICED_WITHIN_MS))
            && replica.store.health() == Health::Ready
        {
            let violation =
                format!("5: replica {} does not see that its connections have different data", replica.number);
            lock(&world.checker).violations.push(violation);
        }
    }
}

/// A replica that has had no Redis since `since` must have performed its tasks, unless Ably failed.
fn check_own_revocations(world: &World, number: usize, since: UnixMillis) {
    let ably = lock(&world.ably);
    let run = lock(&world.replicas).running().find(|run| run.number == number).map(|run| run.run);
    if let Some(run) = run.filter(|_| !ably.has_failed()) {
        const NOTICED_WITHIN: Duration = Duration::from_secs(2);
        let since = since.after(NOTICED_WITHIN);
        lock(&world.checker).check_own_revocations(&ably.revoked, run, since, world.now());
    }
}

/// Redis has lost data.
fn lose_data(world: &World) {
    lock(&world.checker).loses_data(world.now());
    find_lost(world);
}

/// What was lost for good, the checker must know.
fn find_lost(world: &World) {
    let redis = lock(&world.redis);
    let running: BTreeSet<usize> = lock(&world.replicas).running().map(|run| run.run).collect();
    lock(&world.checker).find_lost(&redis, &running);
}
