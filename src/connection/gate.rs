//! What hyper reads and writes through: the bytes of one request, and nothing of the next until the answer has been sent.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{LARGEST_HEAD, MOST_FIELDS, Phase, RequestClock, head::HeadScanner};

/// How much room a connection has for what it receives, until a head needs more.
pub(super) const SMALLEST_BUFFER: usize = 2 * 1024;

/// A socket that gives a request at a time.
pub(super) struct Gate<S> {
    stream: S,
    clock: Rc<RequestClock>,
    received: Received,
    scanner: HeadScanner,
    /// The length of the head at the beginning of `received`, once it is whole.
    head: Option<usize>,
    /// How many bytes of the head hyper has.
    handed_over: usize,
    /// Up to where a head that is not whole has been checked.
    checked: Option<usize>,
    is_at_end: bool,
}

/// What there is of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A head, to be handed over.
    Whole,
    /// Nothing: the client has sent all that it is going to send.
    AtEnd,
}

/// Bytes that were received and not yet used up.
#[derive(Default)]
struct Received {
    buffer: Vec<u8>,
    filled: usize,
}

impl Received {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// Reads as much as is there, at most up to a length of `limit`, and says how much that was.
    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let end = self.buffer.len().min(limit.max(self.filled));
        let mut room = ReadBuf::new(self.buffer.get_mut(self.filled..end).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.filled += read;
        Poll::Ready(Ok(read))
    }

    /// Makes room where there is none, and says how much.
    fn grow(&mut self) -> usize {
        let before = self.buffer.len();
        if self.filled == before {
            self.buffer.resize((before * 4).clamp(SMALLEST_BUFFER, LARGEST_HEAD), 0);
        }
        self.buffer.len() - before
    }

    /// Drops bytes from the beginning, and memory that is not needed any more.
    fn use_up(&mut self, length: usize) {
        let length = length.min(self.filled);
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
        if self.filled == 0 && self.buffer.len() > SMALLEST_BUFFER {
            self.buffer = Vec::new();
        }
    }

    /// Empty lines before a request line do not count (RFC 9112 section 2.2).
    fn use_up_empty_lines(&mut self) {
        while let [b'\n', ..] | [b'\r', b'\n', ..] = self.bytes() {
            let length = if self.bytes().starts_with(b"\n") { 1 } else { 2 };
            self.use_up(length);
        }
    }
}

impl<S> Gate<S> {
    pub(super) fn new(stream: S, clock: Rc<RequestClock>) -> Self {
        Self {
            stream,
            clock,
            received: Received::default(),
            scanner: HeadScanner::default(),
            head: None,
            handed_over: 0,
            checked: None,
            is_at_end: false,
        }
    }

    /// The socket.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// What was received of a request whose head has not been parsed.
    pub(super) fn unparsed(&self) -> &[u8] {
        self.received.bytes()
    }

    /// Whether the client has sent all that it is going to send.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Whether hyper has parsed the head, which is not needed any more then.
    fn is_parsed(&mut self) -> bool {
        let is_parsed = self.clock.is_parsed();
        if is_parsed && self.handed_over > 0 {
            self.received.use_up(self.handed_over);
            self.handed_over = 0;
            self.head = None;
            self.checked = None;
            self.scanner = HeadScanner::default();
        }
        is_parsed
    }

    /// Why the bytes of the head cannot become a request: the status of the refusal.
    fn refusal(&mut self) -> Option<u16> {
        if self.scanner.is_ambiguous() {
            return Some(400);
        }
        // hyper parses what is whole. Before, a first look and one at each new line find what never becomes whole.
        if self.head.is_some() || self.checked.replace(self.scanner.whole_lines()) == Some(self.scanner.whole_lines()) {
            return None;
        }
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        match httparse::Request::new(&mut fields).parse(self.received.bytes()) {
            Ok(_) => None,
            Err(httparse::Error::TooManyHeaders) => Some(431),
            Err(_) => Some(400),
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Receives until there is a whole head, or the client has ended.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Head>> {
        loop {
            if self.head.is_some() {
                return Poll::Ready(Ok(Head::Whole));
            }
            if self.clock.phase() == Phase::Idle {
                self.received.use_up_empty_lines();
            }
            if !matches!(self.received.bytes(), [] | [b'\r']) {
                self.clock.begin_request();
                self.head = self.scanner.end_in(self.received.bytes());
                let refusal = self.refusal();
                let is_too_large = self.head.is_none() && self.received.filled >= LARGEST_HEAD;
                if let Some(status) = refusal.or(is_too_large.then_some(431)) {
                    self.clock.refuse(status);
                    return Poll::Pending;
                }
                if self.head.is_some() {
                    continue;
                }
            }
            let grown = self.received.grow();
            self.clock.holds_more(grown);
            if ready!(self.received.poll_fill(&mut self.stream, cx, LARGEST_HEAD))? == 0 {
                self.is_at_end = true;
                return Poll::Ready(Ok(Head::AtEnd));
            }
        }
    }

    fn hand_over_head(&mut self, room: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = self.received.bytes().get(self.handed_over..self.head.unwrap_or_default()).unwrap_or_default();
        if left.is_empty() {
            // hyper sees no end where the scanner did, and waits for more.
            self.clock.refuse(400);
            return Poll::Pending;
        }
        let copied = put(left, room);
        self.handed_over += copied;
        self.clock.head_handed_over(self.handed_over);
        // The head stays here as well, for a refusal.
        self.clock.holds_more(copied);
        Poll::Ready(Ok(()))
    }

    /// Hands over the body, as far as its announced length goes.
    fn poll_body(&mut self, cx: &mut Context<'_>, room: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = self.clock.body_left();
        if left == 0 {
            return Poll::Pending;
        }
        if self.received.filled == 0 {
            self.received.grow();
            let read = ready!(self.received.poll_fill(&mut self.stream, cx, left))?;
            self.is_at_end = read == 0;
        }
        let part = self.received.bytes();
        let handed_over = put(part.get(..left).unwrap_or(part), room);
        self.received.use_up(handed_over);
        // A handler's buffer doubles as it grows.
        self.clock.holds_more(2 * handed_over);
        self.clock.body_handed_over(handed_over);
        Poll::Ready(Ok(()))
    }
}

/// Puts as much as there is room for.
fn put(bytes: &[u8], room: &mut ReadBufCursor<'_>) -> usize {
    let part = bytes.get(..room.remaining()).unwrap_or(bytes);
    room.put_slice(part);
    part.len()
}

impl<S: AsyncRead + Unpin> Read for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut room: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_parsed() {
            return this.poll_body(cx, &mut room);
        }
        // What comes after the last answer is not a request.
        if this.clock.phase() == Phase::Finished {
            return Poll::Ready(Ok(()));
        }
        match ready!(this.poll_head(cx))? {
            Head::Whole => this.hand_over_head(&mut room),
            Head::AtEnd => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_parsed() {
            Pin::new(&mut this.stream).poll_write(cx, bytes)
        } else {
            // hyper answers by itself, without a body, what it cannot parse. The connection answers in its place.
            Poll::Ready(Ok(bytes.len()))
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_parsed() {
            Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
        } else {
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if this.clock.phase() == Phase::Sending {
            this.is_parsed();
            this.clock.answer_sent();
        }
        Poll::Ready(Ok(()))
    }

    /// The connection closes the socket itself, when it has read what still comes.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
