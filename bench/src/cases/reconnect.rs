//! All clients of a restarted service connect at once and ask for a token.

use std::time::Instant;

use anyhow::Result;

use super::{Bench, Values, once};
use crate::load::{End, Expected, Load, Pace, to_f64};

const CLIENTS: usize = 1000;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Values> {
    let running = bench.start(&[], "")?;
    let requests = once(bench.stand_ins.unique()?);
    let start = Instant::now();
    let mut clients = Load::open(running.process.address(), CLIENTS, &requests, Expected::TokenRequest)?;
    let slice = clients.run(Pace::Closed, End::AfterRequests(CLIENTS))?;
    let elapsed = start.elapsed();
    Ok(vec![
        ("until all have an answer", "ms", elapsed.as_secs_f64() * 1000.0),
        ("p99, from the request", "ms", slice.latency_us(0.99) / 1000.0),
        ("refusals", "", to_f64(slice.failures)),
    ])
}
