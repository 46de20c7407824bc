use std::{collections::BTreeSet, slice, sync::atomic::Ordering};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::future;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use reqwest::StatusCode;
use sandbox::ably::{Ably, Options, Outage, Poison, RevocableTokens};
use tokio::sync::Notify;

use super::*;
use crate::{
    ably::{
        ApiKey, ClientId, Nonce, RestClient, RevocationCounts, RevocationQueue, RevokingKey, TokenDetails, TokenRequest,
    },
    clerk::{BackendApi, Change, LookupCounts, User, Users},
    detached::Detached,
    identity::Identity,
    store::{
        Claim, Commands as _, LiveToken, StoreLimits, StoredTask, TokenHolder,
        fixtures::{Failure, MemoryRedis},
    },
    tenant::fixtures,
};

/// Ably, and a single replica that has issued a token to alice's session and one to bob's, both in one organization.
struct Scene {
    ably: Ably,
    revocation: Revocation,
    key: RevokingKey,
    now: UnixMillis,
}

fn queue(key: RevokingKey) -> RevocationQueue {
    RevocationQueue::new("default", key.api_key.name().clone(), key, RevocationCounts::default())
}

fn tenant(template: &str, key: RevokingKey) -> Tenant {
    Tenant {
        denial: Duration::from_mins(2),
        revocation_queues: vec![queue(key)],
        ..fixtures::tenant("default", TokenFormat::TokenRequest, template)
    }
}

fn in_memory() -> Store {
    Store::in_memory(&StoreLimits::default(), Arc::new(|_| {}))
}

fn tenants(tenant: Tenant) -> Arc<Tenants> {
    Arc::new(Tenants::new(vec![tenant]))
}

impl Scene {
    async fn start() -> Self {
        Self::with(in_memory()).await
    }

    /// The same, with a replica of this Redis.
    async fn sharing(redis: Arc<MemoryRedis>) -> Self {
        Self::with(redis.replica().await).await
    }

    async fn with(store: Store) -> Self {
        let scene = Self::without_tokens("{username}", store).await;
        for (number, client_id) in [(1, "alice"), (2, "bob")] {
            let live_token = LiveToken {
                tenant: TenantName::default(),
                user: format!("user_{number}"),
                session: format!("sess_{number}"),
                organization: Some("org_1".into()),
                client_id: client_id.into(),
                format: TokenFormat::TokenRequest,
                key: fixtures::key_name(),
                until: scene.now.after(Duration::from_hours(1)),
            };
            scene.revocation.store.put_live_token(live_token, scene.now).await.unwrap();
        }
        scene
    }

    async fn without_tokens(template: &str, store: Store) -> Self {
        // Without a margin, so that the tests need not wait for it.
        let options = Options {
            api_key: Some(fixtures::API_KEY.to_owned()),
            revocable_tokens: true,
            reauth_margin: Duration::ZERO,
            ..Options::default()
        };
        let ably = Ably::start(options).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let key = RevokingKey {
            rest: RestClient::new(ably.url().parse().unwrap(), http),
            api_key: ApiKey::parse(ably.api_key()).unwrap(),
        };
        let now = UnixMillis::now();
        let store = Arc::new(store);
        Self { ably, revocation: Revocation::new(store, tenants(tenant(template, key.clone())), now), key, now }
    }

    fn token_request(&self) -> TokenRequest {
        let client_id = ClientId::parse("alice").unwrap();
        TokenRequest::sign(&self.key.api_key, client_id, None, None, self.now, Nonce::random().unwrap())
    }

    /// Returns in a later millisecond than the token's: a revocation in the same one would not cover the token.
    async fn exchange(&self, token_request: &TokenRequest) -> TokenDetails {
        let token = self.key.rest.request_token(token_request).await.unwrap();
        let issued = self.ably.issued_tokens().last().unwrap().issued;
        while UnixMillis::now().0 <= issued {
            tokio::task::yield_now().await;
        }
        token
    }

    async fn apply(&self, change: Change, at: UnixMillis) {
        let applied = self.revocation.apply(&TenantName::default(), &Event { at, change }, self.now).await;
        assert_eq!(applied, Ok(Applied::InForce));
    }

    async fn sign_out(&self) {
        let change =
            Change::SessionEnded { session_id: "sess_1".into(), user_id: Some("user_1".into()), username: None };
        self.apply(change, self.now).await;
    }

    /// An update of alice, in the given second.
    fn renamed(&self, username: &str, seconds: u64) -> Event {
        let username = Some(username.to_owned());
        let user = User { id: "user_1".into(), username, banned: false, deprovisioned: false };
        Event { at: self.now.after(Duration::from_secs(seconds)), change: Change::UserUpdated(user) }
    }

    async fn is_named(&self, username: &str, seconds: u64) {
        let event = self.renamed(username, seconds);
        self.apply(event.change, event.at).await;
    }

