//! The Actix app behind a connection, as a hyper service. Actix uses the crate `http` 0.2 and hyper `http` 1, so requests and
//! answers are converted field by field.

use std::{
    cell::Cell,
    convert::Infallible,
    future::pending,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_http::{HttpMessage as _, Payload};
use actix_service::Service;
use actix_web::{
    Error, HttpResponse,
    body::{self, MessageBody as _},
    dev::ServiceResponse,
    error::PayloadError,
    web::Bytes,
};
use futures_util::{Stream, future::LocalBoxFuture, stream::poll_fn};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{self, Entry},
    request,
};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::watch;

use super::request_clock::RequestClock;

/// An app with its routes.
pub(crate) trait App:
    Service<actix_http::Request, Response = ServiceResponse, Error = Error, Future: 'static> + 'static
{
}

impl<A: Service<actix_http::Request, Response = ServiceResponse, Error = Error, Future: 'static> + 'static> App for A {}

/// The state that the connections of a listener share.
#[derive(derive_more::Debug)]
#[debug("Listener {{ .. }}")]
pub(crate) struct Listener<A> {
    /// The routes.
    pub(crate) app: A,
    /// Answers bytes that never became a request.
    pub(crate) refuse: Box<Refuse>,
    /// Turns true once, when the service stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Makes a whole answer, from the status line to the body, from its status, the received part of the head, and the peer.
type Refuse = dyn Fn(u16, &[u8], Option<IpAddr>) -> Vec<u8>;

pub(super) struct AppService<A> {
    pub(super) listener: Rc<Listener<A>>,
    pub(super) clock: Rc<RequestClock>,
    pub(super) peer: Option<SocketAddr>,
}

impl<A: App> hyper::service::Service<hyper::Request<Incoming>> for AppService<A> {
    type Response = hyper::Response<AnswerBody>;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let clock = Rc::clone(&self.clock);
        let length = body.size_hint().exact();
        clock.head_parsed(length.map(|length| usize::try_from(length).unwrap_or(usize::MAX)));
        let is_read = Rc::new(Cell::new(length == Some(0)));
        // It is uncertain where such a request ends, so nothing after it counts as another request.
        if length.is_none() || head.method == Method::CONNECT || head.headers.contains_key(header::UPGRADE) {
            clock.is_last.set(true);
        }
        let credentials = Credentials::take_from(&mut head.headers);
        let Some(mut request) = actix_request(&head, self.peer) else {
            clock.refused.set(Some(400));
            return Box::pin(pending());
        };
        request.extensions_mut().insert(credentials);
        request.extensions_mut().insert(Rc::clone(&clock));
        if !is_read.get() {
            *request.payload() = Payload::Stream { payload: Box::pin(payload(body, Rc::clone(&is_read))) };
        }
        let answering = self.listener.app.call(request);
        Box::pin(async move {
            let response = match answering.await {
                Ok(response) => response.into_parts().1,
                Err(error) => error.error_response(),
            };
            if !is_read.get() {
                clock.is_last.set(true);
            }
            let is_last = clock.is_last.get();
            let mut answer = hyper_response(response, clock).await;
            if is_last {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        })
    }
}

/// The header fields of a request that hold credentials. They are moved here as they are, so they are not among the request's
/// headers.
#[derive(derive_more::Debug, Default)]
#[debug("Credentials {{ .. }}")]
pub(crate) struct Credentials {
    authorization: Vec<HeaderValue>,
    cookies: Vec<HeaderValue>,
}

impl Credentials {
    #[cfg(test)]
    pub(crate) fn of_authorization(values: impl IntoIterator<Item = &'static str>) -> Self {
        Self { authorization: values.into_iter().map(HeaderValue::from_static).collect(), cookies: Vec::new() }
    }

    fn take_from(headers: &mut HeaderMap) -> Self {
        let mut take = |name| match headers.entry(name) {
            Entry::Occupied(fields) => fields.remove_entry_mult().1.collect(),
            Entry::Vacant(_) => Vec::new(),
        };
        Self { authorization: take(header::AUTHORIZATION), cookies: take(header::COOKIE) }
    }

    /// The values of the `Authorization` fields of a request.
    pub(crate) fn authorization(&self) -> impl Iterator<Item = &[u8]> {
        self.authorization.iter().map(HeaderValue::as_bytes)
    }

    /// The values of the `Cookie` fields of a request.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = &[u8]> {
        self.cookies.iter().map(HeaderValue::as_bytes)
    }
}

/// `None` if Actix's types reject what hyper's accept.
fn actix_request(head: &request::Parts, peer: Option<SocketAddr>) -> Option<actix_http::Request> {
    let mut request = actix_http::Request::with_payload(Payload::None);
    let actix = request.head_mut();
    actix.method = match head.method {
        Method::GET => actix_http::Method::GET,
        Method::POST => actix_http::Method::POST,
        _ => actix_http::Method::from_bytes(head.method.as_str().as_bytes()).ok()?,
    };
    actix.uri = match head.uri.path_and_query() {
        Some(target) if head.uri.authority().is_none() => target.as_str().parse().ok()?,
        _ => head.uri.to_string().parse().ok()?,
    };
    actix.version =
        if head.version == Version::HTTP_10 { actix_http::Version::HTTP_10 } else { actix_http::Version::HTTP_11 };
    actix.peer_addr = peer;
    for (name, value) in &head.headers {
        let name = actix_http::header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let value = actix_http::header::HeaderValue::from_bytes(value.as_bytes()).ok()?;
        actix.headers.append(name, value);
    }
    Some(request)
}

/// Headers of an answer in hyper's types, which cost nothing to convert. They are among the extensions of an Actix response,
/// beside its own headers.
#[derive(Debug, Default)]
pub(crate) struct AnswerHeaders(pub(crate) HeaderMap);

async fn hyper_response(response: HttpResponse, clock: Rc<RequestClock>) -> hyper::Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    let AnswerHeaders(headers) = head.extensions_mut().remove().unwrap_or_default();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        // The service's answers are in memory, so reading one cannot fail.
        Err(body) => body::to_bytes(body).await.unwrap_or_default(),
    };
    let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
    let mut answer = hyper::Response::new(AnswerBody { bytes, clock });
    *answer.status_mut() = StatusCode::from_u16(head.status().as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *answer.headers_mut() = headers;
    answer.headers_mut().reserve(head.headers().len() + 3);
    for (name, value) in head.headers() {
        // hyper accepts every header that Actix accepts.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

/// The body as Actix reads it. Sets `is_read` at its end.
fn payload(mut body: Incoming, is_read: Rc<Cell<bool>>) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    poll_fn(move |cx| {
        loop {
            let item = match ready!(Pin::new(&mut body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Some(Ok(bytes)),
                    Err(_) => continue,
                },
                Some(Err(_)) => Some(Err(PayloadError::Incomplete(None))),
                None => {
                    is_read.set(true);
                    None
                }
            };
            return Poll::Ready(item);
        }
    })
}

/// An answer's body. hyper drops it when the whole answer is in hyper's buffer.
pub(super) struct AnswerBody {
    bytes: Option<Bytes>,
    clock: Rc<RequestClock>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.clock.answer_complete();
    }
}
