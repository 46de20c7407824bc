//! Who acts in a user's name stands in the log, and a policy tells an agent from a person.

use serde_json::{Value, json};

use crate::service::{Vendors, json, refusal, request_id};

#[tokio::test]
async fn the_log_names_whoever_acts_in_the_users_name() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for (act, impersonator, agent) in [
        (json!(null), json!(null), json!(null)),
        (json!({ "sub": "user_support" }), json!("user_support"), json!(null)),
        (json!({ "sub": "agent_1", "type": "agent" }), json!("agent_1"), json!(true)),
    ] {
        let token = vendors.token_with(&json!({ "act": act }));
        let (issued, refused) = (service.token(&token).await, service.token_with(&token, "clientId=bob").await);
        let ids = [request_id(&issued), request_id(&refused)];
        json(issued, 200).await;
        assert_eq!(refusal(refused).await, (403, 40012));
        for (id, message) in ids.iter().zip(["token issued", "token refused"]) {
            let logged = service.logged_of(id).await;
            let told = (&logged["message"], &logged["impersonator"], &logged["agent"]);
            assert_eq!(told, (&json!(message), &impersonator, &agent), "{logged}");
        }
    }
}

#[tokio::test]
async fn a_policy_grants_an_agent_something_else_than_a_person() {
    let vendors = Vendors::start().await;
    let policy = "[[grants]]\nname = \"agents\"\nwhen = { agent = true }\ncapability = { \"agent\" = [\"subscribe\"] }\n\
                  [[grants]]\nname = \"not agents\"\nwhen = { agent = false }\ncapability = { \"people\" = [\"*\"] }\n\
                  [[grants]]\nname = \"impersonated\"\nwhen = { impersonated = true }\ncapability = { \"seen\" = [\"*\"] }\n";
    let service = vendors.service_with_file(policy, &[]);
    service.wait_until_ready().await;
    for (act, capability) in [
        (json!(null), r#"{"people":["*"]}"#),
        (json!({ "sub": "user_support" }), r#"{"people":["*"],"seen":["*"]}"#),
        (json!({ "sub": "agent_1", "type": "agent" }), r#"{"agent":["subscribe"],"seen":["*"]}"#),
    ] {
        let token: Value = json(service.token(&vendors.token_with(&json!({ "act": act }))).await, 200).await;
        assert_eq!(token["capability"], capability);
    }
}
