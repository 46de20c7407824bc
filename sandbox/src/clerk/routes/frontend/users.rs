//! The signed-in user and the user's organizations.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::page::Page;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::instance::Instance;
use crate::clerk::resources;
use crate::clerk::user::User;

pub(super) async fn me(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    let page = Page::of(&request);
    let user = signed_in(&instance, &page)?;
    Ok(page.answer(&instance, &resources::user(&user), None))
}

pub(super) async fn memberships(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    let page = Page::of(&request);
    let memberships = resources::memberships(&signed_in(&instance, &page)?);
    Ok(list(&instance, &page, &memberships))
}

/// An empty list: the stand-in has no invitations or suggestions.
pub(super) async fn nothing(instance: Data<Instance>, request: HttpRequest) -> HttpResponse {
    list(&instance, &Page::of(&request), &[])
}

fn list(instance: &Instance, page: &Page, entries: &[Value]) -> HttpResponse {
    page.answer(instance, &json!({"data": entries, "total_count": entries.len()}), None)
}

/// The user of the page's session.
fn signed_in(instance: &Instance, page: &Page) -> Result<User, ApiError> {
    let session = page.param("_clerk_session_id").and_then(|id| instance.active_session(id));
    session.and_then(|session| instance.user(&session.user_id)).ok_or_else(|| ApiError::not_found("Active session"))
}
