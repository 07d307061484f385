//! An estimate of the store's clock: an offset that is learnt from every reply.
//!
//! `not_after` and calendar bounds use it, and the store checks both. No promise depends on it.

use crate::time::{NodeTime, StoreTime, WallTime};

/// A core that is busy handles a reply at most this late, in microseconds.
const LAG_US: u64 = 1_000_000;
/// A sample older than this, in microseconds, is replaced by any other.
const STALE_US: u64 = 5_000_000;

#[derive(Clone, Copy, Debug)]
pub struct StoreClock {
    /// The store's clock less the node's, in microseconds.
    offset: i128,
    /// The round trip and the instant of the best sample, once the store has answered.
    sample: Option<(u64, NodeTime)>,
    max_round_trip_us: u64,
}

impl StoreClock {
    /// The first estimate is the node's wall clock. A batch takes at most `deadline_us` from its start to its reply.
    pub fn new(wall: WallTime, now: NodeTime, deadline_us: u64) -> Self {
        let max_round_trip_us = deadline_us.saturating_add(LAG_US);
        Self { offset: i128::from(wall.0) - i128::from(now.0), sample: None, max_round_trip_us }
    }

    /// Learns from a batch that was sent at `sent`, ran at `ran`, and had its reply at `now`. The closest sample wins.
    pub fn learn(&mut self, sent: NodeTime, now: NodeTime, ran: StoreTime) {
        let round_trip = now.since(sent);
        if round_trip > self.max_round_trip_us {
            // The node's clock leapt meanwhile, so no earlier sample is right either.
            self.forget();
            return;
        }
        let better = self.sample.is_none_or(|(best, at)| round_trip <= 2 * best + 100 || now.since(at) > STALE_US);
        if better {
            let middle = sent.plus(round_trip / 2);
            self.offset = i128::from(ran.0) - i128::from(middle.0);
            self.sample = Some((round_trip, now));
        }
    }

    /// Lets the next sample count, however long it took.
    pub const fn forget(&mut self) {
        self.sample = None;
    }

    /// True if the store has answered once.
    pub const fn is_known(&self) -> bool {
        self.sample.is_some()
    }

    /// The estimated time of the store when the node's is `node`.
    pub fn at(&self, node: NodeTime) -> StoreTime {
        StoreTime(u64::try_from(i128::from(node.0) + self.offset).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_of_the_nodes_clock_during_a_batch_makes_the_stores_clock_unknown() {
        let mut clock = StoreClock::new(WallTime(0), NodeTime(0), 100_000);
        clock.learn(NodeTime(1000), NodeTime(2000), StoreTime(501_500));
        assert_eq!(clock.at(NodeTime(3000)), StoreTime(503_000));
        // The node's clock leaps ten minutes forward before the reply comes.
        clock.learn(NodeTime(3000), NodeTime(600_004_000), StoreTime(503_500));
        assert!(!clock.is_known());
        clock.learn(NodeTime(600_005_000), NodeTime(600_006_000), StoreTime(505_500));
        assert_eq!(clock.at(NodeTime(600_007_000)), StoreTime(507_000));
    }

    /// The first sample takes 1,000 µs and says that the store's clock is 1 s ahead.
    fn learn_second(sent: u64, round_trip: u64) -> StoreClock {
        let mut clock = StoreClock::new(WallTime(0), NodeTime(0), 100_000);
        clock.learn(NodeTime(1000), NodeTime(2000), StoreTime(1_001_500));
        clock.learn(NodeTime(sent), NodeTime(sent + round_trip), StoreTime(9_000_000 + sent + round_trip / 2));
        clock
    }

    #[test]
    fn a_sample_counts_if_it_is_not_much_worse_than_the_best_or_if_that_is_old() {
        let old = 2000 + STALE_US;
        let cases = [(3000, 2100, true), (3000, 2101, false), (old - 2101, 2101, false), (old + 1 - 2101, 2101, true)];
        for (sent, round_trip, counts) in cases {
            let ahead = if counts { 9_000_000 } else { 1_000_000 };
            let clock = learn_second(sent, round_trip);
            assert_eq!(clock.at(NodeTime(0)), StoreTime(ahead), "{round_trip} microseconds from {sent}");
        }
    }

    #[test]
    fn a_round_trip_as_long_as_a_batch_and_a_busy_core_may_take_is_no_leap_of_the_clock() {
        let longest = 100_000 + LAG_US;
        assert!(learn_second(3000, longest).is_known());
        assert!(!learn_second(3000, longest + 1).is_known());
    }
}
