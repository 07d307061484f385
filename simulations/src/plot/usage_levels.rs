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

/// The steps in which the hits of an older cell of a sliding window lose their weight here.
const STEPS: u64 = 8;

/// Returns the levels of a counter. `window` is in microseconds. A hit counts until its window ends, or for the length
/// of a window with `rolling_window` and `token_bucket`. With `sliding_window` it loses its weight in the window after
/// its own; a `small` limit forgets it after the length of a window.
pub fn levels(algorithm: Algorithm, small: bool, window: u64, hits: &[AdmittedHits]) -> Vec<Level> {
    // When hits begin or cease to count: the instant, and the change in parts of a hit.
    let mut changes: Vec<(Instant, i64, &AdmittedHits)> = Vec::new();
    for hit in hits {
        let (steps, hits) = (STEPS as i64, i64::try_from(hit.hits).unwrap_or(i64::MAX / 16));
        let (begin, end) = (hit.answered_at, hit.answered_at.saturating_add(window - hit.to % window));
        let leaves = hit.answered_at.saturating_add(window);
        changes.push((begin, hits * steps, hit));
        match algorithm {
            Algorithm::FixedWindow => changes.push((end, -hits * steps, hit)),
            Algorithm::RollingWindow | Algorithm::TokenBucket => changes.push((leaves, -hits * steps, hit)),
            Algorithm::SlidingWindow => {
                let latest = if small { leaves } else { Instant::MAX };
                let step = |at: u64| end.saturating_add(window * at / STEPS).min(latest);
                changes.extend((1..=STEPS).map(|at| (step(at), -hits, hit)));
            }
        }
    }
    // At one instant, hits that no longer count are removed before new hits are added.
    changes.sort_by_key(|(at, change, _)| (*at, *change > 0));
    let (mut count, mut degraded) = (0i64, 0i64);
    let mut levels: Vec<Level> = Vec::new();
    for (at, change, hit) in changes {
        count += change;
        degraded += if hit.degraded { change } else { 0 };
        let whole = |parts: i64| u64::try_from(parts).unwrap_or(0).div_ceil(STEPS);
        levels.push(Level { at, hits: whole(count), degraded: whole(degraded) });
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
        let of = |algorithm, small| {
            levels(algorithm, small, 1_000_000, &hits).iter().map(|l| (l.at, l.hits, l.degraded)).collect::<Vec<_>>()
        };
        assert_eq!(
            of(Algorithm::FixedWindow, false),
            [(400_000, 3, 0), (900_000, 5, 2), (1_000_000, 2, 2), (1_000_000, 0, 0)]
        );
        assert_eq!(
            of(Algorithm::RollingWindow, false),
            [(400_000, 3, 0), (900_000, 5, 2), (1_400_000, 2, 2), (1_900_000, 0, 0)]
        );
        // Three hits until their window ends at 1.0 s, and all gone one window later.
        let sliding = of(Algorithm::SlidingWindow, false);
        let level = |levels: &[(u64, u64, u64)], at: u64| levels.iter().rfind(|l| l.0 <= at).map(|l| l.1);
        assert_eq!([999_999, 1_124_999, 1_500_000, 1_999_999].map(|at| level(&sliding, at)), [5, 5, 3, 1].map(Some));
        assert_eq!(level(&sliding, 2_000_000), Some(0));
        // A small limit knows when they came.
        let small = of(Algorithm::SlidingWindow, true);
        assert_eq!([1_124_999, 1_400_000, 1_899_999, 1_900_000].map(|at| level(&small, at)), [5, 2, 1, 0].map(Some));
    }
}
