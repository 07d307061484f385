//! How many tokens a key takes in advance: what it will spend within one lease, learnt from what it spent.
//!
//! A key starts at none, so a key that is hit once costs one call and leaves no tokens behind. A busy key grows at most
//! fourfold a call, until one call lasts for a lease.

use crate::time::NodeTime;

/// Smaller leases are not refilled ahead of need.
const REFILL_FROM: u32 = 8;

/// Learns what a key spends.
#[derive(Clone, Copy, Debug)]
pub struct Prefetcher {
    /// Tokens wanted last time.
    want: u32,
    /// Tokens spent since `since`.
    spent: u32,
    since: NodeTime,
    refill: Refill,
}

/// A refill ahead of need: at most one for each lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refill {
    Unneeded,
    /// The next item asks for it.
    Wanted,
    /// An item has asked for it and has no reply yet.
    Asked,
}

impl Prefetcher {
    /// Nothing was spent yet.
    pub const NEW: Self = Self { want: 0, spent: 0, since: NodeTime(0), refill: Refill::Unneeded };

    /// True if the next item should ask for a refill.
    pub fn wants_refill(&self) -> bool {
        self.refill == Refill::Wanted
    }

    pub const fn spend(&mut self, hits: u32) {
        self.spent = self.spent.saturating_add(hits);
    }

    /// Tokens to ask for now, for a lease of `lease_us`, while the key still holds `held`.
    pub fn want(&mut self, held: u32, lease_us: u64, now: NodeTime) -> u32 {
        let elapsed = now.since(self.since).max(1);
        let grown = self.want.max(1).saturating_mul(4);
        let expected = u128::from(self.spent) * u128::from(lease_us) / u128::from(elapsed);
        self.want = u32::try_from(expected).unwrap_or(u32::MAX).min(grown);
        if elapsed > lease_us {
            (self.spent, self.since) = (0, now);
        }
        if self.refill == Refill::Wanted {
            self.refill = Refill::Asked;
        }
        self.want.saturating_sub(held)
    }

    /// A lease was granted: spending is measured anew from here.
    pub const fn granted(&mut self, now: NodeTime) {
        (self.spent, self.since, self.refill) = (0, now, Refill::Unneeded);
    }

    /// Returns true, once for each lease, when `held` runs low and the key should ask for more.
    pub fn refill(&mut self, held: u32) -> bool {
        let low = self.want >= REFILL_FROM && held < self.want / 4 && self.refill == Refill::Unneeded;
        if low {
            self.refill = Refill::Wanted;
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_US: u64 = 1_000_000;

    #[test]
    fn a_key_with_one_check_takes_no_lease() {
        let mut prefetcher = Prefetcher::NEW;
        assert_eq!(prefetcher.want(0, LEASE_US, NodeTime(50 * LEASE_US)), 0);
    }

    #[test]
    fn the_lease_of_a_busy_key_grows_to_what_it_spends_in_one_lease_time() {
        let mut prefetcher = Prefetcher::NEW;
        let (mut now, mut wants) = (NodeTime(50 * LEASE_US), Vec::new());
        for _ in 0..10 {
            wants.push(prefetcher.want(0, LEASE_US, now));
            prefetcher.granted(now);
            let lease = *wants.last().unwrap();
            // 1,000 hits a second: one each millisecond until the lease is spent.
            (0..=lease).for_each(|_| prefetcher.spend(1));
            now = now.plus(1000 * u64::from(lease + 1));
        }
        assert_eq!(wants[..6], [0, 4, 16, 64, 256, 1000]);
        assert_eq!(wants[9], 1000);
    }

    #[test]
    fn a_key_with_fewer_checks_takes_a_smaller_lease() {
        let mut prefetcher = Prefetcher { want: 1000, ..Prefetcher::NEW };
        prefetcher.granted(NodeTime(0));
        prefetcher.spend(10);
        assert_eq!(prefetcher.want(0, LEASE_US, NodeTime(2 * LEASE_US)), 5);
    }

    #[test]
    fn a_refill_is_requested_once() {
        let mut prefetcher = Prefetcher { want: 100, ..Prefetcher::NEW };
        assert!(!prefetcher.refill(25));
        assert!(prefetcher.refill(24));
        assert!(!prefetcher.refill(23));
    }

    #[test]
    fn a_refill_is_wanted_until_an_item_asks_for_it_and_low_tokens_count_again_after_the_next_lease() {
        let mut prefetcher = Prefetcher { want: 100, ..Prefetcher::NEW };
        assert!(!prefetcher.wants_refill());
        prefetcher.refill(24);
        assert!(prefetcher.wants_refill());
        prefetcher.spend(100);
        assert_eq!(prefetcher.want(24, LEASE_US, NodeTime(LEASE_US)), 76);
        assert!(!prefetcher.wants_refill(), "an item has asked");
        assert!(!prefetcher.refill(0), "the item has no reply yet");
        prefetcher.granted(NodeTime(LEASE_US));
        assert!(prefetcher.refill(24));
    }

    #[test]
    fn what_was_spent_is_measured_anew_after_more_than_a_lease_time() {
        for (elapsed, first, second) in [(LEASE_US / 2, 1200, 300), (LEASE_US, 600, 300), (LEASE_US + 1, 599, 0)] {
            let mut prefetcher = Prefetcher { want: 1000, ..Prefetcher::NEW };
            prefetcher.granted(NodeTime(0));
            prefetcher.spend(600);
            assert_eq!(prefetcher.want(0, LEASE_US, NodeTime(elapsed)), first);
            assert_eq!(prefetcher.want(0, LEASE_US, NodeTime(2 * LEASE_US)), second, "after {elapsed} microseconds");
        }
    }
}
