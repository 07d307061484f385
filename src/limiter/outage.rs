//! `on_store_failure: local`: what this holder admits of one key while the store does not answer, and owes it afterwards.
//!
//! Of a window a share: (limit − what others were last seen to have used) ÷ holders. Of a bucket that part of rate and
//! burst. What is owed counts against the share for as long as it counts at all, so a store that answers now and then
//! adds no further share.

use super::effective::Effective;
use super::parts::{Receipt, Surroundings};
use super::remembered::Remembered;
use super::time::{NodeTime, StoreTime};
use super::token_bucket::{Bucket, Rate, Ticks};
use super::window::{Cell, cell_at};

/// What this holder admitted of one key on its own account.
#[derive(Debug)]
pub struct Outage {
    /// Names these debts in a cell's map. Never used again: a key that was forgotten meanwhile owes under a new name.
    debtor: u64,
    owed: Owed,
    /// The store's clock was known when it was charged to its cells. Before that they are those of the node's wall clock,
    /// which may be years off, and the store is told nothing of them.
    placed: bool,
    /// Something is owed that the store may not know.
    unreported: bool,
    /// From then on nothing of it counts.
    until: NodeTime,
    /// Hits of this holder's share that were left when it was last asked for.
    left: u64,
}

#[derive(Debug)]
enum Owed {
    /// The newest cell first.
    Window(Vec<Cell>),
    Bucket(Box<OwedToBucket>),
}

#[derive(Debug)]
struct OwedToBucket {
    /// This holder's part of the bucket.
    part: Bucket,
    /// A whole one in which only what is owed is missing, so that its refill absorbs it.
    whole: Bucket,
    /// Where that stood when it was sent.
    sent: Option<Ticks>,
}

impl Outage {
    pub fn new(effective: &Effective, debtor: u64, around: &Surroundings) -> Self {
        let owed = if effective.is_bucket() {
            let of = |rate| Bucket::new(1, around.store_now, rate, 0);
            let part = of(part_of(effective.rate, around.divisor));
            Owed::Bucket(Box::new(OwedToBucket { part, whole: of(effective.rate), sent: None }))
        } else {
            Owed::Window(Vec::new())
        };
        Self { debtor, owed, placed: around.store_known, unreported: false, until: NodeTime(0), left: 0 }
    }

    /// Admits `hits` if this holder's share has room for them; 0 asks whether one would pass.
    pub fn admit(
        &mut self,
        hits: u64,
        effective: &Effective,
        seen: &Remembered,
        around: &Surroundings,
    ) -> Option<Receipt> {
        self.place(effective, around);
        let (receipt, over_at) = match &mut self.owed {
            Owed::Window(cells) => {
                let newest_ms = cells.first().map_or(0, |c| c.start_ms).max(seen.newest_ms());
                let now = around.store_now.max(StoreTime::from_millis(newest_ms));
                let grid = effective.grid(now)?;
                let place = grid.place(now)?;
                cells.retain(|c| c.start_ms >= place.oldest_ms);
                let others = without(&seen.cells(), self.debtor);
                let share = effective.limit.saturating_sub(grid.used(&others, &place, now)) / divisor(around);
                self.left = share.saturating_sub(grid.used(cells, &place, now));
                if hits.max(1) > self.left {
                    return None;
                }
                if hits == 0 {
                    return Some(Receipt::Free);
                }
                cell_at(cells, place.start_ms).charge(self.debtor, hits);
                (Receipt::Local { cell_ms: place.start_ms }, grid.empty_at(cells, &place, now))
            }
            Owed::Bucket(owed) => {
                let OwedToBucket { part, whole, .. } = &mut **owed;
                let rates = [part_of(effective.rate, around.divisor), effective.rate];
                for (bucket, rate) in [&mut *part, &mut *whole].into_iter().zip(rates) {
                    bucket.last = bucket.last.max(around.store_now);
                    if bucket.rate != rate {
                        bucket.adopt(rate, bucket.revision + 1);
                    }
                }
                if let Some(seen) = seen.bucket() {
                    // A slower and smaller bucket lasts as long as the whole: it is as empty when its `tat` is the same.
                    part.tat = part.tat.max(seen.tat.min(part.empty_tat()));
                }
                self.left = part.available();
                if !part.fits(hits.max(1)) {
                    return None;
                }
                if hits == 0 {
                    return Some(Receipt::Free);
                }
                part.charge(hits);
                whole.charge(hits);
                (Receipt::Local { cell_ms: 0 }, part.full_at())
            }
        };
        self.until = self.until.max(around.now.plus(over_at.since(around.store_now)));
        self.unreported = true;
        self.left = self.left.saturating_sub(hits);
        Some(receipt)
    }

