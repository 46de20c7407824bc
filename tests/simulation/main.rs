//! A deterministic simulation: three replicas of the real service around a simulated Redis, Ably, Clerk, an operator and
//! clients, with faults of every kind. Each schedule follows from one number, its seed.
//!
//! `SIMULATION_SCHEDULES` is how many schedules run, `SIMULATION_SEED` the one seed to run again, with its trace, and
//! `SIMULATION_SECONDS` for how long to go on.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints what happened")]

mod ably;
mod agreement;
mod checker;
mod clerk;
mod clients;
mod faults;
mod moments;
mod network;
mod node;
mod operator;
mod random;
mod redis;
mod replica;
mod schedule;
mod work;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    faults::Fault,
    schedule::{Report, run},
    world::{Tracing, lock},
};

const FIRST_SEED: u64 = 1;
const SCHEDULES: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// How often each fault, and each pair of faults, happened in a schedule.
#[derive(Default)]
struct Coverage(BTreeMap<(Fault, Fault), u64>);

impl Coverage {
    fn add(&mut self, happened: &BTreeSet<Fault>) {
        for one in happened {
            for other in happened.range(one..) {
                *self.0.entry((*one, *other)).or_default() += 1;
            }
        }
    }

    fn count(&self, one: Fault, other: Fault) -> u64 {
        self.0.get(&(one, other)).copied().unwrap_or(0)
    }

    fn print(&self) {
        println!("schedules with each fault, and with each pair:");
        for (number, one) in Fault::ALL.into_iter().enumerate() {
            let pairs = Fault::ALL[number + 1..].iter().map(|other| format!("{other:?} {}", self.count(one, *other)));
            println!("{one:?} {}: {}", self.count(one, one), pairs.collect::<Vec<_>>().join(", "));
        }
    }

    fn missing(&self) -> Vec<(Fault, Fault)> {
        let pairs = Fault::ALL
            .iter()
            .enumerate()
            .flat_map(|(number, one)| Fault::ALL[number..].iter().map(move |other| (*one, *other)));
        pairs.filter(|(one, other)| self.count(*one, *other) == 0).collect()
    }
}

/// Held by each test: which lines of the service's log reach a trace depends on who else listens in this process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn every_promise_holds_in_every_schedule() {
    let _alone = lock(&ONE_AT_A_TIME);
    if let Some(seed) = number("SIMULATION_SEED") {
        let Report { violations, trace, .. } = run(seed, Tracing::On);
        println!("{}", trace.join("\n"));
        assert_eq!(violations, Vec::<String>::new(), "seed {seed}");
        return;
    }
    let until = number("SIMULATION_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let count = number("SIMULATION_SCHEDULES").unwrap_or(if until.is_some() { u64::MAX } else { SCHEDULES });
    // A soak begins elsewhere each time, beyond the seeds of the default run.
    let first_seed = if until.is_some() { rand::random_range(1_000_000..u64::from(u32::MAX)) } else { FIRST_SEED };
    let (done, coverage, failed) = (AtomicU64::new(0), Mutex::<Coverage>::default(), Mutex::new(BTreeMap::new()));
    thread::scope(|threads| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                loop {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    let is_time_over = until.is_some_and(|until| Instant::now() > until);
                    if number >= count || is_time_over || lock(&failed).len() >= 5 {
                        return;
                    }
                    let seed = first_seed + number;
                    let Report { happened, violations, .. } = run(seed, Tracing::Off);
                    lock(&coverage).add(&happened);
                    if !violations.is_empty() {
                        lock(&failed).insert(seed, violations);
                    }
                }
            });
        }
    });
    let (coverage, failed) = (coverage.into_inner().unwrap(), failed.into_inner().unwrap());
    for (seed, violations) in &failed {
        println!("SIMULATION_SEED={seed} fails:\n{}", violations.join("\n"));
    }
    if let Some(seed) = failed.keys().next() {
        println!("{}", run(*seed, Tracing::On).trace.join("\n"));
    }
    println!("seeds from {first_seed}");
    coverage.print();
    assert_eq!(failed.keys().collect::<Vec<_>>(), Vec::<&u64>::new(), "seeds that fail");
    if count >= SCHEDULES && until.is_none() {
        assert_eq!(coverage.missing(), Vec::new(), "faults and pairs that never happened");
    }
}

#[test]
fn a_schedule_follows_from_its_seed() {
    let _alone = lock(&ONE_AT_A_TIME);
    for seed in 1..20 {
        let (one, other) = (run(seed, Tracing::On), run(seed, Tracing::On));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}
