//! Liveness and readiness.

use actix_web::{HttpResponse, http::StatusCode, web::Data};
use serde_json::json;

use super::answer;
use crate::{clerk::KeysState, issuer::Issuer};

/// The process runs.
pub(super) async fn live() -> HttpResponse {
    answer::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// The service can verify sessions: with keys that Clerk confirms, or for a while with older ones.
pub(super) async fn ready(issuer: Data<Issuer>) -> HttpResponse {
    let (status_code, status, keys, age) = match issuer.signing_keys().state() {
        KeysState::Configured => (StatusCode::OK, "ready", "configured", None),
        KeysState::Confirmed(age) => (StatusCode::OK, "ready", "confirmed", Some(age)),
        KeysState::Unconfirmed(age) => (StatusCode::OK, "degraded", "unconfirmed", Some(age)),
        KeysState::Missing => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "missing", None),
    };
    let confirmed_seconds_ago = age.map(|age| age.as_secs());
    let keys = json!({ "status": keys, "confirmed_seconds_ago": confirmed_seconds_ago });
    answer::json(status_code, &json!({ "status": status, "signing_keys": keys }))
}
