//! A core with its flusher on the memory store: what a gateway sees of it.

use limiter::{LaneId, WallTime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use limiter::counter::{Batch, BatchReply, StoreError};
use limiter::rules::{Algorithm, Consistency};
use limiter::{Check, Decision, Descriptor, NodeTime, Overload, Revision, ShardConfig};
use ractor::Actor;
use tidegate::actors::core::Core;
use tidegate::actors::flusher::Flusher;
use tidegate::actors::supervisor::Supervisor;
use tidegate::ports::{Answer, BoxFuture, Clock, CounterStore, Limiter, Unavailable};
use tidegate::store::memory::MemoryStore;

const NOW: NodeTime = NodeTime(1_000_000);

struct Standing;

impl Clock for Standing {
    fn now(&self) -> NodeTime {
        NOW
    }

    fn wall(&self) -> WallTime {
        WallTime(crate::rules::BEGIN)
    }
}

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100,
    max_waiting: 100,
    lease_us: 1_000_000,
    deadline_us: 5_000_000,
    holders: 2,
    min_holders: 3,
    lanes: 1,
    max_items: 100,
    seeds: [1, 2, 3, 4],
};

async fn core(store: Arc<dyn CounterStore>, limit: u64, consistency: Consistency) -> Arc<Core> {
    let core = Arc::new(Core::new(CONFIG, Arc::new(Standing), store));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    let rule = crate::rules::limit("l", Algorithm::SlidingWindow, limit, 60_000, consistency);
    core.set_book(crate::rules::book(vec![rule], Revision(1)));
    core
}

async fn ask(core: &Core) -> Result<Decision, Unavailable> {
    let descriptors = [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, limit: None }];
    core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, None).get().await
}

#[tokio::test]
async fn a_limit_of_five_admits_five_over_two_cores() {
    for consistency in [Consistency::Exact, Consistency::Leased] {
        let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(Standing), 100));
        let cores = [core(Arc::clone(&store), 5, consistency).await, core(store, 5, consistency).await];
        let mut allowed = Vec::new();
        for at in 0..7 {
            allowed.push(ask(&cores[at % 2]).await.unwrap().allowed);
        }
        assert_eq!(allowed, [true, true, true, true, true, false, false], "{consistency:?}");
    }
}

/// A store that panics once, in the middle of routing a key.
struct Tripwire(MemoryStore, AtomicBool);

impl CounterStore for Tripwire {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _: &[u8]) -> LaneId {
        assert!(!self.1.swap(false, Ordering::Relaxed), "planted");
        LaneId(0)
    }

    fn run(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        self.0.run(LaneId(lane.0), batch)
    }
}

#[tokio::test]
async fn a_decision_that_panics_ends_its_shard_not_the_node_and_admits_nothing_more() {
    let store = Arc::new(Tripwire(MemoryStore::new(Arc::new(Standing), 100), AtomicBool::new(false)));
    let core = core(Arc::clone(&store) as Arc<dyn CounterStore>, 5, Consistency::Leased).await;
    for _ in 0..2 {
        assert!(ask(&core).await.unwrap().allowed);
    }
    store.1.store(true, Ordering::Relaxed);
    let descriptors = [Descriptor { entries: &[("user", "another")], ordered: true, hits: 1, limit: None }];
    let answer = core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, None).get().await;
    assert_eq!(answer.unwrap_err(), Unavailable::Restarted);
    assert_eq!((core.stats().keys, core.restarts()), (0, 1), "what it held may be half changed: it is forgotten");
    let mut allowed = 2;
    for _ in 0..10 {
        allowed += u32::from(ask(&core).await.unwrap().allowed);
    }
    assert!((3..=5).contains(&allowed), "{allowed}");
}

/// A store that never answers, and panics while it is told to.
struct Lost(AtomicBool);

impl CounterStore for Lost {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _: &[u8]) -> LaneId {
        LaneId(0)
    }

    fn run(&self, _: LaneId, _: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        Box::pin(async {
            assert!(!self.0.load(Ordering::Relaxed), "planted");
            std::future::pending().await
        })
    }
}

