//! Writes a batch.

use limiter::counter::{
    Ask, Batch, BucketReturn, Counter, Debt, Entry, Escrow, Grid, Hits, Item, MAX_FOREIGN_ENTRIES, Prefetch, SeenCells,
    Share, Ticks, WindowReturn,
};

use super::codes::{
    GLOBAL_ESCROW, GLOBAL_NONE, GLOBAL_SHARE, HAS_ASK, HAS_OTHERS, HAS_REGIONS, HAS_RETURN, HAS_SEEN, IMPORT,
    KIND_BUCKET, KIND_CALENDAR, KIND_COMPACT, KIND_FIXED, KIND_GIVE, KIND_ROLLING, KIND_SLIDING, KIND_TAKE, U32_RANGE,
    VERSION,
};

/// The length of an item has three bytes.
const MAX_ITEM_LENGTH: usize = 0x00ff_ffff;

/// Writes a batch with the head of `batch` and these items.
pub fn encode_batch<'a>(batch: &Batch, items: impl Iterator<Item = &'a Item>) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(20 + 64 * items.size_hint().0));
    out.put::<1>(VERSION.into());
    out.put::<6>(batch.holder.0);
    out.put::<6>(batch.id.0);
    out.put::<7>(batch.not_after.map_or(0, |end| end.0.saturating_add(1)));
    for item in items {
        let begin = out.0.len();
        out.put::<3>(0);
        if !out.compact_item(item) {
            out.general_item(item);
        }
        // Three bytes for the length and one for the kind do not count.
        let length = (out.0.len() - begin - 4).min(MAX_ITEM_LENGTH);
        out.0[begin..begin + 3].copy_from_slice(&length.to_be_bytes()[5..]);
    }
    out.0
}

/// The name of the record of a lane. No counter has it.
const LANE: &[u8] = b":lane";

/// Returns the keys that the script needs for these items, as its `KEYS`. Each begins with `prefix`.
pub fn keys<'a>(prefix: &[u8], items: impl Iterator<Item = &'a Item>) -> Vec<Vec<u8>> {
    let mut uses_lane = false;
    let mut keys: Vec<Vec<u8>> = items
        .map(|item| {
            uses_lane |= item.counter.uses_lane();
            [prefix, &*item.key].concat()
        })
        .collect();
    keys.extend(uses_lane.then(|| [prefix, LANE].concat()));
    keys
}

