//! What hyper reads and writes: the bytes of one request at a time. The next request waits until the answer is sent.

use std::{
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::{
    head::{HeadParser, MAX_HEAD_BYTES},
    request_clock::{Phase, RequestClock},
};

/// The size of the buffer for received bytes, until a head needs more.
pub(super) const MIN_BUFFER: usize = 2 * 1024;

/// A socket that lets one request through at a time.
pub(super) struct Gate<S> {
    stream: S,
    clock: Rc<RequestClock>,
    received: Received,
    parser: HeadParser,
    /// The length of the head at the beginning of `received`, once it is complete.
    head: Option<usize>,
    /// How many bytes of the head hyper has read.
    head_read: usize,
    is_at_eof: bool,
}

/// The state of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Complete,
    /// The client sends nothing more.
    Eof,
}

/// Received bytes that are not consumed yet.
#[derive(Default)]
struct Received(Vec<u8>);

impl Received {
    /// Reads available bytes until it holds `max` bytes or the buffer is full. Returns how many it read.
    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let room = max.min(self.0.capacity()).saturating_sub(self.0.len());
        pin!(stream.take(room as u64).read_buf(&mut self.0)).poll(cx)
    }

    /// Enlarges a full buffer. Returns by how much.
    fn grow(&mut self) -> usize {
        let before = self.0.capacity();
        if self.0.len() == before {
            self.0.reserve_exact((before * 4).clamp(MIN_BUFFER, MAX_HEAD_BYTES).saturating_sub(before));
        }
        self.0.capacity() - before
    }

    /// Drops bytes from the beginning, and a large buffer once it is empty.
    fn consume(&mut self, length: usize) {
        self.0.drain(..length.min(self.0.len()));
        if self.0.is_empty() && self.0.capacity() > MIN_BUFFER {
            self.0 = Vec::new();
        }
    }

    /// Empty lines before a request line do not count (RFC 9112 section 2.2).
    fn skip_empty_lines(&mut self) {
        while let [b'\n', ..] | [b'\r', b'\n', ..] = self.0[..] {
            self.consume(if self.0.starts_with(b"\n") { 1 } else { 2 });
        }
    }
}

impl<S> Gate<S> {
    pub(super) fn new(stream: S, clock: Rc<RequestClock>) -> Self {
        Self {
            stream,
            clock,
            received: Received::default(),
            parser: HeadParser::default(),
            head: None,
            head_read: 0,
            is_at_eof: false,
        }
    }

    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The received bytes of a request whose head is not parsed.
    pub(super) fn unparsed(&self) -> &[u8] {
        &self.received.0
    }

    /// Whether the client sends nothing more.
    pub(super) fn is_at_eof(&self) -> bool {
        self.is_at_eof
    }

    /// Drops the head once hyper has parsed it.
    fn drop_parsed_head(&mut self) {
        if self.clock.is_parsed() && self.head_read > 0 {
            self.received.consume(self.head_read);
            self.head_read = 0;
            self.head = None;
            self.parser = HeadParser::default();
        }
    }

    /// The socket for an answer of the app. `None` before: then hyper answers what it cannot parse, and the connection sends
    /// its own refusal instead.
    fn answer_stream(&mut self) -> Option<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.drop_parsed_head();
        self.clock.is_parsed().then(|| Pin::new(&mut self.stream))
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Receives until the head is complete or the client ends.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Head>> {
        loop {
            if self.head.is_some() {
                return Poll::Ready(Ok(Head::Complete));
            }
            if self.clock.phase() == Phase::Idle {
                self.received.skip_empty_lines();
            }
            if !matches!(self.received.0[..], [] | [b'\r']) {
                self.clock.begin_request();
                match self.parser.end_in(&self.received.0) {
                    Ok(None) if self.received.0.len() < MAX_HEAD_BYTES => {}
                    Ok(Some(end)) => {
                        self.head = Some(end);
                        continue;
                    }
                    refusal => {
                        self.clock.refused.set(Some(refusal.err().unwrap_or(431)));
                        return Poll::Pending;
                    }
                }
            }
            let grown = self.received.grow();
            self.clock.slot.add_unverified_bytes(grown);
            if ready!(self.received.poll_fill(&mut self.stream, cx, MAX_HEAD_BYTES))? == 0 {
                self.is_at_eof = true;
                return Poll::Ready(Ok(Head::Eof));
            }
        }
    }

    fn read_head(&mut self, room: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = self.received.0.get(self.head_read..self.head.unwrap_or_default()).unwrap_or_default();
        if left.is_empty() {
            // hyper waits for more of a head that is complete.
            self.clock.refused.set(Some(400));
            return Poll::Pending;
        }
        let copied = copy(left, room);
        self.head_read += copied;
        self.clock.head_read(self.head_read);
        // The gate keeps the head too, for a refusal.
        self.clock.slot.add_unverified_bytes(copied);
        Poll::Ready(Ok(()))
    }

    /// Reads the body up to its announced length.
    fn poll_body(&mut self, cx: &mut Context<'_>, room: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = self.clock.body_left();
        if left == 0 {
            return Poll::Pending;
        }
        if self.received.0.is_empty() {
            self.received.grow();
            let read = ready!(self.received.poll_fill(&mut self.stream, cx, left))?;
            self.is_at_eof = read == 0;
        }
        let part = &self.received.0[..];
        let copied = copy(part.get(..left).unwrap_or(part), room);
        self.received.consume(copied);
        // A handler's buffer doubles as it grows.
        self.clock.slot.add_unverified_bytes(2 * copied);
        self.clock.body_read(copied);
        Poll::Ready(Ok(()))
    }
}

/// Copies as much as there is room for. Returns how much.
fn copy(bytes: &[u8], room: &mut ReadBufCursor<'_>) -> usize {
    let part = bytes.get(..room.remaining()).unwrap_or(bytes);
    room.put_slice(part);
    part.len()
}

impl<S: AsyncRead + Unpin> Read for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut room: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.drop_parsed_head();
        if this.clock.is_parsed() {
            return this.poll_body(cx, &mut room);
        }
        // Bytes after the last answer are not a request.
        if this.clock.phase() == Phase::Finished {
            return Poll::Ready(Ok(()));
        }
        match ready!(this.poll_head(cx))? {
            Head::Complete => this.read_head(&mut room),
            Head::Eof => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut().answer_stream() {
            Some(stream) => stream.poll_write(cx, bytes),
            None => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut().answer_stream() {
            Some(stream) => stream.poll_write_vectored(cx, slices),
            None => Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum())),
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
            this.clock.answer_sent();
        }
        Poll::Ready(Ok(()))
    }

    /// The connection closes the socket itself, after it has read what the client still sends.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
