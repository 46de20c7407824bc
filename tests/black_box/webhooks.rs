//! Clerk's webhooks: what ends or changes at Clerk ends or changes here. The same with a store of the replica's own and
//! with a real Redis.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use sandbox::{
    ably::{self, Outage, Poison, RevocableTokens, RevocationCall, RevocationOutcome},
    clerk::{self, Answer, Attempt, Endpoint},
};
use serde_json::{Value, json};
use svix::webhooks::Webhook;

use crate::{
    proxy::{Condition, Proxy},
    redis_server::RedisServer,
    service::{ORIGIN, Service, Vendors, refusal, request_id},
};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Where replicas keep what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    InMemory,
    InRedis,
}

const BOTH: [Kept; 2] = [Kept::InMemory, Kept::InRedis];

/// A service between stand-ins, to which Clerk's sends its webhooks.
struct Scene {
    vendors: Vendors,
    service: Service,
    redis: Option<RedisServer>,
}

/// Stand-ins whose Ably key has revocable tokens on.
pub(crate) async fn vendors() -> Vendors {
    let clerk = clerk::Options { authorized_party: ORIGIN.into(), ..clerk::Options::default() };
    let ably = ably::Options { revocable_tokens: true, ..ably::Options::default() };
    Vendors { clerk: clerk::Clerk::start(clerk).await.unwrap(), ably: ably::Ably::start(ably).await.unwrap() }
}

impl Scene {
    async fn start(kept: Kept, changes: &[(&str, &str)]) -> Self {
        let vendors = vendors().await;
        vendors.clerk.set_retry_schedule(vec![Duration::from_millis(200); 50]);
        let redis = (kept == Kept::InRedis).then(RedisServer::start);
        let mut scene = Self { service: Self::service(&vendors, redis.as_ref(), changes).await, vendors, redis };
        scene.deliver_to_service();
        scene
    }

    async fn service(vendors: &Vendors, redis: Option<&RedisServer>, changes: &[(&str, &str)]) -> Service {
        Self::service_at(vendors, &redis.map(RedisServer::url).unwrap_or_default(), changes).await
    }

    async fn service_at(vendors: &Vendors, redis_url: &str, changes: &[(&str, &str)]) -> Service {
        let settings =
            [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("ABLY_REVOCABLE_TOKENS", "true"), ("REDIS_URL", redis_url)];
        vendors.service_with(&[&settings, changes].concat()).await
    }

    fn deliver_to_service(&mut self) {
        let url = format!("http://{}/webhooks/clerk", self.service.address());
        self.vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[SECRET]).unwrap()]);
    }

    /// The claims of a session of a user, and a token with them.
    fn session(&self, username: &str) -> (Value, String) {
        let claims = self.vendors.clerk.session_claims(&self.vendors.user(username));
        (claims.clone(), self.vendors.clerk.mint(claims))
    }

    async fn is_served(&self, token: &str) {
        let response = self.service.token(token).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
    }

    async fn is_refused(&self, token: &str, expected: (u16, u64), reason: &str) {
        let response = self.service.token(token).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, expected);
        assert_eq!(self.service.logged_of(&id).await["reason"], reason);
    }

    /// What Ably was told to revoke since the last look, each target with its margin.
    fn revoked(&self, seen: &mut usize) -> Vec<(String, bool)> {
        let calls = self.vendors.ably.revocation_calls();
        let new = calls[*seen..].iter().flat_map(|RevocationCall { targets, allow_reauth_margin, .. }| {
            targets.iter().map(|target| (target.clone(), *allow_reauth_margin))
        });
        let new = new.collect();
        *seen = calls.len();
        new
    }

    /// Asserts what Ably was told to revoke since the last look. If Redis was lost, it may have been told more.
    fn assert_revoked(&self, seen: &mut usize, expected: &[(String, bool)], case: &str) {
        let mut revoked = self.revoked(seen);
        if self.lost_redis() {
            revoked.retain(|each| expected.contains(each));
            revoked.dedup();
        }
        assert_eq!(revoked, expected, "{case}");
    }

    /// Whether Redis did not answer in time, as on a busy machine. Then events are delivered again.
    fn lost_redis(&self) -> bool {
        self.service.log().iter().any(|line| line["message"] == "Redis cannot be used")
    }

    async fn settled(&self) {
        self.vendors.clerk.webhooks_settled().await;
    }

    /// Tells of an event and waits until the service has taken it.
    async fn happens(&self, event: &str, data: Value, at: Option<i64>) {
        self.vendors.clerk.send_event(event, data, at);
        self.settled().await;
    }

    /// What the service answered to the last delivery of such an event: others may be on their way beside it.
    fn last_answer(&self, event: &str) -> Answer {
        let attempts = self.vendors.clerk.attempts();
        attempts.iter().rfind(|attempt| attempt.event_type == event).unwrap().answer
    }

    fn user_data(&self, username: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut user = json!({
            "id": self.vendors.user(username), "username": username, "banned": false, "deprovisioned": false,
            "updated_at": 1,
        });
        change(&mut user);
        user
    }
}

const DENIED: ((u16, u64), &str) = ((403, 40300), "session-denied");
const OUTDATED: ((u16, u64), &str) = ((401, 40101), "session-token-outdated");

