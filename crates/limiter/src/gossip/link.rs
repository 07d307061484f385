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
    /// told again, and this returns true. An acknowledgement that took longer than `slow_us` is slow, one that took at
    /// most half of that is fast.
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
mod tests;
