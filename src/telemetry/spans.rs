//! The open spans, each with a value.
//!
//! Not the registry of `tracing-subscriber`: it keeps values of any type for any number of layers, and a span costs more there
//! than its line.

use std::{
    array,
    cell::RefCell,
    num::NonZeroU64,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use tracing::{Id, Metadata};
use tracing_core::span::Current;

const SHARDS: usize = 16;

thread_local! {
    /// The shard in which this thread opens spans: threads seldom wait for each other.
    static SHARD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
    /// The spans that this thread is in, the innermost last.
    static ENTERED: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

/// The open spans.
#[derive(Debug)]
pub(super) struct Spans<T>([Mutex<Shard<T>>; SHARDS]);

/// Places for spans. A place is used again, and its value with it.
#[derive(Debug)]
struct Shard<T> {
    places: Vec<Place<T>>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Place<T> {
    metadata: Option<&'static Metadata<'static>>,
    parent: Option<Id>,
    handles: usize,
    value: T,
}

impl<T: Default> Default for Spans<T> {
    fn default() -> Self {
        Self(array::from_fn(|_| Mutex::new(Shard { places: Vec::new(), free: Vec::new() })))
    }
}

impl<T: Default> Spans<T> {
    /// Opens a span with one handle. `set` gets the value of an earlier span.
    pub(super) fn open(
        &self,
        metadata: &'static Metadata<'static>,
        parent: Option<Id>,
        set: impl FnOnce(&mut T),
    ) -> Id {
        if let Some(parent) = &parent {
            self.add_handle(parent);
        }
        let number = SHARD.try_with(|shard| *shard).unwrap_or_default();
        let shard = &mut *self.shard(number);
        let index = shard.free.pop().unwrap_or_else(|| {
            shard.places.push(Place::default());
            shard.places.len() - 1
        });
        if let Some(place) = shard.places.get_mut(index) {
            (place.metadata, place.parent, place.handles) = (Some(metadata), parent, 1);
            set(&mut place.value);
        }
        id(number, index)
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard<T>> {
        self.0[number % SHARDS].lock()
    }

    fn with<R>(&self, id: &Id, read: impl FnOnce(&mut Place<T>) -> R) -> Option<R> {
        let (number, index) = place(id);
        self.shard(number).places.get_mut(index).map(read)
    }

    /// Changes the value of a span.
    pub(super) fn change(&self, id: &Id, change: impl FnOnce(&mut T)) {
        self.with(id, |place| change(&mut place.value));
    }

    /// Reads the values of a span and of those around it, the innermost first.
    pub(super) fn read_outwards(&self, innermost: Option<Id>, mut read: impl FnMut(&T)) {
        let mut next = innermost;
        while let Some(id) = next {
            next = self
                .with(&id, |place| {
                    read(&place.value);
                    place.parent.clone()
                })
                .flatten();
        }
    }

    /// Counts one more handle of a span.
    pub(super) fn add_handle(&self, id: &Id) {
        self.with(id, |place| place.handles += 1);
    }

    /// Counts one handle less. Closes the span with its last one, and returns whether it did.
    pub(super) fn drop_handle(&self, id: &Id) -> bool {
        let (number, index) = place(id);
        let parent = {
            let shard = &mut *self.shard(number);
            let Some(place) = shard.places.get_mut(index) else { return false };
            match place.handles {
                // Closed already: another span may have this place soon.
                0 => return false,
                1 => place.handles = 0,
                handles => {
                    place.handles = handles - 1;
                    return false;
                }
            }
            shard.free.push(index);
            place.parent.take()
        };
        if let Some(parent) = parent {
            self.drop_handle(&parent);
        }
        true
    }

    /// The innermost span that this thread is in, with its metadata.
    pub(super) fn current(&self) -> Current {
        let metadata = |id: &Id| self.with(id, |place| place.metadata).flatten();
        let current = innermost().and_then(|id| metadata(&id).map(|metadata| Current::new(id, metadata)));
        current.unwrap_or_else(Current::none)
    }
}

/// Enters a span on this thread.
pub(super) fn enter(id: &Id) {
    let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(id.clone()));
}

/// Leaves a span on this thread.
pub(super) fn exit(id: &Id) {
    let _ = ENTERED.try_with(|entered| {
        let mut entered = entered.borrow_mut();
        if let Some(index) = entered.iter().rposition(|each| each == id) {
            entered.remove(index);
        }
    });
}

/// The innermost span that this thread is in.
pub(super) fn innermost() -> Option<Id> {
    ENTERED.try_with(|entered| entered.borrow().last().cloned()).ok().flatten()
}

fn id(shard: usize, index: usize) -> Id {
    let number = u64::try_from(index * SHARDS + shard).unwrap_or(u64::MAX - 1);
    Id::from_non_zero_u64(NonZeroU64::MIN.saturating_add(number))
}

/// The number of a span's shard, and its place there.
fn place(id: &Id) -> (usize, usize) {
    let number = usize::try_from(id.into_u64() - 1).unwrap_or(usize::MAX);
    (number % SHARDS, number / SHARDS)
}
