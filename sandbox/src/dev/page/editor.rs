//! The policy editor: shows and replaces the policy in force, and explains a policy for a session.
//!
//! These routes run a program and change the service, so only the page itself may call them: neither pages of other
//! origins nor DNS rebinding.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use actix_web::web::{self, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::super::explain::{self, ExplainRequest, Explainer};
use super::super::policy::{self, PolicyFile};

/// The largest policy with every byte escaped, and as much for token and params.
const BODY_LIMIT: usize = 4 * policy::LIMIT;

pub(in super::super) struct Editor {
    pub(in super::super) explainer: Explainer,
    pub(in super::super) in_force: PolicyFile,
    /// The port of the page.
    pub(in super::super) port: u16,
}

pub(super) fn routes(app: &mut ServiceConfig) {
    app.service(web::resource("/policy").route(web::get().to(policy)).route(web::put().to(put_in_force)))
        .service(web::resource("/explain").route(web::post().to(explain)));
}

/// Why a request is rejected.
#[derive(Debug, thiserror::Error)]
enum EditorError {
    #[error("the Host header must be an address of this page")]
    ForeignHost,
    #[error("the Origin header must be an origin of this page")]
    ForeignOrigin,
    #[error("the Content-Type must be application/json")]
    NotJson,
    #[error("the request is too large: a policy may have up to {} bytes", policy::LIMIT)]
    TooLarge,
    #[error("cannot read the body: {0}")]
    Malformed(String),
    #[error(transparent)]
    Unexplained(#[from] explain::ExplainError),
}

impl ResponseError for EditorError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::ForeignHost | Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unexplained(explain::ExplainError::Timeout) => StatusCode::GATEWAY_TIMEOUT,
            Self::Unexplained(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(json!({ "error": self.to_string() }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutPolicy {
    policy: String,
}

async fn policy(request: HttpRequest, editor: Data<Editor>) -> Result<HttpResponse, EditorError> {
    own_host(&request, editor.port)?;
    Ok(HttpResponse::Ok().json(json!({ "policy": editor.in_force.policy().await })))
}

async fn put_in_force(request: HttpRequest, body: Payload, editor: Data<Editor>) -> Result<HttpResponse, EditorError> {
    let PutPolicy { policy } = page_request(&request, body, editor.port).await?;
    within_limit(&policy)?;
    Ok(HttpResponse::Ok().json(editor.in_force.put(policy, &editor.explainer).await?))
}

async fn explain(request: HttpRequest, body: Payload, editor: Data<Editor>) -> Result<HttpResponse, EditorError> {
    let request_to_explain: ExplainRequest = page_request(&request, body, editor.port).await?;
    within_limit(&request_to_explain.policy)?;
    Ok(HttpResponse::Ok().json(editor.explainer.explain(&request_to_explain).await?))
}

fn within_limit(policy: &str) -> Result<(), EditorError> {
    if policy.len() > policy::LIMIT { Err(EditorError::TooLarge) } else { Ok(()) }
}

/// The body, after checking that the page itself sent it.
async fn page_request<T: DeserializeOwned>(request: &HttpRequest, body: Payload, port: u16) -> Result<T, EditorError> {
    let host = own_host(request, port)?;
    if header(request, ORIGIN) != Some(&format!("http://{host}")) {
        return Err(EditorError::ForeignOrigin);
    }
    // A form cannot have this type, and a script of another origin needs a preflight, which fails.
    if header(request, CONTENT_TYPE) != Some("application/json") {
        return Err(EditorError::NotJson);
    }
    let malformed = |error: &dyn fmt::Display| EditorError::Malformed(error.to_string());
    let body = body.to_bytes_limited(BODY_LIMIT).await.map_err(|_| EditorError::TooLarge)?;
    serde_json::from_slice(&body.map_err(|error| malformed(&error))?).map_err(|error| malformed(&error))
}

/// The page's address in the request.
fn own_host(request: &HttpRequest, port: u16) -> Result<&str, EditorError> {
    let host = header(request, HOST).ok_or(EditorError::ForeignHost)?;
    let own = ["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}"));
    if own.iter().any(|own| own == host) { Ok(host) } else { Err(EditorError::ForeignHost) }
}

fn header(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}
