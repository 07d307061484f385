//! Random batches for a few keys, with asks, seen charges, returns, debts, repeats, and late batches.

use limiter::{BatchId, DebtId, HolderId, Incarnation, RegionNumber};
use std::collections::HashMap;

use limiter::counter::{
    Ask, Batch, BucketReturn, BucketSeen, Cell, Counter, Debt, Debts, Entry, Escrow, FIRST_NOTE, FLOOR, Give, Given,
    Grid, Hits, Item, MAX_COUNT, Part, Prefetch, Rate, Report, Seen, Share, Take, Ticks, WindowReturn,
};
use limiter::rules::MAX_LIMIT;
use limiter::{Revision, StoreTime};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }

    /// Returns a mostly small number. One in ten may be any number below `end`.
    pub fn size(&mut self, end: u64) -> u64 {
        let bound = if self.one_in(10) { end } else { end.min(20) };
        self.below(bound)
    }
}

/// Generates the batches of one run. Each batch uses the replies to earlier batches.
pub struct BatchGenerator {
    pub random: Random,
    /// The counter state in the last reply for each key.
    pub seen: HashMap<Box<[u8]>, Seen>,
    /// Number of batches so far.
    pub number: u64,
    /// The store time of the last reply.
    pub now: StoreTime,
    /// The epoch of the primary.
    pub epoch_ms: u64,
}

impl BatchGenerator {
    pub fn batch(&mut self) -> Batch {
        let items = (0..=self.random.below(3)).map(|_| self.item()).collect();
        let holder = self.random.pick(&[1, 2, 0xffff_1234_5678, 0xffff_ffff_ffff]);
        self.number += 1;
        // Some batches are repeats or come after later ones.
        let number = self.number.saturating_sub(if self.random.one_in(4) { self.random.below(9) } else { 0 });
        // A record sometimes sees more holders than it can keep apart.
        let holder = if self.random.one_in(3) { 100 + self.random.below(90) } else { holder };
        // Most keys have one holder at a time: in every other 500 batches, four of five are of holder 1.
        let holder = if (self.number / 500).is_multiple_of(2) && !self.random.one_in(5) { 1 } else { holder };
        let holder = if self.is_crowded() { 1000 + self.number } else { holder };
        // The number of an incarnation is computed from both, and may be one that has another meaning.
        let number = match self.random.below(100) {
            0 => (1 << 24) - holder % (1 << 24),
            1 => (1 << 25) - 1 - holder % (1 << 24),
            _ => number,
        };
        let not_after = match self.random.below(10) {
            0 => None,
            1 => Some(StoreTime(self.now.0.saturating_sub(self.random.below(50_000)))),
            2 => Some(StoreTime(self.now.0 + self.random.below(20_000))),
            _ if self.is_crowded() => Some(StoreTime(self.now.0 + 5_000_000)),
            _ => Some(StoreTime(self.now.0 + 100_000)),
        };
        Batch { not_after, holder: HolderId(holder), id: BatchId(number), items }
    }

    /// In some batches, many holders use one key. Its record gets more of everything than it can hold.
    const fn is_crowded(&self) -> bool {
        self.number % 2000 >= 1700
    }

    /// In every other 500 batches, other regions report their counts of simple keys.
    const fn has_other_regions(&self) -> bool {
        (self.number / 500).is_multiple_of(2)
    }

    fn item(&mut self) -> Item {
        let kind = if self.random.one_in(3) { self.random.pick(&[14, 15, 16, 17, 17]) } else { self.random.below(14) };
        let crowded_kind = if self.number % 4000 < 2000 { 1 } else { 3 };
        // All keys are of one lane, because a batch is for one lane. A key of kinds 14 to 17 stays simple until a
        // failover, so its name changes every 500 batches.
        let (kind, name) = match kind {
            _ if self.is_crowded() => (crowded_kind, 7),
            0..14 => (kind, self.random.below(3)),
            _ => (kind, self.number / 500),
        };
        let key: Box<[u8]> = format!("{{lane}}{kind}/{name}").into_bytes().into();
        let seen = self.seen.get(&key).cloned();
        // Sometimes the item is of another kind than the record under the key.
        let kind = if self.random.one_in(100) { self.random.below(18) } else { kind };
        // Sometimes an edit gave a simple key another window.
        let kind = if kind >= 14 && self.random.one_in(8) { 14 + self.random.below(4) } else { kind };
        let max_hits = self.random.pick(&[1, 3, 10, 20, 21, 100, 1_000_000, MAX_LIMIT]);
        let max_hits = if self.is_crowded() && kind == 3 { 3 } else { max_hits };
        // Overdrafts and refunds need the general path.
        let general = self.random.one_in(if kind < 14 { 3 } else { 20 }) || self.is_crowded();
        // The compact path serves items with one run of asks.
        let runs = if kind >= 14 && !self.random.one_in(3) { 1 } else { self.random.below(4) };
        let asks = (0..runs).map(|_| Ask {
            hits: self.random.size(max_hits + 2),
            count: 1 + self.small(5),
            overdraft: general && self.random.one_in(2),
        });
        let mut asks: Vec<Ask> = asks.collect();
        if self.is_crowded() {
            asks.push(Ask { hits: 1, count: 1, overdraft: true });
        }
        let refund = if general && self.random.one_in(2) { self.random.size(max_hits + 2) } else { 0 };
        let counter = match kind {
            0..=9 | 14.. => self.window(kind, max_hits, seen),
            _ => self.bucket(kind, max_hits, seen),
        };
        if let Counter::Import { .. } | Counter::Give { .. } | Counter::Take { .. } = counter {
            return Item { key, asks: Vec::new(), refund: 0, counter };
        }
        Item { key, asks, refund, counter }
    }

