//! The progress of a connection's current request, and its deadline.

use std::{cell::Cell, future::pending, time::Duration};

use tokio::time::Instant;

use crate::limits::ConnectionSlot;

/// How long a client may take to send a request, from its first byte to the last of its body.
pub(super) const TIME_TO_SEND: Duration = Duration::from_secs(5);

/// The time from a request's first byte to the last byte of its answer: the time to send it, and 20 seconds, which is more
/// than three calls to Clerk take.
const TIME_TO_ANSWER: Duration = Duration::from_secs(25);

/// The size of hyper's buffer for a head before it grows.
const HYPER_INITIAL_BUFFER: usize = 8 * 1024;

/// The state of a connection's current request. Shared with the request's handlers.
#[derive(Debug)]
pub(crate) struct RequestClock {
    phase: Cell<Phase>,
    /// The start of the phase `Idle`, or of the request.
    since: Cell<Instant>,
    pub(super) slot: ConnectionSlot,
    /// How many bytes of the body hyper has not read yet: `usize::MAX` for a body of unknown length.
    body_left: Cell<usize>,
    /// Whether the connection ends with the answer to this request.
    pub(super) is_last: Cell<bool>,
    /// Whether hyper's buffers grew for the request.
    is_large: Cell<bool>,
    /// The status with which the connection refuses what it received.
    pub(super) refused: Cell<Option<u16>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request.
    Idle,
    /// Some bytes of a head have arrived.
    Receiving,
    /// The head is complete, and hyper parses it.
    Parsing,
    /// The head is parsed, and the app works on the request.
    Answering,
    /// The whole answer is there, and is being sent.
    Sending,
    /// The last answer has been sent.
    Finished,
}

impl RequestClock {
    pub(super) fn new(slot: ConnectionSlot) -> Self {
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

    /// When the whole request must have been received.
    pub(crate) fn receive_by(&self) -> Instant {
        self.since.get() + TIME_TO_SEND
    }

    /// Protects the connection from eviction until the answer: the sender of its request is known.
    pub(crate) fn verified(&self) {
        if self.phase() == Phase::Answering {
            self.slot.mark_verified();
        }
    }

    /// Has the connection refuse what it received with this status, and never ends.
    pub(crate) async fn refuse<T>(&self, status: u16) -> T {
        self.refused.set(Some(status));
        pending().await
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether hyper has parsed the head of a request that is not answered yet.
    pub(super) fn is_parsed(&self) -> bool {
        matches!(self.phase(), Phase::Answering | Phase::Sending)
    }

    pub(super) fn begin_request(&self) {
        if self.phase() == Phase::Idle {
            self.phase.set(Phase::Receiving);
            self.since.set(Instant::now());
            self.slot.mark_waiting(self.since.get());
        }
    }

    /// hyper has read this many bytes of the head.
    pub(super) fn head_read(&self, bytes: usize) {
        self.phase.set(Phase::Parsing);
        self.is_large.set(bytes > HYPER_INITIAL_BUFFER);
    }

    /// `body_length` is `None` if the length is unknown.
    pub(super) fn head_parsed(&self, body_length: Option<usize>) {
        self.phase.set(Phase::Answering);
        self.body_left.set(body_length.unwrap_or(usize::MAX));
        self.body_read(0);
    }

    pub(super) fn body_left(&self) -> usize {
        self.body_left.get()
    }

    /// hyper has read this many more bytes of the body.
    pub(super) fn body_read(&self, bytes: usize) {
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

    pub(super) fn answer_complete(&self) {
        if self.phase() == Phase::Answering {
            self.phase.set(Phase::Sending);
            self.slot.mark_waiting(self.since.get());
        }
    }

    pub(super) fn answer_sent(&self) {
        self.phase.set(if self.is_last.get() { Phase::Finished } else { Phase::Idle });
        self.since.set(Instant::now());
        self.slot.mark_idle(self.since.get());
    }

    /// Whether to free hyper's buffers at once: a head arrives slowly, or the last request made them large.
    pub(super) fn wastes_buffers(&self) -> bool {
        match self.phase() {
            Phase::Idle => self.is_large.get(),
            phase => phase == Phase::Receiving,
        }
    }

    pub(super) fn deadline(&self, idle_timeout: Duration) -> Instant {
        self.since.get()
            + match self.phase() {
                Phase::Idle => idle_timeout,
                Phase::Receiving | Phase::Parsing => TIME_TO_SEND,
                Phase::Answering | Phase::Sending | Phase::Finished => TIME_TO_ANSWER,
            }
    }
}