/// The bytes written so far.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// Writes an item in the compact form. Returns false and writes nothing if the item does not have one.
    fn compact_item(&mut self, item: &Item) -> bool {
        let Counter::Window { grid, limit, seen, returns, debts, lease, share, escrow } = &item.counter else {
            return false;
        };
        let seen = match seen {
            SeenCells::Empty => None,
            SeenCells::One { start_ms, entry } if entry.is_own() => Some((*start_ms, *entry, [].as_slice())),
            SeenCells::OneCell { start_ms, entries } => match entries.split_first() {
                Some((own, others)) if own.is_own() && are_short(others) => Some((*start_ms, *own, others)),
                _ => return false,
            },
            SeenCells::One { .. } | SeenCells::Many(_) => return false,
        };
        let has_debts = !debts.seen.is_empty() || !debts.reports.is_empty();
        let is_regional = share.is_none() && escrow.is_none();
        let is_plain = item.refund == 0 && !has_debts && is_regional && item.asks.iter().all(|ask| !ask.overdraft);
        if !is_plain || item.asks.len() > 1 || returns.len() > 1 || matches!(grid, Grid::Calendar { .. }) {
            return false;
        }
        let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
        let has_others = seen.is_some_and(|(_, _, others)| !others.is_empty());
        let flags = flag(seen.is_some(), HAS_SEEN)
            + flag(has_others, HAS_OTHERS)
            + flag(!returns.is_empty(), HAS_RETURN)
            + flag(!item.asks.is_empty(), HAS_ASK);
        self.put::<1>(kind(grid) + KIND_COMPACT + flags);
        self.grid(grid);
        self.limit_and_lease(*limit, *lease);
        item.asks.iter().for_each(|ask| self.hits_and_count(*ask));
        if let Some((start_ms, own, others)) = seen {
            self.put::<6>(start_ms);
            self.entry(&own);
            if has_others {
                self.count::<1>(others.len());
                others.iter().for_each(|other| self.other(other));
            }
        }
        returns.iter().for_each(|back| self.window_return(back));
        true
    }

    fn general_item(&mut self, item: &Item) {
        match &item.counter {
            Counter::Window { grid, limit, seen, returns, debts, lease, share, escrow } => {
                self.put::<1>(kind(grid));
                self.grid(grid);
                self.limit_and_lease(*limit, *lease);
                self.put::<7>(item.refund);
                self.asks(&item.asks);
                self.cells(seen);
                self.put::<6>(debts.seen_in.0);
                self.count::<1>(debts.seen.len());
                debts.seen.iter().for_each(|debt| self.debt(debt));
                self.count::<1>(debts.reports.len());
                for report in &debts.reports {
                    self.debt(&report.debt);
                    self.hits(report.known);
                }
                self.global(share.as_ref(), escrow.as_ref());
                self.count::<4>(returns.len());
                returns.iter().for_each(|back| self.window_return(back));
            }
            Counter::Import { grid, cells } => {
                self.put::<1>(kind(grid) + IMPORT);
                self.grid(grid);
                self.cells(cells);
            }
            Counter::Give { grid, escrow, give } => {
                self.put::<1>(KIND_GIVE);
                self.put::<1>(kind(grid));
                self.grid(grid);
                self.escrow(escrow);
                self.put::<2>(give.to.0.into());
                self.put::<6>(give.cell_ms);
                self.put::<7>(give.wanted);
                self.put::<1>(give.denied.into());
                self.put::<7>(give.received);
                self.put::<6>(give.epoch_ms);
            }
            Counter::Take { grid, take } => {
                self.put::<1>(KIND_TAKE);
                self.put::<1>(kind(grid));
                self.grid(grid);
                self.put::<2>(take.from.0.into());
                self.put::<6>(take.cell_ms);
                self.put::<6>(take.given.epoch_ms);
                self.put::<7>(take.given.given);
                self.put::<7>(take.given.received);
                self.put::<1>(take.given.fenced.into());
                self.put::<6>(take.asked_ms);
            }
            Counter::Bucket { rate, revision, seen, owed, returns } => {
                self.put::<1>(KIND_BUCKET);
                self.ticks(rate.step);
                self.put::<5>(rate.burst);
                self.put::<6>(revision.0);
                self.put::<7>(*owed);
                self.put::<7>(item.refund);
                self.put::<1>(seen.is_some().into());
                if let Some(seen) = seen {
                    self.put::<6>(seen.incarnation.0);
                    self.ticks(seen.tat);
                }
                self.asks(&item.asks);
                self.count::<4>(returns.len());
                returns.iter().for_each(|back| self.bucket_return(back));
            }
        }
    }

    /// Writes `value` in `N` bytes.
    pub(super) fn put<const N: usize>(&mut self, value: u64) {
        let value = value.min(u64::MAX >> (64 - 8 * N));
        self.0.extend_from_slice(&value.to_be_bytes()[8 - N..]);
    }

    fn count<const N: usize>(&mut self, count: usize) {
        self.put::<N>(count as u64);
    }

    /// Writes the part of a grid that its kind does not tell.
    fn grid(&mut self, grid: &Grid) {
        let (window_ms, older_cells) = match *grid {
            Grid::Fixed { width_ms } => (width_ms, 0),
            Grid::Sliding { width_ms } => (width_ms, 1),
            Grid::Rolling { window_ms, cells } => (window_ms, cells.into()),
            Grid::Calendar { bounds } => return bounds.iter().for_each(|bound| self.put::<6>(*bound)),
        };
        self.put::<6>(window_ms);
        self.put::<1>(older_cells);
    }

    fn limit_and_lease(&mut self, limit: u64, lease: Option<Prefetch>) {
        self.put::<7>(limit);
        let Prefetch { want, holders, min_left } = lease.unwrap_or(Prefetch { want: 0, holders: 1, min_left: 0 });
        self.put::<4>(want.into());
        self.put::<4>(holders.into());
        self.put::<7>(min_left);
    }

    /// Writes what the item of a window says of other regions.
    fn global(&mut self, share: Option<&Share>, escrow: Option<&Escrow>) {
        match (share, escrow) {
            (_, Some(escrow)) => {
                self.put::<1>(GLOBAL_ESCROW);
                self.escrow(escrow);
            }
            (Some(Share { since_ms, part }), None) => {
                self.put::<1>(GLOBAL_SHARE);
                self.put::<6>(*since_ms);
                self.put::<4>(part.weight.into());
                self.put::<4>(part.weights.max(1).into());
            }
            (None, None) => self.put::<1>(GLOBAL_NONE),
        }
    }

    fn escrow(&mut self, escrow: &Escrow) {
        self.put::<7>(escrow.part);
        self.count::<1>(escrow.others.iter().count());
        escrow.others.iter().for_each(|other| self.put::<2>(other.0.into()));
    }

    fn asks(&mut self, asks: &[Ask]) {
        self.count::<2>(asks.len());
        for ask in asks {
            self.hits_and_count(*ask);
            self.put::<1>(ask.overdraft.into());
        }
    }

    fn hits_and_count(&mut self, ask: Ask) {
        self.put::<6>(ask.hits);
        self.put::<4>(ask.count.into());
    }

    fn cells(&mut self, cells: &SeenCells) {
        self.count::<1>(cells.iter().count());
        for (start_ms, entries) in cells.iter() {
            self.put::<6>(start_ms);
            let has_regions = entries.iter().any(|entry| !entry.is_own());
            self.put::<1>(entries.len() as u64 + if has_regions { HAS_REGIONS } else { 0 });
            for entry in entries {
                if has_regions {
                    self.put::<2>(entry.incarnation.region().0.into());
                }
                self.entry(entry);
            }
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.put::<6>(entry.incarnation.number());
        self.put::<7>(entry.charged);
        self.put::<7>(entry.returned);
    }

    /// Writes an entry of another region as [`OTHER_FORMAT`](super::codes::OTHER_FORMAT) says.
    fn other(&mut self, entry: &Entry) {
        self.put::<2>(entry.incarnation.region().0.into());
        self.put::<6>(entry.incarnation.number());
        self.put::<4>(entry.charged);
        self.put::<4>(entry.returned);
    }

    fn debt(&mut self, debt: &Debt) {
        self.put::<6>(debt.cell_ms);
        self.put::<6>(debt.id.0);
        self.hits(debt.hits);
    }

    fn hits(&mut self, hits: Hits) {
        self.put::<7>(hits.charged);
        self.put::<7>(hits.returned);
    }

    fn window_return(&mut self, back: &WindowReturn) {
        self.put::<6>(back.cell_ms);
        self.put::<6>(back.incarnation.0);
        self.put::<7>(back.tokens);
    }

    fn bucket_return(&mut self, back: &BucketReturn) {
        self.put::<6>(back.incarnation.0);
        self.ticks(back.step);
        self.put::<6>(back.hits);
        self.put::<7>(back.charged_at.0);
    }

    /// Writes whole microseconds, and the rest in 2^-20 microseconds.
    fn ticks(&mut self, ticks: Ticks) {
        let (micros, rest) = ticks.parts();
        self.put::<7>(micros);
        self.put::<3>(rest);
    }
}

/// Returns true if a compact item can carry these entries of other regions.
fn are_short(others: &[Entry]) -> bool {
    let is_count = |entry: &Entry| !entry.is_own() && !entry.is_note() && !entry.is_floor();
    let is_short = |entry: &Entry| is_count(entry) && entry.charged < U32_RANGE && entry.returned < U32_RANGE;
    others.len() <= MAX_FOREIGN_ENTRIES && others.iter().all(is_short)
}

/// Returns the kind of a window.
const fn kind(grid: &Grid) -> u64 {
    match grid {
        Grid::Fixed { .. } => KIND_FIXED,
        Grid::Sliding { .. } => KIND_SLIDING,
        Grid::Rolling { .. } => KIND_ROLLING,
        Grid::Calendar { .. } => KIND_CALENDAR,
    }
}
