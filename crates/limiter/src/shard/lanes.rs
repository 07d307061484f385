//! The lanes to the store. Each has its own queue, its own clock, and at most one batch in flight.
//!
//! A lane queues the keys of one hash tag, which one primary of the store serves.

use std::collections::VecDeque;

use super::store_clock::StoreClock;
use crate::ids::{BatchId, LaneId, SlotId};
use crate::time::{NodeTime, StoreTime, WallTime};

/// At most one lane in this many has a batch in flight. A call to the store costs as much as several keys in it, so the
/// others collect keys meanwhile.
const LANES_PER_FLIGHT: usize = 4;
/// A batch without a reply for this long, in microseconds, does not count against the maximum: a primary that does
/// not reply must not delay the others.
const STALLED_AFTER_US: u64 = 2_000;

/// Every lane of a shard.
#[derive(Debug)]
pub struct Lanes {
    each: Vec<Lane>,
    /// Lanes that have keys to send or whose clock is unknown, and nothing in flight. The longest waiting first.
    ready: VecDeque<LaneId>,
    /// Lanes with a batch in flight.
    in_flight: usize,
    max_in_flight: usize,
    /// Where the next search for unknown clocks begins.
    next_probe: u16,
}

#[derive(Debug)]
struct Lane {
    /// Keys that have something to send.
    queue: VecDeque<SlotId>,
    in_flight: Option<InFlight>,
    /// It is among the lanes that can send.
    ready: bool,
    /// Its last batch got no reply, or none of its keys could be served.
    failing: bool,
    /// The clock of its primary.
    clock: StoreClock,
}

/// A batch in flight, and the keys whose items it carries.
#[derive(Debug)]
pub struct InFlight {
    pub batch: BatchId,
    pub sent: NodeTime,
    pub slots: Vec<SlotId>,
}

impl Lanes {
    /// `count` lanes, one at least. Each asks for its primary's clock first; `wall` is the first estimate.
    pub fn new(count: u16, wall: WallTime, now: NodeTime, deadline_us: u64) -> Self {
        let lane = |_| Lane {
            queue: VecDeque::new(),
            in_flight: None,
            ready: true,
            failing: false,
            clock: StoreClock::new(wall, now, deadline_us),
        };
        let each: Vec<Lane> = (0..count.max(1)).map(lane).collect();
        let max_in_flight = each.len().div_ceil(LANES_PER_FLIGHT);
        let ready = (0..count.max(1)).map(LaneId).collect();
        Self { each, ready, in_flight: 0, max_in_flight, next_probe: 0 }
    }

    fn get(&self, lane: LaneId) -> Option<&Lane> {
        self.each.get(usize::from(lane.0))
    }

    fn get_mut(&mut self, lane: LaneId) -> Option<&mut Lane> {
        self.each.get_mut(usize::from(lane.0))
    }

    /// True if nothing is queued and nothing is in flight.
    pub fn are_quiet(&self) -> bool {
        self.each.iter().all(|lane| lane.in_flight.is_none() && lane.queue.is_empty())
    }

    /// True if some lane can send.
    pub fn can_send(&self, now: NodeTime) -> bool {
        !self.ready.is_empty() && self.has_free_batch(now)
    }

    /// The microseconds after which a waiting batch may be sent even if no reply comes; `None` if no batch waits.
    pub fn send_delay(&self, now: NodeTime) -> Option<u64> {
        (!self.ready.is_empty() && !self.has_free_batch(now)).then_some(STALLED_AFTER_US)
    }

    /// True if one more batch may leave now.
    fn has_free_batch(&self, now: NodeTime) -> bool {
        let answers = |lane: &&Lane| {
            !lane.failing && lane.in_flight.as_ref().is_some_and(|sent| now.since(sent.sent) < STALLED_AFTER_US)
        };
        self.in_flight < self.max_in_flight || self.each.iter().filter(answers).count() < self.max_in_flight
    }

    /// Queues a key that has something to send.
    pub fn queue(&mut self, lane: LaneId, slot: SlotId) {
        if let Some(lane_state) = self.get_mut(lane) {
            lane_state.queue.push_back(slot);
            self.make_ready_if_queued(lane);
        }
    }

    /// The next lane that can send. The caller sends its batch or empties its queue.
    pub fn take_ready(&mut self, now: NodeTime) -> Option<LaneId> {
        if !self.has_free_batch(now) {
            return None;
        }
        let lane = self.ready.pop_front()?;
        if let Some(lane_state) = self.get_mut(lane) {
            lane_state.ready = false;
        }
        Some(lane)
    }

    /// Lets lanes whose clock is unknown ask for it: all whose primary replies, and one whose primary does not.
    pub fn probe_clocks(&mut self) {
        let count = u16::try_from(self.each.len()).unwrap_or(u16::MAX);
        let (first, mut failing) = (self.next_probe, None);
        for lane in (0..count).map(|at| LaneId((first + at) % count)) {
            let Some(lane_state) = self.get(lane).filter(|lane_state| !lane_state.clock.is_known()) else { continue };
            if !lane_state.failing {
                self.make_ready(lane);
            } else if failing.is_none() {
                failing = Some(lane);
            }
        }
        if let Some(lane) = failing {
            self.next_probe = lane.0 + 1;
            self.make_ready(lane);
        }
    }

