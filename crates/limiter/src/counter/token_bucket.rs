//! `token_bucket` as GCRA, the generic cell rate algorithm (ITU-T I.371): one theoretical arrival time, `tat`.
//!
//! A hit costs `step` = window ÷ limit of time, rounded **up**; a bucket is full when `tat` ≤ now and empty when it
//! is `burst` × `step` ahead. So in every closed interval of length T at most burst + T × limit ÷ window hits pass.
//!
//! Forgetting: every charge is `tat = max(tat, now) + cost`, so charges after a store forgot keep
//! `tat ≥ tat seen before + costs since`, and taking the max of both restores exactly what is known.

use serde::{Deserialize, Serialize};

use super::batch::{BucketReturn, BucketSeen};
use super::replay_guard::Repeats;
use crate::revision::Revision;
use crate::time::StoreTime;

/// A span or an instant in 2^-20 microseconds, so that rounding costs a fast bucket less than a millionth.
///
/// A Redis script holds it as two integers, microseconds and the fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticks(pub u128);

const TICKS_PER_MICRO: u128 = 1 << 20;

impl Ticks {
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros as u128 * TICKS_PER_MICRO)
    }

    /// Whole microseconds, rounded up; saturates.
    pub fn micros_up(self) -> u64 {
        u64::try_from(self.0.div_ceil(TICKS_PER_MICRO)).unwrap_or(u64::MAX)
    }

    /// Whole microseconds, and the rest in 2^-20; saturates.
    pub fn parts(self) -> (u64, u64) {
        let (micros, rest) = (self.0 / TICKS_PER_MICRO, self.0 % TICKS_PER_MICRO);
        u64::try_from(micros).map_or((u64::MAX, 0), |micros| (micros, u64::try_from(rest).unwrap_or(0)))
    }

    /// The whole of what [`Self::parts`] took apart.
    pub const fn from_parts(micros: u64, rest: u64) -> Self {
        Self(micros as u128 * TICKS_PER_MICRO + rest as u128)
    }

    const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Rate and size of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Time that one hit costs.
    pub step: Ticks,
    /// Hits that a full bucket holds.
    pub burst: u64,
}

impl Rate {
    /// `limit` hits per `window_ms`, at most `burst` at once. A limit or burst of 0 never grants.
    pub const fn new(limit: u64, window_ms: u64, burst: u64) -> Self {
        if limit == 0 || burst == 0 {
            return Self { step: Ticks(0), burst: 0 };
        }
        let window = Ticks::from_micros(window_ms.saturating_mul(1000)).0;
        Self { step: Ticks(window.div_ceil(limit as u128)), burst }
    }

    const fn cost(&self, hits: u64) -> Ticks {
        Ticks(self.step.0.saturating_mul(hits as u128))
    }

    const fn size(&self) -> Ticks {
        self.cost(self.burst)
    }
}

/// What the store keeps of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub incarnation: u64,
    pub taken: Repeats,
    pub tat: Ticks,
    /// Costs charged in this incarnation.
    pub charged: Ticks,
    /// The latest instant at which anything was decided: time never goes back while the key lives.
    pub last: StoreTime,
    pub rate: Rate,
    /// Revision of the rules that `rate` is of.
    pub revision: Revision,
}

impl Bucket {
    pub fn new(incarnation: u64, now: StoreTime, rate: Rate, revision: Revision) -> Self {
        let (taken, nothing) = (Repeats::default(), Ticks(0));
        Self { incarnation, taken, tat: nothing, charged: nothing, last: now, rate, revision }
    }

    /// A newer incarnation begins where the primary changed, for charges may have been lost.
    pub const fn reincarnate(&mut self, incarnation: u64) {
        if self.incarnation != incarnation {
            (self.incarnation, self.charged) = (incarnation, Ticks(0));
        }
    }

    /// Restores what another incarnation had charged, as far as a node saw it. Never more than an empty bucket.
    pub fn merge(&mut self, seen: &BucketSeen) {
        if seen.incarnation != self.incarnation {
            self.tat = self.tat.max(seen.tat.plus(self.charged).min(self.empty_tat()));
        }
    }

    /// Takes over a newer revision's rate. As many hits are missing afterwards as before, and it is as long until it is full,
    /// whichever is more, but never more than all of the new size: a drained slow bucket made fast is not blocked for the
    /// old bucket's time, and a drained fast one made slow is not full.
    pub fn adopt(&mut self, rate: Rate, revision: Revision) {
        if revision > self.revision {
            if rate.step != self.rate.step {
                let now = Ticks::from_micros(self.last.0);
                let missing = self.missing().min(rate.burst);
                self.tat = self.tat.min(now.plus(rate.size())).max(now.plus(rate.cost(missing)));
            }
            (self.rate, self.revision) = (rate, revision);
        }
    }

