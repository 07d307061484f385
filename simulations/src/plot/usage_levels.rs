//! How full a counter was over time, as its limit counts.

use crate::ids::Instant;
use crate::oracle::AdmittedHits;
use crate::scenario::capacity;
use limiter::rules::{Algorithm, Limit, Quota};

/// The number of admitted hits that count from an instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub at: Instant,
    pub hits: u64,
    /// The part of `hits` that was admitted without the store.
    pub degraded: u64,
}

/// Returns the levels of a counter. `window` is in microseconds. A hit counts until its window ends, or for the length
/// of a window with `rolling_window` and `token_bucket`.
pub fn levels(algorithm: Algorithm, window: u64, hits: &[AdmittedHits]) -> Vec<Level> {
    let lasts = |hit: &AdmittedHits| match algorithm {
        Algorithm::FixedWindow | Algorithm::SlidingWindow => window - hit.to % window,
        Algorithm::RollingWindow | Algorithm::TokenBucket => window,
    };
    let mut changes: Vec<(Instant, bool, &AdmittedHits)> = Vec::new();
    for hit in hits {
        changes.extend([(hit.answered_at, true, hit), (hit.answered_at.saturating_add(lasts(hit)), false, hit)]);
    }
    // At one instant, hits that no longer count are removed before new hits are added.
    changes.sort_by_key(|(at, begins, _)| (*at, *begins));
    let (mut count, mut degraded) = (0u64, 0u64);
    let mut levels: Vec<Level> = Vec::new();
    for (at, begins, hit) in changes {
        let own = if hit.degraded { hit.hits } else { 0 };
        (count, degraded) =
            if begins { (count + hit.hits, degraded + own) } else { (count - hit.hits, degraded.saturating_sub(own)) };
        levels.push(Level { at, hits: count, degraded });
    }
    levels
}

/// Returns the largest level that a limit allows: its capacity, and for a bucket also the refill of one window.
pub fn allowed_level(limit: &Limit) -> u64 {
    match (limit.algorithm, limit.limit) {
        (Algorithm::TokenBucket, Quota::Hits(hits)) => capacity(limit).saturating_add(hits),
        _ => capacity(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_counts_until_its_window_ends_or_for_the_length_of_a_window() {
        let hit = |answered, hits, degraded| AdmittedHits {
            sent_at: 0,
            answered_at: answered,
            from: 0,
            to: 5_000_000 + answered,
            hits,
            degraded,
        };
        let hits = [hit(400_000, 3, false), hit(900_000, 2, true)];
        let of = |algorithm| {
            levels(algorithm, 1_000_000, &hits).iter().map(|l| (l.at, l.hits, l.degraded)).collect::<Vec<_>>()
        };
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
