//! A client's connection: HTTP/1.1 by hyper, one request at a time, in front of an Actix app.
//!
//! Not Actix's own HTTP/1 dispatcher: it reads ahead and parses as much as a client sends, and no deadline ends a connection
//! whose client does not read. Here every request is answered, and the answer sent, within 25 seconds of its first byte, or
//! the connection is closed; a connection holds the bytes of one head or of what a handler reads of one body.

mod app;
mod gate;
mod head;

use std::{
    cell::Cell,
    fmt,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::HttpMessage;
use hyper::server::conn::http1;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, Sleep, sleep_until, timeout},
};

use self::{
    app::{App, AppService},
    gate::{Gate, Head, SMALLEST_BUFFER},
};
use crate::limits::ConnectionSlot;

pub(crate) use self::head::field;

/// How long a client may take to send a request, from its first byte to the last of its body.
pub(crate) const TIME_TO_SEND: Duration = Duration::from_secs(5);

/// How long after its first byte a request must have been answered and its answer sent: the time to send it, and 20 seconds,
/// which is more than three calls to Clerk take.
const TIME_TO_ANSWER: Duration = Duration::from_secs(25);

/// How long what still comes is read and dropped after the last answer. A connection closed before that is reset, and the
/// client may lose the answer.
const TIME_TO_LINGER: Duration = Duration::from_secs(2);

/// How long a connection is kept between requests. Longer than a load balancer's usual minute, so that the balancer is
/// the one to close it.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// After how long without a request hyper's buffers are given back.
const TIME_TO_REST: Duration = Duration::from_secs(1);

/// The most bytes of request line and fields.
pub(crate) const LARGEST_HEAD: usize = 16 * 1024;

/// How many bytes hyper's buffer for a head has at first.
const HYPERS_FIRST_BUFFER: usize = 8 * 1024;

/// The most fields of a head.
const MOST_FIELDS: usize = 96;

