//! Bounds the memory of requests that wait before the limiter is asked about them.

use tokio::sync::{Semaphore, SemaphorePermit};

const KIB: usize = 1024;

/// Memory for the requests of one core that wait for the same thing.
pub struct WaitingRoom(Semaphore);

impl WaitingRoom {
    /// Returns a room for requests of `bytes` together.
    pub const fn new(bytes: usize) -> Self {
        Self(Semaphore::const_new(bytes / KIB))
    }

    /// Takes the memory of a request, until the permit is dropped. Returns `None` if there is not so much left.
    pub fn enter(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        // Each request takes some memory beside what it says.
        let kib = u32::try_from(1 + bytes / KIB).unwrap_or(u32::MAX);
        self.0.try_acquire_many(kib).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_enter_while_there_is_memory_for_them() {
        let room = WaitingRoom::new(10 * KIB);
        let large = room.enter(7 * KIB).unwrap();
        let small = room.enter(100).unwrap();
        assert!(room.enter(KIB).is_none(), "a request of 1 KiB takes two");
        drop(small);
        assert!(room.enter(KIB).is_some());
        drop(large);
        assert!(room.enter(usize::MAX).is_none());
        assert!(room.enter(9 * KIB).is_some());
    }
}
