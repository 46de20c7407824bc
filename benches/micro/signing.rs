//! Signatures with the API key.

use std::hint::black_box;

use ably_clerk_auth::{
    ably::{AblyJwt, ApiKey, Capability, ClientId, JwtExtras, Nonce, TokenRequest},
    clock::UnixMillis,
};
use criterion::Criterion;

pub(crate) fn benches(criterion: &mut Criterion) {
    let key = ApiKey::parse("bench0.key000:0123456789abcdef0123456789abcdef").unwrap();
    let client_id = ClientId::parse("alice").unwrap();
    let capability: Capability =
        r#"{"chat:*":["publish","subscribe"],"inbox:user_2abc":["subscribe"]}"#.parse().unwrap();
    let (now, nonce) = (UnixMillis(1_700_000_000_000), Nonce::from(7));
    criterion.bench_function("signing, token request", |bencher| {
        bencher.iter(|| {
            let capability = black_box(Some(&capability));
            TokenRequest::sign(&key, client_id.clone(), capability, None, now, nonce.clone())
        });
    });
    let extras = JwtExtras::default();
    criterion.bench_function("signing, JWT", |bencher| {
        bencher.iter(|| {
            AblyJwt::sign(&key, &client_id, black_box(Some(&capability)), None, "sess_2abc", &extras, now).unwrap()
        });
    });
}
