//! One shard on one store without delays, whose rules change.

use std::collections::BTreeMap;
use std::sync::Arc;

use limiter::counter::{LaneEpoch, Record, apply, run};
use limiter::rules::{Domain, RuleBook, Rules};
use limiter::{
    Charging, Check, Decision, Descriptor, Effects, Event, LaneId, NodeTime, Reply, Revision, Shard, ShardConfig,
    StoreTime, Verdict, WallTime,
};

use super::rules::Attributes;
use crate::dry_domain::MIDNIGHT;

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 10_000,
    max_waiting: 10,
    lease_us: 300_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 1,
    lanes: 1,
    max_items: 1000,
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

/// A shard and its store. Instants are microseconds after midnight.
pub struct Node {
    shard: Shard<()>,
    store: BTreeMap<Box<[u8]>, Option<Record>>,
    lane: Option<LaneEpoch>,
    revision: Revision,
}

impl Node {
    pub fn new() -> Self {
        let shard = Shard::new(CONFIG, WallTime(MIDNIGHT.0), NodeTime(0));
        Self { shard, store: BTreeMap::new(), lane: None, revision: Revision(0) }
    }

    /// Puts the rules of a domain in force.
    pub fn set_rules(&mut self, domain: Domain, at: u64) {
        self.revision = Revision(self.revision.0 + 1);
        let rules = Rules { domains: vec![Domain { domain: "d".to_owned(), ..domain }] };
        let book = RuleBook::compile(Arc::new(rules), self.revision).unwrap();
        assert!(self.handle(Event::Rules(Arc::new(book)), at).is_none());
    }

    pub fn check(&mut self, descriptors: &[(Attributes, u32)], at: u64) -> Decision {
        let entries: Vec<(Vec<(&str, &str)>, u32)> = descriptors
            .iter()
            .map(|(attributes, hits)| (attributes.iter().map(|(name, value)| (*name, *value)).collect(), *hits))
            .collect();
        let descriptors = entries.iter().map(|(entries, hits)| Descriptor {
            entries,
            ordered: true,
            hits: *hits,
            charging: Charging::IfAllowed,
            limit: None,
        });
        let descriptors: Vec<Descriptor<'_>> = descriptors.collect();
        assert!(self.handle(Event::Tick, at).is_none());
        let check = Check { domain: "d", descriptors: &descriptors };
        match self.shard.check(&check, |_| LaneId(0), NodeTime(at), || ()) {
            Verdict::Decided(decision) => decision,
            Verdict::Waits { .. } => self.handle(Event::Flush, at).expect("the store answers at once"),
            Verdict::Overloaded(overload) => panic!("{overload:?}"),
        }
    }

    /// Handles an event and all that follows from it. Returns the decision of the check that waited.
    fn handle(&mut self, event: Event, at: u64) -> Option<Decision> {
        let (mut decision, mut events) = (None, vec![event]);
        while let Some(event) = events.pop() {
            let Effects { send, decided, flush, .. } = self.shard.handle(event, NodeTime(at));
            decision = decision.or(decided.into_iter().next().map(|((), decision)| decision));
            if flush {
                events.push(Event::Flush);
            }
            for out in send {
                let store = &mut self.store;
                let reply = run(&out.batch, StoreTime(MIDNIGHT.0 + at), 1, &mut self.lane, |item, cx| {
                    apply(store.entry(item.key.clone()).or_default(), item, cx)
                });
                events.push(Event::Reply(Reply { lane: out.lane, batch: out.batch.id, result: Ok(reply) }));
            }
        }
        decision
    }
}
