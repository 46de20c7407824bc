use std::sync::Arc;

use sandbox::ably::{Ably, Options, Outage, RevocationCall};
use serde_json::{Value, json};

use super::*;
use crate::{
    ably::{ApiKey, RestClient, RevocationCounts, RevocationQueue, RevokingKey, TokenFormat},
    clerk::{Change, Event, User},
    outgoing,
    store::{Bounds, MemoryStore, OnFailure, RedisAddress, RedisKeyPrefix, RedisStore},
    tenant::{Tenants, fixtures},
};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn later(seconds: u64) -> UnixMillis {
    NOW.after(Duration::from_secs(seconds))
}

fn request(fields: &Value) -> Result<RevocationRequest, InvalidRevocationRequest> {
    RevocationRequest::parse(fields.to_string().as_bytes())
}

fn tenant(name: &str, format: TokenFormat, ably: Option<&Ably>) -> Tenant {
    let queue = |ably: &Ably| {
        let rest = RestClient::new(ably.url().parse().unwrap(), outgoing::client().unwrap());
        let key = RevokingKey { rest, api_key: ApiKey::parse(ably.api_key()).unwrap() };
        RevocationQueue::new(name, key, RevocationCounts::default())
    };
    Tenant { revocations: ably.map(queue), ..fixtures::tenant(name, format, "{username}") }
}

fn revocation_with(bounds: &Bounds, tenants: Vec<Tenant>) -> Revocation {
    Revocation::new(Arc::new(MemoryStore::new(bounds, Arc::new(|_| {}))), Arc::new(Tenants::new(tenants)), NOW)
}

fn revocation(format: TokenFormat, ably: Option<&Ably>) -> Revocation {
    revocation_with(&Bounds::default(), vec![tenant("default", format, ably)])
}

/// At a replica whose Redis is nowhere.
fn revocation_without_redis(ably: Option<&Ably>) -> Revocation {
    let nowhere = RedisAddress::parse("redis://127.0.0.1:1").unwrap();
    let prefix = RedisKeyPrefix::parse("aca:").unwrap();
    let store = RedisStore::start(
        &nowhere,
        &prefix,
        OnFailure::Degrade,
        &Bounds::default(),
        Arc::new(|| NOW),
        Arc::new(|_| {}),
    );
    Revocation::new(
        Arc::new(store.unwrap()),
        Arc::new(Tenants::new(vec![tenant("default", TokenFormat::Jwt, ably)])),
        NOW,
    )
}

async fn ably() -> Ably {
    Ably::start(Options { revocable_tokens: true, ..Options::default() }).await.unwrap()
}

impl Revocation {
    async fn give(&self, user: &str, session: &str, client_id: &str) {
        let live_token = LiveToken {
            tenant: TenantName::default(),
            user: user.into(),
            session: session.into(),
            organization: None,
            client_id: client_id.into(),
            format: self.tenants.only().unwrap().format(),
            until: later(3600),
        };
        self.store.put_live_token(live_token, NOW).await.unwrap();
    }

    async fn ordered(&self, fields: Value, now: UnixMillis) -> Value {
        serde_json::to_value(self.operator(&request(&fields).unwrap(), now).await.unwrap()).unwrap()
    }

    fn denies_user(&self, user: &str, now: UnixMillis) -> bool {
        self.store.restrictions().denies(&TenantName::default(), &Subject::User(user.into()), now)
    }

    /// Does what is due; the calls of Ably that this takes.
    async fn work_at(&self, ably: &Ably, now: UnixMillis) -> Vec<RevocationCall> {
        let before = ably.revocation_calls().len();
        self.do_due_work(|| now).await;
        ably.revocation_calls().split_off(before)
    }
}

