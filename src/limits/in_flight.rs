//! How many requests are worked on, or large bodies received, at once. One more is turned away at once, which costs next
//! to nothing, instead of making all of them late.

use std::num::NonZeroU32;

use tokio::sync::{Semaphore, SemaphorePermit};

/// A number of places, shared by all workers.
#[derive(Debug)]
pub struct InFlightLimit(Semaphore);

/// A place, taken until it is dropped.
#[derive(Debug)]
pub struct Place<'a>(#[expect(dead_code, reason = "held for its drop")] SemaphorePermit<'a>);

impl InFlightLimit {
    /// So many places.
    #[must_use]
    pub fn new(places: NonZeroU32) -> Self {
        let places = usize::try_from(places.get()).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))
    }

    /// A place, unless all are taken. Never waits.
    pub fn take_place(&self) -> Option<Place<'_>> {
        self.0.try_acquire().ok().map(Place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_places_as_were_made_and_each_is_given_again() {
        let limit = InFlightLimit::new(NonZeroU32::new(2).unwrap());
        let first = limit.take_place().unwrap();
        let second = limit.take_place().unwrap();
        assert!(limit.take_place().is_none());
        drop(first);
        let third = limit.take_place().unwrap();
        assert!(limit.take_place().is_none());
        drop((second, third));
        assert!(limit.take_place().is_some());
    }
}
