//! The thread that writes the log. Callers append lines to a buffer, and the thread writes the buffer whole: many lines with one
//! system call. Callers do not wait for the output unless [`ROOM`] bytes of lines already wait.
//!
//! Then a slow output makes them wait for room. An output that takes nothing makes them drop lines, which are counted.
//! Warnings and errors are not dropped: they have a [`RESERVE`], and beyond it the caller waits. When the process ends, an
//! output that takes nothing costs warnings too.
//!
//! Not `tracing-appender`: it writes line by line, and drops warnings too.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use memchr::memchr_iter;
use tracing::Level;

/// How many bytes may wait, with those that are being written.
const ROOM: usize = 1 << 20;

/// How many bytes of warnings and errors may wait beyond [`ROOM`].
const RESERVE: usize = 1 << 18;

/// The batch size in bytes: written without a pause, and the maximum of a system call. A pipe's usual size.
const BATCH: usize = 1 << 16;

/// How long the thread gathers lines before it writes them.
const PAUSE: Duration = Duration::from_millis(5);

/// An output that takes nothing for so long is stalled. Until then, a caller without room waits.
const STALL: Duration = Duration::from_millis(100);

/// How long a flush waits for the output.
const PATIENCE: Duration = Duration::from_secs(2);

/// Hands lines to the thread that writes them.
#[derive(Clone, Debug)]
pub(super) struct Writer(Arc<Shared>);

/// Lines that were lost without a notice in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) lines: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread.
    stage: Condvar,
    /// Wakes callers that wait for room or for a flush.
    progress: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    waiting: Lines,
    /// What the thread has taken and not written yet.
    taken: Size,
    /// Write without a pause.
    is_urgent: bool,
    /// How often the thread has taken what waits, and how often it was done with it.
    begun: u64,
    ended: u64,
    /// How many lines were dropped, and of how many the log has told.
    dropped: u64,
    told: u64,
    /// Callers that wait for progress, and how often there was some.
    callers: u64,
    progress: u64,
    is_stalled: bool,
    /// The process ends, so no caller waits for a stalled output.
    is_ending: bool,
}

/// What the thread does. Callers wake it only for a later stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Waits for a line.
    #[default]
    Idle,
    /// Waits a [`PAUSE`] for more lines.
    Gathering,
    Writing,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    count: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    bytes: usize,
    lines: u64,
}

impl State {
    fn has_room(&self, line: &str, room: usize) -> bool {
        let held = self.waiting.text.len() + self.taken.bytes;
        // A line that is larger than the room waits alone.
        held == 0 || held + line.len() <= room
    }

    /// Moves on to the stage that is due. Returns whether the thread must be woken for it.
    fn advance(&mut self) -> bool {
        let due = if self.is_urgent || self.waiting.text.len() >= BATCH {
            Stage::Writing
        } else if self.waiting.count > 0 {
            Stage::Gathering
        } else {
            Stage::Idle
        };
        let is_later = due > self.stage;
        self.stage = self.stage.max(due);
        is_later
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, mut state: MutexGuard<'_, State>) {
        let is_asleep = state.advance();
        drop(state);
        if is_asleep {
            self.stage.notify_one();
        }
    }

    /// Waits for progress. Returns whether there was none in all that time.
    fn wait_for_progress<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> (MutexGuard<'a, State>, bool) {
        let before = state.progress;
        state.callers += 1;
        let (mut state, wait) = self.progress.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner);
        state.callers -= 1;
        let is_stalled = wait.timed_out() && state.progress == before;
        (state, is_stalled)
    }

    fn announce_progress(&self, state: &mut State) {
        state.progress += 1;
        state.is_stalled = false;
        if state.callers > 0 {
            self.progress.notify_all();
        }
    }
}

