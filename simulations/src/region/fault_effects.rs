//! The effects of faults on a region, when they begin and when they end.

use super::Region;
use crate::context::{Context, Event, FaultState};
use crate::faults::{Fault, FaultKind};
use crate::history::{ClockJump, Forgotten};
use crate::ids::{CoreIndex, Instant, NodeIndex, PrimaryIndex};
use crate::scenario::Scenario;
use crate::store::Health;
use limiter::LaneId;

/// A node detects that a primary was replaced within this time: with its next heartbeat. In microseconds.
const REPLACEMENT_DETECTED_WITHIN_US: u64 = 1_000_000;

impl Region {
    /// Applies the effects of a fault that begins.
    pub fn begin_fault(&mut self, cx: &mut Context<'_>, fault: &Fault, state: FaultState) {
        let end = fault.end;
        match fault.kind {
            FaultKind::Stall { primary } => self.primaries[primary.0].health = Health::Stopped,
            FaultKind::Down { primary, .. } | FaultKind::Failover { primary } => {
                self.primaries[primary.0].health = Health::Dead;
                self.held[primary.0].clear();
            }
            FaultKind::Split { primary } => self.begin_split(cx, primary, state.replicated_until),
            FaultKind::Replacement { primary, stops } => self.begin_replacement(cx, primary, stops),
            FaultKind::Suspend { node } => {
                for core in self.cores_of(&cx.plan, node) {
                    let it = &mut self.cores[core.0];
                    // If two suspensions overlap, the machine sleeps until the later end.
                    it.suspended_us += end.saturating_sub(it.stopped_until.max(cx.now));
                    it.stop_until(end);
                }
            }
            FaultKind::Flush { primary } => {
                self.primaries[primary.0].forget(|_| false);
                self.record_forgotten(cx, primary, 0, |_| true);
            }
            FaultKind::Evict { primary } => {
                let rng = &mut cx.rng.faults;
                let evicted = self.primaries[primary.0].forget(|_| !rng.chance(40));
                self.record_forgotten(cx, primary, 0, |key| evicted.iter().any(|evicted| **evicted == *key));
            }
            FaultKind::Full { primary } => self.primaries[primary.0].set_full(true),
            FaultKind::ClockJump { primary, by_ms } => {
                let id = self.primary_id(primary);
                let clock_us = &mut self.primaries[primary.0].clock_us;
                let from_us = *clock_us;
                *clock_us += by_ms * 1000;
                let jump = ClockJump { at: cx.now, from_us, to_us: *clock_us };
                cx.history.clock_jumps.entry(id).or_default().push(jump);
            }
            FaultKind::Crash { node } => self.cores_of(&cx.plan, node).for_each(|core| self.kill(cx, core)),
            FaultKind::Pause { node } => {
                self.cores_of(&cx.plan, node).for_each(|core| self.cores[core.0].stop_until(end));
            }
            FaultKind::RegionDies { .. } => self.die(cx),
            FaultKind::LaneMove { lane, to } => self.move_lane(cx, lane, to),
            FaultKind::Cut { .. } | FaultKind::Loss { .. } | FaultKind::Slow { .. } | FaultKind::Repeat { .. } => {}
            FaultKind::CutRegions { .. } | FaultKind::CutRegionsOneWay { .. } | FaultKind::LossyLink { .. } => {}
        }
    }

    fn begin_split(&mut self, cx: &mut Context<'_>, primary: PrimaryIndex, since: Instant) {
        let since = self.replicated_until(cx, primary, since);
        // The script has compiled before, so it compiles again.
        if self.primaries[primary.0].split(since).is_ok() {
            self.record_forgotten(cx, primary, since, |_| true);
            // What nodes detected was an earlier replacement.
            self.replacement_detected.remove(&primary);
            // Nodes of odd number cannot learn of the new primary, and no node can fence the old one.
            let odd = (0..cx.plan.nodes).filter(|node| node % 2 == 1).map(NodeIndex);
            self.unaware.extend(odd.map(|node| (node, primary)));
        }
    }

    fn begin_replacement(&mut self, cx: &mut Context<'_>, primary: PrimaryIndex, stops: bool) {
        if self.primaries[primary.0].split(cx.now).is_ok() {
            self.primaries[primary.0].replaced_is_stopped = stops;
            self.replacement_detected.remove(&primary);
            for node in (0..cx.plan.nodes).map(NodeIndex) {
                self.unaware.insert((node, primary));
                let after = cx.rng.faults.between(0, REPLACEMENT_DETECTED_WITHIN_US);
                cx.schedule_in(after, Event::ReplacementDetected { region: self.index, node, primary });
            }
        }
    }

    /// Ends a fault, which is no longer active. A part of the region recovers unless another active fault prevents
    /// that.
    pub fn end_fault(&mut self, cx: &mut Context<'_>, fault: &Fault, state: FaultState) {
        let kind = fault.kind;
        let is_still_active = cx.is_faulty(self.index, |active| *active == kind);
        match kind {
            FaultKind::Stall { primary } => self.update_health(cx, primary),
            FaultKind::Down { primary, loses_writes } => {
                let since = if loses_writes { state.replicated_until } else { cx.now };
                self.fail_over(cx, primary, since);
            }
            FaultKind::Failover { primary } => self.fail_over(cx, primary, state.replicated_until),
            FaultKind::Split { primary } | FaultKind::Replacement { primary, .. }
                if !self.has_replaced_server(cx, primary) =>
            {
                self.primaries[primary.0].replaced_is_stopped = false;
                self.release_held(cx, primary);
                self.primaries[primary.0].remove_replaced();
                self.unaware.retain(|(_, of)| *of != primary);
            }
            FaultKind::Full { primary } if !is_still_active => self.primaries[primary.0].set_full(false),
            FaultKind::Crash { node } => self.restart_node(cx, node),
            FaultKind::RegionDies { loses_data } => self.revive(cx, loses_data),
            _ => {}
        }
    }

