//! The contract of this service.

use actix_web::{HttpResponse, http::header::CONTENT_TYPE};

const CONTRACT: &str = include_str!("../../openapi.yaml");

/// The contract as it was when this binary was built.
pub(super) async fn get() -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/yaml")).body(CONTRACT)
}
