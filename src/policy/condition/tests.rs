use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::tests::session;

fn role(name: &str) -> Condition {
    Condition::Role(vec![Role::parse(name).unwrap()])
}

fn roles(names: &[&str]) -> Condition {
    Condition::Role(names.iter().map(|name| Role::parse(name).unwrap()).collect())
}

fn organizations(names: &[&str]) -> Condition {
    Condition::Organization(names.iter().map(|name| OrganizationName::parse(name).unwrap()).collect())
}

fn permission(name: &str) -> Condition {
    Condition::Permission(vec![Permission::parse(name).unwrap()])
}

fn plan(name: &str) -> Condition {
    Condition::Plan(vec![ScopedName::parse(name).unwrap()])
}

fn feature(name: &str) -> Condition {
    Condition::Feature(vec![ScopedName::parse(name).unwrap()])
}

fn organization(name: &str) -> Condition {
    Condition::Organization(vec![OrganizationName::parse(name).unwrap()])
}

fn claim(path: &str, value: ClaimValue) -> Condition {
    Condition::Claim { path: path.into(), alternatives: vec![value] }
}

fn reverified(level: Level, minutes: u64) -> Condition {
    Condition::Reverified(Reverification::new(level, Duration::from_mins(minutes)).unwrap())
}

fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

fn text(value: &str) -> ClaimValue {
    ClaimValue::Text(value.into())
}

#[test]
fn names_are_compared_as_clerks_has_does() {
    let acme = json!({
        "v": 2, "fea": "o:rooms,u:beta,ou:both", "pla": "o:pro,u:plus",
        "o": { "id": "org_1", "slg": "acme", "rol": "admin", "per": "read,write", "fpm": "1,2" },
    });
    let alone = json!({ "v": 2, "pla": "u:plus" });
    let v1 = json!({ "org_id": "org_1", "org_role": "admin", "org_permissions": ["org:rooms:read"] });
    for (claims, condition, holds) in [
        (&acme, role("admin"), true),
        (&acme, role("org:admin"), true),
        (&acme, role("org:org:admin"), true),
        (&acme, role("member"), false),
        (&acme, role("Admin"), false),
        (&alone, role("admin"), false),
        (&v1, role("org:admin"), true),
        (&acme, permission("org:rooms:read"), true),
        (&acme, permission("rooms:read"), true),
        (&acme, permission("both:write"), true),
        (&acme, permission("rooms:write"), false),
        (&alone, permission("rooms:read"), false),
        (&v1, permission("rooms:read"), true),
        (&acme, plan("pro"), true),
        (&acme, plan("o:pro"), true),
        (&acme, plan("org:pro"), true),
        (&acme, plan("organization:pro"), true),
        (&acme, plan("u:pro"), false),
        (&acme, plan("user:pro"), false),
        (&acme, plan("plus"), true),
        (&acme, plan("org:plus"), false),
        (&alone, plan("user:plus"), true),
        (&v1, plan("plus"), false),
        (&acme, feature("both"), true),
        (&acme, feature("u:both"), true),
        (&acme, feature("o:both"), true),
        (&acme, feature("u:rooms"), false),
        (&acme, organization("acme"), true),
        (&acme, organization("org_1"), true),
        (&acme, organization("org_2"), false),
        (&alone, organization("acme"), false),
        (&v1, organization("org_1"), true),
    ] {
        let truth = condition.holds(&session(claims));
        assert_eq!(truth, if holds { Truth::True } else { Truth::False }, "{condition} of {claims}");
    }
}

#[test]
fn a_slug_that_looks_like_an_id_is_not_taken_for_one() {
    let sly = session(&json!({ "v": 2, "o": { "id": "org_sly", "slg": "org_victim" } }));
    assert_eq!(organization("org_victim").holds(&sly), Truth::False);
    let odd = session(&json!({ "v": 2, "o": { "id": "acme", "slg": "sly" } }));
    assert_eq!(organization("acme").holds(&odd), Truth::False);
}

