//! The record of a window counter, and what an item does with it.

use serde::{Deserialize, Serialize};

use super::batch::{Ask, Debts, Grant, Prefetch, Seen, WindowReturn};
use super::batch_context::BatchContext;
use super::cell::{Cell, Entry, MAX_COUNT, cell_mut};
use super::debts::{self, Debt};
use super::escrow::Escrow;
use super::grants::{grant_in_order, granted_runs, prefetch};
use super::grid::{CellSpan, Grid};
use super::hit_log::HitLog;
use super::notes::is_rights;
use super::replay_guard::ReplayGuard;
use super::seen_cells::SeenCells;
use super::share::{Noticed, Share};
use super::usage::Usage;
use crate::ids::Incarnation;
use crate::invariant::{self, Invariant};
use crate::time::StoreTime;

/// What a store keeps of a window counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    pub incarnation: Incarnation,
    /// Most records have none.
    pub received: Option<Box<Received>>,
    /// The newest first.
    pub cells: Vec<Cell>,
    /// When hits were charged, if the limit is small.
    pub log: HitLog,
    /// Only during a partition, and for a while after it.
    pub noticed: Option<Noticed>,
}

/// What a record remembers so that it applies nothing twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub batches: ReplayGuard,
    /// Debts that were charged and that their holders have not confirmed.
    pub debts: Vec<Debt>,
}

impl WindowRecord {
    /// A record without cells.
    pub fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, received: None, cells: Vec::new(), log: HitLog::default(), noticed: None }
    }

    /// The beginning of the newest cell that the store's own region charged, in milliseconds since the epoch, 0 if
    /// there is none. The clocks of other regions do not advance the time of a counter.
    pub fn newest_ms(&self) -> u64 {
        self.cells.iter().filter(|cell| cell.is_own()).map(|cell| cell.start_ms).max().unwrap_or(0)
    }

    /// Merges what another region reports of its own cells, and changes nothing else. `span` is the current cell of the
    /// counter. A cell that is over is not created, and neither is one that begins after the next: the clock of that
    /// region is too far ahead.
    pub fn import(&mut self, cells: &SeenCells, span: &CellSpan) {
        let counts = |start_ms: u64| (span.oldest_ms..=span.end_ms).contains(&start_ms);
        for (start_ms, entries) in cells.iter().filter(|(start_ms, _)| counts(*start_ms)) {
            let foreign: Vec<Entry> = entries.iter().filter(|entry| !entry.is_own()).copied().collect();
            if !foreign.is_empty() {
                cell_mut(&mut self.cells, start_ms).merge(&foreign, self.incarnation);
            }
        }
        self.drop_cells_before(span.oldest_ms);
    }

    /// Drops the cells that begin before `oldest_ms`.
    pub fn drop_cells_before(&mut self, oldest_ms: u64) {
        self.cells.retain(|cell| cell.start_ms >= oldest_ms);
    }

    /// Drops the cells that have neither hits nor notes.
    pub fn drop_empty_cells(&mut self) {
        self.cells.retain(|cell| !cell.entries.is_empty());
    }

    /// Takes back hits, the newest first.
    fn refund(&mut self, mut hits: u64, span: &CellSpan) {
        for cell in self.cells.iter_mut().filter(|cell| cell.start_ms >= span.oldest_ms) {
            hits -= cell.refund(hits);
        }
    }
}

/// The window part of an item.
pub struct WindowItem<'a> {
    pub grid: &'a Grid,
    pub limit: u64,
    pub seen: &'a SeenCells,
    pub returns: &'a [WindowReturn],
    pub debts: &'a Debts,
    pub lease: Option<Prefetch>,
    pub share: Option<Share>,
    pub escrow: Option<Escrow>,
    pub refund: u64,
    pub asks: &'a [Ask],
}

