//! The network between cores and primaries: delays, losses, duplicates, and servers that do not reply.

use super::Region;
use crate::context::{Context, Event, Packet, PacketKind};
use crate::faults::FaultKind;
use crate::history::{Forgotten, Grant, RightsLeft};
use crate::ids::{Boot, CoreIndex, NodeIndex, PrimaryIndex};
use crate::store::Health;
use limiter::counter::{BatchOutcome, BatchReply, ItemReply, StoreError};
use limiter::{Event as ShardEvent, PROBE_INTERVAL, Reply, StoreTime};

/// A batch that cannot be sent fails within this time, in microseconds.
const SEND_FAILS_WITHIN_US: u64 = 200;
/// Added to the id of a batch that a planted bug sends again, so that the primary takes it for a new batch.
const RESENT_ID_OFFSET: u64 = 1 << 40;

impl Region {
    /// Sends a batch from its core to its primary.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, mut packet: Packet) {
        cx.bugs.alter_batch(packet.core, &mut packet.batch);
        let Packet { core, primary, to_replaced, .. } = packet;
        let core_state = &self.cores[core.core.0];
        let node = core_state.node;
        let is_dead = self.primaries[primary.0].health == Health::Dead && !to_replaced;
        if core_state.breakers[primary.0].is_open() || is_dead {
            let soon = cx.rng.network.between(0, SEND_FAILS_WITHIN_US);
            cx.schedule_in(soon, packet.reply_arrives(Err(StoreError::NotApplied)));
            return;
        }
        cx.schedule_in(cx.plan.deadline_us, Event::ReplyOverdue(packet.clone()));
        if self.draw_repeat(cx) {
            let after = self.delay(cx, primary) + cx.rng.network.between(0, 2 * cx.plan.deadline_us);
            cx.schedule_in(after, Event::PacketArrives(Packet { duplicate: true, ..packet.clone() }));
        }
        if !self.draw_loss(cx, node, primary) {
            let delay = self.delay(cx, primary);
            cx.schedule_in(delay, Event::PacketArrives(packet));
        }
    }

    /// Draws how long a packet is on its way to or from a primary, in microseconds.
    pub(super) fn delay(&self, cx: &mut Context<'_>, primary: PrimaryIndex) -> u64 {
        let slow = |kind: &FaultKind| match kind {
            FaultKind::Slow { primary: slow, up_to_ms } if slow.is_none_or(|slow| slow == primary) => {
                Some(up_to_ms * 1000)
            }
            _ => None,
        };
        let slowest = cx.active_faults(self.index).filter_map(slow).max();
        let longest = slowest.unwrap_or(0).max(cx.plan.delay_us);
        cx.rng.network.between(longest.min(20), longest)
    }

    fn draw_repeat(&self, cx: &mut Context<'_>) -> bool {
        let percent = |kind: &FaultKind| if let FaultKind::Repeat { percent } = kind { *percent } else { 0 };
        let percent = cx.active_faults(self.index).map(percent).max().unwrap_or(0);
        cx.rng.network.chance(percent)
    }

    fn draw_loss(&self, cx: &mut Context<'_>, node: NodeIndex, primary: PrimaryIndex) -> bool {
        let is_cut = cx.is_faulty(self.index, |kind| *kind == FaultKind::Cut { node, primary });
        let percent = |kind: &FaultKind| if let FaultKind::Loss { percent } = kind { *percent } else { 0 };
        let percent = cx.active_faults(self.index).map(percent).max().unwrap_or(0);
        cx.rng.network.chance(percent) || is_cut
    }

    /// Handles a packet at its primary, and sends the reply.
    pub fn receive_packet(&mut self, cx: &mut Context<'_>, packet: Packet) {
        let Packet { core, lane, primary, to_replaced, duplicate, .. } = packet;
        let owner = self.lanes[usize::from(lane.0)];
        if owner != primary {
            // The lane has moved: the packet is redirected.
            let delay = self.delay(cx, owner);
            let packet = Packet { primary: owner, to_replaced: false, ..packet };
            cx.schedule_in(delay, Event::PacketArrives(packet));
            return;
        }
        let server = &self.primaries[primary.0];
        let result = if to_replaced {
            if server.replaced_is_stopped {
                self.held[primary.0].push(Packet { held: true, ..packet });
                return;
            }
            self.run_batch(cx, &packet)
        } else {
            match server.health {
                Health::Stopped => {
                    self.held[primary.0].push(packet);
                    return;
                }
                // The connection breaks.
                Health::Dead => Err(StoreError::Unknown),
                Health::Up => self.run_batch(cx, &packet),
            }
        };
        let node = self.cores[core.core.0].node;
        if !duplicate && !self.draw_loss(cx, node, primary) {
            if matches!(packet.kind, PacketKind::Give(_)) {
                self.await_replica(cx, packet, result);
                return;
            }
            let delay = self.delay(cx, primary);
            cx.schedule_in(delay, packet.reply_arrives(result));
        }
    }

    /// Runs a batch at its primary and records what the primary grants.
    fn run_batch(&mut self, cx: &mut Context<'_>, packet: &Packet) -> Result<BatchReply, StoreError> {
        let (now, primary) = (cx.now, packet.primary);
        let reply = self.primaries[primary.0].run(&packet.batch, now, packet.to_replaced);
        if let Ok(BatchOutcome::Ran(replies)) = reply.as_ref().map(|reply| &reply.outcome) {
            let detected = self.replacement_detected.get(&primary);
            let fence_expected = detected.is_some_and(|at| at + cx.plan.round_trip_us() < now);
            for (item, reply) in packet.batch.items.iter().zip(replies) {
                let (ItemReply::Done(grant), Some(counter)) = (reply, self.counters.get(&*item.key)) else {
                    continue;
                };
                let granted = item.asks.iter().zip(&grant.granted);
                let hits = granted.map(|(ask, granted)| ask.hits * u64::from(granted.count));
                let tokens = hits.sum::<u64>() + u64::from(grant.lease);
                if matches!(item.counter, limiter::counter::Counter::Window { escrow: Some(_), .. }) {
                    let left = RightsLeft { at: now, rights: grant.available };
                    cx.history.rights_left.entry(*counter).or_default().push(left);
                }
                let grant = Grant { at: now, tokens, core: packet.core, boot: packet.boot };
                cx.history.granted.entry(*counter).or_default().push(grant);
                cx.history.primary.insert(*counter, self.primary_id(primary));
                // A stopped server that goes on runs the packets in its sockets before any node can fence it.
                if packet.to_replaced && (!fence_expected || packet.held) {
                    // The batch counts as forgotten: the new primary does not know what the replaced one charged.
                    let forgotten = Forgotten { at: now, since: now.saturating_sub(1) };
                    cx.history.forgotten.entry(*counter).or_default().push(forgotten);
                }
            }
        }
        cx.trace_in(self.index, |cx| self.describe_batch(cx, packet, &reply));
        reply
    }

    /// Passes the reply to a batch to its core.
    pub fn receive_reply(&mut self, cx: &mut Context<'_>, core: CoreIndex, boot: Boot, mut reply: Reply) {
        if let Ok(reply) = &mut reply.result {
            cx.bugs.alter_reply(self.id_of(core), reply);
        }
        let core_state = &self.cores[core.0];
        if !core_state.is_running(boot) {
            return;
        }
        if reply.result.is_ok() {
            core_state.breakers[self.lanes[usize::from(reply.lane.0)].0].record_answer();
        }
        self.handle(cx, core, ShardEvent::Reply(reply));
    }

    /// Handles the end of the time for a reply. If the reply has not come, the outcome of the batch is unknown.
    pub fn expire_packet(&mut self, cx: &mut Context<'_>, packet: Packet) {
        let Packet { core: id, boot, lane, primary, kind, .. } = packet;
        let core = id.core;
        if kind != PacketKind::Shard {
            self.receive_node_reply(cx, core, boot, kind, packet.reply(Err(StoreError::Unknown)));
            return;
        }
        let core_state = &self.cores[core.0];
        if !core_state.is_running(boot) {
            return;
        }
        let failed_before = core_state.shard.stats().failed_batches;
        self.handle(cx, core, ShardEvent::Reply(packet.reply(Err(StoreError::Unknown))));
        let core_state = &self.cores[core.0];
        if core_state.shard.stats().failed_batches > failed_before {
            core_state.breakers[primary.0].record_timeout();
            let batch = packet.batch.id;
            cx.trace_in(self.index, |_| format!("core {core}: batch {batch}, lane {lane}, got no reply"));
            if cx.bugs.resends(id) {
                let mut batch = packet.batch;
                batch.id.0 += RESENT_ID_OFFSET;
                batch.not_after = batch.not_after.map(|end| StoreTime(end.0 + 4 * cx.plan.deadline_us));
                let delay = self.delay(cx, primary);
                cx.schedule_in(delay, Event::PacketArrives(Packet { duplicate: true, batch, ..packet }));
            }
        }
    }

    /// Probes the primaries for which a core's breakers are open.
    pub fn probe_primaries(&mut self, cx: &mut Context<'_>, core: CoreIndex, boot: Boot) {
        let id = self.id_of(core);
        let core_state = &self.cores[core.0];
        if !core_state.is_running(boot) {
            return;
        }
        let interval = u64::try_from(PROBE_INTERVAL.as_micros()).unwrap_or(u64::MAX);
        cx.schedule_in(interval, Event::Probe { core: id, boot });
        for primary in (0..self.primaries.len()).map(PrimaryIndex) {
            let breaker = &core_state.breakers[primary.0];
            if breaker.is_open()
                && self.is_responsive(core, primary)
                && !self.draw_loss(cx, core_state.node, primary)
                && cx.bugs.probes(id)
            {
                breaker.record_answer();
            }
        }
    }

    /// True if the server that the core sends to is responsive.
    fn is_responsive(&self, core: CoreIndex, primary: PrimaryIndex) -> bool {
        let server = &self.primaries[primary.0];
        if self.sends_to_replaced(core, primary) { !server.replaced_is_stopped } else { server.health == Health::Up }
    }
}
