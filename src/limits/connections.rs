//! Limits on a listener's open connections, and on the bytes that they hold for unverified requests.
//!
//! At either limit a connection is evicted: the one that has been idle longest or, if none is idle, the one that has waited
//! for its client longest. So a client that opens many connections closes its own. A new connection counts as waiting, not as
//! idle: its first request is on its way.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::open_files::Room;
use crate::telemetry::metrics::ConnectionMetrics;

/// The connections of a listener.
#[derive(Debug)]
pub struct ConnectionTable {
    listener: &'static str,
    slots: Box<[Slot]>,
    free: Mutex<Vec<usize>>,
    permits: Arc<Semaphore>,
    /// New connections that wait for an eviction.
    queue: Semaphore,
    /// Concurrent evictions. The limit gives the other connections time to send a request.
    evictions: Semaphore,
    unverified_bytes: AtomicUsize,
    max_unverified_bytes: usize,
    created_at: Instant,
    connection_warnings: WarningInterval,
    byte_warnings: WarningInterval,
    metrics: ConnectionMetrics,
}

/// A connection's place in the table.
#[derive(Debug)]
pub struct ConnectionSlot {
    table: Arc<ConnectionTable>,
    index: usize,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Slot {
    /// The lowest rank is evicted first: a time in microseconds, or one of the states above all times.
    rank: AtomicU64,
    unverified_bytes: AtomicUsize,
    evicted: AtomicWaker,
}

const FREE: u64 = u64::MAX;
const EVICTED: u64 = u64::MAX - 1;
const PROTECTED: u64 = u64::MAX - 2;
/// The lowest rank of a connection that has received its request and answers it.
const RECEIVED: u64 = 1 << 62;
/// The lowest rank of a connection that waits for a request, or for its client to read the answer.
const WAITING: u64 = 1 << 61;

/// Lets a warning through once a minute.
#[derive(Debug, Default)]
struct WarningInterval(Mutex<Option<Instant>>);

impl WarningInterval {
    fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| last.elapsed() > Duration::from_mins(1));
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

impl ConnectionTable {
    /// The maximum of bytes that all connections together hold for unverified requests.
    pub const MAX_UNVERIFIED_BYTES: usize = 64 * 1024 * 1024;

    /// The table of the listener with this name.
    #[must_use]
    pub fn new(listener: &'static str, room: Room, metrics: ConnectionMetrics) -> Arc<Self> {
        Self::with(listener, room, Self::MAX_UNVERIFIED_BYTES, metrics)
    }

    fn with(listener: &'static str, room: Room, max_unverified_bytes: usize, metrics: ConnectionMetrics) -> Arc<Self> {
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
            max_unverified_bytes,
            created_at: Instant::now(),
            connection_warnings: WarningInterval::default(),
            byte_warnings: WarningInterval::default(),
            metrics,
        })
    }

    /// A place for a new connection, for which another may be evicted. `None` while every other connection works on a
    /// verified request, or if too many new connections wait.
    pub async fn admit(self: &Arc<Self>) -> Option<ConnectionSlot> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.evicted_permit().await.or_else(|| {
                self.metrics.not_admitted.inc();
                None
            })?,
        };
        let index = self.free.lock().pop()?;
        let slot = ConnectionSlot { table: Arc::clone(self), index, _permit: permit };
        slot.mark_waiting(Instant::now());
        self.metrics.open.inc();
        Some(slot)
    }

    async fn evicted_permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.connection_warnings.is_due() {
            let (listener, connections) = (self.listener, self.slots.len());
            tracing::warn!(listener, connections, "connection limit reached; closing connections for new ones");
        }
        let _queued = self.queue.try_acquire().ok()?;
        let _eviction = self.evictions.acquire().await.ok()?;
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        if !self.evict(|_| true, &self.metrics.at_limit) {
            return None;
        }
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Evicts the candidate with the lowest rank and counts it. False if no connection can be evicted.
    fn evict(&self, is_candidate: impl Fn(&Slot) -> bool, counter: &Counter) -> bool {
        loop {
            let ranks = self.slots.iter().map(|slot| (slot.rank.load(Acquire), slot));
            let evictable = ranks.filter(|(rank, slot)| rank < &PROTECTED && is_candidate(slot));
            let Some((rank, slot)) = evictable.min_by_key(|(rank, _)| *rank) else { return false };
            if slot.rank.compare_exchange(rank, EVICTED, SeqCst, Relaxed).is_ok() {
                self.release_bytes(slot);
                counter.inc();
                slot.evicted.wake();
                return true;
            }
        }
    }

    fn release_bytes(&self, slot: &Slot) {
        let bytes = slot.unverified_bytes.swap(0, SeqCst);
        self.unverified_bytes.fetch_sub(bytes, SeqCst);
    }

    fn micros(&self, time: Instant) -> u64 {
        let micros = time.saturating_duration_since(self.created_at).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX).min(WAITING - 1)
    }
}

