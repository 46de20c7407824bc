//! What must never reach the log.

use sandbox::clerk::Outage;
use serde_json::Value;

use crate::service::{Vendors, json, refusal, request_id, run};

#[tokio::test]
async fn no_token_key_or_cookie_reaches_the_log_at_any_level() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LOG_LEVEL", "trace")]).await;
    let token = vendors.token("alice");
    let issued = json(service.token(&token).await, 200).await;
    let cookies = format!("__session={token}; __client_uat=1; __clerk_db_jwt=dvb_secret");
    json(service.token_by_cookies(&cookies).await, 200).await;
    refusal(service.token(&format!("{token}x")).await).await;
    refusal(service.token_by_cookies(&format!("__session={token}; __client_uat=0; __clerk_db_jwt=dvb_secret")).await)
        .await;
    vendors.clerk.set_outage(Some(Outage::Status(401)));
    refusal(service.token(&vendors.token("bob")).await).await;
    let last = service.get(&format!("/api/ably?token={token}")).send().await.unwrap();
    service.logged_of(&request_id(&last)).await;

    let signature = token.rsplit('.').next().unwrap();
    let api_secret = vendors.ably.api_key().split_once(':').unwrap().1;
    let secrets =
        [&token, signature, "dvb_secret", api_secret, vendors.clerk.secret_key(), issued["mac"].as_str().unwrap()];
    let log = service.log().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    assert!(log.contains("token issued") && log.contains("token refused"), "{log}");
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in {log}");
    }
}

#[tokio::test]
async fn an_issued_token_is_one_line_with_who_got_it() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let response = service.token(&vendors.token("alice")).await;
    let line = service.logged_of(&request_id(&response)).await;
    assert_eq!(line["message"], "token issued");
    assert_eq!(line["user_id"], vendors.user("alice"));
    assert_eq!(line["client_id"], "alice");
    assert_eq!(line["key_name"], vendors.ably.key_name());
    assert!(line["session_id"].as_str().unwrap().starts_with("sess_"));
}

#[tokio::test]
async fn a_broken_configuration_is_reported_without_its_values() {
    let vendors = Vendors::start().await;
    let mut settings = vendors.settings();
    for (name, value) in &mut settings {
        if name.contains("KEY") {
            *value = format!("!hush!{value}");
        }
    }
    for command in ["serve", "check"] {
        let output = run(&settings, &[command]);
        assert_eq!(output.status.code(), Some(1));
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("3 problems") && !text.contains("hush"), "{text}");
    }
}