#[test]
fn an_order_names_one_and_says_nothing_that_is_not_known() {
    let day = Duration::from_hours(24);
    let alice = RevocationRequest {
        tenant: None,
        target: RequestedTarget::User("user_1".into()),
        action: Action::Deny(day),
        run: Run::Real,
    };
    assert_eq!(request(&json!({ "user": "user_1" })), Ok(alice.clone()));
    let two_hours = RevocationRequest { action: Action::Deny(Duration::from_hours(2)), ..alice.clone() };
    assert_eq!(request(&json!({ "user": "user_1", "for": "2h", "lift": false })), Ok(two_hours));
    let lifted = RevocationRequest {
        tenant: Some(TenantName::parse("acme").unwrap()),
        target: RequestedTarget::ClientId(ClientId::parse("al:ice").unwrap()),
        action: Action::Lift,
        run: Run::Dry,
    };
    let written = json!({ "tenant": "acme", "client_id": "al:ice", "lift": true, "dry_run": true });
    assert_eq!(request(&written), Ok(lifted));
    for (fields, invalid) in [
        (json!({ "user": "user_1", "until": 5 }), InvalidRevocationRequest::Malformed),
        (json!({ "user": 5 }), InvalidRevocationRequest::Malformed),
        (json!({ "user": "user_1", "dry_run": "yes" }), InvalidRevocationRequest::Malformed),
        (json!([]), InvalidRevocationRequest::Malformed),
        (json!([null, "sess_1"]), InvalidRevocationRequest::Malformed),
        (json!({}), InvalidRevocationRequest::NotOneSubject),
        (json!({ "user": "" }), InvalidRevocationRequest::NotOneSubject),
        (json!({ "user": "user_1", "session": "sess_1" }), InvalidRevocationRequest::NotOneSubject),
        (json!({ "session": "user_1" }), InvalidRevocationRequest::NotASession),
        (json!({ "session": "sess_" }), InvalidRevocationRequest::NotASession),
        (json!({ "session": "sess_1\n", "lift": true }), InvalidRevocationRequest::NotASession),
        (json!({ "user": "sess_1" }), InvalidRevocationRequest::NotAUser),
        (json!({ "user": "user_ x" }), InvalidRevocationRequest::NotAUser),
        (json!({ "user": " user_1" }), InvalidRevocationRequest::NotAUser),
        (json!({ "user": "user_é", "dry_run": true }), InvalidRevocationRequest::NotAUser),
        (json!({ "user": "alice" }), InvalidRevocationRequest::NotAUser),
        (json!({ "client_id": "al\nice" }), InvalidRevocationRequest::NotAClientId),
        (json!({ "client_id": "\u{1b}[2J", "lift": true }), InvalidRevocationRequest::NotAClientId),
        (json!({ "client_id": "*", "dry_run": true }), InvalidRevocationRequest::NotAClientId),
        (json!({ "client_id": "" }), InvalidRevocationRequest::NotOneSubject),
        (json!({ "user": "user_1", "for": "2" }), InvalidRevocationRequest::Duration),
        (json!({ "user": "user_1", "for": "0s" }), InvalidRevocationRequest::Duration),
        (json!({ "user": "user_1", "for": "31days" }), InvalidRevocationRequest::Duration),
        (json!({ "user": "user_1", "for": "2h", "lift": true }), InvalidRevocationRequest::LastsAndLifts),
        (json!({ "user": "user_1", "tenant": "A B" }), InvalidRevocationRequest::NoSuchTenant),
    ] {
        assert_eq!(request(&fields), Err(invalid), "{fields}");
    }
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let report = Report {
        denials: vec![DenialReport {
            subject: Subject::User("u".into()),
            outcome: DenialOutcome::Denied { until: NOW },
        }],
        targets: vec![TargetReport {
            target: "clientId:alice".into(),
            allow_reauth_margin: false,
            outcome: TargetReportOutcome::Refused { code: Some(40163) },
        }],
        ..Report::new(TenantName::default(), Run::Real)
    };
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["denials"][0], json!({ "user": "u", "outcome": "denied", "until": NOW }));
    let refused = json!({
        "target": "clientId:alice", "allow_reauth_margin": false, "outcome": "refused", "code": 40163,
    });
    assert_eq!(json["targets"][0], refused);
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[tokio::test]
async fn a_denial_by_hand_ends_when_it_was_said_to() {
    let revocation = revocation(TokenFormat::Jwt, None);
    let report = revocation.ordered(json!({ "user": "user_1", "for": "2h" }), NOW).await;
    assert_eq!(report["denials"], json!([{ "user": "user_1", "outcome": "denied", "until": later(7200) }]));
    assert!(revocation.denies_user("user_1", later(7199)) && !revocation.denies_user("user_1", later(7200)));
    // The newer request counts, also when it is for less long.
    revocation.ordered(json!({ "user": "user_1", "for": "1m" }), later(1)).await;
    assert!(revocation.denies_user("user_1", later(60)) && !revocation.denies_user("user_1", later(61)));
    revocation.ordered(json!({ "user": "user_1" }), later(100)).await;
    assert!(revocation.denies_user("user_1", later(86_499)) && !revocation.denies_user("user_1", later(86_500)));
}

