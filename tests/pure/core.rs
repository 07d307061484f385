//! A core with its flusher and a store: the answers that a gateway gets.

use limiter::{LaneId, WallTime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use limiter::counter::{Batch, BatchReply, StoreError};
use limiter::rules::{Algorithm, Consistency, Limit, OnStoreFailure};
use limiter::{Check, Decision, Descriptor, NodeTime, Overload, Revision, ShardConfig};
use ractor::Actor;
use tidegate::actors::core::Core;
use tidegate::actors::flusher::Flusher;
use tidegate::actors::supervisor::Supervisor;
use tidegate::ports::{Answer, BoxFuture, Clock, CounterStore, Limiter, Unavailable, Wait};
use tidegate::store::memory::MemoryStore;

const NOW: NodeTime = NodeTime(1_000_000);

/// The time of the store's clock at the start of a test, in microseconds since the epoch.
pub const BEGIN_US: u64 = 1_700_000_000_000_000;

/// A clock that does not advance.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        NOW
    }

    fn wall(&self) -> WallTime {
        WallTime(BEGIN_US)
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
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

/// Returns a core with a flusher and one limit per user.
async fn core_with_limit(store: Arc<dyn CounterStore>, limit: u64, consistency: Consistency) -> Arc<Core> {
    let core = Arc::new(Core::new(CONFIG, Arc::new(FixedClock), store));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    let rule = crate::rules::limit("l", Algorithm::SlidingWindow, limit, 60_000, consistency);
    core.set_book(crate::rules::rule_book(vec![rule], Revision(1)));
    core
}

/// Checks one hit of the user `u1`.
async fn check_u1(core: &Core) -> Result<Decision, Unavailable> {
    let descriptors =
        [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, charging: Default::default(), limit: None }];
    core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, Wait::default()).get().await
}

#[tokio::test]
async fn a_limit_of_five_admits_five_checks_over_two_cores() {
    for consistency in [Consistency::Exact, Consistency::Leased] {
        let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(FixedClock), 100));
        let cores =
            [core_with_limit(Arc::clone(&store), 5, consistency).await, core_with_limit(store, 5, consistency).await];
        let mut allowed = Vec::new();
        for index in 0..7 {
            allowed.push(check_u1(&cores[index % 2]).await.unwrap().allowed);
        }
        assert_eq!(allowed, [true, true, true, true, true, false, false], "{consistency:?}");
    }
}

/// A memory store that panics once while it looks up the lane of a key.
struct PanickingStore {
    store: MemoryStore,
    panic_next: AtomicBool,
}

impl CounterStore for PanickingStore {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _: &[u8]) -> LaneId {
        assert!(!self.panic_next.swap(false, Ordering::Relaxed), "planted panic");
        LaneId(0)
    }

    fn run(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        self.store.run(LaneId(lane.0), batch)
    }
}

#[tokio::test]
async fn a_panic_restarts_only_its_shard_and_does_not_exceed_the_limit() {
    let memory = MemoryStore::new(Arc::new(FixedClock), 100);
    let store = Arc::new(PanickingStore { store: memory, panic_next: AtomicBool::new(false) });
    let core = core_with_limit(Arc::clone(&store) as Arc<dyn CounterStore>, 5, Consistency::Leased).await;
    for _ in 0..2 {
        assert!(check_u1(&core).await.unwrap().allowed);
    }
    store.panic_next.store(true, Ordering::Relaxed);
    let descriptors = [Descriptor {
        entries: &[("user", "another")],
        ordered: true,
        hits: 1,
        charging: Default::default(),
        limit: None,
    }];
    let answer = core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, Wait::default()).get().await;
    assert_eq!(answer.unwrap_err(), Unavailable::Restarted);
    assert_eq!(
        (core.stats().keys, core.restarts()),
        (0, 1),
        "the state of the shard may be inconsistent, so it must be dropped"
    );
    let mut allowed = 2;
    for _ in 0..10 {
        allowed += u32::from(check_u1(&core).await.unwrap().allowed);
    }
    assert!((3..=5).contains(&allowed), "{allowed}");
}

/// A store that never replies. If `panics` is true, it panics instead.
struct SilentStore {
    panics: bool,
}

impl CounterStore for SilentStore {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _: &[u8]) -> LaneId {
        LaneId(0)
    }

    fn run(&self, _: LaneId, _: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        Box::pin(async {
            assert!(!self.panics, "planted panic");
            std::future::pending().await
        })
    }
}

