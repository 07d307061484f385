//! The record of a window counter, and what an item does with it.

use serde::{Deserialize, Serialize};

use super::batch::{Ask, Debts, Grant, Prefetch, Seen, WindowReturn};
use super::batch_context::BatchContext;
use super::cell::{Cell, MAX_COUNT, cell_mut};
use super::debts::{self, Debt};
use super::grants::{grant_in_order, granted_runs, prefetch};
use super::grid::{CellSpan, Grid};
use super::replay_guard::ReplayGuard;
use super::seen_cells::SeenCells;
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
}

/// What a record remembers so that it applies nothing twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub batches: ReplayGuard,
    /// Debts that were charged and that their holders have not confirmed.
    pub debts: Vec<Debt>,
}

impl WindowRecord {
    /// The beginning of the newest cell in milliseconds since the epoch, 0 if there is none.
    pub fn newest_ms(&self) -> u64 {
        self.cells.iter().map(|cell| cell.start_ms).max().unwrap_or(0)
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
    pub asks: &'a [Ask],
}

impl WindowItem<'_> {
    /// The instant that counts, and its cell; `None` if it is outside the bounds of the item. Time never goes back
    /// while the key lives, nor behind what a node has seen of it.
    pub fn current_cell(&self, stored: Option<&WindowRecord>, now: StoreTime) -> Option<(StoreTime, CellSpan)> {
        let stored = stored.map(WindowRecord::newest_ms);
        let reports = self.debts.reports.iter().map(|report| report.debt.cell_ms);
        let newest = reports.chain(stored).chain([self.seen.newest_ms()]).max().unwrap_or(0);
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
        let new = || WindowRecord { incarnation: cx.new_incarnation(), received: None, cells: Vec::new() };
        let mut window = stored.unwrap_or_else(new);
        window.incarnation = cx.continue_or_renew(window.incarnation);
        for (start_ms, entries) in self.seen.iter().filter(|(start_ms, _)| *start_ms >= span.oldest_ms) {
            cell_mut(&mut window.cells, start_ms).merge(entries, window.incarnation);
        }
        let reported = self.receive(&mut window, span, cx);

        // A counter without a limit denies nothing, however much is counted.
        let used = if self.limit >= MAX_COUNT { 0 } else { self.grid.used(&window.cells, span, now) };
        let available = self.limit.saturating_sub(used);
        let (counts, mut tokens) = grant_in_order(self.asks, available);
        let left_us = StoreTime::from_millis(span.end_ms).since(now);
        let lease = self.lease.map_or(0, |lease| prefetch(lease, available - tokens, left_us));
        tokens += u64::from(lease);
        invariant::check(Invariant::I1RegionLimit, tokens <= available);
        if tokens > 0 {
            cell_mut(&mut window.cells, span.start_ms).charge(window.incarnation, tokens);
        }
        // A newer cell drops the old ones, time alone does not: a clock that steps back finds them again.
        if let Some(newest) = window.cells.first().map(|c| StoreTime::from_millis(c.start_ms)) {
            let oldest_ms = self.grid.span_at(newest).map_or(newest.millis(), |span| span.oldest_ms);
            window.cells.retain(|c| c.start_ms >= oldest_ms);
        }
        let cells = &window.cells;
        let grant = Grant {
            granted: granted_runs(self.asks, &counts, |hits| self.grid.fits_at(cells, span, now, hits, self.limit)),
            lease,
            available: available - tokens,
            reset_at: self.grid.empty_at(cells, span, now),
            reported,
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
        let WindowRecord { incarnation, received, cells } = window;
        let carries = !self.returns.is_empty() || !self.debts.reports.is_empty();
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
        first || self.debts.reports.is_empty()
    }
}
