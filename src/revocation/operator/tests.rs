use std::{sync::Arc, time::Duration};

use sandbox::ably::{Ably, Options, Outage, RevocableTokens, RevocationCall};
use serde_json::{Value, json};

use super::*;
use crate::{
    ably::{ApiKey, ClientId, KeyName, RestClient, RevocationCounts, RevocationQueue, RevokingKey, TokenFormat},
    clerk::{Change, Event, User},
    outgoing,
    store::{Claim, LiveToken, Store, StoreLimits, TokenHolder, fixtures::MemoryRedis},
    tenant::{Tenant, TenantName, Tenants, fixtures},
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
        RevocationQueue::new(name, key.api_key.name().clone(), key, RevocationCounts::default())
    };
    Tenant { revocation_queues: ably.map(queue).into_iter().collect(), ..fixtures::tenant(name, format, "{username}") }
}

fn revocation_of(tenants: Vec<Tenant>) -> Revocation {
    Revocation::new(
        Arc::new(Store::in_memory(&StoreLimits::default(), Arc::new(|_| {}))),
        Arc::new(Tenants::new(tenants)),
        NOW,
    )
}

fn revocation(format: TokenFormat, ably: Option<&Ably>) -> Revocation {
    revocation_of(vec![tenant("default", format, ably)])
}

async fn ably() -> Ably {
    ably_with(RevocableTokens::On).await
}

async fn ably_with(revocable_tokens: RevocableTokens) -> Ably {
    let api_key = Some(fixtures::API_KEY.to_owned());
    let revocable_tokens = revocable_tokens == RevocableTokens::On;
    Ably::start(Options { api_key, revocable_tokens, ..Options::default() }).await.unwrap()
}

impl Revocation {
    async fn put_live_token(&self, user: &str, session: &str, client_id: &str) {
        let live_token = LiveToken {
            tenant: TenantName::default(),
            user: user.into(),
            session: session.into(),
            organization: None,
            client_id: client_id.into(),
            format: self.tenants.only().unwrap().format(),
            key: fixtures::key_name(),
            until: later(3600),
        };
        self.store.put_live_token(live_token, NOW).await.unwrap();
    }

    async fn execute_json(&self, fields: Value, now: UnixMillis) -> Value {
        serde_json::to_value(self.execute(&request(&fields).unwrap(), now).await.unwrap()).unwrap()
    }

    fn denies(&self, tenant: &TenantName, user: &str, source: DenialSource, now: UnixMillis) -> bool {
        let latest = self.store.restrictions().latest(tenant, &Subject::User(user.into()), Topic::Denial(source));
        latest.is_some_and(|denial| denial.is_active(now))
    }

    fn denies_user(&self, user: &str, now: UnixMillis) -> bool {
        let mut sources = [DenialSource::Clerk, DenialSource::Operator].into_iter();
        sources.any(|source| self.denies(&TenantName::default(), user, source, now))
    }

    /// Performs the due tasks, and returns the calls to Ably.
    async fn perform_at(&self, ably: &Ably, now: UnixMillis) -> Vec<RevocationCall> {
        let before = ably.revocation_calls().len();
        self.perform_due_tasks(|| now).await;
        ably.revocation_calls().split_off(before)
    }
}

