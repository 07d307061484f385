//! What a counter store does with one item. Pure: the memory store calls it, and every other store must equal it.
//!
//! In this order: merge what the node saw, take back, charge debts, charge the asks, charge the lease.

use serde::{Deserialize, Serialize};

use super::batch::{
    Ask, Batch, BatchAnswer, BatchOutcome, Counter, Debts, Grant, Granted, Item, ItemAnswer, Prefetch, Seen,
    WindowReturn,
};
use super::debts::{self, Debt};
use super::replay_guard::Repeats;
use super::token_bucket::Bucket;
use super::window::{Cell, FLOOR, Grid, MAX_COUNT, Place, cell_at};
use crate::invariant::{self, Invariant};
use crate::time::StoreTime;

/// What a store keeps under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Window(Window),
    Bucket(Bucket),
}

/// A window counter's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub incarnation: u64,
    /// Most records have none.
    pub received: Option<Box<Received>>,
    /// The newest first.
    pub cells: Vec<Cell>,
}

/// What a record remembers so that nothing is taken twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub batches: Repeats,
    /// Debts that were charged and not confirmed.
    pub debts: Vec<Debt>,
}

/// What the store knows when an item runs.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub now: StoreTime,
    /// Mark of the server's replication id, below [`MARKS`]. It changes when another server takes over: what the old
    /// one charged last may be lost.
    pub replication: u64,
    /// Sender and number of the batch.
    pub holder: u64,
    pub number: u64,
    /// The batch can run until then.
    pub not_after: Option<StoreTime>,
}

/// An incarnation's low bits are the mark of the replication id that it began under.
pub const MARKS: u64 = 1 << 24;

impl At {
    /// The name of an incarnation that begins here. Two of one key that begin under one replication id are told apart
    /// by 24 bits of who begins them, and when.
    pub fn begins(&self) -> u64 {
        ((self.holder + self.number) % MARKS * MARKS + self.replication % MARKS).clamp(1, FLOOR - 1)
    }

    /// `incarnation`, or a new one where another server has taken over since it began.
    pub fn goes_on(&self, incarnation: u64) -> u64 {
        if incarnation % MARKS == self.replication % MARKS { incarnation } else { self.begins() }
    }
}

/// What a store does with a batch at `now`: `serve` does [`apply`] on the record of each item, unless it is too late.
pub fn run(
    batch: &Batch,
    now: StoreTime,
    replication: u64,
    mut serve: impl FnMut(&Item, At) -> ItemAnswer,
) -> BatchAnswer {
    if batch.not_after.is_some_and(|last| now > last) {
        return BatchAnswer { now, outcome: BatchOutcome::Late };
    }
    let Batch { not_after, holder, number, .. } = *batch;
    let at = At { now, replication, holder, number, not_after };
    BatchAnswer { now, outcome: BatchOutcome::Ran(batch.items.iter().map(|item| serve(item, at)).collect()) }
}

/// Runs `item` on what is stored under its key.
pub fn apply(record: &mut Option<Record>, item: &Item, at: At) -> ItemAnswer {
    match (&item.counter, record.take()) {
        (Counter::Window { grid, limit, seen, returns, debts, lease }, stored @ (None | Some(Record::Window(_)))) => {
            let stored = match stored {
                Some(Record::Window(window)) => Some(window),
                _ => None,
            };
            let ask = WindowAsk { grid, limit: *limit, seen, returns, debts, lease: *lease, asks: &item.asks };
            let Some((now, place)) = ask.place(stored.as_ref(), at.now) else {
                *record = stored.map(Record::Window);
                return ItemAnswer::OutOfBounds;
            };
            let (window, grant) = ask.run(stored, now, &place, at);
            // A key that holds nothing need not exist.
            *record = (!window.cells.is_empty()).then_some(Record::Window(window));
            ItemAnswer::Done(grant)
        }
        (Counter::Bucket { rate, revision, seen, owed, returns }, stored @ (None | Some(Record::Bucket(_)))) => {
            let mut bucket = match stored {
                Some(Record::Bucket(bucket)) => bucket,
                _ => Bucket::new(at.begins(), at.now, *rate, *revision),
            };
            bucket.last = bucket.last.max(at.now);
            bucket.taken.prune(at.now);
            bucket.reincarnate(at.goes_on(bucket.incarnation));
            if let Some(seen) = seen {
                bucket.merge(seen);
            }
            bucket.adopt(*rate, *revision);
            if !returns.is_empty() && bucket.taken.is_first(at.holder, at.number, at.not_after) {
                bucket.give_back(returns);
            }
            // After what comes back, which makes room: what is owed beyond an empty bucket is let go.
            bucket.owe(*owed);
            let grant = charge_bucket(&mut bucket, &item.asks);
            *record = Some(Record::Bucket(bucket));
            ItemAnswer::Done(grant)
        }
        (_, stored) => {
            *record = stored;
            ItemAnswer::Failed
        }
    }
}

