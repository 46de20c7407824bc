//! The whole way from the headers of a request to the JSON of a token request.

use ably_clerk_auth::clock::UnixMillis;
use criterion::Criterion;

use crate::{
    fixtures::{Instance, Request, Service},
    with_each_once,
};

/// A rate limit that no bench reaches, so that it is counted and never refuses.
const LIMITS: &str = "[limits]\ntokens_per_minute = 1000000\ntokens_burst = 1000000\n";

pub(crate) fn benches(criterion: &mut Criterion) {
    let instance = Instance::start().unwrap();
    let settings = instance.settings(LIMITS);
    let now = UnixMillis::now();
    for (name, request) in [
        ("header", Instance::request_with_header as fn(&Instance) -> Request),
        ("cookies", Instance::request_with_cookies),
    ] {
        let requests: Vec<_> = (0..1000).map(|_| request(&instance)).collect();
        criterion.bench_function(&format!("issue, new session token in {name}"), |bencher| {
            let service = || Service::new(&settings).unwrap();
            with_each_once(bencher, &requests, service, |service, request| service.answer(request, now));
        });
        criterion.bench_function(&format!("issue, the same ten session tokens in {name}"), |bencher| {
            let service = Service::new(&settings).unwrap();
            let mut requests = requests.iter().take(10).cycle();
            bencher.iter(|| requests.next().map(|request| service.answer(request, now)));
        });
    }
}
