//! Few users and many users, with as many session tokens.

use anyhow::Result;

use super::{Bench, USERS, Values, cpu_us, megabytes, once};
use crate::{
    load::{End, Expected, Load, Requests},
    measure::CONNECTIONS,
    targets::Companion,
};

pub(super) fn measure(bench: &Bench<'_>) -> Result<Values> {
    let (few, few_bytes) = cost(bench, Companion::None, &[], &once(bench.stand_ins.of_ten_users()?))?;
    let many_users = once(bench.stand_ins.unique()?);
    let (many, many_bytes) = cost(bench, Companion::None, &[], &many_users)?;
    let revocable = &[("ABLY_REVOCABLE_TOKENS", "true")];
    let (_, revocable_bytes) = cost(bench, Companion::None, revocable, &many_users)?;
    let (_, shared_bytes) = cost(bench, Companion::Redis, revocable, &many_users)?;
    Ok(vec![
        ("CPU for each request, 10 users", "us", few),
        ("CPU for each request, 100,000 users", "us", many),
        ("ratio", "", many / few),
        ("resident memory, 10 users", "MB", megabytes(few_bytes)),
        ("resident memory, 100,000 users", "MB", megabytes(many_bytes)),
        ("resident memory, 100,000 users with live tokens", "MB", megabytes(revocable_bytes)),
        ("resident memory, 100,000 users with live tokens, and Redis", "MB", megabytes(shared_bytes)),
    ])
}

/// The CPU time for each request, in microseconds, and the resident memory after that.
fn cost(bench: &Bench<'_>, companion: Companion, changes: &[(&str, &str)], requests: &Requests) -> Result<(f64, u64)> {
    let running = bench.start_beside(companion, changes, "")?;
    let mut load = Load::open(running.process.address(), CONNECTIONS, requests, Expected::TokenRequest)?;
    let cpu_us = cpu_us(&running.process, &mut load, End::AfterRequests(USERS))?;
    Ok((cpu_us, running.process.resident_bytes()?))
}