    /// Gives back what was charged and not used, less what the refill since has absorbed: hits in a bucket that was full
    /// again meanwhile were not missed by anybody. That is what a bucket would miss now which only these hits had been
    /// charged to. It is never too much: a queue's backlog is at most the sum of the backlogs that two parts of its
    /// arrivals would have each for themselves.
    pub fn give_back(&mut self, returns: &[BucketReturn]) {
        let ours = |back: &&BucketReturn| back.incarnation == self.incarnation && back.step == self.rate.step;
        let mut ours: Vec<&BucketReturn> = returns.iter().filter(ours).collect();
        ours.sort_by_key(|back| back.charged_at);
        let charge = |tat: Ticks, back: &&BucketReturn| {
            tat.max(Ticks::from_micros(back.charged_at.0)).plus(self.rate.cost(back.hits))
        };
        let refund = ours.iter().fold(Ticks(0), charge).minus(Ticks::from_micros(self.last.0));
        self.tat = self.tat.minus(refund);
        self.charged = self.charged.minus(refund);
    }

    /// Whether `hits` fit now.
    pub fn fits(&self, hits: u64) -> bool {
        hits <= self.rate.burst && self.ahead().plus(self.rate.cost(hits)) <= self.rate.size()
    }

    pub fn charge(&mut self, hits: u64) {
        let cost = self.rate.cost(hits);
        self.tat = self.tat.max(Ticks::from_micros(self.last.0)).plus(cost);
        self.charged = self.charged.plus(cost);
    }

    /// Charges hits that were admitted elsewhere: they empty the bucket, and never drive it below.
    pub fn owe(&mut self, hits: u64) {
        let before = self.tat.max(Ticks::from_micros(self.last.0));
        self.tat = before.plus(self.rate.cost(hits)).min(self.empty_tat().max(before));
        self.charged = self.charged.plus(self.tat.minus(before));
    }

    /// From here on it is this late, and as much is missing as before.
    pub const fn set_clock(&mut self, now: StoreTime) {
        let ahead = self.ahead();
        (self.last, self.tat) = (now, Ticks::from_micros(now.0).plus(ahead));
    }

    /// Adds what is missing in another bucket of this rate, whose `tat` it is.
    pub fn owe_also(&mut self, tat: Ticks) {
        let now = Ticks::from_micros(self.last.0);
        self.tat = self.tat.max(now).plus(tat.minus(now));
    }

    /// Undoes a charge made at this same instant.
    pub const fn uncharge(&mut self, hits: u64) {
        self.tat = self.tat.minus(self.rate.cost(hits));
        self.charged = self.charged.minus(self.rate.cost(hits));
    }

    /// Hits that are missing now, a part of one counting whole.
    pub fn missing(&self) -> u64 {
        let step = self.rate.step.0.max(1);
        u64::try_from(self.ahead().0.div_ceil(step)).unwrap_or(u64::MAX)
    }

    /// Where `tat` stands when the bucket is empty now.
    pub const fn empty_tat(&self) -> Ticks {
        Ticks::from_micros(self.last.0).plus(self.rate.size())
    }

    /// Hits that would be granted at once now.
    pub fn available(&self) -> u64 {
        let free = self.rate.size().minus(self.ahead());
        u64::try_from(free.0.checked_div(self.rate.step.0).unwrap_or(0)).unwrap_or(u64::MAX)
    }

    /// The first instant at which `hits` would fit if nothing more is charged; `None` if never.
    pub fn fits_at(&self, hits: u64) -> Option<StoreTime> {
        if hits > self.rate.burst {
            return None;
        }
        let wait = self.ahead().plus(self.rate.cost(hits)).minus(self.rate.size());
        Some(StoreTime(self.last.0.saturating_add(wait.micros_up())))
    }

    /// The instant at which the bucket is full.
    pub fn full_at(&self) -> StoreTime {
        StoreTime(self.tat.micros_up()).max(self.last)
    }

