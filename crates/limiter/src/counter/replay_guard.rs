//! Which batches a record has taken returns and debts of: the repeat of one has no effect a second time.

use serde::{Deserialize, Serialize};

use crate::time::StoreTime;

/// Holders kept at most. What further ones bring back within their time is lost: too strict, never too lax.
const MAX: usize = 64;

/// The number of each holder's last batch whose returns were taken, until none of them can run any more.
///
/// A holder has one batch under way for a key at a time, so one that comes behind a later one was given up, or is a repeat:
/// its returns are not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats(Vec<Taken>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    holder: u64,
    number: u64,
    end: StoreTime,
}

impl Repeats {
    /// Forgets the batches that can run no more.
    pub fn prune(&mut self, now: StoreTime) {
        self.0.retain(|taken| taken.end >= now);
    }

    /// Whether it remembers nothing.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the returns of this batch may be taken. A batch that has no end could run again at any time, so its
    /// returns never are.
    pub fn is_first(&mut self, holder: u64, number: u64, not_after: Option<StoreTime>) -> bool {
        let Some(end) = not_after else { return false };
        let room = self.0.len() < MAX;
        match self.0.iter_mut().find(|taken| taken.holder == holder) {
            Some(last) if number > last.number => {
                *last = Taken { holder, number, end: last.end.max(end) };
                true
            }
            Some(_) => false,
            None => {
                if room {
                    self.0.push(Taken { holder, number, end });
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
    fn a_batch_is_first_once_whatever_came_between() {
        let mut repeats = Repeats::default();
        let end = Some(StoreTime(100));
        for holder in 1..=MAX as u64 {
            assert!(repeats.is_first(holder, 7, end));
        }
        assert!(!repeats.is_first(1, 7, end));
        assert!(repeats.is_first(1, 8, Some(StoreTime(50))));
        assert!(!repeats.is_first(1, 7, end), "behind a later one");
        assert!(!repeats.is_first(999, 1, end), "as many holders as are kept are in their time");
        repeats.prune(StoreTime(100));
        assert_eq!(repeats.0.len(), MAX, "the earlier batch can still run");
        repeats.prune(StoreTime(101));
        assert!(repeats.is_first(999, 1, Some(StoreTime(300))));
        assert_eq!(repeats.0.len(), 1);
        assert!(!repeats.is_first(1000, 1, None));
    }
}