fn now() -> i64 {
    i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

/// The headers of a delivery of this body, signed at this time.
pub(crate) fn signed(secret: &str, seconds: i64, body: &str) -> [(&'static str, String); 3] {
    let signature = Webhook::new(secret).unwrap().sign("msg_1", seconds, body.as_bytes()).unwrap();
    [("svix-id", "msg_1".to_owned()), ("svix-timestamp", seconds.to_string()), ("svix-signature", signature)]
}

/// Has a service get a body as a delivery that is signed now.
async fn deliver(service: &Service, body: &str) -> Response {
    let request = service.request(Method::POST, "/webhooks/clerk");
    let headers = signed(SECRET, now() / 1000, body).into_iter();
    let request = headers.fold(request, |request, (name, value)| request.header(name, value));
    request.body(body.to_owned()).send().await.unwrap()
}

/// A token of the same session whose `iat` is that much later.
fn later(scene: &Scene, claims: &Value, seconds: i64) -> String {
    let mut claims = claims.clone();
    for name in ["iat", "exp", "nbf"] {
        claims[name] = json!(claims[name].as_i64().unwrap() + seconds);
    }
    scene.vendors.clerk.mint(claims)
}

#[tokio::test]
async fn a_session_that_ends_is_denied_and_its_tokens_are_revoked() {
    for kept in BOTH {
        for (format, with_margin) in [("token_request", true), ("token_details", true), ("jwt", false)] {
            let scene = Scene::start(kept, &[("TOKEN_FORMAT", format)]).await;
            let mut seen = 0;
            for event in ["session.ended", "session.removed", "session.revoked"] {
                let (claims, token) = scene.session("alice");
                let (_, other_device) = scene.session("alice");
                scene.is_served(&token).await;
                let data = json!({ "id": claims["sid"], "user_id": claims["sub"] });
                scene.happens(event, data, None).await;
                scene.is_refused(&token, DENIED.0, DENIED.1).await;
                // However fresh the token is: the session is over.
                scene.is_refused(&later(&scene, &claims, 2), DENIED.0, DENIED.1).await;
                let target = if format == "jwt" {
                    format!("revocationKey:{}", claims["sid"].as_str().unwrap())
                } else {
                    "clientId:alice".to_owned()
                };
                scene.assert_revoked(&mut seen, &[(target, with_margin)], &format!("{kept:?} {format} {event}"));
                scene.is_served(&other_device).await;
            }
        }
    }
}

#[tokio::test]
async fn a_banned_or_deleted_user_is_denied_in_every_session_and_revoked_at_once() {
    for kept in BOTH {
        for (flag, event) in
            [("banned", "user.updated"), ("deprovisioned", "user.updated"), ("deleted", "user.deleted")]
        {
            let scene = Scene::start(kept, &[("TOKEN_FORMAT", "jwt")]).await;
            let ((_, one), (_, other)) = (scene.session("alice"), scene.session("alice"));
            scene.is_served(&one).await;
            let data = scene.user_data("alice", |user| user[flag] = json!(true));
            let at = now();
            scene.happens(event, data, Some(at)).await;
            for token in [&one, &other] {
                scene.is_refused(token, DENIED.0, DENIED.1).await;
            }
            scene.assert_revoked(&mut 0, &[("clientId:alice".to_owned(), false)], &format!("{kept:?} {flag}"));
            scene.is_served(&scene.session("bob").1).await;

            // A newer event with neither lifts a ban, and no late older one brings it back. Deletion stays.
            scene.happens("user.updated", scene.user_data("alice", |_| {}), Some(at + 10)).await;
            scene
                .happens("user.updated", scene.user_data("alice", |user| user["banned"] = json!(true)), Some(at + 5))
                .await;
            if flag == "deleted" {
                scene.is_refused(&one, DENIED.0, DENIED.1).await;
            } else {
                scene.is_served(&one).await;
            }
        }
    }
}

#[tokio::test]
async fn a_renamed_user_comes_back_under_the_new_name_only() {
    for kept in BOTH {
        let scene = Scene::start(kept, &[]).await;
        let (claims, token) = scene.session("alice");
        scene.is_served(&token).await;
        // A change of anything else disturbs nobody.
        let (mut seen, alice) = (0, scene.vendors.user("alice"));
        scene.vendors.clerk.change_user(&alice, |user| user.first_name = Some("Alicia".into()));
        scene.settled().await;
        scene.is_served(&token).await;
        scene.assert_revoked(&mut seen, &[], "");

        scene.vendors.clerk.change_user(&alice, |user| user.username = Some("alice2".into()));
        scene.settled().await;
        scene.assert_revoked(&mut seen, &[("clientId:alice".to_owned(), true)], &format!("{kept:?}"));
        // A session token that tells the former name is refused; one that tells none gives the name that Clerk tells.
        let mut former = claims.clone();
        former["username"] = json!("alice");
        scene.is_refused(&scene.vendors.clerk.mint(former), OUTDATED.0, OUTDATED.1).await;
        for token in [token, later(&scene, &claims, 4)] {
            let response = scene.service.token(&token).await;
            assert_eq!(crate::service::json(response, 200).await["clientId"], "alice2", "{kept:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused_and_logged_as_a_webhooks() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let head = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nHost: x\r\nsvix-id: msg_1\r\nsvix-timestamp: {now}\r\nsvix-signature: v1,eA==\r\n\
         X-Request-Id: broken-off\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let answer = scene.service.raw(format!("{head}5\r\nhello\r\nzz\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("(webhook-body-refused)"), "{answer}");
    let line = scene.service.logged_of("broken-off").await;
    assert_eq!((&line["reason"], &line["level"]), (&json!("webhook-body-refused"), &json!("WARN")), "{line}");
}

#[tokio::test]
async fn sign_ins_after_a_rename_are_served_and_revoke_nothing_more() {
    for kept in BOTH {
        let scene = Scene::start(kept, &[]).await;
        let (mut claims, token) = scene.session("alice");
        scene.is_served(&token).await;
        let minted = claims["iat"].as_i64().unwrap() * 1000;
        let renamed = || scene.user_data("alice", |user| user["username"] = json!("alice2"));
        let mut seen = 0;
        scene.happens("user.updated", renamed(), Some(minted + 100)).await;
        scene.assert_revoked(&mut seen, &[("clientId:alice".to_owned(), true)], &format!("{kept:?}"));
        // A token under the former name is out for an hour. Each sign-in mints a token, and then sends an event.
        claims["username"] = json!("alice2");
        for sign_in in 1..4 {
            let token = later(&scene, &claims, sign_in);
            scene.happens("user.updated", renamed(), Some(minted + sign_in * 1000 + 500)).await;
            scene.is_served(&token).await;
        }
        scene.assert_revoked(&mut seen, &[], &format!("{kept:?}"));
    }
}

#[tokio::test]
async fn a_sign_out_from_a_session_without_tokens_disturbs_other_devices_only_where_it_may_have_some() {
    for kept in BOTH {
        let scene = Scene::start(kept, &[]).await;
        let with_name = |username: &str| {
            let (mut claims, _) = scene.session(username);
            claims["username"] = json!(username);
            (claims.clone(), scene.vendors.clerk.mint(claims))
        };
        let (never_on_ably, _) = with_name("alice");
        let (_, other_device) = with_name("alice");
        scene.is_served(&other_device).await;
        let data = json!({
            "id": never_on_ably["sid"], "user_id": never_on_ably["sub"],
            "user": { "id": never_on_ably["sub"], "username": "alice" },
        });
        scene.happens("session.ended", data, None).await;
        // Without Redis, the session may have a token from before the start, an hour at most ago.
        let expected = if kept == Kept::InRedis { vec![] } else { vec![("clientId:alice".to_owned(), true)] };
        scene.assert_revoked(&mut 0, &expected, &format!("{kept:?}"));
        scene.is_served(&other_device).await;
    }
}

#[tokio::test]
async fn each_example_that_clerk_publishes_is_answered_2xx_and_disturbs_nobody() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/webhook_examples.json")).unwrap();
    for kept in BOTH {
        let scene = Scene::start(kept, &[]).await;
        // Who happens to have the ids and the name of the examples.
        let claims = json!({
            "sub": "user_2example00000000000000001", "sid": "sess_2example00000000000000001", "username": "johndoe",
            "o": { "id": "org_2example00000000000000001", "slg": "example-org", "rol": "member" },
        });
        let mut namesake = scene.session("carol").0;
        namesake.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let namesake = scene.vendors.clerk.mint(namesake);
        scene.is_served(&namesake).await;
        for case in vectors["cases"].as_array().unwrap() {
            let response = deliver(&scene.service, &case.to_string()).await;
            assert_eq!(response.status(), StatusCode::NO_CONTENT, "{kept:?} {}", case["type"]);
        }
        scene.is_served(&namesake).await;
        scene.assert_revoked(&mut 0, &[], &format!("{kept:?}"));
    }
}

#[tokio::test]
async fn events_in_seconds_take_effect_in_the_order_of_their_changes() {
    let second = now() / 1000 - 1;
    let (ban, lift) = ((true, second * 1000 + 100), (false, second * 1000 + 200));
    for (order, is_served) in [([ban, lift], true), ([lift, ban], true), ([(true, ban.1), (true, lift.1)], false)] {
        let scene = Scene::start(Kept::InMemory, &[]).await;
        let (_, token) = scene.session("alice");
        for (banned, updated_at) in order {
            let mut data = scene.user_data("alice", |user| user["updated_at"] = json!(updated_at));
            if banned {
                data["banned"] = json!(true);
            } else {
                // As in the documented sample.
                data.as_object_mut().unwrap().remove("banned");
            }
            scene.happens("user.updated", data, Some(second)).await;
            assert_eq!(scene.last_answer("user.updated"), Answer::Status(204));
        }
        if is_served {
            scene.is_served(&token).await;
        } else {
            scene.is_refused(&token, DENIED.0, DENIED.1).await;
        }
    }
}

#[tokio::test]
async fn the_log_names_the_field_that_an_event_lacks() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    for (event, data, field) in [
        ("session.ended", json!({ "user_id": "user_1" }), "data.id"),
        (
            "organizationMembership.deleted",
            json!({ "organization": { "id": "org_1" } }),
            "data.public_user_data.user_id",
        ),
    ] {
        let body = json!({ "type": event, "object": "event", "timestamp": now(), "data": data }).to_string();
        let response = deliver(&scene.service, &body).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, (400, 40000));
        let line = scene.service.logged_of(&id).await;
        assert_eq!(line["reason"], "webhook-malformed");
        assert_eq!(line["error"], format!("`{field}` is missing or of the wrong type"));
    }
}

#[tokio::test]
async fn a_former_name_in_a_session_token_is_refused_though_no_token_under_it_is_known() {
    for kept in BOTH {
        let scene = Scene::start(kept, &[("ABLY_REVOCABLE_TOKENS", "false")]).await;
        let (mut claims, _) = scene.session("alice");
        let minted = claims["iat"].as_i64().unwrap() * 1000;
        let mut of = |username: &str, seconds| {
            claims["username"] = json!(username);
            later(&scene, &claims, seconds)
        };
        let [alice, alice2, new_alice] = [of("alice", 0), of("alice2", 0), of("alice", 2)];
        let rename = |username: Value| scene.user_data("alice", |user| user["username"] = username);
        scene.happens("user.updated", rename(json!("alice2")), Some(minted + 500)).await;
        scene.is_refused(&alice, OUTDATED.0, OUTDATED.1).await;
        scene.is_served(&alice2).await;
        // Who has a name since then is told by the token alone.
        scene.is_served(&new_alice).await;

        // Of an older event nothing changes, nor of one that tells the same.
        scene.happens("user.updated", rename(json!("alice")), Some(minted + 400)).await;
        scene.happens("user.updated", rename(json!("alice2")), Some(minted + 600)).await;
        scene.is_served(&alice2).await;
        scene.happens("user.updated", rename(Value::Null), Some(minted + 700)).await;
        scene.is_refused(&alice2, OUTDATED.0, OUTDATED.1).await;
        assert_eq!(scene.vendors.ably.calls().revoke_tokens, 0, "{kept:?}");
    }
}

#[tokio::test]
async fn a_banned_user_is_revoked_though_no_token_of_theirs_is_known() {
    for (template, target) in [("{username}", "clientId:alice"), ("u-{user_id}", "clientId:u-")] {
        let scene = Scene::start(Kept::InMemory, &[("TOKEN_CLIENT_ID", template)]).await;
        let data = scene.user_data("alice", |user| user["banned"] = json!(true));
        scene.happens("user.updated", data, None).await;
        let revoked = scene.revoked(&mut 0);
        assert!(matches!(&revoked[..], [(of, false)] if of.starts_with(target)), "{revoked:?}");
    }
}

#[tokio::test]
async fn without_redis_ably_is_told_all_the_same_and_clerk_comes_again() {
    let mut scene = Scene::start(Kept::InRedis, &[]).await;
    let (claims, token) = scene.session("alice");
    scene.is_served(&token).await;
    scene.redis.as_mut().unwrap().kill();
    scene.vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
    let is_refused = |attempt: &Attempt| attempt.event_type == "session.ended" && attempt.answer == Answer::Status(503);
    scene.vendors.clerk.attempts_once(|attempts| attempts.iter().any(is_refused)).await;
    assert!(scene.revoked(&mut 0).contains(&("clientId:alice".to_owned(), true)));
    scene.is_refused(&token, DENIED.0, DENIED.1).await;
    assert!(scene.redis.as_mut().unwrap().start_again());
    scene.settled().await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
}

#[tokio::test]
async fn old_rights_in_an_organization_do_not_come_back_with_an_old_session_token() {
    for kept in BOTH {
        for format in ["token_request", "jwt"] {
            for event in ["organizationMembership.updated", "organizationMembership.deleted", "organization.deleted"] {
                let scene = Scene::start(kept, &[("TOKEN_FORMAT", format)]).await;
                let (claims, token) = scene.session("carol");
                let mut elsewhere = claims.clone();
                elsewhere.as_object_mut().unwrap().remove("o");
                elsewhere["sid"] = json!("sess_elsewhere");
                let elsewhere = scene.vendors.clerk.mint(elsewhere);
                for token in [&token, &elsewhere] {
                    scene.is_served(token).await;
                }
                let organization = json!({ "id": claims["o"]["id"] });
                let data = if event == "organization.deleted" {
                    organization
                } else {
                    json!({ "organization": organization, "public_user_data": { "user_id": claims["sub"] }, "role": "org:member" })
                };
                let at = claims["iat"].as_i64().unwrap() * 1000 + 999;
                scene.happens(event, data, Some(at)).await;
                scene.is_refused(&token, OUTDATED.0, OUTDATED.1).await;
                scene.is_served(&elsewhere).await;
                scene.is_served(&later(&scene, &claims, 2)).await;
                let target = if format == "jwt" {
                    format!("revocationKey:{}", claims["sid"].as_str().unwrap())
                } else {
                    "clientId:carol".to_owned()
                };
                scene.assert_revoked(&mut 0, &[(target, true)], &format!("{kept:?} {format} {event}"));
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_signed_by_clerk_has_no_effect() {
    let rotating = [SECRET, OTHER_SECRET].join(",");
    let scene = Scene::start(Kept::InMemory, &[("CLERK_WEBHOOK_SIGNING_SECRET", &rotating)]).await;
    let (claims, token) = scene.session("alice");
    let data = json!({ "id": claims["sid"], "user_id": claims["sub"] });
    let url = format!("http://{}/webhooks/clerk", scene.service.address());
    let forged = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    scene.vendors.clerk.set_retry_schedule(vec![]);
    scene.vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[forged]).unwrap()]);
    scene.happens("session.ended", data.clone(), None).await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(401));
    scene.is_served(&token).await;

    scene.vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[OTHER_SECRET]).unwrap()]);
    scene.happens("email.created", json!({}), None).await;
    assert_eq!(scene.last_answer("email.created"), Answer::Status(204));
    scene.is_served(&token).await;
    scene.happens("session.ended", json!({ "id": 5 }), None).await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(400));
    scene.happens("session.ended", data, None).await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
    scene.is_refused(&token, DENIED.0, DENIED.1).await;

    let post = |body: Vec<u8>| scene.service.request(Method::POST, "/webhooks/clerk").body(body).send();
    assert_eq!(refusal(post(b"{}".to_vec()).await.unwrap()).await, (401, 40101));
    assert_eq!(refusal(post(vec![b' '; 1024 * 1024]).await.unwrap()).await, (401, 40101));
    for (size, wanted) in [(1024 * 1024, (401, 40101)), (1024 * 1024 + 1, (413, 40000))] {
        let large = " ".repeat(size);
        let request = scene.service.request(Method::POST, "/webhooks/clerk");
        let headers = signed(forged, now() / 1000, &large).into_iter();
        let request = headers.fold(request, |request, (name, value)| request.header(name, value));
        assert_eq!(refusal(request.body(large).send().await.unwrap()).await, wanted);
    }
    let get: Response = scene.service.get("/webhooks/clerk").send().await.unwrap();
    assert_eq!(get.headers()["allow"], "POST");
    assert_eq!(refusal(get).await, (405, 40500));
}

