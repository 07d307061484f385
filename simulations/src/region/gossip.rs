//! Gossip of a region's nodes: what they tell other regions, and what other regions tell them.

use std::collections::{BTreeMap, BTreeSet};

use super::Region;
use super::rights::Answering;
use crate::context::{Context, Event, PacketKind, RegionAck, RegionMessage};
use crate::ids::{Boot, CoreIndex, Instant, NodeId, NodeIndex, RegionIndex};
use crate::links;
use crate::rng::Rng;
use crate::scenario::{GossipSettings, Plan};
use counter_script::Tags;
use limiter::counter::{Batch, BatchOutcome, Counter, Given, Grid, Item, ItemReply, Take};
use limiter::escrow::{Question, Requests};
use limiter::gossip::{GossipConfig, Inbox, Outbox, Report, ranked};
use limiter::{BatchId, Event as ShardEvent, HolderId, LaneId, MAX_ITEMS, NodeTime, RegionNumber, Regions, Reply};

/// The most counters of which a node keeps what it has to tell.
const MAX_TOLD_KEYS: usize = 10_000;
/// A node that did not answer is avoided for so long, in microseconds.
pub const AVOIDED_FOR_US: u64 = 2_000_000;
/// Names that are tried for the probe of each lane, times the lanes.
const PROBE_NAMES: usize = 64;

/// The gossip of one node.
pub struct Gossiper {
    outbox: Outbox,
    inbox: Inbox,
    pub(super) requests: Requests,
    /// The questions for rights that have no answer yet, by number.
    pub(super) asked: BTreeMap<u64, Question>,
    pub(super) last_question: u64,
    /// The questions of other regions that are being answered, by number.
    pub(super) answering: BTreeMap<u64, Answering>,
    pub(super) last_answer: u64,
    /// Nodes of other regions that did not answer, with the end of the time for which they are avoided.
    pub(super) avoided: BTreeMap<NodeId, Instant>,
    /// The messages to other regions that are neither acknowledged nor overdue.
    unacknowledged: BTreeSet<(RegionIndex, u64)>,
    /// The messages whose counts are being written, by number.
    imports: BTreeMap<u64, Import>,
    last_import: u64,
    /// Names the node's imports to the store.
    pub(super) holder: HolderId,
    pub(super) last_batch: BatchId,
    /// When the node noticed that another region does not hear it, as its shards know it.
    partitioned_since: Option<NodeTime>,
}

/// A message of another region whose counts are being written.
struct Import {
    message: RegionMessage,
    /// The batches that have no reply yet, with their keys.
    waiting: BTreeMap<BatchId, Vec<Box<[u8]>>>,
    /// The keys that could not be stored.
    failed: Vec<Box<[u8]>>,
    /// The number of keys that were stored.
    stored: usize,
}

impl Gossiper {
    pub fn new(plan: &Plan, region: RegionIndex, rng: &mut Rng) -> Self {
        let config = GossipConfig {
            partition_after_us: plan.gossip.partition_after_us,
            max_keys: MAX_TOLD_KEYS,
            max_bytes: plan.gossip.max_bytes,
            seeds: std::array::from_fn(|_| rng.any()),
        };
        let others = plan.regions.indices().filter(|other| *other != region);
        let mut requests = Requests::new(MAX_TOLD_KEYS, config.seeds);
        requests.set_regions(others.clone().map(number_of));
        Self {
            outbox: Outbox::new(config, others.map(number_of)),
            inbox: Inbox::new(rng.any(), config.partition_after_us),
            requests,
            asked: BTreeMap::new(),
            last_question: 0,
            answering: BTreeMap::new(),
            last_answer: 0,
            avoided: BTreeMap::new(),
            unacknowledged: BTreeSet::new(),
            imports: BTreeMap::new(),
            last_import: 0,
            holder: HolderId(rng.any() >> 24),
            last_batch: BatchId(0),
            partitioned_since: None,
        }
    }
}

/// Returns the number by which counters name a region.
pub fn number_of(region: RegionIndex) -> RegionNumber {
    RegionNumber::of(&region.name())
}

fn name_of(node: NodeId) -> String {
    format!("region-{}-node-{}", node.region, node.node)
}

