//! A client's connection: HTTP/1.1 by hyper, one request at a time, in front of a listener's handler.
//!
//! Actix's own HTTP/1 dispatcher reads and parses as much as a client sends, and has no deadline for a client that does not
//! read. Here the whole answer must be sent within 25 seconds of the request's first byte, or the connection is closed. A
//! connection holds the bytes of one head, or the part of one body that a handler reads.

mod gate;
mod head;
mod request_clock;
mod service;

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{FusedFuture, FutureExt as _};
use hyper::server::conn::http1;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, Sleep, sleep_until, timeout},
};

use self::{
    gate::{Gate, Head, MIN_BUFFER},
    head::{MAX_FIELDS, MAX_HEAD_BYTES},
    request_clock::Phase,
    service::HandlerService,
};
use crate::limits::ConnectionSlot;

pub(crate) use self::{
    head::field,
    request_clock::RequestClock,
    service::{Handler, Listener, Request},
};

/// How long the connection reads and drops what the client still sends after the last answer. Closing earlier resets the
/// connection, and the client may lose the answer.
const TIME_TO_LINGER: Duration = Duration::from_secs(2);

/// How long a connection is kept between requests. Longer than a load balancer's usual minute, so that the load balancer
/// closes it first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long after the last request hyper's buffers are kept.
const KEEP_BUFFERS: Duration = Duration::from_secs(1);

/// Why a connection, or a part of it, ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The last answer is sent, or the client closed the connection.
    Served,
    /// What the client sent cannot be parsed, or did not arrive in time.
    Refused(u16),
    /// The idle timeout has passed.
    Idle,
    /// It must be closed at once: it broke, timed out or was evicted, or the service stops.
    Closed,
}

/// Serves a connection to its end.
pub(crate) async fn serve<S, H>(stream: S, peer: Option<SocketAddr>, slot: ConnectionSlot, listener: Rc<Listener<H>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let clock = Rc::new(RequestClock::new(slot));
    let mut gate = Gate::new(stream, Rc::clone(&clock));
    let answer = match serve_requests(&mut gate, &clock, peer, &listener).await {
        End::Refused(status) => listener.handler.refuse(status, gate.unparsed(), peer.map(|peer| peer.ip())),
        End::Served if !gate.is_at_eof() => Vec::new(),
        End::Served | End::Idle | End::Closed => return,
    };
    clock.answer_sent();
    tokio::select! {
        () = linger(gate.stream(), &answer) => {}
        () = poll_fn(|cx| clock.slot.poll_evicted(cx)) => {}
    }
}

/// Waits for a head and lets hyper serve it and the requests that follow without a pause; then starts again. hyper's buffers are
/// freed in between: a slow or idle connection costs little memory.
async fn serve_requests<S, H>(
    gate: &mut Gate<S>,
    clock: &Rc<RequestClock>,
    peer: Option<SocketAddr>,
    listener: &Rc<Listener<H>>,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let mut stopping = listener.stopping.clone();
    // A dropped sender also means that the service stops.
    let mut stop = pin!(async move { drop(stopping.wait_for(|stopping| *stopping).await) }.fuse());
    let mut alarm = pin!(sleep_until(clock.deadline(KEEP_ALIVE)));
    loop {
        let head = within_bounds(clock, KEEP_ALIVE, stop.as_mut(), alarm.as_mut(), |cx, _| {
            gate.poll_head(cx).map(|head| match head {
                Ok(Head::Complete) => None,
                Ok(Head::Eof) => Some(End::Served),
                Err(_) => Some(End::Closed),
            })
        });
        if let Some(end) = head.await {
            return end;
        }
        let service = HandlerService { listener: Rc::clone(listener), clock: Rc::clone(clock), peer };
        let mut http = http1::Builder::new()
            .half_close(true)
            .keep_alive(!stop.is_terminated())
            .header_read_timeout(None)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD_BYTES)
            // One copy of a short answer costs less than a write of two parts.
            .writev(false)
            .serve_connection(&mut *gate, service);
        let served = within_bounds(clock, KEEP_BUFFERS, stop.as_mut(), alarm.as_mut(), |cx, is_stopping| {
            // Before the head is parsed, this would close the connection.
            if is_stopping && clock.is_parsed() {
                Pin::new(&mut http).graceful_shutdown();
            }
            match Pin::new(&mut http).poll(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Some(End::Served)),
                Poll::Ready(Err(error)) if error.is_parse_too_large() => Poll::Ready(Some(End::Refused(431))),
                Poll::Ready(Err(error)) if error.is_parse() => Poll::Ready(Some(End::Refused(400))),
                Poll::Ready(Err(_)) => Poll::Ready(Some(End::Closed)),
                Poll::Pending if clock.wastes_buffers() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        match served.await {
            None | Some(End::Idle) => {}
            Some(end) => return end,
        }
    }
}

/// Polls `part` until it is ready or the connection must end.
async fn within_bounds(
    clock: &RequestClock,
    idle_timeout: Duration,
    mut stop: Pin<&mut impl FusedFuture<Output = ()>>,
    mut alarm: Pin<&mut Sleep>,
    mut part: impl FnMut(&mut Context<'_>, bool) -> Poll<Option<End>>,
) -> Option<End> {
    poll_fn(|cx| {
        let is_stopping = stop.is_terminated() || stop.as_mut().poll(cx).is_ready();
        if is_stopping && clock.phase() == Phase::Idle {
            return Poll::Ready(Some(End::Closed));
        }
        let done = part(cx, is_stopping);
        if let Some(status) = clock.refused.get() {
            return Poll::Ready(Some(End::Refused(status)));
        }
        if done.is_ready() {
            return done;
        }
        if clock.slot.poll_evicted(cx).is_ready() {
            return Poll::Ready(Some(End::Closed));
        }
        loop {
            // Reset only if it would fire too late: the deadline moves with each request.
            if clock.deadline(idle_timeout) < alarm.deadline() {
                alarm.as_mut().reset(clock.deadline(idle_timeout));
            }
            ready!(alarm.as_mut().poll(cx));
            if clock.deadline(idle_timeout) <= Instant::now() {
                return Poll::Ready(Some(time_out(clock)));
            }
            alarm.as_mut().reset(clock.deadline(idle_timeout));
        }
    })
    .await
}

fn time_out(clock: &RequestClock) -> End {
    match clock.phase() {
        Phase::Idle => End::Idle,
        Phase::Receiving | Phase::Parsing => End::Refused(408),
        Phase::Answering | Phase::Sending | Phase::Finished => {
            clock.slot.count_timeout();
            End::Closed
        }
    }
}

/// Sends the last answer, then reads and drops what the client still sends.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) {
    let lingering = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut dropped = vec![0; MIN_BUFFER];
        while stream.read(&mut dropped).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // The connection is closed in any case.
    let _ = timeout(TIME_TO_LINGER, lingering).await;
}

#[cfg(test)]
mod tests;