#[test]
fn a_claim_is_equal_or_has_the_value_or_is_unknown() {
    use Truth::{False, True, Unknown};
    let session = session(&json!({
        "tier": "pro",
        "metadata": {
            "tags": ["a", 5, true], "level": 3, "on": false, "none": null, "empty": [],
            "whole": 5.0, "wholes": [1, -3e0], "fraction": 5.5, "large": 9_007_199_254_740_993_i64,
        },
    }));
    for (condition, truth) in [
        (claim("tier", text("pro")), True),
        (claim("tier", text("Pro")), False),
        (claim("tier", ClaimValue::Integer(5)), False),
        (claim("metadata.tags", text("a")), True),
        (claim("metadata.tags", ClaimValue::Integer(5)), True),
        (claim("metadata.tags", ClaimValue::Boolean(true)), True),
        (claim("metadata.tags", text("5")), False),
        (claim("metadata.level", ClaimValue::Integer(3)), True),
        (claim("metadata.whole", ClaimValue::Integer(5)), True),
        (not(claim("metadata.whole", ClaimValue::Integer(5))), False),
        (claim("metadata.wholes", ClaimValue::Integer(-3)), True),
        (claim("metadata.whole", ClaimValue::Integer(4)), False),
        (claim("metadata.fraction", ClaimValue::Integer(5)), False),
        (claim("metadata.large", ClaimValue::Integer(9_007_199_254_740_992)), False),
        (claim("metadata.large", ClaimValue::Integer(9_007_199_254_740_993)), True),
        (claim("metadata.on", ClaimValue::Boolean(false)), True),
        (claim("metadata.empty", text("a")), False),
        (claim("metadata", text("a")), False),
        (claim("metadata.none", text("a")), Unknown),
        (claim("metadata.missing", text("a")), Unknown),
        (claim("tier.deeper", text("a")), Unknown),
        (not(claim("missing", text("a"))), Unknown),
        (not(claim("tier", text("free"))), True),
        (Condition::Any(vec![claim("missing", text("a")), claim("tier", text("pro"))]), True),
        (Condition::All(vec![claim("missing", text("a")), claim("tier", text("free"))]), False),
        (Condition::All(vec![claim("missing", text("a")), claim("tier", text("pro"))]), Unknown),
    ] {
        assert_eq!(condition.holds(&session), truth, "{condition}");
    }
}

#[test]
fn reverification_is_checked_as_clerk_does() {
    use Level::{FirstFactor, MultiFactor, SecondFactor};
    use Truth::{False, True, Unknown};
    for (fva, first, second, multi) in [
        (json!([0, 0]), True, True, True),
        (json!([9, -1]), True, True, True),
        (json!([10, -1]), False, False, False),
        (json!([99, 9]), False, True, False),
        (json!([9, 99]), True, False, False),
        (json!([9, 10]), True, False, False),
        (json!([-1, 9]), False, True, False),
        (json!([-1, 99]), False, False, False),
        (json!([-1, -1]), False, False, False),
        (json!(null), Unknown, Unknown, Unknown),
        (json!([1]), Unknown, Unknown, Unknown),
        (json!([-2, 1]), Unknown, Unknown, Unknown),
    ] {
        let session = session(&json!({ "fva": fva }));
        for (level, truth) in [(FirstFactor, first), (SecondFactor, second), (MultiFactor, multi)] {
            assert_eq!(reverified(level, 10).holds(&session), truth, "{level:?} with {fva}");
            let opposite = not(reverified(level, 10));
            assert_eq!(opposite.holds(&session), !truth);
        }
    }
    for seconds in [0, 59, 90] {
        assert!(Reverification::new(FirstFactor, Duration::from_secs(seconds)).is_err());
    }
}

#[test]
fn an_unreadable_actor_counts_as_impersonation() {
    for (claims, impersonated) in [
        (json!({}), false),
        (json!({ "act": null }), false),
        (json!({ "act": { "sub": "user_support" } }), true),
        (json!({ "act": {} }), true),
    ] {
        let session = session(&claims);
        for wanted in [true, false] {
            let holds = Condition::Impersonated(wanted).holds(&session) == Truth::True;
            assert_eq!(holds, wanted == impersonated, "{claims}");
        }
    }
}