impl Region {
    /// Begins the gossip of a node that starts.
    pub(super) fn begin_gossip(&mut self, cx: &mut Context<'_>, node: NodeIndex) {
        if cx.plan.regions.count() < 2 {
            return;
        }
        self.gossipers.insert(node, Gossiper::new(&cx.plan, self.index, &mut cx.rng.links));
        let id = NodeId { region: self.index, node };
        let jitter = cx.rng.links.between(0, cx.plan.gossip.interval_us);
        let boot = self.boot_of(&cx.plan, node);
        cx.schedule_in(jitter, Event::GossipTick { node: id, boot });
        self.cores_of(&cx.plan, node).for_each(|core| self.tell_core_of_regions(cx, core));
        if cx.plan.has_escrow() {
            self.visit_lanes(cx, node);
        }
    }

    /// Returns a node's gossip, unless the node is dead or was restarted since `boot`.
    pub(super) fn gossiper(&mut self, plan: &Plan, node: NodeIndex, boot: Boot) -> Option<&mut Gossiper> {
        let first = first_core(plan, node);
        self.gossipers.get_mut(&node).filter(|_| self.cores[first.0].is_running(boot))
    }

    pub(super) fn boot_of(&self, plan: &Plan, node: NodeIndex) -> Boot {
        self.cores[first_core(plan, node).0].boot
    }

    /// Returns the time of a node, which is that of its first core.
    pub(super) fn node_time(&self, cx: &Context<'_>, node: NodeIndex) -> NodeTime {
        self.cores[first_core(&cx.plan, node).0].clock(cx.now)
    }

    /// Sends the messages of an interval.
    pub fn gossip_tick(&mut self, cx: &mut Context<'_>, node: NodeIndex, boot: Boot) {
        let (now, region) = (self.node_time(cx, node), self.index);
        let from = NodeId { region, node };
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        for message in gossiper.outbox.tick(now) {
            let Some(other) = cx.plan.regions.indices().find(|other| number_of(*other) == message.to) else { continue };
            let to =
                receiver(&cx.plan, from, other, |node| gossiper.avoided.get(node).is_none_or(|end| *end <= cx.now));
            let number = message.number;
            gossiper.unacknowledged.insert((other, number));
            let mut message = RegionMessage { from, boot, to, number, reports: message.reports };
            cx.bugs.alter_region_message(&mut message);
            let keys = message.reports.len();
            cx.trace_in(region, |_| format!("node {node} tells region {other} of {keys} counters, message {number}"));
            cx.schedule_in(
                cx.plan.message_timeout_us(region, other),
                Event::AckOverdue { node: from, boot, receiver: to, number },
            );
            links::send(cx, region, other, || Event::MessageArrives(message.clone()));
        }
        cx.schedule_in(cx.plan.gossip.interval_us, Event::GossipTick { node: from, boot });
        self.notice_partitions(cx, node);
    }

    /// Writes the counts of another region to the store. The message is acknowledged when all batches have ended.
    pub fn receive_message(&mut self, cx: &mut Context<'_>, message: RegionMessage) {
        let RegionMessage { from, to: NodeId { node, .. }, number, .. } = message;
        let boot = self.boot_of(&cx.plan, node);
        let (now, probes) = (self.node_time(cx, node), self.probes.clone());
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        let looks = gossiper.inbox.looks_at_lanes(message.reports.is_empty(), now);
        let mut items = if looks { probes } else { Vec::new() };
        let reports = message.reports.iter().cloned();
        items.extend(reports.filter_map(|report| gossiper.inbox.import(number_of(from.region), report)));
        let lanes = self.by_lane(items);
        let Some(gossiper) = self.gossipers.get_mut(&node) else { return };
        gossiper.last_import += 1;
        let (import, holder) = (gossiper.last_import, gossiper.holder);
        let mut batch = |(lane, items)| {
            gossiper.last_batch.0 += 1;
            (lane, Batch { not_after: None, holder, id: gossiper.last_batch, items })
        };
        let batches: Vec<(LaneId, Batch)> = lanes.into_iter().map(&mut batch).collect();
        let keys = |batch: &Batch| batch.items.iter().map(|item| item.key.clone()).collect();
        let waiting = batches.iter().map(|(_, batch)| (batch.id, keys(batch))).collect();
        gossiper.imports.insert(import, Import { message, waiting, failed: Vec::new(), stored: 0 });
        cx.trace_in(self.index, |_| format!("node {node} imports message {number} of region {}", from.region));
        self.send_batches(cx, node, batches, PacketKind::Import(import));
    }

