//! Answers in the shapes that an Ably SDK reads.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
    },
};
use serde::Serialize;

use crate::ably::{ErrorInfo, code};

/// Headers that carry an error to a browser's SDK, which cannot read them unless CORS exposes them.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-ably-errorcode");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-ably-errormessage");

/// A failure.
pub(super) fn failure(error: &ErrorInfo, retry_after: Option<Duration>) -> HttpResponse {
    let status = StatusCode::from_u16(error.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, error);
    let headers = response.headers_mut();
    headers.insert(ERROR_CODE, error.code.into());
    headers.insert(ERROR_MESSAGE, HeaderValue::from_static(error.message));
    if let Some(after) = retry_after {
        headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
    }
    response
}

/// JSON that is never to be kept. The content type has no charset: ably-js in Node parses nothing else as an error.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-store"))
        // Only a map whose keys are no texts could fail to serialize, and no answer has one.
        .body(serde_json::to_vec(body).unwrap_or_default())
}

/// A bare JWT that is never to be kept.
pub(super) fn jwt(jwt: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/jwt"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(jwt)
}

/// When to come again after what passes by itself.
pub(super) const COME_AGAIN_AFTER: Duration = Duration::from_secs(5);

pub(super) const HEAD_TOO_LARGE: ErrorInfo = ErrorInfo {
    code: code::BAD_REQUEST,
    status_code: 431,
    message: "The address and headers of the request are larger than 16 KiB, or it has more than 96 headers.",
};

pub(super) const BODY_TOO_LARGE: ErrorInfo =
    ErrorInfo { code: code::BAD_REQUEST, status_code: 413, message: "The body of the request is too large." };

pub(super) const TOO_SLOW: ErrorInfo = ErrorInfo {
    code: code::BAD_REQUEST,
    status_code: 408,
    message: "The request did not arrive whole within 5 seconds.",
};

pub(super) const BODY_BROKEN: ErrorInfo =
    ErrorInfo { code: code::BAD_REQUEST, status_code: 400, message: "The body of the request did not arrive whole." };

pub(super) const NOT_A_FORM: ErrorInfo = ErrorInfo {
    code: code::BAD_REQUEST,
    status_code: 415,
    message: "The body of a POST is to be application/x-www-form-urlencoded, without content encoding.",
};

pub(super) const NO_EXPOSITION: ErrorInfo =
    ErrorInfo { code: code::INTERNAL, status_code: 500, message: "The metrics cannot be written." };

pub(super) const NOT_HTTP: ErrorInfo =
    ErrorInfo { code: code::BAD_REQUEST, status_code: 400, message: "The request is not one of HTTP/1.1." };

/// 404.
pub(super) async fn not_found() -> HttpResponse {
    let message = "There is no such route. Tokens are at /api/ably; see /openapi.yaml.";
    failure(&ErrorInfo { code: code::NOT_FOUND, status_code: 404, message }, None)
}

/// 404, on the admin listener.
pub(super) async fn not_found_for_admin() -> HttpResponse {
    let message = "There is no such route on the admin listener: it has /metrics, /healthz, /readyz and /revocations.";
    failure(&ErrorInfo { code: code::NOT_FOUND, status_code: 404, message }, None)
}

/// 405, with the methods that there are.
pub(super) fn method_not_allowed(allow: &'static str) -> HttpResponse {
    let message = "The route does not have this method; the Allow header says which it has.";
    let mut response = failure(&ErrorInfo { code: code::METHOD_NOT_ALLOWED, status_code: 405, message }, None);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
