//! How full a counter was over time, as its limit sees it: what drawings show.

use super::faults::Instant;
use super::oracle::Hit;
use super::run::most;
use limiter::rules::{Algorithm, Limit, Quota};

/// From an instant on so many admitted hits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub at: Instant,
    pub hits: u64,
    /// So many of them were admitted without the store.
    pub alone: u64,
}

/// The levels of a counter with this algorithm and window, in microseconds. A hit counts until its window ends; with `rolling_window` and `token_bucket`, for a window's
/// length.
pub fn levels(algorithm: Algorithm, window: u64, hits: &[Hit]) -> Vec<Level> {
    let lasts = |hit: &Hit| match algorithm {
        Algorithm::FixedWindow | Algorithm::SlidingWindow => window - hit.to % window,
        Algorithm::RollingWindow | Algorithm::TokenBucket => window,
    };
    let mut changes: Vec<(Instant, bool, &Hit)> = Vec::new();
    for hit in hits {
        changes.extend([(hit.answered, true, hit), (hit.answered.saturating_add(lasts(hit)), false, hit)]);
    }
    // What ends at an instant makes room for what begins at it.
    changes.sort_by_key(|(at, begins, _)| (*at, *begins));
    let (mut count, mut alone) = (0u64, 0u64);
    let mut levels: Vec<Level> = Vec::new();
    for (at, begins, hit) in changes {
        let own = if hit.degraded { hit.hits } else { 0 };
        (count, alone) =
            if begins { (count + hit.hits, alone + own) } else { (count - hit.hits, alone.saturating_sub(own)) };
        levels.push(Level { at, hits: count, alone });
    }
    levels
}

/// The level that a counter may have: its limit, and with a bucket what refills within a window besides.
pub fn line(limit: &Limit) -> u64 {
    match (limit.algorithm, limit.limit) {
        (Algorithm::TokenBucket, Quota::Hits(hits)) => most(limit).saturating_add(hits),
        _ => most(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_counts_until_its_window_ends_or_for_its_length() {
        let hit =
            |answered, hits, degraded| Hit { asked: 0, answered, from: 0, to: 5_000_000 + answered, hits, degraded };
        let hits = [hit(400_000, 3, false), hit(900_000, 2, true)];
        let of =
            |algorithm| levels(algorithm, 1_000_000, &hits).iter().map(|l| (l.at, l.hits, l.alone)).collect::<Vec<_>>();
        assert_eq!(
            of(Algorithm::FixedWindow),
            [(400_000, 3, 0), (900_000, 5, 2), (1_000_000, 2, 2), (1_000_000, 0, 0)]
        );
        assert_eq!(
            of(Algorithm::RollingWindow),
            [(400_000, 3, 0), (900_000, 5, 2), (1_400_000, 2, 2), (1_900_000, 0, 0)]
        );
    }
}