#[tokio::test]
async fn an_event_of_no_possible_time_is_refused_and_does_not_outdate_those_that_follow() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    scene.vendors.clerk.set_retry_schedule(vec![]);
    let (_, token) = scene.session("alice");
    let banned = |is: bool| scene.user_data("alice", |user| user["banned"] = json!(is));
    for (at, wrong) in [
        (now() + 3_600_000, "more than 5 minutes ahead"),
        (now() * 1000, "more than 5 minutes ahead"),
        (now() / 1000 + 3600, "more than 5 minutes ahead"),
        (0, "before 2020"),
        (-1, "before 2020"),
    ] {
        scene.happens("user.updated", banned(true), Some(at)).await;
        assert_eq!(scene.last_answer("user.updated"), Answer::Status(400), "{at}");
        scene.service.logged_where("error", format!("the timestamp {at} is {wrong}")).await;
        scene.is_served(&token).await;
    }
    for (is_banned, at) in [(true, now() - 10), (false, now())] {
        scene.happens("user.updated", banned(is_banned), Some(at)).await;
        assert_eq!(scene.last_answer("user.updated"), Answer::Status(204));
        if is_banned {
            scene.is_refused(&token, DENIED.0, DENIED.1).await;
        } else {
            scene.is_served(&token).await;
        }
    }
}

