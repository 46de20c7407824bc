//! The faults of a schedule, and how often each happened.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ably_clerk_auth::clock::UnixMillis;

use crate::{
    ably::AblyFault,
    network::Line,
    redis::NoWrites,
    replica::{self, REPLICAS},
    world::{World, lock},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    CommandsCut,
    ReaderCut,
    BothCut,
    LostPackets,
    SlowRedis,
    ReplicaCrash,
    Failover,
    OldMasterGoesOn,
    RestartEmpty,
    RestartWithOlderData,
    LogTrimmed,
    OutOfMemory,
    ReadOnly,
    AblyUnreachable,
    AblySlow,
    AblyAnswersLost,
    AblyRateLimited,
    ClockSkew,
    LateWebhook,
    RepeatedWebhook,
}

impl Fault {
    pub(crate) const ALL: [Self; 20] = [
        Self::CommandsCut,
        Self::ReaderCut,
        Self::BothCut,
        Self::LostPackets,
        Self::SlowRedis,
        Self::ReplicaCrash,
        Self::Failover,
        Self::OldMasterGoesOn,
        Self::RestartEmpty,
        Self::RestartWithOlderData,
        Self::LogTrimmed,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::AblyUnreachable,
        Self::AblySlow,
        Self::AblyAnswersLost,
        Self::AblyRateLimited,
        Self::ClockSkew,
        Self::LateWebhook,
        Self::RepeatedWebhook,
    ];

    /// Those that happen at a time of their own.
    const TIMED: [Self; 17] = [
        Self::CommandsCut,
        Self::ReaderCut,
        Self::BothCut,
        Self::LostPackets,
        Self::SlowRedis,
        Self::ReplicaCrash,
        Self::Failover,
        Self::OldMasterGoesOn,
        Self::RestartEmpty,
        Self::RestartWithOlderData,
        Self::LogTrimmed,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::AblyUnreachable,
        Self::AblySlow,
        Self::AblyAnswersLost,
        Self::AblyRateLimited,
    ];
}

#[derive(Default)]
pub(crate) struct FaultLog {
    pub(crate) happened: BTreeSet<Fault>,
    /// When replicas could not rely on Redis or on each other.
    spans: Vec<(UnixMillis, UnixMillis)>,
    /// When a replica, or every replica, could not use Redis at all.
    outages: Vec<(Option<usize>, UnixMillis, UnixMillis)>,
}

impl FaultLog {
    /// How long after the last fault every replica works again.
    const RECOVERY: Duration = Duration::from_secs(5);
    /// How long what one replica was told takes to the others.
    const SPREAD: Duration = Duration::from_secs(1);

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

    /// Whether every replica works at `time`.
    pub(crate) fn is_calm(&self, time: UnixMillis) -> bool {
        self.calm_since(time).is_some()
    }

    /// Whether every replica has heard by `time` what was answered at `answered`.
    pub(crate) fn is_heard_by_all(&self, answered: UnixMillis, time: UnixMillis) -> bool {
        self.calm_since(time).is_some_and(|calm| calm.max(answered).after(Self::SPREAD) <= time)
    }
}

/// Causes faults until `until`. All have ended then.
pub(crate) fn cause(world: &Arc<World>, until: UnixMillis) {
    let count = world.random(|random| random.within(1..6));
    for _ in 0..count {
        tokio::spawn(cause_one(Arc::clone(world), until));
    }
}

async fn cause_one(world: Arc<World>, until: UnixMillis) {
    let length = u64::try_from(until.0 - world.now().0).unwrap();
    let (fault, start, lasts, number) = world.random(|random| {
        let start = random.within(0..length * 9 / 10);
        let longest = random.pick(&[700, 3000, 15_000, 70_000]);
        let lasts = random.within(50..longest).min(length - start);
        (random.pick(&Fault::TIMED), start, lasts, random.index(REPLICAS))
    });
    if fault == Fault::RestartWithOlderData {
        world.pause(start / 2).await;
        lock(&world.redis).save();
        world.pause(start - start / 2).await;
    } else {
        world.pause(start).await;
    }
    let now = world.now();
    let end = now.after(Duration::from_millis(lasts));
    lock(&world.faults).note(fault);
    world.trace(|| format!("fault: {fault:?} for {lasts} ms (replica {number})"));
    if !matches!(fault, Fault::AblyUnreachable | Fault::AblySlow | Fault::AblyAnswersLost | Fault::AblyRateLimited) {
        lock(&world.faults).disturb(now, end);
    }
    match fault {
        Fault::CommandsCut | Fault::BothCut => lock(&world.faults).outages.push((Some(number), now, end)),
        Fault::OutOfMemory | Fault::ReadOnly => lock(&world.faults).outages.push((None, now, end)),
        _ => {}
    }
    match fault {
        Fault::CommandsCut => lock(&world.network).cut(number, Line::Commands, end),
        Fault::ReaderCut => lock(&world.network).cut(number, Line::Reader, end),
        Fault::BothCut => Line::ALL.into_iter().for_each(|line| lock(&world.network).cut(number, line, end)),
        Fault::LostPackets => {
            for line in Line::ALL {
                lock(&world.network).lose_packets(number, line, end);
            }
        }
        Fault::SlowRedis => lock(&world.network).slow_down(end),
        Fault::ReplicaCrash => {
            let crashed = lock(&world.replicas).crash(number);
            if let Some(run) = crashed {
                lock(&world.checker).crashed(run);
                sweep(&world);
                world.pause(lasts).await;
                replica::start(&world, number);
            }
        }
        Fault::Failover => {
            let lag = lag(&world);
            let mut redis = lock(&world.redis);
            let old = redis.fail_over(lag, now);
            redis.stop(old);
            drop(redis);
            sweep(&world);
        }
        Fault::OldMasterGoesOn => {
            let lag = lag(&world);
            let old = lock(&world.redis).fail_over(lag, now);
            for number in 0..REPLICAS {
                for line in Line::ALL {
                    if world.random(|random| random.percent(50)) {
                        lock(&world.network).lead_to_old_master(number, line, old, end);
                    }
                }
            }
            world.pause(lasts).await;
            lock(&world.redis).stop(old);
            sweep(&world);
        }
        Fault::RestartEmpty => {
            lock(&world.redis).restart_empty();
            sweep(&world);
        }
        Fault::RestartWithOlderData => {
            lock(&world.redis).restart_with_older_data();
            sweep(&world);
        }
        Fault::LogTrimmed => lock(&world.redis).trim(),
        Fault::OutOfMemory => lock(&world.redis).refuse_writes(NoWrites::OutOfMemory, end),
        Fault::ReadOnly => lock(&world.redis).refuse_writes(NoWrites::ReadOnly, end),
        Fault::AblyUnreachable => lock(&world.ably).fail(AblyFault::Unreachable, end),
        Fault::AblySlow => lock(&world.ably).fail(AblyFault::Slow, end),
        Fault::AblyAnswersLost => lock(&world.ably).fail(AblyFault::AnswersLost, end),
        Fault::AblyRateLimited => lock(&world.ably).fail(AblyFault::RateLimited, end),
        Fault::ClockSkew | Fault::LateWebhook | Fault::RepeatedWebhook => unreachable!("not timed"),
    }
}

fn lag(world: &World) -> Duration {
    Duration::from_millis(world.random(|random| random.pick(&[0, 10, 500, 5000])))
}

/// What was lost for good, the checker must know.
fn sweep(world: &World) {
    let redis = lock(&world.redis);
    let running: BTreeSet<usize> = lock(&world.replicas).running().map(|run| run.run).collect();
    lock(&world.checker).sweep(&redis, &running, world.now());
}
