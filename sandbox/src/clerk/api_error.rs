//! Errors in Clerk's shape: `{"errors":[{"code","message","long_message"}]}`.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use super::ids;

/// The result of a route.
pub(super) type ApiResult = Result<HttpResponse, ApiError>;

/// The answer to a request for anything else.
pub(super) async fn unknown_route() -> ApiResult {
    Err(ApiError::not_found("Route"))
}

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    detail: String,
    retry_after_s: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, message, detail: detail.into(), retry_after_s: None }
    }

    pub(super) fn bad_secret_key() -> Self {
        let detail = "Send this instance's secret key as a Bearer token in the Authorization header.";
        Self::new(StatusCode::UNAUTHORIZED, "clerk_key_invalid", "Unknown secret key", detail)
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "resource_not_found", "Not found", format!("{what} not found."))
    }

    pub(super) fn unknown_identifier() -> Self {
        let detail = "No user of the sandbox has this name. Try alice, bob or carol.";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "form_identifier_not_found", "Unknown user", detail)
    }

    pub(super) fn user_banned() -> Self {
        let detail = "This user is banned or deprovisioned.";
        Self::new(StatusCode::FORBIDDEN, "user_banned", "User banned", detail)
    }

    pub(super) fn identifier_exists() -> Self {
        let detail = "That username is taken. Please try another.";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "form_identifier_exists", "Username taken", detail)
    }

    pub(super) fn bad_param(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "form_param_value_invalid", "Invalid parameter", detail)
    }

    pub(super) fn rate_limited(retry_after_s: u64) -> Self {
        let detail = "The sandbox answers as if the rate limit were exceeded, as requested.";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "Too many requests", detail);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    pub(super) fn outage(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, "internal_clerk_error", "Outage", "The sandbox answers with this status, as requested.")
    }

    /// For a request whose connection is closed; the client does not see it.
    pub(super) fn unanswered() -> Self {
        Self::outage(503)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status);
        if let Some(seconds) = self.retry_after_s {
            answer.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        answer.json(json!({
            "errors": [{"message": self.message, "long_message": self.detail, "code": self.code}],
            "clerk_trace_id": ids::random(32).to_lowercase(),
        }))
    }
}
