//! The changes that cause events.

use reqwest::Method;
use sandbox::clerk::User;
use serde_json::{Value, json};

use super::{call, claims, client, id_of, session_of, start, types};

#[tokio::test]
async fn each_way_to_end_a_session_has_its_event_and_ends_its_tokens() {
    let clerk = start(Vec::new()).await;
    let alice = id_of(&clerk, "alice");
    for (path, event_type) in [
        ("/v1/client/sessions/SID/end", "session.ended"),
        ("/v1/client/sessions/SID/remove", "session.removed"),
        ("/v1/sessions/SID/revoke", "session.revoked"),
        ("/sandbox/sessions/SID/revoke", "session.revoked"),
    ] {
        let sid = session_of(&clerk, &alice);
        let tokens = format!("/v1/client/sessions/{sid}/tokens");
        assert_eq!(call(&clerk, Method::POST, &tokens, json!({})).await.status(), 200);
        assert_eq!(claims(&clerk.next_session_token(&sid).unwrap())["sid"], sid.as_str());

        let ended: Value =
            call(&clerk, Method::POST, &path.replace("SID", &sid), json!({})).await.json().await.unwrap();
        let mut event = clerk.events().pop().unwrap();
        assert_eq!(event.event_type, event_type);
        assert_eq!(event.data["user"]["username"], "alice");
        event.data.as_object_mut().unwrap().remove("user");
        assert_eq!(event.data, ended);
        assert_eq!(event.data["status"], event_type.trim_start_matches("session."));
        assert_eq!(call(&clerk, Method::POST, &tokens, json!({})).await.status(), 404, "{path}");
        assert_eq!(clerk.next_session_token(&sid), None);

        let events = clerk.events().len();
        call(&clerk, Method::POST, &path.replace("SID", &sid), json!({})).await;
        assert_eq!(clerk.events().len(), events, "a session ends once");
    }
    assert_eq!(call(&clerk, Method::POST, "/v1/sessions/sess_none/revoke", json!({})).await.status(), 404);
}

#[tokio::test]
async fn a_sign_in_sends_an_event() {
    let clerk = start(Vec::new()).await;
    let signed_in: Value =
        call(&clerk, Method::POST, "/v1/client/sign_ins", json!({"user": "bob"})).await.json().await.unwrap();
    let events = clerk.events();
    assert_eq!(types(&events), ["session.created", "user.updated"], "the user's last_sign_in_at is new, too");
    assert_eq!(events[0].data["id"], signed_in["created_session_id"]);
    assert_eq!(events[1].data["banned"], false);
    let sessions: Value = call(&clerk, Method::GET, "/sandbox/sessions", json!({})).await.json().await.unwrap();
    let mut session = events[0].data.clone();
    assert_eq!(session.as_object_mut().unwrap().remove("user").unwrap()["username"], "bob");
    assert_eq!(sessions, json!([session]));
}

#[tokio::test]
async fn a_ban_sends_events_and_ends_only_the_sessions_of_its_user() {
    let clerk = start(Vec::new()).await;
    let (alice, bob) = (id_of(&clerk, "alice"), id_of(&clerk, "bob"));
    let sessions = [session_of(&clerk, &alice), session_of(&clerk, &alice)];
    let of_bob = session_of(&clerk, &bob);
    let so_far = clerk.events().len();

    let banned: Value =
        call(&clerk, Method::POST, &format!("/v1/users/{alice}/ban"), json!({})).await.json().await.unwrap();
    assert_eq!(banned["banned"], true);
    let events = clerk.events().split_off(so_far);
    assert_eq!(types(&events), ["user.updated", "session.revoked", "session.revoked"]);
    assert_eq!(events[0].data, banned);
    assert!(sessions.iter().all(|sid| clerk.next_session_token(sid).is_none()));
    assert!(clerk.next_session_token(&of_bob).is_some());

    // A banned user can sign in for one token, to show how the service answers it.
    let signed_in: Value =
        call(&clerk, Method::POST, "/v1/client/sign_ins", json!({"user": "alice"})).await.json().await.unwrap();
    let sid = signed_in["created_session_id"].as_str().unwrap();
    assert_eq!(clerk.next_session_token(sid), None);

    let so_far = clerk.events().len();
    let unbanned = call(&clerk, Method::POST, &format!("/v1/users/{alice}/unban"), json!({})).await;
    assert_eq!(unbanned.status(), 200);
    let events = clerk.events().split_off(so_far);
    assert_eq!((types(&events), &events[0].data["banned"]), (vec!["user.updated"], &json!(false)));
    assert!(sessions.iter().all(|sid| clerk.next_session_token(sid).is_none()), "the sessions stay revoked");
}

#[tokio::test]
async fn a_deprovisioned_user_is_blocked_like_a_banned_one() {
    let clerk = start(Vec::new()).await;
    let sid = session_of(&clerk, &id_of(&clerk, "alice"));
    call(&clerk, Method::POST, "/sandbox/users", json!({"user": "alice", "deprovisioned": true})).await;
    let events = clerk.events().split_off(1);
    assert_eq!(types(&events), ["user.updated", "session.revoked"]);
    assert_eq!(events[0].data["deprovisioned"], true);
    assert_eq!(clerk.next_session_token(&sid), None);
}