#[test]
fn a_request_has_one_target_and_only_known_fields() {
    let day = Duration::from_hours(24);
    let deny_a_user = RevocationRequest {
        tenant: None,
        target: RevocationScope::Of(Subject::User("user_1".into())),
        action: Action::Deny(day),
        dry_run: false,
    };
    assert_eq!(request(&json!({ "user": "user_1" })), Ok(deny_a_user.clone()));
    let for_two_hours = RevocationRequest { action: Action::Deny(Duration::from_hours(2)), ..deny_a_user.clone() };
    assert_eq!(request(&json!({ "user": "user_1", "for": "2h", "lift": false })), Ok(for_two_hours));
    let lift_in_a_dry_run = RevocationRequest {
        tenant: Some(TenantName::parse("acme").unwrap()),
        target: RevocationScope::ClientId(ClientId::parse("al:ice").unwrap()),
        action: Action::Lift,
        dry_run: true,
    };
    let written = json!({ "tenant": "acme", "client_id": "al:ice", "lift": true, "dry_run": true });
    assert_eq!(request(&written), Ok(lift_in_a_dry_run));
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
    let report = RevocationReport {
        denials: vec![DenialReport {
            subject: Subject::User("u".into()),
            outcome: DenialOutcome::Denied { until: NOW },
        }],
        targets: vec![TargetReport {
            target: "clientId:alice".into(),
            key_name: fixtures::key_name(),
            allow_reauth_margin: false,
            outcome: Some(TargetReportOutcome::Refused { code: Some(40163) }),
        }],
        ..RevocationReport::default()
    };
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["denials"][0], json!({ "user": "u", "outcome": "denied", "until": NOW }));
    let not_called = json!({ "target": "clientId:alice", "key_name": "app.key", "allow_reauth_margin": false });
    let mut refused = not_called.clone();
    (refused["outcome"], refused["code"]) = (json!("refused"), json!(40163));
    assert_eq!(json["targets"][0], refused);
    assert_eq!(serde_json::from_value::<RevocationReport>(json).unwrap(), report);

    let mut dry = RevocationReport { dry_run: true, ..report };
    dry.targets[0].outcome = None;
    let json = serde_json::to_value(&dry).unwrap();
    assert_eq!(json["targets"][0], not_called);
    assert_eq!(serde_json::from_value::<RevocationReport>(json).unwrap(), dry);
}

#[tokio::test]
async fn an_operators_denial_ends_at_the_requested_time() {
    let revocation = revocation(TokenFormat::Jwt, None);
    let report = revocation.execute_json(json!({ "user": "user_1", "for": "2h" }), NOW).await;
    assert_eq!(report["denials"], json!([{ "user": "user_1", "outcome": "denied", "until": later(7200) }]));
    assert!(revocation.denies_user("user_1", later(7199)) && !revocation.denies_user("user_1", later(7200)));
    // The newer request counts, even if its denial is shorter.
    revocation.execute_json(json!({ "user": "user_1", "for": "1m" }), later(1)).await;
    assert!(revocation.denies_user("user_1", later(60)) && !revocation.denies_user("user_1", later(61)));
    revocation.execute_json(json!({ "user": "user_1" }), later(100)).await;
    assert!(revocation.denies_user("user_1", later(86_499)) && !revocation.denies_user("user_1", later(86_500)));
}

#[tokio::test]
async fn clerk_and_the_operator_do_not_lift_each_others_denials() {
    let revocation = revocation(TokenFormat::Jwt, None);
    let user = |banned| User { id: "user_1".into(), username: None, banned, deprovisioned: false };
    let event = |banned, at| Event { at, change: Change::UserUpdated(user(banned)) };
    let lift = json!({ "user": "user_1", "lift": true });
    let lifted = async |now| {
        let mut dry = lift.clone();
        dry["dry_run"] = true.into();
        let [predicted, lifted] = [
            revocation.execute_json(dry, now).await["denials"][0].clone(),
            revocation.execute_json(lift.clone(), now).await["denials"][0].clone(),
        ];
        assert_eq!(predicted, lifted);
        lifted["outcome"].clone()
    };

    assert_eq!(lifted(NOW).await, "not_denied");
    revocation.execute_json(json!({ "user": "user_1" }), later(1)).await;
    revocation.apply(&TenantName::default(), &event(false, later(2)), later(2)).await.unwrap();
    assert!(revocation.denies_user("user_1", later(2)));
    revocation.apply(&TenantName::default(), &event(true, later(3)), later(3)).await.unwrap();
    assert_eq!(lifted(later(4)).await, "denied_by_clerk");
    assert!(revocation.denies_user("user_1", later(4)));
    revocation.execute_json(json!({ "user": "user_1" }), later(5)).await;
    revocation.apply(&TenantName::default(), &event(false, later(6)), later(6)).await.unwrap();
    assert_eq!(lifted(later(7)).await, "lifted");
    assert!(!revocation.denies_user("user_1", later(7)));
}

