//! `on_store_failure: local`: what this holder admits of one key while the store does not answer, and owes it afterwards.
//!
//! Of a window a share: (limit − what others were last seen to have used) ÷ holders. Of a bucket that part of rate and
//! burst. What is owed counts against the share for as long as it counts at all, so a store that answers now and then
//! adds no further share.

use super::last_seen::Remembered;
use super::messages::{Receipt, Surroundings};
use crate::counter::{Bucket, Cell, Debt, Entry, Hits, Rate, Report, Ticks};
use crate::revision::Revision;
use crate::rules::Effective;
use crate::time::{NodeTime, StoreTime};

/// What this holder admitted of one key on its own account.
#[derive(Debug)]
pub struct Outage {
    /// Names these debts. Never used again: a key that was forgotten meanwhile owes under a new name.
    debtor: u64,
    owed: Owed,
    /// The store's clock was known when it was charged to its cells. Before that they are those of the node's wall clock,
    /// which may be years off, and the store is told nothing of them.
    placed: bool,
    /// A bucket's debt is to be reported.
    unreported: bool,
    /// From then on nothing of it counts.
    until: NodeTime,
    /// Hits of this holder's share that were left when it was last asked for.
    left: u64,
}

#[derive(Debug)]
enum Owed {
    /// The newest cell first.
    Window(Vec<OwedInCell>),
    Bucket(Box<OwedToBucket>),
}

/// What is owed in one cell.
#[derive(Clone, Copy, Debug)]
struct OwedInCell {
    start_ms: u64,
    hits: Hits,
    /// What the store has said that it charged.
    known: Hits,
    /// What the report in flight says.
    sent: Option<Hits>,
    /// The store was told that this holder knows.
    confirmed: bool,
}

impl OwedInCell {
    const fn new(start_ms: u64) -> Self {
        let nothing = Hits { charged: 0, returned: 0 };
        Self { start_ms, hits: nothing, known: nothing, sent: None, confirmed: true }
    }

    fn is_unreported(&self) -> bool {
        self.hits != self.known || !self.confirmed
    }
}

/// What is owed, as cells that a grid can weigh.
fn as_cells(owed: &[OwedInCell]) -> Vec<Cell> {
    owed.iter().map(|cell| one(cell.start_ms, cell.hits.net())).collect()
}

