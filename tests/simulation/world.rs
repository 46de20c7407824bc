//! What all parts of a schedule share: virtual time, randomness, and each other.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ably_clerk_auth::clock::UnixMillis;
use tokio::time::{Instant, sleep};

use crate::{
    ably::Ably, checker::Checker, clerk::Clerk, faults::FaultLog, network::Network, random::Random, redis::Redis,
    replica::Replicas,
};

const START: UnixMillis = UnixMillis(1_800_000_000_000);

pub(crate) struct World {
    started: Instant,
    random: Mutex<Random>,
    trace: Mutex<Option<Vec<String>>>,
    pub(crate) redis: Mutex<Redis>,
    pub(crate) network: Mutex<Network>,
    pub(crate) ably: Mutex<Ably>,
    pub(crate) clerk: Mutex<Clerk>,
    pub(crate) replicas: Mutex<Replicas>,
    pub(crate) checker: Mutex<Checker>,
    pub(crate) faults: Mutex<FaultLog>,
}

/// Whether a schedule keeps a trace of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracing {
    Off,
    On,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl World {
    /// A world that follows from a seed. Needs a runtime whose time is paused.
    pub(crate) fn new(seed: u64, tracing: Tracing) -> Arc<Self> {
        let mut random = Random::new(seed);
        let replicas = Replicas::new(&mut random);
        let max_ended = replicas.limits.ended_restrictions;
        Arc::new(Self {
            started: Instant::now(),
            trace: Mutex::new((tracing == Tracing::On).then(Vec::new)),
            redis: Mutex::new(Redis::new(&mut random, max_ended)),
            network: Mutex::new(Network::new(&mut random)),
            ably: Mutex::default(),
            clerk: Mutex::new(Clerk::new(&mut random)),
            checker: Mutex::new(Checker::new(max_ended)),
            replicas: Mutex::new(replicas),
            faults: Mutex::new(FaultLog::new()),
            random: Mutex::new(random),
        })
    }

    /// The true time.
    pub(crate) fn now(&self) -> UnixMillis {
        START.after(self.started.elapsed())
    }

    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut lock(&self.random))
    }

    /// Sleeps for this many milliseconds, not at all for none.
    pub(crate) async fn pause(&self, millis: u64) {
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
    }

    pub(crate) async fn sleep_until(&self, time: UnixMillis) {
        self.pause(u64::try_from(time.0 - self.now().0).unwrap_or(0)).await;
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut *lock(&self.trace) {
            let elapsed = self.now().0 - START.0;
            trace.push(format!("{:>4}.{:03} {}", elapsed / 1000, elapsed % 1000, line()));
        }
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        lock(&self.trace).take().unwrap_or_default()
    }
}
