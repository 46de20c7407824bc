//! The routes below `/sandbox`, which Clerk does not have: controls for scripts and for the page.

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::input;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::events;
use crate::clerk::instance::{Instance, Outage};
use crate::clerk::session::SessionEnd;
use crate::clerk::user::User;

/// The bare token of a new session of `user`, ready for `$(curl …)`. `claims` override the default claims, and null
/// removes one; `origin` becomes `azp`.
pub(super) async fn session_token(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    instance.count(|calls| &mut calls.session_tokens);
    let params = input::params(&request, &body)?;
    let name = input::text(&params, "user")?.ok_or_else(|| ApiError::bad_param("user is missing."))?;
    let user = instance.user(&name).ok_or_else(ApiError::unknown_identifier)?;
    let mut claims = instance.new_session_claims(&user.id);
    if let Some(origin) = input::text(&params, "origin")? {
        claims["azp"] = Value::String(origin);
    }
    if let (Some(changes), Value::Object(claims)) = (input::object(&params, "claims")?, &mut claims) {
        for (name, value) in changes {
            if value.is_null() {
                claims.remove(&name);
            } else {
                claims.insert(name, value);
            }
        }
    }
    Ok(HttpResponse::Ok().content_type("text/plain").body(instance.mint(&claims)))
}

pub(super) async fn calls(instance: Data<Instance>) -> HttpResponse {
    HttpResponse::Ok().json(instance.calls())
}

/// Starts an outage: `{"kind":"status","status":503}`, `{"kind":"rate_limited","retry_after_s":2}`, `{"kind":"hang"}`
/// or `{"kind":"drop"}`; `{"kind":"none"}` ends it.
pub(super) async fn outage(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    let params = input::params(&request, &body)?;
    let outage = match input::text(&params, "kind")?.as_deref() {
        None | Some("none") => None,
        Some("status") => Some(Outage::Status(number(&params, "status")?)),
        Some("rate_limited") => Some(Outage::RateLimited { retry_after_s: number(&params, "retry_after_s")? }),
        Some("hang") => Some(Outage::Hang),
        Some("drop") => Some(Outage::Drop),
        Some(_) => {
            return Err(ApiError::bad_param("kind must be status, rate_limited, hang, drop or none."));
        }
    };
    instance.set_outage(outage);
    Ok(HttpResponse::NoContent().finish())
}

fn number<N: TryFrom<u64>>(params: &serde_json::Map<String, Value>, name: &str) -> Result<N, ApiError> {
    let number = match params.get(name) {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
        None => None,
    };
    number
        .and_then(|number: u64| N::try_from(number).ok())
        .ok_or_else(|| ApiError::bad_param(format!("{name} is missing or not a valid number.")))
}

/// All users, in the order of creation.
pub(super) async fn users(instance: Data<Instance>) -> HttpResponse {
    HttpResponse::Ok().json(instance.users())
}

/// Changes the given fields of `user` (an id or a username), as an administrator does in a dashboard.
pub(super) async fn change_user(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    let mut changes = input::params(&request, &body)?;
    let name = input::text(&changes, "user")?.ok_or_else(|| ApiError::bad_param("user is missing."))?;
    let user = instance.user(&name).ok_or_else(ApiError::unknown_identifier)?;
    let updated_at = instance.now_ms().max(user.updated_at + 1);
    changes.remove("user");
    changes.remove("id");
    let mut fields = json!(user);
    if let Value::Object(fields) = &mut fields {
        fields.insert("updated_at".to_owned(), json!(updated_at));
        fields.extend(changes);
    }
    let user: User = serde_json::from_value(fields)
        .map_err(|error| ApiError::bad_param(format!("The user is invalid: {error}.")))?;
    instance.set_user(user.clone());
    Ok(HttpResponse::Ok().json(user.backend_json()))
}

pub(super) async fn delete_user(instance: Data<Instance>, id: Path<String>) -> ApiResult {
    if !instance.delete_user(&id) {
        return Err(ApiError::not_found("User"));
    }
    Ok(HttpResponse::Ok().json(events::deleted("user", &id)))
}

/// All sessions, newest first.
pub(super) async fn sessions(instance: Data<Instance>) -> HttpResponse {
    let sessions: Vec<_> = instance.sessions().iter().map(events::session).collect();
    HttpResponse::Ok().json(sessions)
}

/// Revokes a session, as an administrator does in a dashboard.
pub(super) async fn revoke_session(instance: Data<Instance>, sid: Path<String>) -> ApiResult {
    let session =
        instance.end_session(&sid, SessionEnd::Revoked).ok_or_else(|| ApiError::not_found("Active session"))?;
    Ok(HttpResponse::Ok().json(events::session(&session)))
}

pub(super) async fn delete_organization(instance: Data<Instance>, id: Path<String>) -> ApiResult {
    if !instance.delete_organization(&id) {
        return Err(ApiError::not_found("Organization with members"));
    }
    Ok(HttpResponse::Ok().json(events::deleted("organization", &id)))
}
