//! Which batches a record has taken returns of: the repeat of one gives nothing back a second time.

use serde::{Deserialize, Serialize};

use super::time::StoreTime;

/// Nonces kept at most. More batches than that within their time give nothing back: too strict, never too lax.
const MAX: usize = 64;

/// Nonces, each until its batch can run no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats(Vec<(u64, StoreTime)>);

impl Repeats {
    /// Forgets the batches that can run no more.
    pub fn prune(&mut self, now: StoreTime) {
        self.0.retain(|(_, end)| *end >= now);
    }

    /// Whether the returns of batch `nonce` may be taken. A batch that has no end could run again at any time, so its
    /// returns never are.
    pub fn is_first(&mut self, nonce: u64, not_after: Option<StoreTime>) -> bool {
        let Some(end) = not_after else { return false };
        let first = self.0.len() < MAX && self.0.iter().all(|(taken, _)| *taken != nonce);
        if first {
            self.0.push((nonce, end));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_first_once_whatever_came_between() {
        let mut repeats = Repeats::default();
        let end = Some(StoreTime(100));
        for nonce in 1..=MAX as u64 {
            assert!(repeats.is_first(nonce, end));
        }
        repeats.prune(StoreTime(100));
        assert!(!repeats.is_first(1, end));
        assert_eq!(repeats.0.len(), MAX);
        assert!(!repeats.is_first(999, end), "as many as are kept are in their time");
        repeats.prune(StoreTime(101));
        assert!(repeats.is_first(999, Some(StoreTime(300))));
        assert_eq!(repeats.0.len(), 1);
        assert!(!repeats.is_first(1000, None));
    }
}