impl ConnectionSlot {
    /// The connection has been idle since then.
    pub fn mark_idle(&self, since: Instant) {
        self.set_rank(self.table.micros(since));
        self.release_bytes();
    }

    /// The connection has waited for its client since then: for a request, or for the client to read the answer.
    pub fn mark_waiting(&self, since: Instant) {
        self.set_rank(WAITING + self.table.micros(since));
    }

    /// The connection has received the request that began then. Its sender is unknown.
    pub fn mark_received(&self, since: Instant) {
        let rank = RECEIVED + self.table.micros(since);
        let _ = self.slot().rank.fetch_update(SeqCst, SeqCst, |old| (old < RECEIVED).then_some(rank));
    }

    /// The sender of the request is known: the connection cannot be evicted.
    pub fn mark_verified(&self) {
        self.set_rank(PROTECTED);
        self.release_bytes();
    }

    /// Counts bytes that the connection holds for an unverified request. Above the limit, the connections that have held such
    /// bytes longest are evicted, this one too if it is among them.
    pub fn add_unverified_bytes(&self, bytes: usize) {
        if self.slot().rank.load(Relaxed) == PROTECTED {
            return;
        }
        let table = &self.table;
        // The sum first: an eviction of this connection subtracts what its slot holds.
        let mut sum = table.unverified_bytes.fetch_add(bytes, SeqCst) + bytes;
        self.slot().unverified_bytes.fetch_add(bytes, SeqCst);
        let holds_bytes = |slot: &Slot| slot.unverified_bytes.load(Relaxed) > 0;
        while sum > table.max_unverified_bytes && table.evict(holds_bytes, &table.metrics.over_bytes) {
            if table.byte_warnings.is_due() {
                tracing::warn!(
                    listener = table.listener,
                    "unverified requests hold 64 MiB; closing the connections that hold some longest"
                );
            }
            sum = table.unverified_bytes.load(SeqCst);
        }
    }

    /// Ready once the connection is evicted and must be closed at once.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.slot().evicted.register(cx.waker());
        if self.slot().rank.load(SeqCst) == EVICTED { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Counts the connection as closed because a request took too long.
    pub fn count_timeout(&self) {
        self.table.metrics.at_deadline.inc();
    }

    fn slot(&self) -> &Slot {
        &self.table.slots[self.index]
    }

    /// Sets the rank unless the connection is evicted.
    fn set_rank(&self, rank: u64) {
        let _ = self.slot().rank.fetch_update(SeqCst, SeqCst, |old| (old != EVICTED).then_some(rank));
    }

    fn release_bytes(&self) {
        if self.slot().unverified_bytes.load(Relaxed) > 0 {
            self.table.release_bytes(self.slot());
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.table.release_bytes(self.slot());
        self.slot().rank.store(FREE, SeqCst);
        self.table.free.lock().push(self.index);
        self.table.metrics.open.dec();
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

    fn table(connections: u64, max_unverified_bytes: usize) -> Arc<ConnectionTable> {
        let room = Room { connections, queue: 20 };
        ConnectionTable::with("test", room, max_unverified_bytes, ConnectionMetrics::default())
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
    async fn the_connection_idle_longest_is_evicted_then_the_one_that_has_waited_longest() {
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
        assert!(table.admit().await.is_none(), "verified requests are never evicted");
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
    async fn bytes_of_unverified_requests_are_bounded_and_others_do_not_count() {
        let table = table(5, 100);
        let holds_nothing = table.admit().await.unwrap();
        holds_nothing.mark_waiting(after(&table, 0));
        let mut slots = Vec::new();
        for millis in 0..4 {
            let slot = table.admit().await.unwrap();
            slot.mark_waiting(after(&table, millis));
            slots.push(slot);
        }
        slots[0].add_unverified_bytes(60);
        slots[0].mark_verified();
        slots[0].add_unverified_bytes(1000);
        slots[1].add_unverified_bytes(40);
        slots[2].add_unverified_bytes(50);
        slots[3].mark_idle(after(&table, 0));
        assert!(!slots.iter().any(is_evicted));
        slots[2].add_unverified_bytes(20);
        assert_eq!(slots.iter().map(is_evicted).collect::<Vec<_>>(), [false, true, false, false]);
        slots[2].add_unverified_bytes(40);
        assert_eq!(slots.iter().map(is_evicted).collect::<Vec<_>>(), [false, true, true, false]);
        assert!(!is_evicted(&holds_nothing));
        assert_eq!(table.metrics.over_bytes.get(), 2);
        drop((slots, holds_nothing));
        assert_eq!((table.unverified_bytes.load(SeqCst), table.metrics.open.get()), (0, 0));
    }

    #[tokio::test]
    async fn only_a_limited_number_of_new_connections_wait() {
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
