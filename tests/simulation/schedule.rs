//! One schedule, from its seed to its report.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use ably_clerk_auth::store::Health;
use tokio::runtime::Builder;

use crate::{
    agreement, clerk, clients,
    faults::{self, Fault},
    moments, operator,
    replica::{self, REPLICAS, Run},
    work,
    world::{Tracing, World, lock},
};

pub(crate) struct Report {
    pub(crate) happened: BTreeSet<Fault>,
    /// The broken promises.
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
}

/// How long things happen in a schedule.
const SHORT: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(80)];
/// In some, long enough for the second revocation. Then less happens at a time.
const LONG: Duration = Duration::from_mins(5);

pub(crate) fn is_long(length: Duration) -> bool {
    length >= LONG
}

/// Writes the log of the service into the trace.
struct LogWriter(Arc<World>);

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.trace(|| format!("log: {}", String::from_utf8_lossy(line).trim_end()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a schedule on a runtime of its own, whose time is virtual.
pub(crate) fn run(seed: u64, tracing: Tracing) -> Report {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let report = runtime.block_on(run_schedule(seed, tracing));
    runtime.shutdown_background();
    report
}

async fn run_schedule(seed: u64, tracing: Tracing) -> Report {
    /// From the start of the replicas until they are ready.
    const START: Duration = Duration::from_secs(3);
    /// From the end of the faults until every replica has recovered and every webhook got through.
    const RECOVERY: Duration = Duration::from_secs(20);
    /// From then on until all first revocations are made: the queue pauses for a minute at most.
    const FIRST_REVOCATIONS: Duration = Duration::from_secs(70);
    /// From the end of the recovery, or of the late fault, until the second revocation is made, with what may have delayed it.
    const SETTLING: Duration = Duration::from_mins(4);
    /// From the end until shortly before the second revocations of what happened in its last seconds are due.
    const LATE_FAULT_AFTER: Duration = Duration::from_secs(135);
    let world = World::new(seed, tracing);
    let _logging = (tracing == Tracing::On).then(|| {
        let writer = LogWriter(Arc::clone(&world));
        let subscriber = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
        tracing::subscriber::set_default(subscriber.with_writer(Mutex::new(writer)).finish())
    });
    let start = world.now();
    lock(&world.faults).disturb(start, start);
    if lock(&world.replicas).are_clocks_skewed() {
        lock(&world.faults).note(Fault::ClockSkew);
    }
    (0..REPLICAS).for_each(|number| replica::start(&world, number));
    world.sleep_until(start.after(START)).await;
    let length = world.random(|random| if random.within(0..10) == 0 { LONG } else { random.pick(&SHORT) });
    let end = world.now().after(length);
    tokio::spawn(clerk::live(Arc::clone(&world), end, length));
    tokio::spawn(operator::work(Arc::clone(&world), end, length));
    tokio::spawn(work::give(Arc::clone(&world), end));
    tokio::spawn(clients::ask(Arc::clone(&world), end.after(RECOVERY), length));
    tokio::spawn(clients::refresh(Arc::clone(&world), end));
    faults::cause(&world, end, length);
    let has_late_fault = world.random(|random| random.percent(20));
    if has_late_fault {
        tokio::spawn(moments::end_unknown_sessions(Arc::clone(&world), end));
    }
    world.sleep_until(end.after(RECOVERY)).await;
    world.trace(|| "all faults have ended".into());
    lock(&world.network).calm_down();
    clients::probe(&world);
    agreement::check(&world);
    world.sleep_until(end.after(RECOVERY + FIRST_REVOCATIONS)).await;
    let revoked = lock(&world.ably).revoked.clone();
    // A look-up that fails is made again when the second revocation is due.
    if !lock(&world.faults).happened.contains(&Fault::LookUpsHang) {
        lock(&world.checker).check_first_revocations(&revoked, end, world.now());
    }
    let mut settled = end.after(RECOVERY + SETTLING);
    if has_late_fault {
        world.sleep_until(end.after(LATE_FAULT_AFTER)).await;
        check_in_time(&world);
        let ended = faults::fail_late(&world);
        world.sleep_until(ended.after(RECOVERY)).await;
        settled = ended.after(SETTLING);
    }
    while world.now() < settled && has_tasks(&world) {
        world.pause(5000).await;
    }
    world.pause(2000).await;
    clients::probe(&world);
    agreement::check(&world);
    agreement::check_limit(&world);
    check(&world);
    let happened = lock(&world.faults).happened.clone();
    let violations = lock(&world.checker).violations.clone();
    // They own the world that owns them.
    (0..REPLICAS).for_each(|number| _ = lock(&world.replicas).crash(number));
    Report { happened, violations, trace: world.take_trace() }
}

/// Whether Redis or a replica has tasks.
fn has_tasks(world: &World) -> bool {
    let now = world.now();
    let has_own = |run: &Run| run.store.stats(run.clock(now)).tasks.count > 0;
    !lock(&world.redis).master().data.tasks.is_empty() || lock(&world.replicas).running().any(has_own)
}

/// Checks what was revoked in time, unless Ably failed.
fn check_in_time(world: &World) {
    let (now, ably) = (world.now(), lock(&world.ably));
    if !ably.has_failed() {
        let mut checker = lock(&world.checker);
        checker.check_answers(&ably.revoked, &lock(&world.faults));
        checker.check_second_revocations(&ably.revoked, &lock(&world.faults), now);
    }
}

/// Checks what must be true at the end.
fn check(world: &World) {
    check_in_time(world);
    let now = world.now();
    let redis = lock(&world.redis);
    let ably = lock(&world.ably);
    let mut checker = lock(&world.checker);
    let replicas = lock(&world.replicas);
    let running = replicas.running().map(|run| run.run).collect();
    checker.finish(&redis, &ably.revoked, &lock(&world.faults), &running, now);
    for replica in replicas.running() {
        let stats = replica.store.stats(replica.clock(now));
        let is_at_rest = replica.store.health() == Health::Ready
            && stats.tasks.count == 0
            && stats.live_tokens <= replicas.limits.live_tokens;
        if !is_at_rest {
            checker.violations.push(format!("5: replica {} is not at rest: {stats:?}", replica.number));
        }
    }
    if replicas.running().count() < REPLICAS {
        checker.violations.push("5: a replica is not running".into());
    }
    // Each telling during an outage is one more call. Look-ups that hang late are losses, and each return revokes again, with each
    // key.
    let after_losses = if lock(&world.faults).do_look_ups_hang_late { 300 * replicas.keys_of(0).len() } else { 0 };
    let most = 40 + 20 * (checker.statement_count() + checker.work_count()) + checker.tellings + after_losses;
    if ably.calls > most {
        checker.violations.push(format!("4: {} calls to Ably, more than {most}", ably.calls));
    }
}
