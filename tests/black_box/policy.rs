//! Who gets what by a policy, and what ends the start.

use std::{collections::BTreeMap, fs};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    service::{Service, Vendors, command, json, refusal, rendered, request_id, run_with_file},
    tokens::exchanged,
};

const POLICY: &str = r#"
[token]
ttl = "30m"
require = { claim = { "suspended" = false } }

[[grants]]
name = "own"
when = { not = { role = "guest" } }
capability = { "private:{user_id}:*" = ["*"], "lobby" = ["subscribe"], "team:{claim.team}" = ["subscribe"] }

[[grants]]
name = "admins"
when = { role = "admin", plan = "pro" }
capability = { "org:{org_id}:*" = ["*"], "lobby" = ["publish"] }
ttl = "10m"
"#;

async fn service(vendors: &Vendors, policy: &str) -> Service {
    let service = vendors.service_with_file(policy, &[("LOG_LEVEL", "debug")]);
    service.wait_until_ready().await;
    service
}

fn organization(role: &str, plan: &str) -> Value {
    json!({ "suspended": false, "o": { "id": "org_1", "slg": "acme", "rol": role }, "pla": plan })
}

#[tokio::test]
async fn rules_that_match_add_up_and_ably_takes_the_result() {
    let vendors = Vendors::start().await;
    let service = service(&vendors, POLICY).await;
    let user = vendors.user("alice");
    let own = format!(r#""private:{user}:*":["*"]"#);
    for (claims, capability, ttl, rules) in [
        (organization("member", "o:pro"), format!(r#"{{"lobby":["subscribe"],{own}}}"#), 1_800_000, "own"),
        (organization("admin", "o:free"), format!(r#"{{"lobby":["subscribe"],{own}}}"#), 1_800_000, "own"),
        (
            organization("admin", "o:pro"),
            format!(r#"{{"lobby":["publish","subscribe"],"org:org_1:*":["*"],{own}}}"#),
            600_000,
            "own, admins",
        ),
    ] {
        let response = service.token(&vendors.token_with(&claims)).await;
        let id = request_id(&response);
        let token_request = json(response, 200).await;
        assert_eq!(token_request["capability"], capability);
        assert_eq!(token_request["ttl"], ttl);
        assert_eq!(exchanged(&vendors, &token_request).await["capability"], capability);
        assert_eq!(service.logged_of(&id).await["rules"], rules);
    }
    let dropped = service.logged("resource dropped from the grant").await;
    assert_eq!((&dropped["resource"], &dropped["rule"]), (&json!("team:{claim.team}"), &json!("own")), "{dropped}");
}

#[tokio::test]
async fn a_value_that_is_not_one_segment_opens_no_channel_and_is_not_logged() {
    let vendors = Vendors::start().await;
    let service = service(&vendors, POLICY).await;
    for team in ["*", "red:*", "a,b", "[meta]x"] {
        let token = vendors.token_with(&json!({ "suspended": false, "team": team }));
        let capability = json(service.token(&token).await, 200).await["capability"].clone();
        assert!(!capability.as_str().unwrap().contains("team"), "{capability}");
    }
    let token = vendors.token_with(&json!({ "suspended": false, "team": "red" }));
    let capability = json(service.token(&token).await, 200).await["capability"].clone();
    assert!(capability.as_str().unwrap().contains(r#""team:red":["subscribe"]"#), "{capability}");
    assert!(!format!("{:?}", service.log()).contains("red:*"));
}

#[tokio::test]
async fn whom_no_rule_matches_and_who_does_not_meet_the_requirement_are_told_apart() {
    let vendors = Vendors::start().await;
    let service = service(&vendors, POLICY).await;
    let response = service.token(&vendors.token_with(&organization("guest", ""))).await;
    insta::assert_snapshot!(rendered(response).await, @r##"
    HTTP/1.1 403 Forbidden
    cache-control: no-store
    content-type: application/json
    cross-origin-resource-policy: same-origin
    ratelimit-policy: "tokens";q=20;w=20
    ratelimit: "tokens";r=19;t=19
    vary: Origin
    x-ably-errorcode: 40160
    x-ably-errormessage: The policy grants this session nothing: no rule matches, or no placeholder of the matching rules can be filled. (policy-grants-nothing)
    x-content-type-options: nosniff

    {"error":{"code":40160,"statusCode":403,"message":"The policy grants this session nothing: no rule matches, or no placeholder of the matching rules can be filled. (policy-grants-nothing)","href":"https://help.ably.io/error/40160"}}
    "##);
    for (claims, expected, reason) in [
        (organization("guest", "o:pro"), (403, 40160), "policy-grants-nothing"),
        (json!({ "suspended": true }), (403, 40300), "policy-requirement-unmet"),
        (json!({}), (403, 40300), "policy-requirement-unmet"),
        (json!({ "suspended": null }), (403, 40300), "policy-requirement-unmet"),
    ] {
        let response = service.token(&vendors.token_with(&claims)).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, expected, "{claims}");
        assert_eq!(service.logged_of(&id).await["reason"], reason);
    }
}

#[tokio::test]
async fn a_client_gets_no_more_than_it_asks_for_and_no_more_than_it_is_granted() {
    let vendors = Vendors::start().await;
    let service = service(&vendors, POLICY).await;
    let user = vendors.user("alice");
    let token = || vendors.token_with(&organization("admin", "o:pro"));
    let query = |capability: Value| {
        form_urlencoded::Serializer::new(String::new()).append_pair("capability", &capability.to_string()).finish()
    };
    for (asked, granted) in [
        (json!({ "lobby": ["publish", "history"] }), json!({ "lobby": ["publish"] })),
        (json!({ "org:*": ["subscribe"] }), json!({ "org:org_1:*": ["subscribe"] })),
        (
            json!({ "org:org_1": ["presence"], format!("private:{user}:a"): ["*"], "other": ["*"] }),
            json!({ "org:org_1": ["presence"], format!("private:{user}:a"): ["*"] }),
        ),
    ] {
        let token_request = json(service.token_with(&token(), &query(asked)).await, 200).await;
        let capability: Value = serde_json::from_str(token_request["capability"].as_str().unwrap()).unwrap();
        assert_eq!(capability, granted);
        exchanged(&vendors, &token_request).await;
    }
    for asked in
        [json!({ "other": ["*"] }), json!({ "lobby": ["presence"] }), json!({ "private:user_2:a": ["subscribe"] })]
    {
        let response = service.token_with(&token(), &query(asked)).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, (403, 40160));
        assert_eq!(service.logged_of(&id).await["reason"], "policy-grants-nothing-asked");
    }
    let many: BTreeMap<_, _> = (0..513).map(|position| (format!("c{position}"), ["*"])).collect();
    let post = service.request(Method::POST, "/api/ably").bearer_auth(token());
    let form = format!("capability={}", json!(many));
    let response = post.header("Content-Type", "application/x-www-form-urlencoded").body(form).send().await.unwrap();
    let id = request_id(&response);
    assert_eq!(refusal(response).await, (400, 40000));
    assert_eq!(service.logged_of(&id).await["reason"], "policy-asked-too-much");
    for (asked, granted) in [(60_000, 60_000), (900_000, 600_000), (86_400_000, 600_000)] {
        let token_request = json(service.token_with(&token(), &format!("ttl={asked}")).await, 200).await;
        assert_eq!(token_request["ttl"], granted);
    }
}

#[tokio::test]
async fn the_keys_own_capability_can_be_meant() {
    let vendors = Vendors::start().await;
    for (settings, warned) in [(vec![], true), (vec![("TOKEN_CAPABILITY", "key")], false)] {
        let service = vendors.service_with(&settings).await;
        let token_request = json(service.token(&vendors.token("alice")).await, 200).await;
        assert_eq!(token_request.get("capability"), None);
        let warning =
            service.log().iter().any(|entry| entry["message"].as_str().unwrap_or_default().starts_with("no policy"));
        assert_eq!(warning, warned);
    }
}

#[test]
fn a_broken_policy_ends_the_start_with_every_problem_and_its_place() {
    let settings =
        [("ABLY_API_KEY", "app.key:hushhush"), ("CLERK_PUBLISHABLE_KEY", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (mut command, directory) = command(&settings);
    let broken = r#"[token]
capability = "key"

[[grants]]
name = "rooms"
when = { all = [{ impersonated = true }, { impersonated = false }] }
capability = { "rooms*" = ["subscribe"], "{org_slug}:*" = ["*", "publish"], "chat:{email}" = ["fly"] }

[[grants]]
name = "rooms"
when = { claims = { tier = "pro" } }
capability = { "a" = [] }
ttl = "2d"
"#;
    fs::write(directory.path().join("ably-clerk-auth.toml"), broken).unwrap();
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stderr), @r##"
    ably-clerk-auth: the configuration has 11 problems:
      - TOKEN_CAPABILITY ([token] capability): gives every token the API key's whole capability, and [[grants]] restrict it; remove one of the two
      - ably-clerk-auth.toml, line 6, column 8: [[grants]] "rooms": when contradicts itself, so the rule never matches; correct it
      - ably-clerk-auth.toml, line 7, column 16: [[grants]] "rooms": the resource "rooms*": Ably takes "rooms*" for a literal name, not a pattern: * stands for a whole segment, as in "rooms:*"
      - ably-clerk-auth.toml, line 7, column 42: [[grants]] "rooms": the resource "{org_slug}:*": {org_slug} needs a literal segment before it, or {user_id}, {session_id} or {org_id}: a user or an organization chooses its value, which could be the name of any namespace or channel
      - ably-clerk-auth.toml, line 7, column 59: [[grants]] "rooms": "*" stands beside other operations
      - ably-clerk-auth.toml, line 7, column 77: [[grants]] "rooms": the resource "chat:{email}": {email} is unknown: use {user_id}, {username}, {session_id}, {org_id}, {org_slug}, {org_role} or {claim.PATH}
      - ably-clerk-auth.toml, line 7, column 94: [[grants]] "rooms": "fly" is not an operation of Ably's
      - ably-clerk-auth.toml, line 10, column 8: [[grants]] "rooms": another table has this name; write another
      - ably-clerk-auth.toml, line 11, column 10: [[grants]] "rooms": unknown condition "claims"; use one of: role, permission, plan, feature, organization, claim, reverified, impersonated, agent, any, all, not
      - ably-clerk-auth.toml, line 12, column 22: [[grants]] "rooms": an empty list; write a list of operations, like ["subscribe"]
      - ably-clerk-auth.toml, line 13, column 7: [[grants]] "rooms": ttl: longer than the 24 hours that Ably allows; use 24h or less
    Nothing was started. `ably-clerk-auth --help` lists all settings.
    "##);
}

/// Names that look like a grant, and give nothing at Ably; and what the message says to write.
const NAMES_NOTHING: [(&str, &str); 4] = [
    ("[chat]lobby", "[chat] is obsolete: a Chat room is covered by its name, without a qualifier; write \"lobby\""),
    ("[chat]*", "write \"*\""),
    ("lobby::$chat", "the channel of a Chat room is covered by the name of the room; write \"lobby\""),
    ("[meta]occupancy:lobby", "add the operation \"channel-metadata\" to the channel's own resource"),
];

fn rule(resource: &str) -> String {
    format!("[[grants]]\nname = \"chat\"\ncapability = {{ \"{resource}\" = [\"subscribe\"] }}\n")
}

#[tokio::test]
async fn a_resource_that_gives_nothing_at_ably_is_refused_with_its_cure_at_the_start_and_by_explain() {
    let vendors = Vendors::start().await;
    for (resource, cure) in NAMES_NOTHING {
        for arguments in [&["serve"][..], &["explain", "--claims", "-"]] {
            let output = run_with_file(&vendors.settings(), &rule(resource), arguments);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains("ably-clerk-auth.toml, line 3, column 16: ") && told.contains(cure), "{told}");
            assert_eq!(output.status.code(), Some(1), "{resource}");
        }
    }
}

#[tokio::test]
async fn a_resource_that_gives_nothing_at_ably_is_refused_with_its_cure_at_a_reload() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_file(&rule("lobby"), &[]);
    service.wait_until_ready().await;
    service.replace_toml(&rule(NAMES_NOTHING[0].0));
    service.logged("the new configuration is refused; the old policy stays in force").await;
    assert!(service.log().iter().any(|entry| entry.to_string().contains("[chat] is obsolete")), "{:?}", service.log());
    assert_eq!(
        json(service.token(&vendors.token("alice")).await, 200).await["capability"],
        r#"{"lobby":["subscribe"]}"#
    );
}
