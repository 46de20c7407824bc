//! Cross-origin requests: pages of the allowed origins may read answers, with cookies; no other page may.
//!
//! Not actix-cors: it refuses preflights in plain text, where this service's failures have one shape.

use std::collections::HashSet;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap, HeaderValue, ORIGIN, VARY,
    },
    web::Data,
};

/// The origins whose pages may read answers.
#[derive(Debug)]
pub struct AllowedOrigins(HashSet<String>);

impl AllowedOrigins {
    /// These and no others, compared exactly.
    #[must_use]
    pub fn new(origins: &[String]) -> Self {
        Self(origins.iter().cloned().collect())
    }

    fn allow(&self, origin: Option<&str>) -> Option<HeaderValue> {
        origin.filter(|origin| self.0.contains(*origin)).and_then(|origin| HeaderValue::from_str(origin).ok())
    }

    /// Adds what a browser needs to show an answer to the page that asked.
    pub(super) fn add_headers(&self, origin: Option<&str>, headers: &mut HeaderMap) {
        const EXPOSED: &str = "X-Ably-Errorcode, X-Ably-Errormessage, X-Request-Id, Retry-After";
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.allow(origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

/// The page's origin, if a browser named one.
pub(super) fn origin(headers: &HeaderMap) -> Option<String> {
    headers.get(ORIGIN)?.to_str().ok().map(str::to_owned)
}

/// Answers a preflight. To an origin that is not allowed it says nothing, and the browser stops there.
pub(super) async fn preflight(request: HttpRequest, origins: Data<AllowedOrigins>) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    response.append_header((VARY, "Access-Control-Request-Method, Access-Control-Request-Headers"));
    if origins.allow(origin(request.headers()).as_deref()).is_some() {
        response.insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"));
        response.insert_header((ACCESS_CONTROL_MAX_AGE, "7200"));
        // With credentials there is no wildcard; an app's own authHeaders may be anything.
        if let Some(wanted) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
            response.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone()));
        }
    }
    response.finish()
}