#[tokio::test]
async fn a_request_that_is_older_than_another_changes_nothing_and_is_reported_as_superseded() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.put_live_token("user_1", "sess_1", "alice").await;
    let superseded = async |fields| {
        let report = revocation.execute_json(fields, NOW).await;
        assert_eq!((&report["denials"][0]["outcome"], &report["complete"]), (&json!("superseded"), &json!(false)));
        assert_eq!((&report["targets"], &report["repeated_at"]), (&json!([]), &Value::Null));
    };
    revocation.execute_json(json!({ "user": "user_1" }), later(1)).await;
    superseded(json!({ "user": "user_1", "lift": true })).await;
    assert!(revocation.denies_user("user_1", later(1)));
    revocation.execute_json(json!({ "user": "user_1", "lift": true }), later(2)).await;
    let calls = ably.revocation_calls().len();
    superseded(json!({ "user": "user_1" })).await;
    assert!(!revocation.denies_user("user_1", later(2)));
    revocation.perform_at(&ably, later(152)).await;
    assert_eq!(ably.revocation_calls().len(), calls);
}

#[tokio::test]
async fn a_request_that_is_superseded_for_some_users_revokes() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.put_live_token("user_1", "sess_1", "team").await;
    revocation.put_live_token("user_2", "sess_2", "team").await;
    revocation.execute_json(json!({ "user": "user_1", "lift": true }), later(1)).await;
    let report = revocation.execute_json(json!({ "client_id": "team" }), NOW).await;
    let outcomes = [&report["denials"][0]["outcome"], &report["denials"][1]["outcome"]];
    assert_eq!(outcomes, ["superseded", "denied"]);
    assert_eq!((&report["targets"][0]["outcome"], &report["complete"]), (&json!("accepted"), &json!(false)));
    assert_eq!(revocation.perform_at(&ably, later(150)).await.len(), 1);
}

