//! `on_store_failure: local`: this holder's share of a limit while the store does not answer.
//!
//! Per window (limit − what was last seen used) ÷ holders, or a bucket of that part of rate and burst. All holders
//! together admit at most one further limit per outage and window.

use super::batch::BucketSeen;
use super::effective::{Effective, Shape};
use super::time::StoreTime;
use super::token_bucket::{Bucket, Rate, Ticks};
use super::window::Cell;

/// What this holder may still admit of one counter during an outage.
#[derive(Clone, Debug)]
pub enum LocalShare {
    Window { cell_ms: u64, left: u64 },
    Bucket(Bucket),
}

/// What the node last saw of the counter.
#[derive(Clone, Copy, Debug)]
pub enum LastSeen<'a> {
    Nothing,
    Window(&'a [Cell]),
    Bucket(BucketSeen),
}

impl LocalShare {
    /// The share that begins at `now`; `None` where no calendar reaches.
    pub fn new(effective: &Effective, seen: LastSeen<'_>, divisor: u32, now: StoreTime) -> Option<Self> {
        let divisor = divisor.max(1);
        let Some(grid) = effective.grid(now) else {
            return matches!(effective.shape, Shape::Bucket).then(|| Self::bucket(effective, seen, divisor, now));
        };
        let place = grid.place(now)?;
        let used = if let LastSeen::Window(cells) = seen { grid.used(cells, &place, now) } else { 0 };
        let left = effective.limit.saturating_sub(used) / u64::from(divisor);
        Some(Self::Window { cell_ms: place.start_ms, left })
    }

    fn bucket(effective: &Effective, seen: LastSeen<'_>, divisor: u32, now: StoreTime) -> Self {
        let Rate { step, burst } = effective.rate;
        // A slower and smaller bucket lasts as long as the whole, so it is as empty when its `tat` is the same.
        let rate = Rate { step: Ticks(step.0.saturating_mul(divisor.into())), burst: burst / u64::from(divisor) };
        let mut bucket = Bucket::new(1, 1, now, rate, effective.revision);
        if let LastSeen::Bucket(seen) = seen {
            bucket.merge(&BucketSeen { incarnation: 0, ..seen });
        }
        Self::Bucket(bucket)
    }

    /// Whether the share is of a window that is over.
    pub fn is_over(&self, effective: &Effective, now: StoreTime) -> bool {
        let place = effective.grid(now).and_then(|grid| grid.place(now));
        matches!((self, place), (Self::Window { cell_ms, .. }, Some(place)) if place.start_ms > *cell_ms)
    }

    /// Takes `hits` if they fit: the cell that they belong to (of a bucket 0), or `None` for a refusal.
    pub fn take(&mut self, hits: u64, now: StoreTime) -> Option<u64> {
        match self {
            Self::Window { cell_ms, left } => {
                (hits.max(1) <= *left).then(|| *left -= hits)?;
                Some(*cell_ms)
            }
            Self::Bucket(bucket) => {
                bucket.last = bucket.last.max(now);
                bucket.fits(hits.max(1)).then(|| bucket.charge(hits))?;
                Some(0)
            }
        }
    }
}
