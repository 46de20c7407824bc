//! How many connections a listener keeps open, and how many bytes of strangers it holds.
//!
//! At either limit a connection gives way: the one that has been idle longest or, if none is idle, the one that has been
//! waiting for its client longest. So whoever opens many connections closes their own. A new connection counts as one that waits, not as idle: its first request is on its way.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::Room;
use crate::telemetry::metrics::ConnectionMetrics;

/// The connections of a listener.
pub struct ConnectionTable {
    listener: &'static str,
    slots: Box<[Slot]>,
    free: Mutex<Vec<usize>>,
    permits: Arc<Semaphore>,
    /// New connections that wait for the place of another.
    queue: Semaphore,
    /// Connections that give way at once. Each of the others has its time to send a request meanwhile.
    evictions: Semaphore,
    unverified_bytes: AtomicUsize,
    largest_unverified: usize,
    created_at: Instant,
    /// When the log last warned of each limit.
    warned_at: [AtomicU64; 2],
    metrics: ConnectionMetrics,
}

/// A connection's place in the table.
pub struct ConnectionSlot {
    table: Arc<ConnectionTable>,
    index: usize,
    _permit: OwnedSemaphorePermit,
}

struct Slot {
    /// In which order connections give way, the lowest first: a time in microseconds, or one of the states above all times.
    rank: AtomicU64,
    unverified_bytes: AtomicUsize,
    evicted: AtomicWaker,
}

const FREE: u64 = u64::MAX;
const EVICTED: u64 = u64::MAX - 1;
const PROTECTED: u64 = u64::MAX - 2;
/// What the rank of a connection begins at that has received its request and answers it.
const RECEIVED: u64 = 1 << 62;
/// What the rank of a connection begins at that waits for a request, or for a client to read the answer.
const WAITING: u64 = 1 << 61;

/// Why connections are closed for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Connections,
    Bytes,
}

impl ConnectionTable {
    /// The most bytes of unverified requests that all connections hold together.
    pub const UNVERIFIED_BYTES: usize = 64 * 1024 * 1024;

    const PAUSE_BETWEEN_WARNINGS: Duration = Duration::from_mins(1);

    /// The table of a listener of this name.
    #[must_use]
    pub fn new(listener: &'static str, room: Room, metrics: ConnectionMetrics) -> Arc<Self> {
        Self::with(listener, room, Self::UNVERIFIED_BYTES, metrics)
    }