    /// Records a live token of alice's session with another client ID.
    async fn put_live_token_as(&self, client_id: &str) {
        let live = self
            .revocation
            .store
            .live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), self.now)
            .await;
        let live_token = LiveToken { client_id: client_id.into(), ..live.live_tokens[0].clone() };
        self.revocation.store.put_live_token(live_token, self.now).await.unwrap();
    }

    /// Another API key of the same Ably app.
    fn other_key(&self) -> RevokingKey {
        RevokingKey { api_key: ApiKey::parse(&self.ably.add_key()).unwrap(), rest: self.key.rest.clone() }
    }

    /// The key and the target of all calls so far.
    fn revoked_by_key(&self) -> BTreeSet<(String, String)> {
        let calls = self.ably.revocation_calls().into_iter();
        calls.flat_map(|call| call.targets.into_iter().map(move |target| (call.key_name.clone(), target))).collect()
    }

    /// The targets of all calls so far, each with whether it has the margin.
    fn revoked(&self) -> Vec<(String, bool)> {
        let calls = self.ably.revocation_calls().into_iter();
        calls.flat_map(|call| call.targets.into_iter().map(move |target| (target, call.allow_reauth_margin))).collect()
    }

    /// Ably's error code for a token: 40141 if it is revoked.
    async fn code_of(&self, token: &TokenDetails) -> Option<u64> {
        let token = serde_json::to_value(token).unwrap()["token"].as_str().unwrap().to_owned();
        let url = format!("{}/channels/room/messages", self.ably.url());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(url).bearer_auth(BASE64_STANDARD.encode(token)).send().await.unwrap();
        if answer.status() == StatusCode::OK {
            return None;
        }
        answer.json::<serde_json::Value>().await.unwrap()["error"]["code"].as_u64()
    }

    async fn perform_due_tasks(&self, after: Duration) {
        self.revocation.perform_due_tasks(|| self.now.after(after)).await;
    }
}

const REVOKED: Option<u64> = Some(40141);

#[tokio::test]
async fn a_token_request_that_is_exchanged_late_gives_a_token_until_the_revocation_is_repeated() {
    let scene = Scene::start().await;
    let [used, hoarded] = [scene.token_request(), scene.token_request()];
    let used = scene.exchange(&used).await;
    assert_eq!(scene.code_of(&used).await, None);

    scene.sign_out().await;
    assert_eq!(scene.code_of(&used).await, REVOKED);
    let hoarded = scene.exchange(&hoarded).await;
    assert_eq!(scene.code_of(&hoarded).await, None);

    scene.perform_due_tasks(Revocation::REPEAT_AFTER.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(scene.code_of(&hoarded).await, None);
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.code_of(&hoarded).await, REVOKED);

    // No third revocation: it would end the tokens of a new session.
    assert_eq!(scene.ably.calls().revoke_tokens, 2);
    scene.perform_due_tasks(2 * Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.ably.calls().revoke_tokens, 2);
}

#[tokio::test]
async fn tokens_with_a_former_client_id_are_revoked_twice() {
    let scene = Scene::start().await;
    let of_alice = ("clientId:alice".to_owned(), true);
    scene.is_named("alice2", 0).await;
    assert_eq!(scene.revoked(), slice::from_ref(&of_alice));
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked(), [of_alice.clone(), of_alice]);
}

#[tokio::test]
async fn an_update_without_a_new_name_revokes_nothing() {
    let scene = Scene::start().await;
    for seconds in 0..3 {
        scene.is_named("alice", seconds).await;
    }
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked(), []);
}

#[tokio::test]
async fn a_name_between_two_others_is_revoked_although_its_event_comes_last() {
    let scene = Scene::start().await;
    scene.is_named("alice", 0).await;
    scene.put_live_token_as("mallory").await;
    scene.is_named("alice", 3).await;
    let late = scene.renamed("alice", 1);
    let applied = scene.revocation.apply(&TenantName::default(), &late, scene.now).await;
    assert_eq!((applied, scene.revoked()), (Ok(Applied::Outdated), vec![]));
    let late = scene.renamed("mallory", 2);
    let applied = scene.revocation.apply(&TenantName::default(), &late, scene.now).await;
    assert_eq!(applied, Ok(Applied::Outdated));
    assert_eq!(scene.revoked(), [("clientId:mallory".to_owned(), true)]);
}

#[tokio::test]
async fn updates_after_a_rename_revoke_nothing_more_although_tokens_with_the_former_name_are_live() {
    let scene = Scene::start().await;
    for seconds in 0..5 {
        scene.is_named("alice2", seconds).await;
        assert_eq!(scene.revoked(), [("clientId:alice".to_owned(), true)]);
    }
}

#[tokio::test]
async fn an_interrupted_rename_is_revoked_although_an_update_makes_its_retry_outdated() {
    for next in [0, 1] {
        let (mut deaths, tenant) = (0, TenantName::default());
        for call in 1.. {
            let died = Arc::new(Notify::new());
            let redis = MemoryRedis::new(UnixMillis::now()).failing_with(Failure::Death(Arc::clone(&died)));
            let redis = Arc::new(redis);
            let scene = Scene::sharing(Arc::clone(&redis)).await;
            redis.fail_at(call);
            let rename = scene.renamed("alice2", 0);
            let is_whole = tokio::select! {
                applied = scene.revocation.apply(&tenant, &rename, scene.now) => applied.is_ok(),
                () = died.notified() => false,
            };
            if is_whole {
                break;
            }
            deaths += 1;
            let next = scene.renamed("alice2", next);
            assert_eq!(scene.revocation.apply(&tenant, &next, scene.now).await, Ok(Applied::InForce));
            scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
            assert!(
                scene.revoked().contains(&("clientId:alice".to_owned(), true)),
                "interrupted in call {call}, then {next:?}"
            );
        }
        // The restriction with its tasks, the look-up of live tokens, and the end of the task.
        assert!(deaths >= 3, "{deaths}");
    }
}

