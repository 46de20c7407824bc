//! The middleware around every request: its span, the count of requests in flight, the report of its refusal, and the
//! headers of every answer.

use actix_web::{
    Error, HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
    web::Data,
};
use http::{HeaderMap, HeaderName, HeaderValue, header::X_CONTENT_TYPE_OPTIONS};
use tracing::Instrument as _;

use super::{
    client_address, cors, rate_limit,
    request_id::{self, RequestId},
};
use crate::{
    connection::AnswerHeaders,
    refusal::{Refusal, Row},
    telemetry::{self, metrics::RequestMetrics},
    tenant::{TenantName, Tenants},
};

/// The middleware.
pub async fn around_every_request<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let metrics = request.app_data::<Data<RequestMetrics>>().cloned();
    let _in_flight = metrics.as_ref().map(|metrics| metrics.begin());
    let id = RequestId::accept_or_make(request.headers().get(request_id::HEADER).map(AsRef::as_ref));
    let span = telemetry::request_span(id.as_str(), client_address::of(request.request()));
    let answering = async {
        let mut response = next.call(request).await?;
        if let Some(refusal) = response.response().error().and_then(Error::as_error::<Refusal>) {
            report(refusal, metrics.as_deref().map(AsRef::as_ref));
        }
        let request = response.request().clone();
        let tenants = request.app_data::<Data<Tenants>>();
        let tenant = request.extensions().get::<TenantName>().cloned();
        let mut headers = HeaderMap::new();
        add_headers(&mut headers, &id, tenants, cors::origin(request.headers()), tenant.as_ref());
        rate_limit::add_headers(request.extensions().get(), &mut headers);
        response.response_mut().extensions_mut().insert(AnswerHeaders(headers));
        Ok(response)
    };
    answering.instrument(span).await
}

/// Logs and counts the refusal of a request whose tenant is unknown. The admin listener has no metrics.
pub(super) fn report(refusal: &Refusal, metrics: Option<&RequestMetrics>) {
    let Row { reason, status, .. } = refusal.row();
    if let Some(metrics) = metrics {
        metrics.refused(reason, status);
    }
    if refusal.concerns_operator() {
        tracing::warn!(reason, status, "request refused");
    } else {
        tracing::info!(reason, status, "request refused");
    }
}

/// Adds the headers of every answer. `tenants`: on the public listener only. `tenant`: of the verified session.
pub(super) fn add_headers(
    headers: &mut HeaderMap,
    id: &RequestId,
    tenants: Option<&Data<Tenants>>,
    origin: Option<&str>,
    tenant: Option<&TenantName>,
) {
    if let Some(tenants) = tenants {
        cors::add_headers(tenants, tenant, origin, headers);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static(request_id::HEADER), id);
    }
}