#[tokio::test]
async fn without_a_signing_secret_there_is_no_such_route() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let response = service.request(Method::POST, "/webhooks/clerk").body("{}").send().await.unwrap();
    assert_eq!(refusal(response).await, (404, 40400));
}

#[tokio::test]
async fn while_ably_is_away_a_replica_on_its_own_has_clerk_come_again() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    let (claims, token) = scene.session("alice");
    scene.is_served(&token).await;
    scene.vendors.ably.set_revocation_outage(Some(Outage::Status(503)));
    scene.vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
    let is_refused = |attempt: &Attempt| attempt.event_type == "session.ended" && attempt.answer == Answer::Status(503);
    scene.vendors.clerk.attempts_once(|attempts| attempts.iter().any(is_refused)).await;
    // The denial holds already.
    scene.is_refused(&token, DENIED.0, DENIED.1).await;
    scene.vendors.ably.set_revocation_outage(None);
    scene.settled().await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
    assert!(scene.revoked(&mut 0).contains(&("clientId:alice".to_owned(), true)));
}

#[tokio::test]
async fn while_ably_is_away_replicas_with_redis_finish_by_themselves() {
    let scene = Scene::start(Kept::InRedis, &[]).await;
    let (claims, token) = scene.session("alice");
    scene.is_served(&token).await;
    scene.vendors.ably.set_revocation_outage(Some(Outage::Status(503)));
    scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
    scene.vendors.ably.set_revocation_outage(None);
    assert_eq!(scene.service.logged("tokens revoked").await["target"], "clientId:alice");
}

