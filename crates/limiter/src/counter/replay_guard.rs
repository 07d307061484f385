//! Which batches a record has applied the returns and debts of, so that a repeated batch has no effect.

use serde::{Deserialize, Serialize};

use crate::ids::{BatchId, HolderId};
use crate::time::StoreTime;

/// Holders kept at most. The returns and debts of further holders are not applied: too strict, never too lax.
pub const MAX_HOLDERS: usize = 64;

/// The last batch of each holder whose returns were applied, until no earlier batch can run any more.
///
/// A holder has one batch in flight for a key. A batch that comes after a later one was therefore given up by its
/// holder, or is a repeat: its returns are not applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayGuard(Vec<AppliedBatch>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AppliedBatch {
    holder: HolderId,
    batch: BatchId,
    end: StoreTime,
}

impl ReplayGuard {
    /// Forgets batches that can run no more.
    pub fn prune(&mut self, now: StoreTime) {
        self.0.retain(|applied| applied.end >= now);
    }

    /// True if it remembers no batch.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true, once, if the returns of this batch may be applied. A batch without an end could run again at any
    /// time, so its returns never are.
    pub fn accept(&mut self, holder: HolderId, batch: BatchId, not_after: Option<StoreTime>) -> bool {
        let Some(end) = not_after else { return false };
        let room = self.0.len() < MAX_HOLDERS;
        match self.0.iter_mut().find(|applied| applied.holder == holder) {
            Some(last) if batch > last.batch => {
                *last = AppliedBatch { holder, batch, end: last.end.max(end) };
                true
            }
            Some(_) => false,
            None => {
                if room {
                    self.0.push(AppliedBatch { holder, batch, end });
                }
                room
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_accepted_once_regardless_of_batches_in_between() {
        let mut guard = ReplayGuard::default();
        let end = Some(StoreTime(100));
        for holder in 1..=MAX_HOLDERS as u64 {
            assert!(guard.accept(HolderId(holder), BatchId(7), end));
        }
        assert!(!guard.accept(HolderId(1), BatchId(7), end));
        assert!(guard.accept(HolderId(1), BatchId(8), Some(StoreTime(50))));
        assert!(!guard.accept(HolderId(1), BatchId(7), end), "it comes after a later batch");
        assert!(
            !guard.accept(HolderId(999), BatchId(1), end),
            "the guard is full with holders whose batches can still run"
        );
        guard.prune(StoreTime(100));
        assert_eq!(guard.0.len(), MAX_HOLDERS, "the earlier batch can still run");
        guard.prune(StoreTime(101));
        assert!(guard.accept(HolderId(999), BatchId(1), Some(StoreTime(300))));
        assert_eq!(guard.0.len(), 1);
        assert!(!guard.accept(HolderId(1000), BatchId(1), None));
    }
}
