//! Operator requests, by `POST /revocations` and by `revoke`.

use std::{process::Output, time::Duration};

use reqwest::{Method, Response, StatusCode};
use sandbox::ably::{Outage, RevocableTokens};
use serde_json::{Value, json};

use crate::{
    redis_server::RedisServer,
    service::{Service, Vendors, json, refusal, request_id, run, text},
    tenants::Tenants,
    webhooks::vendors,
};

const TOKEN: &str = "an-admin-token";

async fn service(vendors: &Vendors, changes: &[(&str, &str)]) -> Service {
    let changes = [&[("ABLY_REVOCABLE_TOKENS", "true")], changes].concat();
    vendors.service_with_admin("", &changes).await
}

async fn post(service: &Service, body: &Value) -> Response {
    service.admin(Method::POST, "/revocations").json(body).send().await.unwrap()
}

async fn request(service: &Service, body: &Value) -> Value {
    json(post(service, body).await, 200).await
}

/// A token that was issued, and the session that it went to.
async fn issued(service: &Service, vendors: &Vendors, username: &str) -> (String, String) {
    let token = vendors.token(username);
    let response = service.token(&token).await;
    let id = request_id(&response);
    assert_eq!(response.status(), StatusCode::OK);
    let session = service.logged_of(&id).await["session_id"].as_str().unwrap().to_owned();
    (token, session)
}

fn revoke(service: &Service, changes: &[(&str, &str)], arguments: &[&str]) -> Output {
    let port = service.admin_address().port().to_string();
    let settings = [&[("ADMIN_PORT", port.as_str())], changes].concat();
    let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    run(&settings, &[&["revoke"], arguments].concat())
}

/// As [`revoke`], and again if Redis did not answer in time, as on a busy machine.
fn revoke_at_last(service: &Service, arguments: &[&str]) -> Output {
    loop {
        let output = revoke(service, &[], arguments);
        if !text(&output).contains("Redis cannot be used now") {
            return output;
        }
    }
}

/// A report with what differs from run to run replaced.
fn stable(output: &Output, ids: &[(&str, &str)]) -> String {
    let replaced = ids.iter().fold(text(output), |text, (id, name)| text.replace(id, name));
    let is_time = |word: &str| word.len() == "2000-01-01T00:00:00Z".len() && word.ends_with('Z') && word.contains('T');
    let line = |line: &str| {
        let words = line.split(' ').map(|word| {
            let (bare, rest) = word.split_at(word.trim_end_matches([',', ';']).len());
            if is_time(bare) { format!("<time>{rest}") } else { word.to_owned() }
        });
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    replaced.lines().map(line).collect()
}

#[tokio::test]
async fn a_session_is_denied_and_revoked_and_lifted_in_each_format() {
    let vendors = vendors().await;
    for format in ["token_request", "jwt", "token_details"] {
        let service = service(&vendors, &[("TOKEN_FORMAT", format)]).await;
        let (token, session) = issued(&service, &vendors, "alice").await;
        let calls = vendors.ably.revocation_calls().len();
        let dry = request(&service, &json!({ "session": session, "dry_run": true })).await;
        assert_eq!(dry["denials"][0]["outcome"], "denied");
        assert!(dry["targets"][0]["target"].is_string() && dry["targets"][0].get("outcome").is_none(), "{dry}");
        assert_eq!(vendors.ably.revocation_calls().len(), calls);
        assert_eq!(service.token(&token).await.status(), StatusCode::OK);

        let report = request(&service, &json!({ "session": session })).await;
        assert_eq!(report["complete"], true, "{report}");
        assert_eq!(report["targets"][0]["outcome"], "accepted");
        assert!(report["targets"][0]["applies_at"].is_i64() && report["reminder"].is_string(), "{report}");
        let response = service.token(&token).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, (403, 40300));
        assert_eq!(service.logged_of(&id).await["reason"], "session-denied");
        let so_far = vendors.ably.revocation_calls().len();
        let calls = vendors.ably.revocation_calls().split_off(calls);
        let (target, with_margin) = match format {
            "jwt" => (format!("revocationKey:{session}"), false),
            _ => ("clientId:alice".to_owned(), true),
        };
        assert_eq!(calls.len(), 1);
        assert_eq!((&calls[0].targets[..], calls[0].allow_reauth_margin), (&[target][..], with_margin));
        // The user's other session is not denied.
        assert_eq!(service.token(&vendors.token("alice")).await.status(), StatusCode::OK);

        let report = request(&service, &json!({ "session": session, "lift": true })).await;
        assert_eq!(report["denials"][0]["outcome"], "lifted");
        assert_eq!(service.token(&token).await.status(), StatusCode::OK);
        assert_eq!(vendors.ably.revocation_calls().len(), so_far);
        let line = service.logged("operator request carried out").await;
        assert_eq!((&line["target"], &line["action"]), (&json!(session), &json!("dry run")));
    }
}

