use std::collections::BTreeMap;

use serde_json::{Number, Value, json};

use super::*;
use crate::{
    ably::{Operations, TokenParams, Ttl},
    clerk::Session,
    clock::UnixMillis,
};

/// A session with these claims.
pub(super) fn session(claims: &Value) -> Session {
    let claims = claims.as_object().unwrap().clone().into();
    Session::from_claims("user_1".into(), "sess_1".into(), UnixMillis(0), UnixMillis(60_000), claims).ok().unwrap()
}

fn rule(name: &str, when: Option<Condition>, capability: &[(&str, &[&str])]) -> Rule {
    let resource = |(resource, operations): &(&str, &[&str])| {
        (resource.parse().unwrap(), Operations::parse(operations.iter()).unwrap())
    };
    Rule {
        name: RuleName::new(name),
        when,
        capability: capability.iter().map(resource).collect(),
        ttl: None,
        channel_claims: Vec::new(),
        publish_rate: Vec::new(),
    }
}

fn role(name: &str) -> Condition {
    Condition::Role(vec![Role::parse(name).unwrap()])
}

fn tier(value: &str) -> Condition {
    Condition::Claim { path: "tier".into(), alternatives: vec![ClaimValue::Text(value.into())] }
}

fn minutes(minutes: u64) -> Option<Ttl> {
    Ttl::from_millis(minutes * 60_000)
}

fn requesting(capability: &str) -> TokenParams {
    TokenParams { capability: Some(capability.parse().unwrap()), ..TokenParams::default() }
}

fn policy() -> Policy {
    let mut admins = rule("admins", Some(role("admin")), &[("org:{org_id}:*", &["*"]), ("lobby", &["publish"])]);
    admins.ttl = minutes(10);
    Policy {
        rules: vec![
            rule("own", None, &[("private:{user_id}:*", &["*"]), ("lobby", &["subscribe"])]),
            admins,
            rule("pro", Some(tier("pro")), &[("pro:{claim.team}", &["subscribe"])]),
        ],
        ..Policy::default()
    }
}

fn capability(policy: &Policy, claims: &Value, requested: &TokenParams) -> Result<String, PolicyRefusal> {
    policy.decide(&session(claims), requested).outcome.map(|grant| grant.capability.unwrap().to_string())
}

