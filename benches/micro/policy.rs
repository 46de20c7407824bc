//! Decisions by policies of one to a thousand rules, of which few match, as in practice, or all.

use std::hint::black_box;

use ably_clerk_auth::{
    ably::{Capability, Operations, TokenParams},
    clerk::{Organization, Scoped, Session},
    clock::UnixMillis,
    policy::{ClaimValue, Condition, Policy, Role, Rule, RuleName},
};
use criterion::Criterion;
use serde_json::json;

fn session() -> Session {
    let claims = json!({ "username": "alice", "metadata": { "tier": "pro", "team": "7" } });
    Session {
        user_id: "user_2abcdefghijklmnopqrstuvwxyz".into(),
        session_id: "sess_2abcdefghijklmnopqrstuvwxyz".into(),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(60_000),
        organization: Some(Organization {
            id: "org_2abcdefghijklmnopqrstuvwxyz".into(),
            slug: Some("acme".into()),
            role: Some("org:admin".into()),
            permissions: Some(vec!["org:rooms:read".into()]),
        }),
        plans: Scoped::default(),
        features: Scoped::default(),
        factor_age: None,
        actor: None,
        claims: claims.as_object().cloned().unwrap_or_default().into(),
    }
}

/// Of every `one_in` rules one matches, the last of them.
fn policy(rules: usize, one_in: usize) -> Policy {
    let rule = |position: usize| {
        let role = if (position + 1).is_multiple_of(one_in) { "admin".to_owned() } else { format!("role{position}") };
        let tier = Condition::Claim {
            path: "metadata.tier".into(),
            alternatives: vec![ClaimValue::Text("team".into()), ClaimValue::Text("pro".into())],
        };
        // Not in the order of names, as in a file.
        let room = position * 7919 % rules;
        let resource = format!("rooms:{{org_id}}:{room}:{{claim.metadata.team}}:*").parse().ok()?;
        Some(Rule {
            name: RuleName::new(&format!("rule {position}")),
            when: Some(Condition::All(vec![tier, Condition::Role(vec![Role::parse(&role).ok()?])])),
            capability: vec![(resource, Operations::parse(["subscribe", "publish"]).ok()?)],
            ttl: None,
            channel_claims: Vec::new(),
            publish_rate: Vec::new(),
        })
    };
    Policy { rules: (0..rules).filter_map(rule).collect(), ..Policy::default() }
}

pub(crate) fn benches(criterion: &mut Criterion) {
    decisions(criterion);
    narrowing(criterion);
}

fn decisions(criterion: &mut Criterion) {
    let session = session();
    let asked = TokenParams::default();
    for (name, rules, one_in) in [
        ("1 rule, which matches", 1, 1),
        ("20 rules, 10 match", 20, 2),
        ("1,000 rules, 10 match", 1000, 100),
        ("1,000 rules, none matches", 1000, 2000),
        ("1,000 rules, all match", 1000, 1),
    ] {
        let policy = policy(rules, one_in);
        criterion.bench_function(&format!("policy, {name}"), |bencher| {
            bencher.iter(|| black_box(policy.decide(&session, &asked)));
        });
    }
}

/// What a client asks for that wants to keep the service busy: as many resources as fit into a form of 16 KiB.
fn narrowing(criterion: &mut Criterion) {
    let (session, policy) = (session(), policy(1000, 1));
    let one = |resource: &str| vec![resource.to_owned()];
    let many = |resource: fn(usize) -> String| (0..Policy::MAX_REQUESTED_RESOURCES).map(resource).collect::<Vec<_>>();
    for (name, resources) in [
        ("1 asked", one("rooms:*")),
        ("512 asked, none granted", many(|position| format!("rooms:*:*:*:{position}:*:no"))),
        ("512 asked, of other operations", many(|position| format!("*:{position}"))),
        ("512 asked, each meets each in a third", many(|position| format!("*:*:*:*:{position}"))),
    ] {
        let operation = if name.contains("operations") { "history" } else { "publish" };
        let operations = Operations::parse([operation]).ok();
        let resources = resources.into_iter().filter_map(|resource| Some((resource, operations?)));
        let asked = TokenParams { capability: Capability::union(resources), ..TokenParams::default() };
        criterion.bench_function(&format!("policy, 1,000 rules, all match, {name}"), |bencher| {
            bencher.iter(|| black_box(policy.decide(&session, &asked)));
        });
    }
}