#[tokio::test]
async fn a_webhook_cut_off_by_the_death_of_its_replica_is_finished_by_the_next() {
    for kept in BOTH {
        let mut scene = Scene::start(kept, &[]).await;
        let (claims, token) = scene.session("alice");
        scene.is_served(&token).await;
        // The service waits for Ably when it dies, and so has not answered.
        scene.vendors.ably.set_revocation_outage(Some(Outage::Hang));
        scene.vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
        while scene.vendors.ably.calls().revoke_tokens == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.service.signal("KILL");
        scene.vendors.clerk.attempts_once(|attempts| attempts.iter().any(|attempt| !attempt.answer.is_success())).await;
        scene.vendors.ably.set_revocation_outage(None);
        scene.service = Scene::service(&scene.vendors, scene.redis.as_ref(), &[]).await;
        scene.deliver_to_service();
        scene.settled().await;
        assert_eq!(scene.last_answer("session.ended"), Answer::Status(204), "{kept:?}");
        scene.is_refused(&token, DENIED.0, DENIED.1).await;
        if kept == Kept::InRedis {
            // What a replica on its own knew of tokens that are out ended with it.
            assert!(scene.revoked(&mut 0).contains(&("clientId:alice".to_owned(), true)));
        }
    }
}

#[tokio::test]
async fn a_sender_that_goes_away_before_the_answer_does_not_stop_what_it_began() {
    let vendors = vendors().await;
    let redis = RedisServer::start();
    let settings =
        [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("ABLY_REVOCABLE_TOKENS", "true"), ("REDIS_URL", &redis.url())];
    let service = vendors.service_with_admin("", &settings).await;
    let claims = vendors.clerk.session_claims(&vendors.user("alice"));
    let token = vendors.clerk.mint(claims.clone());
    assert_eq!(service.token(&token).await.status(), StatusCode::OK);
    vendors.ably.set_revocation_outage(Some(Outage::Hang));
    let ended = json!({ "id": claims["sid"], "user_id": claims["sub"] });
    let ended = json!({ "type": "session.ended", "object": "event", "timestamp": now(), "data": ended }).to_string();
    let headers = signed(SECRET, now() / 1000, &ended).map(|(name, value)| format!("\r\n{name}: {value}")).concat();
    let sender = Service::begin(service.address(), &format!("POST /webhooks/clerk HTTP/1.1{headers}"), &ended).await;
    while vendors.ably.calls().revoke_tokens == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sender.break_off();
    while !service.scrape().await.contains("ably_clerk_auth_requests_in_flight 0\n") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    vendors.ably.set_revocation_outage(None);
    assert_eq!(service.logged("tokens revoked").await["target"], "clientId:alice");
    assert_eq!(service.logged("webhook applied").await["outcome"], "applied");
    assert_eq!(refusal(service.token(&token).await).await, DENIED.0);
}

#[tokio::test]
async fn what_no_retry_can_mend_at_ably_is_told_loudly_and_not_sent_again() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    let (claims, token) = scene.session("alice");
    scene.is_served(&token).await;
    scene.vendors.ably.set_revocable_tokens(RevocableTokens::Off);
    scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
    let logged = scene.service.logged_where("level", "ERROR").await;
    assert!(logged["error"].as_str().unwrap().contains("40163"), "{logged}");
    scene.is_refused(&token, DENIED.0, DENIED.1).await;
}

