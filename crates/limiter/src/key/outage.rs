//! `on_store_failure: local`: what this holder admits of one key during an outage of the store, and owes the store
//! afterwards.
//!
//! The share of a window is (limit − hits that others were last seen to have used) ÷ divisor. A bucket divides its rate
//! and its burst. A debt counts against the share for as long as it counts at all. A store that answers now and then
//! therefore adds no further share.

use super::last_seen::LastSeen;
use super::messages::{Context, Receipt};
use crate::counter::{
    Bucket, Cell, Debt, Entry, Grid, HitLog, Hits, MAX_COUNT, Rate, Report, SeenCells, Ticks, Usage, used, used_by,
};
use crate::ids::{DebtId, Incarnation, RegionNumber};
use crate::revision::Revision;
use crate::rules::EffectiveLimit;
use crate::time::{NodeTime, StoreTime};

/// What this holder admitted of one key during one outage.
#[derive(Debug)]
pub struct Outage {
    /// A key that is evicted during an outage owes under a new id afterwards.
    debt_id: DebtId,
    owed: Owed,
    /// The cells are those of the store's clock. Before it is known they are those of the node's wall clock, which may
    /// be years off, and nothing is reported.
    clock_known: bool,
    /// The debt of a bucket is still to be reported.
    unreported: bool,
    /// From this instant none of the debts counts any more.
    expires_at: NodeTime,
    /// Hits of this holder's share that were left after the last admission.
    left: u64,
}

#[derive(Debug)]
enum Owed {
    /// The newest cell first.
    Window(Vec<CellDebt>),
    Bucket(Box<BucketDebt>),
}

/// The debt in one cell.
#[derive(Clone, Copy, Debug)]
struct CellDebt {
    start_ms: u64,
    hits: Hits,
    /// The hits that the store has acknowledged as charged.
    acknowledged: Hits,
    /// What the report in flight says.
    sent: Option<Hits>,
    /// True if the store knows that this holder has received the acknowledgement.
    confirmed: bool,
}

impl CellDebt {
    const fn new(start_ms: u64) -> Self {
        let nothing = Hits { charged: 0, returned: 0 };
        Self { start_ms, hits: nothing, acknowledged: nothing, sent: None, confirmed: true }
    }

    fn is_unreported(&self) -> bool {
        self.hits != self.acknowledged || !self.confirmed
    }
}

/// The debts as cells that a grid can weigh.
fn as_cells(owed: &[CellDebt]) -> Vec<Cell> {
    owed.iter().map(|cell| cell_of(cell.start_ms, cell.hits.net())).collect()
}

/// A cell with `used` hits.
fn cell_of(start_ms: u64, used: u64) -> Cell {
    Cell { start_ms, entries: vec![Entry { incarnation: Incarnation(1), charged: used, returned: 0 }] }
}

#[derive(Debug)]
struct BucketDebt {
    /// This holder's share of the bucket: a bucket with a part of the rate and the burst.
    share: Bucket,
    /// A bucket of the whole rate that was charged the debt and nothing else. What it still lacks is the debt that the
    /// refill has not absorbed.
    whole: Bucket,
    /// The theoretical arrival time (`tat`) of `whole` when the report in flight was sent.
    sent: Option<Ticks>,
}

impl Outage {
    pub fn new(effective: &EffectiveLimit, debt_id: DebtId, cx: &Context) -> Self {
        let owed = if effective.is_bucket() {
            let of = |rate| Bucket::new(Incarnation(1), cx.store_now, rate, Revision::NONE);
            let share = of(share_of(effective.rate, cx.divisor));
            Owed::Bucket(Box::new(BucketDebt { share, whole: of(effective.rate), sent: None }))
        } else {
            Owed::Window(Vec::new())
        };
        Self { debt_id, owed, clock_known: cx.clock_known, unreported: false, expires_at: NodeTime(0), left: 0 }
    }

