//! Sessions: tokens, the active organization, and the ways to sign out.

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::super::input;
use super::page::Page;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::instance::Instance;
use crate::clerk::session::{ActiveOrganization, Session, SessionEnd};
use crate::clerk::{events, resources};

/// Makes a session the active one of its client, and `active_organization_id`, an id or a slug, the active organization
/// of the session.
pub(super) async fn touch(instance: Data<Instance>, request: HttpRequest, sid: Path<String>, body: Bytes) -> ApiResult {
    let params = input::params(&request, &body)?;
    let session = instance.active_session(&sid).ok_or_else(session_not_found)?;
    let organization = organization(&instance, &session, input::text(&params, "active_organization_id")?)?;
    let session = instance.touch(&sid, organization).ok_or_else(session_not_found)?;
    Ok(answer(&instance, &request, &session))
}

/// The next token of an active session. With `organization_id`, it is for that organization.
pub(super) async fn token(instance: Data<Instance>, request: HttpRequest, sid: Path<String>, body: Bytes) -> ApiResult {
    instance.count(|calls| &mut calls.tokens);
    let params = input::params(&request, &body)?;
    let mut session = instance.active_session(&sid).ok_or_else(session_not_found)?;
    if let Some(organization) = organization(&instance, &session, input::text(&params, "organization_id")?)? {
        session.organization = organization;
    }
    let jwt = instance.mint(&instance.session_claims(&session, Page::of(&request).origin));
    Ok(HttpResponse::Ok().json(json!({"object": "token", "jwt": jwt})))
}

/// What the user of the session chose, if anything.
fn organization(
    instance: &Instance,
    session: &Session,
    choice: Option<String>,
) -> Result<Option<ActiveOrganization>, ApiError> {
    let Some(choice) = choice else { return Ok(None) };
    let user = instance.user(&session.user_id).ok_or_else(session_not_found)?;
    let chosen = ActiveOrganization::chosen_by(&user, &choice);
    chosen.map(Some).ok_or_else(|| ApiError::not_found("Organization of this user"))
}

pub(super) async fn sign_out(instance: Data<Instance>, request: HttpRequest, sid: Path<String>) -> ApiResult {
    end(&instance, &request, &sid, SessionEnd::Ended)
}

pub(super) async fn remove(instance: Data<Instance>, request: HttpRequest, sid: Path<String>) -> ApiResult {
    end(&instance, &request, &sid, SessionEnd::Removed)
}

fn end(instance: &Instance, request: &HttpRequest, sid: &str, how: SessionEnd) -> ApiResult {
    instance.count(|calls| &mut calls.sign_outs);
    let session = instance.end_session(sid, how).ok_or_else(session_not_found)?;
    // Scripts and the sandbox page name no client and need none.
    if Page::of(request).dev_browser().is_none() {
        return Ok(HttpResponse::Ok().json(events::session(&session)));
    }
    Ok(answer(instance, request, &session))
}

/// Signs out of all sessions of the client.
pub(super) async fn remove_all(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    let page = Page::of(&request);
    if page.method() != "DELETE" && request.method() != "DELETE" {
        return Err(ApiError::not_found("Route"));
    }
    instance.count(|calls| &mut calls.sign_outs);
    instance.remove_sessions(page.dev_browser());
    let client = instance.client(page.dev_browser());
    let shown = resources::client(&instance, &client, page.origin.as_deref());
    Ok(page.answer(&instance, &shown, Some(&client)))
}

fn answer(instance: &Instance, request: &HttpRequest, session: &Session) -> HttpResponse {
    let page = Page::of(request);
    let user = instance.user(&session.user_id);
    let shown = user.map(|user| resources::session(instance, session, &user, page.origin.as_deref()));
    page.answer(instance, &shown.unwrap_or(Value::Null), instance.client_of(session).as_ref())
}

fn session_not_found() -> ApiError {
    ApiError::not_found("Active session")
}
