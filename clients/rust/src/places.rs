//! How many calls are in flight, and how many wait until one of these ends.

#![expect(clippy::disallowed_methods, reason = "a client runs in other programs, without the node's Clock port")]

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// How many calls wait at most, for each call that may be in flight.
const WAITERS_PER_PLACE: usize = 100;

#[derive(Debug)]
pub(crate) struct Places {
    in_flight: usize,
    least: Duration,
    free: Semaphore,
    free_to_wait: Semaphore,
}

impl Places {
    /// Returns places for `in_flight` calls. A call that waited needs a time of at least `least`.
    pub(crate) fn new(in_flight: usize, least: Duration) -> Self {
        let in_flight = in_flight.min(Semaphore::MAX_PERMITS / WAITERS_PER_PLACE);
        let free_to_wait = Semaphore::new(in_flight * WAITERS_PER_PLACE);
        Self { in_flight, least, free: Semaphore::new(in_flight), free_to_wait }
    }

    /// Waits for a place until `end`. A place that comes too late is given back. The error says why there is none.
    pub(crate) async fn take(&self, end: Instant) -> Result<SemaphorePermit<'_>, String> {
        if let Ok(place) = self.free.try_acquire() {
            return Ok(place);
        }
        let Ok(_waiter) = self.free_to_wait.try_acquire() else {
            return Err("too many calls wait for others to end".to_owned());
        };
        match timeout_at(end, self.free.acquire()).await {
            Ok(Ok(place)) if Instant::now() + self.least <= end => Ok(place),
            // Nobody closes the semaphore.
            _ => Err(format!("{} other calls were in flight until the deadline was near", self.in_flight)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_wait_until_the_deadline_and_a_place_is_given_back() {
        let places = Places::new(1, Duration::ZERO);
        let end = Instant::now() + Duration::from_secs(1);
        let place = places.take(end).await.unwrap();
        let ended = join_all((0..WAITERS_PER_PLACE + 2).map(|_| places.take(end))).await;
        let because = |why| ended.iter().filter(|ended| ended.as_ref().is_err_and(|text| text == why)).count();
        assert_eq!(because("1 other calls were in flight until the deadline was near"), WAITERS_PER_PLACE);
        assert_eq!(because("too many calls wait for others to end"), 2);
        let later = end + Duration::from_secs(1);
        let (next, ()) = tokio::join!(places.take(later), async { drop(place) });
        assert!(next.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_comes_too_late_is_given_back() {
        let places = Places::new(1, Duration::from_secs(1));
        for (passed, in_time) in [(3, true), (4, false)] {
            let end = Instant::now() + Duration::from_millis(4500);
            let place = places.take(end).await.unwrap();
            let pass = async {
                drop(place);
                advance(Duration::from_secs(passed)).await;
            };
            let (next, ()) = tokio::join!(places.take(end), pass);
            assert_eq!(next.is_ok(), in_time, "{passed}");
        }
        assert_eq!(places.free.available_permits(), 1);
    }
}
