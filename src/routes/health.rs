//! Liveness and readiness.

use std::time::Duration;

use actix_web::{HttpResponse, http::StatusCode, web::Data};
use serde_json::json;

use super::answer;
use crate::{clerk::KeysState, issuer::Issuer, store::Health};

/// Liveness: the process runs.
pub(super) async fn live() -> HttpResponse {
    answer::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Readiness: the service can verify sessions and read its store. With several tenants, one without signing keys makes it
/// degraded rather than unavailable: users of the others are served.
pub(super) async fn ready(issuer: Data<Issuer>) -> HttpResponse {
    let states: Vec<_> = issuer.tenants().iter().map(|tenant| tenant.signing_keys().state()).collect();
    let worst = states.iter().copied().max_by_key(|state| badness(*state)).unwrap_or(KeysState::Missing);
    let missing = states.iter().filter(|state| **state == KeysState::Missing).count();
    let (status_code, status) = match worst {
        KeysState::Configured | KeysState::Confirmed(_) => (StatusCode::OK, "ready"),
        KeysState::Missing if missing == states.len() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        KeysState::Unconfirmed(_) | KeysState::Missing => (StatusCode::OK, "degraded"),
    };
    let (keys, age) = match worst {
        KeysState::Configured => ("configured", None),
        KeysState::Confirmed(age) => ("confirmed", Some(age)),
        KeysState::Unconfirmed(age) => ("unconfirmed", Some(age)),
        KeysState::Missing => ("missing", None),
    };
    let store = issuer.store();
    let health = store.health();
    let (status_code, status) = match store.may_issue() {
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Ok(()) if health == Health::Degraded && status_code == StatusCode::OK => (StatusCode::OK, "degraded"),
        Ok(()) => (status_code, status),
    };
    let confirmed_seconds_ago = age.map(|age| age.as_secs());
    let mut answer = json!({
        "status": status,
        "signing_keys": { "status": keys, "confirmed_seconds_ago": confirmed_seconds_ago },
    });
    if store.is_shared() {
        answer["store"] = json!({ "status": health.to_string() });
    }
    if states.len() > 1 {
        answer["tenants"] = json!({ "total": states.len(), "without_signing_keys": missing });
    }
    answer::json(status_code, &answer)
}

/// The higher, the worse. The answer shows the worst of all tenants.
fn badness(state: KeysState) -> (u8, Duration) {
    match state {
        KeysState::Configured => (0, Duration::ZERO),
        KeysState::Confirmed(age) => (1, age),
        KeysState::Unconfirmed(age) => (2, age),
        KeysState::Missing => (3, Duration::ZERO),
    }
}
