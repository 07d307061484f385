//! What a counter store does with a batch. This is pure: the memory store calls it, and every other store must do the
//! same.

use serde::{Deserialize, Serialize};

use super::batch::{Ask, Batch, BatchOutcome, BatchReply, Counter, Grant, Item, ItemReply, Seen};
use super::batch_context::BatchContext;
use super::grants::{grant_in_order, granted_runs};
use super::grid::{CellSpan, Grid};
use super::lane_epoch::{KEPT_AFTER_CELL_MS, LaneEpoch};
use super::token_bucket::Bucket;
use super::window_record::{WindowItem, WindowRecord};
use crate::invariant::{self, Invariant};
use crate::time::StoreTime;

/// What a store keeps under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Window(WindowRecord),
    Bucket(Bucket),
}

/// Runs a batch at `now`. `serve` calls [`apply`] on the record of each item. `lane` is the record of the batch's lane.
/// A batch that comes too late does nothing.
pub fn run(
    batch: &Batch,
    now: StoreTime,
    replication: u64,
    lane: &mut Option<LaneEpoch>,
    mut serve: impl FnMut(&Item, BatchContext) -> ItemReply,
) -> BatchReply {
    let Batch { not_after, holder, id, .. } = *batch;
    if not_after.is_some_and(|last| now > last) {
        return BatchReply { now, outcome: BatchOutcome::Late };
    }
    let mut cx = BatchContext { now, replication, holder, batch: id, not_after, epoch: LaneEpoch::default() };
    if batch.items.iter().any(|item| item.counter.uses_lane()) {
        cx.epoch = LaneEpoch::arrive(*lane, cx.replication_mark(), now);
        *lane = Some(cx.epoch);
    }
    BatchReply { now, outcome: BatchOutcome::Ran(batch.items.iter().map(|item| serve(item, cx)).collect()) }
}

/// Runs `item` on the record under its key, in this order: merge what the node saw, take back, charge debts, charge the
/// asks, charge the lease.
pub fn apply(record: &mut Option<Record>, item: &Item, cx: BatchContext) -> ItemReply {
    match (&item.counter, record.take()) {
        (Counter::Window { grid, limit, seen, returns, debts, lease, share, escrow }, stored) if is_window(&stored) => {
            let stored = into_window(stored);
            let item = WindowItem {
                grid,
                limit: *limit,
                seen,
                returns,
                debts,
                lease: *lease,
                share: *share,
                escrow: *escrow,
                refund: item.refund,
                asks: &item.asks,
            };
            let Some((now, span)) = item.current_cell(stored.as_ref(), cx) else {
                let lane_ms = if item.escrow.is_some() { cx.epoch.latest_ms } else { 0 };
                return out_of_bounds(record, stored, lane_ms);
            };
            let (window, grant) = item.run(stored, now, &span, cx);
            *record = kept(window);
            ItemReply::Done(grant)
        }
        (Counter::Import { grid, cells }, stored) if is_window(&stored) => {
            change_window(record, stored, grid, cx.now, cx, |window, span, _| {
                window.import(cells, span);
                ItemReply::Imported { epoch_ms: cx.epoch.since_ms }
            })
        }
        (Counter::Give { grid, escrow, give }, stored) if is_window(&stored) => {
            change_window(record, stored, grid, cx.lane_now(), cx, |window, span, now| {
                window.drop_notes(grid, cx.epoch);
                let given = window.give(give, escrow, span, now, cx);
                window.drop_empty_cells();
                ItemReply::Given(given)
            })
        }
        (Counter::Take { grid, take }, stored) if is_window(&stored) => {
            change_window(record, stored, grid, cx.lane_now(), cx, |window, span, _| {
                window.drop_notes(grid, cx.epoch);
                let gained = window.take(take, span);
                window.drop_empty_cells();
                ItemReply::Taken { epoch_ms: cx.epoch.since_ms, gained }
            })
        }
        (Counter::Bucket { rate, revision, seen, owed, returns }, stored @ (None | Some(Record::Bucket(_)))) => {
            let mut bucket = match stored {
                Some(Record::Bucket(bucket)) => bucket,
                _ => Bucket::new(cx.new_incarnation(), cx.now, *rate, *revision),
            };
            bucket.last = bucket.last.max(cx.now);
            bucket.replay_guard.prune(cx.now);
            bucket.set_incarnation(cx.continue_or_renew(bucket.incarnation));
            if let Some(seen) = seen {
                bucket.merge(seen);
            }
            bucket.adopt(*rate, *revision);
            let takes_back = !returns.is_empty() || item.refund > 0;
            if takes_back && bucket.replay_guard.accept(cx.holder, cx.batch, cx.not_after) {
                bucket.give_back(returns);
                bucket.refund(item.refund);
            }
            // Returns make room first. A debt that an empty bucket has no room for is forgiven.
            bucket.owe(*owed);
            let grant = charge_bucket(&mut bucket, &item.asks);
            *record = Some(Record::Bucket(bucket));
            ItemReply::Done(grant)
        }
        (_, stored) => {
            *record = stored;
            ItemReply::Failed
        }
    }
}

