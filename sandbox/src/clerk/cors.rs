//! CORS with credentials, for pages of this machine and of the configured origins.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpResponse};

use super::instance::Instance;

/// Answers preflights, and allows these pages to read responses.
pub(super) async fn for_allowed_pages(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let is_allowed = |origin: &&HeaderValue| {
        let instance = request.app_data::<Data<Instance>>();
        instance.zip(origin.to_str().ok()).is_some_and(|(instance, origin)| instance.allows_origin(origin))
    };
    let requested_headers = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let origin = request.headers().get(header::ORIGIN).filter(is_allowed).cloned();
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = if is_preflight {
        request.into_response(HttpResponse::NoContent().finish()).map_into_right_body()
    } else {
        next.call(request).await?.map_into_left_body()
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        allow(headers, origin);
        if is_preflight {
            allow_preflight(headers, requested_headers);
        }
    }
    Ok(response)
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

/// These pages may send any header: a router that follows a redirect to here adds its own.
fn allow_preflight(headers: &mut HeaderMap, requested: Option<HeaderValue>) {
    let methods = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(requested) = requested {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested);
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}