    fn small(&mut self, end: u64) -> u32 {
        u32::try_from(self.random.below(end)).unwrap()
    }

    fn window(&mut self, kind: u64, max_hits: u64, last_seen: Option<Seen>) -> Counter {
        let ms = self.now.millis();
        let grid = match kind {
            0 => Grid::Fixed { width_ms: 250 },
            1 => Grid::Fixed { width_ms: 34_560_000_000 },
            2 => Grid::Sliding { width_ms: 250 },
            3 => Grid::Sliding { width_ms: 1000 },
            4 => Grid::Sliding { width_ms: 86_400_000 },
            5 => Grid::Rolling { window_ms: 250, cells: 20 },
            6 => Grid::Rolling { window_ms: 1000, cells: 10 },
            7 => Grid::Rolling { window_ms: 120_000, cells: 2 },
            14 => Grid::Fixed { width_ms: 1000 },
            15 => Grid::Fixed { width_ms: 3_600_000 },
            16 => Grid::Sliding { width_ms: 3_600_000 },
            17 => Grid::Rolling { window_ms: 1000, cells: 1 },
            _ => {
                let from = ms - ms % 400;
                let from = if self.random.one_in(10) { from + 800 } else { from };
                Grid::Calendar { bounds: [from - 400, from, from + 400, from + 800] }
            }
        };
        let width_ms = match grid {
            Grid::Fixed { width_ms } | Grid::Sliding { width_ms } => width_ms,
            Grid::Rolling { window_ms, cells } => window_ms.div_ceil(cells.into()),
            Grid::Calendar { .. } => 400,
        };
        // Most keys are simple: only their own incarnation charges them. Other regions report some of these.
        let simple = kind > 9 && !self.random.one_in(50);
        if simple && self.has_other_regions() && self.random.one_in(4) {
            return self.report_of_another_region(grid, width_ms, max_hits);
        }
        let (mut seen, mut returns, mut debts) = (Vec::<Cell>::new(), Vec::new(), Debts::default());
        if let Some(Seen::Window { incarnation, cell_ms, cells, debts: seen_debts, .. }) = last_seen {
            if !self.random.one_in(4) {
                (debts.seen_in, debts.seen) =
                    (self.random.pick(&[incarnation, incarnation, Incarnation(1)]), seen_debts);
            }
            if !self.random.one_in(4) {
                let cell = |(start_ms, entries): (u64, &[Entry])| Cell { start_ms, entries: entries.to_vec() };
                seen = cells.iter().map(cell).collect();
            }
            // The holder saw more than the store has, as after a failover.
            if simple && self.random.one_in(4) {
                for entry in seen.iter_mut().flat_map(|cell| &mut cell.entries) {
                    entry.charged += self.random.below(3);
                    entry.returned = (entry.returned + self.random.below(3)).min(entry.charged);
                }
            }
            // The holder last asked in the cell before.
            if simple && self.random.one_in(20) {
                seen.iter_mut().for_each(|cell| cell.start_ms -= width_ms);
            }
            // The holder saw counts of other regions that the record does not have.
            if simple && self.has_other_regions() && self.random.one_in(4) {
                let number = Incarnation(1 + self.random.below(4));
                let count = 2 + self.random.below(3);
                let entry = |region| Entry { incarnation: number.of_region(region), charged: 1, returned: 0 };
                let others = (1..).take(count as usize).map(RegionNumber).map(entry);
                for cell in &mut seen {
                    cell.entries.retain(|entry| entry.incarnation.region() == RegionNumber(0));
                    cell.entries.extend(others.clone());
                }
            }
            if self.is_crowded() || self.random.one_in(if simple { 2 } else { 4 }) {
                // Some returns are for the previous cell.
                let back = if self.random.one_in(8) { width_ms } else { 0 };
                let cell_ms = cell_ms.saturating_sub(back);
                returns.push(WindowReturn { cell_ms, incarnation, tokens: self.random.size(50) });
            }
        }
        // Add cells that the store lost, older cells, and cells from a clock that jumped forward.
        if !simple && self.random.one_in(4) {
            let back = if self.is_crowded() { 0 } else { self.random.below(4) * width_ms };
            let ahead = if self.random.one_in(30) { width_ms } else { 0 };
            let start_ms = (ms - ms % width_ms).saturating_sub(back) + ahead;
            let crowded = self.is_crowded();
            let entries = (0..if crowded { 50 } else { 1 + self.random.size(40) }).map(|_| {
                let charged = self.random.size(max_hits);
                let incarnation = Incarnation(if crowded { self.random.below(60) } else { self.random.size(1 << 48) });
                let incarnation = if self.random.one_in(if crowded { 200 } else { 20 }) { FLOOR } else { incarnation };
                let regions = if crowded { 3 } else { 12 };
                let region = if self.random.one_in(3) { self.random.size(regions) } else { 0 };
                let note = FIRST_NOTE + (self.random.below(4) << 16) + self.random.below(40);
                let incarnation =
                    if self.random.one_in(if crowded { 2 } else { 8 }) { Incarnation(note) } else { incarnation };
                let incarnation = incarnation.of_region(RegionNumber(u16::try_from(region).unwrap()));
                Entry { incarnation, charged, returned: self.random.below(charged + 1) }
            });
            let cell = Cell { start_ms, entries: entries.collect() };
            if crowded {
                seen.retain(|other| other.start_ms != start_ms);
            }
            if seen.iter().all(|other| other.start_ms != start_ms) {
                seen.push(cell);
            }
        }
        if !simple && self.random.one_in(10) {
            let incarnation = Incarnation(self.random.size(1 << 48));
            returns.push(WindowReturn { cell_ms: ms - ms % width_ms, incarnation, tokens: self.random.size(9) });
        }
        if !simple && self.random.one_in(if self.is_crowded() { 2 } else { 4 }) {
            let start_ms = ms - ms % width_ms;
            let most = if self.is_crowded() { 20 } else { 3 };
            debts.reports = (0..1 + self.random.below(most)).map(|_| self.report(start_ms, width_ms)).collect();
        }
        let lease = self.random.one_in(2).then(|| Prefetch {
            want: u32::try_from(self.random.size(u64::from(u32::MAX))).unwrap(),
            holders: self.small(9),
            min_left: self.random.size(300_000),
        });
        let limit = if self.random.one_in(20) { MAX_COUNT } else { self.random.size(max_hits + 10) };
        if !simple && self.random.one_in(6) {
            return Counter::Import { grid, cells: seen.as_slice().into() };
        }
        let has_rights = matches!(grid, Grid::Fixed { .. } | Grid::Calendar { .. });
        let mut escrow = None;
        if !simple && has_rights && self.random.one_in(2) {
            let others = (1..4).filter(|_| !self.random.one_in(4)).map(RegionNumber).collect();
            escrow = Some(Escrow { part: self.random.size(max_hits + 10), others });
        }
        if let Some(escrow) = escrow.filter(|_| self.random.one_in(2)) {
            let start_ms = match grid.span_at(StoreTime::from_millis(ms)) {
                Some(span) if self.random.one_in(8) => span.end_ms,
                Some(span) => span.start_ms,
                None => 0,
            };
            return self.transfer(grid, escrow, start_ms, max_hits);
        }
        // A counter without a limit has no share.
        let share = (!simple && limit < MAX_COUNT && escrow.is_none() && self.random.one_in(4)).then(|| {
            let weights = 1 + self.random.size(5000);
            let weight = u32::try_from(self.random.below(weights + 1)).unwrap();
            let since_ms = ms - self.random.pick(&[0, 0, 200, 5000, 12_000]).min(ms);
            Share { since_ms, part: Part { weight, weights: u32::try_from(weights).unwrap() } }
        });
        Counter::Window { grid, limit, seen: seen.as_slice().into(), returns, debts, lease, share, escrow }
    }