#[tokio::test]
async fn the_log_tells_the_cause_and_the_cure_of_what_ably_refuses() {
    let scene = Scene::start(Kept::InMemory, &[("TOKEN_FORMAT", "jwt")]).await;
    for (code, cause, cure) in [
        (40121, "not enabled for the Ably app", "enable token revocation for the app"),
        (40133, "another API key issued these tokens", "list the key that issued the tokens second in ABLY_API_KEY"),
        (40163, "does not have revocable tokens on", "turn on revocable tokens for the key of ABLY_API_KEY"),
        (40164, "does not have revocable tokens on", "turn on revocable tokens for the key of ABLY_API_KEY"),
        (103_009, "see the error", "https://help.ably.io/error/"),
    ] {
        let (claims, _) = scene.session("alice");
        let target = format!("revocationKey:{}", claims["sid"].as_str().unwrap());
        scene.vendors.ably.set_target_failure(&target, Some(code));
        scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
        assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
        let logged = scene.service.logged_where("target", target).await;
        assert_eq!(logged["level"], "ERROR");
        for (field, text) in [("error", code.to_string().as_str()), ("cause", cause), ("cure", cure)] {
            assert!(logged[field].as_str().unwrap().contains(text), "{field} {logged}");
        }
    }
}

#[tokio::test]
async fn an_event_that_is_delivered_twice_is_done_once_and_by_hand_again_after_a_cure() {
    for kept in BOTH {
        let scene = Scene::start(kept, &[]).await;
        let (claims, token) = scene.session("alice");
        scene.is_served(&token).await;
        let data = json!({ "id": claims["sid"], "user_id": claims["sub"] });
        scene.vendors.ably.set_revocable_tokens(RevocableTokens::Off);
        let event = scene.vendors.clerk.send_event("session.ended", data, None);
        scene.settled().await;
        scene.vendors.ably.set_revocable_tokens(RevocableTokens::On);
        for (replay, calls) in [("after the cure", 2), ("when it is done", 2)] {
            let attempts = scene.vendors.clerk.redeliver(&event).await;
            if scene.lost_redis() {
                break;
            }
            assert_eq!(attempts[0].answer, Answer::Status(204), "{kept:?} {replay}");
            assert_eq!(scene.vendors.ably.calls().revoke_tokens, calls, "{kept:?} {replay}");
        }
        if let Some(redis) = scene.redis.as_ref().filter(|_| !scene.lost_redis()) {
            let other = Scene::service(&scene.vendors, Some(redis), &[]).await;
            let url = format!("http://{}/webhooks/clerk", other.address());
            scene.vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[SECRET]).unwrap()]);
            assert_eq!(scene.vendors.clerk.redeliver(&event).await[0].answer, Answer::Status(204));
            assert_eq!(scene.vendors.ably.calls().revoke_tokens, 2);
        }
    }
}

