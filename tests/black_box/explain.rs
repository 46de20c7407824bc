//! What an operator is told of a decision, and their own tests of a policy.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

use sandbox::clerk::Outage;
use serde_json::{Value, json};

use crate::service::{Vendors, command, text};

const POLICY: &str = r#"
[token]
ttl = "30m"
require = { impersonated = false }

[[grants]]
name = "own"
capability = { "private:{user_id}:*" = ["*"], "lobby" = ["subscribe"], "team:{claim.team}" = ["subscribe"] }

[[grants]]
name = "admins"
when = { role = "admin", not = { claim = { "metadata.tier" = "free" } } }
capability = { "org:{org_id}:*" = ["*"], "lobby" = ["publish"] }
ttl = "10m"

[[grants]]
name = "editors"
when = { permission = "docs:write" }
capability = { "docs:{org_id}:*" = ["publish"] }
"#;

const INPUT: &str = "input";

/// Runs `arguments` beside a policy and a file of the name `input`, whose text is the standard input too.
fn run(settings: &[(String, String)], policy: &str, input: &str, arguments: &[&str]) -> Output {
    let (mut command, directory) = command(settings);
    fs::write(directory.path().join("ably-clerk-auth.toml"), policy).unwrap();
    fs::write(directory.path().join(INPUT), input).unwrap();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What does not read its input may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn explain(vendors: &Vendors, input: &str, arguments: &[&str]) -> Output {
    run(&vendors.settings(), POLICY, input, &[&["explain"], arguments].concat())
}

fn without_secret_key(vendors: &Vendors) -> Vec<(String, String)> {
    let mut settings = vendors.settings();
    settings.push(("CLERK_SECRET_KEY".into(), String::new()));
    settings.push(("CLERK_JWT_KEY".into(), vendors.clerk.jwt_key().to_owned()));
    settings
}

fn admin() -> Value {
    json!({ "sub": "user_1", "username": "alice", "o": { "id": "org_1", "slg": "acme", "rol": "admin" }, "team": "a:b" })
}

#[tokio::test]
async fn claims_are_explained_rule_by_rule() {
    let vendors = Vendors::start().await;
    let output = explain(&vendors, &admin().to_string(), &["--claims", INPUT, "--param", "ttl=60000"]);
    insta::assert_snapshot!(text(&output), @r##"
    session token  none; the claims are taken as verified
    filled in      sid, iat, exp, v
    user           user_1
    session        sess_example
    organization   org_1 (acme), org:admin
    impersonator   none
    client ID      alice

    required of every session
      matched      not impersonated: it is so

    rules
      matched      own
          dropped      team:{claim.team}: {claim.team}: the value has a character that is not allowed: one of : * [ ] , or a control character
      unknown      admins
          unknown      all of
            unknown      not
              unknown      claim metadata.tier is or has "free": the session token has no such claim
            matched      role is org:admin: it is so
      not matched  editors
          not matched  permission org:docs:write: it is not so

    capability
      lobby             subscribe
      private:user_1:*  *
    ttl            1m
    format         token_request

    A token would be issued.
    "##);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(vendors.clerk.calls(), sandbox::clerk::Calls::default());
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a whole answer")]
async fn a_script_reads_the_same() {
    let vendors = Vendors::start().await;
    let output = explain(&vendors, &admin().to_string(), &["--claims", "-", "--json"]);
    insta::assert_snapshot!(text(&output), @r##"
    {
      "caller": {
        "impersonator": null,
        "organization": {
          "id": "org_1",
          "permissions": [],
          "role": "org:admin",
          "slug": "acme"
        },
        "session_id": "sess_example",
        "user_id": "user_1"
      },
      "capability": {
        "lobby": [
          "subscribe"
        ],
        "private:user_1:*": [
          "*"
        ]
      },
      "client_id": "alice",
      "format": "token_request",
      "issued": true,
      "policy": {
        "granted": "{\"lobby\":[\"subscribe\"],\"private:user_1:*\":[\"*\"]}",
        "outcome": {
          "granted": {
            "capability": "{\"lobby\":[\"subscribe\"],\"private:user_1:*\":[\"*\"]}",
            "rules": [
              "own"
            ],
            "ttl": 1800000
          }
        },
        "require": {
          "because": "it is so",
          "condition": "not impersonated",
          "truth": "matched"
        },
        "rules": [
          {
            "dropped": [
              {
                "loses": "resource",
                "placeholder": "{claim.team}",
                "resource": "team:{claim.team}",
                "rule": "own",
                "why": "forbidden"
              }
            ],
            "name": "own",
            "verdict": "matched"
          },
          {
            "name": "admins",
            "verdict": "unknown",
            "when": {
              "condition": "all of",
              "parts": [
                {
                  "condition": "not",
                  "parts": [
                    {
                      "because": "the session token has no such claim",
                      "condition": "claim metadata.tier is or has \"free\"",
                      "truth": "unknown"
                    }
                  ],
                  "truth": "unknown"
                },
                {
                  "because": "it is so",
                  "condition": "role is org:admin",
                  "truth": "matched"
                }
              ],
              "truth": "unknown"
            }
          },
          {
            "name": "editors",
            "verdict": "not matched",
            "when": {
              "because": "it is not so",
              "condition": "permission org:docs:write",
              "truth": "not matched"
            }
          }
        ]
      },
      "refusal": null,
      "session_token": {
        "filled_in": [
          "sid",
          "iat",
          "exp",
          "v"
        ],
        "reason": null,
        "verified": false
      },
      "tenant": "default",
      "ttl_ms": 1800000
    }
    "##);
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn a_script_learns_why_there_would_be_no_token() {
    let vendors = Vendors::start().await;
    let arguments = ["--claims", "-", "--json", "--param", r#"capability={"docs:x":["publish"]}"#];
    let output = explain(&vendors, &admin().to_string(), &arguments);
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explained["refusal"]["code"], 40160);
    assert_eq!((&explained["issued"], &explained["capability"]), (&json!(false), &Value::Null));
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn a_session_token_is_verified_and_its_user_looked_up_once() {
    let vendors = Vendors::start().await;
    let token = vendors.token("alice");
    let claims = json!({ "username": null });
    for input in [&token, &vendors.token_with(&claims)] {
        let user = vendors.user("alice");
        let report = text(&explain(&vendors, &format!("{input}\n"), &["--session-token", "-"]));
        for part in ["session token  verified; ends in", &user, "client ID      alice", "A token would be issued."] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
        assert!(!report.contains(input.as_str()));
    }
    assert!(vendors.clerk.calls().users <= 2, "{:?}", vendors.clerk.calls());
    let output = explain(&vendors, "", &["--session-token", &token]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn a_session_token_that_would_be_refused_is_explained_if_its_signature_holds() {
    let vendors = Vendors::start().await;
    let now = vendors.clerk.session_claims(&vendors.user("alice"))["iat"].as_i64().unwrap();
    let tokens = [
        (json!({ "exp": now - 100, "iat": now - 160, "nbf": now - 170 }), "expired", "token-expired"),
        (json!({ "azp": "https://evil.example.com" }), "azp is not among", "token-invalid-authorized-party"),
        (json!({ "sts": "pending" }), "sts is pending", "session-pending"),
    ];
    for (claims, why, reason) in tokens {
        let token = vendors.token_with(&claims);
        let output = explain(&vendors, &token, &["--session-token", "-"]);
        let report = text(&output);
        assert!(report.contains(&format!("session token  would be refused: {why}")), "{report}");
        assert!(report.contains("matched      own") && report.contains("No token: 401, code 40101"), "{report}");
        assert_eq!(output.status.code(), Some(1));
        let output = explain(&vendors, &token, &["--session-token", "-", "--json"]);
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(explained["session_token"]["reason"], reason);
        assert_eq!(explained["policy"]["rules"][0]["verdict"], "matched");
    }
    let token = vendors.token("alice");
    let (before, after) = (&token[..token.len() - 20], &token[token.len() - 19..]);
    let other = if token[before.len()..].starts_with('A') { 'B' } else { 'A' };
    let output = explain(&vendors, &format!("{before}{other}{after}"), &["--session-token", "-"]);
    insta::assert_snapshot!(text(&output), @r##"
    session token  would be refused: the signature was not made with the instance's key

    No token: 401, code 40101: The signature of the session token is invalid.
    "##);
    assert_eq!(output.status.code(), Some(1));
    vendors.clerk.set_outage(Some(Outage::Drop));
    let report = text(&explain(&vendors, &token, &["--session-token", "-"]));
    assert!(report.contains("No token: 503, code 50003"), "{report}");
}

#[tokio::test]
async fn claims_without_a_username_are_not_refused() {
    let vendors = Vendors::start().await;
    let settings = without_secret_key(&vendors);
    for (settings, claims, note) in [
        (&settings, json!({}), "unknown: the claims have no username, and looking it up needs a secret key"),
        (&vendors.settings(), json!({}), "unknown: the claims have no username, and looking it up needs a sub"),
    ] {
        let output = run(settings, POLICY, &claims.to_string(), &["explain", "--claims", "-"]);
        assert!(text(&output).contains(note), "{}", text(&output));
        assert!(text(&output).contains("filled in      sub, sid, iat, exp, v"), "{}", text(&output));
        assert_eq!(output.status.code(), Some(0));
    }
    assert_eq!(vendors.clerk.calls().users, 0);
    let token = vendors.token_with(&json!({ "username": null }));
    let output = run(&settings, POLICY, &token, &["explain", "--session-token", "-"]);
    assert!(
        text(&output).contains("client ID      none: the session token has no username claim"),
        "{}",
        text(&output)
    );
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn what_is_not_explained_says_why_and_shows_no_token() {
    let vendors = Vendors::start().await;
    let token = vendors.token("alice");
    for (input, arguments, code, message) in [
        ("", &["explain"][..], 2, "required"),
        ("", &["explain", "--session-token", &token, "--claims", "x"], 2, "cannot be used with"),
        (" \n", &["explain", "--session-token", "-"], 1, "no session token was given"),
        ("{", &["explain", "--claims", "-"], 1, "the claims are not JSON: line 1, column 1"),
        ("[]", &["explain", "--claims", INPUT], 1, "the claims are not a JSON object"),
        ("", &["explain", "--claims", &token], 1, "the file of --claims cannot be read"),
        ("", &["explain", "--claims", INPUT, &token], 1, "unexpected argument"),
        ("", &["explain", "--claims", INPUT, "--param", &token], 1, "invalid --param"),
        ("{}", &["explain", "--claims", INPUT, "--param", "ttl=0"], 1, "No token: 400, code 40003"),
        ("{}", &["explain", "--claims", INPUT, "--param", "role=admin"], 1, "invalid --param"),
    ] {
        let output = run(&vendors.settings(), POLICY, input, arguments);
        assert!(text(&output).contains(message), "{message} is not in {}", text(&output));
        assert!(!text(&output).contains(&token), "{}", text(&output));
        assert_eq!(output.status.code(), Some(code), "{message}");
    }
}

fn repository(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[test]
fn the_example_of_policy_tests_passes_without_any_key_and_is_the_one_in_the_documentation() {
    let (example, document) = (repository("policy-tests.example.toml"), repository("docs/policy.md"));
    assert!(document.contains(&format!("```toml tests\n{example}```")));
    let policy = document.split("```toml\n").nth(1).unwrap().split_once("```").unwrap().0;
    let output = run(&[], policy, &example, &["check", "--policy-tests", INPUT]);
    insta::assert_snapshot!(text(&output), @r##"
    ok    everybody has channels of their own, and chats
    ok    administrators of paying organizations get its channels, for ten minutes at a time
    ok    members do not
    3 passed, 0 failed
    "##);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_policy_test_that_fails_says_what_differs() {
    let tests = r#"
        [[cases]]
        name = "an admin"
        claims = { sub = "user_1", username = "alice", o = { id = "org_1", rol = "admin" }, metadata = { tier = "pro" } }
        expect = { capability = { "private:user_1:*" = ["*"], lobby = ["subscribe"], "org:org_2:*" = ["*"] }, ttl = "30m", client_id = "bob" }
        [[cases]]
        name = "an impersonated user"
        claims = { act = { sub = "user_2" } }
        expect = { refused = 40300 }
        [[cases]]
        name = "a user who asks for too much"
        claims = {}
        params = { capability = { secret = ["*"] } }
        expect = { capability = { secret = ["*"] } }
        [[cases]]
        name = "a user"
        claims = { username = "alice" }
        params = { clientId = "alice" }
        expect = { refused = 40012 }
        [[cases]]
        name = "a user, without a policy"
        claims = { team = "red" }
        expect = { capability = "key" }
    "#;
    let output = run(&[], POLICY, tests, &["check", "--policy-tests", INPUT]);
    insta::assert_snapshot!(text(&output), @r##"
    FAIL  an admin
            lobby        expected subscribe  got publish, subscribe
            org:org_1:*  expected nothing    got *
            org:org_2:*  expected *          got nothing
            ttl          expected 30m        got 10m
            client_id    expected bob        got alice
    ok    an impersonated user
    FAIL  a user who asks for too much
            outcome  expected a token  got refused, 40160: The policy grants nothing of the capability asked for. Ask for less, or leave the capability out.
    FAIL  a user
            outcome  expected refused, 40012  got a token
    FAIL  a user, without a policy
            capability              expected the key's own  got resources
            lobby                   expected nothing        got subscribe
            private:user_example:*  expected nothing        got *
            team:red                expected nothing        got subscribe
    1 passed, 4 failed
    "##);
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn a_rule_that_grants_nothing_without_its_limit_is_told() {
    let policy = r#"
        [[grants]]
        name = "lobby"
        capability = { "lobby" = ["subscribe"] }
        [[grants]]
        name = "limited"
        capability = { "rooms:*" = ["publish"] }
        publish_rate = { "rooms:{org_id}:*" = 1 }
    "#;
    let vendors = Vendors::start().await;
    let settings = [vendors.settings(), vec![("TOKEN_FORMAT".into(), "jwt".into())]].concat();
    let claims = json!({ "username": "alice" }).to_string();
    let told = text(&run(&settings, policy, &claims, &["explain", "--claims", INPUT]));
    let lost = "rooms:{org_id}:*: {org_id}: the session has no such value; without it the rule grants nothing\n";
    assert!(told.contains(lost) && told.contains("capability\n  lobby  subscribe\nttl"), "{told}");
}

#[test]
fn a_policy_test_may_expect_what_only_a_jwt_carries() {
    let grants = r#"
        [[grants]]
        name = "chat"
        capability = { "chat:*" = ["*"] }
        channel_claims = { "chat:{user_id}" = "owner", "chat:*" = "guest" }
        publish_rate = { "chat:*" = 5, "news" = 0.5 }
    "#;
    let tests = r#"
[[cases]]
name = "as it is"
claims = { sub = "user_1" }
expect = { capability = { "chat:*" = ["*"] }, channel_claims = { "chat:user_1" = "owner", "chat:*" = "guest" }, publish_rate = { "chat:*" = 5.0, news = 0.5 } }
[[cases]]
name = "not as it is"
claims = { sub = "user_1" }
expect = { capability = { "chat:*" = ["*"] }, channel_claims = { "chat:*" = "owner", "lobby" = "guest" }, publish_rate = {} }
"#;
    let output = run(&[("TOKEN_FORMAT".into(), "jwt".into())], grants, tests, &["check", "--policy-tests", INPUT]);
    insta::assert_snapshot!(text(&output), @r##"
    ok    as it is
    FAIL  not as it is
            channel_claims chat:*       expected owner    got guest
            channel_claims chat:user_1  expected nothing  got owner
            channel_claims lobby        expected guest    got nothing
            publish_rate chat:*         expected nothing  got 5
            publish_rate news           expected nothing  got 0.5
    1 passed, 1 failed
    "##);
    assert_eq!(output.status.code(), Some(1));
    let policy = "[[grants]]\nname = \"a\"\ncapability = { a = [\"*\"] }";
    let output = run(&[], policy, tests, &["check", "--policy-tests", INPUT]);
    insta::assert_snapshot!(text(&output), @r##"
    ably-clerk-auth: the policy tests have 4 problems:
      - input, line 5, column 47: [[cases]] "as it is": channel_claims: only JWTs can carry it; set [token] format to jwt, or remove it
      - input, line 5, column 113: [[cases]] "as it is": publish_rate: only JWTs can carry it; set [token] format to jwt, or remove it
      - input, line 9, column 47: [[cases]] "not as it is": channel_claims: only JWTs can carry it; set [token] format to jwt, or remove it
      - input, line 9, column 107: [[cases]] "not as it is": publish_rate: only JWTs can carry it; set [token] format to jwt, or remove it
    "##);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn broken_files_are_told_with_line_and_column() {
    let output = run(&[], POLICY, "[[cases]]\nnames = \"a\"\n", &["check", "--policy-tests", INPUT]);
    insta::assert_snapshot!(text(&output), @r##"
    ably-clerk-auth: the policy tests have 4 problems:
      - input, line 1, column 1: [[cases]] number 1: name is missing; add it
      - input, line 1, column 1: [[cases]] number 1: claims is missing; add it
      - input, line 1, column 1: [[cases]] number 1: expect is missing; add it
      - input, line 2, column 1: [[cases]] number 1: unknown key "names"; use one of: name, tenant, claims, params, expect
    "##);
    assert_eq!(output.status.code(), Some(1));
    let tests = "[[cases]]\nname = \"a\"\nclaims = {}\nexpect = { refused = 40160 }";
    for (policy, file, message) in [
        ("[[grants]]\nnam = \"a\"", INPUT, "ably-clerk-auth.toml, line 2, column 1"),
        ("[[grants", INPUT, "ably-clerk-auth.toml, line 1"),
        (POLICY, "nowhere.toml", "nowhere.toml cannot be read"),
    ] {
        let output = run(&[], policy, tests, &["check", "--policy-tests", file]);
        assert!(text(&output).contains(message), "{}", text(&output));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[tokio::test]
async fn an_impersonator_is_shown_and_an_agent_as_one() {
    let vendors = Vendors::start().await;
    for (act, line, agent) in [
        (json!({ "sub": "user_support" }), "impersonator   user_support\n", Value::Null),
        (json!({ "sub": "agent_1", "type": "agent" }), "impersonator   agent_1, an agent\n", json!(true)),
    ] {
        let mut claims = admin();
        claims["act"] = act.clone();
        let told = text(&explain(&vendors, &claims.to_string(), &["--claims", INPUT]));
        assert!(told.contains(line), "{told}");
        let told = text(&explain(&vendors, &claims.to_string(), &["--claims", "-", "--json"]));
        let caller = &serde_json::from_str::<Value>(&told).unwrap()["caller"];
        assert_eq!((&caller["impersonator"], &caller["agent"]), (&act["sub"], &agent));
    }
}

#[tokio::test]
async fn the_organization_that_a_client_asks_for_is_explained() {
    let vendors = Vendors::start().await;
    for (asked, told) in
        [("organization=acme", "A token would be issued."), ("organization=org_2", "not active in the organization")]
    {
        let arguments = ["--claims", INPUT, "--param", asked];
        let output = text(&explain(&vendors, &admin().to_string(), &arguments));
        assert!(output.contains(told), "{output}");
    }
}