impl Writer {
    /// Starts the thread. `notice` makes the line that says how many lines were dropped.
    pub(super) fn start<W, N>(output: W, notice: N) -> io::Result<Self>
    where
        W: Write + Send + 'static,
        N: Fn(u64) -> String + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let thread = Thread { shared: Arc::clone(&shared), output, notice, is_line_cut: false };
        thread::Builder::new().name("log".to_owned()).spawn(move || thread.run())?;
        Ok(Self(shared))
    }

    /// Appends a line, which ends with a line break.
    pub(super) fn append(&self, level: Level, line: &str) {
        let is_kept = level <= Level::WARN;
        let room = if is_kept { ROOM + RESERVE } else { ROOM };
        let mut state = self.0.lock();
        while !state.has_room(line, room) && ((is_kept && !state.is_ending) || !state.is_stalled) {
            let (waited, is_stalled) = self.0.wait_for_progress(state, STALL);
            state = waited;
            state.is_stalled |= is_stalled;
        }
        if state.has_room(line, room) {
            state.waiting.text.extend_from_slice(line.as_bytes());
            state.waiting.count += 1;
            state.is_urgent |= is_kept;
        } else {
            state.dropped += 1;
            // The notice follows what waits.
            state.is_urgent = true;
        }
        self.0.advance(state);
    }

    /// Waits until the lines so far are written, or for [`PATIENCE`].
    pub(super) fn flush(&self) -> Result<(), Lost> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.0.lock();
        // What the thread has taken already may not be all.
        let due = state.begun + 1;
        state.is_urgent = true;
        self.0.advance(state);
        state = self.0.lock();
        while state.ended < due {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.0.wait_for_progress(state, left);
        }
        let unwritten = if state.ended < due { state.taken.lines + state.waiting.count } else { 0 };
        match unwritten + state.dropped - state.told {
            0 => Ok(()),
            lines => Err(Lost { lines }),
        }
    }

    /// Lets no caller wait for an output that takes nothing: a process that ends must not hang on it.
    pub(super) fn stop_waiting(&self) {
        let mut state = self.0.lock();
        state.is_ending = true;
        self.0.announce_progress(&mut state);
    }

    /// How many lines were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

struct Thread<W, N> {
    shared: Arc<Shared>,
    output: W,
    notice: N,
    /// The output failed within a line.
    is_line_cut: bool,
}

