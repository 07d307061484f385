//! `token_bucket` as GCRA, the generic cell rate algorithm (ITU-T I.371): one theoretical arrival time, `tat`.
//!
//! A hit costs `step` = window ÷ limit of time, rounded **up**. The bucket is full when `tat` ≤ now, and empty when
//! `tat` is `burst` × `step` ahead of now. Therefore at most burst + T × limit ÷ window hits pass in every closed
//! interval of length T.
//!
//! After a store forgot: every charge sets `tat = max(tat, now) + cost`. Before it forgot, the bucket therefore had
//! `tat ≥ tat seen + costs since`, and the max of both restores exactly what is known.

use serde::{Deserialize, Serialize};

use super::batch::{BucketReturn, BucketSeen};
use super::rate::{Rate, Ticks};
use super::replay_guard::ReplayGuard;
use crate::ids::Incarnation;
use crate::revision::Revision;
use crate::time::StoreTime;

/// What the store keeps of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub incarnation: Incarnation,
    pub replay_guard: ReplayGuard,
    pub tat: Ticks,
    /// Costs charged in this incarnation.
    pub charged: Ticks,
    /// The latest instant of a decision. Time never goes back while the key lives.
    pub last: StoreTime,
    pub rate: Rate,
    /// The revision of the rules that set `rate`.
    pub revision: Revision,
}

/// Hits above the burst that were charged take at most this long to refill, in microseconds: 400 days.
pub const MAX_OVERDRAFT_US: u64 = 400 * 86_400_000_000;
/// At most so many hits above the burst are charged.
pub const MAX_OVERDRAFT_HITS: u64 = 1 << 40;

impl Bucket {
    pub fn new(incarnation: Incarnation, now: StoreTime, rate: Rate, revision: Revision) -> Self {
        let (replay_guard, nothing) = (ReplayGuard::default(), Ticks(0));
        Self { incarnation, replay_guard, tat: nothing, charged: nothing, last: now, rate, revision }
    }

    /// Begins a new incarnation if `incarnation` is another: charges may have been lost.
    pub fn set_incarnation(&mut self, incarnation: Incarnation) {
        if self.incarnation != incarnation {
            (self.incarnation, self.charged) = (incarnation, Ticks(0));
        }
    }

    /// Restores what a node saw that another incarnation had charged, at most to an empty bucket.
    pub fn merge(&mut self, seen: &BucketSeen) {
        if seen.incarnation != self.incarnation {
            self.tat = self.tat.max(seen.tat.plus(self.charged).min(self.empty_tat()));
        }
    }

    /// Adopts the rate of a newer revision. Afterwards the bucket lacks as many hits as before and takes as long to
    /// fill, whichever is more, but it never lacks more than its new size. A drained slow bucket that is made fast is
    /// therefore not blocked for the old bucket's time, and a drained fast one that is made slow is not suddenly full.
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

    /// Gives back unused hits, less what the refill has absorbed since: in a bucket that was full again meanwhile,
    /// nobody missed them. The refund is what a bucket would lack now that only these hits were charged to. It is never
    /// too much: the backlog of a queue is at most the sum of the backlogs that two parts of its arrivals would have
    /// alone.
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

    /// True if `hits` fit now.
    pub fn fits(&self, hits: u64) -> bool {
        hits <= self.rate.burst && self.ahead().plus(self.rate.cost(hits)) <= self.rate.size()
    }

    pub fn charge(&mut self, hits: u64) {
        let cost = self.rate.cost(hits);
        self.tat = self.tat.max(Ticks::from_micros(self.last.0)).plus(cost);
        self.charged = self.charged.plus(cost);
    }

    /// Charges hits that a holder admitted during an outage. They empty the bucket and never drive it below empty.
    pub fn owe(&mut self, hits: u64) {
        self.charge_up_to(hits, self.empty_tat());
    }

    /// Charges hits whether they fit or not. They may drive the bucket below empty, by [`MAX_OVERDRAFT_US`] and
    /// [`MAX_OVERDRAFT_HITS`] at most.
    pub fn overdraw(&mut self, hits: u64) {
        let most = Ticks::from_micros(MAX_OVERDRAFT_US).min(self.rate.cost(MAX_OVERDRAFT_HITS));
        self.charge_up_to(hits, self.empty_tat().plus(most));
    }