    /// Returns the import of a few counts of the current cell, and seldom of another one.
    fn report_of_another_region(&mut self, grid: Grid, width_ms: u64, max_hits: u64) -> Counter {
        let ms = self.now.millis();
        let start_ms = ms - ms % width_ms + if self.random.one_in(20) { width_ms } else { 0 };
        let entries = (0..1 + self.random.below(3)).map(|_| {
            let region = RegionNumber(1 + u16::try_from(self.random.below(3)).unwrap());
            let number = if self.random.one_in(50) { FLOOR } else { Incarnation(1 + self.random.below(2)) };
            let most = if self.random.one_in(50) { 1 << 33 } else { max_hits.min(1000) };
            let charged = self.random.size(most);
            Entry { incarnation: number.of_region(region), charged, returned: self.random.below(charged + 1) }
        });
        let cell = Cell { start_ms, entries: entries.collect() };
        Counter::Import { grid, cells: [cell].as_slice().into() }
    }

    /// Rights that move between this region and one of the others, 1 to 3.
    fn transfer(&mut self, grid: Grid, escrow: Escrow, cell_ms: u64, max_hits: u64) -> Counter {
        let region = RegionNumber(u16::try_from(1 + self.random.below(3)).unwrap());
        let epoch_ms = self.random.pick(&[0, self.epoch_ms, self.epoch_ms, self.epoch_ms.saturating_sub(500)]);
        if self.random.one_in(2) {
            let (wanted, denied) = (self.random.size(max_hits), self.random.one_in(3));
            let received = if self.random.one_in(3) { self.random.size(max_hits) } else { 0 };
            let give = Give { to: region, cell_ms, wanted, denied, received, epoch_ms };
            return Counter::Give { grid, escrow, give };
        }
        let (given, received) = (self.random.size(max_hits), self.random.size(max_hits / 2 + 1));
        let given = Given { epoch_ms, given, received, fenced: !self.random.one_in(4) };
        Counter::Take { grid, take: Take { from: region, cell_ms, given, asked_ms: epoch_ms } }
    }

