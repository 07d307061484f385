//! Bounds the batches of checks that one core decides at once. A batch holds far more memory while it is decided than
//! its request and its answer are long.

use std::time::Duration;

use limiter::Overload;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::attributes::MAX_BATCH_DESCRIPTORS;
use super::rejection::Rejection;
use crate::ports::Unavailable;

/// The most descriptors of batches that one core decides at once: those of the largest batch.
const MAX_DESCRIPTORS: usize = MAX_BATCH_DESCRIPTORS;
/// How long a batch waits until others are decided.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Lets batches in.
pub struct BatchGate(Semaphore);

impl BatchGate {
    pub fn new() -> Self {
        Self(Semaphore::new(MAX_DESCRIPTORS))
    }

    /// Waits until a batch with this many descriptors may be decided. The batch holds the permit until its answer
    /// exists.
    ///
    /// # Errors
    /// The node is overloaded, if too many descriptors are being decided for too long.
    pub async fn enter(&self, descriptors: usize) -> Result<Option<SemaphorePermit<'_>>, Rejection> {
        let busy = Rejection::Unavailable(Unavailable::Overloaded(Overload::TooManyWaiting));
        // Nobody closes the semaphore.
        let permits = u32::try_from(descriptors.clamp(1, MAX_DESCRIPTORS)).unwrap_or(u32::MAX);
        Ok(tokio::time::timeout(MAX_WAIT, self.0.acquire_many(permits)).await.map_err(|_| busy)?.ok())
    }
}

impl Default for BatchGate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_its_turn_and_not_for_ever() {
        let gate = BatchGate::new();
        let small = gate.enter(100).await.unwrap();
        let large = gate.enter(MAX_DESCRIPTORS - 100).await.unwrap();
        assert!(matches!(gate.enter(1).await, Err(Rejection::Unavailable(Unavailable::Overloaded(_)))));
        let (entered, ()) = tokio::join!(gate.enter(100), async { drop(small) });
        assert!(entered.unwrap().is_some());
        drop(large);
        assert!(gate.enter(MAX_DESCRIPTORS + 1).await.unwrap().is_some(), "no batch is too large");
    }
}
