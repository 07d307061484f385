//! What a node knows of its talk to one other region: what it has told, and whether it is heard.

use std::collections::{BTreeMap, VecDeque};

use crate::time::NodeTime;

/// The most messages that wait for their acknowledgement at a time. At the usual interval they are those of 3 seconds.
const MAX_IN_FLIGHT: usize = 32;
/// The most of them that have reports.
const MAX_TELLING: usize = 4;
/// Memories that are kept. A region has fewer nodes.
const MAX_MEMORIES: usize = 64;
/// The bytes of reports in a message, at first and at the least. Each fast acknowledgement doubles them. Each slow one
/// and each failure halves them, so that a region that cannot keep up is not told again and again what it has no time
/// for.
const FIRST_BUDGET: usize = 1 << 18;
const MIN_BUDGET: usize = 1 << 12;
const MAX_BUDGET: usize = 1 << 20;

/// The talk of a node to one other region.
///
/// The region is **partitioned** once a message has waited for its acknowledgement for `partition_after`, and none that
/// was sent later is acknowledged. It stays partitioned until acknowledgements have come for as long again and
/// everything that changed meanwhile is told. So a link that fails again and again stays partitioned.
#[derive(Debug)]
pub struct Link {
    /// All changes up to this version are in messages that were sent and have not failed.
    told: u64,
    in_flight: BTreeMap<u64, InFlight>,
    last_number: u64,
    /// The bytes of reports in the next message.
    budget: usize,
    last_sent: Option<NodeTime>,
    /// When the oldest message was sent of those that wait, if none that was sent later is acknowledged.
    unheard_since: Option<NodeTime>,
    /// When the last message was sent that is acknowledged, and how long its acknowledgement took, in microseconds.
    heard: Option<(NodeTime, u64)>,
    partitioned_since: Option<NodeTime>,
    /// Since when acknowledgements have come without a pause, while the region is still partitioned.
    heals_since: Option<NodeTime>,
    /// Since when the region says that a third region does not hear it.
    says_partitioned_since: Option<NodeTime>,
    /// The memories that acknowledgements have named, the latest last. A new one makes the link tell everything again.
    memories: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    sent: NodeTime,
    /// The version before the first change that the message tells.
    after: u64,
    /// It has reports.
    tells: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            told: 0,
            in_flight: BTreeMap::new(),
            last_number: 0,
            budget: FIRST_BUDGET,
            last_sent: None,
            unheard_since: None,
            heard: None,
            partitioned_since: None,
            heals_since: None,
            says_partitioned_since: None,
            memories: VecDeque::new(),
        }
    }
}

impl Link {
    /// The version up to which everything is told.
    pub const fn told(&self) -> u64 {
        self.told
    }

