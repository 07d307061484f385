//! Bounds the batches of checks that one core decides at once. A batch holds far more memory while it is decided than
//! its request and its answer are long.

use std::time::Duration;

use limiter::Overload;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::attributes::MAX_BATCH_DESCRIPTORS;
use super::rejection::Rejection;
use super::waiting_room::WaitingRoom;
use crate::ports::Unavailable;

/// The most descriptors of batches that one core decides at once: those of the largest batch.
const MAX_DESCRIPTORS: usize = MAX_BATCH_DESCRIPTORS;
/// How long a batch waits until others are decided.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// The memory of the batches of one core that wait.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Lets batches in.
pub struct BatchGate {
    descriptors: Semaphore,
    waiting: WaitingRoom,
}

impl BatchGate {
    pub const fn new() -> Self {
        Self { descriptors: Semaphore::const_new(MAX_DESCRIPTORS), waiting: WaitingRoom::new(MAX_WAITING_BYTES) }
    }

    /// Waits until a batch with this many descriptors may be decided. The batch holds the permit until its answer
    /// exists. `bytes` is the memory that it takes until then.
    ///
    /// # Errors
    /// The node is overloaded: too many descriptors are being decided for too long, or the batches that wait take too
    /// much memory.
    pub async fn enter(
        &self,
        descriptors: usize,
        bytes: impl FnOnce() -> usize,
    ) -> Result<Option<SemaphorePermit<'_>>, Rejection> {
        let busy = Rejection::Unavailable(Unavailable::Overloaded(Overload::TooManyWaiting));
        // Nobody closes the semaphore.
        let permits = u32::try_from(descriptors.clamp(1, MAX_DESCRIPTORS)).unwrap_or(u32::MAX);
        if let Ok(permit) = self.descriptors.try_acquire_many(permits) {
            return Ok(Some(permit));
        }
        let Some(_waits) = self.waiting.enter(bytes()) else { return Err(busy) };
        Ok(tokio::time::timeout(MAX_WAIT, self.descriptors.acquire_many(permits)).await.map_err(|_| busy)?.ok())
    }
}

impl Default for BatchGate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_its_turn_and_not_for_ever() {
        let gate = BatchGate::new();
        let small = gate.enter(100, || 0).await.unwrap();
        let large = gate.enter(MAX_DESCRIPTORS - 100, || 0).await.unwrap();
        assert!(matches!(gate.enter(1, || 0).await, Err(Rejection::Unavailable(Unavailable::Overloaded(_)))));
        let (entered, ()) = tokio::join!(gate.enter(100, || 0), async { drop(small) });
        assert!(entered.unwrap().is_some());
        drop(large);
        assert!(gate.enter(MAX_DESCRIPTORS + 1, || 0).await.unwrap().is_some(), "no batch is too large");
    }

    #[tokio::test]
    async fn batches_that_wait_take_a_bounded_memory() {
        let gate = BatchGate::new();
        let all = gate.enter(MAX_DESCRIPTORS, || MAX_WAITING_BYTES).await.unwrap();
        let enter = || Box::pin(gate.enter(1, || MAX_WAITING_BYTES / 4 - 1024));
        let mut four = [enter(), enter(), enter(), enter()];
        assert!(four.iter_mut().all(|entering| entering.now_or_never().is_none()), "they wait");
        assert!(matches!(enter().now_or_never(), Some(Err(_))), "a fifth is rejected at once");
        drop(four);
        assert!(enter().now_or_never().is_none(), "one that waits no more makes room");
        drop(all);
        assert!(gate.enter(1, || MAX_WAITING_BYTES * 2).await.is_ok(), "one that need not wait is not bounded by it");
    }
}