#[tokio::test]
async fn a_user_is_denied_in_all_sessions_until_the_time_is_up() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    let (user, other) = (vendors.user("alice"), vendors.user("bob"));
    issued(&service, &vendors, "alice").await;
    let report = request(&service, &json!({ "user": user, "for": "1s" })).await;
    assert_eq!(report["targets"][0]["target"], "clientId:alice");
    assert_eq!(report["targets"][0]["allow_reauth_margin"], false);
    assert!(report["warnings"].to_string().contains("ends before the second revocation"), "{report}");
    for _ in 0..3000 {
        if service.token(&vendors.token("alice")).await.status() == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(service.token(&vendors.token("alice")).await.status(), StatusCode::OK);
    request(&service, &json!({ "user": user })).await;
    assert_eq!(refusal(service.token(&vendors.token("alice")).await).await, (403, 40300));
    let report = request(&service, &json!({ "client_id": "bob" })).await;
    assert_eq!(report["denials"], json!([]));
    issued(&service, &vendors, "bob").await;
    let report = request(&service, &json!({ "client_id": "bob" })).await;
    assert_eq!(report["denials"][0]["user"], other);
    assert_eq!(refusal(service.token(&vendors.token("bob")).await).await, (403, 40300));
}

#[tokio::test]
async fn a_revocation_is_retried_until_ably_accepts_it() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    issued(&service, &vendors, "alice").await;
    vendors.ably.set_revocation_outage(Some(Outage::Drop));
    let report = request(&service, &json!({ "user": vendors.user("alice") })).await;
    assert_eq!((&report["complete"], &report["targets"][0]["outcome"]), (&json!(false), &json!("unavailable")));
    assert_eq!(refusal(service.token(&vendors.token("alice")).await).await, (403, 40300));
    vendors.ably.set_revocation_outage(None);
    service.logged("tokens revoked").await;
}

#[tokio::test]
async fn a_request_whose_sender_disconnects_is_carried_out_to_its_end() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    issued(&service, &vendors, "alice").await;
    vendors.ably.set_revocation_outage(Some(Outage::Hang));
    let body = json!({ "user": vendors.user("alice") }).to_string();
    let head = "POST /revocations HTTP/1.1\r\nContent-Type: application/json";
    let sender = Service::begin(service.admin_address(), head, &body).await;
    while vendors.ably.calls().revoke_tokens == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sender.break_off();
    // Enough connections that every worker has polled its own since.
    for _ in 0..50 {
        assert!(service.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").contains(" 200 OK"));
    }
    vendors.ably.set_revocation_outage(None);
    let line = service.logged("operator request carried out").await;
    assert_eq!((&line["action"], &line["complete"]), (&json!("deny"), &json!(false)));
    assert_eq!(service.logged("tokens revoked").await["target"], "clientId:alice");
}

#[tokio::test]
async fn a_request_is_json_of_the_documented_fields_and_not_from_a_web_page() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    let body = json!({ "user": vendors.user("alice") });
    let request = || service.admin(Method::POST, "/revocations");
    for (request, wanted) in [
        (request().json(&body).header("Origin", "http://127.0.0.1:9464"), (403, 40300)),
        (request().json(&body).header("Host", "rebound.example:9464"), (403, 40300)),
        (request().body(body.to_string()), (415, 40000)),
        (request().header("Content-Type", "application/x-www-form-urlencoded").body("user=user_1"), (415, 40000)),
        (request().header("Content-Type", "text/plain").body(body.to_string()), (415, 40000)),
        (request().json(&json!({ "user": "user_1", "untill": 5 })), (400, 40000)),
        (request().json(&json!({ "user": "user_1", "session": "sess_1" })), (400, 40000)),
        (request().json(&json!({ "user": "user_1", "tenant": "acme" })), (400, 40000)),
        (request().json(&json!({ "user": "user_ 1" })), (400, 40000)),
        (request().json(&json!({ "session": "user_1" })), (400, 40000)),
        (request().json(&json!({ "user": "u".repeat(20_000) })), (413, 40000)),
        (service.admin(Method::GET, "/revocations"), (405, 40500)),
        (service.admin(Method::OPTIONS, "/revocations").header("Origin", "http://evil.example"), (405, 40500)),
        (service.request(Method::POST, "/revocations").json(&body), (404, 40400)),
    ] {
        assert_eq!(refusal(request.send().await.unwrap()).await, wanted);
    }
    assert_eq!(service.token(&vendors.token("alice")).await.status(), StatusCode::OK);
    let charset = request().header("Content-Type", "application/json; charset=utf-8").body(body.to_string());
    assert_eq!(json(charset.send().await.unwrap(), 200).await["complete"], true);
}

