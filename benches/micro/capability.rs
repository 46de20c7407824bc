//! Capabilities: from JSON to the canonical text, and intersections.

use std::hint::black_box;

use ably_clerk_auth::ably::Capability;
use criterion::Criterion;

/// Resources in reverse order, each with operations that are not in order.
fn json(resources: usize) -> String {
    let resource = |position: usize| format!(r#""rooms:{position}:*":["subscribe","publish","history"]"#);
    let resources: Vec<_> = (0..resources).rev().map(resource).collect();
    format!("{{{}}}", resources.join(","))
}

pub(crate) fn benches(criterion: &mut Criterion) {
    for resources in [1, 10, 100] {
        let text = json(resources);
        criterion.bench_function(&format!("capability, canonical text of {resources} resources"), |bencher| {
            bencher.iter(|| black_box(&text).parse::<Capability>().unwrap().to_string());
        });
    }
    let requested: Capability = r#"{"rooms:*":["subscribe"]}"#.parse().unwrap();
    for resources in [1, 10, 100] {
        let granted: Capability = json(resources).parse().unwrap();
        criterion.bench_function(&format!("capability, intersection of {resources} resources and 1"), |bencher| {
            bencher.iter(|| black_box(&granted).intersect(black_box(&requested)).unwrap());
        });
        criterion.bench_function(
            &format!("capability, intersection of {resources} resources with itself"),
            |bencher| {
                bencher.iter(|| black_box(&granted).intersect(black_box(&granted)).unwrap());
            },
        );
    }
}