#[tokio::test]
async fn with_several_tenants_a_request_must_name_one() {
    let tenants = ["acme", "beta"].map(|name| tenant(name, TokenFormat::Jwt, None));
    let revocation = revocation_of(tenants.into());
    let execute = async |fields: Value| revocation.execute(&request(&fields).unwrap(), NOW).await;
    assert_eq!(
        execute(json!({ "user": "user_1" })).await,
        Err(RequestFailed::Invalid(InvalidRevocationRequest::WithoutTenant))
    );
    let other = json!({ "user": "user_1", "tenant": "gamma" });
    assert_eq!(execute(other).await, Err(RequestFailed::Invalid(InvalidRevocationRequest::NoSuchTenant)));
    let report = execute(json!({ "user": "user_1", "tenant": "beta" })).await.unwrap();
    assert_eq!(report.tenant.as_str(), "beta");
    let denies = |tenant: &Tenant| revocation.denies(&tenant.name, "user_1", DenialSource::Operator, NOW);
    assert_eq!(revocation.tenants.iter().map(denies).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn each_kind_of_request_has_its_targets_and_its_margin() {
    let ably = ably().await;
    let cases = [
        (TokenFormat::TokenRequest, json!({ "session": "sess_1" }), vec![("clientId:alice", true)]),
        (TokenFormat::TokenDetails, json!({ "session": "sess_1" }), vec![("clientId:alice", true)]),
        (TokenFormat::Jwt, json!({ "session": "sess_1" }), vec![("revocationKey:sess_1", false)]),
        (TokenFormat::Jwt, json!({ "session": "sess_9" }), vec![("revocationKey:sess_9", false)]),
        (TokenFormat::TokenRequest, json!({ "session": "sess_9" }), vec![]),
        (TokenFormat::Jwt, json!({ "user": "user_1" }), vec![("clientId:alice", false), ("clientId:old-alice", false)]),
        (TokenFormat::TokenRequest, json!({ "client_id": "alice" }), vec![("clientId:alice", false)]),
        (TokenFormat::Jwt, json!({ "client_id": "unknown" }), vec![("clientId:unknown", false)]),
    ];
    for (format, fields, targets) in cases {
        let revocation = revocation(format, Some(&ably));
        revocation.put_live_token("user_1", "sess_1", "alice").await;
        revocation.put_live_token("user_1", "sess_2", "old-alice").await;
        revocation.put_live_token("user_2", "sess_3", "bob").await;
        let calls = ably.revocation_calls().len();
        let mut dry = fields.clone();
        dry["dry_run"] = true.into();
        for (fields, outcome) in [(dry, Value::Null), (fields, json!("accepted"))] {
            let is_dry_run = outcome.is_null();
            let report = revocation.execute_json(fields.clone(), NOW).await;
            let revoked = report["targets"].as_array().unwrap().iter().map(|revoked| {
                assert_eq!(revoked.get("outcome").cloned().unwrap_or_default(), outcome, "{report}");
                assert_eq!(revoked.get("outcome").is_none(), is_dry_run, "{report}");
                (revoked["target"].as_str().unwrap(), revoked["allow_reauth_margin"].as_bool().unwrap())
            });
            assert_eq!(revoked.collect::<Vec<_>>(), targets, "{format:?} {fields}");
            assert_eq!(report["dry_run"], is_dry_run);
            // No user is known to have this client ID, so none is denied.
            assert_eq!(report["complete"], fields["client_id"] != "unknown", "{report}");
            let is_known = !["sess_9", "unknown"].iter().any(|unknown| fields.to_string().contains(unknown));
            assert_eq!(report["live_tokens"], if is_known { "known" } else { "none_known" }, "{report}");
            if is_dry_run {
                assert_eq!(ably.revocation_calls().len(), calls);
                assert_eq!(revocation.store.stats(NOW).restrictions, 0);
                assert!(revocation.store.claim_tasks(Claim::Due(10), later(1000)).await.unwrap().is_empty());
            }
        }
        let calls: Vec<_> = ably.revocation_calls().split_off(calls);
        let called =
            calls.iter().flat_map(|call| call.targets.iter().map(|target| (target.as_str(), call.allow_reauth_margin)));
        assert_eq!(called.collect::<Vec<_>>(), targets);
    }
}

#[tokio::test]
async fn the_user_of_a_denied_session_is_kept_with_the_denial_and_the_second_revocation() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.put_live_token("user_1", "sess_1", "alice").await;
    revocation.execute_json(json!({ "session": "sess_1" }), NOW).await;
    let again = revocation.store.claim_tasks(Claim::Due(9), later(150)).await.unwrap().remove(0);
    let task: Value = serde_json::from_str(&again.payload).unwrap();
    assert_eq!(task["session_user"], "user_1");
    let session = Subject::Session("sess_1".into());
    let topic = Topic::Denial(DenialSource::Operator);
    let denial = revocation.store.restrictions().latest(&TenantName::default(), &session, topic).unwrap();
    assert_eq!(denial.session_user.as_deref(), Some("user_1"));
}

#[tokio::test]
async fn a_user_without_known_tokens_is_revoked_by_the_client_id_that_the_user_should_have() {
    let ably = ably().await;
    let identity = fixtures::tenant("default", TokenFormat::TokenRequest, "{user_id}").identity;
    let revocation =
        revocation_of(vec![Tenant { identity, ..tenant("default", TokenFormat::TokenRequest, Some(&ably)) }]);
    let report = revocation.execute_json(json!({ "user": "user_9" }), NOW).await;
    assert_eq!(
        (&report["targets"][0]["target"], &report["live_tokens"]),
        (&json!("clientId:user_9"), &json!("none_known"))
    );
    assert_eq!(ably.revocation_calls()[0].targets, ["clientId:user_9"]);
}

#[tokio::test]
async fn a_request_with_a_client_id_denies_the_users_who_have_it() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.put_live_token("user_1", "sess_1", "team").await;
    revocation.put_live_token("user_1", "sess_2", "team").await;
    revocation.put_live_token("user_2", "sess_3", "team").await;
    revocation.put_live_token("user_3", "sess_4", "other").await;
    let report = revocation.execute_json(json!({ "client_id": "team" }), NOW).await;
    let until = later(86_400);
    let denied = ["user_1", "user_2"].map(|user| json!({ "user": user, "outcome": "denied", "until": until }));
    assert_eq!(report["denials"], json!(denied));
    assert!(!revocation.denies_user("user_3", NOW));
    // No user is known to have it: Ably revokes its tokens all the same, but the request is incomplete.
    let report = revocation.execute_json(json!({ "client_id": "unknown" }), NOW).await;
    assert_eq!((&report["denials"], &report["complete"]), (&json!([]), &json!(false)));
    assert_eq!(report["targets"][0]["outcome"], "accepted");
    assert!(report["warnings"][0].as_str().unwrap().contains("no user is denied"), "{report}");
    let report = revocation.execute_json(json!({ "client_id": "unknown", "lift": true }), NOW).await;
    assert_eq!((&report["targets"], &report["complete"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn without_revocable_tokens_ably_is_not_called_and_the_report_says_so() {
    let revocation = revocation(TokenFormat::Jwt, None);
    let report = revocation.execute_json(json!({ "session": "sess_1" }), NOW).await;
    assert_eq!(report["targets"][0]["outcome"], "not_called");
    assert!(report["warnings"][0].as_str().unwrap().contains("revocable_tokens is not true"), "{report}");
    assert_eq!((&report["complete"], &report["repeated_at"]), (&json!(true), &Value::Null));
    assert_eq!(report["live_tokens"], "not_noted");
    // No user is found to deny: nothing is done.
    assert_eq!(revocation.execute_json(json!({ "client_id": "alice" }), NOW).await["complete"], false);
}

#[tokio::test]
async fn a_revocation_is_repeated_unless_the_denial_is_lifted_or_replaced_or_expired() {
    for fields in [json!({ "user": "user_1" }), json!({ "session": "sess_1" }), json!({ "client_id": "alice" })] {
        for (end, calls) in [("none", 1), ("lift", 0), ("replaced", 0), ("expired", 0)] {
            let ably = ably().await;
            let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
            revocation.put_live_token("user_1", "sess_1", "alice").await;
            let mut with = fields.clone();
            if end == "expired" {
                with["for"] = "150s".into();
            }
            let report = revocation.execute_json(with, NOW).await;
            let repeated_at = if end == "expired" { Value::Null } else { json!(later(150)) };
            assert_eq!(report["repeated_at"], repeated_at);
            if end == "lift" {
                let mut lift = fields.clone();
                lift["lift"] = true.into();
                assert_eq!(revocation.execute_json(lift, later(1)).await["denials"][0]["outcome"], "lifted");
            }
            if end == "replaced" {
                let mut shorter = fields.clone();
                shorter["for"] = "100s".into();
                revocation.execute_json(shorter, later(1)).await;
            }
            assert_eq!(revocation.perform_at(&ably, later(149)).await, []);
            assert_eq!(revocation.perform_at(&ably, later(150)).await.len(), calls, "{fields} {end}");
            assert_eq!(revocation.perform_at(&ably, later(1000)).await, [], "{fields} {end}");
        }
    }
}

#[tokio::test]
async fn a_revocation_during_an_outage_of_ably_is_reported_and_retried() {
    let ably = ably().await;
    let revocation = revocation(TokenFormat::TokenRequest, Some(&ably));
    revocation.put_live_token("user_1", "sess_1", "alice").await;
    ably.set_revocation_outage(Some(Outage::Status(503)));
    let report = revocation.execute_json(json!({ "user": "user_1" }), NOW).await;
    assert_eq!((&report["targets"][0]["outcome"], &report["complete"]), (&json!("unavailable"), &json!(false)));
    assert!(revocation.denies_user("user_1", NOW));
    assert_eq!(revocation.perform_at(&ably, NOW).await, []);
    // The first pause is up to a second, and begins when the call has failed.
    assert_eq!(revocation.perform_at(&ably, later(3)).await.len(), 1);
    assert_eq!(revocation.perform_at(&ably, later(3)).await, []);
    ably.set_revocation_outage(None);
    // The second is up to two.
    assert_eq!(revocation.perform_at(&ably, later(8)).await.len(), 1);
    assert_eq!(revocation.perform_at(&ably, later(149)).await, []);
    assert_eq!(revocation.perform_at(&ably, later(150)).await.len(), 1);
    assert_eq!(revocation.perform_at(&ably, later(1000)).await, []);
}

#[tokio::test]
async fn a_refused_revocation_is_reported_with_its_code_and_not_retried_soon() {
    let ably = ably_with(RevocableTokens::Off).await;
    let revocation = revocation(TokenFormat::Jwt, Some(&ably));
    let report = revocation.execute_json(json!({ "session": "sess_1" }), NOW).await;
    assert_eq!((&report["targets"][0]["outcome"], &report["complete"]), (&json!("refused"), &json!(false)));
    assert_eq!(report["targets"][0]["code"], 40163);
    assert_eq!(revocation.perform_at(&ably, later(149)).await, []);
}

#[tokio::test]
async fn a_request_during_an_outage_takes_effect_at_this_replica_and_is_refused() {
    let ably = ably().await;
    for (fields, is_changed) in [
        (json!({ "user": "user_1" }), true),
        (json!({ "client_id": "alice" }), true),
        (json!({ "client_id": "alice", "lift": true }), false),
        (json!({ "user": "user_1", "dry_run": true }), false),
        (json!({ "client_id": "alice", "dry_run": true }), false),
    ] {
        let redis = Arc::new(MemoryRedis::new(NOW));
        let tenant = tenant("default", TokenFormat::Jwt, Some(&ably));
        let revocation = Revocation::new(Arc::new(redis.replica().await), Arc::new(Tenants::new(vec![tenant])), NOW);
        revocation.put_live_token("user_1", "sess_1", "alice").await;
        let calls_before = ably.revocation_calls().len();
        redis.fail_at(1);
        let refused = revocation.execute(&request(&fields).unwrap(), NOW).await;
        assert_eq!(refused, Err(RequestFailed::Store(StoreError::Unavailable)), "{fields}");
        assert_eq!(revocation.denies_user("user_1", later(1)), is_changed, "{fields}");
        let calls = ably.revocation_calls().len();
        assert_eq!(calls > calls_before, is_changed, "{fields}");
        revocation.store.becomes_ready().await;
        assert_eq!(revocation.perform_at(&ably, later(150)).await.len() == 1, is_changed, "{fields}");
    }
}

#[tokio::test]
async fn each_key_revokes_the_tokens_that_it_signed_and_a_client_id_is_revoked_by_all() {
    let ably = ably().await;
    let other = ApiKey::parse(&ably.add_key()).unwrap();
    let queue = |api_key: ApiKey| {
        let rest = RestClient::new(ably.url().parse().unwrap(), outgoing::client().unwrap());
        let (name, key) = (api_key.name().clone(), RevokingKey { rest, api_key });
        RevocationQueue::new("default", name, key, RevocationCounts::default())
    };
    let first = ApiKey::parse(fixtures::API_KEY).unwrap();
    let [first_name, other_name] = [&first, &other].map(|key| key.name().to_string());
    let tenant = Tenant {
        revocation_queues: vec![queue(first), queue(other.clone())],
        ..fixtures::tenant("default", TokenFormat::TokenRequest, "{username}")
    };
    let revocation = revocation_of(vec![tenant]);
    revocation.put_live_token("user_1", "sess_1", "alice").await;
    let users = TokenHolder::User("user_1".into());
    let [known] =
        revocation.store.live_tokens(&TenantName::default(), &users, NOW).await.live_tokens.try_into().unwrap();
    let by_other = LiveToken { key: other.name().clone(), client_id: "alicia".into(), ..known };
    revocation.store.put_live_token(by_other, NOW).await.unwrap();
    let foreign = KeyName::parse("app.foreign").unwrap();
    let by_foreign = LiveToken {
        key: foreign.clone(),
        tenant: TenantName::default(),
        user: "user_2".into(),
        session: "sess_2".into(),
        organization: None,
        client_id: "carol".into(),
        format: TokenFormat::TokenRequest,
        until: later(3600),
    };
    revocation.store.put_live_token(by_foreign, NOW).await.unwrap();
    let targets = |report: &Value| -> BTreeSet<(String, String, String)> {
        let targets = report["targets"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        targets.map(|one| (text(&one["target"]), text(&one["key_name"]), text(&one["outcome"]))).collect()
    };
    let expected = |all: &[(&str, &str, &str)]| -> BTreeSet<_> {
        all.iter().map(|(target, key, outcome)| [target, key, outcome].map(|text| (*text).to_owned()).into()).collect()
    };

    let report = revocation.execute_json(json!({ "user": "user_1" }), NOW).await;
    let by_their_key = [("clientId:alice", &*first_name, "accepted"), ("clientId:alicia", &*other_name, "accepted")];
    assert_eq!(targets(&report), expected(&by_their_key), "{report}");
    // As long as no live token is known, any key may have signed one.
    let report = revocation.execute_json(json!({ "client_id": "bob" }), NOW).await;
    let by_all = [("clientId:bob", &*first_name, "accepted"), ("clientId:bob", &*other_name, "accepted")];
    assert_eq!(targets(&report), expected(&by_all), "{report}");
    // Another replica may have the key.
    for request in [json!({ "client_id": "carol" }), json!({ "user": "user_2" })] {
        let report = revocation.execute_json(request, NOW).await;
        assert!(targets(&report).contains(&("clientId:carol".into(), foreign.to_string(), "unavailable".into())));
        assert!(
            report["complete"] == false && report["warnings"].to_string().contains("lacks the API key"),
            "{report}"
        );
    }
}