#[tokio::test]
async fn a_rename_during_an_outage_of_ably_is_revoked_although_an_update_makes_its_retry_outdated() {
    let scene = Scene::start().await;
    scene.ably.set_revocation_outage(Some(Outage::Status(503)));
    let apply = async |event: &Event, seconds| {
        let now = scene.now.after(Duration::from_secs(seconds));
        scene.revocation.apply(&TenantName::default(), event, now).await
    };
    let (rename, update) = (scene.renamed("alice2", 0), scene.renamed("alice2", 1));
    assert_eq!(apply(&rename, 0).await, Err(Incomplete::Ably));
    assert_eq!(apply(&update, 0).await, Ok(Applied::InForce));
    assert_eq!(apply(&rename, 0).await, Err(Incomplete::Ably));
    scene.ably.set_revocation_outage(None);
    let before = scene.revoked().len();
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked()[before..], [("clientId:alice".to_owned(), true)]);
}

/// A sign-out of user_9, who has no known live tokens.
fn sign_out_of_an_unknown_user(session: &str, username: Option<&str>, at: UnixMillis) -> Event {
    let (session_id, user_id) = (session.to_owned(), Some("user_9".to_owned()));
    Event { at, change: Change::SessionEnded { session_id, user_id, username: username.map(str::to_owned) } }
}

#[tokio::test]
async fn a_session_from_before_the_start_is_revoked_by_the_client_id_that_it_should_have() {
    for (template, username, target) in [
        ("u-{user_id}", None, "clientId:u-user_9"),
        ("{username}", Some("nina"), "clientId:nina"),
        // The client ID on the user's other devices, if neither the event nor the cache gives it.
        ("{claim.handle}", Some("nina"), "clientId:other-device"),
    ] {
        let scene = Scene::start().await;
        let store = Arc::new(in_memory());
        let other_device = LiveToken {
            tenant: TenantName::default(),
            user: "user_9".into(),
            session: "sess_7".into(),
            organization: None,
            client_id: "other-device".into(),
            format: TokenFormat::TokenRequest,
            key: fixtures::key_name(),
            until: scene.now.after(Duration::from_hours(3)),
        };
        store.put_live_token(other_device, scene.now).await.unwrap();
        let revocation = Revocation::new(store, tenants(tenant(template, scene.key.clone())), scene.now);
        let later = scene.now.after(Duration::from_hours(2));
        let long_ago = UnixMillis(scene.now.0 - clock::millis(Duration::from_hours(2)));
        for (session, at, now) in [
            ("sess_8", scene.now, scene.now),
            // By then the tokens from before the start have expired, and the other devices stay connected.
            ("sess_9", later, later),
            // The session's tokens have expired since.
            ("sess_10", long_ago, scene.now),
        ] {
            let event = sign_out_of_an_unknown_user(session, username, at);
            assert_eq!(revocation.apply(&TenantName::default(), &event, now).await, Ok(Applied::InForce));
            assert_eq!(scene.revoked(), [(target.to_owned(), true)], "{template} {session}");
        }
    }
}

#[tokio::test]
async fn the_cached_name_is_revoked_unless_the_event_says_that_the_user_has_none() {
    let user = |username: Option<&str>, banned| {
        let username = username.map(str::to_owned);
        User { id: "user_9".into(), username, banned, deprovisioned: false }
    };
    for (change, expected) in [
        (Change::UserDeleted { user_id: "user_9".into() }, vec![("clientId:nina".to_owned(), false)]),
        (Change::UserUpdated(user(Some("nina2"), true)), vec![("clientId:nina2".to_owned(), false)]),
        (Change::UserUpdated(user(None, true)), vec![]),
    ] {
        let scene = Scene::start().await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let api = BackendApi::new(scene.ably.url().parse().unwrap(), "".into(), http);
        let users = Users::new(api, Duration::from_hours(1), Detached::on_current_runtime(), LookupCounts::default());
        users.remember(user(Some("nina"), false));
        let identity = Identity::new("{username}".parse().unwrap(), Some(users));
        let tenant = Tenant { identity, ..tenant("{username}", scene.key.clone()) };
        let revocation = Revocation::new(Arc::new(in_memory()), tenants(tenant), scene.now);
        let event = Event { at: scene.now, change };
        assert_eq!(revocation.apply(&TenantName::default(), &event, scene.now).await, Ok(Applied::InForce));
        assert_eq!(scene.revoked(), expected, "{event:?}");
    }
}

#[tokio::test]
async fn a_sign_out_from_a_session_without_tokens_revokes_nothing_if_the_store_is_shared() {
    let scene = Scene::sharing(Arc::new(MemoryRedis::new(UnixMillis::now()))).await;
    for name in ["nina", "alice"] {
        let event = sign_out_of_an_unknown_user("sess_8", Some(name), scene.now);
        let applied = scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
        assert_eq!(applied, Ok(Applied::InForce));
    }
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked(), []);
}

#[tokio::test]
async fn a_name_that_is_current_again_is_not_revoked_again() {
    let scene = Scene::start().await;
    scene.is_named("alice2", 0).await;
    scene.is_named("alice", 1).await;
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked(), [("clientId:alice".to_owned(), true)]);
}

