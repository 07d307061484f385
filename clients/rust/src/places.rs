//! How many calls are in flight, and how many wait until one of these ends.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// How many calls wait at most, for each call that may be in flight.
const WAITERS_PER_PLACE: usize = 100;

#[derive(Debug)]
pub(crate) struct Places {
    in_flight: usize,
    free: Semaphore,
    free_to_wait: Semaphore,
}

impl Places {
    pub(crate) fn new(in_flight: usize) -> Self {
        let in_flight = in_flight.min(Semaphore::MAX_PERMITS / WAITERS_PER_PLACE);
        let free_to_wait = Semaphore::new(in_flight * WAITERS_PER_PLACE);
        Self { in_flight, free: Semaphore::new(in_flight), free_to_wait }
    }

    /// Waits for a place until `end`. The error says why there is none.
    pub(crate) async fn take(&self, end: Instant) -> Result<SemaphorePermit<'_>, String> {
        if let Ok(place) = self.free.try_acquire() {
            return Ok(place);
        }
        let Ok(_waiter) = self.free_to_wait.try_acquire() else {
            return Err("too many calls wait for others to end".to_owned());
        };
        match timeout_at(end, self.free.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // Nobody closes the semaphore.
            _ => Err(format!("{} other calls were in flight until the deadline", self.in_flight)),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_wait_until_the_deadline_and_a_place_is_given_back() {
        let places = Places::new(1);
        let end = Instant::now() + Duration::from_secs(1);
        let place = places.take(end).await.unwrap();
        let ended = join_all((0..WAITERS_PER_PLACE + 2).map(|_| places.take(end))).await;
        let because = |why| ended.iter().filter(|ended| ended.as_ref().is_err_and(|text| text == why)).count();
        assert_eq!(because("1 other calls were in flight until the deadline"), WAITERS_PER_PLACE);
        assert_eq!(because("too many calls wait for others to end"), 2);
        let later = end + Duration::from_secs(1);
        let (next, ()) = tokio::join!(places.take(later), async { drop(place) });
        assert!(next.is_ok());
    }
}