    /// Admits `hits` if this holder's share has room for them. 0 hits ask whether one would pass. `overdraft` hits are
    /// charged to the debt even if they are not admitted.
    pub fn admit(
        &mut self,
        hits: u64,
        overdraft: bool,
        effective: &EffectiveLimit,
        seen: &LastSeen,
        cx: &Context,
    ) -> Option<Receipt> {
        self.adopt_clock(effective, cx);
        let (fits, receipt, over_at) = match &mut self.owed {
            Owed::Window(owed) => {
                let newest_ms = owed.first().map_or(0, |c| c.start_ms).max(seen.newest_ms());
                let now = cx.store_now.max(StoreTime::from_millis(newest_ms));
                let grid = effective.grid(now)?;
                let span = grid.span_at(now)?;
                owed.retain(|c| c.start_ms >= span.oldest_ms);
                let left_of = |limit: u64, used_of: fn(&[Entry]) -> u64| {
                    let others = used_by_others(seen.cells(), owed, used_of);
                    limit.saturating_sub(unlogged(&grid, &others).used(&span, now))
                };
                let mut left = left_of(effective.limit, used);
                if effective.is_escrow() && cx.regions.is_some() {
                    // Nobody knows which rights are left. Only tokens in hand are spent.
                    left = 0;
                }
                if let Some(regions) = cx.regions.filter(|_| effective.on_partition().is_some()) {
                    // Regions that count together have a part each, and each of them uses its own.
                    let own = |entries: &[Entry]| used_by(entries, RegionNumber::OWN);
                    left = left.min(left_of(regions.part.of(effective.limit), own));
                }
                let window_share = left / divisor(cx);
                self.left = window_share.saturating_sub(unlogged(&grid, &as_cells(owed)).used(&span, now));
                let fits = hits.max(1) <= self.left;
                if hits == 0 || !(fits || overdraft) {
                    return fits.then_some(Receipt::Free);
                }
                let debt = &mut debt_in(owed, span.start_ms).hits;
                debt.charged = debt.charged.saturating_add(hits).min(MAX_COUNT);
                (fits, Receipt::Local { cell_ms: span.start_ms }, unlogged(&grid, &as_cells(owed)).empty_at(&span, now))
            }
            Owed::Bucket(owed) => {
                let BucketDebt { share, whole, .. } = &mut **owed;
                let rates = [share_of(effective.rate, cx.divisor), effective.rate];
                for (bucket, rate) in [&mut *share, &mut *whole].into_iter().zip(rates) {
                    bucket.last = bucket.last.max(cx.store_now);
                    if bucket.rate != rate {
                        bucket.adopt(rate, bucket.revision.next(0));
                    }
                }
                if let Some(seen) = seen.bucket() {
                    // The share is divisor times slower and smaller, so it fills in the same time as the whole. With
                    // the theoretical arrival time of the whole it is therefore empty to the same degree.
                    share.tat = share.tat.max(seen.tat.min(share.empty_tat()));
                }
                self.left = share.available();
                let fits = share.fits(hits.max(1));
                if hits == 0 || !(fits || overdraft) {
                    return fits.then_some(Receipt::Free);
                }
                if fits {
                    share.charge(hits);
                    whole.charge(hits);
                } else {
                    share.overdraw(hits);
                    whole.overdraw(hits);
                }
                (fits, Receipt::Local { cell_ms: 0 }, share.full_at())
            }
        };
        self.expires_at = self.expires_at.max(cx.now.plus(over_at.since(cx.store_now)));
        self.unreported = true;
        self.left = self.left.saturating_sub(hits);
        fits.then_some(receipt)
    }

    /// Once the store's clock is known, hits that were admitted before it count as of now.
    pub fn adopt_clock(&mut self, effective: &EffectiveLimit, cx: &Context) {
        if self.clock_known || !cx.clock_known {
            return;
        }
        let now = cx.store_now;
        let over_at = match &mut self.owed {
            Owed::Window(owed) => {
                let charged = owed.iter().map(|cell| cell.hits.net()).fold(0, u64::saturating_add);
                let placed = effective.grid(now).and_then(|grid| Some((grid, grid.span_at(now)?)));
                let Some((grid, span)) = placed else { return };
                owed.clear();
                if charged > 0 {
                    debt_in(owed, span.start_ms).hits.charged = charged;
                }
                unlogged(&grid, &as_cells(owed)).empty_at(&span, now)
            }
            Owed::Bucket(owed) => {
                let BucketDebt { share, whole, .. } = &mut **owed;
                share.set_clock(now);
                whole.set_clock(now);
                share.full_at()
            }
        };
        self.clock_known = true;
        self.expires_at = cx.now.plus(over_at.since(now));
    }

    /// The beginning of the newest cell with a debt, in milliseconds since the epoch; 0 if there is none.
    pub fn newest_ms(&self) -> u64 {
        match &self.owed {
            Owed::Window(owed) => owed.first().map_or(0, |cell| cell.start_ms),
            Owed::Bucket(_) => 0,
        }
    }

    /// Hits of this holder's share that are left.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Takes back hits that were admitted and not used.
    pub fn give_back(&mut self, cell_ms: u64, unused: u64) {
        match &mut self.owed {
            Owed::Window(owed) => {
                if let Some(cell) = owed.iter_mut().find(|c| c.start_ms == cell_ms) {
                    cell.hits.returned = cell.hits.returned.saturating_add(unused).min(cell.hits.charged);
                }
            }
            Owed::Bucket(owed) => {
                let BucketDebt { share, whole, .. } = &mut **owed;
                share.uncharge(unused);
                whole.uncharge(unused);
            }
        }
    }

