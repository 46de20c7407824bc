//! Clerk's webhooks: what ends at Clerk ends here.

use reqwest::StatusCode;
use sandbox::{
    ably,
    clerk::{self, Endpoint},
};
use serde_json::json;

use crate::service::{ORIGIN, Service, Vendors, refusal, request_id};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Stand-ins whose Ably key has revocable tokens on.
pub(crate) async fn vendors() -> Vendors {
    let clerk = clerk::Options { authorized_party: ORIGIN.into(), ..clerk::Options::default() };
    let ably = ably::Options { revocable_tokens: true, ..ably::Options::default() };
    Vendors { clerk: clerk::Clerk::start(clerk).await.unwrap(), ably: ably::Ably::start(ably).await.unwrap() }
}

/// A service that the stand-in for Clerk sends its webhooks to.
async fn service(vendors: &Vendors, changes: &[(&str, &str)]) -> Service {
    let changes = [&[("CLERK_WEBHOOK_SIGNING_SECRET", SECRET), ("ABLY_REVOCABLE_TOKENS", "true")], changes].concat();
    let service = vendors.service_with(&changes).await;
    let url = format!("http://{}/webhooks/clerk", service.address());
    vendors.clerk.set_endpoints(vec![Endpoint::new(&url, &[SECRET]).unwrap()]);
    service
}

#[tokio::test]
async fn a_session_that_ends_is_denied_and_its_tokens_are_revoked() {
    let vendors = vendors().await;
    for (format, target) in [("token_request", "clientId:alice"), ("jwt", "revocationKey:")] {
        let service = service(&vendors, &[("TOKEN_FORMAT", format)]).await;
        let token = vendors.token("alice");
        let claims = vendors.clerk.session_claims(&vendors.user("alice"));
        let token = if format == "jwt" { vendors.clerk.mint(claims) } else { token };
        assert_eq!(service.token(&token).await.status(), StatusCode::OK);
        let session = service.logged("token issued").await["session_id"].as_str().unwrap().to_owned();
        vendors.clerk.send_event("session.ended", json!({ "id": session, "user_id": vendors.user("alice") }), None);
        vendors.clerk.webhooks_settled().await;
        let response = service.token(&token).await;
        let id = request_id(&response);
        assert_eq!(refusal(response).await, (403, 40300));
        assert_eq!(service.logged_of(&id).await["reason"], "session-denied");
        let calls = vendors.ably.revocation_calls();
        let last = format!("{:?}", calls.last().unwrap());
        assert!(last.contains(target), "{format}: {last}");
        // Another session of the user is not touched.
        assert_eq!(service.token(&vendors.token("alice")).await.status(), StatusCode::OK);
    }
}
