//! How many requests are worked on, or large bodies received, at once. One more is turned away at once, which costs next
//! to nothing, instead of making all of them late.

use std::{future::poll_fn, num::NonZeroU32, pin::pin, task::Poll};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A number of places, shared by all workers; and as many for those that wait outside of them.
#[derive(Debug)]
pub struct InFlightLimit {
    places: Semaphore,
    waiting: Semaphore,
}

/// A place, taken until it is dropped.
#[derive(Debug)]
pub struct Place<'a> {
    limit: &'a InFlightLimit,
    /// Absent only while its holder waits outside, and when there was no place to come back to.
    held: Option<SemaphorePermit<'a>>,
}

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all places are taken")]
pub struct NoPlace;

impl InFlightLimit {
    /// So many places.
    #[must_use]
    pub fn new(places: NonZeroU32) -> Self {
        let places = usize::try_from(places.get()).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { places: Semaphore::new(places), waiting: Semaphore::new(places) }
    }

    /// A place, unless all are taken. Never waits.
    pub fn take_place(&self) -> Option<Place<'_>> {
        let held = self.places.try_acquire().ok()?;
        Some(Place { limit: self, held: Some(held) })
    }
}

impl Place<'_> {
    /// Runs a future to its end. If the future has to wait, the place is free for others until then: at most as many
    /// futures wait outside as there are places, and each needs a place again when it is done.
    pub async fn leave_while_waiting<T>(&mut self, future: impl Future<Output = T>) -> Result<T, NoPlace> {
        let mut future = pin!(future);
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Ok(output);
        }
        let waiting = self.limit.waiting.try_acquire().map_err(|_| NoPlace)?;
        self.held = None;
        let output = future.await;
        drop(waiting);
        self.held = Some(self.limit.places.try_acquire().map_err(|_| NoPlace)?);
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn limit(places: u32) -> InFlightLimit {
        InFlightLimit::new(NonZeroU32::new(places).unwrap())
    }

    #[test]
    fn there_are_as_many_places_as_were_made_and_each_is_given_again() {
        let limit = limit(2);
        let first = limit.take_place().unwrap();
        let second = limit.take_place().unwrap();
        assert!(limit.take_place().is_none());
        drop(first);
        let third = limit.take_place().unwrap();
        assert!(limit.take_place().is_none());
        drop((second, third));
        assert!(limit.take_place().is_some());
    }

    #[test]
    fn a_place_is_free_for_others_while_its_holder_waits_and_taken_again_after() {
        let limit = limit(1);
        let mut place = limit.take_place().unwrap();
        let (done, wait) = oneshot::channel();
        let mut waiting = Box::pin(place.leave_while_waiting(wait));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(limit.take_place().unwrap());
        done.send(7).unwrap();
        assert_eq!(waiting.as_mut().now_or_never(), Some(Ok(Ok(7))));
        drop(waiting);
        assert!(limit.take_place().is_none());
        drop(place);
        assert!(limit.take_place().is_some());
    }

    #[test]
    fn a_holder_who_need_not_wait_keeps_the_place() {
        let limit = limit(1);
        let mut place = limit.take_place().unwrap();
        assert_eq!(place.leave_while_waiting(ready(1)).now_or_never(), Some(Ok(1)));
        assert!(limit.take_place().is_none());
    }

    #[test]
    fn only_as_many_wait_as_there_are_places() {
        let limit = limit(1);
        let mut first = limit.take_place().unwrap();
        let mut waiting = Box::pin(first.leave_while_waiting(pending::<()>()));
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut second = limit.take_place().unwrap();
        assert_eq!(second.leave_while_waiting(pending::<()>()).now_or_never(), Some(Err(NoPlace)));
        drop((waiting, second));
        let mut third = limit.take_place().unwrap();
        assert_eq!(third.leave_while_waiting(pending::<()>()).now_or_never(), None);
    }

    #[test]
    fn who_comes_back_when_all_places_are_taken_is_turned_away() {
        let limit = limit(1);
        let mut place = limit.take_place().unwrap();
        let (done, wait) = oneshot::channel();
        let mut waiting = Box::pin(place.leave_while_waiting(wait));
        assert!(waiting.as_mut().now_or_never().is_none());
        let _other = limit.take_place().unwrap();
        done.send(()).unwrap();
        assert_eq!(waiting.as_mut().now_or_never(), Some(Err(NoPlace)));
    }
}