    /// Charges hits, and moves `tat` no further than `latest`.
    fn charge_up_to(&mut self, hits: u64, latest: Ticks) {
        let before = self.tat.max(Ticks::from_micros(self.last.0));
        self.tat = before.plus(self.rate.cost(hits)).min(latest.max(before));
        self.charged = self.charged.plus(self.tat.minus(before));
    }

    /// Sets the time of the bucket, which lacks as much as before.
    pub const fn set_clock(&mut self, now: StoreTime) {
        let ahead = self.ahead();
        (self.last, self.tat) = (now, Ticks::from_micros(now.0).plus(ahead));
    }

    /// Adds what another bucket of this rate lacks, whose `tat` is given.
    pub fn owe_also(&mut self, tat: Ticks) {
        let now = Ticks::from_micros(self.last.0);
        self.tat = self.tat.max(now).plus(tat.minus(now));
    }

    /// Undoes a charge that was made at this instant.
    pub const fn uncharge(&mut self, hits: u64) {
        self.tat = self.tat.minus(self.rate.cost(hits));
        self.charged = self.charged.minus(self.rate.cost(hits));
    }

    /// Takes back hits, whoever was granted them.
    pub fn refund(&mut self, hits: u64) {
        self.uncharge(hits.min(self.missing()));
    }

    /// Hits that the bucket lacks now. A part of a hit counts as one.
    pub fn missing(&self) -> u64 {
        let step = self.rate.step.0.max(1);
        u64::try_from(self.ahead().0.div_ceil(step)).unwrap_or(u64::MAX)
    }

    /// The `tat` of a bucket that is empty now.
    pub const fn empty_tat(&self) -> Ticks {
        Ticks::from_micros(self.last.0).plus(self.rate.size())
    }

    /// Hits that would be granted now.
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

    const SECOND_US: u64 = 1_000_000;

