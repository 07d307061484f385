//! How a batch is written for `script.lua`, and its answer read: big-endian integers of fixed widths, version 1.
//!
//! Batch: a head (version, holder, number, end), and each item's length and text. Answer: version, 0 late or 1 ran, the
//! store's instant, and the items in order. Most items are brief, and so are their answers. Figures that do not fit
//! their width, which none of a sound node is near, are written as the largest that does.

use std::iter;

use limiter::counter::{
    Ask, Batch, BatchOutcome, BatchReply, Cell, Counter, Debt, Entry, FLOOR, Grant, Granted, Grid, Hits, Item,
    ItemReply, Prefetch, Seen, SeenCells, Ticks, WindowReturn,
};
use limiter::{DebtId, Incarnation, StoreTime};

/// Of the batches, the answers and the records; the script has the same.
pub const VERSION: u8 = 1;

/// An answer that is not what the script writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer of the counter script is malformed")]
pub struct Malformed;

/// What a brief item adds to the kind of its window, and what says that one entry of one cell was seen, that some goes
/// back to one, and that it asks.
const BRIEF: u64 = 16;
const SEEN: u64 = 32;
const BACK: u64 = 64;
const ASKS: u64 = 128;

/// A batch of these items.
pub fn batch<'a>(batch: &Batch, items: impl Iterator<Item = &'a Item>) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(20 + 64 * items.size_hint().0));
    out.put::<1>(VERSION.into());
    out.put::<6>(batch.holder.0);
    out.put::<6>(batch.id.0);
    out.put::<7>(batch.not_after.map_or(0, |end| end.0.saturating_add(1)));
    for item in items {
        let begin = out.0.len();
        out.put::<3>(0);
        if !out.brief(item) {
            out.item(item);
        }
        // Its length without its kind.
        let length = (out.0.len() - begin - 4).min(0x00ff_ffff);
        out.0[begin..begin + 3].copy_from_slice(&length.to_be_bytes()[5..]);
    }
    out.0
}

/// The answer to a batch of `items` items.
///
/// # Errors
/// When it is not of this version, or not of so many items.
pub fn answer(text: &[u8], items: usize) -> Result<BatchReply, Malformed> {
    complete_answer(text, items).map(|(answer, _)| answer)
}

/// The same, with what Redis said of the last item that it could not serve.
///
/// # Errors
/// As those of [`answer`].
pub fn complete_answer(text: &[u8], items: usize) -> Result<(BatchReply, Option<String>), Malformed> {
    let mut text = In { text, complaint: None };
    if text.get::<1>()? != u64::from(VERSION) {
        return Err(Malformed);
    }
    let ran = text.get::<1>()? == 1;
    let now = StoreTime(text.get::<7>()?);
    let outcome = if ran {
        BatchOutcome::Ran((0..items).map(|_| text.item()).collect::<Result<_, _>>()?)
    } else {
        BatchOutcome::Late
    };
    if !text.text.is_empty() {
        return Err(Malformed);
    }
    let complaint = text.complaint.map(|complaint| String::from_utf8_lossy(complaint).into_owned());
    Ok((BatchReply { now, outcome }, complaint))
}

struct Out(Vec<u8>);

impl Out {
    /// An item that is as short as most are; false, and nothing, where it is not.
    fn brief(&mut self, item: &Item) -> bool {
        let Counter::Window { grid, limit, seen, returns, debts, lease } = &item.counter else { return false };
        let only = match seen {
            SeenCells::None => None,
            SeenCells::One { start_ms, entry } => Some((*start_ms, *entry)),
            SeenCells::Many(_) => return false,
        };
        let owes = !debts.seen.is_empty() || !debts.reports.is_empty();
        if item.asks.len() > 1 || returns.len() > 1 || owes || matches!(grid, Grid::Calendar { .. }) {
            return false;
        }
        let flag = |is: bool, flag: u64| if is { flag } else { 0 };
        let flags = flag(only.is_some(), SEEN) + flag(!returns.is_empty(), BACK) + flag(!item.asks.is_empty(), ASKS);
        self.put::<1>(kind(grid) + BRIEF + flags);
        self.grid(grid);
        self.lease(*limit, *lease);
        item.asks.iter().for_each(|ask| self.ask(*ask));
        if let Some((start_ms, entry)) = only {
            self.put::<6>(start_ms);
            self.entry(&entry);
        }
        returns.iter().for_each(|back| self.back(back));
        true
    }

