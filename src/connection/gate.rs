//! What hyper reads and writes through: the bytes of one request, and nothing of the next until the answer has been sent.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{LARGEST_HEAD, Phase, RequestClock, head::HeadScanner};

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
    is_at_end: bool,
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
        if self.filled == self.buffer.len() {
            self.buffer.resize((self.filled * 4).clamp(SMALLEST_BUFFER, LARGEST_HEAD), 0);
        }
        let end = self.buffer.len().min(limit.max(self.filled));
        let mut room = ReadBuf::new(self.buffer.get_mut(self.filled..end).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.filled += read;
        Poll::Ready(Ok(read))
    }

    /// Drops bytes from the beginning, and memory that is needed no more.
    fn use_up(&mut self, length: usize) {
        let length = length.min(self.filled);
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
        if self.filled == 0 && self.buffer.len() > 4 * SMALLEST_BUFFER {
            self.buffer = Vec::new();
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

    /// Forgets the head once it was parsed.
    fn drop_parsed_head(&mut self) {
        if self.clock.is_parsed() && self.handed_over > 0 {
            self.received.use_up(self.handed_over);
            self.handed_over = 0;
            self.head = None;
            self.scanner = HeadScanner::default();
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Hands over a head up to its end, as it arrives: hyper refuses early what is no HTTP.
    fn poll_head(&mut self, cx: &mut Context<'_>, room: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.head.is_none() {
                self.head = self.scanner.end_in(self.received.bytes());
            }
            if self.scanner.has_two_lengths() {
                self.clock.refuse(400);
                return Poll::Pending;
            }
            let end = self.head.unwrap_or(self.received.filled);
            if self.handed_over < end {
                let part = self.received.bytes().get(self.handed_over..end).unwrap_or_default();
                let copied = put(part, room);
                self.handed_over += copied;
                // The head stays here as well, for a refusal.
                self.clock.holds_more(copied);
                return Poll::Ready(Ok(()));
            }
            if self.head.is_some() {
                // Should hyper see no end here, the request ends at its deadline.
                return Poll::Pending;
            }
            if end >= LARGEST_HEAD {
                self.clock.refuse(431);
                return Poll::Pending;
            }
            let read = ready!(self.received.poll_fill(&mut self.stream, cx, LARGEST_HEAD))?;
            if read == 0 {
                self.is_at_end = true;
                return Poll::Ready(Ok(()));
            }
            self.clock.received(read);
        }
    }

    /// Hands over the body, as far as its announced length goes. hyper asks for it only while it is wanted.
    fn poll_body(&mut self, cx: &mut Context<'_>, room: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = self.clock.body_left();
        if left == 0 {
            return Poll::Pending;
        }
        if self.received.filled == 0 {
            let read = ready!(self.received.poll_fill(&mut self.stream, cx, left))?;
            self.is_at_end = read == 0;
            self.clock.received(read);
        }
        let part = self.received.bytes();
        let handed_over = put(part.get(..left).unwrap_or(part), room);
        self.received.use_up(handed_over);
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
        this.drop_parsed_head();
        if this.clock.is_parsed() { this.poll_body(cx, &mut room) } else { this.poll_head(cx, &mut room) }
    }
}

impl<S: AsyncWrite + Unpin> Write for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.clock.is_parsed() {
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
        if this.clock.is_parsed() {
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
            this.drop_parsed_head();
            this.clock.answer_sent(this.received.filled);
        }
        Poll::Ready(Ok(()))
    }

    /// The connection closes the socket itself, when it has read what still comes.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