    fn with(listener: &'static str, room: Room, largest_unverified: usize, metrics: ConnectionMetrics) -> Arc<Self> {
        let [connections, queue] = [room.connections, room.queue]
            .map(|number| usize::try_from(number).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS));
        let slot =
            || Slot { rank: AtomicU64::new(FREE), unverified_bytes: AtomicUsize::new(0), evicted: AtomicWaker::new() };
        Arc::new(Self {
            listener,
            slots: (0..connections).map(|_| slot()).collect(),
            free: Mutex::new((0..connections).rev().collect()),
            permits: Arc::new(Semaphore::new(connections)),
            queue: Semaphore::new(queue),
            evictions: Semaphore::new((connections / 8).max(1)),
            unverified_bytes: AtomicUsize::new(0),
            largest_unverified,
            created_at: Instant::now(),
            warned_at: [AtomicU64::new(0), AtomicU64::new(0)],
            metrics,
        })
    }

    /// A place for a new connection, for which another may have to give way. `None` while every other connection has a
    /// verified request in progress, or if too many wait.
    pub async fn admit(self: &Arc<Self>) -> Option<ConnectionSlot> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.permit_of_another().await.or_else(|| {
                self.metrics.not_admitted.inc();
                None
            })?,
        };
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let slot = ConnectionSlot { table: Arc::clone(self), index, _permit: permit };
        slot.mark_waiting(Instant::now());
        self.metrics.open.inc();
        Some(slot)
    }

    async fn permit_of_another(&self) -> Option<OwnedSemaphorePermit> {
        self.warn(Limit::Connections);
        let _queued = self.queue.try_acquire().ok()?;
        let _eviction = self.evictions.acquire().await.ok()?;
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        if !self.evict(Limit::Connections) {
            return None;
        }
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Closes the connection that comes first. False if no connection may be closed.
    fn evict(&self, limit: Limit) -> bool {
        let gives = |slot: &Slot| match limit {
            Limit::Connections => true,
            Limit::Bytes => slot.unverified_bytes.load(Relaxed) > 0,
        };
        loop {
            let ranks = self.slots.iter().map(|slot| (slot.rank.load(Acquire), slot));
            let evictable = ranks.filter(|(rank, slot)| rank < &PROTECTED && gives(slot));
            let Some((rank, slot)) = evictable.min_by_key(|(rank, _)| *rank) else { return false };
            if slot.rank.compare_exchange(rank, EVICTED, SeqCst, Relaxed).is_ok() {
                self.release(slot);
                match limit {
                    Limit::Connections => &self.metrics.at_limit,
                    Limit::Bytes => &self.metrics.over_bytes,
                }
                .inc();
                slot.evicted.wake();
                return true;
            }
        }
    }

    fn release(&self, slot: &Slot) {
        let bytes = slot.unverified_bytes.swap(0, SeqCst);
        self.unverified_bytes.fetch_sub(bytes, SeqCst);
    }

    /// Warns of a limit, at most once a minute.
    fn warn(&self, limit: Limit) {
        let now = self.micros(Instant::now()).max(1);
        let last = match limit {
            Limit::Connections => &self.warned_at[0],
            Limit::Bytes => &self.warned_at[1],
        };
        let pause = Self::PAUSE_BETWEEN_WARNINGS.as_micros();
        let is_due = |warned_at: u64| warned_at == 0 || u128::from(now - warned_at.min(now)) > pause;
        if last.fetch_update(Relaxed, Relaxed, |warned_at| is_due(warned_at).then_some(now)).is_err() {
            return;
        }
        let (listener, connections) = (self.listener, self.slots.len());
        match limit {
            Limit::Connections => {
                tracing::warn!(listener, connections, "connection limit reached; closing connections for new ones");
            }
            Limit::Bytes => {
                tracing::warn!(
                    listener,
                    "unverified requests hold 64 MiB; closing the connections that hold some longest"
                );
            }
        }
    }

    fn micros(&self, time: Instant) -> u64 {
        let micros = time.saturating_duration_since(self.created_at).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX).min(WAITING - 1)
    }
}

impl ConnectionSlot {
    /// The connection has had an answer, and no request since then.
    pub fn mark_idle(&self, since: Instant) {
        self.set_rank(self.table.micros(since));
        self.release();
    }

    /// The connection waits for its client since then: for a request, or for an answer to be read.
    pub fn mark_waiting(&self, since: Instant) {
        self.set_rank(WAITING + self.table.micros(since));
    }

    /// The request that began then has been received, and its sender is unknown.
    pub fn mark_received(&self, since: Instant) {
        let rank = RECEIVED + self.table.micros(since);
        let _ = self.slot().rank.fetch_update(SeqCst, SeqCst, |old| (old < RECEIVED).then_some(rank));
    }

    /// The sender of the request is known: the connection does not give way to others.
    pub fn mark_verified(&self) {
        self.set_rank(PROTECTED);
        self.release();
    }

    /// Counts bytes that the connection holds of an unverified request. Above the limit for all connections, those that have
    /// held bytes longest are closed: this one, too, if it is among them.
    pub fn holds_more(&self, bytes: usize) {
        if self.slot().rank.load(Relaxed) == PROTECTED {
            return;
        }
        // First in the sum: whoever evicts this connection takes from the sum what the slot has.
        let mut all = self.table.unverified_bytes.fetch_add(bytes, SeqCst) + bytes;
        self.slot().unverified_bytes.fetch_add(bytes, SeqCst);
        while all > self.table.largest_unverified && self.table.evict(Limit::Bytes) {
            self.table.warn(Limit::Bytes);
            all = self.table.unverified_bytes.load(SeqCst);
        }
    }