    fn item(&mut self, item: &Item) {
        match &item.counter {
            Counter::Window { grid, limit, seen, returns, debts, lease } => {
                self.put::<1>(kind(grid));
                self.grid(grid);
                self.lease(*limit, *lease);
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
                self.count::<4>(returns.len());
                returns.iter().for_each(|back| self.back(back));
            }
            Counter::Bucket { rate, revision, seen, owed, returns } => {
                self.put::<1>(5);
                self.ticks(rate.step);
                self.put::<5>(rate.burst);
                self.put::<6>(revision.0);
                self.put::<7>(*owed);
                self.put::<1>(seen.is_some().into());
                if let Some(seen) = seen {
                    self.put::<6>(seen.incarnation.0);
                    self.ticks(seen.tat);
                }
                self.asks(&item.asks);
                self.count::<4>(returns.len());
                for back in returns {
                    self.put::<6>(back.incarnation.0);
                    self.ticks(back.step);
                    self.put::<6>(back.hits);
                    self.put::<7>(back.charged_at.0);
                }
            }
        }
    }

    fn lease(&mut self, limit: u64, lease: Option<Prefetch>) {
        self.put::<7>(limit);
        let Prefetch { want, holders, min_left } = lease.unwrap_or(Prefetch { want: 0, holders: 1, min_left: 0 });
        self.put::<4>(want.into());
        self.put::<4>(holders.into());
        self.put::<7>(min_left);
    }

    fn ask(&mut self, ask: Ask) {
        self.put::<6>(ask.hits);
        self.put::<4>(ask.count.into());
    }

    /// `value` in `N` bytes.
    fn put<const N: usize>(&mut self, value: u64) {
        let value = value.min(u64::MAX >> (64 - 8 * N));
        self.0.extend_from_slice(&value.to_be_bytes()[8 - N..]);
    }

    fn count<const N: usize>(&mut self, count: usize) {
        self.put::<N>(count as u64);
    }

    /// Whole microseconds and the rest in 2^-20.
    fn ticks(&mut self, ticks: Ticks) {
        let (micros, rest) = ticks.parts();
        self.put::<7>(micros);
        self.put::<3>(rest);
    }

    /// What follows its kind.
    fn grid(&mut self, grid: &Grid) {
        let (width_ms, older) = match *grid {
            Grid::Fixed { width_ms } => (width_ms, 0),
            Grid::Sliding { width_ms } => (width_ms, 1),
            Grid::Rolling { width_ms, cells } => (width_ms, cells.into()),
            Grid::Calendar { bounds } => return bounds.iter().for_each(|bound| self.put::<6>(*bound)),
        };
        self.put::<6>(width_ms);
        self.put::<1>(older);
    }

    fn asks(&mut self, asks: &[Ask]) {
        self.count::<2>(asks.len());
        asks.iter().for_each(|ask| self.ask(*ask));
    }

    fn back(&mut self, back: &WindowReturn) {
        self.put::<6>(back.cell_ms);
        self.put::<6>(back.incarnation.0);
        self.put::<7>(back.tokens);
    }

    fn entry(&mut self, entry: &Entry) {
        self.put::<6>(entry.incarnation.0);
        self.put::<7>(entry.charged);
        self.put::<7>(entry.returned);
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

    fn cells(&mut self, cells: &SeenCells) {
        self.count::<1>(cells.iter().count());
        for (start_ms, entries) in cells.iter() {
            self.put::<6>(start_ms);
            self.count::<1>(entries.len());
            entries.iter().for_each(|entry| self.entry(entry));
        }
    }
}

/// The number of a kind of window.
const fn kind(grid: &Grid) -> u64 {
    match grid {
        Grid::Fixed { .. } => 1,
        Grid::Sliding { .. } => 2,
        Grid::Rolling { .. } => 3,
        Grid::Calendar { .. } => 4,
    }
}

struct In<'a> {
    text: &'a [u8],
    complaint: Option<&'a [u8]>,
}

impl<'a> In<'a> {
    fn get<const N: usize>(&mut self) -> Result<u64, Malformed> {
        let bytes = self.bytes(N)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.text.split_at_checked(count).ok_or(Malformed)?;
        self.text = rest;
        Ok(bytes)
    }