    /// Once the store's clock is known, what was admitted before counts as of now.
    pub fn place(&mut self, effective: &Effective, around: &Surroundings) {
        if self.placed || !around.store_known {
            return;
        }
        let now = around.store_now;
        let over_at = match &mut self.owed {
            Owed::Window(cells) => {
                let owed = cells.iter().map(Cell::used).fold(0, u64::saturating_add);
                let placed = effective.grid(now).and_then(|grid| Some((grid, grid.place(now)?)));
                let Some((grid, place)) = placed else { return };
                cells.clear();
                if owed > 0 {
                    cell_at(cells, place.start_ms).charge(self.debtor, owed);
                }
                grid.empty_at(cells, &place, now)
            }
            Owed::Bucket(owed) => {
                let OwedToBucket { part, whole, .. } = &mut **owed;
                part.set_clock(now);
                whole.set_clock(now);
                part.full_at()
            }
        };
        self.placed = true;
        self.until = around.now.plus(over_at.since(now));
    }

    /// Hits of this holder's share that are left.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Hits that were admitted and not used.
    pub fn give_back(&mut self, cell_ms: u64, unused: u64) {
        match &mut self.owed {
            Owed::Window(cells) => {
                if let Some(cell) = cells.iter_mut().find(|c| c.start_ms == cell_ms) {
                    cell.give_back(self.debtor, unused);
                }
            }
            Owed::Bucket(owed) => {
                let OwedToBucket { part, whole, .. } = &mut **owed;
                part.uncharge(unused);
                whole.uncharge(unused);
            }
        }
    }

    /// Adds what is owed to the `seen` cells of an item: one more entry of a cell's map, cumulative, so that repeating
    /// it is harmless.
    pub fn report_in(&mut self, seen: &mut Vec<Cell>) {
        if let Owed::Window(cells) = &self.owed
            && self.placed
        {
            cells.iter().for_each(|cell| cell_at(seen, cell.start_ms).merge(&cell.entries));
            self.unreported = false;
        }
    }

    /// Hits owed to a bucket, for an item; what the refill has absorbed since is not among them. What several holders owe is
    /// together no less than all of it would be missing.
    pub fn report_hits(&mut self, now: StoreTime) -> u64 {
        let Owed::Bucket(owed) = &mut self.owed else { return 0 };
        if !self.placed {
            return 0;
        }
        let OwedToBucket { whole, sent, .. } = &mut **owed;
        whole.last = whole.last.max(now);
        let missing = whole.missing();
        *sent = Some(std::mem::take(&mut whole.tat));
        self.unreported = false;
        missing
    }

    /// The item that carried the report is back, or lost. A bucket that is told twice is emptied, never driven below.
    pub fn reported(&mut self, arrived: bool) {
        self.unreported |= !arrived;
        if let Owed::Bucket(owed) = &mut self.owed
            && let Some(tat) = owed.sent.take()
            && !arrived
        {
            owed.whole.owe_also(tat);
        }
    }

    /// Whether the store is still to be told.
    pub const fn is_unreported(&self) -> bool {
        self.unreported
    }

    /// Whether nothing of it counts any more.
    pub fn is_over(&self, now: NodeTime) -> bool {
        self.until <= now
    }
}

fn divisor(around: &Surroundings) -> u64 {
    around.divisor.max(1).into()
}

/// One holder's part of a bucket.
fn part_of(rate: Rate, divisor: u32) -> Rate {
    let divisor = divisor.max(1);
    Rate { step: Ticks(rate.step.0.saturating_mul(divisor.into())), burst: rate.burst / u64::from(divisor) }
}

/// What others used.
fn without(seen: &[Cell], debtor: u64) -> Vec<Cell> {
    let mut others = seen.to_vec();
    others.iter_mut().for_each(|cell| cell.entries.retain(|entry| entry.source != debtor));
    others
}
