//! Reads the reply to a batch.

use std::iter;

use limiter::counter::{
    BatchOutcome, BatchReply, Cell, Debt, Entry, FLOOR, Given, Grant, Granted, Hits, ItemReply, Seen, SeenCells,
    Spending, Ticks,
};
use limiter::{DebtId, Incarnation, RegionNumber, StoreTime};

use super::Malformed;
use super::codes::{
    BATCH_RAN, BUCKET_DONE, COMPACT_DENIED, COMPACT_GRANTED, COMPACT_RETURNED, ESCROW_DONE, FAILED, GIVEN, HAS_REGIONS,
    IMPORTED, OUT_OF_BOUNDS, SPENDING_LOST, TAKEN, VERSION, WINDOW_DONE, WITH_OTHERS,
};

/// Reads the reply to a batch of `items` items.
///
/// # Errors
/// When the reply is of another version, or has another number of items.
pub fn decode_reply(text: &[u8], items: usize) -> Result<BatchReply, Malformed> {
    decode_reply_with_error(text, items).map(|(reply, _)| reply)
}

/// Reads the reply to a batch of `items` items. Also returns the error that Redis gave for the last item that it could
/// not serve.
///
/// # Errors
/// As those of [`decode_reply`].
pub fn decode_reply_with_error(text: &[u8], items: usize) -> Result<(BatchReply, Option<String>), Malformed> {
    let mut reader = Reader { rest: text, error: None };
    if reader.get::<1>()? != u64::from(VERSION) {
        return Err(Malformed);
    }
    let ran = reader.get::<1>()? == BATCH_RAN;
    let now = StoreTime(reader.get::<7>()?);
    let outcome = if ran {
        BatchOutcome::Ran((0..items).map(|_| reader.item()).collect::<Result<_, _>>()?)
    } else {
        BatchOutcome::Late
    };
    if !reader.rest.is_empty() {
        return Err(Malformed);
    }
    let error = reader.error.map(|error| String::from_utf8_lossy(error).into_owned());
    Ok((BatchReply { now, outcome }, error))
}

const GRANTED_WITH_OTHERS: u64 = COMPACT_GRANTED + WITH_OTHERS;
const RETURNED_WITH_OTHERS: u64 = COMPACT_RETURNED + WITH_OTHERS;
const DENIED_WITH_OTHERS: u64 = COMPACT_DENIED + WITH_OTHERS;

struct Reader<'a> {
    /// The bytes that were not read yet.
    rest: &'a [u8],
    /// The error of the last item that failed.
    error: Option<&'a [u8]>,
}