    fn bucket(limit: u64, window_ms: u64, burst: u64) -> Bucket {
        Bucket::new(Incarnation(1), StoreTime(100 * SECOND_US), Rate::new(limit, window_ms, burst), Revision(1))
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
    fn a_return_after_the_refill_adds_no_tokens() {
        let mut b = bucket(1, 1000, 10);
        assert!(take(&mut b, 100 * SECOND_US, 9));
        assert!(take(&mut b, 109 * SECOND_US, 9));
        let back = BucketReturn {
            incarnation: Incarnation(1),
            step: b.rate.step,
            hits: 9,
            charged_at: StoreTime(100 * SECOND_US),
        };
        b.give_back(&[back]);
        assert!(
            !take(&mut b, 109 * SECOND_US, 2),
            "burst 10, 1 a second: 20 hits in 9 s would be one more than allowed"
        );
        assert!(take(&mut b, 109 * SECOND_US, 1));
    }

    #[test]
    fn an_immediate_return_adds_all_tokens() {
        let mut b = bucket(1, 1000, 10);
        assert!(take(&mut b, 100 * SECOND_US, 10));
        let back = BucketReturn {
            incarnation: Incarnation(1),
            step: b.rate.step,
            hits: 4,
            charged_at: StoreTime(100 * SECOND_US),
        };
        b.give_back(&[back]);
        assert_eq!(b.available(), 4);
        b.give_back(&[BucketReturn { incarnation: Incarnation(2), ..back }]);
        assert_eq!(b.available(), 4, "a charge of another incarnation is not in this bucket");
    }

    #[test]
    fn hits_that_were_charged_at_another_rate_do_not_come_back() {
        let mut b = bucket(1, 1000, 10);
        assert!(take(&mut b, 100 * SECOND_US, 10));
        let step = b.rate.step;
        b.adopt(Rate::new(100, 1000, 10), Revision(2));
        let missing = b.missing();
        b.give_back(&[BucketReturn {
            incarnation: Incarnation(1),
            step,
            hits: 4,
            charged_at: StoreTime(100 * SECOND_US),
        }]);
        assert_eq!((missing, b.missing()), (10, 10));
    }

    #[test]
    fn an_overdrawn_bucket_lacks_no_more_than_its_new_size_after_an_edit() {
        let mut b = bucket(1, 1000, 10);
        b.overdraw(50);
        assert_eq!(b.missing(), 50);
        b.adopt(Rate::new(2, 1000, 20), Revision(2));
        assert_eq!(b.missing(), 20);
    }

    #[test]
    fn the_refill_is_deducted_once_from_several_returns() {
        let mut b = bucket(1000, 1000, 1000);
        let step = b.rate.step;
        assert!(take(&mut b, 100 * SECOND_US, 1000));
        b.last = StoreTime(100 * SECOND_US + 20_000);
        let back = |at: u64| BucketReturn {
            incarnation: Incarnation(1),
            step,
            hits: 1,
            charged_at: StoreTime(100 * SECOND_US + at),
        };
        let returns: Vec<BucketReturn> = (0..100).rev().map(back).collect();
        b.give_back(&returns);
        assert_eq!(b.available(), 100, "20 were refilled, and 80 of 100 were returned");
    }

    #[test]
    fn a_faster_rate_applies_to_an_empty_bucket_at_once() {
        let mut b = bucket(10, 86_400_000, 10);
        assert!(take(&mut b, 100 * SECOND_US, 10));
        b.adopt(Rate::new(1000, 1000, 1000), Revision(2));
        assert_eq!(b.available(), 0);
        assert!(take(&mut b, 101 * SECOND_US, 1000));
        b.adopt(Rate::new(10, 86_400_000, 10), Revision(1));
        assert_eq!(b.revision, Revision(2), "an older revision changes nothing");
        b.adopt(Rate::new(10, 86_400_000, 10), Revision(2));
        assert_eq!(b.rate, Rate::new(1000, 1000, 1000), "one revision has one rate");
    }

    #[test]
    fn a_slower_rate_does_not_fill_an_empty_bucket() {
        let mut b = bucket(40, 1000, 15);
        assert!(take(&mut b, 100 * SECOND_US, 15));
        b.adopt(Rate::new(3, 1000, 5), Revision(2));
        assert_eq!(b.available(), 0, "15 hits are missing, which is more than the new burst");
        let mut b = bucket(100, 1000, 10);
        assert!(take(&mut b, 100 * SECOND_US, 8));
        b.adopt(Rate::new(1, 1000, 10), Revision(2));
        assert_eq!(b.available(), 2);
    }

    #[test]
    fn a_charge_that_the_store_lost_is_restored_once_by_a_merge() {
        let mut lost = bucket(1, 1000, 10);
        assert!(take(&mut lost, 100 * SECOND_US, 6));
        let seen = BucketSeen { incarnation: Incarnation(1), tat: lost.tat };
        let mut current = bucket(1, 1000, 10);
        current.incarnation = Incarnation(2);
        assert!(take(&mut current, 100 * SECOND_US, 3));
        current.merge(&seen);
        current.merge(&seen);
        assert_eq!(current.available(), 1);
    }

    #[test]
    fn fits_at_is_the_first_time_that_fits() {
        for (limit, window_ms, burst) in [(3, 1000, 7), (7, 1000, 3), (999_983, 1000, 50), (1, 60_000, 1)] {
            let mut b = bucket(limit, window_ms, burst);
            assert!(take(&mut b, 100 * SECOND_US, burst));
            let at = b.fits_at(1).unwrap();
            b.last = StoreTime(at.0 - 1);
            assert!(!b.fits(1));
            b.last = at;
            assert!(b.fits(1));
        }
    }

    #[test]
    fn extreme_values_neither_overflow_nor_divide_by_zero() {
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

    #[test]
    fn a_new_primary_restores_what_its_predecessor_charged_and_did_not_replicate() {
        let mut lost = bucket(1, 1000, 10);
        assert!(take(&mut lost, 100 * SECOND_US, 6));
        let seen = BucketSeen { incarnation: Incarnation(1), tat: lost.tat };
        let mut replica = bucket(1, 1000, 10);
        assert!(take(&mut replica, 100 * SECOND_US, 2));
        for _ in 0..2 {
            replica.set_incarnation(Incarnation(2));
            assert!(replica.fits(1));
            replica.charge(1);
        }
        replica.merge(&seen);
        assert_eq!(replica.available(), 2, "6 of the old primary and 2 of the new one are charged");
    }

    #[test]
    fn a_bucket_at_another_time_lacks_as_much_as_before() {
        let mut b = bucket(1, 1000, 10);
        assert!(take(&mut b, 100 * SECOND_US, 4));
        for at in [50, 500] {
            b.set_clock(StoreTime(at * SECOND_US));
            assert_eq!((b.available(), b.full_at()), (6, StoreTime((at + 4) * SECOND_US)));
        }
    }
}