    /// Kills all nodes and all primaries.
    fn die(&mut self, cx: &mut Context<'_>) {
        (0..self.cores.len()).for_each(|core| self.kill(cx, CoreIndex(core)));
        self.primaries.iter_mut().for_each(|primary| primary.health = Health::Dead);
        self.held.iter_mut().for_each(Vec::clear);
    }

    /// Starts all primaries and all nodes again, unless another active fault prevents that.
    fn revive(&mut self, cx: &mut Context<'_>, loses_data: bool) {
        for primary in (0..self.primaries.len()).map(PrimaryIndex) {
            if loses_data {
                self.primaries[primary.0].forget(|_| false);
                self.record_forgotten(cx, primary, 0, |_| true);
            }
            self.fail_over(cx, primary, cx.now);
        }
        (0..cx.plan.nodes).for_each(|node| self.restart_node(cx, NodeIndex(node)));
    }

    /// Starts a node again, unless another active fault prevents that.
    fn restart_node(&mut self, cx: &mut Context<'_>, node: NodeIndex) {
        let kills =
            |kind: &FaultKind| *kind == FaultKind::Crash { node } || matches!(kind, FaultKind::RegionDies { .. });
        if !cx.is_faulty(self.index, kills) {
            let was_dead = self.cores_of(&cx.plan, node).any(|core| !self.cores[core.0].alive);
            self.cores_of(&cx.plan, node).for_each(|core| self.restart(cx, core));
            if was_dead {
                self.begin_gossip(cx, node);
            }
        }
    }

    /// True if a replaced server still runs beside this primary.
    fn has_replaced_server(&self, cx: &Context<'_>, of: PrimaryIndex) -> bool {
        let replaces = |kind: &FaultKind| match kind {
            FaultKind::Split { primary } | FaultKind::Replacement { primary, .. } => *primary == of,
            _ => false,
        };
        cx.is_faulty(self.index, replaces)
    }

    /// Returns until when the replica that takes over has the writes. With several replicas, it need not be the one
    /// that confirmed some.
    fn replicated_until(&self, cx: &mut Context<'_>, primary: PrimaryIndex, since: Instant) -> Instant {
        let is_another =
            cx.plan.has_escrow() && cx.rng.faults.chance(if cx.plan.scenario == Scenario::Handover { 80 } else { 30 });
        if is_another { since } else { self.primaries[primary.0].replicated_until(since) }
    }

    fn fail_over(&mut self, cx: &mut Context<'_>, primary: PrimaryIndex, since: Instant) {
        let since = self.replicated_until(cx, primary, since);
        self.primaries[primary.0].fail_over(since);
        if since < cx.now {
            self.record_forgotten(cx, primary, since, |_| true);
        }
        self.update_health(cx, primary);
    }

    /// Sets the health of a primary from the active faults, and runs the packets that waited if it is up.
    fn update_health(&mut self, cx: &mut Context<'_>, of: PrimaryIndex) {
        let kills = |kind: &FaultKind| match kind {
            FaultKind::Down { primary, .. } | FaultKind::Failover { primary } => *primary == of,
            FaultKind::RegionDies { .. } => true,
            _ => false,
        };
        let stops = |kind: &FaultKind| *kind == FaultKind::Stall { primary: of };
        let health = match (cx.is_faulty(self.index, kills), cx.is_faulty(self.index, stops)) {
            (true, _) => Health::Dead,
            (false, true) => Health::Stopped,
            (false, false) => Health::Up,
        };
        self.primaries[of.0].health = health;
        if health == Health::Up {
            self.release_held(cx, of);
        }
    }

    fn restart(&mut self, cx: &mut Context<'_>, core: CoreIndex) {
        let now = cx.now;
        if self.cores[core.0].alive {
            return;
        }
        self.cores[core.0].restart(&mut cx.rng.cores, now);
        let in_force = cx.plan.edits.iter().rposition(|edit| edit.reaches_at(self.index) <= now).unwrap_or(0);
        cx.trace_in(self.index, |_| format!("core {core} starts"));
        self.receive_rules(cx, core, in_force);
        self.begin_periodic_work(cx, core);
    }

    /// Records that a primary forgot what it had granted after `since` of the keys for which `selects` returns true.
    fn record_forgotten(
        &self,
        cx: &mut Context<'_>,
        primary: PrimaryIndex,
        since: Instant,
        selects: impl Fn(&[u8]) -> bool,
    ) {
        let id = self.primary_id(primary);
        for (key, counter) in &self.counters {
            if cx.history.primary.get(counter) == Some(&id) && selects(key) {
                cx.history.forgotten.entry(*counter).or_default().push(Forgotten { at: cx.now, since });
            }
        }
    }

    fn move_lane(&mut self, cx: &mut Context<'_>, lane: LaneId, to: PrimaryIndex) {
        let from = std::mem::replace(&mut self.lanes[usize::from(lane.0)], to);
        let Ok([source, target]) = self.primaries.get_disjoint_mut([from.0, to.0]) else { return };
        let (counters, tags) = (&self.counters, &self.tags);
        let is_moved = |key: &[u8]| counters.contains_key(key) && tags.of(key) == lane;
        target.copy_from(source, is_moved);
        source.forget(|key| !is_moved(key));
        let id = self.primary_id(to);
        for (_, counter) in self.counters.iter().filter(|(key, _)| self.lane_of(key) == lane) {
            cx.history.primary.insert(*counter, id);
        }
    }
}