impl WindowItem<'_> {
    /// The instant that counts, and its cell; `None` if it is outside the bounds of the item. Time never goes back
    /// while the key lives, nor behind what a node has seen of it.
    pub fn current_cell(&self, stored: Option<&WindowRecord>, cx: BatchContext) -> Option<(StoreTime, CellSpan)> {
        let stored = stored.map(WindowRecord::newest_ms);
        let reports = self.debts.reports.iter().map(|report| report.debt.cell_ms);
        let newest = reports.chain(stored).chain([self.seen.newest_ms()]).max().unwrap_or(0);
        let now = if self.escrow.is_some() { cx.lane_now() } else { cx.now };
        let now = now.max(StoreTime::from_millis(newest));
        Some((now, self.grid.span_at(now)?))
    }

    /// Applies the item to the record. Returns the new record and what the item is granted.
    pub fn run(
        &self,
        stored: Option<WindowRecord>,
        now: StoreTime,
        span: &CellSpan,
        cx: BatchContext,
    ) -> (WindowRecord, Grant) {
        let mut window = stored.unwrap_or_else(|| WindowRecord::new(cx.new_incarnation()));
        window.incarnation = cx.continue_or_renew(window.incarnation);
        for (start_ms, entries) in self.seen.iter().filter(|(start_ms, _)| *start_ms >= span.oldest_ms) {
            // The only note that is merged is that of the rights with which the cell began. Other regions repeat what
            // they gave and confirmed, and the store may have rejected some of it. They also confirm what this region
            // gave.
            let kept = entries.iter().filter(|entry| is_rights(entry) || !entry.is_note()).copied();
            cell_mut(&mut window.cells, start_ms).merge_each(kept, window.incarnation);
        }
        if self.grid.sliding_ms().is_none() {
            window.log = HitLog::default();
        }
        let reported = self.receive(&mut window, span, cx);

        // A counter without a limit denies nothing, however much is counted.
        let usage = Usage { grid: self.grid, cells: &window.cells, log: &window.log, own: false };
        let used = if self.limit >= MAX_COUNT { 0 } else { usage.used(span, now) };
        let of_limit = self.limit.saturating_sub(used);
        let (mut available, mut spending) = (of_limit, None);
        if let Some(share) = self.share {
            available = share.available(&mut window.noticed, &usage, self.limit, of_limit, (span, now));
        }
        if let Some(escrow) = self.escrow {
            let cell = window.cells.iter().find(|cell| cell.start_ms == span.start_ms);
            let (left, why) = escrow.available(cell, span.start_ms, cx.epoch);
            (available, spending) = (left.min(of_limit), Some(why));
        }
        let (counts, asked) = grant_in_order(self.asks, available);
        let left_us = StoreTime::from_millis(span.end_ms).since(now);
        let lease = self.lease.map_or(0, |lease| prefetch(lease, available.saturating_sub(asked), left_us));
        let tokens = asked + u64::from(lease);
        let overdraft = self.asks.iter().any(|ask| ask.overdraft);
        invariant::check(Invariant::I1RegionLimit, tokens <= available || overdraft);
        if tokens > 0 {
            let cell = cell_mut(&mut window.cells, span.start_ms);
            self.escrow.iter().for_each(|escrow| escrow.begin(cell));
            cell.charge(window.incarnation, tokens);
        }
        // Nobody knows when tokens of a lease will be spent, so they are not logged.
        if asked > 0 && self.grid.is_logged(self.limit) {
            window.log.note(StoreTime::from_millis(span.start_ms), now, asked);
        }
        // A newer cell drops the old ones, time alone does not: a clock that steps back finds them again.
        if let Some(newest) = window.cells.iter().find(|c| c.is_own()).map(|c| StoreTime::from_millis(c.start_ms)) {
            let oldest_ms = self.grid.span_at(newest).map_or(newest.millis(), |span| span.oldest_ms);
            window.cells.retain(|c| c.start_ms >= oldest_ms);
            window.log.drop_before(StoreTime::from_millis(oldest_ms));
        }
        // Another region may be in the next cell already.
        let current = window.cells.iter().position(|c| c.start_ms <= span.start_ms).unwrap_or(window.cells.len());
        let cells = &window.cells[current..];
        let usage = Usage { grid: self.grid, cells: &window.cells, log: &window.log, own: false };
        // The share of a region grows at the next cell at the earliest.
        let next_share = (available < of_limit).then_some(StoreTime::from_millis(span.end_ms));
        let fits_at =
            |hits| usage.fits_at(span, now, hits, self.limit).map(|at| next_share.map_or(at, |next| next.max(at)));
        let grant = Grant {
            granted: granted_runs(self.asks, &counts, fits_at),
            lease,
            available: available.saturating_sub(tokens),
            reset_at: usage.empty_at(span, now),
            reported,
            spending,
            seen: Seen::Window {
                incarnation: window.incarnation,
                cell_ms: span.start_ms,
                cell_end_ms: span.end_ms,
                cells: cells[..cells.len().min(2)].into(),
                debts: window.received.as_ref().map(|received| received.debts.clone()).unwrap_or_default(),
            },
        };
        (window, grant)
    }

    /// Takes returns back and charges debts. Returns true if the debts were charged: those of a repeated batch are not.
    fn receive(&self, window: &mut WindowRecord, span: &CellSpan, cx: BatchContext) -> bool {
        let carries = !self.returns.is_empty() || !self.debts.reports.is_empty() || self.refund > 0;
        let WindowRecord { incarnation, received, cells, .. } = window;
        if received.is_none() && !carries && self.debts.seen.is_empty() {
            return true;
        }
        let Received { batches, debts } = &mut **received.get_or_insert_default();
        // A debt of a cell that is over counts no more.
        let counts = |debt: &Debt| debt.cell_ms >= span.oldest_ms;
        batches.prune(cx.now);
        debts.retain(counts);
        // In the incarnation that the node saw, the record knows all that the node saw, and what was confirmed since.
        if self.debts.seen_in != *incarnation {
            debts::merge(debts, self.debts.seen.iter().filter(|debt| counts(debt)));
        }
        let first = carries && batches.accept(cx.holder, cx.batch, cx.not_after);
        for back in self.returns.iter().filter(|_| first) {
            if let Some(cell) = cells.iter_mut().find(|c| c.start_ms == back.cell_ms) {
                cell.give_back(back.incarnation, back.tokens);
            }
        }
        for report in self.debts.reports.iter().filter(|report| first && counts(&report.debt)) {
            debts::charge(debts, cells, report, *incarnation);
        }
        received.take_if(|received| received.batches.is_empty() && received.debts.is_empty());
        if first {
            window.refund(self.refund, span);
        }
        first || self.debts.reports.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RegionNumber;

    #[test]
    fn a_cell_that_is_over_goes_when_another_region_reports_a_newer_one() {
        let mut record = WindowRecord::new(Incarnation(1));
        for start_ms in [4000, 5000] {
            let incarnation = Incarnation(1).of_region(RegionNumber(7));
            let cells = SeenCells::one_cell(start_ms, vec![Entry { incarnation, charged: 3, returned: 0 }]);
            record.import(&cells, &CellSpan { start_ms, end_ms: start_ms + 1000, oldest_ms: start_ms });
        }
        let starts: Vec<u64> = record.cells.iter().map(|cell| cell.start_ms).collect();
        assert_eq!(starts, [5000]);
    }
}