#[tokio::test]
async fn only_the_targets_that_ably_did_not_revoke_are_retried() {
    let scene = Scene::start().await;
    scene.apply(Change::OrganizationDeleted { organization_id: "org_1".into() }, scene.now).await;
    let both = [("clientId:alice".to_owned(), true), ("clientId:bob".to_owned(), true)];
    assert_eq!(scene.revoked(), both);
    scene.ably.set_target_failure("clientId:bob", Some(50003));
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked()[2..], both);
    for (tries, seconds) in [(1, 1), (2, 2), (2, 3), (3, 4)] {
        scene.perform_due_tasks(Revocation::REPEAT_AFTER + Duration::from_secs(seconds)).await;
        assert_eq!(scene.revoked().len(), 4 + tries, "after {seconds} s");
        assert_eq!(scene.revoked().last(), both.last());
    }
    scene.ably.set_target_failure("clientId:bob", None);
    for seconds in [8, 60] {
        scene.perform_due_tasks(Revocation::REPEAT_AFTER + Duration::from_secs(seconds)).await;
        assert_eq!(scene.revoked().len(), 8, "after {seconds} s");
    }
}

#[tokio::test]
async fn what_is_left_of_very_many_targets_is_several_tasks() {
    let scene = Scene::start().await;
    let store = &scene.revocation.store;
    let live_tokens = store.live_tokens(&TenantName::default(), &TokenHolder::User("user_1".into()), scene.now).await;
    for number in 0..2 * Task::MOST_TARGETS {
        let live_token = LiveToken { client_id: format!("client_{number}"), ..live_tokens.live_tokens[0].clone() };
        store.put_live_token(live_token, scene.now).await.unwrap();
    }
    scene.ably.set_revocation_outage(Some(Outage::Status(503)));
    let event = Event { at: scene.now, change: Change::OrganizationDeleted { organization_id: "org_1".into() } };
    let applied = scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
    assert_eq!(applied, Err(Incomplete::Ably));
    let tasks = store.claim_tasks(Claim::Due(10), scene.now.after(Duration::from_secs(100))).await.unwrap();
    let read = |task: &StoredTask| serde_json::from_str::<Task>(&task.payload).unwrap().unrevoked.unwrap().len();
    let mut targets: Vec<_> = tasks.iter().map(read).collect();
    targets.sort_unstable();
    assert_eq!(targets, [2, Task::MOST_TARGETS, Task::MOST_TARGETS]);
    scene.ably.set_revocation_outage(None);
    scene.perform_due_tasks(Duration::from_secs(149)).await;
    assert_eq!(scene.revoked().into_iter().collect::<BTreeSet<_>>().len(), 2 * Task::MOST_TARGETS + 2);
}

#[tokio::test]
async fn an_event_that_is_delivered_twice_is_applied_once() {
    let scene = Scene::start().await;
    let of_alice = ("clientId:alice".to_owned(), true);
    for _ in 0..2 {
        scene.sign_out().await;
        assert_eq!(scene.revoked(), slice::from_ref(&of_alice));
    }
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    scene.sign_out().await;
    scene.perform_due_tasks(2 * Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked(), [of_alice.clone(), of_alice]);
}

#[tokio::test]
async fn two_deliveries_at_once_both_end_the_tokens() {
    let scene = Scene::start().await;
    future::join(scene.sign_out(), scene.sign_out()).await;
    let revoked = scene.revoked();
    assert!(!revoked.is_empty() && revoked.iter().all(|(target, _)| target == "clientId:alice"), "{revoked:?}");
    scene.sign_out().await;
    assert_eq!(scene.revoked(), revoked);
}

#[tokio::test]
async fn the_next_delivery_takes_over_from_a_replica_that_died() {
    let scene = Scene::start().await;
    let change = Change::SessionEnded { session_id: "sess_1".into(), user_id: Some("user_1".into()), username: None };
    let event = Event { at: scene.now, change };
    let tenant = scene.revocation.tenants.only().unwrap();
    let restrictions = restrictions_of(&event, tenant, scene.now);
    let tasks = tasks_of(&event, tenant, &restrictions[0], scene.now).unwrap();
    scene.revocation.store.record(&restrictions, &tasks, scene.now).await.unwrap();
    for _ in 0..2 {
        scene.sign_out().await;
        assert_eq!(scene.revoked().len(), 1);
    }
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.revoked().len(), 2);
}

#[tokio::test]
async fn a_refused_event_can_be_delivered_again_once_the_cause_is_fixed() {
    let scene = Scene::start().await;
    scene.ably.set_target_failure("clientId:alice", Some(40164));
    scene.sign_out().await;
    scene.ably.set_target_failure("clientId:alice", None);
    for _ in 0..2 {
        scene.sign_out().await;
        assert_eq!(scene.revoked().len(), 2);
    }
    // The second revocation is tried again without a delivery.
    scene.ably.set_target_failure("clientId:alice", Some(40164));
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    scene.ably.set_target_failure("clientId:alice", None);
    for _ in 0..2 {
        scene.perform_due_tasks(Revocation::REPEAT_AFTER + Revocation::REFUSED_RETRY).await;
        assert_eq!(scene.revoked().len(), 4);
    }
}

#[tokio::test]
async fn an_event_that_a_single_replica_retried_is_done_at_the_next_delivery() {
    let scene = Scene::start().await;
    scene.ably.set_revocation_outage(Some(Outage::Status(503)));
    let change = Change::SessionEnded { session_id: "sess_1".into(), user_id: Some("user_1".into()), username: None };
    let event = Event { at: scene.now, change };
    let apply = async |now| scene.revocation.apply(&TenantName::default(), &event, now).await;
    assert_eq!(apply(scene.now).await, Err(Incomplete::Ably));
    scene.ably.set_revocation_outage(None);
    scene.perform_due_tasks(Duration::from_secs(1)).await;
    assert_eq!(apply(scene.now.after(Duration::from_secs(5))).await, Ok(Applied::InForce));
    assert_eq!(scene.revoked().len(), 2);
}