#[tokio::test]
async fn three_hundred_sign_outs_at_once_take_few_calls_and_end_every_token() {
    for kept in BOTH {
        let settings = [("TOKEN_FORMAT", "jwt"), ("LIMITS_TOKENS_PER_MINUTE", "0")];
        let scene = Scene::start(kept, &settings).await;
        scene.vendors.clerk.set_retry_schedule(vec![Duration::from_secs(1); 50]);
        let mut tokens = Vec::new();
        let mut sessions = Vec::new();
        for _ in 0..300 {
            let (claims, token) = scene.session("alice");
            let response = scene.service.token(&token).await;
            assert_eq!(response.status(), StatusCode::OK);
            tokens.push(response.text().await.unwrap());
            sessions.push(claims);
        }
        scene.vendors.ably.set_revocation_rate_limit(Some((2, Duration::from_secs(3))));
        for claims in &sessions {
            let data = json!({ "id": claims["sid"], "user_id": claims["sub"] });
            scene.vendors.clerk.send_event("session.ended", data, None);
        }
        scene.settled().await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/channels/room/messages", scene.vendors.ably.url());
        for token in &tokens {
            // What is left for later is left to the service.
            while http.get(&url).bearer_auth(token).send().await.unwrap().status() != StatusCode::UNAUTHORIZED {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let calls = scene.vendors.ably.revocation_calls();
        let limited = calls.iter().filter(|call| call.outcome == RevocationOutcome::Answered(429)).count();
        assert!(limited > 0 && calls.len() <= 30, "{kept:?}: {} calls, {limited} limited", calls.len());
        let attempts = scene.vendors.clerk.attempts();
        let done = attempts.iter().filter(|attempt| attempt.answer == Answer::Status(204)).count();
        assert!(done >= 300, "{kept:?}: {done}");
    }
}

#[tokio::test]
async fn a_ban_takes_effect_though_it_shares_a_call_with_a_target_that_spoils_it() {
    for kept in BOTH {
        for poison in [Poison::CallRefused, Poison::NoResult] {
            let scene = Scene::start(kept, &[("TOKEN_FORMAT", "jwt")]).await;
            let (_, alices) = scene.session("alice");
            let alices = scene.service.token(&alices).await.text().await.unwrap();
            let [first, poisoned] = ["bob", "carol"].map(|user| scene.session(user).0);
            let target = format!("revocationKey:{}", poisoned["sid"].as_str().unwrap());
            scene.vendors.ably.set_target_poison(&target, Some(poison));
            // While Ably has the first call wait, the others collect.
            scene.vendors.ably.set_revocation_rate_limit(Some((0, Duration::from_secs(2))));
            let sign_out = |claims: &Value| {
                let data = json!({ "id": claims["sid"], "user_id": claims["sub"] });
                scene.vendors.clerk.send_event("session.ended", data, None)
            };
            sign_out(&first);
            while scene.vendors.ably.revocation_calls().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            scene.vendors.ably.set_revocation_rate_limit(None);
            sign_out(&poisoned);
            let banned = scene.user_data("alice", |user| user["banned"] = json!(true));
            scene.vendors.clerk.send_event("user.updated", banned, None);
            let is_ban = |attempt: &&Attempt| attempt.event_type == "user.updated";
            let answered = scene.vendors.clerk.attempts_once(|attempts| attempts.iter().any(|one| is_ban(&one))).await;
            let answers: Vec<_> = answered.iter().filter(is_ban).map(|attempt| attempt.answer).collect();
            assert_eq!(answers, [Answer::Status(204)], "{kept:?} {poison:?}");
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            let url = format!("{}/channels/room/messages", scene.vendors.ably.url());
            let answer = http.get(&url).bearer_auth(&alices).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{kept:?} {poison:?}");
            let calls = scene.vendors.ably.revocation_calls();
            let is_shared = |call: &RevocationCall| call.targets.contains(&target) && call.targets.len() > 1;
            assert!(calls.iter().any(is_shared), "{kept:?} {poison:?}");
        }
    }
}

#[tokio::test]
async fn without_revocable_tokens_sessions_are_denied_and_ably_is_not_asked() {
    let scene = Scene::start(Kept::InMemory, &[("ABLY_REVOCABLE_TOKENS", "false")]).await;
    let (claims, token) = scene.session("alice");
    scene.is_served(&token).await;
    scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
    scene.is_refused(&token, DENIED.0, DENIED.1).await;
    assert_eq!(scene.vendors.ably.calls().revoke_tokens, 0);
    let warned = scene.service.log().iter().any(|entry| {
        entry["message"].as_str().is_some_and(|message| message.starts_with("webhooks without revocable tokens"))
    });
    assert!(warned);
}

#[tokio::test]
async fn a_webhook_belongs_to_the_tenant_whose_secret_signed_it() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    let other = Vendors::start_with(clerk::Options {
        frontend_api: "clerk.other.example".into(),
        authorized_party: ORIGIN.into(),
        ..clerk::Options::default()
    })
    .await;
    let table = |name: &str, vendors: &Vendors, secret: &str| {
        format!(
            "[[tenants]]\nname = \"{name}\"\n[tenants.ably]\napi_key = \"{}\"\nrest_url = \"{}\"\n[tenants.clerk]\n\
             publishable_key = \"{}\"\nsecret_key = \"{}\"\napi_url = \"{}\"\nwebhook_signing_secret = \"{secret}\"\n",
            vendors.ably.api_key(),
            vendors.ably.url(),
            vendors.clerk.publishable_key(),
            vendors.clerk.secret_key(),
            vendors.clerk.url()
        )
    };
    let toml = table("one", &scene.vendors, SECRET) + &table("other", &other, OTHER_SECRET);
    let settings = [("SERVER_PORT", "0"), ("ADMIN_PORT", "0"), ("LOG_FORMAT", "json")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let service = Service::start(&settings, &toml);
    service.wait_until_ready().await;
    let url = format!("http://{}/webhooks/clerk", service.address());
    other.clerk.set_endpoints(vec![Endpoint::new(&url, &[OTHER_SECRET]).unwrap()]);
    let (claims, token) = scene.session("alice");
    let others_claims = other.clerk.session_claims(&other.user("alice"));
    let others_token = other.clerk.mint(others_claims.clone());
    // The other tenant's event names the session and the user of this one.
    for data in [&claims, &others_claims] {
        other.clerk.send_event("session.ended", json!({ "id": data["sid"], "user_id": data["sub"] }), None);
    }
    other.clerk.webhooks_settled().await;
    assert_eq!(service.token(&token).await.status(), StatusCode::OK);
    assert_eq!(refusal(service.token(&others_token).await).await, DENIED.0);
}

#[tokio::test]
async fn a_denial_reaches_the_other_replica_and_outlives_redis() {
    let mut scene = Scene::start(Kept::InRedis, &[]).await;
    let other = Scene::service(&scene.vendors, scene.redis.as_ref(), &[]).await;
    let (claims, token) = scene.session("alice");
    assert_eq!(other.token(&token).await.status(), StatusCode::OK);
    scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
    // The token was given by the other replica, and Ably was told by this one.
    scene.assert_revoked(&mut 0, &[("clientId:alice".to_owned(), true)], "");
    while other.token(&token).await.status() == StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.redis.as_mut().unwrap().kill();
    for service in [&other, &scene.service] {
        store_becomes(service, "degraded").await;
        assert_eq!(refusal(service.token(&token).await).await, DENIED.0);
    }
    scene.is_served(&scene.session("bob").1).await;
}

#[tokio::test]
async fn a_replica_on_its_own_that_is_stopped_says_how_much_is_lost_that_was_to_be_sent() {
    for (kept, ended, lost) in [(Kept::InMemory, 2, 1), (Kept::InMemory, 0, 0), (Kept::InRedis, 2, 0)] {
        let scene = Scene::start(kept, &[]).await;
        for _ in 0..ended {
            let (claims, token) = scene.session("alice");
            scene.is_served(&token).await;
            scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
        }
        let mut service = scene.service;
        service.signal("TERM");
        let stopped = tokio::task::spawn_blocking(move || (service.wait().code(), service));
        let (code, service) = stopped.await.unwrap();
        assert_eq!(code, Some(0));
        service.logged("stopping after the requests in flight").await;
        if lost > 0 {
            assert_eq!(service.logged_where("tasks", ended).await["level"], "WARN");
        }
        let told = service.log().into_iter().filter(|entry| !entry["tasks"].is_null());
        assert_eq!(told.count(), lost, "{kept:?}, {ended} ended");
    }
}

#[tokio::test]
async fn a_replica_that_is_stopped_while_it_is_cut_off_says_what_redis_was_not_given() {
    let mut scene = Scene::start(Kept::InRedis, &[]).await;
    let (claims, token) = scene.session("alice");
    scene.is_served(&token).await;
    scene.redis.as_mut().unwrap().kill();
    store_becomes(&scene.service, "degraded").await;
    scene.vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
    while scene.revoked(&mut 0).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut service = scene.service;
    service.signal("TERM");
    let (code, service) = tokio::task::spawn_blocking(move || (service.wait().code(), service)).await.unwrap();
    assert_eq!(code, Some(0));
    let told = service.logged_where("restrictions", 1).await;
    assert_eq!((&told["level"], &told["tasks"]), (&json!("WARN"), &json!(2)), "{told}");
}

async fn store_becomes(service: &Service, status: &str) {
    while service.get("/readyz").send().await.unwrap().json::<Value>().await.unwrap()["store"]["status"] != status {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_a_replica_issued_while_it_was_cut_off_is_revoked_when_it_is_back() {
    let scene = Scene::start(Kept::InRedis, &[]).await;
    let line = Proxy::to(scene.redis.as_ref().unwrap().port()).await;
    let other = Scene::service_at(&scene.vendors, &line.url(), &[]).await;
    line.becomes(Condition::Cut);
    store_becomes(&other, "degraded").await;
    let (claims, token) = scene.session("alice");
    let (_, bobs) = scene.session("bob");
    scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
    // Only the replica that is cut off knows these.
    for token in [&token, &bobs] {
        assert_eq!(other.token(token).await.status(), StatusCode::OK);
    }
    let mut seen = 0;
    scene.assert_revoked(&mut seen, &[], "");
    line.becomes(Condition::Whole);
    store_becomes(&other, "ready").await;
    assert_eq!(refusal(other.token(&token).await).await, DENIED.0);
    // Any replica performs the task.
    while scene.vendors.ably.calls().revoke_tokens == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.assert_revoked(&mut seen, &[("clientId:alice".to_owned(), true)], "");
}

#[tokio::test]
async fn a_denial_that_comes_while_a_token_is_made_counts() {
    let scene = Scene::start(Kept::InMemory, &[]).await;
    scene.vendors.clerk.set_delay(Duration::from_millis(1500));
    for user in ["alice", "bob", "carol"] {
        let (claims, token) = scene.session(user);
        let looked_up = scene.vendors.clerk.calls().users;
        let mut request = std::pin::pin!(scene.service.token(&token));
        let sign_out = async {
            while scene.vendors.clerk.calls().users == looked_up {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            scene.happens("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None).await;
        };
        tokio::select! {
            biased;
            // A machine too busy for this to prove anything.
            _ = &mut request => continue,
            () = sign_out => {}
        }
        assert_eq!(refusal(request.await).await, DENIED.0);
        return;
    }
    panic!("each look-up ended before the webhook was taken");
}

#[tokio::test]
async fn a_denial_that_redis_has_no_memory_for_holds_and_is_stored_later() {
    let scene = Scene::start(Kept::InRedis, &[]).await;
    let (claims, token) = scene.session("alice");
    let (_, bobs) = scene.session("bob");
    for token in [&token, &bobs] {
        scene.is_served(token).await;
    }
    let redis = scene.redis.as_ref().unwrap();
    redis.set_memory(1);
    scene.vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
    let is_refused = |attempt: &Attempt| attempt.event_type == "session.ended" && attempt.answer == Answer::Status(503);
    scene.vendors.clerk.attempts_once(|attempts| attempts.iter().any(is_refused)).await;
    scene.is_refused(&token, DENIED.0, DENIED.1).await;
    scene.is_served(&bobs).await;
    redis.set_memory(0);
    scene.settled().await;
    assert_eq!(scene.last_answer("session.ended"), Answer::Status(204));
    store_becomes(&scene.service, "ready").await;
    scene.is_refused(&token, DENIED.0, DENIED.1).await;
    scene.is_served(&bobs).await;
}

/// Lets the time come for all work that is left in Redis.
fn make_due(redis: &RedisServer) {
    let mut connection = redis.connection();
    let key = "aca:{v4}:claimable";
    let ids: Vec<String> = redis::cmd("ZRANGE").arg(&[key, "0", "-1"]).query(&mut connection).unwrap();
    assert!(!ids.is_empty());
    for id in ids {
        let () = redis::cmd("ZADD").arg(&[key, "0", &id]).query(&mut connection).unwrap();
    }
}

#[tokio::test]
async fn what_a_replica_leaves_that_dies_another_does_though_nothing_comes_again() {
    // Before Ably answered, and after Ably did not take it.
    for outage in [Outage::Hang, Outage::Status(503)] {
        let scene = Scene::start(Kept::InRedis, &[]).await;
        scene.vendors.clerk.set_retry_schedule(vec![]);
        let (claims, token) = scene.session("alice");
        scene.is_served(&token).await;
        scene.settled().await;
        scene.vendors.ably.set_revocation_outage(Some(outage));
        scene.vendors.clerk.send_event("session.ended", json!({ "id": claims["sid"], "user_id": claims["sub"] }), None);
        while scene.vendors.ably.calls().revoke_tokens == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.service.signal("KILL");
        scene.settled().await;
        let redis = scene.redis.as_ref().unwrap();
        let other = Scene::service(&scene.vendors, Some(redis), &[]).await;
        assert_eq!(refusal(other.token(&token).await).await, DENIED.0);
        scene.vendors.ably.set_revocation_outage(None);
        make_due(redis);
        assert_eq!(other.logged("tokens revoked").await["target"], "clientId:alice");
    }
}
