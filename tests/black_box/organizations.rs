//! The token param `organization`: a token is for the organization that its client asks for, or there is none.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::service::{Service, Vendors, json, refusal, request_id};

const ACME: &str = "org_2sandbox000000000000000Acme";

/// A session token of alice in this organization, as version 2 of the claims has it.
fn token_in(vendors: &Vendors, organization: &Value) -> String {
    vendors.token_with(&json!({ "o": organization }))
}

fn acme() -> Value {
    json!({ "id": ACME, "slg": "acme", "rol": "admin" })
}

async fn post(service: &Service, token: &str, form: &str) -> Response {
    let request = service.request(Method::POST, "/api/ably?organization=org_of_the_query").bearer_auth(token);
    let request = request.header("Content-Type", "application/x-www-form-urlencoded").body(form.to_owned());
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_token_is_for_the_organization_that_the_client_asks_for_or_there_is_none() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "0")]).await;
    let (none, another) = (json!(null), json!({ "id": "org_2", "slg": "beta", "rol": "admin" }));
    for (active, asked, issued) in [
        (&acme(), format!("organization={ACME}"), true),
        (&acme(), "organization=acme".into(), true),
        (&acme(), "organization=none".into(), false),
        (&acme(), "organization=org_2".into(), false),
        (&acme(), "organization=beta".into(), false),
        (&acme(), "organization=ACME".into(), false),
        (&another, format!("organization={ACME}"), false),
        (&another, "organization=acme".into(), false),
        (&none, "organization=none".into(), true),
        (&none, format!("organization={ACME}"), false),
        (&none, "organization=acme".into(), false),
        // Who asks for none in particular gets what there is.
        (&acme(), "organization=".into(), true),
        (&acme(), "organization=null".into(), true),
        (&acme(), "organization=undefined".into(), true),
        (&none, "organization=null".into(), true),
        (&acme(), "Organization=beta".into(), true),
    ] {
        let token = token_in(&vendors, active);
        for response in [service.token_with(&token, &asked).await, post(&service, &token, &asked).await] {
            let id = request_id(&response);
            if issued {
                assert_eq!(json(response, 200).await["clientId"], "alice", "{active} {asked}");
            } else {
                assert_eq!(refusal(response).await, (401, 40101), "{active} {asked}");
                assert_eq!(service.logged_of(&id).await["reason"], "organization-mismatch");
            }
        }
    }
    let twice = service.token_with(&token_in(&vendors, &acme()), "organization=acme&organization=acme").await;
    assert_eq!(refusal(twice).await, (400, 40000));
}

#[tokio::test]
async fn a_session_in_another_organization_costs_no_call_to_clerk() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let token = vendors.token_with(&json!({ "username": null, "o": acme() }));
    let before = vendors.clerk.calls();
    assert_eq!(refusal(service.token_with(&token, "organization=none").await).await, (401, 40101));
    assert_eq!(vendors.clerk.calls(), before);
}
