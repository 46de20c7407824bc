//! How long the parts of a token request take, without HTTP.
//!
//! `cargo bench` runs all, `cargo bench --bench micro -- policy` those with `policy` in their name.
#![expect(clippy::unwrap_used, reason = "a bench whose set-up fails must stop")]

mod capability;
mod fixtures;
mod issue;
mod policy;
mod signing;
mod users;
mod verify;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Bencher, criterion_group, criterion_main};

criterion_group!(
    benches,
    capability::benches,
    issue::benches,
    policy::benches,
    signing::benches,
    users::benches,
    verify::benches
);
criterion_main!(benches);

/// Times `act` with each input once. Before any input comes again, `make` makes a new subject, which is not timed.
fn with_each_once<S, I, O>(bencher: &mut Bencher<'_>, inputs: &[I], make: impl Fn() -> S, act: impl Fn(&S, &I) -> O) {
    bencher.iter_custom(|iterations| {
        let (mut left, mut elapsed) = (usize::try_from(iterations).unwrap(), Duration::ZERO);
        while left > 0 {
            let subject = make();
            let inputs = &inputs[..left.min(inputs.len())];
            let begun_at = Instant::now();
            for input in inputs {
                black_box(act(&subject, black_box(input)));
            }
            elapsed += begun_at.elapsed();
            left -= inputs.len();
        }
        elapsed
    });
}
