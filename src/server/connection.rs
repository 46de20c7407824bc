//! A client's connection with a limit on the time from the first byte of a request to its answer.
//!
//! Actix times only the first request of a connection. On one that is kept alive, a client could send half a request and
//! then nothing for ever.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Sleep, sleep},
};

/// More than sending a request may take (5 s) and answering it (three calls to Clerk of 2 s) together.
const TIME_TO_ANSWER: Duration = Duration::from_secs(20);

/// A connection that breaks off when a request is not answered in time, and when the service stops while it is idle.
pub(super) struct Connection<S> {
    stream: S,
    /// Set from the first byte of a request until its answer is on its way whole.
    answer_by: Option<Pin<Box<Sleep>>>,
    answering: bool,
    /// Ends when the service stops; none once it has.
    stop: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<S> Connection<S> {
    /// `stopping` turns true once, when no more requests are to be waited for.
    pub(super) fn new(stream: S, mut stopping: watch::Receiver<bool>) -> Self {
        let stop = Box::pin(async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        });
        Self { stream, answer_by: None, answering: false, stop: Some(stop) }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.answer_by.as_mut().map_or(Poll::Pending, |deadline| deadline.as_mut().poll(cx))
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            self.stop = None;
        }
        if self.stop.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.poll_deadline(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && this.answer_by.is_none() {
            this.answer_by = Some(Box::pin(sleep(TIME_TO_ANSWER)));
            // Makes the deadline wake this task.
            let _ = this.poll_deadline(cx);
        }
        let stopped = this.poll_stop(cx).is_ready();
        if stopped && read.is_pending() && this.answer_by.is_none() {
            // Not the end of the stream: Actix would wait for the client to close too.
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answering = true;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        if flushed.is_ready() && mem::take(&mut this.answering) {
            this.answer_by = None;
            if this.stop.is_none() {
                // The connection is idle now, and nobody would look again.
                cx.waker().wake_by_ref();
            }
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn connection() -> (DuplexStream, Connection<DuplexStream>, watch::Sender<bool>) {
        let (client, server) = duplex(1024);
        let (stop, stopping) = watch::channel(false);
        (client, Connection::new(server, stopping), stop)
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_waited_for_only_so_long_also_on_a_connection_kept_alive() {
        let (mut client, mut connection, _stop) = connection();
        let mut buffer = [0; 8];
        for _ in 0..2 {
            client.write_all(b"whole").await.unwrap();
            assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
            connection.write_all(b"answer").await.unwrap();
            connection.flush().await.unwrap();
            sleep(2 * TIME_TO_ANSWER).await;
        }
        client.write_all(b"half").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 4);
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_an_idle_connection_and_lets_a_request_go_on() {
        let (mut client, mut connection, stop) = connection();
        let mut buffer = [0; 8];
        client.write_all(b"first").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
        stop.send(true).unwrap();
        client.write_all(b" half").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 5);
        connection.write_all(b"answer").await.unwrap();
        connection.flush().await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
