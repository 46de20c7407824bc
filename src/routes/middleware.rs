//! The middleware around every request of a listener: its span, the count of requests in flight, the headers of every answer,
//! and how a refusal is reported.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header::X_CONTENT_TYPE_OPTIONS};
use hyper::body::Bytes;
use tracing::Instrument as _;

use super::{
    client_address,
    context::RequestContext,
    cors, rate_limit,
    request_id::{self, RequestId},
};
use crate::{
    refusal::{Refusal, Row},
    telemetry::{self, metrics::RequestMetrics},
    tenant::{TenantName, Tenants},
    trusted_proxies::TrustedProxies,
};

/// The middleware of a listener. That of the admin listener has no parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Middleware {
    /// Counts requests.
    pub(crate) metrics: Option<RequestMetrics>,
    /// Whose pages may read answers.
    pub(crate) tenants: Option<Arc<Tenants>>,
    /// Whose headers name the client address.
    pub(crate) trusted_proxies: Option<Arc<TrustedProxies>>,
}

impl Middleware {
    pub(super) async fn around(
        &self,
        context: &RequestContext,
        answering: impl Future<Output = Response<Bytes>>,
    ) -> Response<Bytes> {
        let RequestContext { headers: received, peer, tenant, allowance, .. } = context;
        let _in_flight = self.metrics.as_ref().map(RequestMetrics::begin);
        let id = RequestId::accept_or_make(received.get(request_id::HEADER).map(HeaderValue::as_bytes));
        let client_address = peer.map(|peer| client_address::of(peer, received, self.trusted_proxies.as_deref()));
        let span = telemetry::request_span(id.as_str(), client_address);
        let answering = async {
            let mut answer = answering.await;
            let headers = answer.headers_mut();
            self.add_headers(headers, &id, cors::origin(received), tenant.get());
            rate_limit::add_headers(allowance.get(), headers);
            answer
        };
        answering.instrument(span).await
    }

    /// Logs and counts the refusal of a request whose tenant is unknown.
    pub(super) fn report(&self, refusal: &Refusal) {
        let Row { reason, status, .. } = refusal.row();
        if let Some(metrics) = &self.metrics {
            metrics.refused(reason, status);
        }
        if refusal.concerns_operator() {
            tracing::warn!(reason, status, "request refused");
        } else {
            tracing::info!(reason, status, "request refused");
        }
    }

    /// Adds the headers of every answer. `tenant`: of the verified session.
    pub(super) fn add_headers(
        &self,
        headers: &mut HeaderMap,
        id: &RequestId,
        origin: Option<&str>,
        tenant: Option<&TenantName>,
    ) {
        if let Some(tenants) = &self.tenants {
            cors::add_headers(tenants, tenant, origin, headers);
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            headers.insert(HeaderName::from_static(request_id::HEADER), id);
        }
    }
}
