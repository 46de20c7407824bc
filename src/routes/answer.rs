//! Successful answers.

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    },
};
use serde::Serialize;

/// JSON that must not be cached.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        // Only a map whose keys are not strings could fail to serialize, and no answer has one.
        .body(serde_json::to_vec(body).unwrap_or_default())
}

/// A bare JWT that must not be cached.
pub(super) fn jwt(jwt: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/jwt"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(jwt)
}
