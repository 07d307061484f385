//! The lanes to the store: each with its own queue, its own clock, and at most one batch in flight.

use std::collections::VecDeque;

use super::store_clock::StoreClock;
use super::time::{NodeTime, StoreTime};

/// Every lane of a shard.
#[derive(Debug)]
pub struct Lanes {
    each: Vec<Lane>,
    /// Lanes that have something to send and nothing in flight.
    ready: Vec<u16>,
}

#[derive(Debug)]
struct Lane {
    /// Slots of keys that have something to send.
    queue: VecDeque<u32>,
    flying: Option<Flying>,
    /// It is among those that can send.
    ready: bool,
    /// Its last batch got no answer.
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
        Self { each: (0..count.max(1)).map(|_| lane()).collect(), ready: Vec::new() }
    }

    /// Whether nothing is queued and nothing in flight.
    pub fn are_quiet(&self) -> bool {
        self.each.iter().all(|lane| lane.flying.is_none() && lane.queue.is_empty())
    }

    /// Whether some lane can send.
    pub const fn can_send(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn queue(&mut self, at: u16, slot: u32) {
        if let Some(lane) = self.each.get_mut(usize::from(at)) {
            lane.queue.push_back(slot);
            self.may_send(at);
        }
    }

    /// The lanes that can send; whoever takes them has each send, or empties its queue.
    pub fn take_ready(&mut self) -> Vec<u16> {
        let ready = std::mem::take(&mut self.ready);
        for at in &ready {
            if let Some(lane) = self.each.get_mut(usize::from(*at)) {
                lane.ready = false;
            }
        }
        ready
    }

    /// The key whose turn it is.
    pub fn next(&mut self, at: u16) -> Option<u32> {
        self.each.get_mut(usize::from(at))?.queue.pop_front()
    }

    /// A batch leaves.
    pub fn depart(&mut self, at: u16, flying: Flying) {
        if let Some(lane) = self.each.get_mut(usize::from(at)) {
            lane.flying = Some(flying);
        }
    }

    /// A batch is back, answered at `ran` of the store's clock or not at all; `late` says that it came too late. One that
    /// is not under way (before a restart) is none.
    pub fn land(&mut self, at: u16, flight: u64, ran: Option<StoreTime>, late: bool, now: NodeTime) -> Option<Flying> {
        let lane = self.each.get_mut(usize::from(at))?;
        let flying = lane.flying.take_if(|f| f.flight == flight)?;
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

    /// Whether its last batch got no answer.
    pub fn is_failing(&self, at: u16) -> bool {
        self.each.get(usize::from(at)).is_some_and(|lane| lane.failing)
    }

    /// The store's clock, as far as is known.
    pub fn store_now(&self, at: u16, now: NodeTime) -> StoreTime {
        self.each.get(usize::from(at)).map_or(StoreTime(0), |lane| lane.clock.at(now))
    }

    /// The store's instant at which the node's is `end`; `None` until the store has answered.
    pub fn known_at(&self, at: u16, end: NodeTime) -> Option<StoreTime> {
        self.each.get(usize::from(at)).filter(|lane| lane.clock.is_known()).map(|lane| lane.clock.at(end))
    }

    /// Puts a lane among those that can send, if it can.
    fn may_send(&mut self, at: u16) {
        let Some(lane) = self.each.get_mut(usize::from(at)) else { return };
        if lane.flying.is_none() && !lane.queue.is_empty() && !std::mem::replace(&mut lane.ready, true) {
            self.ready.push(at);
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
        assert_eq!(lanes.take_ready(), [0, 1]);
        assert_eq!((lanes.next(0), lanes.next(1)), (Some(7), Some(8)));
        lanes.depart(0, Flying { flight: 1, sent: NodeTime(0), slots: vec![7] });
        lanes.queue(0, 9);
        assert!(!lanes.can_send() && !lanes.are_quiet());
        assert!(lanes.land(0, 99, None, false, NodeTime(5)).is_none(), "that one is not under way");
        assert!(lanes.land(0, 1, None, false, NodeTime(5)).is_some());
        assert_eq!(lanes.take_ready(), [0]);
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
