//! A connection's handler as a hyper service.

use std::{
    cell::Cell,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use futures_util::{Stream, future::LocalBoxFuture};
use http::{
    HeaderValue, Method, Response,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::watch;

use super::request_clock::RequestClock;

/// Answers what arrives on the connections of a listener.
pub(crate) trait Handler: 'static {
    /// Answers a request.
    fn answer(self: Rc<Self>, request: Request) -> impl Future<Output = Response<Bytes>> + 'static;

    /// The whole answer with this status, from the status line to the body, to bytes that never became a request. `head` is
    /// what was received of the request's head.
    fn refuse(&self, status: u16, head: &[u8], peer: Option<IpAddr>) -> Vec<u8>;
}

/// The state that the connections of a listener share.
#[derive(Debug)]
pub(crate) struct Listener<H> {
    pub(crate) handler: Rc<H>,
    /// Turns true once, when the service stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// A request on a connection.
#[derive(derive_more::Debug)]
#[debug("Request {{ .. }}")]
pub(crate) struct Request {
    pub(crate) head: Parts,
    /// `None` if it has no body.
    pub(crate) body: Option<RequestBody>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) clock: Rc<RequestClock>,
}

pub(super) struct HandlerService<H> {
    pub(super) listener: Rc<Listener<H>>,
    pub(super) clock: Rc<RequestClock>,
    pub(super) peer: Option<SocketAddr>,
}

impl<H: Handler> hyper::service::Service<hyper::Request<Incoming>> for HandlerService<H> {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let (head, incoming) = request.into_parts();
        let clock = Rc::clone(&self.clock);
        let length = incoming.size_hint().exact();
        clock.head_parsed(length.map(|length| usize::try_from(length).unwrap_or(usize::MAX)));
        // It is uncertain where such a request ends, so nothing after it counts as another request.
        if length.is_none() || head.method == Method::CONNECT || head.headers.contains_key(UPGRADE) {
            clock.is_last.set(true);
        }
        let is_read = Rc::new(Cell::new(length == Some(0)));
        let body = (!is_read.get()).then(|| RequestBody { incoming, is_read: Rc::clone(&is_read) });
        let request = Request { head, body, peer: self.peer, clock: Rc::clone(&clock) };
        let answering = Rc::clone(&self.listener.handler).answer(request);
        Box::pin(async move {
            let mut answer = answering.await;
            if !is_read.get() {
                clock.is_last.set(true);
            }
            if clock.is_last.get() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer.map(|bytes| AnswerBody { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), clock }))
        })
    }
}

/// The parts of a request's body, as they arrive.
pub(crate) struct RequestBody {
    incoming: Incoming,
    is_read: Rc<Cell<bool>>,
}

impl Stream for RequestBody {
    type Item = Result<Bytes, hyper::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { incoming, is_read } = self.get_mut();
        while let Some(frame) = ready!(Pin::new(&mut *incoming).poll_frame(cx)?) {
            if let Ok(bytes) = frame.into_data() {
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
        is_read.set(true);
        Poll::Ready(None)
    }
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