#[test]
fn an_agent_and_a_person_both_impersonate_and_only_one_is_an_agent() {
    for (claims, impersonated, agent) in [
        (json!({}), false, false),
        (json!({ "act": { "sub": "user_support" } }), true, false),
        (json!({ "act": { "sub": "user_support", "type": "person" } }), true, false),
        (json!({ "act": { "sub": "agent_1", "type": "agent" } }), true, true),
        (json!({ "act": { "sub": "agent_1", "type": ["agent"] } }), true, false),
    ] {
        let session = session(&claims);
        for wanted in [true, false] {
            let holds = |condition: Condition| condition.holds(&session) == Truth::True;
            assert_eq!(holds(Condition::Agent(wanted)), wanted == agent, "{claims}");
            assert_eq!(holds(Condition::Impersonated(wanted)), wanted == impersonated, "{claims}");
        }
    }
}

#[test]
fn a_name_that_can_never_match_is_invalid() {
    for text in ["", "org:", "org:org:"] {
        assert!(Role::parse(text).is_err(), "{text}");
        assert_eq!(Permission::parse(text), Err(InvalidName::Empty), "{text}");
    }
    for text in ["read", "org:read", "org:org:read", ":read", "rooms:", "org::read"] {
        assert_eq!(Permission::parse(text), Err(InvalidName::Permission(text.into())));
    }
    for text in ["org:sys_memberships:manage", "sys_profile:delete", "sys_x"] {
        assert_eq!(Permission::parse(text), Err(InvalidName::SystemPermission(text.into())));
    }
    for text in ["", "o:", "team:pro", "o:pro:max"] {
        assert!(ScopedName::parse(text).is_err(), "{text}");
    }
    assert!(OrganizationName::parse("").is_err() && Level::parse("third_factor").is_err());
}

#[test]
fn a_plain_contradiction_is_impossible() {
    let (any, all) = (Condition::Any, Condition::All);
    let impersonated = Condition::Impersonated;
    for condition in [
        all(vec![impersonated(true), impersonated(false)]),
        all(vec![Condition::Agent(true), Condition::Agent(false)]),
        all(vec![role("admin"), role("member")]),
        all(vec![plan("pro"), not(plan("pro"))]),
        all(vec![claim("a", text("x")), not(claim("a", text("x")))]),
        all(vec![permission("a:b"), all(vec![plan("pro"), not(permission("a:b"))])]),
    ] {
        assert!(condition.is_impossible(), "{condition:?}");
    }
    for condition in [
        role("admin"),
        not(role("admin")),
        all(vec![role("a"), roles(&["a", "b"])]),
        all(vec![organization("org_1"), organization("acme")]),
        all(vec![plan("pro"), not(plan("o:pro"))]),
        all(vec![plan("pro"), plan("plus")]),
        all(vec![permission("a:b"), permission("c:d")]),
        all(vec![claim("a", text("x")), claim("a", text("y"))]),
        any(vec![impersonated(true), impersonated(false)]),
    ] {
        assert!(!condition.is_impossible(), "{condition:?}");
    }
}

/// One to three of these names.
fn some(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(names), 1..4)
}

fn scoped_names() -> impl Strategy<Value = Vec<ScopedName>> {
    let parse = |names: Vec<_>| names.into_iter().map(|name| ScopedName::parse(name).unwrap()).collect();
    some(&["pro", "o:pro", "u:pro", "plus", "u:plus"]).prop_map(parse)
}

fn any_membership() -> impl Strategy<Value = Condition> {
    prop_oneof![
        some(&["a", "b", "c"]).prop_map(|names| roles(&names)),
        some(&["org_1", "org_2", "acme", "other"]).prop_map(|names| organizations(&names)),
    ]
}

fn any_reverification() -> impl Strategy<Value = Condition> {
    let level = prop::sample::select(&[Level::FirstFactor, Level::SecondFactor, Level::MultiFactor]);
    (level, 1..4_u64).prop_map(|(level, minutes)| reverified(level, minutes))
}

fn any_claim() -> impl Strategy<Value = Condition> {
    let values = prop::collection::vec(prop::sample::select(&["1", "2", "3"]).prop_map(text), 1..3);
    let value = prop_oneof![values, Just(vec![ClaimValue::Integer(5)]), Just(vec![ClaimValue::Boolean(true)])];
    (prop::sample::select(&["x", "y", "z.deeper"]), value)
        .prop_map(|(path, alternatives)| Condition::Claim { path: path.into(), alternatives })
}