#[tokio::test]
async fn a_token_is_needed_where_there_is_one_and_beyond_loopback() {
    let vendors = vendors().await;
    let body = json!({ "user": vendors.user("alice") });
    let open = service(&vendors, &[("ADMIN_HOST", "0.0.0.0")]).await;
    assert_eq!(refusal(post(&open, &body).await).await, (403, 40300));
    open.scrape().await;
    let output = revoke(&open, &[("ADMIN_HOST", "0.0.0.0")], &["--user", "user_1"]);
    assert!(text(&output).contains("status 403: ") && text(&output).contains("ADMIN_TOKEN"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(open.token(&vendors.token("alice")).await.status(), StatusCode::OK);

    let service = service(&vendors, &[("ADMIN_TOKEN", TOKEN), ("LOG_LEVEL", "trace")]).await;
    let without = post(&service, &body).await;
    assert_eq!(without.headers()["www-authenticate"], "Bearer");
    assert_eq!(refusal(without).await, (401, 40101));
    let wrong = service.admin(Method::POST, "/revocations").bearer_auth("another").json(&body).send().await.unwrap();
    let id = request_id(&wrong);
    assert_eq!(refusal(wrong).await, (401, 40101));
    assert_eq!(service.logged_of(&id).await["reason"], "admin-token-wrong");
    assert_eq!(service.token(&vendors.token("alice")).await.status(), StatusCode::OK);
    service.scrape().await;
    let right = service.admin(Method::POST, "/revocations").bearer_auth(TOKEN).json(&body).send().await.unwrap();
    assert_eq!(json(right, 200).await["denials"][0]["outcome"], "denied");
    let output = revoke(&service, &[], &["--user", "user_1"]);
    assert!(text(&output).contains("status 401: The token is missing"), "{}", text(&output));
    let output = revoke(&service, &[("ADMIN_TOKEN", TOKEN)], &["--user", "user_1", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["denials"][0]["user"], "user_1");
    let log = service.log().iter().map(Value::to_string).collect::<String>();
    assert!(!log.contains(TOKEN) && !text(&output).contains(TOKEN), "{log}");
}

#[tokio::test]
async fn the_command_prints_what_was_done_and_what_is_left_to_do() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    let user = vendors.user("alice");
    let (_, session) = issued(&service, &vendors, "alice").await;
    let stable = |output: &Output| stable(output, &[(&user, "user_<alice>"), (&session, "sess_<alice>")]);

    let output = revoke(&service, &[], &["--session", &session, "--for", "2h", "--dry-run"]);
    insta::assert_snapshot!(stable(&output), @r"
    dry   session sess_<alice>  denied until <time>
    dry   clientId:alice                            revoked; clients that may have a new token reconnect unnoticed

    Clerk goes on minting tokens for this session: revoke it in Clerk too, or access returns when the denial ends.
    A dry run: nothing was changed.
    ");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(vendors.ably.revocation_calls().len(), 0);

    let output = revoke(&service, &[], &["--user", &user]);
    insta::assert_snapshot!(stable(&output), @r"
    ok    user user_<alice>  denied until <time>
    ok    clientId:alice                         revoked from <time> on; clients are disconnected
          Ably revokes once more at <time>, unless the denial has ended by then.

    Clerk goes on minting tokens for the user's sessions: ban the user or end the sessions in Clerk too, or access returns when the denial ends.
    Done.
    ");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(refusal(service.token(&vendors.token("alice")).await).await, (403, 40300));

    let output = revoke(&service, &[], &["--user", &user, "--lift"]);
    insta::assert_snapshot!(stable(&output), @r"
    ok    user user_<alice>  no longer denied
    Done.
    ");
    assert_eq!(output.status.code(), Some(0));
    let output = revoke(&service, &[], &["--user", &user, "--lift"]);
    insta::assert_snapshot!(stable(&output), @r"
    ok    user user_<alice>  was not denied
    There was nothing to lift.
    ");
    assert_eq!(output.status.code(), Some(0));

    vendors.ably.set_revocable_tokens(RevocableTokens::Off);
    let output = revoke(&service, &[], &["--client-id", "alice"]);
    insta::assert_snapshot!(stable(&output), @r"
    ok    user user_<alice>  denied until <time>
    FAIL  clientId:alice                         Ably refuses to revoke, with code 40163: https://help.ably.io/error/40163
          Ably revokes once more at <time>, unless the denial has ended by then.

    Clerk goes on minting tokens for the user's sessions: ban the user or end the sessions in Clerk too, or access returns when the denial ends.
    Not everything is done.
    ");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn the_command_says_when_no_live_token_of_the_target_is_known() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    let output = revoke(&service, &[], &["--user", "user_2"]);
    insta::assert_snapshot!(stable(&output, &[]), @r"
    ok    user user_2  denied until <time>
          Ably revokes once more at <time>, unless the denial has ended by then.
    warn  no live token is known, so there is nothing to revoke at Ably. Tokens from before a restart without Redis are not known: revoke them by client ID

    Clerk goes on minting tokens for the user's sessions: ban the user or end the sessions in Clerk too, or access returns when the denial ends.
    Denied. No live token was known.
    ");
    assert_eq!(output.status.code(), Some(0));
    let output = revoke(&service, &[], &["--client-id", "unknown"]);
    insta::assert_snapshot!(stable(&output, &[]), @r"
    ok    clientId:unknown  revoked from <time> on; clients are disconnected
          Ably revokes once more at <time>, unless the denial has ended by then.
    warn  no live token with this client ID is known, so no user is denied: the user gets a new token at once. Deny the user too

    Clerk goes on minting tokens for the user's sessions: ban the user or end the sessions in Clerk too, or access returns when the denial ends.
    Not everything is done.
    ");
    assert_eq!(output.status.code(), Some(1));
    let output = revoke(&service, &[], &["--client-id", "unknown", "--lift"]);
    assert!(text(&output).ends_with("Not everything is done.\n"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(1));

    // A JWT is revoked by its session, whether it is known or not.
    let jwt = self::service(&vendors, &[("TOKEN_FORMAT", "jwt")]).await;
    let output = revoke(&jwt, &[], &["--session", "sess_2"]);
    assert!(text(&output).contains("ok    revocationKey:sess_2  revoked from"), "{}", text(&output));
    assert!(text(&output).ends_with("Denied. No live token was known.\n"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));

    let without = self::service(&vendors, &[("ABLY_REVOCABLE_TOKENS", "false")]).await;
    issued(&without, &vendors, "alice").await;
    let output = revoke(&without, &[], &["--user", &vendors.user("alice")]);
    assert!(text(&output).ends_with("Denied. Live tokens are not recorded.\n"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn a_request_at_one_replica_takes_effect_at_the_other() {
    let vendors = vendors().await;
    let redis = RedisServer::start();
    let replicas = [
        service(&vendors, &[("REDIS_URL", &redis.url())]).await,
        service(&vendors, &[("REDIS_URL", &redis.url())]).await,
    ];
    let [asked, other] = &replicas;
    let (token, session) = issued(other, &vendors, "alice").await;
    let output = revoke_at_last(asked, &["--client-id", "alice"]);
    // Only the other replica issued a token to this user.
    assert!(text(&output).contains("ok    clientId:alice"), "{}", text(&output));
    assert!(text(&output).ends_with("\nDone.\n"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
    becomes(other, &token, StatusCode::FORBIDDEN).await;
    let output = revoke_at_last(other, &["--user", &vendors.user("alice"), "--lift"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for replica in &replicas {
        becomes(replica, &token, StatusCode::OK).await;
    }
    let output = revoke_at_last(other, &["--session", &session]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    becomes(asked, &token, StatusCode::FORBIDDEN).await;
    assert_eq!(asked.token(&vendors.token("alice")).await.status(), StatusCode::OK);
}

async fn becomes(service: &Service, token: &str, status: StatusCode) {
    for _ in 0..2000 {
        if service.token(token).await.status() == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(service.token(token).await.status(), status);
}

#[tokio::test]
async fn during_an_outage_of_redis_a_request_takes_effect_at_one_replica_and_is_to_be_sent_again() {
    let vendors = vendors().await;
    let mut redis = RedisServer::start();
    let service = service(&vendors, &[("REDIS_URL", &redis.url())]).await;
    let user = vendors.user("alice");
    let (token, _) = issued(&service, &vendors, "alice").await;
    redis.kill();
    for (arguments, status) in [
        (&["--client-id", "bob"][..], StatusCode::OK),
        (&["--user", &user], StatusCode::FORBIDDEN),
        (&["--user", &user, "--lift"], StatusCode::OK),
        (&["--user", &user, "--dry-run"], StatusCode::OK),
        (&["--user", &user, "--json"], StatusCode::FORBIDDEN),
    ] {
        let output = revoke(&service, &[], arguments);
        let words = "refused the request with status 503: Redis cannot be used now, so only one replica knows of the \
                     request so far. Send it again";
        assert!(text(&output).contains(words), "{}", text(&output));
        assert!(!text(&output).contains("Nothing is revoked"), "{}", text(&output));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(service.token(&token).await.status(), status, "{arguments:?}");
    }
    assert!(redis.start_again());
    while service.get("/readyz").send().await.unwrap().json::<Value>().await.unwrap()["store"]["status"] != "ready" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = revoke_at_last(&service, &["--user", &user, "--lift"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn with_several_tenants_the_command_ends_access_at_the_named_one() {
    let tenants = Tenants::start().await;
    let mut settings = tenants.settings();
    for (vendors, name) in [(&tenants.acme, "ACME"), (&tenants.beta, "BETA_2")] {
        vendors.ably.set_revocable_tokens(RevocableTokens::On);
        settings.push((format!("TENANTS_{name}_ABLY_REVOCABLE_TOKENS"), "true".to_owned()));
    }
    let service = Service::start_with_admin(&settings, &tenants.toml("of-acme", "of-beta"));
    let [acmes, betas] = [tenants.acme.token("alice"), tenants.beta_token()];
    for token in [&acmes, &betas] {
        becomes(&service, token, StatusCode::OK).await;
    }
    let user = tenants.acme.user("alice");
    for (tenant, words) in
        [(&[][..], "There are several tenants: name one."), (&["--tenant", "gamma"], "The tenant is unknown")]
    {
        let output = revoke(&service, &[], &[&["--user", &user], tenant].concat());
        assert!(text(&output).contains(words), "{}", text(&output));
        assert_eq!(output.status.code(), Some(1));
    }
    for token in [&acmes, &betas] {
        assert_eq!(service.token(token).await.status(), StatusCode::OK);
    }
    // The other tenant has a user with this ID, too.
    let output = revoke(&service, &[], &["--user", &user, "--tenant", "beta-2"]);
    assert!(text(&output).contains("ok    clientId:alice-of-beta"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(refusal(service.token(&betas).await).await, (403, 40300));
    assert_eq!(service.token(&acmes).await.status(), StatusCode::OK);
    assert_eq!([&tenants.acme, &tenants.beta].map(|vendors| vendors.ably.revocation_calls().len()), [0, 1]);
}

#[tokio::test]
async fn the_command_says_why_nothing_is_done() {
    let vendors = vendors().await;
    let service = service(&vendors, &[]).await;
    for (arguments, code, words) in [
        (&["--user", "user_1", "--for", "never"][..], 1, "for is not a duration"),
        (&["--user", "user_1", "--tenant", "acme"], 1, "The tenant is unknown"),
        (&["--user", ""], 1, "Name exactly one of session, user and client_id"),
        (&["--session", "user_x"], 1, "status 400: session is not a Clerk session ID: sess_ and then"),
        (&["--user", "user_ x"], 1, "status 400: user is not a Clerk user ID: user_ and then"),
        (&["--user", "user_x ", "--lift"], 1, "status 400: user is not"),
        (&["--user", "user_1", "--session", "sess_1"], 2, "cannot be used with"),
        (&["--user", "user_1", "--lift", "--for", "2h"], 2, "cannot be used with"),
        (&["--for", "2h"], 2, "--client-id"),
    ] {
        let output = revoke(&service, &[], arguments);
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
    let off = revoke(&service, &[("ADMIN_PORT", "0")], &["--user", "user_1"]);
    assert!(text(&off).contains("is off: ADMIN_PORT is 0"), "{}", text(&off));
    let port = service.admin_address().port().to_string();
    drop(service);
    let gone = run(&[("ADMIN_PORT".to_owned(), port)], &["revoke", "--user", "user_1"]);
    assert!(text(&gone).contains("Nothing is revoked. Does the service run"), "{}", text(&gone));
    assert_eq!((off.status.code(), gone.status.code()), (Some(1), Some(1)));
}
