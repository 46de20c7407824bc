//! The load: one thread that sends prepared requests over many connections and times the answers.
//!
//! [`Pace::Closed`] sends the next request as soon as an answer is there. [`Pace::Open`] sends at a fixed rate, whether or not
//! the server keeps up, and counts a latency from the time at which the request was due: a server that stalls cannot hide the
//! requests that it delayed.

mod answer;
mod connection;
mod requests;

use std::{
    mem::MaybeUninit,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use rustix::{
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    fd::OwnedFd,
    thread::sched_yield,
    time::Timespec,
};

use connection::Connection;

pub(crate) use answer::Expected;
pub(crate) use requests::{ORIGIN, Order, Requests};

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as the connection is free.
    Closed,
    /// So many a second.
    Open(f64),
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    After(Duration),
    AfterRequests(usize),
}

/// What a load measured.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) answers: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Answers that were not as expected, and lost connections.
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
}

impl Slice {
    pub(crate) fn new() -> Result<Self> {
        // 1 us to 120 s, with three digits.
        let latencies = Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?;
        Ok(Self { answers: 0, elapsed: Duration::ZERO, latencies, failures: 0, first_failure: None })
    }

    pub(crate) fn rate(&self) -> f64 {
        to_f64(self.answers) / self.elapsed.as_secs_f64()
    }

    /// The latency that this part of the requests does not exceed, in microseconds.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        to_f64(self.latencies.value_at_quantile(quantile)) / 1000.0
    }

    /// This slice, if all answers were as expected.
    pub(crate) fn without_failures(self) -> Result<Self> {
        match &self.first_failure {
            Some(failure) => bail!("{} of {} answers are wrong; the first: {failure}", self.failures, self.answers),
            None if self.answers == 0 => bail!("no answer in {:?}", self.elapsed),
            None => Ok(self),
        }
    }

    /// Adds what another slice of the same load measured.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.answers += other.answers;
        self.elapsed += other.elapsed;
        self.failures += other.failures;
        self.latencies.add(&other.latencies)?;
        Ok(())
    }

    fn record(&mut self, latency: Duration) {
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn fail(&mut self, failure: String) {
        self.failures += 1;
        self.first_failure.get_or_insert(failure);
    }
}

/// Rounded beyond 2^53, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds here are far below 2^53")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Open connections to one server, and the position in its requests.
pub(crate) struct Load<'a> {
    requests: &'a Requests,
    expected: Expected,
    address: SocketAddr,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    next: usize,
    /// The next answer is checked whole.
    check_whole: bool,
}

impl<'a> Load<'a> {
    /// Opens the connections.
    pub(crate) fn open(
        address: SocketAddr,
        connections: usize,
        requests: &'a Requests,
        expected: Expected,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut load = Self {
            requests,
            expected,
            address,
            epoll,
            connections: Vec::new(),
            idle: Vec::new(),
            next: 0,
            check_whole: true,
        };
        for position in 0..connections {
            let connection = load.connect(position)?;
            load.connections.push(connection);
            load.idle.push(position);
        }
        Ok(load)
    }

    /// Begins with another request.
    pub(crate) fn skip_to(&mut self, position: usize) {
        self.next = position;
    }

    fn connect(&self, position: usize) -> Result<Connection> {
        let connection = Connection::open(self.address)?;
        let data = EventData::new_u64(u64::try_from(position)?);
        epoll::add(&self.epoll, connection.socket(), data, EventFlags::IN | EventFlags::RDHUP)?;
        Ok(connection)
    }

    /// Sends requests until the end, and waits for their answers. Ends early if the requests run out.
    pub(crate) fn run(&mut self, pace: Pace, end: End) -> Result<Slice> {
        let mut run = Run::begin(pace, end)?;
        loop {
            match self.step(&mut run)? {
                Progress::Received => {}
                // Redis and the stand-ins may share this core.
                Progress::Quiet => sched_yield(),
                Progress::Over => return Ok(self.finish(run)),
            }
        }
    }

    /// Sends requests as [`Load::run`] does, while `other` sends its own. Returns what both measured. Requests of `other`
    /// may still have no answer.
    pub(crate) fn run_beside(
        &mut self,
        pace: Pace,
        duration: Duration,
        other: &mut Load<'_>,
        other_pace: Pace,
    ) -> Result<(Slice, Slice)> {
        let end = End::After(duration);
        let mut run = Run::begin(pace, end)?;
        let mut other_run = Run::begin(other_pace, end)?;
        loop {
            let progress = self.step(&mut run)?;
            if progress == Progress::Over {
                return Ok((self.finish(run), other.finish(other_run)));
            }
            if [progress, other.step(&mut other_run)?] == [Progress::Quiet; 2] {
                sched_yield();
            }
        }
    }

