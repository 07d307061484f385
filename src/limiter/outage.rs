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
    /// This holder's part of the bucket, the hits owed, and those of them that are on their way.
    Bucket { part: Bucket, hits: u64, sent: u64 },
}

impl Outage {
    pub fn new(effective: &Effective, debtor: u64, around: &Surroundings) -> Self {
        let owed = if effective.is_bucket() {
            let rate = part_of(effective.rate, around.divisor);
            Owed::Bucket { part: Bucket::new(1, around.store_now, rate, 0), hits: 0, sent: 0 }
        } else {
            Owed::Window(Vec::new())
        };
        Self { debtor, owed, unreported: false, until: NodeTime(0), left: 0 }
    }

    /// Admits `hits` if this holder's share has room for them; 0 asks whether one would pass.
    pub fn admit(
        &mut self,
        hits: u64,
        effective: &Effective,
        seen: &Remembered,
        around: &Surroundings,
    ) -> Option<Receipt> {
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
            Owed::Bucket { part, hits: owed, .. } => {
                part.last = part.last.max(around.store_now);
                let rate = part_of(effective.rate, around.divisor);
                if part.rate != rate {
                    part.adopt(rate, part.revision + 1);
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
                *owed = owed.saturating_add(hits);
                (Receipt::Local { cell_ms: 0 }, part.full_at())
            }
        };
        self.until = self.until.max(around.now.plus(over_at.since(around.store_now)));
        self.unreported = true;
        self.left = self.left.saturating_sub(hits);
        Some(receipt)
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
            Owed::Bucket { part, hits, .. } => {
                part.uncharge(unused);
                *hits = hits.saturating_sub(unused);
            }
        }
    }

    /// Adds what is owed to the `seen` cells of an item: one more entry of a cell's map, cumulative, so that repeating
    /// it is harmless.
    pub fn report_in(&mut self, seen: &mut Vec<Cell>) {
        if let Owed::Window(cells) = &self.owed {
            cells.iter().for_each(|cell| cell_at(seen, cell.start_ms).merge(&cell.entries));
            self.unreported = false;
        }
    }

    /// Hits owed to a bucket, for an item; what the refill has absorbed since is not among them.
    pub fn report_hits(&mut self, now: StoreTime) -> u64 {
        let Owed::Bucket { part, hits, sent } = &mut self.owed else { return 0 };
        part.last = part.last.max(now);
        *sent = std::mem::take(hits).min(part.missing());
        self.unreported = false;
        *sent
    }

    /// The item that carried the report is back, or lost. A bucket that is told twice is emptied, never driven below.
    pub fn reported(&mut self, arrived: bool) {
        self.unreported |= !arrived;
        if let Owed::Bucket { hits, sent, .. } = &mut self.owed {
            let sent = std::mem::take(sent);
            if !arrived {
                *hits = hits.saturating_add(sent);
            }
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