/// Paused time jumps to the next timer, so the measured wait is exactly the timer that was set.
#[tokio::test(start_paused = true)]
async fn a_check_waits_until_the_store_deadline_or_the_timeout_of_the_caller() {
    // A caller that waits for less than a tenth of the deadline does not shorten the wait further.
    for (timeout, expected) in [(None, 5_000), (Some(700), 700), (Some(0), 500), (Some(9_000), 5_000)] {
        let core = core_with_limit(Arc::new(SilentStore { panics: false }), 5, Consistency::Exact).await;
        #[expect(clippy::disallowed_methods, reason = "paused time")]
        let start = tokio::time::Instant::now();
        let descriptors = [Descriptor {
            entries: &[("user", "u1")],
            ordered: true,
            hits: 1,
            charging: Default::default(),
            limit: None,
        }];
        let check = Check { domain: "d", descriptors: &descriptors };
        let wait = Wait::of_caller(timeout.map(Duration::from_millis), core.deadline());
        let decision = core.check(&check, NOW, wait).get().await.unwrap();
        assert!(decision.degraded && !decision.allowed, "the limit has on_store_failure: deny");
        assert_eq!(start.elapsed().as_millis(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_deadline_of_the_store_brings_a_limit_to_allow() {
    let limit = crate::rules::limit("l", Algorithm::FixedWindow, 5, 60_000, Consistency::Exact);
    let allows = Limit { on_store_failure: OnStoreFailure::Allow, ..limit };
    let timeouts = [(None, true), (Some(5_000), true), (Some(4_999), false), (Some(500), false), (Some(0), false)];
    for (timeout, allowed) in timeouts {
        let core = core_with_limit(Arc::new(SilentStore { panics: false }), 5, Consistency::Exact).await;
        core.set_book(crate::rules::rule_book(vec![allows.clone()], Revision(2)));
        let descriptors = [Descriptor {
            entries: &[("user", "u1")],
            ordered: true,
            hits: 1,
            charging: Default::default(),
            limit: None,
        }];
        let wait = Wait::of_caller(timeout.map(Duration::from_millis), core.deadline());
        let decision = core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, wait).get().await.unwrap();
        assert_eq!((decision.allowed, decision.degraded), (allowed, true), "{timeout:?}");
        assert_eq!(decision.retry_after.is_some(), !allowed, "asking again helps");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_freed_if_the_store_never_replies() {
    let core = core_with_limit(Arc::new(SilentStore { panics: false }), 5, Consistency::Exact).await;
    // A check that arrives just before the lane is freed fails together with the batch in flight.
    for _ in 0..6 {
        assert!(check_u1(&core).await.unwrap().degraded);
    }
    assert!(core.stats().batches >= 3, "the lane must be freed each time");
}

/// A clock that shows the paused time of the runtime.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> NodeTime {
        NodeTime(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }

    fn wall(&self) -> WallTime {
        WallTime(BEGIN_US + self.now().0)
    }
}

/// A store with eight lanes. The first two never reply. The lane of a key is its last digit.
struct PartlySilentStore(MemoryStore);

impl CounterStore for PartlySilentStore {
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
async fn a_stalled_lane_does_not_block_others() {
    #[expect(clippy::disallowed_methods, reason = "paused time")]
    let start = tokio::time::Instant::now();
    let clock = Arc::new(PausedClock(start));
    let store = Arc::new(PartlySilentStore(MemoryStore::new(Arc::<PausedClock>::clone(&clock), 100)));
    let core = Arc::new(Core::new(ShardConfig { lanes: 8, ..CONFIG }, Arc::<PausedClock>::clone(&clock), store));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    core.set_book(crate::rules::rule_book(
        vec![crate::rules::limit("l", Algorithm::FixedWindow, 5, 60_000, Consistency::Exact)],
        Revision(1),
    ));
    let check = |user| {
        let descriptors = [Descriptor {
            entries: &[("user", user)],
            ordered: true,
            hits: 1,
            charging: Default::default(),
            limit: None,
        }];
        core.check(&Check { domain: "d", descriptors: &descriptors }, clock.now(), Wait::default())
    };
    let mut stalled = Vec::new();
    for user in ["u0", "u1"] {
        stalled.push(check(user));
        while core.stats().batches < stalled.len() as u64 {
            tokio::task::yield_now().await;
        }
    }
    assert!(check("u2").get().await.unwrap().allowed);
    assert!(
        start.elapsed() < Duration::from_millis(10),
        "{:?}: the decision must not wait for a tick",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_dropped_check_stops_waiting() {
    let core = core_with_limit(Arc::new(SilentStore { panics: false }), 5, Consistency::Exact).await;
    let descriptors =
        [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, charging: Default::default(), limit: None }];
    for _ in 0..1000 {
        drop(core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, Wait::default()));
        assert_eq!(core.stats().waiting, 0);
    }
}

#[tokio::test]
async fn checks_beyond_the_maximum_of_waiting_checks_are_shed() {
    let core = core_with_limit(Arc::new(SilentStore { panics: false }), 5, Consistency::Exact).await;
    let descriptors =
        [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, charging: Default::default(), limit: None }];
    let check = Check { domain: "d", descriptors: &descriptors };
    let waiting: Vec<_> = (0..CONFIG.max_waiting).map(|_| core.check(&check, NOW, Wait::default())).collect();
    let shed = core.check(&check, NOW, Wait::default()).get().await.unwrap_err();
    assert_eq!(shed, Unavailable::Overloaded(Overload::TooManyWaiting));
    drop(waiting);
    assert!(
        matches!(core.check(&check, NOW, Wait::default()), Answer::Later { .. }),
        "a new check must be able to wait again"
    );
}

#[tokio::test]
async fn a_full_table_evicts_an_idle_key_for_a_new_one() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(FixedClock), 10_000));
    let core = core_with_limit(store, 5, Consistency::Exact).await;
    for user in 0..10 * CONFIG.max_keys {
        let name = user.to_string();
        let descriptors = [Descriptor {
            entries: &[("user", &name)],
            ordered: true,
            hits: 1,
            charging: Default::default(),
            limit: None,
        }];
        let check = Check { domain: "d", descriptors: &descriptors };
        // After two checks, every key counts as recently used.
        for _ in 0..2 {
            assert!(core.check(&check, NOW, Wait::default()).get().await.unwrap().allowed, "{user}");
        }
    }
    assert_eq!(core.stats().keys, CONFIG.max_keys);
}

#[tokio::test]
async fn two_limits_of_one_check_never_share_a_slot() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(FixedClock), 100));
    let core = Arc::new(Core::new(ShardConfig { max_keys: 1, ..CONFIG }, Arc::new(FixedClock), store));
    let rule = |name, hits| crate::rules::limit(name, Algorithm::FixedWindow, hits, 60_000, Consistency::Exact);
    core.set_book(crate::rules::rule_book(vec![rule("a", 1), rule("b", 2)], Revision(1)));
    for _ in 0..2 {
        assert_eq!(check_u1(&core).await.unwrap_err(), Unavailable::Overloaded(Overload::TooManyKeys));
    }
}

