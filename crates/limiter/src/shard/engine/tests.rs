use std::collections::BTreeMap;

use super::*;
use crate::check::{Charging, Descriptor};
use crate::counter::{Counter, Item, Part, Record, StoreError, apply, run};
use crate::decision::Decision;
use crate::key::samples::{CELL_MS, book, rule};
use crate::revision::Revision;
use crate::rules::{APPLIED, Algorithm, Consistency, Limit, Mode};
use crate::time::StoreTime;

const NOW: NodeTime = NodeTime(5_000_000);
const STORE_NOW: StoreTime = StoreTime::from_millis(CELL_MS + 400);

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100,
    max_waiting: 100,
    lease_us: 100_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 1,
    lanes: 1,
    max_items: 100,
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

/// A shard and its store, both at one instant.
struct World {
    shard: Shard<()>,
    store: BTreeMap<Box<[u8]>, Option<Record>>,
}

impl World {
    /// The shard knows the store's clock.
    fn new(limits: Vec<Limit>) -> Self {
        let mut world = Self { shard: Shard::new(CONFIG, WallTime(0), NOW), store: BTreeMap::new() };
        let _ = world.shard.handle(Event::Rules(book(limits, Revision(1))), NOW);
        world.serve();
        world
    }

    /// A check of one user.
    fn check(&mut self, hits: u32, charging: Charging) -> Verdict {
        let descriptors = [Descriptor { entries: &[("user", "alice")], ordered: true, hits, charging, limit: None }];
        self.shard.check(&Check { domain: "d", descriptors: &descriptors }, |_| LaneId(0), NOW, || ())
    }

    /// A check that waits for the store.
    fn wait(&mut self, hits: u32, charging: Charging) -> Ticket {
        match self.check(hits, charging) {
            Verdict::Waits { ticket, .. } => ticket,
            other => panic!("expected a check that waits, not {other:?}"),
        }
    }

    /// The store answers what the shard sends. Returns the items of each batch, and the decisions.
    fn serve(&mut self) -> (Vec<Vec<Item>>, Vec<Decision>) {
        let (mut batches, mut decisions) = (Vec::new(), Vec::new());
        while let Some(out) = self.shard.handle(Event::Flush, NOW).send.pop() {
            let serve = |item: &Item, cx| apply(self.store.entry(item.key.clone()).or_default(), item, cx);
            let result = Ok(run(&out.batch, STORE_NOW, 1, &mut None, serve));
            let reply = Reply { lane: out.lane, batch: out.batch.id, result };
            decisions
                .extend(self.shard.handle(Event::Reply(reply), NOW).decided.into_iter().map(|(_, decision)| decision));
            batches.push(out.batch.items);
        }
        (batches, decisions)
    }
}

fn is_decided(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Decided(_))
}

#[test]
fn tokens_go_back_when_what_they_were_granted_under_changes() {
    let limits = || vec![rule("l", 1000)];
    let regions = |partitioned_since| {
        Event::Regions(Some(Regions { part: Part::ONE, floor_thousandths: 0, partitioned_since, rights: None }))
    };
    let cases = [
        ("the same rules", Event::Rules(book(limits(), Revision(1))), 0),
        ("newer rules", Event::Rules(book(limits(), Revision(2))), 3),
        ("other regions", regions(None), 0),
        ("a partition", regions(Some(NOW)), 3),
        ("the end", Event::ReleaseTokens, 3),
    ];
    for (what, event, returned) in cases {
        let mut world = World::new(limits());
        // The second item takes four tokens in advance, and a check spends one.
        for _ in 0..2 {
            world.wait(1, Charging::IfAllowed);
            world.serve();
        }
        assert!(is_decided(&world.check(1, Charging::IfAllowed)));
        let _ = world.shard.handle(event, NOW);
        let (batches, _) = world.serve();
        let tokens = batches.iter().flatten().map(|item| match &item.counter {
            Counter::Window { returns, .. } => returns.iter().map(|back| back.tokens).sum(),
            _ => 0,
        });
        assert_eq!(tokens.sum::<u64>(), returned, "{what}");
    }
}

#[test]
fn a_flush_that_leaves_lanes_waiting_says_when_the_next_may_send() {
    let mut shard: Shard<()> = Shard::new(ShardConfig { lanes: 8, ..CONFIG }, WallTime(0), NOW);
    let mut handle = |event, now| {
        let effects = shard.handle(event, now);
        (effects.send.len(), effects.flush_in, effects.flush)
    };
    // Every lane asks for the clock. A quarter of them may be in flight.
    assert_eq!(handle(Event::Flush, NOW), (2, Some(2_000), false));
    assert_eq!(handle(Event::Flush, NOW), (0, None, false), "one delay serves several flushes");
    assert_eq!(handle(Event::FlushDelayOver, NOW), (0, None, true));
    assert_eq!(handle(Event::Flush, NOW.plus(2_000)), (2, Some(2_000), false), "both batches have stalled");
}

