//! `CLERK_NATIVE_APPS`: session tokens without `azp`, as native apps and servers get them.

use serde_json::json;

use crate::{
    service::{Service, Vendors, json, refusal, request_id},
    tenants::Tenants,
};

async fn reason_of_bearer(service: &Service, token: &str) -> String {
    let response = service.token(token).await;
    let id = request_id(&response);
    assert_eq!(refusal(response).await, (401, 40101));
    service.logged_of(&id).await["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_bearer_token_without_azp_is_accepted_where_native_apps_are_and_a_cookie_never_is() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("CLERK_NATIVE_APPS", "true")]).await;
    let token = vendors.token_with(&json!({ "azp": null }));
    assert_eq!(json(service.token(&token).await, 200).await["clientId"], "alice");
    let bare = service.get("/api/ably").header("Authorization", &token).send().await.unwrap();
    assert_eq!(json(bare, 200).await["clientId"], "alice");

    let cookies = format!("__session={token}; __client_uat=1; __clerk_db_jwt=d");
    let response = service.token_by_cookies(&cookies).await;
    let id = request_id(&response);
    assert_eq!(refusal(response).await, (401, 40101));
    assert_eq!(service.logged_of(&id).await["reason"], "token-missing-authorized-party");

    // An azp that is there counts as ever.
    json(service.token(&vendors.token("alice")).await, 200).await;
    for azp in [json!("https://evil.example.com"), json!(""), json!([])] {
        let token = vendors.token_with(&json!({ "azp": azp }));
        assert_eq!(reason_of_bearer(&service, &token).await, "token-invalid-authorized-party", "{azp}");
    }
}

#[tokio::test]
async fn the_refusal_of_a_token_without_azp_names_the_setting_for_native_apps() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let token = vendors.token_with(&json!({ "azp": null }));
    let answer = json(service.token(&token).await, 401).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("CLERK_NATIVE_APPS=true"), "{message}");
    assert_eq!(reason_of_bearer(&service, &token).await, "token-missing-authorized-party");
}

#[tokio::test]
async fn each_tenant_has_its_own_say_on_native_apps() {
    let tenants = Tenants::start().await;
    let service = tenants.service_with(&[("TENANTS_ACME_CLERK_NATIVE_APPS", "true")]).await;
    let token = tenants.acme.token_with(&json!({ "azp": null }));
    assert_eq!(json(service.token(&token).await, 200).await["clientId"], "alice");
    let mut claims = tenants.beta.clerk.session_claims(&tenants.acme.user("alice"));
    claims.as_object_mut().unwrap().remove("azp");
    assert_eq!(reason_of_bearer(&service, &tenants.beta.clerk.mint(claims)).await, "token-missing-authorized-party");
}