#[tokio::test]
async fn the_next_delivery_cancels_the_retry() {
    let scene = Scene::start().await;
    scene.ably.set_revocation_outage(Some(Outage::Status(503)));
    let change = Change::SessionEnded { session_id: "sess_1".into(), user_id: Some("user_1".into()), username: None };
    let event = Event { at: scene.now, change };
    let apply = async |now| scene.revocation.apply(&TenantName::default(), &event, now).await;
    assert_eq!(apply(scene.now).await, Err(Incomplete::Ably));
    scene.ably.set_revocation_outage(None);
    assert_eq!(apply(scene.now.after(Duration::from_secs(5))).await, Ok(Applied::InForce));
    scene.perform_due_tasks(Duration::from_secs(6)).await;
    assert_eq!(scene.revoked().len(), 2);
}

#[tokio::test]
async fn many_due_tasks_share_few_calls() {
    let scene = Scene::start().await;
    for number in 0..250 {
        scene.put_live_token_as(&format!("alice-{number}")).await;
        let change = Change::SessionEnded { session_id: format!("sess-{number}"), user_id: None, username: None };
        let event = Event { at: scene.now, change };
        scene.revocation.apply(&TenantName::default(), &event, scene.now).await.unwrap();
    }
    let ban = Change::UserDeleted { user_id: "user_1".into() };
    scene.apply(ban, scene.now).await;
    let calls = scene.ably.calls().revoke_tokens;
    assert_eq!(calls, 3);
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    assert_eq!(scene.ably.calls().revoke_tokens, 2 * calls);
}

#[tokio::test]
async fn a_refused_target_is_not_retried() {
    let scene = Scene::start().await;
    scene.ably.set_target_failure("clientId:alice", Some(40000));
    scene.sign_out().await;
    scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
    scene.perform_due_tasks(Revocation::REPEAT_AFTER + Duration::from_mins(2)).await;
    assert_eq!(scene.revoked().len(), 2);
}

#[tokio::test]
async fn a_target_without_a_result_is_retried_alone_and_does_not_delay_others() {
    let scene = Scene::start().await;
    scene.ably.set_target_poison("clientId:bob", Some(Poison::NoResult));
    let change = Change::OrganizationDeleted { organization_id: "org_1".into() };
    let event = Event { at: scene.now, change };
    let applied = scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
    assert_eq!(applied, Err(Incomplete::Ably));
    let [alice, bob] = ["alice", "bob"].map(|name| (format!("clientId:{name}"), true));
    assert_eq!(scene.revoked(), [alice.clone(), bob.clone()]);
    scene.perform_due_tasks(Duration::from_secs(1)).await;
    assert_eq!(scene.revoked()[2..], [bob]);
    // Without a pause, although the last call had no result.
    scene.sign_out().await;
    assert_eq!(scene.revoked()[3..], [alice]);
}

#[tokio::test]
async fn a_call_that_ably_refuses_because_of_one_target_is_made_again_without_it() {
    let scene = Scene::start().await;
    scene.ably.set_target_poison("clientId:bob", Some(Poison::CallRefused));
    let token = scene.token_request();
    let token = scene.exchange(&token).await;
    scene.apply(Change::OrganizationDeleted { organization_id: "org_1".into() }, scene.now).await;
    assert_eq!(scene.code_of(&token).await, REVOKED);
    assert_eq!(scene.ably.calls().revoke_tokens, 3);
}

#[tokio::test]
async fn a_call_that_ably_refuses_because_of_the_key_is_not_split() {
    let scene = Scene::start().await;
    scene.ably.set_revocable_tokens(RevocableTokens::Off);
    scene.apply(Change::OrganizationDeleted { organization_id: "org_1".into() }, scene.now).await;
    assert_eq!(scene.ably.calls().revoke_tokens, 1);
}

#[tokio::test]
async fn what_ably_refuses_is_tried_again_also_if_it_accepts_the_other_targets() {
    let scene = Scene::start().await;
    scene.ably.set_target_failure("clientId:alice", Some(40164));
    scene.ably.set_target_failure("clientId:bob", Some(50003));
    let change = Change::OrganizationDeleted { organization_id: "org_1".into() };
    let event = Event { at: scene.now, change };
    let applied = scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
    assert_eq!(applied, Err(Incomplete::Ably));
    scene.ably.set_target_failure("clientId:bob", None);
    scene.perform_due_tasks(Duration::from_secs(1)).await;
    scene.ably.set_target_failure("clientId:alice", None);
    let before = scene.revoked().len();
    assert_eq!(before, 4);
    scene.perform_due_tasks(Duration::from_mins(2)).await;
    assert_eq!(scene.revoked().len(), before);
    scene.perform_due_tasks(Revocation::REFUSED_RETRY + Duration::from_secs(1)).await;
    let of_alice = ("clientId:alice".to_owned(), true);
    assert!(scene.revoked()[before..].contains(&of_alice));
}

