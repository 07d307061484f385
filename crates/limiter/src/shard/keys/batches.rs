//! Batches of items: those that leave, and what their replies do to the keys.

use super::Keys;
use crate::counter::{Batch, BatchOutcome, BatchReply, Item, ItemReply, StoreError};
use crate::ids::{BatchId, LaneId, SlotId};
use crate::key::{AskResult, BatchTimes, MayHaveRun, QueuedAsk};
use crate::shard::event::{News, Outgoing, Reply};
use crate::shard::lanes::InFlight;
use crate::time::{NodeTime, StoreTime};

impl Keys {
    /// The next batch of every lane that may send one now.
    pub fn take_batches(&mut self, now: NodeTime) -> Vec<Outgoing> {
        let mut batches = Vec::new();
        while let Some(lane) = self.lanes.take_ready(now) {
            batches.extend(self.take_batch(lane, now));
        }
        batches
    }

    fn take_batch(&mut self, lane: LaneId, now: NodeTime) -> Option<Outgoing> {
        let Some(not_after) = self.lanes.store_time_of(lane, now.plus(self.config.deadline_us)) else {
            // No item is sent without an end. An empty batch asks for the store's clock, and the keys wait for it.
            return Some(self.mark_sent(lane, now, None, Vec::new(), Vec::new()));
        };
        let cx = self.context(lane, now);
        let (mut items, mut slots) = (Vec::new(), Vec::new());
        while items.len() < self.config.max_items {
            let Some(slot) = self.lanes.pop(lane) else { break };
            let Some(key) = self.table.get_mut(slot) else { continue };
            key.queued = false;
            if let Some(item) = key.state.next_item(&key.name, &cx) {
                items.push(item);
                slots.push(slot);
            }
        }
        (!items.is_empty()).then(|| self.mark_sent(lane, now, Some(not_after), items, slots))
    }

    fn mark_sent(
        &mut self,
        lane: LaneId,
        now: NodeTime,
        not_after: Option<StoreTime>,
        items: Vec<Item>,
        slots: Vec<SlotId>,
    ) -> Outgoing {
        self.last_batch = BatchId(self.last_batch.0 + 1);
        self.stats.batches += 1;
        self.stats.items += items.len() as u64;
        let id = self.last_batch;
        self.lanes.mark_sent(lane, InFlight { batch: id, sent: now, slots });
        Outgoing { lane, batch: Batch { not_after, holder: self.holder, id, items } }
    }

    /// Applies the result of a batch. Returns what the store decided about the asks that the batch carried.
    pub fn complete(&mut self, reply: Reply, news: &mut News, now: NodeTime) -> Vec<(QueuedAsk, AskResult)> {
        let Reply { lane, batch, result } = reply;
        let failed_before = self.lanes.is_failing(lane);
        let ran = result.as_ref().ok().map(|reply| reply.now);
        let late = result.as_ref().is_ok_and(|reply| reply.outcome == BatchOutcome::Late);
        let mut results = Vec::new();
        let Some(in_flight) = self.lanes.complete(lane, batch, ran, late, now) else { return results };
        match result {
            Ok(reply) => self.complete_items(lane, in_flight, reply, now, news, &mut results),
            Err(error) => self.fail(lane, in_flight, error, &mut results),
        }
        if failed_before && !self.lanes.is_failing(lane) {
            self.queue_stalled();
        }
        results
    }

    fn complete_items(
        &mut self,
        lane: LaneId,
        in_flight: InFlight,
        reply: BatchReply,
        now: NodeTime,
        news: &mut News,
        results: &mut Vec<(QueuedAsk, AskResult)>,
    ) {
        let cx = self.context(lane, now);
        let BatchOutcome::Ran(replies) = reply.outcome else {
            for slot in in_flight.slots {
                self.resend(slot, None, results);
            }
            return;
        };
        let mut replies = replies.into_iter();
        if replies.len() > 0 && replies.as_slice().iter().all(|reply| *reply == ItemReply::Failed) {
            self.lanes.mark_failing(lane);
        }
        let times = BatchTimes { sent: in_flight.sent, ran: reply.now };
        for slot in in_flight.slots {
            let Some(key) = self.table.get_mut(slot) else { continue };
            match replies.next() {
                Some(ItemReply::Done(grant)) => {
                    let reported = grant.reported;
                    if let Some(spending) = grant.spending {
                        news.wants.extend(key.state.want(&key.name, &grant, spending, &times, &cx));
                    }
                    let more = key.state.complete(grant, &times, &cx, results);
                    if let Some(regions) = &self.regions {
                        news.reports.extend(key.state.report(&key.name, regions, &cx));
                    }
                    if more {
                        if reported {
                            self.queue(slot);
                        } else {
                            // The debt that was not charged is reported again later.
                            self.queue_after_failure(slot);
                        }
                    }
                }
                Some(ItemReply::OutOfBounds { newest_ms }) => self.resend(slot, Some(newest_ms), results),
                Some(
                    ItemReply::Failed | ItemReply::Imported { .. } | ItemReply::Given(_) | ItemReply::Taken { .. },
                )
                | None => {
                    self.stats.failed_items += 1;
                    key.state.fail(MayHaveRun::Unknown, results);
                    self.queue_after_failure(slot);
                }
            }
            self.track_lease(slot);
        }
    }

    /// Sends the asks of an item once more that the store did nothing with. `newest_ms` is the newest cell of its
    /// record if the item was out of its bounds.
    fn resend(&mut self, slot: SlotId, newest_ms: Option<u64>, results: &mut Vec<(QueuedAsk, AskResult)>) {
        let Some(key) = self.table.get_mut(slot) else { return };
        match newest_ms {
            Some(newest_ms) => key.state.resend_in_bounds(newest_ms, results),
            None => key.state.resend(results),
        }
        self.queue_after_failure(slot);
        self.track_lease(slot);
    }

    fn fail(
        &mut self,
        lane: LaneId,
        in_flight: InFlight,
        error: StoreError,
        results: &mut Vec<(QueuedAsk, AskResult)>,
    ) {
        self.stats.failed_batches += 1;
        let ran = if error == StoreError::NotApplied { MayHaveRun::No } else { MayHaveRun::Unknown };
        for slot in in_flight.slots {
            let Some(key) = self.table.get_mut(slot) else { continue };
            key.state.fail(ran, results);
            self.queue_after_failure(slot);
        }
        // The other keys of the lane waited for the store's clock.
        while !self.lanes.is_clock_known(lane)
            && let Some(slot) = self.lanes.pop(lane)
        {
            let Some(key) = self.table.get_mut(slot) else { continue };
            key.queued = false;
            key.state.fail_waiting(results);
            self.queue_after_failure(slot);
        }
    }
}
