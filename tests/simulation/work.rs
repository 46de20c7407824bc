//! Tasks that the schedule itself stores, to see that each is performed: each revokes a client ID that nobody has. As soon
//! as one is done, another replica often stores it again, with a later due time.

use std::{sync::Arc, time::Duration};

use ably_clerk_auth::{clock::UnixMillis, store::StoredTask};

use crate::{
    moments,
    replica::{Run, TENANTS},
    world::{World, lock},
};

const PREFIX: &str = "work-";

/// The client ID that a task revokes.
pub(crate) fn client_id(number: usize) -> String {
    format!("{PREFIX}{number}")
}

pub(crate) fn is_client_id(client_id: &str) -> bool {
    client_id.starts_with(PREFIX)
}

fn number_of(client_id: &str) -> Option<usize> {
    client_id.strip_prefix(PREFIX)?.parse().ok()
}

/// Stores tasks until `until`, in some schedules.
pub(crate) async fn give(world: Arc<World>, until: UnixMillis) {
    let (has_any, pauses) = world.random(|random| (random.percent(40), random.pick(&[1000, 3000])));
    let mut number = 0;
    if !has_any {
        return;
    }
    loop {
        world.pause(world.random(|random| random.within(100..pauses))).await;
        if world.now() >= until {
            return;
        }
        if let Some(replica) = world.random(|random| lock(&world.replicas).any(random)) {
            let due = replica.clock(world.now()).after(later(&world));
            lock(&world.checker).stores(replica.run, number);
            store(&world, &replica, number, due).await;
            number += 1;
        }
    }
}

/// Stores one more, due when Ably cannot be used. All other faults have ended, so it is not stored again.
pub(crate) async fn give_late(world: Arc<World>) {
    const NUMBER: usize = 1_000_000;
    if let Some(replica) = world.random(|random| lock(&world.replicas).any(random)) {
        let due = replica.clock(world.now()).after(later(&world));
        store(&world, &replica, NUMBER, due).await;
    }
}

fn later(world: &World) -> Duration {
    Duration::from_millis(world.random(|random| random.pick(&[500, 2000, 8000])))
}

/// A task is done. A replica that has not stored it yet may store it again. One that has may still know it, with its first
/// due time.
pub(crate) fn is_done(world: &Arc<World>, id: &str, due: UnixMillis) {
    let Some(number) = number_of(id) else { return };
    let any = world.random(|random| lock(&world.replicas).any(random));
    let any = any.filter(|_| !lock(&world.faults).are_over(world.now()));
    if let Some(replica) = any.filter(|run| lock(&world.checker).stores(run.run, number)) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let due = due.max(replica.clock(world.now())).after(later(&world));
            store(&world, &replica, number, due).await;
            moments::is_stored_again(&world, replica.number);
        });
    }
}

/// A run performs a task, which is not its own. It may be told to store the task again.
pub(crate) fn is_being_done(world: &Arc<World>, run: usize, id: &str) {
    let Some(number) = number_of(id) else { return };
    let replica = lock(&world.replicas).running().find(|running| running.run == run).cloned();
    let Some(replica) = replica.filter(|_| world.random(|random| random.percent(30))) else { return };
    if !lock(&world.faults).are_over(world.now()) && lock(&world.checker).stores(run, number) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let due = replica.clock(world.now()).after(later(&world));
            store(&world, &replica, number, due).await;
        });
    }
}

async fn store(world: &Arc<World>, replica: &Run, number: usize, due: UnixMillis) {
    let from = world.now();
    let keys = lock(&world.replicas).keys_of(replica.number);
    let payload = serde_json::json!({
        "tenant": TENANTS[0],
        "scope": { "client_id": client_id(number) },
        "unrevoked": [{ "key": keys[0], "target": { "client_id": client_id(number) } }],
        "at": 0,
        "denials": [],
        "due": due.0,
        "until": due.after(Duration::from_hours(1)).0,
    });
    let task = StoredTask { id: client_id(number), due, payload: payload.to_string() };
    let keeper = Arc::clone(&replica.store);
    let stored = replica.run_until_crash(async move { keeper.record(&[], &[task], from).await }).await;
    if stored.is_some() && lock(&world.replicas).is_running(replica.run) {
        lock(&world.checker).work_is_given(number, replica.run, due, from);
    }
}
