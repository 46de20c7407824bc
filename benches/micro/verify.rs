//! Session tokens: the signature and the claims.

use std::hint::black_box;

use ably_clerk_auth::{
    clerk::{Credential, Examined, SessionRules, SigningKeys, VerifiedTokens, Verifier},
    clock::UnixMillis,
};
use criterion::Criterion;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use crate::{fixtures::Instance, with_each_once};

pub(crate) fn benches(criterion: &mut Criterion) {
    let instance = Instance::start().unwrap();
    let tokens: Vec<_> = (0..1000).map(|_| instance.session_token()).collect();
    let now = UnixMillis::now();
    let verify = |verifier: &Verifier, token: &str, verified: &VerifiedTokens| {
        verifier.verify(Credential::new(token, verified), verified, now).now_or_never().unwrap().unwrap()
    };
    criterion.bench_function("verify, first use", |bencher| {
        let fresh = || (verifier(&instance), VerifiedTokens::default());
        with_each_once(bencher, &tokens, fresh, |(verifier, verified), token| verify(verifier, token, verified));
    });
    criterion.bench_function("verify, the same token again", |bencher| {
        let (verifier, verified) = (verifier(&instance), VerifiedTokens::default());
        bencher.iter(|| verify(&verifier, black_box(&tokens[0]), &verified));
    });
    criterion.bench_function("verify, decode only", |bencher| {
        let verified = VerifiedTokens::default();
        bencher.iter(|| Credential::new(black_box(&tokens[0]), &verified));
    });
    let claims = claims();
    criterion.bench_function("verify, claims only", |bencher| {
        bencher.iter(|| Examined::from_claims(black_box(claims.as_object()).cloned().unwrap_or_default(), now));
    });
}

/// A verifier with rules as in production.
fn verifier(instance: &Instance) -> Verifier {
    let rules = SessionRules {
        issuers: vec![instance.clerk.issuer()],
        authorized_parties: vec!["http://localhost:3000".to_owned()],
        native_apps: false,
        audience: Vec::new(),
        clock_skew_ms: 5000,
        longest_life_ms: 600_000,
    };
    Verifier::new(SigningKeys::from_pem(instance.clerk.jwt_key()).unwrap(), rules)
}

/// Claims of a member of an organization, with an organization's features.
fn claims() -> Value {
    json!({
        "sub": "user_2abcdefghijklmnopqrstuvwxyz", "sid": "sess_2abcdefghijklmnopqrstuvwxyz", "v": 2, "sts": "active",
        "iss": "https://clerk.example.com", "azp": "https://app.example.com", "iat": 1_700_000_000, "nbf": 1_700_000_000,
        "exp": 1_700_000_060, "fva": [5, -1], "username": "alice", "pla": "o:pro,u:plus", "fea": "o:rooms,ou:reports",
        "o": { "id": "org_2abcdefghijklmnopqrstuvwxyz", "slg": "acme", "rol": "admin", "per": "read,write", "fpm": "3,1" },
    })
}
