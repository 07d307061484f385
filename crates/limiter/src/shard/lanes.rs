//! The lanes to the store: each with its own queue, its own clock, and at most one batch in flight.

use std::collections::VecDeque;

use super::store_clock::StoreClock;
use crate::time::{NodeTime, StoreTime};

/// Every lane of a shard.
#[derive(Debug)]
pub struct Lanes {
    each: Vec<Lane>,
    /// Lanes that have something to send and nothing in flight, those that wait longest first.
    ready: VecDeque<u16>,
    /// Lanes with a batch in flight.
    flying: usize,
    /// So many are in flight at once, so that what others have to send gathers meanwhile and goes together.
    turns: usize,
    /// Where the search for clocks that are unknown goes on.
    sought: u16,
}

/// A part of the lanes takes turns: a call to the store costs as much as several keys in it.
const TURNS_OF_LANES: usize = 4;
/// A batch that is not back after so long, in microseconds, takes no turn: a primary that does not answer must not hold up
/// the others.
const SLOW_US: u64 = 2_000;

#[derive(Debug)]
struct Lane {
    /// Slots of keys that have something to send.
    queue: VecDeque<u32>,
    flying: Option<Flying>,
    /// It is among those that can send.
    ready: bool,
    /// Its last batch got no answer, or did nothing.
    failing: bool,
    /// Of the server that has it.
    clock: StoreClock,
}

/// A batch in flight, and the keys whose items it carries.
#[derive(Debug)]
pub struct Flying {
    pub flight: u64,
    pub sent: NodeTime,
    pub slots: Vec<u32>,
}

impl Lanes {
    /// `count` lanes, one at least; `wall` is the node's own idea of the store's clock.
    pub fn new(count: u16, wall: StoreTime, now: NodeTime) -> Self {
        let lane = || Lane {
            queue: VecDeque::new(),
            flying: None,
            ready: false,
            failing: false,
            clock: StoreClock::new(wall, now),
        };
        let each: Vec<Lane> = (0..count.max(1)).map(|_| lane()).collect();
        let turns = each.len().div_ceil(TURNS_OF_LANES);
        // Each asks for its store's clock first.
        let ready: VecDeque<u16> = (0..count.max(1)).collect();
        let each = each.into_iter().map(|lane| Lane { ready: true, ..lane }).collect();
        Self { each, ready, flying: 0, turns, sought: 0 }
    }

    /// Whether nothing is queued and nothing in flight.
    pub fn are_quiet(&self) -> bool {
        self.each.iter().all(|lane| lane.flying.is_none() && lane.queue.is_empty())
    }

    /// Whether some lane can send.
    pub fn can_send(&self, now: NodeTime) -> bool {
        !self.ready.is_empty() && self.free_turns(now) > 0
    }

    /// In how many microseconds to look again, where batches wait for those in flight to be back or to be too slow.
    pub fn next_turn(&self, now: NodeTime) -> Option<u64> {
        (!self.ready.is_empty() && self.free_turns(now) == 0).then_some(SLOW_US)
    }

    /// How many batches may leave now.
    fn free_turns(&self, now: NodeTime) -> usize {
        if self.flying < self.turns {
            return self.turns - self.flying;
        }
        let holds_up =
            |lane: &&Lane| !lane.failing && lane.flying.as_ref().is_some_and(|flying| now.since(flying.sent) < SLOW_US);
        self.turns.saturating_sub(self.each.iter().filter(holds_up).count())
    }

    pub fn queue(&mut self, at: u16, slot: u32) {
        if let Some(lane) = self.each.get_mut(usize::from(at)) {
            lane.queue.push_back(slot);
            self.may_send(at);
        }
    }

    /// The next lane that can send; whoever takes it has it send, or empties its queue.
    pub fn take_ready(&mut self, now: NodeTime) -> Option<u16> {
        if self.free_turns(now) == 0 {
            return None;
        }
        let at = self.ready.pop_front()?;
        if let Some(lane) = self.each.get_mut(usize::from(at)) {
            lane.ready = false;
        }
        Some(at)
    }

    /// Time passes: asks for clocks that are still unknown, of lanes whose store answers, and of one whose does not.
    pub fn seek_clocks(&mut self) {
        let count = u16::try_from(self.each.len()).unwrap_or(u16::MAX);
        let (first, mut failing) = (self.sought, None);
        for at in (0..count).map(|at| (first + at) % count) {
            let Some(lane) = self.each.get(usize::from(at)).filter(|lane| !lane.clock.is_known()) else { continue };
            if !lane.failing {
                self.make_ready(at);
            } else if failing.is_none() {
                failing = Some(at);
            }
        }
        if let Some(at) = failing {
            self.sought = (at + 1) % count;
            self.make_ready(at);
        }
    }

    /// The key whose turn it is.
    pub fn next(&mut self, at: u16) -> Option<u32> {
        self.each.get_mut(usize::from(at))?.queue.pop_front()
    }

    /// A batch leaves.
    pub fn depart(&mut self, at: u16, flying: Flying) {
        if let Some(lane) = self.each.get_mut(usize::from(at)) {
            self.flying += usize::from(lane.flying.replace(flying).is_none());
        }
    }

