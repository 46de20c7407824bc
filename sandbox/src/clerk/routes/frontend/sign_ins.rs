//! Sign-in: in two steps as clerk-js does it, or in one for the sandbox page and scripts.

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::super::input;
use super::page::Page;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::client::SignIn;
use crate::clerk::instance::Instance;
use crate::clerk::{publishable_key, resources};

/// Begins the sign-in of `identifier`, a username or an email address. A `password` completes it; each is right. With
/// `user` instead, starts a session at once.
pub(super) async fn begin(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    instance.count(|calls| &mut calls.sign_ins);
    let params = input::params(&request, &body)?;
    let page = Page::of(&request);
    let Some(identifier) = input::text(&params, "identifier")? else {
        let name = input::text(&params, "user")?.ok_or_else(|| ApiError::bad_param("user is missing."))?;
        return sign_in_at_once(&instance, &name, &page);
    };
    let user = instance.user_of_identifier(&identifier).ok_or_else(ApiError::unknown_identifier)?;
    if user.is_blocked() {
        return Err(ApiError::user_banned());
    }
    let mut sign_in = instance.begin_sign_in(page.dev_browser(), identifier, user);
    if input::text(&params, "password")?.is_some() {
        sign_in = instance.complete_sign_in(page.dev_browser(), &sign_in.id).unwrap_or(sign_in);
    }
    Ok(answer(&instance, &page, &sign_in))
}

/// The sign-in that the client began last.
pub(super) async fn show(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    let page = Page::of(&request);
    let sign_in = instance.client(page.dev_browser()).client.sign_in.filter(|sign_in| sign_in.id == *id);
    Ok(answer(&instance, &page, &sign_in.ok_or_else(|| ApiError::not_found("Sign-in"))?))
}

/// Completes a sign-in, with any password.
pub(super) async fn attempt_first_factor(
    instance: Data<Instance>,
    request: HttpRequest,
    id: Path<String>,
    body: Bytes,
) -> ApiResult {
    let params = input::params(&request, &body)?;
    if input::text(&params, "strategy")?.as_deref() != Some("password") {
        return Err(ApiError::bad_param("strategy must be password."));
    }
    let page = Page::of(&request);
    let sign_in = instance.complete_sign_in(page.dev_browser(), &id);
    Ok(answer(&instance, &page, &sign_in.ok_or_else(|| ApiError::not_found("Sign-in"))?))
}

fn answer(instance: &Instance, page: &Page, sign_in: &SignIn) -> HttpResponse {
    page.answer(instance, &resources::sign_in(sign_in), Some(&instance.client(page.dev_browser())))
}

/// Starts a session of `name` (an id or a username), and returns the values of the page's cookies. Unlike Clerk, it
/// signs in a banned user, for one token, to show the service's answer.
fn sign_in_at_once(instance: &Instance, name: &str, page: &Page) -> ApiResult {
    let user = instance.user(name).ok_or_else(ApiError::unknown_identifier)?;
    let (session, client) = instance.sign_in_new_client(&user.id);
    let now_ms = instance.now_ms();
    let user = instance.change_user(&user.id, |user| user.last_sign_in_at = Some(now_ms)).unwrap_or(user);
    let jwt = instance.mint(&instance.session_claims(&session, page.origin.clone()));
    Ok(HttpResponse::Ok().json(json!({
        "object": "sign_in_attempt",
        "status": "complete",
        "created_session_id": session.id,
        "session": {"id": session.id, "object": "session", "status": "active", "user": user.backend_json()},
        "cookies": {
            "suffix": publishable_key::cookie_suffix(&instance.publishable_key),
            "__session": jwt,
            "__client_uat": session.signed_in_at.to_string(),
            "__clerk_db_jwt": client.dev_browser,
        },
    })))
}
