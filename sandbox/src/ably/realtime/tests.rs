use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};

use crate::ably::{
    access::{Credential, tests::jwt},
    api_key::ApiKey,
    app::AblyApp,
    capability::Capability,
    connection::{ConnectRequest, Disconnection, Echo, Outgoing},
    protocol::{ClientMessage, action, flag},
    revocation::{AnswerShape, Revocable},
};

const NOW_MS: i64 = 1_795_289_000_000;
const KEY: &str = "app.key:secret";

fn app() -> AblyApp {
    let mut made = 0;
    AblyApp::new(
        ApiKey::parse(KEY).unwrap(),
        Capability::parse(r#"{"[*]*":["*"]}"#).unwrap(),
        Revocable::Since(0),
        Box::new(move || {
            made += 1;
            format!("id{made:08}")
        }),
    )
}

fn token(app: &mut AblyApp, fields: &Value, now_ms: i64) -> String {
    let mut request = json!({ "timestamp": now_ms });
    for (name, value) in fields.as_object().unwrap() {
        request[name] = value.clone();
    }
    let key = Credential::Key(KEY.to_owned());
    let details = app.request_token("app.key", &key, &request, now_ms).unwrap();
    details["token"].as_str().unwrap().to_owned()
}

fn connect_request(token: String) -> ConnectRequest {
    ConnectRequest { credential: Credential::Token(token), client_id: None, echo: Echo::On, resume: None }
}

struct Client {
    socket: u64,
    received: Receiver<Outgoing>,
}

impl Client {
    fn connect(app: &mut AblyApp, connect_request: &ConnectRequest, now_ms: i64) -> (Self, Value) {
        let (queue, received) = mpsc::channel(64);
        let socket = app.connect(connect_request, queue, now_ms).unwrap();
        let mut client = Self { socket, received };
        let connected = client.next();
        assert_eq!(connected["action"], action::CONNECTED);
        (client, connected)
    }

    fn as_client(app: &mut AblyApp, client_id: &str) -> Self {
        let token = token(app, &json!({ "clientId": client_id }), NOW_MS);
        Self::connect(app, &connect_request(token), NOW_MS).0
    }

    fn send(&self, app: &mut AblyApp, message: Value, now_ms: i64) {
        app.receive(self.socket, ClientMessage::read(message).unwrap(), now_ms);
    }

    fn attach(&mut self, app: &mut AblyApp, channel: &str) -> Value {
        self.send(app, json!({ "action": action::ATTACH, "channel": channel }), NOW_MS);
        self.next()
    }

    fn next(&mut self) -> Value {
        match self.received.try_recv().unwrap() {
            Outgoing::Message(message) | Outgoing::Last(message) => (*message).clone(),
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.received.try_recv().is_err()
    }
}

#[test]
fn a_client_is_asked_for_a_new_token_before_its_own_expires() {
    for (ttl_ms, asked_at_ms) in [(3_600_000, 3_570_000), (90_000, 60_000), (3000, 2000)] {
        let mut app = app();
        let token = token(&mut app, &json!({ "clientId": "alice", "ttl": ttl_ms }), NOW_MS);
        let (mut client, _) = Client::connect(&mut app, &connect_request(token), NOW_MS);
        let asked_at_ms = NOW_MS + asked_at_ms;
        assert_eq!(app.next_tick_ms(client.socket, NOW_MS), Some(asked_at_ms));
        app.tick(client.socket, asked_at_ms - 1);
        assert!(client.is_quiet());
        app.tick(client.socket, asked_at_ms);
        assert_eq!(client.next(), json!({ "action": action::AUTH }));
        let expires_ms = NOW_MS + ttl_ms;
        assert_eq!(app.next_tick_ms(client.socket, asked_at_ms), Some(expires_ms));
        app.tick(client.socket, expires_ms);
        let last = client.next();
        assert_eq!((&last["action"], &last["error"]["code"]), (&json!(action::DISCONNECTED), &json!(40142)));
        assert!(app.connections().is_empty());
    }
}

#[test]
fn a_renewed_connection_lives_as_long_as_its_new_token() {
    let mut app = app();
    let first = token(&mut app, &json!({ "clientId": "alice", "ttl": 1000 }), NOW_MS);
    let (mut client, before) = Client::connect(&mut app, &connect_request(first), NOW_MS);
    let second = token(&mut app, &json!({ "clientId": "alice", "ttl": 9000 }), NOW_MS);
    client.send(&mut app, json!({ "action": action::AUTH, "auth": { "accessToken": second } }), NOW_MS);
    assert_eq!(client.next(), before);
    app.tick(client.socket, NOW_MS + 1000);
    assert!(client.is_quiet());
    assert_eq!(app.connections()[0].token_expires, Some(NOW_MS + 9000));
}

#[test]
fn a_renewal_for_another_client_or_with_a_bad_token_ends_the_connection() {
    for (client_id, code) in [(Some("bob"), 40102), (None, 40145)] {
        let mut app = app();
        let mut client = Client::as_client(&mut app, "alice");
        let other =
            client_id.map_or_else(String::new, |client_id| token(&mut app, &json!({ "clientId": client_id }), NOW_MS));
        client.send(&mut app, json!({ "action": action::AUTH, "auth": { "accessToken": other } }), NOW_MS);
        let last = client.next();
        assert_eq!((&last["action"], &last["error"]["code"]), (&json!(action::ERROR), &json!(code)));
        assert!(app.connections().is_empty());
    }
}

#[test]
fn a_narrower_token_removes_channels_and_modes() {
    let mut app = app();
    let mut client = Client::as_client(&mut app, "alice");
    client.attach(&mut app, "kept");
    client.attach(&mut app, "lost");
    let narrower = token(&mut app, &json!({ "clientId": "alice", "capability": r#"{"kept":["publish"]}"# }), NOW_MS);
    client.send(&mut app, json!({ "action": action::AUTH, "auth": { "accessToken": narrower } }), NOW_MS);
    assert_eq!(client.next()["action"], action::CONNECTED);
    let kept = client.next();
    assert_eq!((&kept["action"], &kept["flags"]), (&json!(action::ATTACHED), &json!(flag::PUBLISH | flag::RESUMED)));
    let lost = client.next();
    assert_eq!((&lost["channel"], &lost["error"]["code"]), (&json!("lost"), &json!(40160)));
    assert_eq!(app.connections()[0].channels, ["kept"]);
}

#[test]
fn revocation_ends_connections_at_once_or_after_a_margin() {
    let key = Credential::Key(KEY.to_owned());
    for (margin, applies_after_ms) in [(false, 0), (true, 30_000)] {
        let mut app = app();
        let mut alice = Client::as_client(&mut app, "alice");
        let mut bob = Client::as_client(&mut app, "bob");
        let body = json!({ "targets": ["clientId:alice"], "allowReauthMargin": margin });
        app.revoke_tokens("app.key", &key, &body, AnswerShape::Counted, NOW_MS).unwrap();
        if margin {
            assert_eq!(alice.next()["action"], action::AUTH);
            assert_eq!(app.next_tick_ms(alice.socket, NOW_MS), Some(NOW_MS + applies_after_ms));
            app.tick(alice.socket, NOW_MS + applies_after_ms);
        }
        let last = alice.next();
        assert_eq!((&last["action"], &last["error"]["code"]), (&json!(action::DISCONNECTED), &json!(40141)));
        assert!(bob.is_quiet());
        assert_eq!(app.connections().len(), 1);
    }
}

#[test]
fn a_client_with_a_margin_is_asked_only_once_despite_other_revocations() {
    let key = Credential::Key(KEY.to_owned());
    let mut app = app();
    let mut alice = Client::as_client(&mut app, "alice");
    let mut bob = Client::as_client(&mut app, "bob");
    for client_id in ["alice", "bob"] {
        let body = json!({ "targets": [format!("clientId:{client_id}")], "allowReauthMargin": true });
        app.revoke_tokens("app.key", &key, &body, AnswerShape::Counted, NOW_MS).unwrap();
    }
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.next()["action"], action::AUTH);
        assert!(client.is_quiet());
    }
}

#[test]
fn a_jwt_is_revoked_by_its_revocation_key() {
    let mut app = app();
    let key = ApiKey::parse(KEY).unwrap();
    let jwt = jwt(
        &key,
        &json!({ "typ": "JWT", "alg": "HS256", "kid": "app.key" }),
        &json!({
            "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 60, "x-ably-capability": r#"{"*":["*"]}"#,
            "x-ably-revocation-key": "sess_1"
        }),
    );
    let credential = Credential::Token(jwt);
    app.authenticate(&credential, NOW_MS + 1).unwrap();
    app.revoke_tokens(
        "app.key",
        &Credential::Key(KEY.to_owned()),
        &json!({ "targets": ["revocationKey:sess_1"] }),
        AnswerShape::Counted,
        NOW_MS + 1,
    )
    .unwrap();
    let error = app.authenticate(&credential, NOW_MS + 1).unwrap_err();
    assert_eq!((error.status, error.code), (401, 40141));
}

#[test]
fn attachments_have_the_modes_that_the_capability_allows() {
    for (operations, modes) in [
        (r#"["publish"]"#, flag::PUBLISH),
        (r#"["subscribe"]"#, flag::SUBSCRIBE | flag::PRESENCE_SUBSCRIBE),
        (r#"["presence","publish"]"#, flag::PRESENCE | flag::PUBLISH),
        (r#"["*"]"#, flag::DEFAULT_MODES),
    ] {
        let mut app = app();
        let token = token(&mut app, &json!({ "capability": format!(r#"{{"chat:*":{operations}}}"#) }), NOW_MS);
        let (mut client, _) = Client::connect(&mut app, &connect_request(token), NOW_MS);
        assert_eq!(client.attach(&mut app, "chat:a")["flags"], modes);
        let refused = client.attach(&mut app, "news");
        assert_eq!(
            (&refused["action"], &refused["channel"], &refused["error"]["code"]),
            (&json!(action::ERROR), &json!("news"), &json!(40160))
        );
    }
}

#[test]
fn a_publish_is_acknowledged_or_refused_with_the_reason() {
    let mut app = app();
    let token = token(&mut app, &json!({ "clientId": "alice", "capability": r#"{"chat":["publish"]}"# }), NOW_MS);
    let (mut client, _) = Client::connect(&mut app, &connect_request(token), NOW_MS);
    let large = "x".repeat(70_000);
    for (channel, message, code) in [
        ("chat", json!({ "data": "hi" }), json!(null)),
        ("chat", json!({ "data": "hi", "clientId": "alice" }), json!(null)),
        ("chat", json!({ "data": "hi", "clientId": "bob" }), json!(40012)),
        ("chat", json!({ "data": 1 }), json!(40013)),
        ("chat", json!({ "data": large }), json!(40009)),
        ("chat", json!({ "action": 1 }), json!(40000)),
        ("news", json!({ "data": "hi" }), json!(40160)),
        ("", json!({ "data": "hi" }), json!(40010)),
    ] {
        client.send(&mut app, json!({ "action": action::MESSAGE, "channel": channel, "messages": [message] }), NOW_MS);
        let answer = client.next();
        let expected = if code.is_null() { action::ACK } else { action::NACK };
        assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!(expected), &code));
    }
}

#[test]
fn a_resumed_connection_gets_what_it_missed_and_publishes_nothing_twice() {
    let mut app = app();
    let mut alice = Client::as_client(&mut app, "alice");
    let mut bob = Client::as_client(&mut app, "bob");
    bob.attach(&mut app, "chat");
    let token = token(&mut app, &json!({ "clientId": "carol" }), NOW_MS);
    let (mut carol, connected) = Client::connect(&mut app, &connect_request(token.clone()), NOW_MS);
    let serial = carol.attach(&mut app, "chat")["channelSerial"].clone();
    let publish = |client: &Client, app: &mut AblyApp| {
        client.send(
            app,
            json!({ "action": action::MESSAGE, "channel": "chat", "msgSerial": 0, "messages": [{ "data": "hi" }] }),
            NOW_MS,
        );
    };
    publish(&carol, &mut app);
    app.disconnect(carol.socket, Disconnection::Resumable, NOW_MS);
    publish(&alice, &mut app);
    assert_eq!(alice.next()["action"], action::ACK);

    let mut again = connect_request(token);
    again.resume = connected["connectionDetails"]["connectionKey"].as_str().map(str::to_owned);
    let (mut carol, resumed) = Client::connect(&mut app, &again, NOW_MS + 120_000);
    assert_eq!(resumed["connectionId"], connected["connectionId"]);
    carol.send(&mut app, json!({ "action": action::ATTACH, "channel": "chat", "channelSerial": serial }), NOW_MS);
    let attached = carol.next();
    assert_eq!(attached["flags"], flag::DEFAULT_MODES | flag::RESUMED | flag::HAS_BACKLOG);
    assert_eq!(carol.next()["messages"][0]["clientId"], "carol");
    assert_eq!(carol.next()["messages"][0]["clientId"], "alice");
    assert_eq!(carol.next()["action"], action::SYNC);
    publish(&carol, &mut app);
    assert_eq!(carol.next()["action"], action::ACK);
    let _ = (bob.next(), bob.next());
    assert!(bob.is_quiet());

    let (_, refused) = Client::connect(&mut app, &again, NOW_MS + 120_000);
    assert_eq!(refused["error"]["code"], 80018);
}

#[test]
fn a_connection_that_is_dropped_for_longer_than_its_state_lives_is_not_resumed() {
    for swept in [true, false] {
        let mut app = app();
        app.state_ttl_ms = 2_000;
        let mut bob = Client::as_client(&mut app, "bob");
        bob.attach(&mut app, "chat");
        let token = token(&mut app, &json!({ "clientId": "carol" }), NOW_MS);
        let (mut carol, connected) = Client::connect(&mut app, &connect_request(token.clone()), NOW_MS);
        assert_eq!(connected["connectionDetails"]["connectionStateTtl"], 2_000);
        let serial = carol.attach(&mut app, "chat")["channelSerial"].clone();
        carol.send(
            &mut app,
            json!({ "action": action::PRESENCE, "channel": "chat", "msgSerial": 0, "presence": [{ "action": 2 }] }),
            NOW_MS,
        );
        assert_eq!(bob.next()["presence"][0]["action"], 2);
        assert!(app.drop_connection(connected["connectionId"].as_str().unwrap(), NOW_MS));
        bob.send(
            &mut app,
            json!({ "action": action::MESSAGE, "channel": "chat", "msgSerial": 0, "messages": [{ "data": "hi" }] }),
            NOW_MS,
        );
        assert_eq!((bob.next()["action"].clone(), bob.next()["action"].clone()), (json!(15), json!(1)));

        let now_ms = NOW_MS + 2_001;
        if swept {
            app.sweep(now_ms);
        }
        let mut again = connect_request(token);
        again.resume = connected["connectionDetails"]["connectionKey"].as_str().map(str::to_owned);
        let (mut carol, connected) = Client::connect(&mut app, &again, now_ms);
        assert_eq!(connected["error"]["code"], 80018);
        assert_eq!(bob.next()["presence"][0]["action"], 3, "swept: {swept}");
        let attach = json!({ "action": action::ATTACH, "channel": "chat", "channelSerial": serial });
        carol.send(&mut app, attach, now_ms);
        assert_eq!(carol.next()["flags"], flag::DEFAULT_MODES);
        assert!(carol.is_quiet());
    }
}

#[test]
fn members_leave_when_their_connection_closes_or_stays_dropped() {
    for (disconnection, away_ms) in [(Disconnection::Final, 0), (Disconnection::Resumable, 15_001)] {
        let mut app = app();
        let mut alice = Client::as_client(&mut app, "alice");
        let mut bob = Client::as_client(&mut app, "bob");
        alice.attach(&mut app, "chat");
        bob.attach(&mut app, "chat");
        alice.send(
            &mut app,
            json!({
                "action": action::PRESENCE, "channel": "chat", "msgSerial": 0, "presence": [{ "action": 2 }]
            }),
            NOW_MS,
        );
        assert_eq!(bob.next()["presence"][0]["clientId"], "alice");
        app.disconnect(alice.socket, disconnection, NOW_MS);
        if disconnection == Disconnection::Resumable {
            app.sweep(NOW_MS + 15_000);
            assert!(bob.is_quiet());
            app.sweep(NOW_MS + away_ms);
        }
        assert_eq!(bob.next()["presence"][0]["action"], 3);
    }
}

#[test]
fn a_client_that_does_not_read_is_disconnected() {
    let mut app = app();
    let alice = Client::as_client(&mut app, "alice");
    for _ in 0..100 {
        alice.send(&mut app, json!({ "action": action::HEARTBEAT }), NOW_MS);
    }
    assert!(app.connections().is_empty());
}

#[test]
fn the_client_id_of_a_connection_follows_the_token() {
    for (own, named, on_it) in [
        (json!("alice"), None, Ok(Some("alice"))),
        (json!("alice"), Some("alice"), Ok(Some("alice"))),
        (json!("alice"), Some("bob"), Err(40102)),
        (json!("*"), Some("bob"), Ok(Some("bob"))),
        (json!("*"), None, Ok(Some("*"))),
        (json!(null), None, Ok(None)),
        (json!(null), Some("bob"), Err(40102)),
    ] {
        let mut app = app();
        let mut connect_request = connect_request(token(&mut app, &json!({ "clientId": own }), NOW_MS));
        connect_request.client_id = named.map(str::to_owned);
        let (queue, _received) = mpsc::channel(64);
        let outcome = app
            .connect(&connect_request, queue, NOW_MS)
            .map(|_| app.connections()[0].client_id.clone())
            .map_err(|error| error.code);
        assert_eq!(outcome.as_ref().map(Option::as_deref), on_it.as_ref().copied(), "{own} {named:?}");
    }
}

#[test]
fn each_invalid_credential_has_its_code() {
    let mut app = app();
    let expired = token(&mut app, &json!({ "ttl": 1 }), NOW_MS);
    for (credential, code) in [
        (Credential::Missing, 40101),
        (Credential::Key("app.key:wrong".to_owned()), 40101),
        (Credential::Key(String::new()), 40101),
        (Credential::Token(expired), 40142),
        (Credential::Token("app.unknown".to_owned()), 40143),
        (Credential::Token("a.b.c".to_owned()), 40144),
        (Credential::Token("nonsense".to_owned()), 40145),
    ] {
        let error = app.authenticate(&credential, NOW_MS + 1).unwrap_err();
        assert_eq!((error.status, error.code), (401, code), "{credential:?}");
    }
}