impl<'a> Reader<'a> {
    /// Reads a number of `N` bytes.
    fn get<const N: usize>(&mut self) -> Result<u64, Malformed> {
        let bytes = self.bytes(N)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn get_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.get::<4>()?).map_err(|_| Malformed)
    }

    /// Reads a list, whose length has `N` bytes. A list that claims more than it has fails before it takes memory for
    /// that.
    fn list<const N: usize, T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.get::<N>()?;
        iter::repeat_with(|| read(self)).take(usize::try_from(count).map_err(|_| Malformed)?).collect()
    }

    /// Reads the incarnation that charged. It is never 0, which is no incarnation, nor [`FLOOR`], which stands for all.
    fn incarnation(&mut self) -> Result<Incarnation, Malformed> {
        let incarnation = Incarnation(self.get::<6>()?);
        if incarnation.0 == 0 || incarnation == FLOOR { Err(Malformed) } else { Ok(incarnation) }
    }

    fn item(&mut self) -> Result<ItemReply, Malformed> {
        match self.get::<1>()? {
            FAILED => {
                let length = self.get::<1>()?;
                self.error = Some(self.bytes(usize::try_from(length).map_err(|_| Malformed)?)?);
                Ok(ItemReply::Failed)
            }
            OUT_OF_BOUNDS => Ok(ItemReply::OutOfBounds { newest_ms: self.get::<6>()? }),
            WINDOW_DONE => self.window().map(ItemReply::Done),
            IMPORTED => Ok(ItemReply::Imported { epoch_ms: self.get::<6>()? }),
            ESCROW_DONE => {
                let mut grant = self.window()?;
                grant.spending = Some(match self.get::<6>()? {
                    0 => Spending::Allowed,
                    SPENDING_LOST => Spending::Lost,
                    epoch_ms => Spending::Unconfirmed { epoch_ms },
                });
                Ok(ItemReply::Done(grant))
            }
            GIVEN => Ok(ItemReply::Given(Given {
                epoch_ms: self.get::<6>()?,
                given: self.get::<7>()?,
                received: self.get::<7>()?,
                fenced: self.get::<1>()? == 1,
            })),
            TAKEN => Ok(ItemReply::Taken { epoch_ms: self.get::<6>()?, gained: self.get::<7>()? }),
            BUCKET_DONE => self.bucket().map(ItemReply::Done),
            reply @ (COMPACT_GRANTED | COMPACT_RETURNED | COMPACT_DENIED) => {
                self.compact(reply, false).map(ItemReply::Done)
            }
            reply @ (GRANTED_WITH_OTHERS | RETURNED_WITH_OTHERS | DENIED_WITH_OTHERS) => {
                self.compact(reply - WITH_OTHERS, true).map(ItemReply::Done)
            }
            _ => Err(Malformed),
        }
    }

    /// Reads a compact reply.
    fn compact(&mut self, reply: u64, has_others: bool) -> Result<Grant, Malformed> {
        let count = self.get_u32()?;
        let lease = self.get_u32()?;
        let (available, reset_at) = (self.get::<7>()?, StoreTime(self.get::<7>()?));
        let incarnation = self.incarnation()?;
        let (cell_ms, cell_end_ms) = (self.get::<6>()?, self.get::<6>()?);
        let (charged, returned) = (self.get::<7>()?, self.get::<7>()?);
        let window_end = StoreTime::from_millis(cell_end_ms);
        let granted = match reply {
            COMPACT_GRANTED => vec![Granted { count, fits_at: None }],
            COMPACT_DENIED => vec![Granted { count: 0, fits_at: (count > 0).then_some(window_end) }],
            _ => Vec::new(),
        };
        let own = Entry { incarnation, charged, returned };
        let cells = if has_others {
            let others = usize::try_from(self.get::<1>()?).map_err(|_| Malformed)?;
            // It has at most 255 others, whatever it claims.
            let mut entries = Vec::with_capacity(1 + others);
            entries.push(own);
            for _ in 0..others {
                entries.push(self.other()?);
            }
            SeenCells::one_cell(cell_ms, entries)
        } else {
            SeenCells::One { start_ms: cell_ms, entry: own }
        };
        let seen = Seen::Window { incarnation, cell_ms, cell_end_ms, cells, debts: Vec::new() };
        Ok(Grant { granted, lease, available, reset_at, reported: true, spending: None, seen })
    }

    /// Reads an entry of another region, as [`OTHER_FORMAT`](super::codes::OTHER_FORMAT) says.
    fn other(&mut self) -> Result<Entry, Malformed> {
        let region = RegionNumber(u16::try_from(self.get::<2>()?).map_err(|_| Malformed)?);
        let incarnation = Incarnation(self.get::<6>()?).of_region(region);
        Ok(Entry { incarnation, charged: self.get::<4>()?, returned: self.get::<4>()? })
    }

    fn window(&mut self) -> Result<Grant, Malformed> {
        let granted = self.granted()?;
        let lease = self.get_u32()?;
        let (available, reset_at) = (self.get::<7>()?, StoreTime(self.get::<7>()?));
        let incarnation = self.incarnation()?;
        let (cell_ms, cell_end_ms) = (self.get::<6>()?, self.get::<6>()?);
        let cells = self.list::<1, _>(Self::cell)?;
        let cells = SeenCells::from(cells);
        let reported = self.get::<1>()? == 1;
        let debts = self.list::<1, _>(Self::debt)?;
        let seen = Seen::Window { incarnation, cell_ms, cell_end_ms, cells, debts };
        Ok(Grant { granted, lease, available, reset_at, reported, spending: None, seen })
    }

    fn bucket(&mut self) -> Result<Grant, Malformed> {
        let granted = self.granted()?;
        let (available, reset_at) = (self.get::<7>()?, StoreTime(self.get::<7>()?));
        let incarnation = self.incarnation()?;
        let tat = Ticks::from_parts(self.get::<7>()?, self.get::<3>()?);
        let seen = Seen::Bucket { incarnation, tat, at: StoreTime(self.get::<7>()?) };
        Ok(Grant { granted, lease: 0, available, reset_at, reported: true, spending: None, seen })
    }

    fn granted(&mut self) -> Result<Vec<Granted>, Malformed> {
        self.list::<2, _>(|reader| {
            let count = reader.get_u32()?;
            let fits_at = reader.get::<7>()?.checked_sub(1).map(StoreTime);
            Ok(Granted { count, fits_at })
        })
    }

    fn cell(&mut self) -> Result<Cell, Malformed> {
        let start_ms = self.get::<6>()?;
        let count = self.get::<1>()?;
        let (count, has_regions) = (count % HAS_REGIONS, count >= HAS_REGIONS);
        let entry = |reader: &mut Self| {
            let region = if has_regions { reader.get::<2>()? } else { 0 };
            let region = RegionNumber(u16::try_from(region).map_err(|_| Malformed)?);
            let incarnation = Incarnation(reader.get::<6>()?).of_region(region);
            Ok(Entry { incarnation, charged: reader.get::<7>()?, returned: reader.get::<7>()? })
        };
        let entries = iter::repeat_with(|| entry(self)).take(usize::try_from(count).map_err(|_| Malformed)?);
        Ok(Cell { start_ms, entries: entries.collect::<Result<_, _>>()? })
    }

    fn debt(&mut self) -> Result<Debt, Malformed> {
        let (cell_ms, id) = (self.get::<6>()?, DebtId(self.get::<6>()?));
        Ok(Debt { cell_ms, id, hits: Hits { charged: self.get::<7>()?, returned: self.get::<7>()? } })
    }
}
