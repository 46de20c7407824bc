//! A limit on concurrent requests, or on large bodies received at the same time. A request above the limit is rejected at once
//! instead of slowing down the others.

use std::{future::poll_fn, num::NonZeroU32, pin::pin, task::Poll};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Permits that all workers share, and as many places for requests that wait without a permit.
#[derive(Debug)]
pub struct InFlightLimit {
    permits: Semaphore,
    waiting: Semaphore,
}

/// A permit, held until it is dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    limit: &'a InFlightLimit,
    /// `None` while the holder waits, and if no permit is free afterwards.
    held: Option<SemaphorePermit<'a>>,
}

/// All permits are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all permits are taken")]
pub struct NoPermit;

impl InFlightLimit {
    /// A limit with this many permits.
    #[must_use]
    pub fn new(permits: NonZeroU32) -> Self {
        let permits = usize::try_from(permits.get()).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { permits: Semaphore::new(permits), waiting: Semaphore::new(permits) }
    }

    /// A permit, unless all are taken. Never waits.
    pub fn acquire(&self) -> Option<Permit<'_>> {
        let held = self.permits.try_acquire().ok()?;
        Some(Permit { limit: self, held: Some(held) })
    }
}

impl Permit<'_> {
    /// Runs a future to its end. While the future waits, others can use the permit; afterwards it needs a free permit again.
    /// At most as many futures wait as there are permits.
    pub async fn release_while_waiting<T>(&mut self, future: impl Future<Output = T>) -> Result<T, NoPermit> {
        let mut future = pin!(future);
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Ok(output);
        }
        let waiting = self.limit.waiting.try_acquire().map_err(|_| NoPermit)?;
        self.held = None;
        let output = future.await;
        drop(waiting);
        self.held = Some(self.limit.permits.try_acquire().map_err(|_| NoPermit)?);
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn limit(permits: u32) -> InFlightLimit {
        InFlightLimit::new(NonZeroU32::new(permits).unwrap())
    }

    #[test]
    fn there_are_as_many_permits_as_made_and_each_can_be_acquired_again() {
        let limit = limit(2);
        let first = limit.acquire().unwrap();
        let second = limit.acquire().unwrap();
        assert!(limit.acquire().is_none());
        drop(first);
        let third = limit.acquire().unwrap();
        assert!(limit.acquire().is_none());
        drop((second, third));
        assert!(limit.acquire().is_some());
    }

    #[test]
    fn a_permit_is_free_for_others_while_its_holder_waits_and_taken_again_after() {
        let limit = limit(1);
        let mut permit = limit.acquire().unwrap();
        let (done, wait) = oneshot::channel();
        let mut waiting = Box::pin(permit.release_while_waiting(wait));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(limit.acquire().unwrap());
        done.send(7).unwrap();
        assert_eq!(waiting.as_mut().now_or_never(), Some(Ok(Ok(7))));
        drop(waiting);
        assert!(limit.acquire().is_none());
        drop(permit);
        assert!(limit.acquire().is_some());
    }

    #[test]
    fn a_holder_that_does_not_wait_keeps_the_permit() {
        let limit = limit(1);
        let mut permit = limit.acquire().unwrap();
        assert_eq!(permit.release_while_waiting(ready(1)).now_or_never(), Some(Ok(1)));
        assert!(limit.acquire().is_none());
    }

    #[test]
    fn only_as_many_wait_as_there_are_permits() {
        let limit = limit(1);
        let mut first = limit.acquire().unwrap();
        let mut waiting = Box::pin(first.release_while_waiting(pending::<()>()));
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut second = limit.acquire().unwrap();
        assert_eq!(second.release_while_waiting(pending::<()>()).now_or_never(), Some(Err(NoPermit)));
        drop((waiting, second));
        let mut third = limit.acquire().unwrap();
        assert_eq!(third.release_while_waiting(pending::<()>()).now_or_never(), None);
    }

    #[test]
    fn a_holder_is_rejected_if_no_permit_is_free_after_the_wait() {
        let limit = limit(1);
        let mut permit = limit.acquire().unwrap();
        let (done, wait) = oneshot::channel();
        let mut waiting = Box::pin(permit.release_while_waiting(wait));
        assert!(waiting.as_mut().now_or_never().is_none());
        let _other = limit.acquire().unwrap();
        done.send(()).unwrap();
        assert_eq!(waiting.as_mut().now_or_never(), Some(Err(NoPermit)));
    }
}
