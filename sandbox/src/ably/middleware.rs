//! Around every route: call counts, outages, the `Date` header and CORS.

use std::io;

use actix_web::{
    Error, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{self, HeaderName, HeaderValue, HttpDate, TryIntoHeaderValue as _},
    },
    middleware::Next,
    web::{Bytes, Data},
};
use futures_util::stream;

use super::{
    error::ErrorInfo,
    http::{RestCall, error_response_of},
    outage::Outage,
    protocol::Format,
    shared_app::SharedApp,
};

const EXPOSED: &str = "Link, X-Ably-Errorcode, X-Ably-Errormessage, X-Ably-Serverid";
const DEFAULT_ALLOWED: &str = "accept, ably-agent, authorization, content-type, x-ably-clientid, x-ably-version";

/// Counts calls, and applies an outage.
pub(crate) async fn count_and_interrupt(
    shared: Data<SharedApp>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let path = request.path();
    let is_inspection = path.starts_with("/sandbox/");
    let is_websocket = path == "/";
    let outage = {
        let mut app = shared.app();
        match (request.method(), path) {
            (&Method::GET, "/time") => app.calls.time += 1,
            (&Method::POST, path) if path.ends_with("/requestToken") => {
                app.calls.request_token += 1;
            }
            (&Method::POST, path) if path.ends_with("/revokeTokens") => {
                app.calls.revoke_tokens += 1;
            }
            _ => {}
        }
        if app.outage == Some(Outage::LoseOneAnswer) && !is_inspection && !is_websocket {
            app.outage.take()
        } else {
            app.outage
        }
    };
    match outage {
        Some(Outage::LoseOneAnswer) if !is_inspection && !is_websocket => {
            Ok(next.call(request).await?.into_response(aborted_response()))
        }
        Some(outage) if !is_inspection && !is_websocket => {
            let format = RestCall::of(request.request()).format;
            Ok(request.into_response(outage_response(outage, format).await))
        }
        _ => Ok(next.call(request).await?.map_into_boxed_body()),
    }
}

/// The response during an outage.
pub(super) async fn outage_response(outage: Outage, format: Format) -> HttpResponse {
    match outage {
        Outage::Status(status) => error_response_of(
            ErrorInfo::new(status, u32::from(status) * 100, "the stand-in has an outage, as requested"),
            format,
        ),
        Outage::RateLimited { retry_after_s } => {
            let error = ErrorInfo::new(429, 42910, "the stand-in limits its rate, as requested");
            let mut answer = error_response_of(error, format);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
            answer
        }
        Outage::Hang => std::future::pending().await,
        Outage::Drop | Outage::LoseOneAnswer => aborted_response(),
    }
}

/// A response whose connection breaks.
pub(super) fn aborted_response() -> HttpResponse {
    HttpResponse::Ok().streaming(stream::once(async { Err::<Bytes, _>(io::Error::other("outage")) }))
}

/// Sets `Date` from the stand-in's clock.
pub(crate) async fn date(
    shared: Data<SharedApp>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let mut answer = next.call(request).await?;
    answer.headers_mut().insert(header::DATE, HttpDate::from(shared.clock.now()).try_into_value()?);
    Ok(answer)
}

/// Allows any origin, with credentials, and exposes Ably's headers.
pub(crate) async fn allow_any_origin(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let header_of = |name: HeaderName| request.headers().get(name).cloned();
    let origin = header_of(header::ORIGIN);
    let requested_headers = header_of(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let is_preflight = request.method() == Method::OPTIONS;
    let mut answer = if is_preflight {
        let mut answer = request.into_response(HttpResponse::NoContent().finish());
        let headers = answer.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            requested_headers.unwrap_or(HeaderValue::from_static(DEFAULT_ALLOWED)),
        );
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        answer
    } else {
        next.call(request).await?.map_into_boxed_body()
    };
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    Ok(answer)
}
