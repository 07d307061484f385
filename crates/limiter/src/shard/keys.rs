//! The resident keys of a shard, and what they have to send: lanes, leases, and keys that a failing store did not
//! serve.

mod batches;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::key_table::{Key, KeyTable};
use super::lanes::Lanes;
use super::slot_queue::SlotQueue;
use super::{ShardConfig, ShardStats};
use crate::ids::{BatchId, DebtId, HolderId, IdGenerator, LaneId, SlotId};
use crate::key::{Context, Receipt, Regions};
use crate::rules::EffectiveLimit;
use crate::time::{NodeTime, WallTime};

/// The resident keys of a shard.
#[derive(Debug)]
pub struct Keys {
    config: ShardConfig,
    table: KeyTable,
    pub lanes: Lanes,
    /// Keys with tokens in hand, by the end of their lease.
    leases: BinaryHeap<Reverse<(NodeTime, SlotId)>>,
    /// Keys whose returns or debts a failing store did not take. They are tried again tick by tick.
    stalled: SlotQueue,
    ids: IdGenerator,
    holder: HolderId,
    /// The number of the last batch that was sent.
    last_batch: BatchId,
    /// `None` if no other regions are known.
    pub regions: Option<Regions>,
    stats: ShardStats,
}

impl Keys {
    /// No resident keys. Batches are numbered after `last_batch`.
    pub fn new(config: ShardConfig, mut ids: IdGenerator, last_batch: BatchId, wall: WallTime, now: NodeTime) -> Self {
        Self {
            config,
            table: KeyTable::new(config.max_keys, config.seeds),
            lanes: Lanes::new(config.lanes, wall, now, config.deadline_us),
            leases: BinaryHeap::new(),
            stalled: SlotQueue::default(),
            holder: HolderId(ids.next_id()),
            ids,
            last_batch,
            regions: None,
            stats: ShardStats::default(),
        }
    }

    /// The identifiers and batch numbers go on in the next shard of this core.
    pub fn successor(&self, wall: WallTime, now: NodeTime) -> Self {
        Self { regions: self.regions, ..Self::new(self.config, self.ids.clone(), self.last_batch, wall, now) }
    }

    pub fn set_holders(&mut self, holders: u32) {
        self.config.holders = holders.max(1);
    }

    pub const fn config(&self) -> &ShardConfig {
        &self.config
    }

    #[inline]
    pub fn get_mut(&mut self, slot: SlotId) -> Option<&mut Key> {
        self.table.get_mut(slot)
    }

    /// The slot of the key `name`, activated if it is not resident. `None` if every key in the table is in use.
    pub fn activate(
        &mut self,
        effective: &Arc<EffectiveLimit>,
        name: &[u8],
        lane_of: impl Fn(&[u8]) -> LaneId,
    ) -> Option<SlotId> {
        let mut released = Vec::new();
        let make = || Key::new(name, lane_of(name), effective);
        let slot = self.table.activate(name, make, &mut released);
        for slot in released {
            self.queue(slot);
        }
        let slot = slot?;
        if self.get_mut(slot)?.state.adopt(effective) {
            self.queue(slot);
        }
        Some(slot)
    }

    /// Keeps a key resident until [`Self::unpin`].
    pub fn pin(&mut self, slot: SlotId) {
        if let Some(key) = self.get_mut(slot) {
            key.pins += 1;
        }
    }

    pub fn unpin(&mut self, slot: SlotId) {
        if let Some(key) = self.get_mut(slot) {
            key.pins = key.pins.saturating_sub(1);
        }
    }

    /// Queues a key that has something to send on its lane.
    pub fn queue(&mut self, slot: SlotId) {
        let Some(key) = self.table.get_mut(slot) else { return };
        if !std::mem::replace(&mut key.queued, true) {
            self.lanes.queue(key.lane, slot);
        }
    }

    /// Queues a key again after the store did not serve it. A key with waiting asks is queued at once. A key with only
    /// returns or debts is queued on a later tick.
    pub fn queue_after_failure(&mut self, slot: SlotId) {
        let Some(key) = self.table.get_mut(slot) else { return };
        if key.state.has_waiting() {
            self.queue(slot);
        } else if key.state.needs_flush() {
            self.stalled.push(slot);
        }
    }

    /// Remembers when the lease of a key with tokens in hand ends.
    pub fn track_lease(&mut self, slot: SlotId) {
        let Some(key) = self.table.get_mut(slot) else { return };
        if let Some(end) = key.state.lease_end().filter(|_| !key.lease_tracked) {
            key.lease_tracked = true;
            self.leases.push(Reverse((end, slot)));
        }
    }

    /// Takes back hits that were granted and not used.
    pub fn refund(&mut self, slot: SlotId, hits: u64, receipt: Receipt, now: NodeTime) {
        if self.get_mut(slot).is_some_and(|key| key.state.refund(hits, receipt, now)) {
            self.queue(slot);
        }
        self.track_lease(slot);
    }

    /// Gives back every token in hand.
    pub fn release_all(&mut self) {
        for Reverse((_, slot)) in std::mem::take(&mut self.leases).into_vec() {
            if let Some(key) = self.table.get_mut(slot) {
                key.lease_tracked = false;
                if key.state.release() {
                    self.queue(slot);
                }
            }
        }
    }

    /// Gives back leases that have ended, tries stalled keys again, and evicts keys of which nothing is remembered.
    pub fn tick(&mut self, now: NodeTime) {
        while self.leases.peek().is_some_and(|Reverse((end, _))| *end <= now) {
            let Some(Reverse((_, slot))) = self.leases.pop() else { break };
            let Some(key) = self.table.get_mut(slot) else { continue };
            key.lease_tracked = false;
            if key.state.lease_end().is_some_and(|end| end <= now) && key.state.release() {
                self.queue(slot);
            }
            self.track_lease(slot);
        }
        self.queue_stalled();
        self.lanes.probe_clocks();
        self.table.sweep(now);
    }

    /// Queues stalled keys, one batch's worth at most. A failing lane gets a single key, as a probe.
    fn queue_stalled(&mut self) {
        let mut probed = Vec::new();
        for _ in 0..self.stalled.len().min(self.config.max_items) {
            let Some(slot) = self.stalled.pop() else { break };
            // The key may have been evicted meanwhile, and the slot may have another key.
            let Some(key) = self.table.get_mut(slot).filter(|key| key.state.needs_flush()) else { continue };
            let lane = key.lane;
            if self.lanes.is_failing(lane) && probed.contains(&lane) {
                self.stalled.push(slot);
                continue;
            }
            probed.push(lane);
            self.queue(slot);
        }
    }

    pub fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// What the state of a key on `lane` needs to know.
    pub fn context(&self, lane: LaneId, now: NodeTime) -> Context {
        Context {
            now,
            store_now: self.lanes.store_now(lane, now),
            clock_known: self.lanes.is_clock_known(lane),
            lease_us: self.config.lease_us,
            holders: self.config.holders,
            divisor: self.config.holders.max(self.config.min_holders),
            regions: self.regions,
        }
    }

    pub fn new_debt_id(&mut self) -> DebtId {
        DebtId(self.ids.next_id())
    }

    pub fn stats(&self) -> ShardStats {
        ShardStats { keys: self.table.len(), stalled: self.stalled.len(), ..self.stats }
    }
}

#[cfg(test)]
mod tests;
