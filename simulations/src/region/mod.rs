//! A region: the cores of its nodes, its primaries, and the packets between them.
//!
//! The state is in this file. Each other file handles some of the events.

mod batch_trace;
mod checks;
mod core;
mod counts;
mod fault_effects;
mod flusher;
mod gossip;
mod network;
mod replacement;
mod rights;

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, Event, Packet};
use super::history::RulesReceived;
use super::ids::{CoreId, CoreIndex, Counter, Instant, NodeIndex, PrimaryId, PrimaryIndex, RegionIndex};
use super::scenario::{DOMAIN, DRAIN_PROBE_USERS, Plan, has_own_counter, override_test};
use super::store::Primary;
use counter_script::{COUNTERS, Tags};
use limiter::counter::Item;
use limiter::rules::EffectiveLimit;
use limiter::{Event as ShardEvent, LaneId, Revision};

use self::core::Core;
use self::gossip::Gossiper;

/// A region.
pub struct Region {
    index: RegionIndex,
    pub cores: Vec<Core>,
    primaries: Vec<Primary>,
    /// The primary of each lane.
    lanes: Vec<PrimaryIndex>,
    /// The packets that wait at stopped servers, by primary.
    held: Vec<Vec<Packet>>,
    /// The nodes that still send to a replaced server, each with the primary.
    unaware: BTreeSet<(NodeIndex, PrimaryIndex)>,
    /// When the first node detected that a primary was replaced.
    replacement_detected: BTreeMap<PrimaryIndex, Instant>,
    /// All counters that can exist, by their key in the store.
    counters: BTreeMap<Vec<u8>, Counter>,
    tags: Tags,
    /// The gossip of each node; empty if there is only one region.
    gossipers: BTreeMap<NodeIndex, Gossiper>,
    /// What a node imports when another region tells nothing.
    probes: Vec<Item>,
}

impl Region {
    /// # Errors
    /// Returns an error if the script does not compile.
    pub fn new(index: RegionIndex, cx: &mut Context<'_>) -> mlua::Result<Self> {
        let script = cx.bugs.script(COUNTERS.text().to_owned());
        let plan = &cx.plan;
        // Each server that takes over has the next replication id. No two servers have the same one.
        let replication_id = |at: usize| u32::try_from(index.0 * 100_000 + at * 1000 + 1).unwrap_or(1);
        let clock_us = plan.regions.clock_skew_us(index);
        let primaries = (0..plan.primaries)
            .map(|at| Primary::new(script.clone(), replication_id(at), (plan.lag_us, plan.epoch_us()), clock_us));
        let primaries = primaries.collect::<mlua::Result<Vec<_>>>()?;
        let cores = (0..plan.holders()).map(|core| {
            let mut config = Core::draw_config(plan, &mut cx.rng.cores);
            cx.bugs.config(&mut config);
            let detects_suspension = cx.bugs.detects_suspension();
            Core::new(plan, CoreIndex(core), config, detects_suspension, &mut cx.rng.cores)
        });
        Ok(Self {
            index,
            cores: cores.collect(),
            lanes: (0..plan.lanes).map(|lane| PrimaryIndex(usize::from(lane) % plan.primaries)).collect(),
            held: primaries.iter().map(|_| Vec::new()).collect(),
            primaries,
            unaware: BTreeSet::new(),
            replacement_detected: BTreeMap::new(),
            counters: counters(plan, index),
            tags: Tags::new(plan.lanes),
            gossipers: BTreeMap::new(),
            probes: gossip::probes(&Tags::new(plan.lanes), plan.lanes),
        })
    }

    /// Gives each core the first rules, schedules the later ones, and begins its periodic work.
    pub fn start(&mut self, cx: &mut Context<'_>) {
        for core in (0..self.cores.len()).map(CoreIndex) {
            self.receive_rules(cx, core, 0);
            for edit in 1..cx.plan.edits.len() {
                let at = cx.plan.edits[edit].reaches_at(self.index) + cx.rng.faults.between(0, 50_000);
                let core = self.id_of(core);
                cx.schedule_at(at, Event::RulesArrive { core, edit });
            }
            self.begin_periodic_work(cx, core);
        }
        (0..cx.plan.nodes).for_each(|node| self.begin_gossip(cx, NodeIndex(node)));
    }

    pub const fn id_of(&self, core: CoreIndex) -> CoreId {
        CoreId { region: self.index, core }
    }

    const fn primary_id(&self, primary: PrimaryIndex) -> PrimaryId {
        PrimaryId { region: self.index, primary }
    }

    /// Gives a core the rules of an edit. Does nothing if the core is dead or has these rules or newer ones.
    pub fn receive_rules(&mut self, cx: &mut Context<'_>, core: CoreIndex, edit: usize) {
        let book = cx.plan.edits[edit].book.clone();
        let revision = book.revision;
        let (id, boot) = (self.id_of(core), self.cores[core.0].boot);
        // A core that restarted in the meantime got the rules that were in force then.
        let mut received = cx.history.rules_received.iter();
        let is_known = received.any(|it| (it.core, it.boot) == (id, boot) && it.revision >= revision);
        if !self.cores[core.0].alive || is_known {
            return;
        }
        if cx.bugs.receives_rules(id, revision) {
            self.handle(cx, core, ShardEvent::Rules(book));
        }
        self.cores[core.0].edit = edit;
        self.tell_core_of_regions(cx, core);
        cx.history.rules_received.push(RulesReceived { core: id, boot, revision, at: cx.now });
        cx.trace_in(self.index, |_| format!("core {core} receives revision {revision}"));
    }

    /// True if nothing is in flight, waits or has stalled at any core.
    pub fn is_quiet(&self) -> bool {
        self.cores.iter().all(|core| core.shard.is_quiet() && !core.shard.has_stalled())
    }

    fn cores_of(&self, plan: &Plan, node: NodeIndex) -> impl Iterator<Item = CoreIndex> + use<> {
        (node.0 * plan.cores..(node.0 + 1) * plan.cores).map(CoreIndex)
    }

    fn lane_of(&self, key: &[u8]) -> LaneId {
        self.tags.of(key)
    }
}

/// Returns every counter that can exist in a region, by its key in the store.
fn counters(plan: &Plan, region: RegionIndex) -> BTreeMap<Vec<u8>, Counter> {
    let mut counters = BTreeMap::new();
    let limits = plan.edits.iter().flat_map(|edit| edit.rules.limits.iter().enumerate().map(|it| (&edit.rules, it)));
    for (rules, (at, limit)) in limits {
        let apart = limit.overrides.iter().filter(|change| has_own_counter(change, limit));
        for change in std::iter::once(None).chain(apart.map(Some)) {
            let effective = EffectiveLimit::new(&DOMAIN.into(), limit, change, Revision(1));
            let apart = change.map(|change| override_test(&change.matches));
            for user in 0..plan.users + DRAIN_PROBE_USERS {
                let (name, mut key) = (user.to_string(), Vec::new());
                effective.key(limit.per.iter().map(|_| name.as_str()), false, &mut key);
                counters.insert(key, Counter { apart, ..rules.counter(region, at, user) });
            }
        }
    }
    counters
}