/// From when on a record says nothing any more, and may be dropped. A cell of which all went back does say so, to whoever
/// saw it before that.
pub fn expires_at(record: &Record, item: &Item) -> StoreTime {
    match (record, &item.counter) {
        (Record::Window(window), Counter::Window { grid, .. }) => {
            let newest = window.cells.first().map_or(0, |c| c.start_ms);
            match (grid.place(StoreTime::from_millis(newest)), grid) {
                (Some(place), _) => grid.gone_at(newest, place.end_ms),
                // Its cells are of a time before the calendar's bounds.
                (None, Grid::Calendar { bounds }) => StoreTime::from_millis(bounds[0]),
                (None, _) => StoreTime(u64::MAX),
            }
        }
        (Record::Bucket(bucket), _) => bucket.full_at(),
        _ => StoreTime(u64::MAX),
    }
}

/// The window part of an item.
struct WindowAsk<'a> {
    grid: &'a Grid,
    limit: u64,
    seen: &'a [Cell],
    returns: &'a [WindowReturn],
    debts: &'a Debts,
    lease: Option<Prefetch>,
    asks: &'a [Ask],
}

impl WindowAsk<'_> {
    /// The instant that counts and its cell; `None` where the item's bounds do not hold it.
    fn place(&self, stored: Option<&Window>, now: StoreTime) -> Option<(StoreTime, Place)> {
        // Time never goes back while the key lives, nor behind what a node has seen of it.
        let cells = stored.into_iter().flat_map(|window| &window.cells).chain(self.seen).map(|c| c.start_ms);
        let newest = cells.chain(self.debts.reports.iter().map(|report| report.debt.cell_ms)).max().unwrap_or(0);
        let now = now.max(StoreTime::from_millis(newest));
        Some((now, self.grid.place(now)?))
    }

    fn run(&self, stored: Option<Window>, now: StoreTime, place: &Place, at: At) -> (Window, Grant) {
        let mut window = stored.unwrap_or(Window { incarnation: at.begins(), received: None, cells: Vec::new() });
        window.incarnation = at.goes_on(window.incarnation);
        for seen in self.seen.iter().filter(|c| c.start_ms >= place.oldest_ms) {
            cell_at(&mut window.cells, seen.start_ms).merge(&seen.entries, window.incarnation);
        }
        let reported = self.receive(&mut window, place, at);

        // What has no limit refuses nothing, however much is counted.
        let used = if self.limit >= MAX_COUNT { 0 } else { self.grid.used(&window.cells, place, now) };
        let available = self.limit.saturating_sub(used);
        let (counts, mut tokens) = share_out(self.asks, available);
        let left_us = StoreTime::from_millis(place.end_ms).since(now);
        let lease = self.lease.map_or(0, |lease| prefetch(lease, available - tokens, left_us));
        tokens += u64::from(lease);
        invariant::check(Invariant::I1RegionLimit, tokens <= available);
        if tokens > 0 {
            cell_at(&mut window.cells, place.start_ms).charge(window.incarnation, tokens);
        }
        // Old cells go when a newer one comes, not when time passes: a clock that steps back finds them again.
        if let Some(newest) = window.cells.first().map(|c| StoreTime::from_millis(c.start_ms)) {
            let oldest_ms = self.grid.place(newest).map_or(newest.millis(), |place| place.oldest_ms);
            window.cells.retain(|c| c.start_ms >= oldest_ms);
        }
        let cells = &window.cells;
        let fits_at = |hits| self.grid.fits_at(cells, place, now, hits, self.limit);
        let grant = Grant {
            granted: with_refusals(self.asks, &counts, fits_at),
            lease,
            available: available - tokens,
            reset_at: self.grid.empty_at(cells, place, now),
            reported,
            seen: Seen::Window {
                incarnation: window.incarnation,
                cell_ms: place.start_ms,
                cell_end_ms: place.end_ms,
                cells: cells.iter().take(2).cloned().collect(),
                debts: window.received.as_ref().map(|received| received.debts.clone()).unwrap_or_default(),
            },
        };
        (window, grant)
    }

    /// Takes back what returns, and charges debts. Returns whether the debts were taken: a repeat of a batch is not.
    fn receive(&self, window: &mut Window, place: &Place, at: At) -> bool {
        let Window { incarnation, received, cells } = window;
        let brings = !self.returns.is_empty() || !self.debts.reports.is_empty();
        if received.is_none() && !brings && self.debts.seen.is_empty() {
            return true;
        }
        let Received { batches, debts } = &mut **received.get_or_insert_default();
        batches.prune(at.now);
        debts.retain(|debt| debt.cell_ms >= place.oldest_ms);
        // What is of a cell that is over counts no more.
        let counts = |debt: &Debt| debt.cell_ms >= place.oldest_ms;
        // Where no other incarnation has begun since, the record knows all that the node saw, and what was confirmed since.
        if self.debts.seen_in != *incarnation {
            let seen: Vec<Debt> = self.debts.seen.iter().filter(|debt| counts(debt)).copied().collect();
            debts::merge(debts, &seen);
        }
        let first = brings && batches.is_first(at.holder, at.number, at.not_after);
        for back in self.returns.iter().filter(|_| first) {
            if let Some(cell) = cells.iter_mut().find(|c| c.start_ms == back.cell_ms) {
                cell.give_back(back.source, back.tokens);
            }
        }
        for report in self.debts.reports.iter().filter(|report| first && counts(&report.debt)) {
            debts::take(debts, cells, report, *incarnation);
        }
        received.take_if(|received| received.batches.is_empty() && received.debts.is_empty());
        first || self.debts.reports.is_empty()
    }
}

