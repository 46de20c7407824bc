//! What happens at the very moment at which it can do harm:
//! - Clients that a restriction concerns ask a replica that has just connected, or as soon as it is recorded.
//! - While a replica scans what is recorded, something happens to the holder of a token of its own, or its connections close.
//! - Something happens to whoever gets a token from a replica without Redis, also while it has none for minutes.
//! - A replica crashes, or a failover loses what it wrote, as soon as Redis has it.
//! - An older event arrives while a newer one of its user is being recorded.
//! - A look-up hangs.
//! - A task is put back late: meanwhile another replica has performed it, and it is stored again.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use ably_clerk_auth::{
    ably::TokenFormat,
    clock::UnixMillis,
    store::{Restriction, StoredTask, Subject},
};

use crate::{
    clerk, clients, faults,
    redis::is_active,
    replica::{REPLICAS, Run, TENANTS},
    work,
    world::{World, lock},
};

/// Whether it happens, in so many of 100 cases.
fn happens(world: &World, percent: u64) -> bool {
    world.random(|random| random.percent(percent)) && !lock(&world.faults).are_over(world.now())
}

/// A replica starts, or connects.
pub(crate) fn connects(world: &Arc<World>, number: usize) {
    if happens(world, 25) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let restriction = if world.random(|random| random.percent(60)) { any_in_force(&world) } else { None };
            ask(world, number, restriction).await;
        });
    }
}

/// One of the newest restrictions that are recorded and in force.
fn any_in_force(world: &World) -> Option<Restriction> {
    const NEWEST: usize = 4;
    let now = world.now();
    let redis = lock(&world.redis);
    let mut in_force: Vec<_> = redis.master().data.rows.values().filter(|row| is_active(row, now)).collect();
    in_force.sort_by_key(|row| Reverse(row.at));
    in_force.truncate(NEWEST);
    (!in_force.is_empty()).then(|| world.random(|random| random.pick(&in_force)).clone())
}

/// A restriction is recorded.
pub(crate) fn is_recorded(world: &Arc<World>, restriction: &Restriction) {
    if happens(world, 20) {
        let number = world.random(|random| random.index(REPLICAS));
        tokio::spawn(ask(Arc::clone(world), number, Some(restriction.clone())));
    }
}

/// A replica looks up live tokens. Whether the answer never comes, while other commands find that the connection is closed.
pub(crate) fn look_up_hangs(world: &Arc<World>, number: usize) -> bool {
    let now = world.now();
    let hangs = lock(&world.network).look_ups_hang(number, now) && world.random(|random| random.percent(60));
    if hangs {
        lock(&world.network).reset(number, now);
        tokio::spawn(ask(Arc::clone(world), number, None));
    }
    hangs
}

/// A run scans the recorded restrictions: it has read another page.
pub(crate) fn has_scanned(world: &Arc<World>, number: usize, run: usize) {
    if happens(world, 5) {
        let now = world.now();
        lock(&world.faults).disturb(now, now);
        lock(&world.network).reset(number, now);
    }
    let Some(last) = lock(&world.checker).last_token_of(run) else { return };
    if happens(world, 25) {
        happens_to(world, tenant_number(last.tenant.as_str()), last.session);
    }
}

/// Redis has what a replica wrote that is not ready yet, most likely what it learned in an outage.
pub(crate) fn is_recorded_late(world: &Arc<World>, number: usize) {
    if happens(world, 10) {
        faults::crash_now(world, number);
    }
}

/// Redis has tasks that a replica stored at the end of its return. Soon the replica crashes, or a failover loses them.
pub(crate) fn are_late_tasks_stored(world: &Arc<World>, number: usize) {
    if happens(world, 20) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            world.pause(world.random(|random| random.within(1..300))).await;
            if world.random(|random| random.percent(50)) {
                faults::crash_now(&world, number);
            } else {
                faults::fail_over_now(&world);
            }
        });
    }
}

/// A replica has stored a task of the schedule that others may be performing. It may crash.
pub(crate) fn is_stored_again(world: &Arc<World>, number: usize) {
    if happens(world, 10) {
        faults::crash_now(world, number);
    }
}

/// A replica issues a token for a session while it has no Redis. Something may happen to the session or its user.
pub(crate) fn issues_alone(world: &Arc<World>, tenant: usize, session: &str) {
    if happens(world, 10) {
        happens_to(world, tenant, session.to_owned());
    }
}