#[tokio::test]
async fn clerk_and_the_operator_do_not_lift_each_others_denials() {
    let revocation = revocation(TokenFormat::Jwt, None);
    let user = |banned| User { id: "user_1".into(), username: None, banned, deprovisioned: false, updated_at: 0 };
    let event = |banned, at| Event { at, change: Change::UserUpdated(user(banned)) };
    let lift = json!({ "user": "user_1", "lift": true });
    let lifted = async |now| revocation.ordered(lift.clone(), now).await["denials"][0]["outcome"].clone();

    assert_eq!(lifted(NOW).await, "not_denied");
    revocation.ordered(json!({ "user": "user_1" }), later(1)).await;
    revocation.apply(&TenantName::default(), &event(false, later(2)), later(2)).await.unwrap();
    assert!(revocation.denies_user("user_1", later(2)));
    revocation.apply(&TenantName::default(), &event(true, later(3)), later(3)).await.unwrap();
    assert_eq!(lifted(later(4)).await, "denied_by_clerk");
    assert!(revocation.denies_user("user_1", later(4)));
    revocation.ordered(json!({ "user": "user_1" }), later(5)).await;
    revocation.apply(&TenantName::default(), &event(false, later(6)), later(6)).await.unwrap();
    assert_eq!(lifted(later(7)).await, "lifted");
    assert!(!revocation.denies_user("user_1", later(7)));
}

#[tokio::test]
async fn an_order_that_is_older_than_another_changes_nothing_and_says_so() {
    let revocation = revocation(TokenFormat::Jwt, None);
    revocation.ordered(json!({ "user": "user_1" }), later(1)).await;
    let report = revocation.ordered(json!({ "user": "user_1", "lift": true }), NOW).await;
    assert_eq!((&report["denials"][0]["outcome"], &report["complete"]), (&json!("superseded"), &json!(false)));
    assert!(revocation.denies_user("user_1", later(1)));
}

#[tokio::test]
async fn a_denial_that_there_is_no_room_for_is_reported() {
    let bounds = Bounds { restrictions: 1, ..Bounds::default() };
    let revocation = revocation_with(&bounds, vec![tenant("default", TokenFormat::Jwt, None)]);
    revocation.ordered(json!({ "user": "user_1" }), NOW).await;
    let report = revocation.ordered(json!({ "user": "user_2" }), NOW).await;
    assert_eq!((&report["denials"][0]["outcome"], &report["complete"]), (&json!("store_full"), &json!(false)));
}