fn any_leaf() -> impl Strategy<Value = Condition> {
    prop_oneof![
        any_membership(),
        any_reverification(),
        any_claim(),
        scoped_names().prop_map(Condition::Plan),
        scoped_names().prop_map(Condition::Feature),
        prop::sample::select(&["rooms:read", "rooms:write"]).prop_map(permission),
        any::<bool>().prop_map(Condition::Impersonated),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    any_leaf().prop_recursive(3, 12, 4, |part| {
        prop_oneof![
            prop::collection::vec(part.clone(), 1..4).prop_map(Condition::Any),
            prop::collection::vec(part.clone(), 1..4).prop_map(Condition::All),
            part.prop_map(not),
        ]
    })
}

fn any_age() -> impl Strategy<Value = i64> {
    -1..5_i64
}

fn any_claims() -> impl Strategy<Value = Value> {
    let organization = prop_oneof![
        1 => Just(json!(null)),
        4 => (
            prop::sample::select(&["org_1", "org_2", "org_3"]),
            prop::sample::select(&["acme", "other", "third", ""]),
            prop::sample::select(&["a", "b", "c", "d", ""]),
            prop::sample::select(&["0", "1", "2", "3"]),
        )
            .prop_map(|(id, slug, role, bits)| {
                json!({ "id": id, "slg": slug, "rol": role, "per": "read,write", "fpm": bits })
            }),
    ];
    let scalar = || prop::sample::select(&["1", "2", "3", "4"]).prop_map(Value::from);
    let value = move || {
        prop_oneof![
            Just(json!(null)),
            scalar(),
            prop::collection::vec(scalar(), 0..4).prop_map(Value::from),
            prop::sample::select(vec![json!(5), json!(5.0), json!([5.0, "1"]), json!(true)]),
        ]
    };
    let scoped = || prop::sample::select(&["", "o:pro", "u:pro", "ou:pro,u:plus", "o:plus"]);
    let features = scoped().prop_map(|features| ["o:rooms", features].join(","));
    let fva = prop_oneof![1 => Just(json!(null)), 4 => (any_age(), any_age()).prop_map(|ages| json!([ages.0, ages.1]))];
    (organization, value(), value(), value(), scoped(), features, fva, any::<bool>()).prop_map(
        |(o, x, y, z, pla, fea, fva, acting)| {
            let act = acting.then(|| json!({ "sub": "user_2" }));
            let z = json!({ "deeper": z });
            let fea = fea.trim_end_matches(',');
            json!({ "v": 2, "o": o, "x": x, "y": y, "z": z, "pla": pla, "fea": fea, "fva": fva, "act": act })
        },
    )
}

fn any_session() -> impl Strategy<Value = Session> {
    any_claims().prop_map(|claims| session(&claims))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_impossible_condition_never_holds(condition in any_condition(), session in any_session()) {
        prop_assert!(!(condition.is_impossible() && condition.holds(&session) == Truth::True));
    }

    #[test]
    fn a_missing_claim_only_makes_a_result_unknown(
        condition in any_condition(),
        claims in any_claims(),
        silent in prop::sample::subsequence(&["x", "y", "z", "fva"], 1..=4),
    ) {
        let mut less = claims.clone();
        for claim in silent {
            less.as_object_mut().unwrap().remove(claim);
        }
        let before = condition.holds(&session(&less));
        prop_assert!(before == Truth::Unknown || before == condition.holds(&session(&claims)));
    }

    #[test]
    fn an_explanation_has_the_result_of_the_decision(condition in any_condition(), session in any_session()) {
        prop_assert_eq!(condition.explain(&session).truth, condition.holds(&session));
    }

    #[test]
    fn a_double_negation_and_de_morgan_hold(a in any_condition(), b in any_condition(), session in any_session()) {
        let holds = |condition: &Condition| condition.holds(&session);
        prop_assert_eq!(holds(&not(not(a.clone()))), holds(&a));
        let neither = not(Condition::Any(vec![a.clone(), b.clone()]));
        prop_assert_eq!(holds(&neither), holds(&Condition::All(vec![not(a), not(b)])));
    }
}