    /// Returns the items of each batch.
    pub(super) fn by_lane(&self, items: Vec<Item>) -> Vec<(LaneId, Vec<Item>)> {
        let mut lanes: BTreeMap<LaneId, Vec<Item>> = BTreeMap::new();
        for item in items {
            lanes.entry(self.lane_of(&item.key)).or_default().push(item);
        }
        let batches = lanes
            .into_iter()
            .flat_map(|(lane, items)| items.chunks(MAX_ITEMS).map(|items| (lane, items.to_vec())).collect::<Vec<_>>());
        batches.collect()
    }

    /// Handles the reply to a batch of a node, or that there is none in time.
    pub fn receive_node_reply(
        &mut self,
        cx: &mut Context<'_>,
        core: CoreIndex,
        boot: Boot,
        kind: PacketKind,
        reply: Reply,
    ) {
        match kind {
            PacketKind::Import(import) => self.receive_import_reply(cx, core, boot, import, reply),
            PacketKind::Give(answer) => self.receive_give_reply(cx, core, boot, answer, reply),
            // What the store does not take now comes with the next answer.
            PacketKind::Take | PacketKind::Shard => {}
        }
    }

    /// Handles the reply to a batch of an import, or that there is none in time.
    fn receive_import_reply(&mut self, cx: &mut Context<'_>, core: CoreIndex, boot: Boot, import: u64, reply: Reply) {
        let node = self.cores[core.0].node;
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        let Some(it) = gossiper.imports.get_mut(&import) else { return };
        let Some(keys) = it.waiting.remove(&reply.batch) else { return };
        let replies = match reply.result.map(|reply| reply.outcome) {
            Ok(BatchOutcome::Ran(replies)) => replies,
            Ok(BatchOutcome::Late) | Err(_) => Vec::new(),
        };
        gossiper.inbox.imported(reply.lane, &replies);
        let mut replies = replies.into_iter();
        for key in keys {
            match replies.next() {
                Some(ItemReply::Failed) | None => it.failed.push(key),
                Some(_) => it.stored += 1,
            }
        }
        if it.waiting.is_empty()
            && let Some(import) = gossiper.imports.remove(&import)
        {
            self.acknowledge(cx, import);
        }
    }

    /// Acknowledges a message. The sender gets no acknowledgement if nothing was stored.
    fn acknowledge(&mut self, cx: &mut Context<'_>, import: Import) {
        let Import { message, failed, stored, .. } = import;
        let RegionMessage { from: to, boot, to: from, number, .. } = message;
        let Some(gossiper) = self.gossipers.get_mut(&from.node).filter(|_| stored > 0) else { return };
        let memory = gossiper.inbox.memory();
        let partitioned = gossiper.outbox.partitioned().any(|third| third != number_of(to.region));
        let mut ack = RegionAck { from, to, boot, number, memory, failed, partitioned };
        cx.bugs.alter_region_ack(&mut ack);
        links::send(cx, from.region, to.region, || Event::AckArrives(ack.clone()));
    }

    /// Handles the acknowledgement of a message.
    pub fn receive_ack(&mut self, cx: &mut Context<'_>, ack: RegionAck) {
        let RegionAck { from, to: NodeId { node, .. }, boot, number, memory, failed, partitioned } = ack;
        let now = self.node_time(cx, node);
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        gossiper.unacknowledged.remove(&(from.region, number));
        failed.iter().for_each(|key| gossiper.outbox.retell(key));
        gossiper.outbox.hear_partitioned(number_of(from.region), number, partitioned, now);
        if gossiper.outbox.acknowledge(number_of(from.region), number, memory, now) {
            cx.trace_in(self.index, |_| format!("node {node} tells region {} everything again", from.region));
        }
        self.notice_partitions(cx, node);
    }

    /// Handles the end of the time for an acknowledgement. If it has not come, the node talks to another node there for
    /// a while.
    pub fn expire_message(&mut self, cx: &mut Context<'_>, node: NodeIndex, boot: Boot, receiver: NodeId, number: u64) {
        let until = cx.now + AVOIDED_FOR_US;
        let Some(gossiper) = self.gossiper(&cx.plan, node, boot) else { return };
        if gossiper.unacknowledged.remove(&(receiver.region, number)) {
            gossiper.outbox.fail(number_of(receiver.region), number);
            gossiper.avoided.insert(receiver, until);
        }
    }