#[tokio::test]
async fn with_several_tenants_one_has_to_be_named() {
    let authorities = ["acme", "beta"].map(|name| tenant(name, TokenFormat::Jwt, None));
    let revocation = revocation_with(&Bounds::default(), authorities.into());
    let operator = async |fields: Value| revocation.operator(&request(&fields).unwrap(), NOW).await;
    assert_eq!(operator(json!({ "user": "user_1" })).await, Err(InvalidRevocationRequest::WithoutTenant));
    let other = json!({ "user": "user_1", "tenant": "gamma" });
    assert_eq!(operator(other).await, Err(InvalidRevocationRequest::NoSuchTenant));
    let report = operator(json!({ "user": "user_1", "tenant": "beta" })).await.unwrap();
    assert_eq!(report.tenant.as_str(), "beta");
    let denies =
        |tenant: &TenantName| revocation.store.restrictions().denies(tenant, &Subject::User("user_1".into()), NOW);
    assert_eq!(revocation.tenants.iter().map(|tenant| denies(&tenant.name)).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn each_kind_of_order_has_its_targets_and_its_margin() {
    let ably = ably().await;
    let cases = [
        (TokenFormat::TokenRequest, json!({ "session": "sess_1" }), vec![("clientId:alice", true)]),
        (TokenFormat::TokenDetails, json!({ "session": "sess_1" }), vec![("clientId:alice", true)]),
        (TokenFormat::Jwt, json!({ "session": "sess_1" }), vec![("revocationKey:sess_1", false)]),
        (TokenFormat::Jwt, json!({ "session": "sess_9" }), vec![("revocationKey:sess_9", false)]),
        (TokenFormat::TokenRequest, json!({ "session": "sess_9" }), vec![]),
        (TokenFormat::Jwt, json!({ "user": "user_1" }), vec![("clientId:alice", false), ("clientId:old-alice", false)]),
        (TokenFormat::TokenRequest, json!({ "client_id": "alice" }), vec![("clientId:alice", false)]),
        (TokenFormat::Jwt, json!({ "client_id": "nobody" }), vec![("clientId:nobody", false)]),
    ];
    for (format, fields, targets) in cases {
        let revocation = revocation(format, Some(&ably));
        revocation.give("user_1", "sess_1", "alice").await;
        revocation.give("user_1", "sess_2", "old-alice").await;
        revocation.give("user_2", "sess_3", "bob").await;
        let calls = ably.revocation_calls().len();
        let mut dry = fields.clone();
        dry["dry_run"] = true.into();
        for (fields, outcome) in [(dry, "would_be_revoked"), (fields, "accepted")] {
            let report = revocation.ordered(fields.clone(), NOW).await;
            let revoked = report["targets"].as_array().unwrap().iter().map(|revoked| {
                assert_eq!(revoked["outcome"], outcome, "{report}");
                (revoked["target"].as_str().unwrap(), revoked["allow_reauth_margin"].as_bool().unwrap())
            });
            assert_eq!(revoked.collect::<Vec<_>>(), targets, "{format:?} {fields}");
            assert_eq!(report["dry_run"], outcome != "accepted");
            // Nobody is denied by a client ID that nobody is known to have.
            assert_eq!(report["complete"], fields["client_id"] != "nobody", "{report}");
            let is_known = !["sess_9", "nobody"].iter().any(|unknown| fields.to_string().contains(unknown));
            assert_eq!(report["live_tokens"], if is_known { "known" } else { "none_known" }, "{report}");
            if outcome != "accepted" {
                assert_eq!(ably.revocation_calls().len(), calls);
                assert_eq!(revocation.store.restrictions().count(), 0);
                assert!(revocation.store.claim(10, later(1000)).await.is_empty());
            }
        }
        let calls: Vec<_> = ably.revocation_calls().split_off(calls);
        let called =
            calls.iter().flat_map(|call| call.targets.iter().map(|target| (target.as_str(), call.allow_reauth_margin)));
        assert_eq!(called.collect::<Vec<_>>(), targets);
    }
}

#[tokio::test]
async fn by_client_id_the_users_who_have_it_are_denied() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.give("user_1", "sess_1", "team").await;
    revocation.give("user_1", "sess_2", "team").await;
    revocation.give("user_2", "sess_3", "team").await;
    revocation.give("user_3", "sess_4", "other").await;
    let report = revocation.ordered(json!({ "client_id": "team" }), NOW).await;
    let until = later(86_400);
    let denied = ["user_1", "user_2"].map(|user| json!({ "user": user, "outcome": "denied", "until": until }));
    assert_eq!(report["denials"], json!(denied));
    assert!(!revocation.denies_user("user_3", NOW));
    // Ably is answers although nobody is known to have it; that nobody is denied is said, and is not what was wanted.
    let report = revocation.ordered(json!({ "client_id": "unknown" }), NOW).await;
    assert_eq!((&report["denials"], &report["complete"]), (&json!([]), &json!(false)));
    assert_eq!(report["targets"][0]["outcome"], "accepted");
    assert!(report["warnings"][0].as_str().unwrap().contains("nobody is denied"), "{report}");
    let report = revocation.ordered(json!({ "client_id": "unknown", "lift": true }), NOW).await;
    assert_eq!((&report["targets"], &report["complete"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn without_revocable_tokens_ably_is_not_called_and_that_is_said() {
    let revocation = revocation(TokenFormat::Jwt, None);
    let report = revocation.ordered(json!({ "session": "sess_1" }), NOW).await;
    assert_eq!(report["targets"][0]["outcome"], "not_called");
    assert!(report["warnings"][0].as_str().unwrap().contains("revocable_tokens is not true"), "{report}");
    assert_eq!((&report["complete"], &report["repeated_at"]), (&json!(true), &Value::Null));
    assert_eq!(report["live_tokens"], "not_noted");
    // Nobody is denied either: nothing is done at all.
    assert_eq!(revocation.ordered(json!({ "client_id": "alice" }), NOW).await["complete"], false);
}

#[tokio::test]
async fn a_revocation_by_hand_is_repeated_unless_it_is_lifted_or_over() {
    for fields in [json!({ "user": "user_1" }), json!({ "session": "sess_1" }), json!({ "client_id": "alice" })] {
        for (end, calls) in [("none", 1), ("lift", 0), ("over", 0)] {
            let ably = ably().await;
            let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
            revocation.give("user_1", "sess_1", "alice").await;
            let mut with = fields.clone();
            if end == "over" {
                with["for"] = "150s".into();
            }
            let report = revocation.ordered(with, NOW).await;
            let repeated_at = if end == "over" { Value::Null } else { json!(later(150)) };
            assert_eq!(report["repeated_at"], repeated_at);
            if end == "lift" {
                let mut lift = fields.clone();
                lift["lift"] = true.into();
                assert_eq!(revocation.ordered(lift, later(1)).await["denials"][0]["outcome"], "lifted");
            }
            assert_eq!(revocation.work_at(&ably, later(149)).await, []);
            assert_eq!(revocation.work_at(&ably, later(150)).await.len(), calls, "{fields} {end}");
            assert_eq!(revocation.work_at(&ably, later(1000)).await, [], "{fields} {end}");
        }
    }
}

#[tokio::test]
async fn what_ably_does_not_take_is_reported_and_tried_again_until_it_does() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.give("user_1", "sess_1", "alice").await;
    ably.set_revocation_outage(Some(Outage::Status(503)));
    let report = revocation.ordered(json!({ "user": "user_1" }), NOW).await;
    assert_eq!((&report["targets"][0]["outcome"], &report["complete"]), (&json!("unavailable"), &json!(false)));
    assert!(revocation.denies_user("user_1", NOW));
    assert_eq!(revocation.work_at(&ably, NOW).await, []);
    assert_eq!(revocation.work_at(&ably, later(1)).await.len(), 1);
    assert_eq!(revocation.work_at(&ably, later(1)).await, []);
    ably.set_revocation_outage(None);
    // The second pause has 1 to 2 seconds.
    assert_eq!(revocation.work_at(&ably, later(4)).await.len(), 1);
    assert_eq!(revocation.work_at(&ably, later(149)).await, []);
    assert_eq!(revocation.work_at(&ably, later(150)).await.len(), 1);
    assert_eq!(revocation.work_at(&ably, later(1000)).await, []);
}

#[tokio::test]
async fn what_ably_refuses_is_reported_with_its_code_and_not_tried_again_soon() {
    let ably = Ably::start(Options::default()).await.unwrap();
    let revocation = revocation(TokenFormat::Jwt, Some(&ably));
    let report = revocation.ordered(json!({ "session": "sess_1" }), NOW).await;
    assert_eq!((&report["targets"][0]["outcome"], &report["complete"]), (&json!("refused"), &json!(false)));
    assert_eq!(report["targets"][0]["code"], 40163);
    assert_eq!(revocation.work_at(&ably, later(149)).await, []);
}

#[tokio::test]
async fn an_order_is_not_complete_while_it_is_not_known_what_other_replicas_issued() {
    let ably = ably().await;
    let revocation = revocation_without_redis(Some(&ably));
    let away = "Redis cannot be used now: tokens that other replicas have issued are not known";
    for fields in [
        json!({ "client_id": "alice" }),
        json!({ "client_id": "alice", "lift": true }),
        json!({ "client_id": "alice", "dry_run": true }),
        json!({ "user": "user_1", "dry_run": true }),
        json!({ "session": "sess_1", "dry_run": true }),
    ] {
        let report = revocation.ordered(fields, NOW).await;
        assert!(report["warnings"].as_array().unwrap().contains(&json!(away)), "{report}");
        assert_eq!(report["complete"], false, "{report}");
    }
    // Known here, so that somebody is denied, but who else has it is not known.
    revocation.give("user_1", "sess_1", "alice").await;
    for fields in [json!({ "client_id": "alice", "dry_run": true }), json!({ "user": "user_1", "dry_run": true })] {
        let report = revocation.ordered(fields, NOW).await;
        assert_eq!((&report["denials"][0]["outcome"], &report["complete"]), (&json!("would_be_denied"), &json!(false)));
    }
}

#[tokio::test]
async fn a_repetition_that_one_replica_knows_only_is_planned_and_not_complete() {
    let ably = ably().await;
    let revocation = revocation_without_redis(Some(&ably));
    let report = revocation.ordered(json!({ "client_id": "alice" }), NOW).await;
    assert_eq!((&report["repeated_at"], &report["complete"]), (&json!(later(150)), &json!(false)));
    assert!(report["warnings"].to_string().contains("known to one replica only"), "{report}");
    assert_eq!(revocation.work_at(&ably, later(150)).await.len(), 1);
}

#[tokio::test]
async fn a_repetition_that_there_is_no_room_for_is_not_planned_and_not_complete() {
    let ably = ably().await;
    let bounds = Bounds { work: 0, ..Bounds::default() };
    let revocation = revocation_with(&bounds, vec![tenant("default", TokenFormat::Jwt, Some(&ably))]);
    let report = revocation.ordered(json!({ "session": "sess_1" }), NOW).await;
    assert_eq!((&report["targets"][0]["outcome"], &report["repeated_at"]), (&json!("accepted"), &Value::Null));
    assert!(report["warnings"].to_string().contains("the store is full"), "{report}");
    assert_eq!(report["complete"], false, "{report}");
    assert_eq!(revocation.work_at(&ably, later(150)).await, []);
}

#[tokio::test]
async fn an_attempt_that_there_is_no_room_for_is_said_to_be_the_last() {
    let ably = ably().await;
    ably.set_revocation_outage(Some(Outage::Status(503)));
    let outcome = async |room, fields| {
        let bounds = Bounds { work: room, ..Bounds::default() };
        let revocation = revocation_with(&bounds, vec![tenant("default", TokenFormat::Jwt, Some(&ably))]);
        let report = revocation.ordered(fields, NOW).await;
        assert_eq!(report["complete"], false, "{report}");
        let calls = revocation.work_at(&ably, later(5)).await.len();
        (report["targets"][0]["outcome"].as_str().unwrap().to_owned(), calls)
    };
    let briefly = json!({ "session": "sess_1", "for": "1s" });
    assert_eq!(outcome(0, briefly.clone()).await, ("given_up".to_owned(), 0));
    assert_eq!(outcome(1, briefly).await, ("unavailable".to_owned(), 1));
    // The repetition has the only place.
    assert_eq!(outcome(1, json!({ "session": "sess_1" })).await, ("given_up".to_owned(), 0));
}
