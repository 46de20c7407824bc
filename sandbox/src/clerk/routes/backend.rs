//! The Backend API, which requires the secret key.

use std::cmp::Ordering;

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Bytes, Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{availability, input};
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::instance::Instance;
use crate::clerk::session::SessionEnd;
use crate::clerk::user::User;
use crate::clerk::{events, ids};

pub(super) async fn jwks(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    instance.count(|calls| &mut calls.backend_jwks);
    availability::check_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    Ok(HttpResponse::Ok().json(instance.jwks()))
}

pub(super) async fn user(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    instance.count(|calls| &mut calls.users);
    // Read before the delay: a slow answer over a network shows an old state too.
    let user = instance.users().into_iter().find(|user| user.id == *id);
    availability::check_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    let user = user.ok_or_else(user_not_found)?;
    Ok(HttpResponse::Ok().json(user.backend_json()))
}

#[derive(Deserialize)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    offset: Option<usize>,
    order_by: Option<String>,
}

pub(super) async fn users(
    instance: Data<Instance>,
    request: HttpRequest,
    page: Result<Query<ListQuery>, actix_web::Error>,
) -> ApiResult {
    const LARGEST_PAGE: usize = 500;
    const USUAL_PAGE: usize = 10;
    instance.count(|calls| &mut calls.users_list);
    availability::check_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    let page = page.map_err(|_| ApiError::bad_param("limit and offset must be whole numbers."))?.into_inner();
    let limit = page.limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(ApiError::bad_param("limit must be between 1 and 500."));
    }
    let mut users = instance.users();
    sort(&mut users, page.order_by.as_deref().unwrap_or("-created_at"))?;
    let shown: Vec<_> = users.iter().skip(page.offset.unwrap_or(0)).take(limit).map(User::backend_json).collect();
    Ok(HttpResponse::Ok().json(shown))
}

pub(super) async fn count_users(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    availability::check_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    Ok(HttpResponse::Ok().json(json!({"object": "total_count", "total_count": instance.users().len()})))
}

/// Sorts by a field; a leading `-` reverses the order.
fn sort(users: &mut [User], order_by: &str) -> Result<(), ApiError> {
    let (name, descending) = match order_by.strip_prefix('-') {
        Some(name) => (name, true),
        None => (order_by.strip_prefix('+').unwrap_or(order_by), false),
    };
    let compare: fn(&User, &User) -> Ordering = match name {
        "created_at" => |a, b| a.created_at.cmp(&b.created_at),
        "updated_at" => |a, b| a.updated_at.cmp(&b.updated_at),
        "last_sign_in_at" | "last_active_at" => |a, b| a.last_sign_in_at.cmp(&b.last_sign_in_at),
        "username" => |a, b| a.username.cmp(&b.username),
        "first_name" => |a, b| a.first_name.cmp(&b.first_name),
        "last_name" => |a, b| a.last_name.cmp(&b.last_name),
        "email_address" => |a, b| a.email_address.cmp(&b.email_address),
        _ => {
            return Err(ApiError::bad_param("order_by must be a field that users can be sorted by."));
        }
    };
    users.sort_by(|a, b| if descending { compare(b, a) } else { compare(a, b) });
    Ok(())
}

/// Counts a change, and checks availability and the secret key.
async fn authorize_change(instance: &Instance, request: &HttpRequest) -> Result<(), ApiError> {
    instance.count(|calls| &mut calls.changes);
    availability::check_backend(instance, request).await?;
    require_secret_key(instance, request)
}

pub(super) async fn revoke_session(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let session = instance
        .end_session(&id, SessionEnd::Revoked)
        .or_else(|| instance.sessions().into_iter().find(|session| session.id == *id))
        .ok_or_else(|| ApiError::not_found("Session"))?;
    Ok(HttpResponse::Ok().json(events::session(&session)))
}

/// Starts a session of `user_id` without a browser.
pub(super) async fn create_session(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let id = input::text(&input::params(&request, &body)?, "user_id")?;
    let user = id.and_then(|id| instance.users().into_iter().find(|user| user.id == id)).ok_or_else(user_not_found)?;
    let session = instance.sign_in(&user.id);
    Ok(HttpResponse::Ok().json(events::session(&session)))
}

pub(super) async fn session(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    availability::check_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    let session = instance.sessions().into_iter().find(|session| session.id == *id);
    Ok(HttpResponse::Ok().json(events::session(&session.ok_or_else(|| ApiError::not_found("Session"))?)))
}

/// The next token of an active session. As at Clerk, it has no `azp`.
pub(super) async fn session_token(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let session = instance.active_session(&id).ok_or_else(|| ApiError::not_found("Active session"))?;
    let jwt = instance.mint(&instance.session_claims(&session, None));
    Ok(HttpResponse::Ok().json(json!({"object": "token", "jwt": jwt})))
}

#[derive(Deserialize)]
pub(super) struct HandshakeQuery {
    nonce: String,
}

