//! A client's connection: one request at a time, and its answer.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// What has come in.
pub(super) enum Received<'a> {
    /// Not all of the answer yet.
    Part,
    Answer {
        /// When its request was due.
        due: Instant,
        head: Head,
        body: &'a [u8],
    },
    Closed {
        /// Whether a request had no answer yet.
        was_busy: bool,
    },
}

/// The start of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Whether the server closes the connection after this answer.
    pub(super) closes: bool,
    length: usize,
    body_length: usize,
}

pub(super) struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    received: Vec<u8>,
    filled: usize,
    due: Option<Instant>,
}

impl Connection {
    const BUFFER: usize = 16 * 1024;

    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, out: Vec::new(), received: vec![0; Self::BUFFER], filled: 0, due: None })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends one request, which always fits into the socket's buffer.
    pub(super) fn send(&mut self, due: Instant, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        self.out.clear();
        write(&mut self.out);
        self.due = Some(due);
        match self.socket.write_all(&self.out) {
            // Reading tells that the server is gone.
            Err(error) if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind()) => Ok(()),
            outcome => outcome.context("a request cannot be sent"),
        }
    }

    pub(super) fn receive(&mut self) -> Result<Received<'_>> {
        loop {
            let room = self.received.get_mut(self.filled..).unwrap_or_default();
            if room.is_empty() {
                bail!("an answer is longer than {} bytes", Self::BUFFER);
            }
            match self.socket.read(room) {
                Ok(0) => return Ok(Received::Closed { was_busy: self.due.is_some() }),
                Ok(read) => {
                    self.filled += read;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Part),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Received::Closed { was_busy: self.due.is_some() }),
            }
        }
        let received = self.received.get(..self.filled).unwrap_or_default();
        let Some(head) = head(received)? else { return Ok(Received::Part) };
        let end = head.length + head.body_length;
        if self.filled < end {
            return Ok(Received::Part);
        }
        let due = self.due.context("an answer came without a request")?;
        let body = received.get(head.length..end).unwrap_or_default();
        Ok(Received::Answer { due, head, body })
    }

    /// Makes room for the next answer.
    pub(super) fn ready(&mut self) {
        self.filled = 0;
        self.due = None;
    }
}

/// The head of an answer, if all of it is there.
fn head(received: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(received)? else { return Ok(None) };
    let status = response.code.context("an answer has no status")?;
    let mut body_length = None;
    let mut closes = false;
    for header in response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            body_length = std::str::from_utf8(header.value)?.parse().ok();
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some(Head { status, closes, length, body_length: body_length.context("an answer has no length")? }))
}
