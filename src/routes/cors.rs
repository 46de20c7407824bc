//! Cross-origin requests: pages of the allowed origins may read answers, with cookies; no other page may.
//!
//! Not actix-cors: it refuses preflights in plain text, where this service's failures have one shape.

use std::collections::{HashMap, HashSet};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
    },
    web::Data,
};

use crate::tenant::TenantName;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origins whose pages may read answers: of each tenant its own.
#[derive(Debug)]
pub struct AllowedOrigins {
    of_tenants: HashMap<TenantName, HashSet<String>>,
}

impl AllowedOrigins {
    /// These and no others, compared exactly.
    #[must_use]
    pub fn new<'a>(of_tenants: impl IntoIterator<Item = (TenantName, &'a [String])>) -> Self {
        let of_tenants = of_tenants.into_iter().map(|(name, origins)| (name, origins.iter().cloned().collect()));
        Self { of_tenants: of_tenants.collect() }
    }

    /// The origin as a header, if it is one of the tenant's; without a tenant, if it is one of any's.
    fn allow(&self, origin: Option<&str>, tenant: Option<&TenantName>) -> Option<HeaderValue> {
        let origin = origin?;
        let is_allowed = match tenant {
            Some(name) => self.of_tenants.get(name).is_some_and(|origins| origins.contains(origin)),
            None => self.of_tenants.values().any(|origins| origins.contains(origin)),
        };
        if is_allowed { HeaderValue::from_str(origin).ok() } else { None }
    }

    /// Whether a tenant accepts the cookies of a request. Where the browser says that another site causes the request
    /// (Fetch Metadata), only from a page of the tenant's origins: a link, form or image of any other would spend the
    /// user's allowance. No page can write this header. One value that is unknown or of another site is enough.
    pub(super) fn accept_cookies(&self, headers: &HeaderMap) -> impl Fn(&TenantName) -> bool + Sync {
        let is_own = |site: &HeaderValue| ["same-origin", "none"].iter().any(|own| site == own);
        let (is_of_another_site, origin) = (!headers.get_all(FETCH_SITE).all(is_own), origin(headers));
        move |tenant| !is_of_another_site || self.allow(origin.as_deref(), Some(tenant)).is_some()
    }

    /// Adds what a browser needs to show an answer to the page that asked. An answer to a verified session is for pages
    /// of its tenant; one to nobody in particular for pages of any. No other page may so much as embed it.
    pub(super) fn add_headers(&self, origin: Option<&str>, tenant: Option<&TenantName>, headers: &mut HeaderMap) {
        const EXPOSED: &str = "X-Ably-Errorcode, X-Ably-Errormessage, X-Request-Id, Retry-After, RateLimit, \
             RateLimit-Policy";
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.allow(origin, tenant) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        } else {
            headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        }
    }
}

/// The page's origin, if a browser named one. It names no more than one.
pub(super) fn origin(headers: &HeaderMap) -> Option<String> {
    let mut origins = headers.get_all(ORIGIN);
    match (origins.next(), origins.next()) {
        (Some(origin), None) => origin.to_str().ok().map(str::to_owned),
        _ => None,
    }
}

/// Answers a preflight, which does not show whose session the request will have. To an origin that is not allowed it says
/// nothing, and the browser stops there.
pub(super) async fn preflight(request: HttpRequest, origins: Data<AllowedOrigins>) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    response.append_header((VARY, "Access-Control-Request-Method, Access-Control-Request-Headers"));
    if origins.allow(origin(request.headers()).as_deref(), None).is_some() {
        response.insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"));
        response.insert_header((ACCESS_CONTROL_MAX_AGE, "7200"));
        // With credentials there is no wildcard; an app's own authHeaders may be anything.
        if let Some(wanted) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
            response.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone()));
        }
    }
    response.finish()
}
