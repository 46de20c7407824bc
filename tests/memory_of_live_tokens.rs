//! The memory that live tokens take in the service, counted by the allocator. One test: other tests would be counted too.

#![expect(clippy::print_stdout, reason = "the figure is printed")]

use std::{alloc::System, sync::Arc, time::Duration};

use ably_clerk_auth::{
    ably::TokenFormat,
    clock::UnixMillis,
    store::{LiveToken, Store, StoreLimits},
    tenant::TenantName,
};
use futures_util::FutureExt as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TOKENS: usize = 20_000;
const MOST_BYTES_PER_TOKEN: usize = 200;

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// One for each user, with IDs as long as Clerk's. Half of the users have an active organization.
fn live_token(number: usize, issued_at: UnixMillis) -> LiveToken {
    LiveToken {
        tenant: TenantName::default(),
        user: format!("user_{number:027}"),
        session: format!("sess_{number:027}"),
        organization: number.is_multiple_of(2).then(|| format!("org_{number:027}")),
        client_id: format!("{number:0digits$}", digits = 5 + number % 16),
        format: TokenFormat::default(),
        until: issued_at.after(Duration::from_hours(1)),
    }
}

#[test]
fn a_live_token_takes_at_most_200_bytes_however_often_it_is_extended() {
    let store = Store::in_memory(&StoreLimits::default(), Arc::new(|_| {}));
    let start = UnixMillis(1_800_000_000_000);
    let before = allocated();
    for round in 0..3 {
        for number in 0..TOKENS {
            let now = start.after(Duration::from_mins(50 * round));
            store.put_live_token(live_token(number, now), now).now_or_never().unwrap().unwrap();
        }
        let taken = (allocated() - before) / TOKENS;
        println!("{taken} bytes for each live token");
        assert!(taken <= MOST_BYTES_PER_TOKEN, "{taken} bytes");
    }
}