#[tokio::test]
async fn the_backend_api_creates_changes_and_deletes_users() {
    let clerk = start(Vec::new()).await;
    let made: Value = call(&clerk, Method::POST, "/v1/users", json!({"username": "dave"})).await.json().await.unwrap();
    let path = format!("/v1/users/{}", made["id"].as_str().unwrap());
    let renamed: Value =
        call(&clerk, Method::PATCH, &path, json!({"username": "david", "banned": true})).await.json().await.unwrap();
    assert_eq!((&renamed["username"], &renamed["banned"]), (&json!("david"), &json!(false)));
    assert!(renamed["updated_at"].as_i64() > made["updated_at"].as_i64());
    let sid = session_of(&clerk, made["id"].as_str().unwrap());
    let gone: Value = call(&clerk, Method::DELETE, &path, json!({})).await.json().await.unwrap();
    assert_eq!(gone, json!({"object": "user", "id": made["id"], "deleted": true}));
    assert_eq!(clerk.next_session_token(&sid), None);

    let events = clerk.events();
    assert_eq!(types(&events), ["user.created", "user.updated", "session.created", "user.deleted"]);
    assert_eq!((&events[0].data, &events[1].data, &events[3].data), (&made, &renamed, &gone));
    assert!(events.windows(2).all(|pair| pair[0].timestamp < pair[1].timestamp));

    for (method, path, body, status) in [
        (Method::DELETE, path.as_str(), json!({}), 404),
        (Method::PATCH, path.as_str(), json!({}), 404),
        (Method::POST, "/v1/users/user_none/ban", json!({}), 404),
        (Method::POST, "/v1/users", json!({"username": "alice"}), 422),
        (Method::POST, "/v1/users", json!({"username": 7}), 422),
    ] {
        assert_eq!(call(&clerk, method, path, body).await.status(), status, "{path}");
    }
    assert_eq!(clerk.events().len(), events.len());
}

#[tokio::test]
async fn a_role_change_and_the_end_of_an_organization_show_in_the_next_token() {
    let clerk = start(Vec::new()).await;
    let carol = clerk.users().into_iter().find(|user| user.organization.is_some()).unwrap();
    let organization = carol.organization.clone().unwrap().id;
    let sid = session_of(&clerk, &carol.id);
    let role = || claims(&clerk.next_session_token(&sid).unwrap())["o"]["rol"].clone();
    assert_eq!(role(), "admin");

    let path = format!("/v1/organizations/{organization}/memberships/{}", carol.id);
    let member: Value = call(&clerk, Method::PATCH, &path, json!({"role": "org:member"})).await.json().await.unwrap();
    assert_eq!(member["role"], "org:member");
    assert_eq!(role(), "member");
    assert_eq!(call(&clerk, Method::DELETE, &path, json!({})).await.status(), 200);
    assert_eq!(role(), Value::Null);
    assert_eq!(call(&clerk, Method::DELETE, &path, json!({})).await.status(), 404);

    clerk.set_user(User { updated_at: carol.updated_at + 9, ..carol.clone() });
    assert_eq!(role(), "admin");
    let path = format!("/v1/organizations/{organization}");
    let gone: Value = call(&clerk, Method::DELETE, &path, json!({})).await.json().await.unwrap();
    assert_eq!(role(), Value::Null);
    assert_eq!(call(&clerk, Method::DELETE, &path, json!({})).await.status(), 404);

    let events = clerk.events().split_off(1);
    assert_eq!(
        types(&events),
        [
            "organizationMembership.updated",
            "organizationMembership.deleted",
            "organizationMembership.created",
            "organization.deleted"
        ]
    );
    for event in &events[..3] {
        assert_eq!(event.data["public_user_data"]["user_id"], carol.id);
        assert_eq!(event.data["organization"]["id"], organization);
    }
    assert_eq!(events[1].data["role"], "org:member");
    assert_eq!(events[3].data, gone);
    assert_eq!(gone, json!({"object": "organization", "id": organization, "deleted": true}));
}

#[tokio::test]
async fn changes_through_the_backend_api_require_the_secret_key() {
    let clerk = start(Vec::new()).await;
    let (alice, sid) = (id_of(&clerk, "alice"), session_of(&clerk, &id_of(&clerk, "alice")));
    let organization = "org_2sandbox000000000000000Acme";
    let routes = [
        (Method::POST, format!("/v1/sessions/{sid}/revoke")),
        (Method::POST, "/v1/users".to_owned()),
        (Method::PATCH, format!("/v1/users/{alice}")),
        (Method::DELETE, format!("/v1/users/{alice}")),
        (Method::POST, format!("/v1/users/{alice}/ban")),
        (Method::POST, format!("/v1/users/{alice}/unban")),
        (Method::PATCH, format!("/v1/organizations/{organization}/memberships/{alice}")),
        (Method::DELETE, format!("/v1/organizations/{organization}/memberships/{alice}")),
        (Method::DELETE, format!("/v1/organizations/{organization}")),
    ];
    for (method, path) in &routes {
        let request = client().request(method.clone(), format!("{}{path}", clerk.url())).bearer_auth("sk_test_other");
        assert_eq!(request.json(&json!({})).send().await.unwrap().status(), 401, "{method} {path}");
    }
    assert_eq!(clerk.events().len(), 1);
    assert_eq!(clerk.calls().changes, u64::try_from(routes.len()).unwrap());
}
