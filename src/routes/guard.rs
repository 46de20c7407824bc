//! What every request passes through: its id and where it comes from, its size limit, the count of those in flight, and the headers that every
//! answer has.

use std::rc::Rc;

use actix_web::{
    Error, HttpMessage as _,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    web::Data,
};

use crate::{server::connection::RequestClock, telemetry::metrics::RequestMetrics, tenant::TenantName};

use super::{
    answer,
    client_address::ClientAddress,
    cors::AllowedOrigins,
    request_id::{self, RequestId},
};

/// The most bytes of address and headers. Actix itself would take 128 KiB.
const LARGEST_HEAD: usize = 16 * 1024;

/// The middleware.
pub async fn around_every_request<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    if let Some(clock) = request.conn_data::<Rc<RequestClock>>() {
        clock.head_arrived();
    }
    let metrics = request.app_data::<Data<RequestMetrics>>().cloned();
    let _in_flight = metrics.as_ref().map(|metrics| metrics.begin());
    let client_address = ClientAddress::of(request.request());
    let refused = |id: &RequestId, reason, status: StatusCode| {
        let status = status.as_u16();
        if let Some(metrics) = &metrics {
            metrics.refused(reason, status);
        }
        tracing::info!(
            request_id = id.as_str(),
            client_address = client_address.field(),
            reason,
            status,
            "request refused"
        );
    };
    let id = RequestId::accept_or_make(request.headers().get(request_id::HEADER));
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(client_address);
    let mut response = if head_size(&request) > LARGEST_HEAD {
        refused(&id, "head-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        request.into_response(answer::failure(&answer::HEAD_TOO_LARGE, None)).map_into_right_body()
    } else {
        let response = next.call(request).await?.map_into_left_body();
        let status = response.status();
        if status == StatusCode::NOT_FOUND || status == StatusCode::METHOD_NOT_ALLOWED {
            refused(&id, "no-such-route", status);
        }
        response
    };

    if let Some(origins) = response.request().app_data::<Data<AllowedOrigins>>().cloned() {
        let origin = super::cors::origin(response.request().headers());
        let tenant = response.request().extensions().get::<TenantName>().cloned();
        origins.add_headers(origin.as_deref(), tenant.as_ref(), response.headers_mut());
    }
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static(request_id::HEADER), id);
    }
    Ok(response)
}

fn head_size(request: &ServiceRequest) -> usize {
    const SEPARATORS: usize = ": \r\n".len();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + SEPARATORS);
    target + headers.sum::<usize>()
}