impl<W: Write, N: Fn(u64) -> String> Thread<W, N> {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let dropped = self.take(&mut batch);
            let notice = (dropped > 0).then(|| (self.notice)(dropped));
            // A failure concerns this batch only: the next one may be taken.
            let told = match notice {
                _ if !self.write(&batch) => 0,
                Some(notice) if self.write(notice.as_bytes()) => dropped,
                _ => 0,
            };
            batch.clear();
            batch.shrink_to(2 * BATCH);
            self.end(told);
        }
    }

    /// Waits until it is time to write, and swaps the empty `batch` for what waits. Returns how many dropped lines are untold.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let mut state = self.shared.lock();
        while state.stage != Stage::Writing {
            state = if state.stage == Stage::Idle {
                self.shared.stage.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.shared.stage.wait_timeout(state, PAUSE);
                let (mut state, pause) = waited.unwrap_or_else(PoisonError::into_inner);
                if pause.timed_out() {
                    state.stage = Stage::Writing;
                }
                state
            };
        }
        mem::swap(&mut state.waiting.text, batch);
        state.taken = Size { bytes: batch.len(), lines: mem::take(&mut state.waiting.count) };
        state.is_urgent = false;
        state.begun += 1;
        state.dropped - state.told
    }

    /// Writes all, after the end of a line that was cut. Returns whether the output took it.
    fn write(&mut self, text: &[u8]) -> bool {
        let is_line_ended = text.is_empty() || !self.is_line_cut || self.write_part(b"\n", |_, _| {});
        is_line_ended && self.write_part(text, Self::report)
    }

    /// Writes a part, and reports what the output took of it.
    fn write_part(&mut self, part: &[u8], report: impl Fn(&Self, &[u8])) -> bool {
        let mut rest = part;
        while !rest.is_empty() {
            let (next, _) = rest.split_at(rest.len().min(BATCH));
            match self.output.write(next) {
                Ok(0) => break,
                Ok(length) => {
                    let (written, left) = rest.split_at(length.min(rest.len()));
                    self.is_line_cut = !written.ends_with(b"\n");
                    report(self, written);
                    rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process made the pipe or terminal that they share non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(_) => break,
            }
        }
        rest.is_empty()
    }

    fn report(&self, written: &[u8]) {
        let lines = memchr_iter(b'\n', written).count();
        let mut state = self.shared.lock();
        state.taken.bytes = state.taken.bytes.saturating_sub(written.len());
        state.taken.lines = state.taken.lines.saturating_sub(u64::try_from(lines).unwrap_or(u64::MAX));
        self.shared.announce_progress(&mut state);
    }

    /// What the output did not take is lost.
    fn end(&self, told: u64) {
        let mut state = self.shared.lock();
        let Size { lines: lost, .. } = mem::take(&mut state.taken);
        state.dropped += lost;
        state.told += told;
        state.ended += 1;
        state.stage = Stage::Idle;
        state.advance();
        self.shared.announce_progress(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an output does with the next write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Mood {
        Takes,
        TakesAtMost(usize),
        Blocks,
        WouldBlock,
        Fails,
        /// Takes so many bytes, then fails.
        FailsAfter(usize),
    }

    /// An output whose mood a test changes.
    #[derive(Clone)]
    struct Output(Arc<(Mutex<Inner>, Condvar)>);

    struct Inner {
        mood: Mood,
        written: Vec<u8>,
        writes: usize,
        interrupts: usize,
    }

    impl Output {
        fn new(mood: Mood) -> Self {
            let inner = Inner { mood, written: Vec::new(), writes: 0, interrupts: 0 };
            Self(Arc::new((Mutex::new(inner), Condvar::new())))
        }

        fn set(&self, mood: Mood) {
            self.0.0.lock().unwrap().mood = mood;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
        }

        fn writes(&self) -> usize {
            self.0.0.lock().unwrap().writes
        }

        /// Waits until a write has begun.
        fn wait_for_write(&self) {
            let (inner, changed) = &*self.0;
            drop(changed.wait_while(inner.lock().unwrap(), |inner| inner.writes == 0).unwrap());
        }

        fn wait_for_line(&self, line: &str) {
            let (inner, changed) = &*self.0;
            let is_missing =
                |inner: &mut Inner| !String::from_utf8_lossy(&inner.written).lines().any(|each| each == line);
            drop(changed.wait_while(inner.lock().unwrap(), is_missing).unwrap());
        }
    }

    impl Write for Output {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let (inner, changed) = &*self.0;
            let mut inner = inner.lock().unwrap();
            inner.writes += 1;
            changed.notify_all();
            inner = changed.wait_while(inner, |inner| inner.mood == Mood::Blocks).unwrap();
            if inner.interrupts > 0 {
                inner.interrupts -= 1;
                return Err(ErrorKind::Interrupted.into());
            }
            let length = match inner.mood {
                Mood::TakesAtMost(length) => length.min(text.len()),
                Mood::FailsAfter(length) => {
                    inner.mood = Mood::Fails;
                    length.min(text.len())
                }
                Mood::WouldBlock => return Err(ErrorKind::WouldBlock.into()),
                Mood::Fails => return Err(ErrorKind::BrokenPipe.into()),
                Mood::Takes | Mood::Blocks => text.len(),
            };
            inner.written.extend_from_slice(&text[..length]);
            changed.notify_all();
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(mood: Mood) -> (Writer, Output) {
        let output = Output::new(mood);
        (Writer::start(output.clone(), |dropped| format!("dropped {dropped}\n")).unwrap(), output)
    }

    /// Appends lines until one is dropped. Returns how many are kept.
    fn fill(writer: &Writer) -> usize {
        let dropped = writer.dropped();
        let mut kept = 0;
        loop {
            writer.append(Level::INFO, &format!("{kept:0>99}\n"));
            if writer.dropped() > dropped {
                return kept;
            }
            kept += 1;
        }
    }

    #[test]
    fn lines_keep_their_order_and_many_share_a_write() {
        let (writer, output) = writer(Mood::Takes);
        let lines: Vec<_> = (0..1000).map(|number| format!("{number}\n")).collect();
        for line in &lines {
            writer.append(Level::INFO, line);
        }
        assert_eq!(writer.flush(), Ok(()));
        assert_eq!(output.text(), lines.concat());
        assert!(output.writes() < 1000, "{}", output.writes());
    }

    #[test]
    fn a_line_is_written_without_a_flush_at_every_level() {
        for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            let (writer, output) = writer(Mood::Takes);
            writer.append(level, "line\n");
            output.wait_for_line("line");
        }
    }

    #[test]
    fn lines_of_several_threads_are_whole_and_in_the_order_of_each() {
        let (writer, output) = writer(Mood::TakesAtMost(777));
        thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let writer = writer.clone();
                scope.spawn(move || {
                    for number in 0..2000 {
                        let level = if number % 100 == 0 { Level::WARN } else { Level::INFO };
                        writer.append(level, &format!("{name} {number}\n"));
                    }
                });
            }
        });
        assert_eq!(writer.flush(), Ok(()));
        let text = output.text();
        for name in ["a", "b", "c"] {
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            assert_eq!(lines, (0..2000).map(|number| format!("{name} {number}")).collect::<Vec<_>>());
        }
        assert_eq!(text.lines().count(), 6000);
    }

    #[test]
    fn an_output_that_takes_nothing_costs_lines_but_no_warning_and_the_log_tells_how_many() {
        let (writer, output) = writer(Mood::Blocks);
        writer.append(Level::INFO, "first\n");
        output.wait_for_write();
        let kept = fill(&writer);
        for _ in 0..41 {
            writer.append(Level::DEBUG, &format!("{:0>99}\n", "lost"));
        }
        assert!(kept * 100 <= ROOM && kept * 100 > ROOM - 200, "{kept}");
        for number in 0..100 {
            writer.append(Level::WARN, &format!("warning {number}\n"));
            writer.append(Level::ERROR, &format!("error {number}\n"));
        }
        assert_eq!(writer.dropped(), 42);
        output.set(Mood::Takes);
        output.wait_for_line("dropped 42");
        assert_eq!(writer.flush(), Ok(()));
        let text = output.text();
        let mut expected = vec!["first".to_owned()];
        expected.extend((0..kept).map(|number| format!("{number:0>99}")));
        expected.extend((0..100).flat_map(|number| [format!("warning {number}"), format!("error {number}")]));
        expected.push("dropped 42".to_owned());
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        writer.append(Level::INFO, "later\n");
        assert_eq!(writer.flush(), Ok(()));
        assert_eq!(output.text(), text + "later\n");
    }

    #[test]
    fn a_warning_beyond_the_reserve_waits_until_there_is_room() {
        let (writer, output) = writer(Mood::Blocks);
        let line = format!("{:0>9999}\n", "");
        let waiting = {
            let (writer, line) = (writer.clone(), line.clone());
            thread::spawn(move || (0..200).for_each(|_| writer.append(Level::WARN, &line)))
        };
        while writer.0.lock().callers == 0 {
            thread::yield_now();
        }
        assert!(writer.0.lock().waiting.text.len() <= ROOM + RESERVE);
        output.set(Mood::Takes);
        waiting.join().unwrap();
        assert_eq!((writer.flush(), writer.dropped()), (Ok(()), 0));
        assert_eq!(output.text(), line.repeat(200));
    }

    #[test]
    fn a_process_that_ends_waits_neither_for_room_nor_forever_for_a_flush() {
        let (writer, output) = writer(Mood::Blocks);
        let waiting = {
            let writer = writer.clone();
            thread::spawn(move || (0..200).for_each(|_| writer.append(Level::ERROR, &format!("{:0>9999}\n", ""))))
        };
        while writer.0.lock().callers == 0 {
            thread::yield_now();
        }
        writer.stop_waiting();
        waiting.join().unwrap();
        assert!(writer.dropped() > 0);
        assert_eq!(writer.flush(), Err(Lost { lines: 200 }));
        output.set(Mood::Takes);
        assert_eq!(writer.flush(), Ok(()));
        assert_eq!(output.text().lines().count(), 200 - usize::try_from(writer.dropped()).unwrap() + 1);
    }

    #[test]
    fn a_process_that_ends_loses_no_line_to_a_slow_output() {
        let (writer, output) = writer(Mood::TakesAtMost(777));
        writer.stop_waiting();
        let line = format!("{:0>999}\n", "");
        for level in [Level::INFO, Level::WARN].into_iter().cycle().take(4000) {
            writer.append(level, &line);
        }
        while writer.flush().is_err() {}
        assert_eq!((writer.dropped(), output.text()), (0, line.repeat(4000)));
    }

    #[test]
    fn an_output_that_fails_costs_its_lines_and_later_ones_are_written() {
        let (writer, output) = writer(Mood::Fails);
        writer.append(Level::WARN, "lost\n");
        assert_eq!(writer.flush(), Err(Lost { lines: 1 }));
        writer.append(Level::INFO, "lost\n");
        assert_eq!(writer.flush(), Err(Lost { lines: 2 }));
        output.set(Mood::Takes);
        writer.append(Level::INFO, "written\n");
        assert_eq!((writer.flush(), writer.dropped()), (Ok(()), 2));
        assert_eq!(output.text(), "written\ndropped 2\n");
    }

    #[test]
    fn a_line_that_a_failure_cuts_does_not_disguise_the_next() {
        let (writer, output) = writer(Mood::FailsAfter("whole\ncu".len()));
        {
            let mut state = writer.0.lock();
            state.waiting = Lines { text: b"whole\ncut\nlost\n".to_vec(), count: 3 };
        }
        assert_eq!(writer.flush(), Err(Lost { lines: 2 }));
        output.set(Mood::WouldBlock);
        output.0.0.lock().unwrap().writes = 0;
        writer.append(Level::WARN, "next\n");
        output.wait_for_write();
        output.set(Mood::Takes);
        assert_eq!(writer.flush(), Ok(()));
        assert_eq!(output.text(), "whole\ncu\nnext\ndropped 2\n");
    }

    #[test]
    fn partial_writes_interrupts_and_a_non_blocking_output_cost_nothing() {
        let (writer, output) = writer(Mood::WouldBlock);
        output.0.0.lock().unwrap().interrupts = 3;
        let lines: Vec<_> = (0..500).map(|number| format!("{number}\n")).collect();
        for line in &lines {
            writer.append(Level::INFO, line);
        }
        output.wait_for_write();
        output.set(Mood::TakesAtMost(3));
        assert_eq!((writer.flush(), writer.dropped()), (Ok(()), 0));
        assert_eq!(output.text(), lines.concat());
    }

    #[test]
    fn a_burst_costs_no_line_while_the_output_takes_lines() {
        let (writer, output) = writer(Mood::Takes);
        let line = format!("{:0>999}\n", "");
        for _ in 0..10_000 {
            writer.append(Level::INFO, &line);
        }
        assert_eq!((writer.flush(), writer.dropped()), (Ok(()), 0));
        assert_eq!(output.text().len(), 10_000_000);
    }

    #[test]
    fn a_line_larger_than_the_room_is_written_if_nothing_else_waits() {
        let (writer, output) = writer(Mood::Takes);
        let line = "x".repeat(2 * ROOM) + "\n";
        writer.append(Level::INFO, &line);
        assert_eq!(writer.flush(), Ok(()));
        assert_eq!(output.text(), line);
    }
}