    /// The debts of a window that the next item reports.
    pub fn report_window(&mut self) -> Vec<Report> {
        let Owed::Window(owed) = &mut self.owed else { return Vec::new() };
        if !self.clock_known {
            return Vec::new();
        }
        let id = self.debt_id;
        let unreported = owed.iter_mut().filter(|cell| cell.is_unreported());
        let report = |cell: &mut CellDebt| {
            cell.sent = Some(cell.hits);
            Report { debt: Debt { cell_ms: cell.start_ms, id, hits: cell.hits }, known: cell.acknowledged }
        };
        unreported.map(report).collect()
    }

    /// The hits owed to a bucket that the next item reports, without those that the refill has absorbed. The debts of
    /// several holders add up to no less than what one bucket that was charged all of them would lack.
    pub fn report_bucket(&mut self, now: StoreTime) -> u64 {
        let Owed::Bucket(owed) = &mut self.owed else { return 0 };
        if !self.clock_known {
            return 0;
        }
        let BucketDebt { whole, sent, .. } = &mut **owed;
        whole.last = whole.last.max(now);
        let missing = whole.missing();
        *sent = Some(std::mem::take(&mut whole.tat));
        self.unreported = false;
        missing
    }

    /// The item that carried the report has a reply or is lost. `charged`: the store has charged the report. A bucket
    /// that gets a report twice is emptied, never driven below empty.
    pub fn complete_report(&mut self, charged: bool) {
        match &mut self.owed {
            Owed::Window(owed) => {
                for cell in owed {
                    if let Some(sent) = cell.sent.take().filter(|_| charged) {
                        (cell.confirmed, cell.acknowledged) = (sent == cell.acknowledged, sent);
                    }
                }
            }
            Owed::Bucket(owed) => {
                self.unreported |= !charged;
                if let Some(tat) = owed.sent.take().filter(|_| !charged) {
                    owed.whole.owe_also(tat);
                }
            }
        }
    }

    /// `kept` are the unconfirmed debts that the store keeps. A confirmed debt of this holder that is among them came
    /// back after a server had lost data, so it becomes unconfirmed.
    pub fn mark_unconfirmed(&mut self, kept: &[Debt]) {
        let Owed::Window(owed) = &mut self.owed else { return };
        for debt in kept.iter().filter(|debt| debt.id == self.debt_id) {
            owed.iter_mut().filter(|cell| cell.start_ms == debt.cell_ms).for_each(|cell| cell.confirmed = false);
        }
    }

    /// True if something is still to be reported.
    pub fn is_unreported(&self) -> bool {
        match &self.owed {
            Owed::Window(owed) => owed.iter().any(CellDebt::is_unreported),
            Owed::Bucket(_) => self.unreported,
        }
    }

    /// True if nothing of it counts any more by this node's clock, and the store knows all of it. A node's clock may
    /// leap, so the store decides whether the cell of a debt is over.
    pub fn is_settled(&self, now: NodeTime) -> bool {
        self.expires_at <= now && !self.is_unreported()
    }
}

/// The usage of cells of which nobody knows when their hits were charged.
const fn unlogged<'a>(grid: &'a Grid, cells: &'a [Cell]) -> Usage<'a> {
    Usage { grid, cells, log: HitLog::EMPTY, own: false }
}

fn divisor(cx: &Context) -> u64 {
    cx.divisor.max(1).into()
}

/// One holder's share of a bucket's rate.
fn share_of(rate: Rate, divisor: u32) -> Rate {
    let divisor = divisor.max(1);
    Rate { step: Ticks(rate.step.0.saturating_mul(divisor.into())), burst: rate.burst / u64::from(divisor) }
}

/// The debt in the cell that begins at `start_ms`, added if it is missing.
fn debt_in(owed: &mut Vec<CellDebt>, start_ms: u64) -> &mut CellDebt {
    let at = owed.iter().position(|c| c.start_ms <= start_ms).unwrap_or(owed.len());
    if owed.get(at).is_none_or(|c| c.start_ms != start_ms) {
        owed.insert(at, CellDebt::new(start_ms));
    }
    &mut owed[at]
}

/// What others used: the cells seen, less the debts of this holder that the store has acknowledged.
fn used_by_others(seen: &SeenCells, owed: &[CellDebt], used_of: fn(&[Entry]) -> u64) -> Vec<Cell> {
    let own = |start_ms| owed.iter().find(|cell| cell.start_ms == start_ms).map_or(0, |cell| cell.acknowledged.net());
    seen.iter().map(|(start_ms, entries)| cell_of(start_ms, used_of(entries).saturating_sub(own(start_ms)))).collect()
}

#[cfg(test)]
mod tests;