/// What the connections of a listener have in common.
pub(crate) struct Listener<A> {
    /// The routes.
    pub(crate) app: A,
    /// Answers what never became a request.
    pub(crate) refuse: Box<Refuse>,
    /// Turns true once, when the service stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Makes the answer to bytes that never became a request, whole, with status line and headers. It is given the status, what
/// was received of the head, and the peer.
type Refuse = dyn Fn(u16, &[u8], Option<IpAddr>) -> Vec<u8>;

impl<A> fmt::Debug for Listener<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// Where a connection is with its current request. Shared with the request's handlers.
#[derive(Debug)]
pub(crate) struct RequestClock {
    phase: Cell<Phase>,
    /// When the phase `Idle` began, or the request.
    since: Cell<Instant>,
    slot: ConnectionSlot,
    /// How many bytes of the request's body have not been handed over. All that come, for a body without announced length.
    body_left: Cell<usize>,
    is_last: Cell<bool>,
    /// Whether the request has made hyper's buffer grow.
    is_large: Cell<bool>,
    refused: Cell<Option<u16>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for a request.
    Idle,
    /// Has bytes of a head.
    Receiving,
    /// Has a head, which hyper parses.
    Parsing,
    /// Has parsed the head. The app works on the request.
    Answering,
    /// Has the whole answer, and sends it.
    Sending,
    /// Has sent its last answer.
    Finished,
}

impl RequestClock {
    fn new(slot: ConnectionSlot) -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(Instant::now()),
            slot,
            body_left: Cell::default(),
            is_last: Cell::default(),
            is_large: Cell::default(),
            refused: Cell::default(),
        }
    }

    /// When a request must have been received whole.
    pub(crate) fn receive_by(request: &impl HttpMessage) -> Instant {
        Self::of(request).map_or_else(Instant::now, |clock| clock.since.get()) + TIME_TO_SEND
    }

    /// To be called when the sender of a request is known: its connection does not give way to others until the answer.
    pub(crate) fn verified(request: &impl HttpMessage) {
        if let Some(clock) = Self::of(request).filter(|clock| clock.phase() == Phase::Answering) {
            clock.slot.mark_verified();
        }
    }

    fn of(request: &impl HttpMessage) -> Option<Rc<Self>> {
        request.extensions().get::<Rc<Self>>().cloned()
    }

    fn phase(&self) -> Phase {
        self.phase.get()
    }

    fn is_parsed(&self) -> bool {
        matches!(self.phase(), Phase::Answering | Phase::Sending)
    }

    fn begin_request(&self) {
        if self.phase() == Phase::Idle {
            self.phase.set(Phase::Receiving);
            self.since.set(Instant::now());
            self.slot.mark_waiting(self.since.get());
        }
    }

    /// hyper has so many bytes of the head.
    fn head_handed_over(&self, bytes: usize) {
        self.phase.set(Phase::Parsing);
        self.is_large.set(bytes > HYPERS_FIRST_BUFFER);
    }

    /// Counts memory that the connection takes for an unverified request.
    fn holds_more(&self, bytes: usize) {
        self.slot.holds_more(bytes);
    }

    fn refuse(&self, status: u16) {
        self.refused.set(Some(status));
    }

    /// `body` is its length; `None` if the body tells its end itself.
    fn head_parsed(&self, body: Option<usize>) {
        self.phase.set(Phase::Answering);
        self.body_left.set(body.unwrap_or(usize::MAX));
        self.body_handed_over(0);
    }

    fn body_left(&self) -> usize {
        self.body_left.get()
    }

    fn body_handed_over(&self, bytes: usize) {
        if self.body_left() != usize::MAX {
            self.body_left.set(self.body_left().saturating_sub(bytes));
        }
        if bytes > 0 {
            self.is_large.set(true);
        }
        if self.body_left() == 0 {
            self.slot.mark_received(self.since.get());
        }
    }

    /// The connection ends with the answer to this request.
    fn request_is_last(&self) {
        self.is_last.set(true);
    }

    fn answer_complete(&self) {
        if self.phase() == Phase::Answering {
            self.phase.set(Phase::Sending);
            self.slot.mark_waiting(self.since.get());
        }
    }

    fn answer_sent(&self) {
        self.phase.set(if self.is_last.get() { Phase::Finished } else { Phase::Idle });
        self.since.set(Instant::now());
        self.slot.mark_idle(self.since.get());
    }

    /// Whether hyper's buffers are given back at once: a head trickles in, or the last request made them large.
    fn is_to_rest(&self) -> bool {
        match self.phase() {
            Phase::Idle => self.is_large.get(),
            phase => phase == Phase::Receiving,
        }
    }

    /// `idle` is how long a connection may be idle.
    fn deadline(&self, idle: Duration) -> Instant {
        self.since.get()
            + match self.phase() {
                Phase::Idle => idle,
                Phase::Receiving | Phase::Parsing => TIME_TO_SEND,
                Phase::Answering | Phase::Sending | Phase::Finished => TIME_TO_ANSWER,
            }
    }
}

/// How a connection ends, or a part of its time.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With its last answer, or as the client closed it.
    Served,
    /// With a refusal of what could not be parsed, or did not arrive in time.
    Refused(u16),
    /// It has been idle for as long as it may.
    Idle,
    /// At once: it broke, took too long, had to give way, or the service stops.
    Closed,
}

