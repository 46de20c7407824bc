//! Requests and responses of the HTTP routes, in the format that the caller wants.

use std::collections::HashMap;

use actix_web::{
    HttpRequest, HttpResponse, Resource, ResponseError,
    body::BoxBody,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    web::{self, Payload, Query},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    access::{Access, Credential},
    error::ErrorInfo,
    protocol::Format,
    shared_app::SharedApp,
};

const LARGEST_BODY: usize = 512 * 1024;

pub(super) fn resource(path: &str) -> Resource {
    web::resource(path).default_service(web::to(wrong_method))
}

/// The result of a route.
pub(super) type RestResult = Result<HttpResponse, RestError>;

/// An error response, in the format that the caller wants.
#[derive(Debug)]
pub(super) struct RestError {
    pub(super) error: ErrorInfo,
    format: Format,
}

impl std::fmt::Display for RestError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.error.message)
    }
}

impl ResponseError for RestError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        error_response_of(self.error, self.format)
    }
}

pub(super) fn error_response_of(error: ErrorInfo, format: Format) -> HttpResponse {
    let mut answer = write(error.status, &json!({ "error": error.to_json() }), format);
    add_error_headers(answer.headers_mut(), error.code, error.message);
    answer
}

pub(super) fn add_error_headers(headers: &mut HeaderMap, code: u32, message: &str) {
    headers.insert(HeaderName::from_static("x-ably-errorcode"), HeaderValue::from(code));
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert(HeaderName::from_static("x-ably-errormessage"), message);
    }
}

pub(super) fn write(status: u16, body: &Value, format: Format) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .content_type(format.content_type())
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(format.encode(body))
}

/// A request and what its headers and query say.
pub(super) struct RestCall<'request> {
    request: &'request HttpRequest,
    pub(super) query: HashMap<String, String>,
    pub(super) format: Format,
}

impl<'request> RestCall<'request> {
    pub(super) fn of(request: &'request HttpRequest) -> Self {
        let query = Query::from_query(request.query_string()).map(Query::into_inner).unwrap_or_default();
        let format = answer_format(request.headers(), &query);
        Self { request, query, format }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    pub(super) fn error(&self, error: ErrorInfo) -> RestError {
        RestError { error, format: self.format }
    }

    /// The credential: Bearer before Basic before the query (`RSA3`, `RSA11`).
    pub(super) fn credential(&self) -> Credential {
        let authorization = self.header("authorization").unwrap_or_default();
        if let Some((scheme, value)) = authorization.split_once(' ') {
            let value = value.trim();
            if scheme.eq_ignore_ascii_case("bearer") {
                return Credential::Token(bearer_token(value));
            }
            if scheme.eq_ignore_ascii_case("basic") {
                return Credential::Key(decoded(value).unwrap_or_default());
            }
        }
        let parameter = |name| self.query.get(name).filter(|value| !value.is_empty());
        if let Some(token) = parameter("access_token").or_else(|| parameter("accessToken")) {
            return Credential::Token(token.clone());
        }
        parameter("key").map_or(Credential::Missing, |key| Credential::Key(key.clone()))
    }

    pub(super) fn access(&self, shared: &SharedApp) -> Result<Access, RestError> {
        let now_ms = shared.now_ms();
        shared.app().authenticate(&self.credential(), now_ms).map_err(|error| self.error(error))
    }

    pub(super) async fn body(&self, payload: Payload) -> Result<Value, RestError> {
        let too_large = ErrorInfo::new(413, 40009, "the body is too large");
        let bytes = payload
            .to_bytes_limited(LARGEST_BODY)
            .await
            .map_err(|_| self.error(too_large))?
            .map_err(|_| self.error(ErrorInfo::bad_request("the body cannot be read")))?;
        let packed =
            self.header("content-type").is_some_and(|kind| kind.starts_with(Format::MessagePack.content_type()));
        let format = if packed { Format::MessagePack } else { Format::Json };
        format.decode(&bytes).map_err(|error| self.error(error))
    }

    /// The body as `T`; `expected` is the error message if it is anything else.
    pub(super) async fn params<T: DeserializeOwned>(
        &self,
        payload: Payload,
        expected: &'static str,
    ) -> Result<T, RestError> {
        let body = self.body(payload).await?;
        serde_json::from_value(body).map_err(|_| self.error(ErrorInfo::bad_request(expected)))
    }

    /// The response to a successful request. The `envelope` parameter wraps it, for callers that cannot see headers.
    pub(super) fn answer(&self, status: u16, body: &Value, link: Option<String>) -> HttpResponse {
        if let Some(envelope) = self.query.get("envelope") {
            let format = Format::named(envelope).unwrap_or(self.format);
            let mut headers = json!({ "content-type": format.content_type() });
            if let Some(link) = link {
                headers["link"] = json!(link);
            }
            let wrapped = json!({ "statusCode": status, "headers": headers, "response": body });
            return write(200, &wrapped, format);
        }
        let mut answer = write(status, body, self.format);
        if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            answer.headers_mut().insert(header::LINK, link);
        }
        answer
    }
}

/// Decodes a Bearer value. SDKs send a token in base64 (`RSA3a`); a plain token contains a dot, which base64 does
/// not.
fn bearer_token(value: &str) -> String {
    if value.contains('.') {
        return value.to_owned();
    }
    decoded(value).unwrap_or_default()
}

fn decoded(value: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()
}

fn answer_format(headers: &HeaderMap, query: &HashMap<String, String>) -> Format {
    if let Some(format) = query.get("format").and_then(|name| Format::named(name)) {
        return format;
    }
    let accepts_packed = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(Format::MessagePack.content_type()));
    if accepts_packed { Format::MessagePack } else { Format::Json }
}

async fn wrong_method(request: HttpRequest) -> HttpResponse {
    let error = ErrorInfo::new(405, 40500, "this route does not support the method");
    error_response_of(error, RestCall::of(&request).format)
}