    /// Notes what a core learned of counters that regions share.
    pub(super) fn note_reports(&mut self, cx: &mut Context<'_>, core: CoreIndex, reports: Vec<(Report, NodeTime)>) {
        let it = &self.cores[core.0];
        let (node, core_time) = (it.node, it.clock(cx.now));
        let now = self.node_time(cx, node);
        // The clocks of cores differ here.
        let Some(gossiper) = self.gossipers.get_mut(&node) else { return };
        for (report, ends) in reports {
            gossiper.outbox.note(report, now.plus(ends.since(core_time)));
        }
    }

    /// Tells the node's cores if it noticed the beginning or the end of a partition.
    fn notice_partitions(&mut self, cx: &mut Context<'_>, node: NodeIndex) {
        let Some(gossiper) = self.gossipers.get_mut(&node) else { return };
        let since = gossiper.outbox.partitioned_since();
        if std::mem::replace(&mut gossiper.partitioned_since, since) == since {
            return;
        }
        cx.trace_in(self.index, |_| {
            let word = if since.is_some() { "does not hear it" } else { "hears it again" };
            format!("node {node} notices that another region {word}")
        });
        self.cores_of(&cx.plan, node).for_each(|core| self.tell_core_of_regions(cx, core));
    }

    /// Tells a core what the node knows of the other regions.
    pub(super) fn tell_core_of_regions(&mut self, cx: &mut Context<'_>, core: CoreIndex) {
        let node = self.cores[core.0].node;
        let Some(gossiper) = self.gossipers.get(&node) else { return };
        let now = self.node_time(cx, node);
        let ago = gossiper.partitioned_since.map(|since| now.since(since));
        let partitioned_since = ago.map(|ago| NodeTime(self.cores[core.0].clock(cx.now).0.saturating_sub(ago)));
        let GossipSettings { floor_thousandths, .. } = cx.plan.gossip;
        let Some(part) = cx.plan.edits.get(self.cores[core.0].edit).map(|edit| edit.part_of(self.index)) else {
            return;
        };
        let regions = Regions { part, floor_thousandths, partitioned_since, rights: self.rights_plan(cx, core) };
        if cx.bugs.notices_partitions(self.id_of(core)) || partitioned_since.is_none() {
            self.handle(cx, core, ShardEvent::Regions(Some(regions)));
        }
    }
}

pub const fn first_core(plan: &Plan, node: NodeIndex) -> CoreIndex {
    CoreIndex(node.0 * plan.cores)
}

/// Returns the node of another region to which a node sends: the first that is not avoided, else the first.
pub fn receiver(plan: &Plan, from: NodeId, region: RegionIndex, is_reachable: impl Fn(&NodeId) -> bool) -> NodeId {
    let nodes: Vec<NodeId> = (0..plan.nodes).map(|node| NodeId { region, node: NodeIndex(node) }).collect();
    let names: Vec<String> = nodes.iter().map(|node| name_of(*node)).collect();
    let ranked = ranked(&name_of(from), names.iter().map(String::as_str));
    let ranked = ranked.iter().filter_map(|name| Some(nodes[names.iter().position(|it| it == name)?]));
    let reachable = ranked.clone().find(is_reachable);
    reachable.or_else(|| ranked.clone().next()).unwrap_or(NodeId { region, node: NodeIndex(0) })
}

/// Returns an item for each lane that changes nothing. Its reply tells whether the lane's primary was replaced.
pub fn probes(tags: &Tags, lanes: u16) -> Vec<Item> {
    let take = Take { from: RegionNumber::OWN, cell_ms: 0, given: Given::default(), asked_ms: 0 };
    let counter = Counter::Take { grid: Grid::Fixed { width_ms: 1000 }, take };
    let mut probes: BTreeMap<LaneId, Item> = BTreeMap::new();
    for number in 0..PROBE_NAMES * usize::from(lanes) {
        let key: Box<[u8]> = format!("probe {number}").into_bytes().into();
        let item = Item { key: key.clone(), asks: Vec::new(), refund: 0, counter: counter.clone() };
        probes.entry(tags.of(&key)).or_insert(item);
    }
    probes.into_values().collect()
}