    fn small<const N: usize>(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.get::<N>()?).map_err(|_| Malformed)
    }

    /// As many as `N` bytes say. What is not there is missed before memory is taken for it.
    fn list<const N: usize, T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.get::<N>()?;
        iter::repeat_with(|| one(self)).take(usize::try_from(count).map_err(|_| Malformed)?).collect()
    }

    /// Who charged: never 0, which nobody is, nor [`FLOOR`], which stands for all.
    fn incarnation(&mut self) -> Result<Incarnation, Malformed> {
        self.get::<6>()
            .map(Incarnation)
            .and_then(|named| if named.0 == 0 || named == FLOOR { Err(Malformed) } else { Ok(named) })
    }

    /// The answer to a brief item all of whose asks, if it has any, were granted.
    fn brief(&mut self, asks: bool) -> Result<ItemReply, Malformed> {
        let count = self.small::<4>()?;
        let granted = if asks { vec![Granted { count, fits_at: None }] } else { Vec::new() };
        let lease = self.small::<4>()?;
        let (available, reset_at) = (self.get::<7>()?, StoreTime(self.get::<7>()?));
        let incarnation = self.incarnation()?;
        let (cell_ms, cell_end_ms) = (self.get::<6>()?, self.get::<6>()?);
        let (charged, returned) = (self.get::<7>()?, self.get::<7>()?);
        let cells = SeenCells::One { start_ms: cell_ms, entry: Entry { incarnation, charged, returned } };
        let seen = Seen::Window { incarnation, cell_ms, cell_end_ms, cells, debts: Vec::new() };
        Ok(ItemReply::Done(Grant { granted, lease, available, reset_at, reported: true, seen }))
    }

    fn item(&mut self) -> Result<ItemReply, Malformed> {
        let status = self.get::<1>()?;
        match status {
            0 => {
                let length = self.get::<1>()?;
                self.complaint = Some(self.bytes(usize::try_from(length).map_err(|_| Malformed)?)?);
                return Ok(ItemReply::Failed);
            }
            1 => return Ok(ItemReply::OutOfBounds),
            2 | 3 => (),
            4 | 5 => return self.brief(status == 4),
            _ => return Err(Malformed),
        }
        let granted = self.list::<2, _>(|text| {
            let count = text.small::<4>()?;
            let fits_at = text.get::<7>()?.checked_sub(1).map(StoreTime);
            Ok(Granted { count, fits_at })
        })?;
        let lease = if status == 2 { self.small::<4>()? } else { 0 };
        let available = self.get::<7>()?;
        let reset_at = StoreTime(self.get::<7>()?);
        let incarnation = self.incarnation()?;
        let mut reported = true;
        let seen = if status == 2 {
            let (cell_ms, cell_end_ms) = (self.get::<6>()?, self.get::<6>()?);
            let cells = self.list::<1, _>(|text| {
                let start_ms = text.get::<6>()?;
                let entries = text.list::<1, _>(|text| {
                    let (incarnation, charged, returned) =
                        (Incarnation(text.get::<6>()?), text.get::<7>()?, text.get::<7>()?);
                    Ok(Entry { incarnation, charged, returned })
                })?;
                Ok(Cell { start_ms, entries })
            })?;
            let cells = SeenCells::from(cells.as_slice());
            reported = self.get::<1>()? == 1;
            let debts = self.list::<1, _>(|text| {
                let (cell_ms, id) = (text.get::<6>()?, DebtId(text.get::<6>()?));
                Ok(Debt { cell_ms, id, hits: Hits { charged: text.get::<7>()?, returned: text.get::<7>()? } })
            })?;
            Seen::Window { incarnation, cell_ms, cell_end_ms, cells, debts }
        } else {
            let tat = Ticks::from_parts(self.get::<7>()?, self.get::<3>()?);
            Seen::Bucket { incarnation, tat, at: StoreTime(self.get::<7>()?) }
        };
        Ok(ItemReply::Done(Grant { granted, lease, available, reset_at, reported, seen }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_or_too_long_is_malformed() {
        let mut out = Out(vec![VERSION, 1]);
        out.put::<7>(1_700_000_000_000_000);
        out.0.extend([0, 3, b'O', b'O', b'M', 1]);
        let (whole, complaint) = complete_answer(&out.0, 2).unwrap();
        assert_eq!(complaint.as_deref(), Some("OOM"));
        assert_eq!(whole.outcome, BatchOutcome::Ran(vec![ItemReply::Failed, ItemReply::OutOfBounds]));
        for cut in 0..out.0.len() {
            assert_eq!(answer(&out.0[..cut], 2), Err(Malformed));
        }
        assert_eq!(answer(&out.0, 1), Err(Malformed));
        out.0[14] = 9;
        assert_eq!(answer(&out.0, 2), Err(Malformed));
        // As many runs as it claims are not there.
        out.0.splice(9.., [2, 0xff, 0xff]);
        assert_eq!(answer(&out.0, 1), Err(Malformed));
    }

    #[test]
    fn what_does_not_fit_is_written_as_the_largest_that_does() {
        let mut out = Out(Vec::new());
        out.put::<2>(70_000);
        out.put::<2>(258);
        out.put::<8>(u64::MAX);
        assert_eq!(out.0, [255, 255, 1, 2, 255, 255, 255, 255, 255, 255, 255, 255]);
    }
}