    /// Returns the report of a debt of the current cell or an older one. The debt may have been reported before.
    fn report(&mut self, start_ms: u64, width_ms: u64) -> Report {
        let cell_ms = start_ms.saturating_sub(self.random.pick(&[0, 0, 0, 1, 3]) * width_ms);
        let charged = self.random.size(1000);
        let hits = Hits { charged, returned: self.random.below(charged + 1) };
        let known = Hits { charged: self.random.below(charged + 1), returned: self.random.below(hits.returned + 1) };
        let known = self.random.pick(&[Hits::default(), Hits::default(), known, hits]);
        let id = DebtId(1 + if self.is_crowded() { self.random.below(1000) } else { self.random.size(120) });
        Report { debt: Debt { cell_ms, id, hits }, known }
    }

    fn bucket(&mut self, kind: u64, max_hits: u64, last_seen: Option<Seen>) -> Counter {
        let window_ms = self.random.pick(&[250, 1000, 60_000, 86_400_000]);
        // Each kind has one rate, except after rule changes.
        let mut rate = match kind {
            10 => Rate::new(10, 1000, 10),
            11 => Rate::new(999_983, 1000, 50_000),
            12 => Rate::new(3, 34_560_000_000, 7),
            _ => Rate::new(MAX_LIMIT, 250, MAX_LIMIT),
        };
        let mut revision = 5;
        if self.random.one_in(10) {
            rate = Rate::new(1 + self.random.size(max_hits), window_ms, 1 + self.random.size(max_hits.min(1000)));
            revision = 1 + self.random.below(12);
        } else if self.random.one_in(20) {
            // The burst changes and the rate stays.
            (rate.burst, revision) = (1 + self.random.below(rate.burst), 5 + self.random.below(8));
        }
        let (mut seen, mut returns) = (None, Vec::new());
        if let Some(Seen::Bucket { incarnation, tat, at }) = last_seen {
            let other = Ticks(tat.0.saturating_add(u128::from(self.random.size(1 << 40))));
            seen = self.random.pick(&[
                None,
                Some(BucketSeen { incarnation, tat }),
                Some(BucketSeen { incarnation: Incarnation(incarnation.0 + 1), tat: other }),
            ]);
            while self.random.one_in(3) {
                let hits = self.random.size(rate.burst);
                let charged_at = StoreTime(at.0.saturating_sub(self.random.size(2_000_000)));
                returns.push(BucketReturn { incarnation, step: rate.step, hits, charged_at });
            }
        }
        let owed = if self.random.one_in(6) { self.random.size(rate.burst * 2) } else { 0 };
        Counter::Bucket { rate, revision: Revision(revision), seen, owed, returns }
    }
}