fn charge_bucket(bucket: &mut Bucket, asks: &[Ask]) -> Grant {
    let (counts, tokens) = share_out(asks, bucket.available());
    if tokens > 0 {
        bucket.charge(tokens);
        invariant::check(Invariant::I1RegionLimit, bucket.tat <= bucket.empty_tat());
    }
    Grant {
        granted: with_refusals(asks, &counts, |hits| bucket.fits_at(hits)),
        lease: 0,
        available: bucket.available(),
        reset_at: bucket.full_at(),
        reported: true,
        seen: Seen::Bucket { incarnation: bucket.incarnation, tat: bucket.tat, at: bucket.last },
    }
}

/// Grants whole asks in order: how many of each run pass, and the tokens that they take together.
fn share_out(asks: &[Ask], available: u64) -> (Vec<u32>, u64) {
    let mut taken = 0;
    let counts = asks
        .iter()
        .map(|ask| {
            let left = available - taken;
            let fitting = match ask.hits {
                0 if left == 0 => 0,
                0 => u64::MAX,
                hits => left / hits,
            };
            let count = fitting.min(u64::from(ask.count));
            taken += count * ask.hits;
            u32::try_from(count).unwrap_or(ask.count)
        })
        .collect();
    (counts, taken)
}

/// Says for every run how many passed and, where some did not, when one more would.
fn with_refusals(asks: &[Ask], counts: &[u32], fits_at: impl Fn(u64) -> Option<StoreTime>) -> Vec<Granted> {
    let of = |(ask, count): (&Ask, &u32)| Granted {
        count: *count,
        fits_at: if *count < ask.count { fits_at(ask.hits.max(1)) } else { None },
    };
    asks.iter().zip(counts).map(of).collect()
}