    /// True if a message may be sent now.
    pub fn may_send(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    /// About how many bytes of reports may be told now; 0 if the region must acknowledge some first.
    pub fn budget(&self) -> usize {
        let telling = self.in_flight.values().filter(|message| message.tells).count();
        if telling < MAX_TELLING { self.budget } else { 0 }
    }

    /// True if nothing was sent for `pause_us`.
    pub fn is_quiet(&self, pause_us: u64, now: NodeTime) -> bool {
        self.last_sent.is_none_or(|sent| now.since(sent) >= pause_us)
    }

    /// A message leaves that tells the changes up to `version`. Returns its number.
    pub fn send(&mut self, version: u64, now: NodeTime) -> u64 {
        self.last_number += 1;
        self.in_flight.insert(self.last_number, InFlight { sent: now, after: self.told, tells: version > self.told });
        self.told = self.told.max(version);
        self.last_sent = Some(now);
        self.unheard_since.get_or_insert(now);
        self.last_number
    }

    /// A message is acknowledged by a node with a [memory](super::Inbox::memory). If the memory is new, everything is
    /// told again, and this returns true. An acknowledgement that took longer than `slow_us` is slow, one that took
    /// less than half of that is fast.
    pub fn acknowledge(&mut self, number: u64, memory: u64, slow_us: u64, now: NodeTime) -> bool {
        let known = self.memories.iter().position(|known| *known == memory).and_then(|at| self.memories.remove(at));
        let is_new = known.is_none();
        if is_new {
            self.told = 0;
            if self.memories.len() == MAX_MEMORIES {
                self.memories.pop_front();
            }
        }
        self.memories.push_back(memory);
        let Some(InFlight { sent, tells, .. }) = self.in_flight.remove(&number) else { return is_new };
        let took_us = now.since(sent);
        if tells && took_us > slow_us {
            self.budget = (self.budget / 2).max(MIN_BUDGET);
        } else if tells && took_us <= slow_us / 2 {
            self.budget = (self.budget * 2).min(MAX_BUDGET);
        }
        if self.heard.is_none_or(|(last, _)| last < sent) {
            self.heard = Some((sent, took_us));
        }
        let later = self.in_flight.values().map(|waits| waits.sent).filter(|waits| *waits > sent);
        self.unheard_since = later.min();
        if self.partitioned_since.is_some() {
            self.heals_since.get_or_insert(now);
        }
        is_new
    }

    /// A message is lost, or its outcome is unknown: it is told again.
    pub fn fail(&mut self, number: u64) {
        if let Some(InFlight { after, .. }) = self.in_flight.remove(&number) {
            self.budget = (self.budget / 2).max(MIN_BUDGET);
            self.told = self.told.min(after);
        }
    }

    /// Notices that the region became partitioned, or that it is no more. `all_told` is true if nothing is left to
    /// tell.
    pub fn judge(&mut self, partition_after_us: u64, all_told: bool, now: NodeTime) {
        let unheard_us = self.unheard_since.map_or(0, |since| now.since(since));
        if unheard_us >= partition_after_us {
            self.heals_since = None;
            self.partitioned_since.get_or_insert(now);
            return;
        }
        let healed = self.heals_since.is_some_and(|since| now.since(since) >= partition_after_us);
        if healed && all_told {
            (self.partitioned_since, self.heals_since) = (None, None);
        }
    }

    /// When the region became partitioned; `None` if it is not.
    pub const fn partitioned_since(&self) -> Option<NodeTime> {
        self.partitioned_since
    }

    /// The region says, in the acknowledgement of a message, whether a third region does not hear it. What it says
    /// of an earlier message than the last that it acknowledged is old. Call this before [`Self::acknowledge`].
    pub fn hear_partitioned(&mut self, number: u64, partitioned: bool, now: NodeTime) {
        let Some(message) = self.in_flight.get(&number) else { return };
        if self.heard.is_some_and(|(last, _)| last > message.sent) {
            return;
        }
        self.says_partitioned_since = partitioned.then(|| self.says_partitioned_since.unwrap_or(now));
    }

    /// Since when the region says that a third region does not hear it; `None` if it says no such thing.
    pub const fn says_partitioned_since(&self) -> Option<NodeTime> {
        self.says_partitioned_since
    }

    /// Microseconds since the last message was sent that the region has acknowledged; `None` if there is none.
    pub fn heard_us_ago(&self, now: NodeTime) -> Option<u64> {
        self.heard.map(|(sent, _)| now.since(sent))
    }

    /// How long the last acknowledgement took, in microseconds.
    pub fn round_trip_us(&self) -> Option<u64> {
        self.heard.map(|(_, took)| took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: u64 = 2_000_000;
    const SLOW: u64 = 500_000;
    const MEMORY: u64 = 7;

    fn at(ms: u64) -> NodeTime {
        NodeTime(ms * 1000)
    }

    /// A link to a region whose node has met this one.
    fn link() -> Link {
        Link { memories: VecDeque::from([MEMORY]), ..Link::default() }
    }

    #[test]
    fn a_lost_message_is_told_again_and_later_ones_need_not_wait() {
        let mut link = link();
        let (first, second) = (link.send(5, at(0)), link.send(9, at(100)));
        assert_eq!(link.told(), 9);
        link.acknowledge(second, MEMORY, SLOW, at(200));
        link.fail(first);
        assert_eq!(link.told(), 0);
        let third = link.send(9, at(300));
        link.acknowledge(third, MEMORY, SLOW, at(400));
        assert_eq!(link.told(), 9);
    }

    #[test]
    fn a_region_that_has_forgotten_is_told_everything_again_even_if_its_first_acknowledgement_is_lost() {
        let mut link = link();
        let [first, lost, second, third] = [5, 6, 7, 8].map(|version| link.send(version, at(0)));
        link.acknowledge(first, MEMORY, SLOW, at(100));
        link.fail(lost);
        assert_eq!(link.told(), 5);
        link.acknowledge(second, MEMORY + 1, SLOW, at(200));
        assert_eq!(link.told(), 0, "it tells that it has forgotten");
        link.send(8, at(300));
        link.acknowledge(third, MEMORY + 1, SLOW, at(400));
        assert_eq!(link.told(), 8, "once is enough");
        let fourth = link.send(9, at(500));
        link.acknowledge(fourth, MEMORY, SLOW, at(600));
        assert_eq!(link.told(), 9, "a memory that the link knows");
    }

    #[test]
    fn a_link_keeps_few_memories() {
        let mut link = link();
        for memory in 0..1000 {
            let number = link.send(1, at(0));
            link.acknowledge(number, memory, SLOW, at(100));
        }
        assert_eq!(link.memories.len(), MAX_MEMORIES);
        // One that is met again and again is kept.
        let is_new = |link: &mut Link, memory| {
            let number = link.send(1, at(200));
            link.acknowledge(number, memory, SLOW, at(300))
        };
        assert!((1000..2000).all(|memory| is_new(&mut link, memory) && !is_new(&mut link, 999)));
    }

    #[test]
    fn a_region_that_cannot_keep_up_is_told_less_at_a_time() {
        let mut link = link();
        let numbers: Vec<u64> = (1..=4).map(|version| link.send(version, at(0))).collect();
        assert_eq!(link.budget(), 0, "four messages wait");
        link.send(4, at(100));
        assert!(link.may_send(), "it may still be asked whether it hears");
        numbers.iter().for_each(|number| link.fail(*number));
        assert_eq!(link.budget(), FIRST_BUDGET / 16);
        for version in 5..15 {
            let number = link.send(version, at(200));
            link.acknowledge(number, MEMORY, SLOW, at(300));
        }
        assert_eq!(link.budget(), MAX_BUDGET);
        for (took_ms, budget) in [(400, MAX_BUDGET), (600, MAX_BUDGET / 2), (600, MAX_BUDGET / 4)] {
            let number = link.send(link.told() + 1, at(1000));
            link.acknowledge(number, MEMORY, SLOW, at(1000 + took_ms));
            assert_eq!(link.budget(), budget, "{took_ms} ms");
        }
    }

    #[test]
    fn a_region_that_acknowledges_nothing_is_partitioned_even_if_messages_fail_at_once() {
        let mut link = link();
        for ms in (0..2000).step_by(100) {
            let number = link.send(1, at(ms));
            link.fail(number);
            link.judge(AFTER, false, at(ms));
            assert_eq!(link.partitioned_since(), None);
        }
        link.judge(AFTER, false, at(2000));
        assert_eq!(link.partitioned_since(), Some(at(2000)));
    }

    #[test]
    fn a_partition_ends_after_acknowledgements_have_come_for_a_while_and_all_is_told() {
        let mut link = link();
        link.send(1, at(0));
        link.judge(AFTER, true, at(2000));
        for ms in (3000..5000).step_by(100) {
            let number = link.send(1, at(ms));
            link.acknowledge(number, MEMORY, SLOW, at(ms + 50));
            link.judge(AFTER, true, at(ms + 50));
            assert!(link.partitioned_since().is_some(), "{ms}");
        }
        link.judge(AFTER, false, at(5100));
        assert!(link.partitioned_since().is_some(), "something is left to tell");
        link.judge(AFTER, true, at(5100));
        assert_eq!(link.partitioned_since(), None);
    }

    #[test]
    fn a_region_says_that_it_is_partitioned_until_it_says_later_that_it_is_not() {
        let mut link = link();
        let says = |link: &mut Link, number, partitioned, ms| {
            link.hear_partitioned(number, partitioned, at(ms));
            link.acknowledge(number, MEMORY, SLOW, at(ms));
            link.says_partitioned_since()
        };
        let [first, second, third, fourth] = [0, 100, 200, 300].map(|ms| link.send(1, at(ms)));
        assert_eq!(says(&mut link, second, true, 400), Some(at(400)));
        assert_eq!(says(&mut link, first, false, 500), Some(at(400)), "an earlier message");
        assert_eq!(says(&mut link, third, true, 600), Some(at(400)));
        assert_eq!(says(&mut link, fourth, false, 700), None);
        assert_eq!(says(&mut link, second, true, 800), None, "an acknowledgement that came twice");
    }

    #[test]
    fn a_link_that_fails_again_and_again_stays_partitioned() {
        let mut link = link();
        link.send(1, at(0));
        link.judge(AFTER, true, at(2000));
        for second in 3..60 {
            // One acknowledgement, then nothing for three seconds.
            if second % 3 == 0 {
                let number = link.send(1, at(second * 1000));
                link.acknowledge(number, MEMORY, SLOW, at(second * 1000 + 1));
                link.send(1, at(second * 1000 + 2));
            }
            link.judge(AFTER, true, at(second * 1000 + 500));
            assert!(link.partitioned_since().is_some(), "{second}");
        }
    }
}
