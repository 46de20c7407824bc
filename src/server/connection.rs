//! A client's connection: how long it may take over a request, and what it is told when it sends none.
//!
//! Actix times only the first head of a connection, refuses what is no request with empty answers, and knows neither
//! limit nor shape of ours. So the bytes pass through here.

use std::{
    cell::Cell,
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

/// How long a client may take to send a request, from its first byte to the last of its body.
pub(crate) const TIME_TO_SEND: Duration = Duration::from_secs(5);

/// How long after its first byte a request must have been answered: more than sending it and three calls to Clerk take.
const TIME_TO_ANSWER: Duration = Duration::from_secs(20);

/// For how long the rest of a body that nobody wants is let run out after the answer: closed before, the answer could
/// be lost on its way with it.
pub(super) const TIME_TO_TAKE_LEAVE: Duration = Duration::from_secs(2);

/// How long a connection is kept between requests. Longer than a load balancer's usual minute, so that the balancer is
/// the one to close it.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Turns an empty answer of this status into one of ours, whole: status line, headers and body.
pub(super) type Shape = Rc<dyn Fn(u16) -> Option<Vec<u8>>>;

/// Where a connection is with its current request. Shared with the request's handlers.
#[derive(Debug, Default)]
pub(crate) struct RequestClock {
    begun_at: Cell<Option<Instant>>,
    head_arrived: Cell<bool>,
}

impl RequestClock {
    /// To be called when the head of a request has been read.
    pub(crate) fn head_arrived(&self) {
        self.head_arrived.set(true);
    }

    /// When the request must have been sent whole.
    pub(crate) fn send_by(&self) -> Instant {
        self.begun_at.get().unwrap_or_else(Instant::now) + TIME_TO_SEND
    }
}

/// A connection with deadlines. It breaks off when one passes, and when the service stops while it is idle.
pub(super) struct Connection<S> {
    stream: S,
    clock: Rc<RequestClock>,
    deadline: Pin<Box<Sleep>>,
    /// Ends when the service stops; none once it has.
    stop: Option<Pin<Box<dyn Future<Output = ()>>>>,
    shape: Shape,
    /// What is still to be written of an answer that replaces Actix's.
    replacement: Option<(Vec<u8>, usize)>,
    answering: bool,
}

impl<S: AsyncWrite + Unpin> Connection<S> {
    /// `stopping` turns true once, when no more requests are to be waited for.
    pub(super) fn new(stream: S, mut stopping: watch::Receiver<bool>, shape: Shape) -> Self {
        let stop = Box::pin(async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        });
        let deadline = Box::pin(sleep_until(Instant::now() + KEEP_ALIVE));
        let clock = Rc::default();
        Self { stream, clock, deadline, stop: Some(stop), shape, replacement: None, answering: false }
    }

    /// Where the connection is with its current request.
    pub(super) fn clock(&self) -> Rc<RequestClock> {
        Rc::clone(&self.clock)
    }

    /// Whether the connection has used up its time. A head that is late is told so.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.deadline.as_mut().poll(cx).is_ready() {
            let answer_by = self.clock.begun_at.get().map(|begun_at| begun_at + TIME_TO_ANSWER);
            match answer_by {
                Some(answer_by) if self.clock.head_arrived.get() && Instant::now() < answer_by => {
                    self.deadline.as_mut().reset(answer_by);
                }
                Some(_) if !self.clock.head_arrived.get() => {
                    if let Some(answer) = (self.shape)(408) {
                        // As much as the socket takes; there is nobody to wait for.
                        let _ = Pin::new(&mut self.stream).poll_write(cx, &answer);
                    }
                    return Poll::Ready(());
                }
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            self.stop = None;
        }
        if self.stop.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn begin_request(&mut self) {
        let now = Instant::now();
        self.clock.begun_at.set(Some(now));
        self.deadline.as_mut().reset(now + TIME_TO_SEND);
    }

    fn end_request(&mut self) {
        self.clock.begun_at.set(None);
        self.clock.head_arrived.set(false);
        self.deadline.as_mut().reset(Instant::now() + KEEP_ALIVE);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && this.clock.begun_at.get().is_none() {
            this.begin_request();
        }
        if this.poll_deadline(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let is_idle = read.is_pending() && this.clock.begun_at.get().is_none();
        if this.poll_stop(cx).is_ready() && is_idle {
            // Not the end of the stream: Actix would wait for the client to close too.
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // "100 Continue" asks for the rest of the request; it ends nothing.
        this.answering |= !bytes.starts_with(b"HTTP/1.1 100 ");
        if this.replacement.is_none() {
            this.replacement = empty_refusal(bytes).and_then(|status| (this.shape)(status)).map(|answer| (answer, 0));
        }
        let Some((answer, written)) = &mut this.replacement else {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        };
        while *written < answer.len() {
            match Pin::new(&mut this.stream).poll_write(cx, &answer[*written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(more)) => *written += more,
                other => return other,
            }
        }
        this.replacement = None;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        if flushed.is_ready() && mem::take(&mut this.answering) {
            this.end_request();
            // The connection is idle now; what it waits for has changed.
            cx.waker().wake_by_ref();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The status of a refusal that Actix writes by itself: one without a body, which no answer of this service is.
fn empty_refusal(bytes: &[u8]) -> Option<u16> {
    let head = str::from_utf8(bytes).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let is_empty = head.lines().any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    (matches!(status, 400 | 408 | 431) && is_empty).then_some(status)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::sleep,
    };

    use super::*;

    fn shape(status: u16) -> Option<Vec<u8>> {
        (status >= 400).then(|| format!("shaped {status}").into_bytes())
    }

    fn connection() -> (DuplexStream, Connection<DuplexStream>, watch::Sender<bool>) {
        let (client, server) = duplex(1024);
        let (stop, stopping) = watch::channel(false);
        (client, Connection::new(server, stopping, Rc::new(shape)), stop)
    }

    async fn answer(connection: &mut Connection<DuplexStream>, text: &[u8]) {
        connection.write_all(text).await.unwrap();
        connection.flush().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_on_a_connection_kept_alive_too_and_is_told_when_it_is_over() {
        let (mut client, mut connection, _stop) = connection();
        let mut buffer = [0; 16];
        for _ in 0..2 {
            client.write_all(b"whole").await.unwrap();
            assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
            connection.clock().head_arrived();
            answer(&mut connection, b"answer").await;
            assert_eq!(client.read(&mut buffer).await.unwrap(), 6);
            sleep(KEEP_ALIVE / 2).await;
        }
        client.write_all(b"half").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 4);
        let begun_at = Instant::now();
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun_at.elapsed().as_secs(), TIME_TO_SEND.as_secs());
        let read = client.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"shaped 408");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_arrived_has_longer_to_be_answered() {
        let (mut client, mut connection, _stop) = connection();
        let mut buffer = [0; 16];
        client.write_all(b"whole").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
        connection.clock().head_arrived();
        let begun_at = Instant::now();
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun_at.elapsed().as_secs(), TIME_TO_ANSWER.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_an_idle_connection_and_lets_a_request_go_on() {
        let (mut client, mut connection, stop) = connection();
        let mut buffer = [0; 16];
        client.write_all(b"first").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
        stop.send(true).unwrap();
        client.write_all(b" half").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
        answer(&mut connection, b"answer").await;
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn to_be_told_to_continue_does_not_end_a_request() {
        let (mut client, mut connection, _stop) = connection();
        let mut buffer = [0; 16];
        client.write_all(b"head").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 4);
        connection.clock().head_arrived();
        let send_by = connection.clock().send_by();
        answer(&mut connection, b"HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(connection.clock().send_by(), send_by);
    }

    #[tokio::test]
    async fn only_an_empty_refusal_is_replaced() {
        for (written, read) in [
            ("HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n", "shaped 431"),
            ("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: x\r\n\r\n", "shaped 400"),
            (
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            ),
            (
                "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            ),
        ] {
            let (mut client, mut connection, _stop) = connection();
            answer(&mut connection, written.as_bytes()).await;
            drop(connection);
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, read);
        }
    }
}
