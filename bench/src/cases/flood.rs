//! Strangers send tokens with unknown key IDs while users get their tokens.

use std::sync::Arc;

use anyhow::Result;

use super::{Bench, Values, open};
use crate::{
    load::{End, Expected, Load, Order, Pace, Requests},
    measure::{CONNECTIONS, WARM_UP},
    tokens::with_unknown_kid,
};

pub(super) fn measure(bench: &Bench<'_>) -> Result<Values> {
    let running = bench.start(&[], "")?;
    let normal = bench.normal_requests()?;
    let forged = Arc::new(bench.stand_ins.unique()?.map(10_000, with_unknown_kid));
    let tokens = forged.len();
    let flood = Requests::with_tokens(forged, Order::Cycle(tokens));
    let mut users = open(&running.process, &normal, WARM_UP)?;
    let mut strangers = Load::open(running.process.address(), CONNECTIONS, &flood, Expected::Unauthorized)?;
    let fastest = bench.saturate(&mut users)?;
    // A third of what the service can do, for each: both together leave it some time.
    let rate = Pace::Open(fastest.rate() / 3.0);
    let alone = users.run(rate, End::After(bench.duration))?.without_failures()?;
    let (beside, refused) = users.run_beside(rate, bench.duration, &mut strangers, rate)?;
    let (flooded, refused_too) = users.run_beside(Pace::Closed, bench.duration, &mut strangers, rate)?;
    refused.without_failures()?;
    refused_too.without_failures()?;
    Ok(vec![
        ("users alone, at saturation", "requests/s", fastest.rate()),
        ("users with the flood, at saturation", "requests/s", flooded.without_failures()?.rate()),
        ("users alone, at a third: p99", "us", alone.latency_us(0.99)),
        ("users with the flood, at a third each: p99", "us", beside.without_failures()?.latency_us(0.99)),
    ])
}
