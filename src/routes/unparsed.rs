//! Answers to bytes that never became a request, in the shape of all other refusals.

use std::{net::IpAddr, time::SystemTime};

use http::{
    HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, DATE},
};

use super::{
    middleware::Middleware,
    request_id::{self, RequestId},
};
use crate::{connection, refusal::Refusal, telemetry};

impl Middleware {
    /// The whole answer with this status: status line, headers and body. `head` is what was received of the request's head;
    /// `peer` is where the connection comes from.
    pub(super) fn refuse_unparsed(&self, status: u16, head: &[u8], peer: Option<IpAddr>) -> Vec<u8> {
        let refusal = match status {
            408 => Refusal::HeadTooSlow,
            431 => Refusal::HeadTooLarge,
            _ => Refusal::NotHttp,
        };
        let id = RequestId::accept_or_make(connection::field(head, request_id::HEADER));
        let span = telemetry::request_span(id.as_str(), peer.map(|peer| peer.to_canonical()));
        span.in_scope(|| self.report(&refusal));
        let (mut parts, body) = refusal.answer().into_parts();
        let origin = connection::field(head, "origin").and_then(|origin| HeaderValue::from_bytes(origin).ok());
        let origin = origin.as_ref().and_then(|origin| origin.to_str().ok());
        self.add_headers(&mut parts.headers, &id, origin, None);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        parts.headers.insert(CONTENT_LENGTH, body.len().into());
        if let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
            parts.headers.insert(DATE, now);
        }
        let mut answer = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
        for (name, value) in &parts.headers {
            answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        answer.extend(b"\r\n");
        answer.extend(body);
        answer
    }
}