#[tokio::test]
async fn a_refused_rename_is_tried_again_until_the_cause_is_fixed() {
    for is_shared in [false, true] {
        let scene = if is_shared {
            Scene::sharing(Arc::new(MemoryRedis::new(UnixMillis::now()))).await
        } else {
            Scene::start().await
        };
        scene.ably.set_target_failure("clientId:alice", Some(40133));
        for seconds in 0..3 {
            scene.is_named("alice2", seconds).await;
        }
        // The first revocation and the second, which later meet in one call.
        for (minutes, calls) in [(0, 1), (3, 2), (13, 3), (23, 4)] {
            scene.perform_due_tasks(Duration::from_mins(minutes)).await;
            assert_eq!(scene.revoked().len(), calls, "{is_shared} {minutes}");
        }
        scene.ably.set_target_failure("clientId:alice", None);
        for _ in 0..2 {
            scene.perform_due_tasks(Duration::from_mins(33)).await;
            assert_eq!(scene.revoked().len(), 5, "{is_shared}");
        }
        assert!(scene.revoked().iter().all(|revoked| *revoked == ("clientId:alice".to_owned(), true)));
    }
}

#[tokio::test]
async fn after_a_long_outage_of_ably_tokens_are_revoked_unless_they_have_expired() {
    for (hours, is_revoked) in [(1, true), (2, false)] {
        let scene = Scene::start().await;
        scene.ably.set_revocation_outage(Some(Outage::Status(503)));
        let change =
            Change::SessionEnded { session_id: "sess_1".into(), user_id: Some("user_1".into()), username: None };
        let event = Event { at: scene.now, change };
        let applied = scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
        assert_eq!(applied, Err(Incomplete::Ably));
        for minutes in [3, 10, 40] {
            scene.perform_due_tasks(Duration::from_mins(minutes)).await;
        }
        assert_eq!(scene.ably.calls().revoke_tokens, 4);
        scene.ably.set_revocation_outage(None);
        for _ in 0..2 {
            scene.perform_due_tasks(Duration::from_hours(hours)).await;
            assert_eq!(scene.ably.calls().revoke_tokens, 4 + u64::from(is_revoked));
        }
    }
}

#[tokio::test]
async fn an_unreadable_task_is_kept_for_a_day() {
    let scene = Scene::start().await;
    let store = &scene.revocation.store;
    let task = StoredTask { id: "1".into(), due: scene.now, payload: "{\"of\":\"another version\"}".into() };
    store.record(&[], &[task], scene.now).await.unwrap();
    let day = Duration::from_hours(24);
    for (after, tasks) in [(Duration::ZERO, 1), (day, 1), (day + Duration::from_mins(2), 0)] {
        scene.perform_due_tasks(after).await;
        assert_eq!(store.stats(scene.now).tasks.count, tasks);
    }
}

#[tokio::test]
async fn if_any_call_of_the_store_fails_the_event_takes_effect_and_is_to_be_delivered_again() {
    let user = |banned| User {
        id: "user_1".into(),
        username: Some(if banned { "alice" } else { "alice2" }.into()),
        banned,
        deprovisioned: false,
    };
    let (user_id, organization_id) = ("user_1".to_owned(), "org_1".to_owned());
    for change in [
        Change::SessionEnded { session_id: "sess_1".into(), user_id: Some(user_id.clone()), username: None },
        Change::UserUpdated(user(true)),
        Change::UserUpdated(user(false)),
        Change::UserDeleted { user_id: user_id.clone() },
        Change::MembershipChanged { user_id, organization_id },
    ] {
        let mut failures = 0;
        for call in 1.. {
            let redis = Arc::new(MemoryRedis::new(UnixMillis::now()));
            let scene = Scene::sharing(Arc::clone(&redis)).await;
            redis.fail_at(call);
            let event = Event { at: scene.now, change: change.clone() };
            let apply = async || scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
            let first = apply().await;
            let targets: Vec<_> = scene.revoked().into_iter().map(|(target, _)| target).collect();
            assert_eq!(targets, ["clientId:alice"], "{change:?}, failing {call}");
            if first == Ok(Applied::InForce) {
                break;
            }
            assert!(matches!(first, Err(Incomplete::Store(_))), "{change:?}, failing {call}");
            failures += 1;
            scene.revocation.store.becomes_ready().await;
            assert_eq!(apply().await, Ok(Applied::InForce), "{change:?}, failing {call}");
            let before = scene.revoked().len();
            scene.perform_due_tasks(Revocation::REPEAT_AFTER).await;
            assert!(scene.revoked().len() > before, "{change:?}, failing {call}");
        }
        // The restriction with its tasks, and the look-up of live tokens.
        assert!(failures >= 2, "{change:?}: {failures}");
    }
}

#[tokio::test]
async fn a_token_that_was_issued_in_an_outage_despite_a_denial_is_revoked_twice() {
    let alice = LiveToken {
        until: UnixMillis::now().after(Duration::from_hours(1)),
        ..live_tokens(UnixMillis::now()).remove(0)
    };
    for (is_revocable, is_denied) in [(true, true), (true, false), (false, true)] {
        let redis = Arc::new(MemoryRedis::new(UnixMillis::now()));
        let scene = Scene::sharing(Arc::clone(&redis)).await;
        let revocable = tenant("{username}", scene.key.clone());
        let queues = if is_revocable { revocable.revocation_queues.clone() } else { Vec::new() };
        let tenant = Tenant { revocation_queues: queues, ..revocable };
        let denial = Restriction {
            session_user: None,
            tenant: tenant.name.clone(),
            subject: Subject::User("user_0".into()),
            kind: RestrictionKind::Denied(DenialSource::Clerk),
            at: scene.now,
            until: scene.now.after(tenant.denial),
        };
        let tenants = tenants(tenant);
        let store = Arc::new(redis.replica_with(tasks_of_restriction(Arc::clone(&tenants), 1)).await);
        let revocation = Revocation::new(Arc::clone(&store), tenants, scene.now);
        redis.fail_at(1);
        assert_eq!(store.put_live_token(alice.clone(), scene.now).await, Err(StoreError::Unavailable));
        if is_denied {
            // By another replica, which does not know of the token.
            redis.record(&[denial], &[], RecordOutcome::New, scene.now).await.unwrap();
        }
        store.becomes_ready().await;
        let revoked =
            if is_revocable && is_denied { vec![(format!("clientId:{}", alice.client_id), false)] } else { vec![] };
        for (times, revoked) in [(0, &*revoked), (1, &*revoked), (2, &[])] {
            let before = scene.revoked().len();
            revocation.perform_due_tasks(|| scene.now.after(times * Revocation::REPEAT_AFTER)).await;
            assert_eq!(scene.revoked()[before..], *revoked, "{is_revocable} {is_denied} {times}");
        }
    }
}

