//! A policy that changes while the service runs.

use std::time::Duration;

use serde_json::Value;

use crate::service::{Service, Vendors, json, refusal};

fn rule(channel: &str) -> String {
    format!("[[grants]]\nname = \"{channel}\"\ncapability = {{ \"{channel}\" = [\"subscribe\"] }}\n")
}

async fn capability(vendors: &Vendors, service: &Service) -> Value {
    json(service.token(&vendors.token("alice")).await, 200).await["capability"].take()
}

#[tokio::test]
async fn a_changed_file_takes_effect_by_itself_and_by_a_signal() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_file(&rule("one"), &[]);
    service.wait_until_ready().await;
    assert_eq!(capability(&vendors, &service).await, r#"{"one":["subscribe"]}"#);

    service.replace_toml(&(rule("two") + &rule("three")));
    service.logged_where("rules", 2).await;
    assert_eq!(capability(&vendors, &service).await, r#"{"three":["subscribe"],"two":["subscribe"]}"#);

    service.replace_toml(&(rule("four") + &rule("five") + &rule("six")));
    service.signal("HUP");
    service.logged_where("rules", 3).await;
    let six = r#"{"five":["subscribe"],"four":["subscribe"],"six":["subscribe"]}"#;
    assert_eq!(capability(&vendors, &service).await, six);
}

#[tokio::test]
async fn a_broken_or_a_lost_file_leaves_the_old_policy_in_force() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_file(&rule("one"), &[]);
    service.wait_until_ready().await;
    for (toml, message) in [
        ("[[grants]]\ncapability = 5", "the new configuration is refused; the old policy stays in force"),
        ("", "the new configuration takes the policy away; the old one stays in force. Restart if that is meant"),
    ] {
        service.replace_toml(toml);
        service.logged(message).await;
        assert_eq!(capability(&vendors, &service).await, r#"{"one":["subscribe"]}"#, "{toml}");
    }
    service.replace_toml(&rule("two"));
    service.logged("the policy is reloaded").await;
    assert_eq!(capability(&vendors, &service).await, r#"{"two":["subscribe"]}"#);
}

#[tokio::test]
async fn a_half_written_file_is_never_loaded() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_file(&rule("one"), &[]);
    service.wait_until_ready().await;
    let open = "[[grants]]\nname = \"admins\"\ncapability = { \"*\" = [\"*\"] }\n";
    let whole = open.to_owned() + "when = { role = \"admin\" }\n" + &rule("two");
    // A writer that takes its time, and never leaves the half alone for as long as the service wants to see it twice.
    for padding in 1..=20 {
        service.overwrite_toml(&(open.to_owned() + &"#".repeat(padding)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    service.overwrite_toml(&whole);
    service.logged_where("rules", 2).await;
    assert_eq!(capability(&vendors, &service).await, r#"{"two":["subscribe"]}"#);
    assert!(service.log().iter().all(|entry| entry["rules"] != 1 || entry["message"] != "the policy is reloaded"));
}

#[tokio::test]
async fn a_request_sees_one_policy_whole() {
    let vendors = Vendors::start().await;
    let both = |channel: &str| rule(&format!("{channel}-1")) + &rule(&format!("{channel}-2"));
    let service = vendors.service_with_file(&both("a"), &[("LIMITS_TOKENS_PER_MINUTE", "0")]);
    service.wait_until_ready().await;
    let token = vendors.token("alice");
    let of = |channel: &str| format!(r#"{{"{channel}-1":["subscribe"],"{channel}-2":["subscribe"]}}"#);
    let (mut seen, mut turns) = (std::collections::BTreeSet::new(), 0);
    while seen.len() < 2 {
        turns += 1;
        assert!(turns < 20_000, "the policy is not taken");
        if turns == 50 {
            service.replace_toml(&both("b"));
        }
        let answers = futures_util::future::join_all((0..8).map(|_| service.token(&token))).await;
        for answer in answers {
            let capability = json(answer, 200).await["capability"].as_str().unwrap().to_owned();
            assert!([of("a"), of("b")].contains(&capability), "{capability}");
            seen.insert(capability);
        }
    }
}

#[tokio::test]
async fn a_requirement_is_reloaded_and_other_changes_wait_for_a_restart() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_file(&rule("one"), &[]);
    service.wait_until_ready().await;
    let required = "[token]\nttl = \"90s\"\nrequire = { role = \"admin\" }\n".to_owned() + &rule("one");
    service.replace_toml(&required);
    service.logged("the policy is reloaded").await;
    let waiting = service.logged("changed settings of this section take effect with a restart").await;
    assert_eq!(waiting["section"], "token");
    assert_eq!(refusal(service.token(&vendors.token("alice")).await).await, (403, 40300));
    let carol = json(service.token(&vendors.token("carol")).await, 200).await;
    assert_eq!((&carol["capability"], carol.get("ttl")), (&r#"{"one":["subscribe"]}"#.into(), None));
}
