//! Many clients keep their connections open and send nothing, while others get tokens.

use anyhow::Result;

use super::{Bench, Values, megabytes, open};
use crate::{
    load::{End, Expected, Load, Pace},
    measure::WARM_UP,
};

const IDLE: usize = 10_000;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Values> {
    /// Few enough that none waits for a permit.
    const AT_ONCE: usize = 200;
    let running = bench.start(&[("LIMITS_CONNECTIONS", "20000")], "")?;
    let process = &running.process;
    let requests = bench.normal_requests()?;
    let mut load = open(process, &requests, WARM_UP)?;
    let rate = Pace::Open(bench.saturate(&mut load)?.rate() / 2.0);
    let alone = load.run(rate, End::After(bench.duration))?.without_failures()?;
    let before = process.resident_bytes()?;
    let mut idle = Vec::new();
    for _ in 0..IDLE / AT_ONCE {
        let mut clients = Load::open(process.address(), AT_ONCE, &requests, Expected::TokenRequest)?;
        clients.run(Pace::Closed, End::AfterRequests(AT_ONCE))?.without_failures()?;
        idle.push(clients);
    }
    let after = process.resident_bytes()?;
    let beside = load.run(rate, End::After(bench.duration))?.without_failures()?;
    let growth = megabytes(after.saturating_sub(before));
    Ok(vec![
        ("resident memory without them", "MB", megabytes(before)),
        ("resident memory with them", "MB", megabytes(after)),
        ("memory for 1,000 connections", "MB", growth / 10.0),
        ("half load without them: p99", "us", alone.latency_us(0.99)),
        ("half load with them: p99", "us", beside.latency_us(0.99)),
    ])
}
