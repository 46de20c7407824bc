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

/// A refusal. `reason` is the one in the log; the message ends with it.
pub(super) fn failure(reason: &str, error: &ErrorInfo, retry_after: Option<Duration>) -> HttpResponse {
    let status = StatusCode::from_u16(error.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = error.body(reason);
    let mut response = json(status, &body);
    let headers = response.headers_mut();
    headers.insert(ERROR_CODE, error.code.into());
    if let Ok(message) = HeaderValue::from_str(body.message()) {
        headers.insert(ERROR_MESSAGE, message);
    }
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
    no_such_route(404, code::NOT_FOUND, "There is no such route. Tokens are at /api/ably; see /openapi.yaml.")
}

/// 404, on the admin listener.
pub(super) async fn not_found_for_admin() -> HttpResponse {
    let message = "There is no such route on the admin listener: it has /metrics, /healthz, /readyz and /revocations.";
    no_such_route(404, code::NOT_FOUND, message)
}

/// 405, with the methods that there are.
pub(super) fn method_not_allowed(allow: &'static str) -> HttpResponse {
    let message = "The route does not have this method; the Allow header says which it has.";
    let mut response = no_such_route(405, code::METHOD_NOT_ALLOWED, message);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn no_such_route(status_code: u16, code: u32, message: &'static str) -> HttpResponse {
    let reason = "no-such-route";
    failure(reason, &ErrorInfo { code, status_code, message }, None)
}