    /// A batch is back, answered at `ran` of the store's clock or not at all; `late` says that it came too late. One that
    /// is not under way (before a restart) is none.
    pub fn land(&mut self, at: u16, flight: u64, ran: Option<StoreTime>, late: bool, now: NodeTime) -> Option<Flying> {
        let lane = self.each.get_mut(usize::from(at))?;
        let flying = lane.flying.take_if(|f| f.flight == flight)?;
        self.flying -= 1;
        lane.failing = ran.is_none();
        if let Some(ran) = ran {
            if late {
                // The clock is another's, or what was known of it is wrong.
                lane.clock.forget();
            }
            lane.clock.learn(flying.sent, now, ran);
        }
        self.may_send(at);
        Some(flying)
    }

    /// The store answered, and served none of the batch's keys.
    pub fn fail(&mut self, at: u16) {
        if let Some(lane) = self.each.get_mut(usize::from(at)) {
            lane.failing = true;
        }
    }

    /// Whether its last batch got no answer, or did nothing.
    pub fn is_failing(&self, at: u16) -> bool {
        self.each.get(usize::from(at)).is_some_and(|lane| lane.failing)
    }

    /// The store's clock, as far as is known.
    pub fn store_now(&self, at: u16, now: NodeTime) -> StoreTime {
        self.each.get(usize::from(at)).map_or(StoreTime(0), |lane| lane.clock.at(now))
    }

    /// Whether the store has told its clock.
    pub fn is_known(&self, at: u16) -> bool {
        self.each.get(usize::from(at)).is_some_and(|lane| lane.clock.is_known())
    }

    /// The store's instant at which the node's is `end`; `None` until the store has answered.
    pub fn known_at(&self, at: u16, end: NodeTime) -> Option<StoreTime> {
        self.each.get(usize::from(at)).filter(|lane| lane.clock.is_known()).map(|lane| lane.clock.at(end))
    }

    /// Puts a lane among those that can send, if it can.
    fn may_send(&mut self, at: u16) {
        if self.each.get(usize::from(at)).is_some_and(|lane| !lane.queue.is_empty()) {
            self.make_ready(at);
        }
    }

    fn make_ready(&mut self, at: u16) {
        let Some(lane) = self.each.get_mut(usize::from(at)) else { return };
        if lane.flying.is_none() && !std::mem::replace(&mut lane.ready, true) {
            self.ready.push_back(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_sends_once_at_a_time_and_others_do_not_wait_for_it() {
        let mut lanes = Lanes::new(2, StoreTime(0), NodeTime(0));
        lanes.queue(0, 7);
        lanes.queue(1, 8);
        let now = NodeTime(0);
        assert_eq!(lanes.take_ready(now), Some(0));
        assert_eq!(lanes.take_ready(now), Some(1));
        assert_eq!((lanes.next(0), lanes.next(1)), (Some(7), Some(8)));
        lanes.depart(0, Flying { flight: 1, sent: NodeTime(0), slots: vec![7] });
        lanes.queue(0, 9);
        assert!(!lanes.can_send(now) && !lanes.are_quiet());
        assert!(lanes.land(0, 99, None, false, NodeTime(5)).is_none(), "that one is not under way");
        assert!(lanes.land(0, 1, None, false, NodeTime(5)).is_some());
        assert_eq!(lanes.take_ready(now), Some(0));
    }

    #[test]
    fn lanes_take_turns_but_for_those_whose_store_does_not_answer() {
        let mut lanes = Lanes::new(8, StoreTime(0), NodeTime(0));
        let fly = |lanes: &mut Lanes, at, now| {
            lanes.depart(at, Flying { flight: u64::from(at), sent: now, slots: Vec::new() });
        };
        (0..8).for_each(|at| lanes.queue(at, 7));
        let now = NodeTime(1000);
        for at in 0..2 {
            assert_eq!(lanes.take_ready(now), Some(at));
            lanes.next(at);
            fly(&mut lanes, at, now);
        }
        assert!(lanes.take_ready(now).is_none() && !lanes.can_send(now), "a quarter of them fly");
        let later = now.plus(SLOW_US);
        assert!(lanes.can_send(later), "those do not answer");
        assert_eq!(lanes.take_ready(later), Some(2));
        lanes.next(2);
        fly(&mut lanes, 2, later);
        lanes.land(0, 0, None, false, later);
        lanes.queue(0, 7);
        assert_eq!(lanes.take_ready(later), Some(3));
        fly(&mut lanes, 3, later);
        assert!(!lanes.can_send(later));
        // One that failed takes no turn from others.
        lanes.land(3, 3, None, false, later);
        fly(&mut lanes, 3, later);
        assert!(lanes.can_send(later));
    }

    #[test]
    fn a_late_batch_teaches_the_clock_however_long_it_took() {
        let mut lanes = Lanes::new(1, StoreTime(0), NodeTime(0));
        let mut fly = |flight, sent: u64, back: u64, ran: u64, late| {
            lanes.depart(0, Flying { flight, sent: NodeTime(sent), slots: Vec::new() });
            lanes.land(0, flight, Some(StoreTime(ran)), late, NodeTime(back));
            lanes.store_now(0, NodeTime(back)).0
        };
        assert_eq!(fly(1, 0, 10, 1_000_000, false), 1_000_005);
        assert!(fly(2, 100, 2000, 9_000_000, false) < 1_100_000, "a slow sample is worth less than a close one");
        assert!(fly(3, 3000, 5000, 9_000_000, true) >= 9_000_000, "another server's clock");
    }
}
