//! The memory that remembered session tokens take, counted by the allocator. One test: other tests would be counted too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;

use ably_clerk_auth::{
    clerk::{Credential, SessionRules, SigningKeys, VerifiedTokens, Verifier},
    clock::UnixMillis,
};
use futures_util::FutureExt as _;
use sandbox::clerk::{Clerk, Options};
use serde_json::{Map, Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The headers that are kept besides, when all tokens are evicted.
const KEPT_HEADERS: u64 = 64 * 2048;

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Tokens to verify, each several times.
struct Case {
    name: &'static str,
    tokens: usize,
    uses: usize,
    /// What each `kid` starts with. All tokens have the same if it is empty.
    kid: String,
    /// Besides Clerk's usual ones; null removes one.
    claims: Value,
}

/// A list of this length in bytes that repeats one item.
fn list(item: &str, bytes: usize) -> Value {
    let items = vec![item; bytes / (item.len() + 1)];
    serde_json::from_str(&format!("[{}]", items.join(","))).unwrap()
}

fn cases() -> Vec<Case> {
    let case = |name, tokens, claims| Case { name, tokens, uses: 3, kid: String::new(), claims };
    let with_list = |name, tokens, item, bytes| case(name, tokens, json!({ "list": list(item, bytes) }));
    let deep = format!("{}0{}", "{\"a\":".repeat(100), "}".repeat(100));
    let wide: Map<_, _> = (0..1000).map(|name| (format!("{name:03}"), json!(0))).collect();
    let few = json!({ "azp": null, "fva": null, "jti": null, "nbf": null, "sts": null, "v": null });
    let member = json!({
        "o": { "id": "org_1", "slg": "acme", "rol": "admin", "per": "read,write,manage", "fpm": "7,7" },
        "fea": "o:rooms,o:reports,u:beta", "pla": "o:pro,u:plus",
    });
    let repeated = |text: &str, times: usize| vec![text; times].join(",");
    let permissions = json!({
        "o": { "id": "org_1", "per": repeated("p", 100), "fpm": repeated("1267650600228229401496703205375", 50) },
        "fea": repeated("o:f", 50),
    });
    vec![
        Case { uses: 1, ..case("usual claims, used once", 500, json!({})) },
        case("usual claims", 500, json!({})),
        case("few claims", 500, few),
        case("an organization", 300, member),
        case("thousands of permissions", 20, permissions),
        case("a long text", 100, json!({ "text": "x".repeat(12_000) })),
        case("many claims", 20, wide.clone().into()),
        case("a wide object", 20, json!({ "object": wide })),
        with_list("deep objects", 50, &deep, 9_000),
        with_list("numbers", 20, "0", 12_000),
        with_list("empty lists", 20, "[]", 12_000),
        with_list("small lists", 20, "[0]", 12_000),
        with_list("small texts", 20, "\"x\"", 12_000),
        with_list("small objects", 15, "{\"a\":0}", 12_000),
        with_list("more small objects than there is room for", 500, "{\"a\":0}", 600),
        with_list("one that is larger than the maximum", 1, "{\"a\":0}", 500_000),
        Case { uses: 1, kid: "ins_".into(), ..case("a header each, used once", 500, json!({})) },
        Case { kid: "ins_".into(), ..case("a header each", 500, json!({})) },
        Case { uses: 1, kid: "x".repeat(10_000), ..case("a long header each, used once", 50, json!({})) },
        Case { kid: "x".repeat(10_000), ..case("a long header each", 50, json!({})) },
    ]
}

impl Case {
    fn token(&self, number: usize, clerk: &Clerk, usual: &Value) -> String {
        let mut claims = usual.clone();
        for (name, value) in self.claims.as_object().unwrap() {
            match value {
                Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
                value => claims[name] = value.clone(),
            }
        }
        claims["sid"] = json!(format!("sess_{number}"));
        let kid = if self.kid.is_empty() { clerk.kid() } else { format!("{}{number}", self.kid) };
        clerk.mint_with_header(json!({ "alg": "RS256", "kid": kid, "typ": "JWT" }), claims)
    }
}

#[tokio::test]
async fn remembered_tokens_take_no_more_memory_than_they_are_weighed_with_and_never_more_than_the_maximum() {
    let clerk = Clerk::start(Options::default()).await.unwrap();
    let rules = SessionRules {
        issuers: vec![clerk.issuer()],
        authorized_parties: Vec::new(),
        native_apps: false,
        audience: Vec::new(),
        clock_skew_ms: 5000,
        longest_life_ms: 600_000,
    };
    let verifier = Verifier::new(SigningKeys::from_pem(clerk.jwt_key()).unwrap(), rules);
    let usual = clerk.session_claims(&clerk.users()[0].id);
    let now = UnixMillis::now();
    let mut most = 0;
    for case in cases() {
        let verified = VerifiedTokens::default();
        let before = allocated();
        for number in 0..case.tokens {
            let token = case.token(number, &clerk, &usual);
            for _ in 0..case.uses {
                let credential = Credential::new(&token, &verified);
                verifier.verify(credential, &verified, now).now_or_never().unwrap().unwrap();
            }
        }
        let (taken, weighed) = (allocated() - before, verified.bytes());
        assert!(
            u64::try_from(taken).unwrap() <= weighed + KEPT_HEADERS,
            "{}: {taken} bytes, weighed as {weighed}",
            case.name
        );
        assert!(weighed <= VerifiedTokens::MAX_BYTES, "{}: {weighed}", case.name);
        most = most.max(weighed);
    }
    assert!(most > VerifiedTokens::MAX_BYTES / 2, "only {most} bytes were ever remembered");
}
