//! What a node has to tell the other regions.

use std::collections::BTreeMap;

use super::changes::Changes;
use super::link::Link;
use super::report::Report;
use crate::ids::RegionNumber;
use crate::time::NodeTime;

/// Keys that are checked for their end at each interval.
const SWEEP: usize = 20_000;
/// The longest way there and back takes less.
const MIN_SLOW_US: u64 = 250_000;

/// The settings of gossip.
#[derive(Clone, Copy, Debug)]
pub struct GossipConfig {
    /// A region is partitioned if it acknowledges nothing for so long, in microseconds.
    pub partition_after_us: u64,
    /// The most keys that are kept to be told.
    pub max_keys: usize,
    /// About the most bytes of reports in one message.
    pub max_bytes: usize,
    /// Random: they seed hashes.
    pub seeds: [u64; 4],
}

impl GossipConfig {
    /// A message that takes longer has waited for the store of its region. It is half of the time that a message gets.
    fn slow_us(&self) -> u64 {
        (self.partition_after_us / 4).max(MIN_SLOW_US)
    }
}

/// A message to another region. An empty one asks whether the region hears this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub to: RegionNumber,
    /// It names the message in its acknowledgement.
    pub number: u64,
    pub reports: Vec<Report>,
}

/// What a node has to tell the other regions, and how far it has told each.
#[derive(Debug)]
pub struct Outbox {
    config: GossipConfig,
    changes: Changes,
    links: BTreeMap<RegionNumber, Link>,
    /// The last change before the last interval began. A busy region always has newer ones.
    changed_before: u64,
    dropped: u64,
}

/// The numbers that a node reports of its outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Keys that are kept to be told.
    pub keys: usize,
    /// Reports that found no room.
    pub dropped: u64,
}

impl Outbox {
    pub fn new(config: GossipConfig, regions: impl IntoIterator<Item = RegionNumber>) -> Self {
        let links = regions.into_iter().map(|region| (region, Link::default())).collect();
        Self { config, changes: Changes::new(config.max_keys, config.seeds), links, changed_before: 0, dropped: 0 }
    }

    /// Sets the other regions. A new one is told everything.
    pub fn set_regions(&mut self, regions: impl IntoIterator<Item = RegionNumber>) {
        let mut before = std::mem::take(&mut self.links);
        let links = regions.into_iter().map(|region| (region, before.remove(&region).unwrap_or_default()));
        self.links = links.collect();
    }

    /// Takes what the region counted of a key, of which nothing counts from `ends` on.
    pub fn note(&mut self, report: Report, ends: NodeTime) {
        let told = self.links.values().map(Link::told).max().unwrap_or(0);
        if !self.changes.note(report, ends, told) {
            self.dropped += 1;
        }
    }

    /// The messages of this interval, at most one for each region.
    pub fn tick(&mut self, now: NodeTime) -> Vec<Message> {
        self.changes.sweep(SWEEP, now);
        let keep_alive_us = self.config.partition_after_us / 4;
        let mut messages = Vec::new();
        for (to, link) in &mut self.links {
            let all_told = !self.changes.has_between(link.told(), self.changed_before);
            link.judge(self.config.partition_after_us, all_told, now);
            let budget = link.budget().min(self.config.max_bytes);
            let has_news = budget > 0 && self.changes.has_after(link.told());
            if !link.may_send() || !has_news && !link.is_quiet(keep_alive_us, now) {
                continue;
            }
            let (reports, version) = self.changes.after(link.told(), budget);
            let number = link.send(version, now);
            messages.push(Message { to: *to, number, reports });
        }
        self.changed_before = self.changes.last_version();
        messages
    }

    /// A node of a region acknowledges a message. `memory` names what it remembers
    /// ([`Inbox::memory`](super::Inbox::memory)). Returns true if it may have forgotten what it was told, so everything
    /// is told again.
    pub fn acknowledge(&mut self, from: RegionNumber, number: u64, memory: u64, now: NodeTime) -> bool {
        let slow_us = self.config.slow_us();
        self.links.get_mut(&from).is_some_and(|link| link.acknowledge(number, memory, slow_us, now))
    }

    /// A region says, in the acknowledgement of a message, whether a third region does not hear it. Call this
    /// before [`Self::acknowledge`].
    pub fn hear_partitioned(&mut self, from: RegionNumber, number: u64, partitioned: bool, now: NodeTime) {
        if let Some(link) = self.links.get_mut(&from) {
            link.hear_partitioned(number, partitioned, now);
        }
    }

    /// A region could not store the report of a key: it is told again, to every region.
    pub fn retell(&mut self, key: &[u8]) {
        self.changes.touch(key);
    }

    /// A message is lost, or its outcome is unknown.
    pub fn fail(&mut self, to: RegionNumber, number: u64) {
        if let Some(link) = self.links.get_mut(&to) {
            link.fail(number);
        }
    }

    /// True if there is no other region.
    pub fn is_alone(&self) -> bool {
        self.links.is_empty()
    }

    /// The talk to each region, with the number of keys of which it is not told the newest.
    pub fn links(&self) -> impl Iterator<Item = (RegionNumber, &Link, usize)> {
        self.links.iter().map(|(region, link)| (*region, link, self.changes.count_after(link.told())))
    }

    /// The regions that do not hear this node.
    pub fn partitioned(&self) -> impl Iterator<Item = RegionNumber> {
        self.links.iter().filter(|(_, link)| link.partitioned_since().is_some()).map(|(region, _)| *region)
    }

    /// When the first of the regions that are partitioned now became so. Regions count that are partitioned from each
    /// other: what they may admit without each other is a part of what is left, so this region gets no more than its
    /// own.
    pub fn partitioned_since(&self) -> Option<NodeTime> {
        let since = |link: &Link| [link.partitioned_since(), link.says_partitioned_since()].into_iter().flatten().min();
        self.links.values().filter_map(since).min()
    }

    pub fn stats(&self) -> OutboxStats {
        OutboxStats { keys: self.changes.len(), dropped: self.dropped }
    }
}

#[cfg(test)]
mod tests;