/// A cell of so many hits.
fn one(start_ms: u64, used: u64) -> Cell {
    Cell { start_ms, entries: vec![Entry { source: 1, charged: used, returned: 0 }] }
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
            let of = |rate| Bucket::new(1, around.store_now, rate, Revision::NONE);
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
            Owed::Window(owed) => {
                let newest_ms = owed.first().map_or(0, |c| c.start_ms).max(seen.newest_ms());
                let now = around.store_now.max(StoreTime::from_millis(newest_ms));
                let grid = effective.grid(now)?;
                let place = grid.place(now)?;
                owed.retain(|c| c.start_ms >= place.oldest_ms);
                let others = without(&seen.cells(), owed);
                let share = effective.limit.saturating_sub(grid.used(&others, &place, now)) / divisor(around);
                self.left = share.saturating_sub(grid.used(&as_cells(owed), &place, now));
                if hits.max(1) > self.left {
                    return None;
                }
                if hits == 0 {
                    return Some(Receipt::Free);
                }
                owed_in(owed, place.start_ms).hits.charged += hits;
                (Receipt::Local { cell_ms: place.start_ms }, grid.empty_at(&as_cells(owed), &place, now))
            }
            Owed::Bucket(owed) => {
                let OwedToBucket { part, whole, .. } = &mut **owed;
                let rates = [part_of(effective.rate, around.divisor), effective.rate];
                for (bucket, rate) in [&mut *part, &mut *whole].into_iter().zip(rates) {
                    bucket.last = bucket.last.max(around.store_now);
                    if bucket.rate != rate {
                        bucket.adopt(rate, bucket.revision.next(0));
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
            Owed::Window(owed) => {
                let charged = owed.iter().map(|cell| cell.hits.net()).fold(0, u64::saturating_add);
                let placed = effective.grid(now).and_then(|grid| Some((grid, grid.place(now)?)));
                let Some((grid, place)) = placed else { return };
                owed.clear();
                if charged > 0 {
                    owed_in(owed, place.start_ms).hits.charged = charged;
                }
                grid.empty_at(&as_cells(owed), &place, now)
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
            Owed::Window(owed) => {
                if let Some(cell) = owed.iter_mut().find(|c| c.start_ms == cell_ms) {
                    cell.hits.returned = cell.hits.returned.saturating_add(unused).min(cell.hits.charged);
                }
            }
            Owed::Bucket(owed) => {
                let OwedToBucket { part, whole, .. } = &mut **owed;
                part.uncharge(unused);
                whole.uncharge(unused);
            }
        }
    }

    /// What the next item tells of a window's debts.
    pub fn report(&mut self) -> Vec<Report> {
        let Owed::Window(owed) = &mut self.owed else { return Vec::new() };
        if !self.placed {
            return Vec::new();
        }
        let id = self.debtor;
        let unreported = owed.iter_mut().filter(|cell| cell.is_unreported());
        let report = |cell: &mut OwedInCell| {
            cell.sent = Some(cell.hits);
            Report { debt: Debt { cell_ms: cell.start_ms, id, hits: cell.hits }, known: cell.known }
        };
        unreported.map(report).collect()
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

    /// The item that carried the report is back, or lost; `taken` says that the store has charged it. A bucket that is told
    /// twice is emptied, never driven below.
    pub fn reported(&mut self, taken: bool) {
        match &mut self.owed {
            Owed::Window(owed) => {
                for cell in owed {
                    if let Some(sent) = cell.sent.take().filter(|_| taken) {
                        (cell.confirmed, cell.known) = (sent == cell.known, sent);
                    }
                }
            }
            Owed::Bucket(owed) => {
                self.unreported |= !taken;
                if let Some(tat) = owed.sent.take().filter(|_| !taken) {
                    owed.whole.owe_also(tat);
                }
            }
        }
    }

    /// What a store keeps of debts that are not confirmed. One of this holder's that was confirmed came back with what a
    /// server had forgotten: it is confirmed again.
    pub fn heard(&mut self, kept: &[Debt]) {
        let Owed::Window(owed) = &mut self.owed else { return };
        for debt in kept.iter().filter(|debt| debt.id == self.debtor) {
            owed.iter_mut().filter(|cell| cell.start_ms == debt.cell_ms).for_each(|cell| cell.confirmed = false);
        }
    }

    /// Whether the store is still to be told.
    pub fn is_unreported(&self) -> bool {
        match &self.owed {
            Owed::Window(owed) => owed.iter().any(OwedInCell::is_unreported),
            Owed::Bucket(_) => self.unreported,
        }
    }

    /// Whether nothing of it counts any more, as far as this node's clock says, and the store knows of all. A node's clock may
    /// leap, so the store says whether the cell of a debt is over.
    pub fn is_settled(&self, now: NodeTime) -> bool {
        self.until <= now && !self.is_unreported()
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

/// The cell that begins at `start_ms`, made where it is missing.
fn owed_in(owed: &mut Vec<OwedInCell>, start_ms: u64) -> &mut OwedInCell {
    let at = owed.iter().position(|c| c.start_ms <= start_ms).unwrap_or(owed.len());
    if owed.get(at).is_none_or(|c| c.start_ms != start_ms) {
        owed.insert(at, OwedInCell::new(start_ms));
    }
    &mut owed[at]
}

/// What others used: what was seen, less what the store has said that it charged of this holder's debts.
fn without(seen: &[Cell], owed: &[OwedInCell]) -> Vec<Cell> {
    let own = |start_ms| owed.iter().find(|cell| cell.start_ms == start_ms).map_or(0, |cell| cell.known.net());
    seen.iter().map(|cell| one(cell.start_ms, cell.used().saturating_sub(own(cell.start_ms)))).collect()
}
