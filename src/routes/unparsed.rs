//! Answers to bytes that never became a request, in the shape of all other refusals.

use std::net::IpAddr;

use actix_web::{ResponseError as _, body::MessageBody as _, web::Data};
use http::{
    HeaderMap, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, DATE},
};

use super::{
    middleware,
    request_id::{self, RequestId},
};
use crate::{
    connection,
    refusal::Refusal,
    telemetry::{self, metrics::RequestMetrics},
    tenant::Tenants,
};

/// What a listener's refusals of unparsed requests need.
#[derive(Clone, Debug, Default)]
pub struct UnparsedRequests {
    /// Counts them.
    pub metrics: Option<RequestMetrics>,
    /// Whose pages may read them.
    pub tenants: Option<Data<Tenants>>,
}

impl UnparsedRequests {
    /// The whole answer with this status: status line, headers and body. `head` is what was received of the request's head;
    /// `peer` is where the connection comes from.
    #[must_use]
    pub fn refuse(&self, status: u16, head: &[u8], peer: Option<IpAddr>) -> Vec<u8> {
        let refusal = match status {
            408 => Refusal::HeadTooSlow,
            431 => Refusal::HeadTooLarge,
            _ => Refusal::NotHttp,
        };
        let id = RequestId::accept_or_make(connection::field(head, request_id::HEADER));
        let span = telemetry::request_span(id.as_str(), peer.map(|peer| peer.to_canonical()));
        span.in_scope(|| middleware::report(&refusal, self.metrics.as_ref()));
        let (response, body) = refusal.error_response().into_parts();
        let body = body.try_into_bytes().unwrap_or_default();
        let origin = connection::field(head, "origin").and_then(|origin| HeaderValue::from_bytes(origin).ok());
        let origin = origin.as_ref().and_then(|origin| origin.to_str().ok());
        let mut headers = HeaderMap::new();
        middleware::add_headers(&mut headers, &id, self.tenants.as_ref(), origin, None);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_LENGTH, body.len().into());
        if let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(std::time::SystemTime::now())) {
            headers.insert(DATE, now);
        }
        let mut answer = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
        let own = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        for (name, value) in own.chain(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))) {
            answer.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        answer.extend(b"\r\n");
        answer.extend(body);
        answer
    }
}