/// Paused time jumps to the next timer: what is waited for is what was set.
#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_by_the_store_s_deadline_and_by_the_caller_s_patience() {
    for (within, expected) in [(None, 5_000), (Some(40), 40), (Some(9_000), 5_000)] {
        let core = core(Arc::new(Lost(AtomicBool::new(false))), 5, Consistency::Exact).await;
        #[expect(clippy::disallowed_methods, reason = "paused time")]
        let begun = tokio::time::Instant::now();
        let descriptors = [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, limit: None }];
        let check = Check { domain: "d", descriptors: &descriptors };
        let decision = core.check(&check, NOW, within.map(Duration::from_millis)).get().await.unwrap();
        assert!(decision.degraded && !decision.allowed, "the limit says on_store_failure: deny");
        assert_eq!(begun.elapsed().as_millis(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_gives_its_lane_back() {
    let core = core(Arc::new(Lost(AtomicBool::new(false))), 5, Consistency::Exact).await;
    // A check may come just before the lane is free, and then fails with what was under way.
    for _ in 0..6 {
        assert!(ask(&core).await.unwrap().degraded);
    }
    assert!(core.stats().batches >= 3, "the lane is free again each time");
}

/// The runtime's paused time.
struct Paused(tokio::time::Instant);

impl Clock for Paused {
    fn now(&self) -> NodeTime {
        NodeTime(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }

    fn wall(&self) -> WallTime {
        WallTime(crate::rules::BEGIN + self.now().0)
    }
}

/// A store of eight lanes, of which only those beyond the second answer. A key's lane is its last digit.
struct HalfDead(MemoryStore);

impl CounterStore for HalfDead {
    fn lanes(&self) -> u16 {
        8
    }

    fn lane(&self, key: &[u8]) -> LaneId {
        LaneId(u16::from(key.last().unwrap() - b'0'))
    }

    fn run(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        if lane < LaneId(2) { Box::pin(std::future::pending()) } else { self.0.run(LaneId(lane.0), batch) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_gets_its_turn_though_those_that_have_it_are_silent_and_nothing_else_happens() {
    #[expect(clippy::disallowed_methods, reason = "paused time")]
    let begun = tokio::time::Instant::now();
    let clock = Arc::new(Paused(begun));
    let store = Arc::new(HalfDead(MemoryStore::new(Arc::<Paused>::clone(&clock), 100)));
    let core = Arc::new(Core::new(ShardConfig { lanes: 8, ..CONFIG }, Arc::<Paused>::clone(&clock), store));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    core.set_book(crate::rules::book(
        vec![crate::rules::limit("l", Algorithm::FixedWindow, 5, 60_000, Consistency::Exact)],
        Revision(1),
    ));
    let ask = |user| {
        let descriptors = [Descriptor { entries: &[("user", user)], ordered: true, hits: 1, limit: None }];
        core.check(&Check { domain: "d", descriptors: &descriptors }, clock.now(), None)
    };
    let mut silent = Vec::new();
    for user in ["u0", "u1"] {
        silent.push(ask(user));
        while core.stats().batches < silent.len() as u64 {
            tokio::task::yield_now().await;
        }
    }
    assert!(ask("u2").get().await.unwrap().allowed);
    assert!(begun.elapsed() < Duration::from_millis(10), "{:?}: before the tick", begun.elapsed());
}

#[tokio::test]
async fn a_caller_that_goes_away_waits_no_more() {
    let core = core(Arc::new(Lost(AtomicBool::new(false))), 5, Consistency::Exact).await;
    let descriptors = [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, limit: None }];
    for _ in 0..1000 {
        drop(core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, None));
        assert_eq!(core.stats().waiting, 0);
    }
}

#[tokio::test]
async fn more_checks_than_may_wait_are_shed() {
    let core = core(Arc::new(Lost(AtomicBool::new(false))), 5, Consistency::Exact).await;
    let descriptors = [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, limit: None }];
    let check = Check { domain: "d", descriptors: &descriptors };
    let waiting: Vec<_> = (0..CONFIG.max_waiting).map(|_| core.check(&check, NOW, None)).collect();
    let shed = core.check(&check, NOW, None).get().await.unwrap_err();
    assert_eq!(shed, Unavailable::Overloaded(Overload::TooManyWaiting));
    drop(waiting);
    assert!(matches!(core.check(&check, NOW, None), Answer::Later(_)), "there is room again");
}

#[tokio::test]
async fn a_full_table_forgets_an_idle_key_for_a_new_one() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(Standing), 10_000));
    let core = core(store, 5, Consistency::Exact).await;
    for user in 0..10 * CONFIG.max_keys {
        let name = user.to_string();
        let descriptors = [Descriptor { entries: &[("user", &name)], ordered: true, hits: 1, limit: None }];
        let check = Check { domain: "d", descriptors: &descriptors };
        // Asked twice, every key was used lately.
        for _ in 0..2 {
            assert!(core.check(&check, NOW, None).get().await.unwrap().allowed, "{user}");
        }
    }
    assert_eq!(core.stats().keys, CONFIG.max_keys);
}

