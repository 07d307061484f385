//! Faults as they begin and end.

use super::faults::{Fault, Kind};
use super::ledger::{Forgot, Leap};
use super::primary::Health;
use super::world::{Event, World};

/// A node notices within so many microseconds that a primary was replaced: with its next heartbeat.
const NOTICES_WITHIN_US: u64 = 1_000_000;

impl World<'_> {
    pub(super) fn begins(&mut self, at: usize) {
        let Fault { begin, end, kind } = self.plan.faults[at].clone();
        self.active[at] = true;
        self.tell(|_| if begin == end { format!("-- {kind}") } else { format!("-- {kind}, until {} ms", end / 1000) });
        self.behind[at] = self.now.saturating_sub(self.chaos.between(0, self.plan.lag_us));
        match kind {
            Kind::Stall { primary } => self.primaries[primary].health = Health::Stopped,
            Kind::Down { primary, .. } | Kind::Failover { primary } => {
                self.primaries[primary].health = Health::Dead;
                self.held[primary].clear();
            }
            Kind::Split { primary } => {
                let since = self.behind[at];
                // The script was read once, so it can be read again.
                if self.primaries[primary].split(since).is_ok() {
                    self.forgot(primary, since, |_| true);
                    // Nodes of odd number cannot learn of it, nor can anybody reach the old primary.
                    self.unaware.extend((0..self.plan.nodes).filter(|node| node % 2 == 1).map(|node| (node, primary)));
                }
            }
            Kind::Switch { primary, stops } => {
                if self.primaries[primary].split(self.now).is_ok() {
                    self.primaries[primary].replaced_stops = stops;
                    self.noticed.remove(&primary);
                    for node in 0..self.plan.nodes {
                        self.unaware.insert((node, primary));
                        let after = self.chaos.between(0, NOTICES_WITHIN_US);
                        self.at(self.now + after, Event::Notices { node, primary });
                    }
                }
            }
            Kind::Suspend { node } => {
                self.cores_of(node).for_each(|holder| {
                    let it = &mut self.holders[holder];
                    // Suspended twice at a time, it sleeps until the later end.
                    it.suspended_us += end.saturating_sub(it.stopped_until.max(self.now));
                    it.stopped_until = it.stopped_until.max(end);
                });
            }
            Kind::Flush { primary } => {
                self.primaries[primary].forget(|_| false);
                self.forgot(primary, 0, |_| true);
            }
            Kind::Evict { primary } => {
                let chaos = &mut self.chaos;
                let gone = self.primaries[primary].forget(|_| !chaos.chance(40));
                self.forgot(primary, 0, |key| gone.iter().any(|gone| **gone == *key));
            }
            Kind::Full { primary } => self.primaries[primary].set_full(true),
            Kind::Leap { primary, by_ms } => {
                let from_us = self.primaries[primary].clock_us;
                let to_us = from_us + by_ms * 1000;
                self.primaries[primary].clock_us = to_us;
                self.ledger.leaps.entry(primary).or_default().push(Leap { at: self.now, from_us, to_us });
            }
            Kind::Crash { node } => self.cores_of(node).for_each(|holder| self.lose(holder)),
            Kind::Pause { node } => {
                self.cores_of(node).for_each(|holder| {
                    let it = &mut self.holders[holder];
                    it.stopped_until = it.stopped_until.max(end);
                });
            }
            Kind::Move { lane, to } => self.relocate(lane, to),
            Kind::Cut { .. } | Kind::Loss { .. } | Kind::Slow { .. } | Kind::Repeat { .. } => {}
        }
    }

    pub(super) fn ends(&mut self, at: usize) {
        let Fault { begin, end, kind } = self.plan.faults[at].clone();
        self.active[at] = false;
        if begin < end {
            self.tell(|_| format!("-- no more: {kind}"));
        }
        match kind {
            Kind::Stall { primary } => self.recovers(primary),
            Kind::Down { primary, forgets } => {
                let since = if forgets { self.behind[at] } else { self.now };
                self.takes_over(primary, since);
            }
            Kind::Failover { primary } => self.takes_over(primary, self.behind[at]),
            Kind::Split { primary } | Kind::Switch { primary, .. } if !self.is_replaced(primary) => {
                self.primaries[primary].replaced_stops = false;
                self.release(primary);
                self.primaries[primary].heal_split();
                self.unaware.retain(|(_, of)| *of != primary);
            }
            Kind::Full { primary } if !self.goes_on(kind) => self.primaries[primary].set_full(false),
            Kind::Crash { node } if !self.goes_on(kind) => self.cores_of(node).for_each(|holder| self.starts(holder)),
            _ => {}
        }
    }

    /// Whether another fault of the kind has not ended yet.
    fn goes_on(&self, ended: Kind) -> bool {
        self.is_faulty(|kind| *kind == ended)
    }

    /// Returns whether a replaced server still runs beside this primary.
    fn is_replaced(&self, of: usize) -> bool {
        let split =
            |kind: &Kind| matches!(kind, Kind::Split { primary } | Kind::Switch { primary, .. } if *primary == of);
        self.is_faulty(split)
    }

    fn takes_over(&mut self, primary: usize, since: u64) {
        self.primaries[primary].fail_over(since);
        if since < self.now {
            self.forgot(primary, since, |_| true);
        }
        self.recovers(primary);
    }

    /// It answers again, unless something else keeps it from that.
    fn recovers(&mut self, of: usize) {
        let dead =
            |kind: &Kind| matches!(kind, Kind::Down { primary, .. } | Kind::Failover { primary } if *primary == of);
        let stopped = |kind: &Kind| matches!(kind, Kind::Stall { primary } if *primary == of);
        self.primaries[of].health = match (self.is_faulty(dead), self.is_faulty(stopped)) {
            (true, _) => Health::Dead,
            (false, true) => Health::Stopped,
            (false, false) => Health::Up,
        };
        if self.primaries[of].health == Health::Up {
            self.release(of);
        }
    }

    fn starts(&mut self, holder: usize) {
        let now = self.now;
        if self.holders[holder].alive {
            return;
        }
        self.holders[holder].start(&mut self.names, now);
        let known = self.plan.edits.iter().rposition(|edit| edit.at <= now).unwrap_or(0);
        self.tell(|_| format!("core {holder} starts"));
        self.hear(holder, known);
        self.keep(holder);
    }

    fn cores_of(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        node * self.plan.cores..(node + 1) * self.plan.cores
    }

    /// The primary forgot what it granted since then of these keys.
    fn forgot(&mut self, primary: usize, since: u64, these: impl Fn(&[u8]) -> bool) {
        for (key, counter) in &self.counters {
            if self.ledger.primary.get(counter) == Some(&primary) && these(key) {
                self.ledger.forgot.entry(*counter).or_default().push(Forgot { at: self.now, since });
            }
        }
    }

    fn relocate(&mut self, lane: u16, to: usize) {
        let from = std::mem::replace(&mut self.lanes[usize::from(lane)], to);
        if from == to {
            return;
        }
        let mine: Vec<Vec<u8>> = self.counters.keys().filter(|key| self.lane_of(key).0 == lane).cloned().collect();
        let is_mine = |key: &[u8]| mine.iter().any(|mine| **mine == *key);
        let mut target = self.primaries.swap_remove(to);
        // `swap_remove` has put the last one in its place.
        let source = if from == self.primaries.len() { to } else { from };
        target.take_from(&self.primaries[source], is_mine);
        self.primaries[source].forget(|key| !is_mine(key));
        self.primaries.push(target);
        let last = self.primaries.len() - 1;
        self.primaries.swap(to, last);
        for key in mine {
            if let Some(counter) = self.counters.get(&key) {
                self.ledger.primary.insert(*counter, to);
            }
        }
    }
}
