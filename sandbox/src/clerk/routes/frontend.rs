//! The routes of the Frontend API that a page needs: public keys, sign-in, tokens, sign-out.

use actix_web::http::header::{HeaderMap, ORIGIN};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::{availability, input};
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::instance::Instance;
use crate::clerk::session::SessionEnd;
use crate::clerk::{events, ids, publishable_key};

pub(super) async fn jwks(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    instance.count(|calls| &mut calls.frontend_jwks);
    availability::check(&instance, &request).await?;
    Ok(HttpResponse::Ok().insert_header(("Access-Control-Allow-Origin", "*")).json(instance.jwks()))
}

/// Starts a session of `user` (an id or a username), and returns the values of the page's cookies. Unlike Clerk, it
/// signs in a banned user, for one token, to show the service's answer.
pub(super) async fn sign_in(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    instance.count(|calls| &mut calls.sign_ins);
    let params = input::params(&request, &body)?;
    let name = input::text(&params, "user")?.ok_or_else(|| ApiError::bad_param("user is missing."))?;
    let user = instance.user(&name).ok_or_else(ApiError::unknown_identifier)?;
    let session = instance.sign_in(&user.id);
    let now_ms = instance.now_ms();
    let user = instance.change_user(&user.id, |user| user.last_sign_in_at = Some(now_ms)).unwrap_or(user);
    let jwt = instance.mint(&instance.session_claims(&session, origin(request.headers())));
    Ok(HttpResponse::Ok().json(json!({
        "object": "sign_in_attempt",
        "status": "complete",
        "created_session_id": session.id,
        "session": {"id": session.id, "object": "session", "status": "active", "user": user.backend_json()},
        "cookies": {
            "suffix": publishable_key::cookie_suffix(&instance.publishable_key),
            "__session": jwt,
            "__client_uat": session.signed_in_at.to_string(),
            "__clerk_db_jwt": ids::new("dvb"),
        },
    })))
}

/// The next token of an active session.
pub(super) async fn token(instance: Data<Instance>, request: HttpRequest, sid: Path<String>) -> ApiResult {
    instance.count(|calls| &mut calls.tokens);
    let session = instance.active_session(&sid).ok_or_else(|| ApiError::not_found("Active session"))?;
    let jwt = instance.mint(&instance.session_claims(&session, origin(request.headers())));
    Ok(HttpResponse::Ok().json(json!({"object": "token", "jwt": jwt})))
}

pub(super) async fn sign_out(instance: Data<Instance>, sid: Path<String>) -> ApiResult {
    end(&instance, &sid, SessionEnd::Ended)
}

pub(super) async fn remove(instance: Data<Instance>, sid: Path<String>) -> ApiResult {
    end(&instance, &sid, SessionEnd::Removed)
}

fn end(instance: &Instance, sid: &str, how: SessionEnd) -> ApiResult {
    instance.count(|calls| &mut calls.sign_outs);
    let session = instance.end_session(sid, how).ok_or_else(|| ApiError::not_found("Active session"))?;
    Ok(HttpResponse::Ok().json(events::session(&session)))
}

/// The `azp` of the token. Without `Origin`, the token has no `azp`.
fn origin(headers: &HeaderMap) -> Option<String> {
    headers.get(ORIGIN)?.to_str().ok().map(str::to_owned)
}