#[tokio::test]
async fn two_limits_of_one_check_never_share_a_slot() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(Standing), 100));
    let core = Arc::new(Core::new(ShardConfig { max_keys: 1, ..CONFIG }, Arc::new(Standing), store));
    let rule = |name, hits| crate::rules::limit(name, Algorithm::FixedWindow, hits, 60_000, Consistency::Exact);
    core.set_book(crate::rules::book(vec![rule("a", 1), rule("b", 2)], Revision(1)));
    for _ in 0..2 {
        assert_eq!(ask(&core).await.unwrap_err(), Unavailable::Overloaded(Overload::TooManyKeys));
    }
}

#[tokio::test]
async fn a_remembered_refusal_names_no_instant_that_is_too_early_for_more_hits() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(Standing), 100));
    let cores = [core(Arc::clone(&store), 5, Consistency::Exact).await, core(store, 5, Consistency::Exact).await];
    let wait = async |core: &Core, hits: u32| {
        let descriptors = [Descriptor { entries: &[("user", "u1")], ordered: true, hits, limit: None }];
        core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, None).get().await.unwrap().retry_after
    };
    assert_eq!(wait(&cores[0], 5).await, None);
    let one = wait(&cores[0], 1).await.unwrap();
    let (remembered, asked) = (wait(&cores[0], 5).await.unwrap(), wait(&cores[1], 5).await.unwrap());
    assert!(one < asked && asked <= remembered, "{one} {asked} {remembered}");
}

#[tokio::test]
async fn a_store_that_panics_has_given_an_unknown_answer() {
    let core = core(Arc::new(Lost(AtomicBool::new(true))), 5, Consistency::Exact).await;
    for _ in 0..3 {
        let decision = ask(&core).await.unwrap();
        assert!(decision.degraded && !decision.allowed);
    }
    assert!(core.stats().failed_batches >= 3, "the lane is free again each time");
}

#[tokio::test]
async fn a_flusher_that_ends_is_started_again() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(Standing), 100));
    let core = Arc::new(Core::new(CONFIG, Arc::new(Standing), store));
    let (supervisor, _) = Actor::spawn(None, Supervisor, Arc::clone(&core)).await.unwrap();
    core.set_book(crate::rules::book(
        vec![crate::rules::limit("l", Algorithm::SlidingWindow, 5, 60_000, Consistency::Exact)],
        Revision(1),
    ));
    assert!(ask(&core).await.unwrap().allowed);
    for flusher in supervisor.get_children() {
        flusher.kill();
    }
    while supervisor.get_children().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..4 {
        let decision = ask(&core).await.unwrap();
        assert!(decision.allowed && !decision.degraded);
    }
    assert!(!ask(&core).await.unwrap().allowed);
}
