//! A small policy and a large one.

use anyhow::Result;

use super::{Bench, Values, cpu_us, once, open};
use crate::{load::End, measure::WARM_UP, programs::policy};

pub(super) fn measure(bench: &Bench<'_>) -> Result<Values> {
    let one = cost(bench, &policy(1, 1))?;
    let ten = cost(bench, &policy(10, 10))?;
    let thousand = cost(bench, &policy(1000, 10))?;
    Ok(vec![
        ("CPU for each request, 1 rule", "us", one),
        ("CPU for each request, 10 rules that match", "us", ten),
        ("CPU for each request, 1,000 rules", "us", thousand),
        ("ratio of 1,000 rules to 1", "", thousand / one),
    ])
}

fn cost(bench: &Bench<'_>, toml: &str) -> Result<f64> {
    let running = bench.start(&[], toml)?;
    let requests = once(bench.stand_ins.unique()?);
    let mut load = open(&running.process, &requests, WARM_UP)?;
    cpu_us(&running.process, &mut load, End::After(bench.duration))
}