    /// How far `tat` is ahead of now.
    const fn ahead(&self) -> Ticks {
        self.tat.minus(Ticks::from_micros(self.last.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn bucket(limit: u64, window_ms: u64, burst: u64) -> Bucket {
        Bucket::new(1, StoreTime(100 * SECOND), Rate::new(limit, window_ms, burst), Revision(1))
    }

    fn take(bucket: &mut Bucket, at: u64, hits: u64) -> bool {
        bucket.last = StoreTime(at);
        let fits = bucket.fits(hits);
        if fits {
            bucket.charge(hits);
        }
        fits
    }

    #[test]
    fn a_refund_after_the_refill_gives_nothing_back() {
        let mut b = bucket(1, 1000, 10);
        assert!(take(&mut b, 100 * SECOND, 9));
        assert!(take(&mut b, 109 * SECOND, 9));
        let back = BucketReturn { incarnation: 1, step: b.rate.step, hits: 9, charged_at: StoreTime(100 * SECOND) };
        b.give_back(&[back]);
        assert!(!take(&mut b, 109 * SECOND, 2), "burst 10, 1 a second: 20 hits in 9 s would be one too many");
        assert!(take(&mut b, 109 * SECOND, 1));
    }

    #[test]
    fn a_refund_at_once_gives_all_back() {
        let mut b = bucket(1, 1000, 10);
        assert!(take(&mut b, 100 * SECOND, 10));
        let back = BucketReturn { incarnation: 1, step: b.rate.step, hits: 4, charged_at: StoreTime(100 * SECOND) };
        b.give_back(&[back]);
        assert_eq!(b.available(), 4);
        b.give_back(&[BucketReturn { incarnation: 2, ..back }]);
        assert_eq!(b.available(), 4, "another incarnation's charge is not in this bucket");
    }

    #[test]
    fn the_refill_absorbs_of_several_refunds_only_once() {
        let mut b = bucket(1000, 1000, 1000);
        let step = b.rate.step;
        assert!(take(&mut b, 100 * SECOND, 1000));
        b.last = StoreTime(100 * SECOND + 20_000);
        let back = |at: u64| BucketReturn { incarnation: 1, step, hits: 1, charged_at: StoreTime(100 * SECOND + at) };
        let returns: Vec<BucketReturn> = (0..100).rev().map(back).collect();
        b.give_back(&returns);
        assert_eq!(b.available(), 100, "20 refilled, and 80 of 100 came back");
    }

    #[test]
    fn a_faster_rate_frees_a_drained_slow_bucket() {
        let mut b = bucket(10, 86_400_000, 10);
        assert!(take(&mut b, 100 * SECOND, 10));
        b.adopt(Rate::new(1000, 1000, 1000), Revision(2));
        assert_eq!(b.available(), 0);
        assert!(take(&mut b, 101 * SECOND, 1000));
        b.adopt(Rate::new(10, 86_400_000, 10), Revision(1));
        assert_eq!(b.revision, Revision(2), "an older revision changes nothing");
    }

    #[test]
    fn a_slower_rate_does_not_fill_a_drained_fast_bucket() {
        let mut b = bucket(40, 1000, 15);
        assert!(take(&mut b, 100 * SECOND, 15));
        b.adopt(Rate::new(3, 1000, 5), Revision(2));
        assert_eq!(b.available(), 0, "15 were taken, and nobody ever allowed more at once");
        let mut b = bucket(100, 1000, 10);
        assert!(take(&mut b, 100 * SECOND, 8));
        b.adopt(Rate::new(1, 1000, 10), Revision(2));
        assert_eq!(b.available(), 2);
    }

    #[test]
    fn a_forgotten_charge_comes_back_by_max_plus() {
        let mut before = bucket(1, 1000, 10);
        assert!(take(&mut before, 100 * SECOND, 6));
        let seen = BucketSeen { incarnation: 1, tat: before.tat };
        let mut after = bucket(1, 1000, 10);
        after.incarnation = 2;
        assert!(take(&mut after, 100 * SECOND, 3));
        after.merge(&seen);
        after.merge(&seen);
        assert_eq!(after.available(), 1);
    }

    #[test]
    fn the_instant_named_is_the_first_that_fits() {
        for (limit, window_ms, burst) in [(3, 1000, 7), (7, 1000, 3), (999_983, 1000, 50), (1, 60_000, 1)] {
            let mut b = bucket(limit, window_ms, burst);
            assert!(take(&mut b, 100 * SECOND, burst));
            let at = b.fits_at(1).unwrap();
            b.last = StoreTime(at.0 - 1);
            assert!(!b.fits(1));
            b.last = at;
            assert!(b.fits(1));
        }
    }

    #[test]
    fn the_extremes_neither_overflow_nor_divide_by_zero() {
        use crate::rules::{MAX_LIMIT, MAX_WINDOW_MS};
        for (limit, window_ms, burst) in
            [(0, 1000, 5), (5, 1000, 0), (1, MAX_WINDOW_MS, MAX_LIMIT), (MAX_LIMIT, 250, MAX_LIMIT)]
        {
            let mut b = bucket(limit, window_ms, burst);
            b.last = StoreTime(u64::MAX);
            assert_eq!(b.fits(1), limit > 0 && burst > 0);
            b.charge(u64::from(u32::MAX));
            let _ = (b.available(), b.fits_at(1), b.full_at());
        }
    }
}