/// The cookies of a handshake, for the server of an app.
pub(super) async fn handshake_payload(
    instance: Data<Instance>,
    request: HttpRequest,
    query: Result<Query<HandshakeQuery>, actix_web::Error>,
) -> ApiResult {
    availability::check_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    let query = query.map_err(|_| ApiError::bad_param("nonce is missing."))?;
    let directives = instance.handshake(&query.nonce).ok_or_else(|| ApiError::not_found("Handshake"))?;
    Ok(HttpResponse::Ok().json(json!({"nonce": query.nonce, "directives": directives})))
}

pub(super) async fn create_user(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let now_ms = instance.now_ms();
    let made = User { created_at: now_ms, updated_at: now_ms, ..User::new(ids::new("user")) };
    let user = with_params(&instance, &made, &input::params(&request, &body)?)?;
    instance.set_user(user.clone());
    Ok(HttpResponse::Ok().json(user.backend_json()))
}

pub(super) async fn update_user(
    instance: Data<Instance>,
    request: HttpRequest,
    id: Path<String>,
    body: Bytes,
) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let known = instance.users().into_iter().find(|user| user.id == *id).ok_or_else(user_not_found)?;
    let changed = with_params(&instance, &known, &input::params(&request, &body)?)?;
    let user = instance.change_user(&id, |user| *user = User { updated_at: user.updated_at, ..changed });
    Ok(HttpResponse::Ok().json(user.ok_or_else(user_not_found)?.backend_json()))
}

/// The user after applying the supported params of `createUser` and `updateUser`.
fn with_params(instance: &Instance, user: &User, params: &Map<String, Value>) -> Result<User, ApiError> {
    const KNOWN: [&str; 7] = [
        "username",
        "first_name",
        "last_name",
        "external_id",
        "public_metadata",
        "private_metadata",
        "unsafe_metadata",
    ];
    let mut fields = json!(user);
    for name in KNOWN {
        if let Some(value) = params.get(name) {
            fields[name] = value.clone();
        }
    }
    let changed: User = serde_json::from_value(fields)
        .map_err(|error| ApiError::bad_param(format!("The user is invalid: {error}.")))?;
    let is_taken = |other: &User| other.id != changed.id && other.username == changed.username;
    if changed.username.is_some() && instance.users().iter().any(is_taken) {
        return Err(ApiError::identifier_exists());
    }
    Ok(changed)
}

pub(super) async fn ban_user(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    change_user(&instance, &request, &id, |user| user.banned = true).await
}

pub(super) async fn unban_user(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    change_user(&instance, &request, &id, |user| user.banned = false).await
}

async fn change_user(instance: &Instance, request: &HttpRequest, id: &str, change: fn(&mut User)) -> ApiResult {
    authorize_change(instance, request).await?;
    let user = instance.change_user(id, change).ok_or_else(user_not_found)?;
    Ok(HttpResponse::Ok().json(user.backend_json()))
}

pub(super) async fn delete_user(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    authorize_change(&instance, &request).await?;
    if !instance.delete_user(&id) {
        return Err(user_not_found());
    }
    Ok(HttpResponse::Ok().json(events::deleted("user", &id)))
}

pub(super) async fn update_membership(
    instance: Data<Instance>,
    request: HttpRequest,
    path: Path<(String, String)>,
    body: Bytes,
) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let params = input::params(&request, &body)?;
    let role = input::text(&params, "role")?.ok_or_else(|| ApiError::bad_param("role is missing."))?;
    let role = role.strip_prefix("org:").unwrap_or(&role).to_owned();
    require_member(&instance, &path)?;
    let user = instance.change_user(&path.1, |user| {
        if let Some(organization) = user.member_of_mut(&path.0) {
            organization.role = role;
        }
    });
    let shown = user.and_then(|user| Some(events::membership(&user, user.member_of(&path.0)?)));
    Ok(HttpResponse::Ok().json(shown.ok_or_else(membership_not_found)?))
}

pub(super) async fn delete_membership(
    instance: Data<Instance>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> ApiResult {
    authorize_change(&instance, &request).await?;
    let shown = require_member(&instance, &path)?;
    let left = instance.change_user(&path.1, |user| {
        user.leave(&path.0);
    });
    left.ok_or_else(membership_not_found)?;
    Ok(HttpResponse::Ok().json(shown))
}

/// The membership with these organization and user ids.
fn require_member(instance: &Instance, path: &(String, String)) -> Result<Value, ApiError> {
    let (organization_id, user_id) = path;
    let user = instance.users().into_iter().find(|user| user.id == *user_id).ok_or_else(membership_not_found)?;
    let organization = user.member_of(organization_id).ok_or_else(membership_not_found)?;
    Ok(events::membership(&user, organization))
}

pub(super) async fn delete_organization(instance: Data<Instance>, request: HttpRequest, id: Path<String>) -> ApiResult {
    authorize_change(&instance, &request).await?;
    if !instance.delete_organization(&id) {
        return Err(ApiError::not_found("Organization"));
    }
    Ok(HttpResponse::Ok().json(events::deleted("organization", &id)))
}

fn user_not_found() -> ApiError {
    ApiError::not_found("User")
}

fn membership_not_found() -> ApiError {
    ApiError::not_found("Membership")
}

fn require_secret_key(instance: &Instance, request: &HttpRequest) -> Result<(), ApiError> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(key) if key == instance.secret_key => Ok(()),
        _ => Err(ApiError::bad_secret_key()),
    }
}
