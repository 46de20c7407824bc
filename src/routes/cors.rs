//! Cross-origin requests: only pages of the allowed origins may read answers, with cookies.
//!
//! Not actix-cors: it refuses preflights in plain text; this service's refusals have one shape.

use actix_web::{HttpResponse, http::header as actix, web::Data};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
    },
};

use super::context::Context;
use crate::tenant::{Tenant, TenantName, Tenants};

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a page of this origin may read answers: of the tenant's, or without a tenant of any tenant's.
fn allows(tenants: &Tenants, tenant: Option<&TenantName>, origin: &str) -> bool {
    match tenant {
        Some(name) => tenants.named(name).is_some_and(|tenant| tenant.allowed_origins.contains(origin)),
        None => tenants.iter().any(|tenant| tenant.allowed_origins.contains(origin)),
    }
}

/// Whether a tenant accepts the cookies of a request. A request that another site causes (Fetch Metadata) must come from a
/// page of the tenant's origins: any other link, form or image would use up the user's allowance. Pages cannot write this
/// header. One unknown value is enough to refuse.
pub(super) fn accepts_cookies(headers: &HeaderMap) -> impl Fn(&Tenant) -> bool + Sync + use<'_> {
    let is_own = |site: &HeaderValue| ["same-origin", "none"].iter().any(|own| site == own);
    let (is_own, origin) = (headers.get_all(FETCH_SITE).iter().all(is_own), origin(headers));
    move |tenant| is_own || origin.is_some_and(|origin| tenant.allowed_origins.contains(origin))
}

/// Adds what a browser needs to show an answer to the page that asked: to a page of the verified session's tenant, or
/// without a session to a page of any tenant. Other pages cannot even embed the answer.
pub(super) fn add_headers(
    tenants: &Tenants,
    tenant: Option<&TenantName>,
    origin: Option<&str>,
    headers: &mut HeaderMap,
) {
    const EXPOSED: &str = "X-Ably-Errorcode, X-Ably-Errormessage, X-Request-Id, Retry-After, RateLimit, \
         RateLimit-Policy";
    headers.append(VARY, HeaderValue::from_static("Origin"));
    let allowed = origin.filter(|origin| allows(tenants, tenant, origin));
    if let Some(origin) = allowed.and_then(|origin| HeaderValue::from_str(origin).ok()) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    } else {
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    }
}

/// The page's origin, if the request has exactly one.
pub(super) fn origin(headers: &HeaderMap) -> Option<&str> {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => origin.to_str().ok(),
        _ => None,
    }
}

/// Answers a preflight for pages of any tenant: a preflight carries no session. Without the CORS headers the browser stops.
pub(super) async fn preflight(request: Context, tenants: Data<Tenants>) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    response.append_header((actix::VARY, "Access-Control-Request-Method, Access-Control-Request-Headers"));
    if origin(&request.headers).is_some_and(|origin| allows(&tenants, None, origin)) {
        response.insert_header((actix::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"));
        response.insert_header((actix::ACCESS_CONTROL_MAX_AGE, "7200"));
        // With credentials a wildcard has no meaning, and an app's authHeaders may have any name.
        if let Some(wanted) = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            response.insert_header((actix::ACCESS_CONTROL_ALLOW_HEADERS, wanted.as_bytes()));
        }
    }
    response.finish()
}