/// A replica is cut off from Redis until `end`. If that is longer than the pause before the second revocation, it issues
/// tokens to sessions that had none, and they end: it is told, or another one is.
pub(crate) fn is_cut_off(world: &Arc<World>, number: usize, end: UnixMillis) {
    const SECOND_AFTER: Duration = Duration::from_secs(165);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        world.pause(world.random(|random| random.within(2500..8000))).await;
        while world.now().after(SECOND_AFTER) < end {
            let run = lock(&world.replicas).running().find(|run: &&Run| run.number == number).cloned();
            let unknown = sessions_without_tokens(&world);
            let (Some(run), false) = (run, unknown.is_empty()) else { return };
            let (tenant, session) = world.random(|random| random.pick(&unknown));
            clients::ask_with_new(&world, run, tenant, session);
            world.pause(world.random(|random| random.within(20..3000))).await;
            let told = world.random(|random| {
                let is_it = random.percent(30);
                let replicas = lock(&world.replicas);
                let told: Vec<_> = replicas.running().filter(|run| (run.number == number) == is_it).cloned().collect();
                (!told.is_empty()).then(|| random.pick(&told))
            });
            tokio::spawn(clerk::session_ends(Arc::clone(&world), tenant, session, told));
            world.pause(world.random(|random| random.within(2000..20_000))).await;
        }
    });
}

/// The sessions, by tenant, whose tokens are revoked only if they are known, and for which none is registered.
fn sessions_without_tokens(world: &World) -> Vec<(usize, usize)> {
    let formats = lock(&world.replicas).formats;
    let (clerk, checker) = (lock(&world.clerk), lock(&world.checker));
    let tenants = (0..TENANTS.len()).filter(|tenant| formats[*tenant] != TokenFormat::Jwt);
    let sessions = tenants.flat_map(|tenant| (0..clerk.session_count()).map(move |session| (tenant, session)));
    let is_without = |(tenant, session): &(usize, usize)| {
        !checker.has_registered(TENANTS[*tenant], clerk.session_id(*tenant, *session))
    };
    sessions.filter(is_without).collect()
}

/// A replica puts back a task of the schedule that it could not perform. It may wait until the task is stored again.
pub(crate) async fn puts_back(world: &World, task: &StoredTask) {
    const MOST_SECONDS: usize = 40;
    let is_stored_again = || {
        let redis = lock(&world.redis);
        redis.master().data.tasks.get(&task.id).is_some_and(|(known, _)| known.due > task.due)
    };
    if work::is_client_id(&task.id) && happens(world, 50) {
        for _ in 0..MOST_SECONDS {
            if is_stored_again() || lock(&world.faults).are_over(world.now()) {
                return;
            }
            world.pause(1000).await;
        }
    }
}

/// A run begins to record restrictions. It is told an older event that waited for this.
pub(crate) fn records(world: &World, run: usize, restrictions: &[Restriction]) {
    let run = lock(&world.replicas).running().find(|running| running.run == run).cloned();
    if let Some(run) = run {
        lock(&world.clerk).is_recording(restrictions, &run);
    }
}

/// Something happens to a session or its user.
fn happens_to(world: &Arc<World>, tenant: usize, session: String) {
    let sessions = lock(&world.clerk).sessions_of(tenant, &Subject::Session(session));
    for session in sessions {
        tokio::spawn(clerk::happens(Arc::clone(world), tenant, session));
    }
}

fn tenant_number(name: &str) -> usize {
    TENANTS.iter().position(|known| *known == name).unwrap()
}

/// Clients ask a replica for some tokens: any clients, or those that a restriction concerns.
async fn ask(world: Arc<World>, number: usize, restriction: Option<Restriction>) {
    let spread = world.random(|random| random.pick(&[4, 4, 30, 300]));
    for _ in 0..4 {
        world.pause(world.random(|random| random.within(0..spread))).await;
        let run = lock(&world.replicas).running().find(|run: &&Run| run.number == number).cloned();
        let Some(run) = run else { continue };
        let Some(Restriction { tenant, subject, .. }) = &restriction else {
            clients::ask_for_any(&world, run);
            continue;
        };
        let tenant = tenant_number(tenant.as_str());
        let sessions = lock(&world.clerk).sessions_of(tenant, subject);
        if !sessions.is_empty() {
            clients::ask_again(&world, run, tenant, world.random(|random| random.pick(&sessions)));
        }
    }
}