    /// Sends what is due, and receives what is there. Never sleeps: waking this thread costs a server, and a slow
    /// server would pay that more often.
    fn step(&mut self, run: &mut Run) -> Result<Progress> {
        const LONGEST_WAIT: Duration = Duration::from_secs(30);
        let now = Instant::now();
        let is_complete = match run.end {
            End::After(duration) => now >= run.start + duration,
            End::AfterRequests(requests) => run.sent >= requests,
        };
        if is_complete || !self.requests.has(self.next) {
            if self.idle.len() == self.connections.len() {
                return Ok(Progress::Over);
            }
            if now > run.start + LONGEST_WAIT {
                bail!("{} requests have no answer", self.connections.len() - self.idle.len());
            }
        } else {
            self.send_due(run)?;
        }
        let mut events = [MaybeUninit::<Event>::uninit(); 64];
        let (ready, _) = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default()))?;
        let progress = if ready.is_empty() { Progress::Quiet } else { Progress::Received };
        for event in ready {
            self.receive(usize::try_from(event.data.u64())?, &mut run.slice)?;
        }
        Ok(progress)
    }

    fn finish(&self, mut run: Run) -> Slice {
        run.slice.elapsed = run.start.elapsed();
        if let (Pace::Open(rate), End::After(duration)) = (run.pace, run.end) {
            self.count_unsent(rate, duration, &mut run);
        }
        run.slice
    }

    /// Sends what is due on idle connections.
    fn send_due(&mut self, run: &mut Run) -> Result<()> {
        while self.requests.has(self.next) && !matches!(run.end, End::AfterRequests(requests) if run.sent >= requests) {
            let now = Instant::now();
            let due = match run.pace {
                Pace::Closed => now,
                Pace::Open(rate) => due(run.start, run.sent, rate),
            };
            if due > now {
                break;
            }
            let Some(position) = self.idle.pop() else { break };
            if let Some(connection) = self.connections.get_mut(position) {
                connection.send(due, |out| self.requests.write(self.next, out))?;
            }
            self.next += 1;
            run.sent += 1;
        }
        Ok(())
    }

    fn receive(&mut self, position: usize, slice: &mut Slice) -> Result<()> {
        let Some(connection) = self.connections.get_mut(position) else { return Ok(()) };
        match connection.receive()? {
            connection::Received::Part => {}
            connection::Received::Answer { due, head, body } => {
                let now = Instant::now();
                slice.answers += 1;
                slice.record(now - due);
                let outcome =
                    if self.check_whole { self.expected.check(&head, body) } else { self.expected.check_status(&head) };
                self.check_whole = false;
                let closes = head.closes;
                if let Err(failure) = outcome {
                    slice.fail(failure);
                }
                connection.ready();
                self.idle.push(position);
                if closes {
                    self.replace(position)?;
                }
            }
            connection::Received::Closed { was_busy } => {
                if was_busy {
                    slice.answers += 1;
                    slice.fail("the server closed the connection".to_owned());
                    self.idle.push(position);
                }
                self.replace(position)?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, position: usize) -> Result<()> {
        let fresh = self.connect(position)?;
        if let Some(connection) = self.connections.get_mut(position) {
            *connection = fresh;
        }
        Ok(())
    }

    /// Requests that were due before the end, but found no free connection, waited at least until the end.
    fn count_unsent(&self, rate: f64, duration: Duration, run: &mut Run) {
        let end = run.start + duration;
        let mut number = run.sent;
        while self.requests.has(self.next + number - run.sent) {
            let due = due(run.start, number, rate);
            if due >= end {
                break;
            }
            run.slice.record(end - due);
            number += 1;
        }
    }
}

/// A run that goes on.
struct Run {
    pace: Pace,
    end: End,
    start: Instant,
    sent: usize,
    slice: Slice,
}

impl Run {
    fn begin(pace: Pace, end: End) -> Result<Self> {
        Ok(Self { pace, end, start: Instant::now(), sent: 0, slice: Slice::new()? })
    }
}

/// What a step of a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Received,
    Quiet,
    Over,
}

/// When a request is due at this rate.
fn due(start: Instant, number: usize, rate: f64) -> Instant {
    start + Duration::from_secs_f64(to_f64(u64::try_from(number).unwrap_or(u64::MAX)) / rate)
}
