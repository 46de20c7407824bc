//! What every request passes through: its id and where it comes from, the count of those in flight, and the headers that every
//! answer has.

use actix_web::{
    Error, HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    web::Data,
};

use crate::{
    telemetry::metrics::RequestMetrics,
    tenant::{TenantName, Tenants},
};

use super::{
    client_address::ClientAddress,
    cors,
    request_id::{self, RequestId},
};

/// The middleware.
pub async fn around_every_request<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let metrics = request.app_data::<Data<RequestMetrics>>().cloned();
    let _in_flight = metrics.as_ref().map(|metrics| metrics.begin());
    let client_address = ClientAddress::of(request.request());
    let id = RequestId::accept_or_make(request.headers().get(request_id::HEADER));
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(client_address);
    let mut response = next.call(request).await?;
    let status = response.status();
    if status == StatusCode::NOT_FOUND || status == StatusCode::METHOD_NOT_ALLOWED {
        let reason = "no-such-route";
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
    }

    let tenants = response.request().app_data::<Data<Tenants>>().cloned();
    let origin = cors::origin(response.request().headers());
    let tenant = response.request().extensions().get::<TenantName>().cloned();
    add_headers(response.headers_mut(), &id, tenants.as_ref(), origin.as_deref(), tenant.as_ref());
    Ok(response)
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