#[tokio::test]
async fn each_start_of_each_process_has_late_tasks_of_its_own() {
    let scene = Scene::start().await;
    let tenants = tenants(tenant("{username}", scene.key.clone()));
    let denial = Restriction {
        session_user: None,
        tenant: TenantName::default(),
        subject: Subject::User("user_0".into()),
        kind: RestrictionKind::Denied(DenialSource::Clerk),
        at: scene.now,
        until: scene.now.after(Duration::from_mins(5)),
    };
    let starts = [(1, 1), (1, 2), (2, 1)];
    let tasks_of = |(process, start)| tasks_of_restriction(Arc::clone(&tenants), process)(&denial, start, scene.now);
    let ids: BTreeSet<_> = starts.into_iter().flat_map(tasks_of).map(|task| task.id).collect();
    assert_eq!(ids.len(), 2 * starts.len(), "{ids:?}");
}

#[tokio::test]
async fn in_an_outage_own_tokens_are_revoked_once_for_each_task_and_those_of_others_when_it_has_ended() {
    let redis = Arc::new(MemoryRedis::new(UnixMillis::now()));
    let scene = Scene::sharing(Arc::clone(&redis)).await;
    let of_another = LiveToken { user: "user_1".into(), ..live_tokens(scene.now).remove(0) };
    let target = format!("clientId:{}", of_another.client_id);
    redis.register(&[of_another], scene.now).await.unwrap();
    redis.is_down.store(true, Ordering::Relaxed);
    let event = Event { at: scene.now, change: Change::UserDeleted { user_id: "user_1".into() } };
    let applied = scene.revocation.apply(&TenantName::default(), &event, scene.now).await;
    assert_eq!(applied, Err(Incomplete::Store(StoreError::Unavailable)));
    for (times, calls) in [(0, 1), (1, 2), (2, 2), (3, 2)] {
        scene.perform_due_tasks(times * Revocation::REPEAT_AFTER).await;
        assert_eq!(scene.revoked(), vec![("clientId:alice".to_owned(), false); calls], "{times}");
    }
    redis.is_down.store(false, Ordering::Relaxed);
    scene.revocation.store.becomes_ready().await;
    scene.perform_due_tasks(4 * Revocation::REPEAT_AFTER).await;
    assert!(scene.revoked()[2..].contains(&(target, false)));
    let left = scene.revocation.store.claim_tasks(Claim::Due(9), scene.now.after(Duration::from_hours(1))).await;
    assert_eq!(left, Ok(Vec::new()));
}

/// A tenant that is replacing an API key: the new one signs.
fn rotating_tenant(new: &RevokingKey, old: &RevokingKey) -> Tenant {
    Tenant {
        api_key: new.api_key.clone(),
        revocation_queues: vec![queue(new.clone()), queue(old.clone())],
        ..tenant("{username}", new.clone())
    }
}

fn by_keys(revoked: &[(&RevokingKey, &str)]) -> BTreeSet<(String, String)> {
    revoked.iter().map(|(key, target)| (key.api_key.name().to_string(), (*target).to_owned())).collect()
}

#[tokio::test]
async fn each_key_revokes_the_tokens_that_it_signed_and_any_key_may_have_signed_unknown_ones() {
    let scene = Scene::start().await;
    let new = scene.other_key();
    let tenants = tenants(rotating_tenant(&new, &scene.key));
    let revocation = Revocation::new(Arc::clone(&scene.revocation.store), tenants, scene.now);
    let bob = LiveToken {
        user: "user_2".into(),
        client_id: "bob".into(),
        key: new.api_key.name().clone(),
        ..live_tokens(scene.now).remove(0)
    };
    scene.revocation.store.put_live_token(bob, scene.now).await.unwrap();
    let banned = |user: &str, username: &str| {
        let user = User { id: user.into(), username: Some(username.into()), banned: true, deprovisioned: false };
        Event { at: scene.now, change: Change::UserUpdated(user) }
    };
    let mut expected = vec![(&scene.key, "clientId:alice")];
    for (event, more) in [
        (banned("user_1", "alice"), vec![]),
        // Bob has a token of each key.
        (banned("user_2", "bob"), vec![(&scene.key, "clientId:bob"), (&new, "clientId:bob")]),
        (banned("user_3", "carol"), vec![(&scene.key, "clientId:carol"), (&new, "clientId:carol")]),
    ] {
        assert_eq!(revocation.apply(&TenantName::default(), &event, scene.now).await, Ok(Applied::InForce));
        expected.extend(more);
        assert_eq!(scene.revoked_by_key(), by_keys(&expected));
    }
    let calls = scene.ably.revocation_calls().len();
    revocation.perform_due_tasks(|| scene.now.after(Revocation::REPEAT_AFTER)).await;
    assert!(scene.ably.revocation_calls().len() > calls);
    assert_eq!(scene.revoked_by_key(), by_keys(&expected));
}