const fn is_window(stored: &Option<Record>) -> bool {
    matches!(stored, None | Some(Record::Window(_)))
}

fn into_window(stored: Option<Record>) -> Option<WindowRecord> {
    match stored {
        Some(Record::Window(window)) => Some(window),
        _ => None,
    }
}

/// A key that holds nothing need not exist.
fn kept(window: WindowRecord) -> Option<Record> {
    (!window.cells.is_empty()).then_some(Record::Window(window))
}

/// `lane_ms` is the newest time of the lane, if the item counts by it.
fn out_of_bounds(record: &mut Option<Record>, stored: Option<WindowRecord>, lane_ms: u64) -> ItemReply {
    let newest_ms = stored.as_ref().map_or(0, WindowRecord::newest_ms).max(lane_ms);
    *record = stored.map(Record::Window);
    ItemReply::OutOfBounds { newest_ms }
}

/// Changes a window for an item that asks for no tokens. The item does not advance the time of the counter.
fn change_window(
    record: &mut Option<Record>,
    stored: Option<Record>,
    grid: &Grid,
    now: StoreTime,
    cx: BatchContext,
    change: impl FnOnce(&mut WindowRecord, &CellSpan, StoreTime) -> ItemReply,
) -> ItemReply {
    let stored = into_window(stored);
    let newest_ms = stored.as_ref().map_or(0, WindowRecord::newest_ms);
    let now = now.max(StoreTime::from_millis(newest_ms));
    let Some(span) = grid.span_at(now) else { return out_of_bounds(record, stored, 0) };
    let mut window = stored.unwrap_or_else(|| WindowRecord::new(cx.new_incarnation()));
    window.incarnation = cx.continue_or_renew(window.incarnation);
    let reply = change(&mut window, &span, now);
    *record = kept(window);
    reply
}

/// The instant from which a record may be dropped: it counts nothing, and no node can still restore from what it saw. A
/// cell whose hits were all given back is kept for as long, because nodes saw it before.
pub fn expires_at(record: &Record, item: &Item) -> StoreTime {
    match (record, &item.counter) {
        (
            Record::Window(window),
            Counter::Window { grid, .. }
            | Counter::Import { grid, .. }
            | Counter::Give { grid, .. }
            | Counter::Take { grid, .. },
        ) => {
            let newest = window.cells.first().map_or(0, |c| c.start_ms);
            let kept_ms = if item.counter.has_rights() { KEPT_AFTER_CELL_MS } else { 0 };
            match (grid.span_at(StoreTime::from_millis(newest)), grid) {
                (Some(span), _) => grid.gone_at(newest, span.end_ms).plus_millis(kept_ms),
                // The cells are older than the calendar's bounds.
                (None, Grid::Calendar { bounds }) => StoreTime::from_millis(bounds[0]).plus_millis(kept_ms),
                (None, _) => StoreTime(u64::MAX),
            }
        }
        (Record::Bucket(bucket), _) => bucket.full_at(),
        _ => StoreTime(u64::MAX),
    }
}

fn charge_bucket(bucket: &mut Bucket, asks: &[Ask]) -> Grant {
    let (counts, tokens) = grant_in_order(asks, bucket.available());
    if asks.iter().any(|ask| ask.overdraft) {
        bucket.overdraw(tokens);
    } else if tokens > 0 {
        bucket.charge(tokens);
        invariant::check(Invariant::I1RegionLimit, bucket.tat <= bucket.empty_tat());
    }
    Grant {
        granted: granted_runs(asks, &counts, |hits| bucket.fits_at(hits)),
        lease: 0,
        available: bucket.available(),
        reset_at: bucket.full_at(),
        reported: true,
        spending: None,
        seen: Seen::Bucket { incarnation: bucket.incarnation, tat: bucket.tat, at: bucket.last },
    }
}

#[cfg(test)]
mod tests;