#[tokio::test]
async fn a_remembered_denial_gives_no_retry_time_that_is_too_early_for_more_hits() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(FixedClock), 100));
    let cores = [
        core_with_limit(Arc::clone(&store), 5, Consistency::Exact).await,
        core_with_limit(store, 5, Consistency::Exact).await,
    ];
    let retry_after = async |core: &Core, hits: u32| {
        let descriptors =
            [Descriptor { entries: &[("user", "u1")], ordered: true, hits, charging: Default::default(), limit: None }];
        core.check(&Check { domain: "d", descriptors: &descriptors }, NOW, Wait::default())
            .get()
            .await
            .unwrap()
            .retry_after
    };
    assert_eq!(retry_after(&cores[0], 5).await, None);
    let one_hit = retry_after(&cores[0], 1).await.unwrap();
    let (remembered, from_store) = (retry_after(&cores[0], 5).await.unwrap(), retry_after(&cores[1], 5).await.unwrap());
    assert!(one_hit < from_store && from_store <= remembered, "{one_hit} {from_store} {remembered}");
}

#[tokio::test]
async fn a_batch_whose_store_panics_has_an_unknown_result() {
    let core = core_with_limit(Arc::new(SilentStore { panics: true }), 5, Consistency::Exact).await;
    for _ in 0..3 {
        let decision = check_u1(&core).await.unwrap();
        assert!(decision.degraded && !decision.allowed);
    }
    assert!(core.stats().failed_batches >= 3, "the lane must be freed each time");
}

#[tokio::test]
async fn a_killed_flusher_is_restarted() {
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(FixedClock), 100));
    let core = Arc::new(Core::new(CONFIG, Arc::new(FixedClock), store));
    let (supervisor, _) = Actor::spawn(None, Supervisor, Arc::clone(&core)).await.unwrap();
    core.set_book(crate::rules::rule_book(
        vec![crate::rules::limit("l", Algorithm::SlidingWindow, 5, 60_000, Consistency::Exact)],
        Revision(1),
    ));
    assert!(check_u1(&core).await.unwrap().allowed);
    for flusher in supervisor.get_children() {
        flusher.kill();
    }
    while supervisor.get_children().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..4 {
        let decision = check_u1(&core).await.unwrap();
        assert!(decision.allowed && !decision.degraded);
    }
    assert!(!check_u1(&core).await.unwrap().allowed);
}
