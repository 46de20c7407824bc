//! The Backend API: for whoever holds the secret key.

use std::cmp::Ordering;

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::availability;
use crate::clerk::instance::Instance;
use crate::clerk::problem::Problem;
use crate::clerk::user::User;

pub(super) async fn jwks(instance: Data<Instance>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    instance.count(|calls| &mut calls.backend_jwks);
    availability::of_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    Ok(HttpResponse::Ok().json(instance.jwks()))
}

pub(super) async fn user(
    instance: Data<Instance>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, Problem> {
    instance.count(|calls| &mut calls.users);
    // Read before the delay: a slow answer tells of the past, as one over a real network does.
    let user = instance.users().into_iter().find(|user| user.id == *id);
    availability::of_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    let user = user.ok_or_else(|| Problem::not_found("user with this id"))?;
    Ok(HttpResponse::Ok().json(user.backend_json()))
}

#[derive(Deserialize)]
pub(super) struct Page {
    limit: Option<usize>,
    offset: Option<usize>,
    order_by: Option<String>,
}

pub(super) async fn users(
    instance: Data<Instance>,
    request: HttpRequest,
    page: Result<Query<Page>, actix_web::Error>,
) -> Result<HttpResponse, Problem> {
    const LARGEST_PAGE: usize = 500;
    const USUAL_PAGE: usize = 10;
    instance.count(|calls| &mut calls.users_list);
    availability::of_backend(&instance, &request).await?;
    require_secret_key(&instance, &request)?;
    let page = page.map_err(|_| Problem::bad_param("limit and offset are whole numbers."))?.into_inner();
    let limit = page.limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Problem::bad_param("limit is from 1 to 500."));
    }
    let mut users = instance.users();
    sort(&mut users, page.order_by.as_deref().unwrap_or("-created_at"))?;
    let shown: Vec<_> = users.iter().skip(page.offset.unwrap_or(0)).take(limit).map(User::backend_json).collect();
    Ok(HttpResponse::Ok().json(shown))
}

/// Sorts by a field's name, after `-` from the largest down.
fn sort(users: &mut [User], order_by: &str) -> Result<(), Problem> {
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
            return Err(Problem::bad_param("order_by names no field that users are sorted by."));
        }
    };
    users.sort_by(|a, b| if descending { compare(b, a) } else { compare(a, b) });
    Ok(())
}

fn require_secret_key(instance: &Instance, request: &HttpRequest) -> Result<(), Problem> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(key) if key == instance.secret_key => Ok(()),
        _ => Err(Problem::bad_secret_key()),
    }
}