    /// Takes the key that is queued longest.
    pub fn pop(&mut self, lane: LaneId) -> Option<SlotId> {
        self.get_mut(lane)?.queue.pop_front()
    }

    pub fn mark_sent(&mut self, lane: LaneId, batch: InFlight) {
        if let Some(lane_state) = self.get_mut(lane) {
            let first = lane_state.in_flight.replace(batch).is_none();
            self.in_flight += usize::from(first);
        }
    }

    /// Ends the flight of a batch. It ran at `ran` by the primary's clock, or got no reply. `late` says that it came
    /// after its `not_after` and did nothing. Returns `None` if the batch is not in flight.
    pub fn complete(
        &mut self,
        lane: LaneId,
        batch: BatchId,
        ran: Option<StoreTime>,
        late: bool,
        now: NodeTime,
    ) -> Option<InFlight> {
        let lane_state = self.get_mut(lane)?;
        let sent = lane_state.in_flight.take_if(|sent| sent.batch == batch)?;
        lane_state.failing = ran.is_none();
        if let Some(ran) = ran {
            if late {
                // Another server has the lane now, or the estimate of its clock is wrong.
                lane_state.clock.forget();
            }
            lane_state.clock.learn(sent.sent, now, ran);
        }
        self.in_flight -= 1;
        self.make_ready_if_queued(lane);
        Some(sent)
    }

    /// The primary replied and could serve no key of the batch.
    pub fn mark_failing(&mut self, lane: LaneId) {
        if let Some(lane_state) = self.get_mut(lane) {
            lane_state.failing = true;
        }
    }

    /// True if the last batch got no reply, or none of its keys could be served.
    pub fn is_failing(&self, lane: LaneId) -> bool {
        self.get(lane).is_some_and(|lane_state| lane_state.failing)
    }

    /// The estimated time of the store.
    pub fn store_now(&self, lane: LaneId, now: NodeTime) -> StoreTime {
        self.get(lane).map_or(StoreTime(0), |lane_state| lane_state.clock.at(now))
    }

    /// True if the store has answered once.
    pub fn is_clock_known(&self, lane: LaneId) -> bool {
        self.get(lane).is_some_and(|lane_state| lane_state.clock.is_known())
    }

    /// The store's time when the node's is `at`; `None` until the store has answered.
    pub fn store_time_of(&self, lane: LaneId, at: NodeTime) -> Option<StoreTime> {
        self.get(lane).filter(|lane_state| lane_state.clock.is_known()).map(|lane_state| lane_state.clock.at(at))
    }

    fn make_ready_if_queued(&mut self, lane: LaneId) {
        if self.get(lane).is_some_and(|lane_state| !lane_state.queue.is_empty()) {
            self.make_ready(lane);
        }
    }