/// The lease policy's cap: nobody takes more than a fair half of what is left, nor from a cell about to end.
fn prefetch(lease: Prefetch, available: u64, left_us: u64) -> u32 {
    if left_us < lease.min_left {
        return 0;
    }
    let cap = available / (2 * u64::from(lease.holders.max(1)));
    u32::try_from(cap).unwrap_or(u32::MAX).min(lease.want)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Revision;

    fn item(grid: Grid, limit: u64, asks: &[(u64, u32)]) -> Item {
        Item {
            key: b"k".as_slice().into(),
            asks: asks.iter().map(|(hits, count)| Ask { hits: *hits, count: *count }).collect(),
            counter: Counter::Window {
                grid,
                limit,
                seen: Vec::new(),
                returns: Vec::new(),
                debts: Debts::default(),
                lease: None,
            },
        }
    }

    fn run(record: &mut Option<Record>, item: &Item, now_ms: u64) -> Grant {
        let at = At { now: StoreTime::from_millis(now_ms), replication: 1, holder: 10, number: 1, not_after: None };
        match apply(record, item, at) {
            ItemAnswer::Done(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    fn counts(grant: &Grant) -> Vec<u32> {
        grant.granted.iter().map(|g| g.count).collect()
    }

    const GRID: Grid = Grid::Fixed { width_ms: 1000 };

    #[test]
    fn a_record_whose_charges_all_went_back_is_kept_while_they_would_count() {
        // Who saw them before they went back would charge them again to a record that knows nothing.
        let grid = Grid::Sliding { width_ms: 1000 };
        let mut record = None;
        let seen = run(&mut record, &item(grid, 10, &[(1, 2)]), 5100).seen;
        let Seen::Window { incarnation, cell_ms, .. } = seen else { panic!("it is a window") };
        let mut back = item(grid, 10, &[]);
        let Counter::Window { returns, .. } = &mut back.counter else { panic!("it is a window") };
        returns.push(WindowReturn { cell_ms, source: incarnation, tokens: 2 });
        let end = Some(StoreTime::from_millis(5300));
        let at = At { now: StoreTime::from_millis(5200), replication: 1, holder: 10, number: 2, not_after: end };
        assert!(matches!(apply(&mut record, &back, at), ItemAnswer::Done(grant) if grant.available == 10));
        assert_eq!(expires_at(&record.unwrap(), &back), StoreTime::from_millis(7000));
    }

    #[test]
    fn asks_are_granted_whole_and_in_order() {
        let mut record = None;
        let grant = run(&mut record, &item(GRID, 35, &[(50, 1), (35, 1), (1, 1)]), 0);
        assert_eq!(counts(&grant), [0, 1, 0]);
        assert_eq!(grant.granted[0].fits_at, None, "more than the limit never fits");
        assert_eq!(grant.granted[2].fits_at, Some(StoreTime::from_millis(1000)));
    }

    #[test]
    fn a_peek_charges_nothing_and_says_whether_one_hit_would_pass() {
        let mut record = None;
        assert_eq!(counts(&run(&mut record, &item(GRID, 1, &[(0, 3)]), 0)), [3]);
        assert_eq!(record, None, "nothing is stored for a look");
        assert_eq!(counts(&run(&mut record, &item(GRID, 1, &[(1, 1), (0, 2)]), 0)), [1, 0]);
    }

    #[test]
    fn a_clock_that_steps_back_stays_in_the_newest_cell() {
        let mut record = None;
        assert_eq!(counts(&run(&mut record, &item(GRID, 5, &[(5, 1)]), 9000)), [1]);
        assert_eq!(counts(&run(&mut record, &item(GRID, 5, &[(1, 1)]), 3000)), [0]);
        assert_eq!(counts(&run(&mut record, &item(GRID, 5, &[(1, 1)]), 10_000)), [1]);
    }

    #[test]
    fn what_a_node_saw_is_charged_again_after_the_store_forgot() {
        let mut record = None;
        let first = run(&mut record, &item(GRID, 10, &[(1, 8)]), 0);
        let Seen::Window { cells, .. } = first.seen else { panic!() };
        let mut forgotten = None;
        let mut next = item(GRID, 10, &[(1, 5)]);
        if let Counter::Window { seen, .. } = &mut next.counter {
            *seen = cells;
        }
        let at = At { now: StoreTime(0), replication: 2, holder: 11, number: 1, not_after: None };
        let ItemAnswer::Done(grant) = apply(&mut forgotten, &next, at) else { panic!() };
        assert_eq!(counts(&grant), [2]);
    }

    #[test]
    fn a_new_primary_charges_under_a_new_incarnation() {
        let mut record = None;
        run(&mut record, &item(GRID, 10, &[(1, 1)]), 0);
        let at = At { now: StoreTime(0), replication: 2, holder: 11, number: 1, not_after: None };
        apply(&mut record, &item(GRID, 10, &[(1, 1)]), at);
        let Some(Record::Window(window)) = record else { panic!() };
        assert_eq!(window.incarnation, 12 * MARKS + 2);
        assert_eq!(window.cells[0].entries.len(), 2);
    }

    #[test]
    fn a_record_of_another_kind_hurts_its_key_alone() {
        let bucket = Bucket::new(1, StoreTime(0), Default::default(), Revision(1));
        let mut record = Some(Record::Bucket(bucket));
        let at = At { now: StoreTime(0), replication: 1, holder: 1, number: 0, not_after: None };
        assert_eq!(apply(&mut record, &item(GRID, 1, &[(1, 1)]), at), ItemAnswer::Failed);
        assert!(record.is_some());
    }

    #[test]
    fn a_store_outside_the_calendar_bounds_does_nothing() {
        let grid = Grid::Calendar { bounds: [0, 1000, 2000, 3000] };
        let at = At { now: StoreTime::from_millis(3000), replication: 1, holder: 1, number: 0, not_after: None };
        let mut record = None;
        assert_eq!(apply(&mut record, &item(grid, 1, &[(1, 1)]), at), ItemAnswer::OutOfBounds);
        assert_eq!(record, None);
    }

    #[test]
    fn a_lease_is_half_of_a_fair_share_and_none_near_the_cells_end() {
        let mut wants = item(GRID, 100, &[(1, 1)]);
        if let Counter::Window { lease, .. } = &mut wants.counter {
            *lease = Some(Prefetch { want: 1000, holders: 4, min_left: 100_000 });
        }
        assert_eq!(run(&mut None, &wants, 900).lease, 12);
        assert_eq!(run(&mut None, &wants, 901).lease, 0);
    }
}