#[test]
fn a_shard_has_stalled_while_debts_wait_for_a_tick() {
    let mut world = World::new(vec![rule("l", 10)]);
    world.wait(1, Charging::IfAllowed);
    assert!(!world.shard.has_stalled());
    let out = world.shard.handle(Event::Flush, NOW).send.remove(0);
    let reply = Reply { lane: out.lane, batch: out.batch.id, result: Err(StoreError::NotApplied) };
    let decided = world.shard.handle(Event::Reply(reply), NOW).decided;
    assert!(decided.iter().all(|(_, decision)| decision.allowed && decision.degraded));
    assert_eq!((decided.len(), world.shard.stats().stalled), (1, 1));
    assert!(world.shard.has_stalled());
    assert!(world.shard.handle(Event::Tick, NOW).flush, "the debt is sent");
    assert!(!world.shard.has_stalled());
}

#[test]
fn only_a_check_that_charges_in_any_case_is_sent_after_its_caller_is_gone() {
    for (charging, sent) in [(Charging::IfAllowed, 0), (Charging::Always, 1), (Charging::Refund, 1)] {
        let mut world = World::new(vec![Limit { consistency: Some(Consistency::Exact), ..rule("l", 10) }]);
        let ticket = world.wait(1, charging);
        let _ = world.shard.handle(Event::Cancel(ticket), NOW);
        let (batches, decisions) = world.serve();
        assert_eq!((batches.iter().flatten().count(), decisions.len()), (sent, sent), "{charging:?}");
    }
}

#[test]
fn a_refund_of_no_hits_asks_the_store_for_nothing() {
    let mut world = World::new(vec![Limit { consistency: Some(Consistency::Exact), ..rule("l", 10) }]);
    assert!(is_decided(&world.check(0, Charging::Refund)));
    assert!(!is_decided(&world.check(1, Charging::Refund)));
}

#[test]
fn a_bucket_waits_for_the_windows_of_its_check_that_may_deny() {
    for (mode, batches) in [(Mode::Enforce, vec![1, 1]), (Mode::Shadow, vec![2])] {
        let bucket = Limit { algorithm: Algorithm::TokenBucket, ..rule("bucket", 10) };
        let mut world = World::new(vec![Limit { mode, ..rule("window", 10) }, bucket]);
        world.wait(1, Charging::IfAllowed);
        let (sent, decisions) = world.serve();
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), batches, "{mode:?}");
        assert!(decisions.len() == 1 && decisions[0].allowed);
    }
}

#[test]
fn a_limit_that_denies_without_the_store_says_when_to_retry_if_the_hits_can_ever_fit() {
    let cases = [(Mode::Enforce, 1, Some(100_000)), (Mode::Shadow, 10, Some(100_000)), (Mode::Shadow, 11, None)];
    for (mode, hits, retry_after) in cases {
        let mut world = World::new(vec![Limit { mode, on_store_failure: OnStoreFailure::Deny, ..rule("l", 10) }]);
        let ticket = world.wait(hits, Charging::IfAllowed);
        let decided = world.shard.handle(Event::Expire(ticket), NOW).decided;
        let limit = &decided[0].1.limits[0];
        assert_eq!((limit.denied, limit.retry_after), (true, retry_after), "{hits} hits");
    }
}

#[test]
fn the_work_of_all_checks_adds_up() {
    let mut world = World::new(vec![rule("l", 10)]);
    assert_eq!(world.shard.work(), 0);
    world.wait(1, Charging::IfAllowed);
    let one = world.shard.work();
    assert!(one > APPLIED, "{one} steps");
    world.wait(1, Charging::IfAllowed);
    assert_eq!(world.shard.work(), 2 * one);
}

#[test]
fn the_batches_of_a_successor_have_the_next_numbers_and_another_holder() {
    let mut world = World::new(vec![rule("l", 10)]);
    world.wait(1, Charging::IfAllowed);
    let batch = |shard: &mut Shard<()>| shard.handle(Event::Flush, NOW).send.remove(0).batch;
    let last = batch(&mut world.shard);
    let next = batch(&mut world.shard.successor(WallTime(0), NOW));
    assert_ne!(next.holder, last.holder);
    assert_eq!((last.id, next.id), (BatchId(2), BatchId(3)));
}