    fn make_ready(&mut self, lane: LaneId) {
        let Some(lane_state) = self.get_mut(lane) else { return };
        if lane_state.in_flight.is_none() && !std::mem::replace(&mut lane_state.ready, true) {
            self.ready.push_back(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: WallTime = WallTime(0);

    fn send(lanes: &mut Lanes, lane: u16, batch: u64, now: NodeTime) {
        lanes.mark_sent(LaneId(lane), InFlight { batch: BatchId(batch), sent: now, slots: Vec::new() });
    }

    fn fail(lanes: &mut Lanes, lane: u16, batch: u64, now: NodeTime) -> bool {
        lanes.complete(LaneId(lane), BatchId(batch), None, false, now).is_some()
    }

    #[test]
    fn a_lane_has_one_batch_in_flight_and_does_not_block_other_lanes() {
        let mut lanes = Lanes::new(2, WALL, NodeTime(0), 100_000);
        lanes.queue(LaneId(0), SlotId(7));
        lanes.queue(LaneId(1), SlotId(8));
        let now = NodeTime(0);
        assert_eq!(lanes.take_ready(now), Some(LaneId(0)));
        assert_eq!(lanes.take_ready(now), Some(LaneId(1)));
        assert_eq!((lanes.pop(LaneId(0)), lanes.pop(LaneId(1))), (Some(SlotId(7)), Some(SlotId(8))));
        send(&mut lanes, 0, 1, now);
        lanes.queue(LaneId(0), SlotId(9));
        assert!(!lanes.can_send(now) && !lanes.are_quiet());
        assert!(!fail(&mut lanes, 0, 99, NodeTime(5)), "batch 99 is not in flight");
        assert!(fail(&mut lanes, 0, 1, NodeTime(5)));
        assert_eq!(lanes.take_ready(now), Some(LaneId(0)));
    }

    #[test]
    fn a_quarter_of_the_lanes_may_be_in_flight_and_stalled_lanes_do_not_count() {
        let mut lanes = Lanes::new(8, WALL, NodeTime(0), 100_000);
        (0..8).for_each(|lane| lanes.queue(LaneId(lane), SlotId(7)));
        let now = NodeTime(1000);
        for lane in 0..2 {
            assert_eq!(lanes.take_ready(now), Some(LaneId(lane)));
            lanes.pop(LaneId(lane));
            send(&mut lanes, lane, lane.into(), now);
        }
        assert!(lanes.take_ready(now).is_none() && !lanes.can_send(now), "a quarter of the lanes is in flight");
        let later = now.plus(STALLED_AFTER_US);
        assert!(lanes.can_send(later), "both batches have stalled");
        assert_eq!(lanes.take_ready(later), Some(LaneId(2)));
        lanes.pop(LaneId(2));
        send(&mut lanes, 2, 2, later);
        fail(&mut lanes, 0, 0, later);
        lanes.queue(LaneId(0), SlotId(7));
        assert_eq!(lanes.take_ready(later), Some(LaneId(3)));
        send(&mut lanes, 3, 3, later);
        assert!(!lanes.can_send(later));
        // A failing lane does not count.
        fail(&mut lanes, 3, 3, later);
        send(&mut lanes, 3, 3, later);
        assert!(lanes.can_send(later));
    }

    /// Lanes of which none is ready or in flight.
    fn idle(count: u16) -> Lanes {
        let mut lanes = Lanes::new(count, WALL, NodeTime(0), 100_000);
        assert_eq!(take_all(&mut lanes).len(), usize::from(count));
        lanes
    }

    /// Takes every lane that is ready while none is in flight.
    fn take_all(lanes: &mut Lanes) -> Vec<u16> {
        std::iter::from_fn(|| lanes.take_ready(NodeTime(0))).map(|lane| lane.0).collect()
    }

    #[test]
    fn a_lane_is_ready_once_however_many_keys_it_has_and_not_while_it_is_in_flight() {
        let mut lanes = idle(8);
        [7, 8].into_iter().for_each(|slot| lanes.queue(LaneId(3), SlotId(slot)));
        assert_eq!(take_all(&mut lanes), [3]);
        send(&mut lanes, 3, 1, NodeTime(0));
        lanes.queue(LaneId(3), SlotId(9));
        assert!(take_all(&mut lanes).is_empty());
        assert!(fail(&mut lanes, 3, 1, NodeTime(0)));
        assert_eq!(take_all(&mut lanes), [3]);
    }

    #[test]
    fn a_lane_that_is_ready_waits_while_too_many_are_in_flight() {
        let now = NodeTime(0);
        let mut lanes = idle(2);
        assert_eq!(lanes.send_delay(now), None, "no lane is ready");
        lanes.queue(LaneId(1), SlotId(7));
        assert_eq!(lanes.send_delay(now), None, "it can send at once");
        send(&mut lanes, 0, 1, now);
        assert_eq!(lanes.send_delay(now), Some(2_000));
        assert_eq!(lanes.send_delay(NodeTime(2_000)), None, "the batch has stalled");
        let mut lanes = idle(2);
        send(&mut lanes, 0, 1, now);
        assert_eq!(lanes.send_delay(now), None, "no lane is ready");
    }

    #[test]
    fn lanes_whose_clock_is_unknown_ask_for_it_and_those_that_fail_take_turns() {
        let mut lanes = idle(4);
        // Lane 0 knows its clock, and lane 1 had a reply that says nothing of it: the node's clock leapt meanwhile.
        for (lane, received) in [(0, 10), (1, 10_000_000)] {
            send(&mut lanes, lane, 1, NodeTime(0));
            lanes.complete(LaneId(lane), BatchId(1), Some(StoreTime(1_000_000)), false, NodeTime(received));
        }
        for lane in [2, 3] {
            send(&mut lanes, lane, 1, NodeTime(0));
            fail(&mut lanes, lane, 1, NodeTime(10));
        }
        assert!(take_all(&mut lanes).is_empty());
        for ready in [[1, 2], [1, 3], [1, 2], [1, 3]] {
            lanes.probe_clocks();
            assert_eq!(take_all(&mut lanes), ready);
        }
    }

    #[test]
    fn the_reply_to_a_late_batch_sets_the_clock_despite_a_long_round_trip() {
        let mut lanes = Lanes::new(1, WALL, NodeTime(0), 100_000);
        let mut round_trip = |batch, sent: u64, received: u64, ran: u64, late| {
            send(&mut lanes, 0, batch, NodeTime(sent));
            lanes.complete(LaneId(0), BatchId(batch), Some(StoreTime(ran)), late, NodeTime(received));
            lanes.store_now(LaneId(0), NodeTime(received)).0
        };
        assert_eq!(round_trip(1, 0, 10, 1_000_000, false), 1_000_005);
        assert!(
            round_trip(2, 100, 2000, 9_000_000, false) < 1_100_000,
            "a sample with a long round trip does not replace one with a short round trip"
        );
        assert!(
            round_trip(3, 3000, 5000, 9_000_000, true) >= 9_000_000,
            "the late batch shows that another server has another clock"
        );
    }
}