#[tokio::test]
async fn a_replica_that_lacks_a_key_leaves_its_tokens_to_one_that_has_it() {
    let redis = Arc::new(MemoryRedis::new(UnixMillis::now()));
    let scene = Scene::sharing(Arc::clone(&redis)).await;
    let new = scene.other_key();
    let updated =
        Revocation::new(Arc::new(redis.replica().await), tenants(rotating_tenant(&new, &scene.key)), scene.now);
    let alice = LiveToken { key: new.api_key.name().clone(), ..live_tokens(scene.now).remove(0) };
    let target = format!("clientId:{}", alice.client_id);
    updated.store.put_live_token(alice, scene.now).await.unwrap();
    scene.apply(Change::UserDeleted { user_id: "user_0".into() }, scene.now).await;
    scene.revocation.perform_due_tasks(|| scene.now).await;
    assert_eq!(scene.revoked_by_key(), by_keys(&[]));
    for after in [Duration::from_secs(6), Revocation::REPEAT_AFTER] {
        let calls = scene.ably.revocation_calls().len();
        updated.perform_due_tasks(|| scene.now.after(after)).await;
        assert_eq!(scene.ably.revocation_calls().len(), calls + 1, "{after:?}");
    }
    assert_eq!(scene.revoked_by_key(), by_keys(&[(&new, &target)]));
}

/// The live tokens of the random test: each user has one in each of two sessions, with another client ID and another
/// organization in each.
fn live_tokens(now: UnixMillis) -> Vec<LiveToken> {
    let of = |user: usize, number: usize| LiveToken {
        tenant: TenantName::default(),
        user: format!("user_{user}"),
        session: [format!("sess_{user}"), format!("sess_of_{user}")][number].clone(),
        organization: Some(format!("org_{number}")),
        client_id: format!("{}/user_{user}", ["alice", "bob"][number]),
        format: TokenFormat::TokenRequest,
        key: fixtures::key_name(),
        until: now.after(Duration::from_hours(1)),
    };
    (0..2).flat_map(|user| (0..2).map(move |number| of(user, number))).collect()
}

/// Whether an event alone ends a token.
fn ends(change: &Change, live_token: &LiveToken) -> bool {
    match change {
        Change::SessionEnded { session_id, .. } => live_token.session == *session_id,
        Change::UserDeleted { user_id } => live_token.user == *user_id,
        Change::UserUpdated(user) => {
            let name = user.username.as_ref().map(|name| format!("{name}/{}", user.id));
            live_token.user == user.id && (user.banned || name.as_ref() != Some(&live_token.client_id))
        }
        Change::MembershipChanged { user_id, organization_id } => {
            live_token.user == *user_id && live_token.organization.as_ref() == Some(organization_id)
        }
        Change::OrganizationDeleted { organization_id } => live_token.organization.as_ref() == Some(organization_id),
    }
}

/// Whether these events together end a token: of a user's updates the latest counts, and of two in one millisecond the ban.
fn has_to_end(events: &[Event], live_token: &LiveToken) -> bool {
    let is_ban = |change: &Change| matches!(change, Change::UserUpdated(user) if user.banned);
    let updates =
        events.iter().filter(|event| matches!(&event.change, Change::UserUpdated(user) if user.id == live_token.user));
    let latest = updates.max_by_key(|event| (event.at, is_ban(&event.change)));
    let others = events.iter().filter(|event| !matches!(event.change, Change::UserUpdated(_)));
    others.chain(latest).any(|event| ends(&event.change, live_token))
}

#[test]
fn in_any_order_events_revoke_the_tokens_that_they_end_and_no_others() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let deliveries = proptest::collection::vec(tests::event(), 0..8).prop_flat_map(|events| {
        let twice: Vec<_> = events.iter().cloned().chain(events.iter().take(3).cloned()).collect();
        (Just(events), Just(twice).prop_shuffle())
    });
    let mut runner = TestRunner::new(Config::with_cases(100));
    let outcome = runner.run(&deliveries, |(events, deliveries)| {
        runtime.block_on(async {
            let scene = Scene::without_tokens("{username}/{user_id}", in_memory()).await;
            // The events have timestamps around this time.
            let now = tests::NOW.after(Duration::from_mins(1));
            for live_token in live_tokens(now) {
                scene.revocation.store.put_live_token(live_token, now).await.unwrap();
            }
            for event in &deliveries {
                scene.revocation.apply(&TenantName::default(), event, now).await.unwrap();
            }
            let revoked = scene.revoked();
            for live_token in live_tokens(now) {
                let is_revoked =
                    revoked.iter().any(|(target, _)| *target == format!("clientId:{}", live_token.client_id));
                let has_to_end = has_to_end(&events, &live_token);
                let is_ended = events.iter().any(|event| ends(&event.change, &live_token));
                prop_assert!(is_revoked || !has_to_end, "{live_token:?} lives on");
                prop_assert!(is_ended || !is_revoked, "{live_token:?} is revoked for nothing");
            }
            Ok(())
        })
    });
    outcome.unwrap();
}
