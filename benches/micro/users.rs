//! What is kept for each user: the token limit and the cache of looked-up users, with few and with many users.

use std::{num::NonZeroU32, time::Duration};

use ably_clerk_auth::{
    clerk::{BackendApi, LookupCounts, User, Users},
    detached::Detached,
    limits::{TokenLimit, TokenQuota},
    tenant::TenantName,
};
use criterion::Criterion;
use tokio::runtime::Runtime;

/// Both keep 100,000 users at most, so with more they forget some all the time.
const NUMBERS: [usize; 3] = [10, 100_000, 1_000_000];

/// A step that visits users far apart.
const STRIDE: usize = 7919;

pub(crate) fn benches(criterion: &mut Criterion) {
    for number in NUMBERS {
        let ids: Vec<_> = (0..number).map(|user| format!("user_2bench{user:022}")).collect();
        let mut next = (0..).step_by(STRIDE).map(|position| &ids[position % number]);
        token_limit(criterion, &ids, &mut next);
        user_cache(criterion, &ids, &mut next);
    }
}

fn token_limit<'a>(criterion: &mut Criterion, ids: &'a [String], next: &mut impl Iterator<Item = &'a String>) {
    // So high that no user reaches it.
    let most = NonZeroU32::new(1_000_000).unwrap();
    let limit = TokenLimit::new(TokenQuota { per_minute: most, burst: most });
    let tenant = TenantName::parse("bench").unwrap();
    for id in ids {
        limit.take(&tenant, id).unwrap();
    }
    criterion.bench_function(&format!("token limit, {} users", ids.len()), |bencher| {
        bencher.iter(|| next.next().map(|id| limit.take(&tenant, id)));
    });
}

fn user_cache<'a>(criterion: &mut Criterion, ids: &'a [String], next: &mut impl Iterator<Item = &'a String>) {
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let api = BackendApi::new("http://127.0.0.1:1".parse().unwrap(), "sk_test_bench".into(), reqwest::Client::new());
    let hour = Duration::from_hours(1);
    let users = Users::new(api, hour, Detached::on_current_runtime(), LookupCounts::default());
    for id in ids {
        let username = Some("alice".to_owned());
        users.remember(User { id: id.clone(), username, banned: false, deprovisioned: false });
    }
    criterion.bench_function(&format!("user cache, {} users", ids.len()), |bencher| {
        bencher.iter(|| next.next().map(|id| users.cached(id)));
    });
}
