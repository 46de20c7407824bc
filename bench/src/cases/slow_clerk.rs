//! Clerk takes seconds for each look-up, while users whose names are cached get their tokens.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Values, once, open};
use crate::{
    load::{End, Expected, Load, Order, Pace, Requests},
    stand_ins::LOOKED_UP_USERS,
    targets::WarmUp,
};

const DELAY: Duration = Duration::from_secs(2);

pub(super) fn measure(bench: &Bench<'_>) -> Result<Values> {
    /// How many users a second are looked up at the slow Clerk.
    const LOOK_UPS: f64 = 50.0;
    /// Enough for all that wait: a look-up is given up after some seconds.
    const WAITING: usize = 1000;
    let running = bench.start(&[], "")?;
    let cached = Requests::with_tokens(bench.stand_ins.without_username()?, Order::Cycle(LOOKED_UP_USERS));
    let unknown = once(bench.stand_ins.of_unknown_users()?);
    let mut users = open(&running.process, &cached, WarmUp::Users(LOOKED_UP_USERS))?;
    let mut others = Load::open(running.process.address(), WAITING, &unknown, Expected::TokenRequest)?;
    let fast = bench.saturate(&mut users)?;
    let half = Pace::Open(fast.rate() / 2.0);
    let fast_half = users.run(half, End::After(bench.duration))?.without_failures()?;
    bench.stand_ins.clerk.set_delay(DELAY);
    // What becomes of the others does not matter here.
    let slow = users.run_beside(Pace::Closed, bench.duration, &mut others, Pace::Open(LOOK_UPS));
    let slow_half = users.run_beside(half, bench.duration, &mut others, Pace::Open(LOOK_UPS));
    bench.stand_ins.clerk.set_delay(Duration::ZERO);
    let (slow, _) = slow?;
    let (slow_half, _) = slow_half?;
    Ok(vec![
        ("cached users, Clerk fast, at saturation", "requests/s", fast.rate()),
        ("cached users, Clerk slow, at saturation", "requests/s", slow.without_failures()?.rate()),
        ("cached users, Clerk fast, at half load: p99", "us", fast_half.latency_us(0.99)),
        ("cached users, Clerk slow, at half load: p99", "us", slow_half.without_failures()?.latency_us(0.99)),
    ])
}