/// Serves a connection to its end.
pub(crate) async fn serve<S, A>(stream: S, peer: Option<SocketAddr>, slot: ConnectionSlot, listener: Rc<Listener<A>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: App,
{
    let clock = Rc::new(RequestClock::new(slot));
    let mut gate = Gate::new(stream, Rc::clone(&clock));
    let answer = match serve_requests(&mut gate, &clock, peer, &listener).await {
        End::Refused(status) => (listener.refuse)(status, gate.unparsed(), peer.map(|peer| peer.ip())),
        End::Served if !gate.is_at_end() => Vec::new(),
        End::Served | End::Idle | End::Closed => return,
    };
    clock.answer_sent();
    tokio::select! {
        () = take_leave(gate.stream(), &answer) => {}
        () = poll_fn(|cx| clock.slot.poll_evicted(cx)) => {}
    }
}

/// Waits for a head, has hyper serve it and what follows without a pause, and so on. Where nothing follows, hyper's buffers are
/// given back: a slow or idle connection costs little memory.
async fn serve_requests<S, A>(
    gate: &mut Gate<S>,
    clock: &Rc<RequestClock>,
    peer: Option<SocketAddr>,
    listener: &Rc<Listener<A>>,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: App,
{
    let mut stopping = listener.stopping.clone();
    // An error means that the sender is gone, which is a stop too.
    let mut stop = pin!(async move { drop(stopping.wait_for(|stopping| *stopping).await) });
    let mut is_stopping = false;
    let mut alarm = pin!(sleep_until(clock.deadline(KEEP_ALIVE)));
    loop {
        let head = within_bounds(clock, KEEP_ALIVE, stop.as_mut(), &mut is_stopping, alarm.as_mut(), |cx, _| {
            gate.poll_head(cx).map(|head| match head {
                Ok(Head::Whole) => None,
                Ok(Head::AtEnd) => Some(End::Served),
                Err(_) => Some(End::Closed),
            })
        });
        if let Some(end) = head.await {
            return end;
        }
        let service = AppService { listener: Rc::clone(listener), clock: Rc::clone(clock), peer };
        let mut http = http1::Builder::new()
            .half_close(true)
            .keep_alive(!is_stopping)
            .header_read_timeout(None)
            .max_headers(MOST_FIELDS)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(&mut *gate, service);
        let served =
            within_bounds(clock, TIME_TO_REST, stop.as_mut(), &mut is_stopping, alarm.as_mut(), |cx, is_stopping| {
                // Before a request, hyper would close the connection.
                if is_stopping && clock.is_parsed() {
                    Pin::new(&mut http).graceful_shutdown();
                }
                match Pin::new(&mut http).poll(cx) {
                    Poll::Ready(Ok(())) => Poll::Ready(Some(End::Served)),
                    Poll::Ready(Err(error)) if error.is_parse_too_large() => Poll::Ready(Some(End::Refused(431))),
                    Poll::Ready(Err(error)) if error.is_parse() => Poll::Ready(Some(End::Refused(400))),
                    Poll::Ready(Err(_)) => Poll::Ready(Some(End::Closed)),
                    Poll::Pending if clock.is_to_rest() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
        match served.await {
            None | Some(End::Idle) => {}
            Some(end) => return end,
        }
    }
}

/// Polls `part` until it is ready or the connection has to end.
async fn within_bounds(
    clock: &RequestClock,
    idle: Duration,
    mut stop: Pin<&mut impl Future<Output = ()>>,
    is_stopping: &mut bool,
    mut alarm: Pin<&mut Sleep>,
    mut part: impl FnMut(&mut Context<'_>, bool) -> Poll<Option<End>>,
) -> Option<End> {
    poll_fn(|cx| {
        if !*is_stopping {
            *is_stopping = stop.as_mut().poll(cx).is_ready();
        }
        if *is_stopping && clock.phase() == Phase::Idle {
            return Poll::Ready(Some(End::Closed));
        }
        let done = part(cx, *is_stopping);
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
            // Set anew only where it would ring too late: a deadline moves with each request.
            if clock.deadline(idle) < alarm.deadline() {
                alarm.as_mut().reset(clock.deadline(idle));
            }
            ready!(alarm.as_mut().poll(cx));
            if clock.deadline(idle) <= Instant::now() {
                return Poll::Ready(Some(time_out(clock)));
            }
            alarm.as_mut().reset(clock.deadline(idle));
        }
    })
    .await
}

fn time_out(clock: &RequestClock) -> End {
    match clock.phase() {
        Phase::Idle => End::Idle,
        Phase::Receiving | Phase::Parsing => End::Refused(408),
        Phase::Answering | Phase::Sending | Phase::Finished => {
            clock.slot.mark_timed_out();
            End::Closed
        }
    }
}

/// Sends the last answer, and reads and drops what the client still sends.
async fn take_leave<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) {
    let leaving = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut dropped = vec![0; SMALLEST_BUFFER];
        while stream.read(&mut dropped).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whatever comes of it, the connection is closed.
    let _ = timeout(TIME_TO_LINGER, leaving).await;
}

#[cfg(test)]
mod tests;