#[test]
fn rules_that_match_add_up() {
    let anything = TokenParams::default();
    let admin = json!({ "v": 2, "o": { "id": "org_1", "rol": "admin" }, "tier": "pro", "team": "red" });
    for (claims, expected) in [
        (json!({}), r#"{"lobby":["subscribe"],"private:user_1:*":["*"]}"#),
        (
            admin,
            r#"{"lobby":["publish","subscribe"],"org:org_1:*":["*"],"private:user_1:*":["*"],"pro:red":["subscribe"]}"#,
        ),
        (json!({ "tier": "pro", "team": "a:b" }), r#"{"lobby":["subscribe"],"private:user_1:*":["*"]}"#),
    ] {
        assert_eq!(capability(&policy(), &claims, &anything).as_deref(), Ok(expected), "{claims}");
    }
}

#[test]
fn a_decision_names_the_matching_rules_in_order_and_what_dropped_out() {
    let decision = policy().decide(&session(&json!({ "tier": "pro" })), &TokenParams::default());
    assert_eq!(decision.outcome.unwrap().rules, ["own", "pro"].map(RuleName::new));
    assert_eq!(
        decision.dropped,
        [Dropped {
            rule: RuleName::new("pro"),
            resource: "pro:{claim.team}".into(),
            placeholder: "{claim.team}".into(),
            why: Unfit::Missing,
            loses: Loss::Resource,
        }]
    );
}

#[test]
fn without_a_match_or_a_remaining_resource_nothing_is_granted() {
    let mut policy = policy();
    policy.rules.remove(0);
    for claims in
        [json!({}), json!({ "tier": "free" }), json!({ "tier": "pro" }), json!({ "tier": "pro", "team": "*" })]
    {
        assert_eq!(
            capability(&policy, &claims, &TokenParams::default()),
            Err(PolicyRefusal::NothingGranted),
            "{claims}"
        );
    }
}

#[test]
fn a_rule_or_a_requirement_that_ends_unknown_does_not_match() {
    let not_free = Condition::Not(Box::new(tier("free")));
    let ruled = Policy { rules: vec![rule("paid", Some(not_free.clone()), &[("a", &["*"])])], ..Policy::default() };
    let required = Policy { require: Some(not_free), ..Policy::default() };
    let outcome = |policy: &Policy, claims: Value| policy.decide(&session(&claims), &TokenParams::default()).outcome;
    for (claims, matches) in [(json!({ "tier": "pro" }), true), (json!({ "tier": "free" }), false), (json!({}), false)]
    {
        assert_eq!(outcome(&ruled, claims.clone()).is_ok(), matches, "{claims}");
        assert_eq!(outcome(&required, claims.clone()).is_ok(), matches, "{claims}");
    }
    assert_eq!(outcome(&required, json!({})), Err(PolicyRefusal::Requirement));
}

#[test]
fn a_client_gets_the_intersection_of_requested_and_granted() {
    let claims = json!({});
    for (requested, expected) in [
        (r#"{"lobby":["publish","subscribe"]}"#, Ok(r#"{"lobby":["subscribe"]}"#)),
        (r#"{"[*]*":["*"]}"#, Ok(r#"{"lobby":["subscribe"],"private:user_1:*":["*"]}"#)),
        (r#"{"private:*":["history"]}"#, Ok(r#"{"private:user_1:*":["history"]}"#)),
        (r#"{"private:user_2:x":["*"]}"#, Err(PolicyRefusal::NothingOfRequested)),
        (r#"{"lobby":["publish"]}"#, Err(PolicyRefusal::NothingOfRequested)),
    ] {
        assert_eq!(
            capability(&policy(), &claims, &requesting(requested)).as_deref(),
            expected.as_deref(),
            "{requested}"
        );
    }
}

#[test]
fn a_client_may_request_512_resources_and_few_with_many_intersections() {
    let resources = |count: usize, name: fn(usize) -> String| {
        requesting(&json!((0..count).map(|n| (name(n), vec!["*"])).collect::<BTreeMap<_, _>>()).to_string())
    };
    let lobby = |n| if n == 0 { "lobby".to_owned() } else { format!("other:{n}") };
    let expected = Ok(r#"{"lobby":["subscribe"]}"#.to_owned());
    assert_eq!(capability(&policy(), &json!({}), &resources(Policy::MAX_REQUESTED_RESOURCES, lobby)), expected);
    let too_many = resources(Policy::MAX_REQUESTED_RESOURCES + 1, lobby);
    assert_eq!(capability(&policy(), &json!({}), &too_many), Err(PolicyRefusal::RequestTooLarge));
    let unruled = Policy::default().decide(&session(&json!({})), &too_many).outcome.unwrap();
    assert_eq!(unruled.capability, too_many.capability);
    let names: Vec<_> = (0..100).map(|n| format!("room{n}:*")).collect();
    let rooms: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &["publish"][..])).collect();
    let rooms = Policy { rules: vec![rule("rooms", None, &rooms)], ..Policy::default() };
    assert!(capability(&rooms, &json!({}), &resources(50, |n| format!("*:{n:09}"))).is_ok());
    let crossing = resources(500, |n| format!("*:{n:09}"));
    assert_eq!(capability(&rooms, &json!({}), &crossing), Err(PolicyRefusal::RequestTooLarge));
}

#[test]
fn without_rules_a_token_has_the_requested_capability_or_the_keys_own() {
    let grant = |requested: &TokenParams| Policy::default().decide(&session(&json!({})), requested).outcome.unwrap();
    assert_eq!(grant(&TokenParams::default()), Grant::default());
    assert_eq!(grant(&requesting(r#"{"a":["*"]}"#)).capability.unwrap().to_string(), r#"{"a":["*"]}"#);
}

#[test]
fn the_ttl_is_the_shortest_of_requested_granted_and_configured() {
    let day = 24 * 60;
    for (configured, of_rules, requested, granted) in [
        (None, [None, None], None, None),
        (None, [None, None], Some(1), Some(1)),
        (None, [None, None], Some(61), Some(60)),
        (Some(5), [None, None], None, Some(5)),
        (Some(5), [None, None], Some(1), Some(1)),
        (Some(5), [None, None], Some(day), Some(5)),
        (Some(120), [None, None], Some(day), Some(120)),
        (None, [Some(10), None], None, Some(10)),
        (None, [Some(10), Some(7)], None, Some(7)),
        (None, [Some(10), Some(7)], Some(8), Some(7)),
        (None, [Some(10), Some(7)], Some(6), Some(6)),
        (Some(5), [Some(10), None], None, Some(5)),
        (Some(90), [None, Some(80)], Some(day), Some(80)),
        (None, [Some(90), None], None, Some(60)),
    ] {
        let mut rules = vec![rule("a", None, &[("a", &["*"])]), rule("b", None, &[("b", &["*"])])];
        let other = Rule { ttl: minutes(1), ..rule("other", Some(role("admin")), &[("c", &["*"])]) };
        for (rule, ttl) in rules.iter_mut().zip(of_rules) {
            rule.ttl = ttl.and_then(minutes);
        }
        rules.push(other);
        let requested = TokenParams { ttl: requested.and_then(minutes), ..TokenParams::default() };
        let policy = Policy { rules, ttl: configured.and_then(minutes), require: None };
        let outcome = policy.decide(&session(&json!({})), &requested).outcome.unwrap();
        assert_eq!(outcome.ttl, granted.and_then(minutes), "{configured:?} {of_rules:?} {requested:?}");
        if of_rules == [None, None] {
            let unruled = Policy { rules: Vec::new(), ..policy };
            assert_eq!(unruled.decide(&session(&json!({})), &requested).outcome.unwrap().ttl, outcome.ttl);
        }
    }
}

#[test]
fn the_first_channel_claim_and_the_highest_publish_rate_count() {
    let mut rules = vec![rule("a", None, &[("a", &["*"])]), rule("b", None, &[("b", &["*"])])];
    let resource = |text: &str| -> ResourceTemplate { text.parse().unwrap() };
    rules[0].channel_claims = vec![(resource("chat:{user_id}"), "owner".into())];
    rules[1].channel_claims = vec![(resource("chat:*"), "guest".into()), (resource("chat:user_1"), "guest".into())];
    rules[0].publish_rate = vec![(resource("chat:*"), 5.into())];
    rules[1].publish_rate = vec![(resource("chat:*"), Number::from_f64(7.5).unwrap())];
    let policy = Policy { rules, ..Policy::default() };
    let grant = policy.decide(&session(&json!({})), &TokenParams::default()).outcome.unwrap();
    assert_eq!(json!(grant.channel_claims), json!({ "chat:*": "guest", "chat:user_1": "owner" }));
    assert_eq!(json!(grant.publish_rate), json!({ "chat:*": 7.5 }));
}

#[test]
fn a_rule_grants_nothing_if_its_publish_rate_or_channel_claim_drops_out() {
    let resource = |text: &str| -> ResourceTemplate { text.parse().unwrap() };
    let limited = || Rule { ttl: minutes(1), ..rule("limited", None, &[("chat:*", &["publish"]), ("a", &["*"])]) };
    let of_rate = Rule { publish_rate: vec![(resource("chat:{claim.team}"), 5.into())], ..limited() };
    let of_claim = Rule { channel_claims: vec![(resource("chat:{claim.team}"), "guest".into())], ..limited() };
    for rule_with_a_term in [of_rate, of_claim] {
        let policy = Policy { rules: vec![rule_with_a_term, rule("b", None, &[("b", &["*"])])], ..Policy::default() };
        for team in [json!(null), json!("a:b")] {
            let session = session(&json!({ "team": team }));
            let decision = policy.decide(&session, &TokenParams::default());
            let grant = decision.outcome.unwrap();
            assert_eq!(grant.capability.unwrap().to_string(), r#"{"b":["*"]}"#);
            assert_eq!((grant.ttl, &grant.rules[..]), (None, &[RuleName::new("b")][..]));
            assert_eq!((grant.channel_claims.len(), grant.publish_rate.len()), (0, 0));
            let [dropped] = &decision.dropped[..] else { panic!("one resource drops out") };
            assert_eq!(dropped.loses, Loss::Rule);
            assert!(dropped.to_string().ends_with("; without it the rule grants nothing"), "{dropped}");
            let explained = &policy.explain(&session, &TokenParams::default()).rules[0];
            assert_eq!((explained.verdict, &explained.dropped[..]), (Truth::True, &decision.dropped[..]));
        }
        let grant = policy.decide(&session(&json!({ "team": "red" })), &TokenParams::default()).outcome.unwrap();
        assert_eq!(grant.capability.unwrap().to_string(), r#"{"a":["*"],"b":["*"],"chat:*":["publish"]}"#);
        assert_eq!(grant.channel_claims.len() + grant.publish_rate.len(), 1);
        assert_eq!(grant.ttl, minutes(1));
    }
}

#[test]
fn an_explanation_names_every_rule_with_its_reason_and_decides_the_same() {
    let policy = Policy { require: Some(Condition::Impersonated(false)), ..policy() };
    for claims in [json!({}), json!({ "tier": "pro" }), json!({ "tier": "secret" }), json!({ "act": { "sub": "u" } })] {
        let (session, requested) = (session(&claims), requesting(r#"{"lobby":["*"]}"#));
        assert_eq!(policy.explain(&session, &requested).outcome, policy.decide(&session, &requested).outcome);
    }
    let explanation = policy.explain(&session(&json!({ "tier": "secret" })), &requesting(r#"{"lobby":["*"]}"#));
    insta::assert_json_snapshot!(explanation, @r#"
    {
      "require": {
        "condition": "not impersonated",
        "truth": "matched",
        "because": "it is so"
      },
      "rules": [
        {
          "name": "own",
          "verdict": "matched"
        },
        {
          "name": "admins",
          "verdict": "not matched",
          "when": {
            "condition": "role is org:admin",
            "truth": "not matched",
            "because": "no organization is active"
          }
        },
        {
          "name": "pro",
          "verdict": "not matched",
          "when": {
            "condition": "claim tier is or has \"pro\"",
            "truth": "not matched",
            "because": "it is not so"
          }
        }
      ],
      "granted": "{\"lobby\":[\"subscribe\"],\"private:user_1:*\":[\"*\"]}",
      "outcome": {
        "granted": {
          "capability": "{\"lobby\":[\"subscribe\"]}",
          "ttl": null,
          "rules": [
            "own"
          ]
        }
      }
    }
    "#);
    let explanation = policy.explain(&session(&json!({ "tier": "pro", "team": "a:secret" })), &TokenParams::default());
    let text = serde_json::to_string(&explanation).unwrap();
    assert!(text.contains("forbidden") && !text.contains("secret"), "{text}");
}
