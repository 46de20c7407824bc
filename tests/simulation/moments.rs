//! What happens at the very moment at which it can do harm: clients ask a replica that has just connected, or as soon as
//! something is recorded; something is recorded just after a replica has scanned what is recorded; a look-up hangs.

use std::sync::Arc;

use crate::{
    clerk, clients,
    replica::{Run, TENANTS},
    world::{World, lock},
};

/// A replica starts, or connects.
pub(crate) fn connects(world: &Arc<World>, number: usize) {
    let is_likely = world.random(|random| random.percent(25));
    if is_likely && !lock(&world.faults).are_over(world.now()) {
        let spread = world.random(|random| random.pick(&[4, 30, 300]));
        tokio::spawn(ask(Arc::clone(world), number, None, spread));
    }
}

/// A restriction of a tenant is recorded.
pub(crate) fn is_recorded(world: &Arc<World>, tenant: &str) {
    let is_likely = world.random(|random| random.percent(15));
    if is_likely && !lock(&world.faults).are_over(world.now()) {
        let tenant = TENANTS.iter().position(|name| *name == tenant);
        let number = world.random(|random| random.index(crate::replica::REPLICAS));
        let spread = world.random(|random| random.pick(&[4, 30, 300]));
        tokio::spawn(ask(Arc::clone(world), number, tenant, spread));
    }
}

/// A replica looks up live tokens. Whether the answer never comes, while other commands find that the connection is closed.
pub(crate) fn look_up_hangs(world: &Arc<World>, number: usize) -> bool {
    let now = world.now();
    let hangs = lock(&world.network).is_lossy(number, now) && world.random(|random| random.percent(40));
    if hangs {
        lock(&world.network).reset(number, now);
        tokio::spawn(ask(Arc::clone(world), number, None, 10));
    }
    hangs
}

/// A replica has scanned the recorded restrictions.
pub(crate) fn has_scanned(world: &Arc<World>) {
    let is_likely = world.random(|random| random.percent(15));
    if is_likely && !lock(&world.faults).are_over(world.now()) {
        tokio::spawn(clerk::happens(Arc::clone(world)));
    }
}

/// Clients ask a replica for some tokens.
async fn ask(world: Arc<World>, number: usize, tenant: Option<usize>, spread: u64) {
    for _ in 0..4 {
        world.pause(world.random(|random| random.within(0..spread))).await;
        let run = lock(&world.replicas).running().find(|run: &&Run| run.number == number).cloned();
        if let Some(run) = run {
            clients::ask_for_any(&world, run, tenant);
        }
    }
}