    /// Ready once the connection is to be closed at once, for others.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.slot().evicted.register(cx.waker());
        if self.slot().rank.load(SeqCst) == EVICTED { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The connection was closed because a request took too long.
    pub fn mark_timed_out(&self) {
        self.table.metrics.at_deadline.inc();
    }

    fn slot(&self) -> &Slot {
        &self.table.slots[self.index]
    }

    /// What is evicted stays so.
    fn set_rank(&self, rank: u64) {
        let _ = self.slot().rank.fetch_update(SeqCst, SeqCst, |old| (old != EVICTED).then_some(rank));
    }

    fn release(&self) {
        if self.slot().unverified_bytes.load(Relaxed) > 0 {
            self.table.release(self.slot());
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.table.release(self.slot());
        self.slot().rank.store(FREE, SeqCst);
        self.table.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
        self.table.metrics.open.dec();
    }
}

impl fmt::Debug for ConnectionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTable").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ConnectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSlot").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        slot.poll_evicted(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn after(table: &ConnectionTable, millis: u64) -> Instant {
        table.created_at + Duration::from_millis(millis)
    }

    fn table(connections: u64, largest_unverified: usize) -> Arc<ConnectionTable> {
        let room = Room { connections, queue: 20 };
        ConnectionTable::with("test", room, largest_unverified, ConnectionMetrics::default())
    }

    async fn full_table(connections: u64) -> (Arc<ConnectionTable>, Vec<ConnectionSlot>) {
        let table = table(connections, 1000);
        let mut slots = Vec::new();
        for _ in 0..connections {
            slots.push(table.admit().await.unwrap());
        }
        (table, slots)
    }

    #[tokio::test]
    async fn the_connection_that_was_idle_longest_gives_way_then_the_one_that_has_waited_longest() {
        let (table, slots) = full_table(6).await;
        slots[0].mark_waiting(after(&table, 1));
        slots[1].mark_waiting(after(&table, 0));
        slots[2].mark_idle(after(&table, 3));
        slots[3].mark_idle(after(&table, 2));
        slots[4].mark_received(after(&table, 0));
        slots[5].mark_verified();
        let mut slots: Vec<_> = slots.into_iter().map(Some).collect();
        let mut entered = Vec::new();
        for next in [3, 2, 1, 0, 4] {
            let mut entering = Box::pin(table.admit());
            assert!(entering.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let evicted: Vec<_> = (0..6).filter(|index| slots[*index].as_ref().is_some_and(is_evicted)).collect();
            assert_eq!(evicted, [next]);
            slots[next] = None;
            let slot = entering.await.unwrap();
            slot.mark_verified();
            entered.push(slot);
        }
        assert!(table.admit().await.is_none(), "verified requests give way to no one");
        assert_eq!((table.metrics.at_limit.get(), table.metrics.not_admitted.get()), (5, 1));
        assert_eq!(table.metrics.open.get(), 6);
        slots.clear();
        assert!(table.admit().await.is_some());
    }

    #[tokio::test]
    async fn an_evicted_connection_stays_so_and_new_ones_enter_in_turn() {
        let (table, slots) = full_table(1).await;
        let mut entering = Box::pin(table.admit());
        assert!(entering.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        slots[0].mark_verified();
        slots[0].mark_idle(Instant::now());
        assert!(is_evicted(&slots[0]));
        let mut next = Box::pin(table.admit());
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(slots);
        let slot = entering.await.unwrap();
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(is_evicted(&slot));
        drop(slot);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn bytes_of_strangers_are_bounded_and_those_of_verified_requests_do_not_count() {
        let table = table(5, 100);
        let holds_nothing = table.admit().await.unwrap();
        holds_nothing.mark_waiting(after(&table, 0));
        let mut slots = Vec::new();
        for millis in 0..4 {
            let slot = table.admit().await.unwrap();
            slot.mark_waiting(after(&table, millis));
            slots.push(slot);
        }
        slots[0].holds_more(60);
        slots[0].mark_verified();
        slots[0].holds_more(1000);
        slots[1].holds_more(40);
        slots[2].holds_more(50);
        slots[3].mark_idle(after(&table, 0));
        assert!(!slots.iter().any(is_evicted));
        slots[2].holds_more(20);
        assert_eq!(slots.iter().map(is_evicted).collect::<Vec<_>>(), [false, true, false, false]);
        slots[2].holds_more(40);
        assert_eq!(slots.iter().map(is_evicted).collect::<Vec<_>>(), [false, true, true, false]);
        assert!(!is_evicted(&holds_nothing));
        assert_eq!(table.metrics.over_bytes.get(), 2);
        drop((slots, holds_nothing));
        assert_eq!((table.unverified_bytes.load(SeqCst), table.metrics.open.get()), (0, 0));
    }

    #[tokio::test]
    async fn only_so_many_new_connections_wait() {
        let (table, slots) = full_table(100).await;
        let mut entering: Vec<_> = (0..20).map(|_| Box::pin(table.admit())).collect();
        for admission in &mut entering {
            assert!(admission.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert!(table.admit().await.is_none());
        drop(slots);
        for admission in entering {
            assert!(admission.await.is_some());
        }
    }
}
