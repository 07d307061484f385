//! The counter script, in a real Redis on that server's own clock and in the simulator's Lua, and the core's store function
//! answer alike, batch for batch: whatever is asked, seen, given back, repeated, late, and whichever server takes over.
//!
//! 10,000 random batches, or as many as `TIDEGATE_CASES` says.

use limiter::counter::SeenCells;
use limiter::{BatchId, HolderId, LaneId};
use std::collections::HashMap;

use crate::batches::{Case, Random};
use crate::servers::{Single, ask, open, region};
use limiter::StoreTime;
use limiter::counter::{
    Ask, Batch, BatchContext, BatchOutcome, BatchReply, Counter, Debts, Grid, Item, ItemReply, Record, Seen,
    WindowReturn, apply, expires_at,
};
use simulations::store::{Data, Redis};
use tidegate::ports::CounterStore;

/// What is stored under a key, and until when (ms).
type Stored = HashMap<Box<[u8]>, (Record, u64)>;

/// What the core's store function makes of an item; `gone` says that what is stored has expired.
fn expect(
    stored: Option<&(Record, u64)>,
    item: &Item,
    at: BatchContext,
    gone: bool,
) -> (Option<(Record, u64)>, ItemReply) {
    let mut record = stored.filter(|_| !gone).map(|(record, _)| record.clone());
    let answer = apply(&mut record, item, at);
    if !matches!(answer, ItemReply::Done(_)) {
        return (stored.filter(|_| !gone).cloned(), answer);
    }
    let kept = record.map(|record| {
        let ends = expires_at(&record, item).0.div_ceil(1000);
        // What is the same is not written again.
        let same = stored.filter(|(old, _)| !gone && *old == record && ends * 1000 > at.now.0);
        (record, same.map_or(ends, |(_, ends)| *ends))
    });
    (kept.filter(|(_, ends)| ends * 1000 > at.now.0), answer)
}

/// A server that runs the script.
trait Server {
    async fn run(&mut self, batch: Batch) -> BatchReply;
    /// The replication id, as far as the script looks at it.
    fn replication(&self) -> u64;
    /// Another replication id, as after a failover.
    fn take_over(&mut self);
    fn forget_all(&mut self);
    fn forget(&mut self, key: &[u8]);
    /// For how long it may keep what has expired, in ms. What is gone stays gone though its clock steps back.
    const SLACK: u64;
}

/// A real one.
struct Real {
    redis: Single,
    store: std::sync::Arc<dyn CounterStore>,
    lane: LaneId,
    /// What the names of its keys begin with.
    begin: String,
}

impl Real {
    async fn start() -> Self {
        let redis = Single::start(&["--enable-debug-command", "yes"]);
        let store = open(region(&redis.url(), |_| ())).await;
        let lane = store.lane(b"{lane}");
        let first = Item {
            key: b"{lane}first".as_slice().into(),
            asks: vec![Ask { hits: 1, count: 1 }],
            counter: Counter::Window {
                grid: Grid::Fixed { width_ms: 60_000 },
                limit: 1,
                seen: SeenCells::None,
                returns: Vec::new(),
                debts: Debts::default(),
                lease: None,
            },
        };
        store
            .run(lane, Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![first] })
            .await
            .unwrap();
        let key = ask(redis.server.port, &["--scan", "--pattern", "*first"]);
        let begin = key.strip_suffix("{lane}first").unwrap().to_owned();
        Self { redis, store, lane, begin }
    }
}

impl Server for Real {
    const SLACK: u64 = 20;

    async fn run(&mut self, batch: Batch) -> BatchReply {
        self.store.run(self.lane, batch).await.unwrap()
    }

    fn replication(&self) -> u64 {
        let info = ask(self.redis.server.port, &["info", "replication"]);
        let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap();
        u64::from_str_radix(&id[..6], 16).unwrap()
    }

    fn take_over(&mut self) {
        assert_eq!(ask(self.redis.server.port, &["debug", "change-repl-id"]), "OK");
    }

    fn forget_all(&mut self) {
        ask(self.redis.server.port, &["flushall"]);
    }

    fn forget(&mut self, key: &[u8]) {
        let name = format!("{}{}", self.begin, String::from_utf8_lossy(key));
        ask(self.redis.server.port, &["del", &name]);
    }
}

/// The simulator's, whose clock stands still within a batch and now and then steps back.
struct Embedded {
    redis: Redis,
    random: Random,
    replication: u32,
    now_us: u64,
}

impl Server for Embedded {
    const SLACK: u64 = 0;

    async fn run(&mut self, batch: Batch) -> BatchReply {
        self.now_us = match self.random.below(1000) {
            0 => self.now_us - self.random.below(3_000_000),
            1..10 => self.now_us + self.random.below(3_000_000),
            _ => self.now_us + self.random.below(2000),
        };
        self.redis.run(&batch, self.now_us).unwrap()
    }

    fn replication(&self) -> u64 {
        self.replication.into()
    }

    fn take_over(&mut self) {
        self.replication += 1;
        self.redis.set_replication_id(self.replication);
    }

    fn forget_all(&mut self) {
        self.redis.set_data(Data::default());
    }

    fn forget(&mut self, key: &[u8]) {
        let mut data = self.redis.data();
        data.keys.remove(key);
        self.redis.set_data(data);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn the_script_equals_the_store_function() {
    compare(Real::start().await).await;
}

#[tokio::test]
async fn the_script_in_the_simulator_equals_the_store_function() {
    let (random, replication) = (Random(setting("TIDEGATE_SEED", 1) + 77), 0x00ab_cdef);
    let redis = Redis::new(replication).unwrap();
    compare(Embedded { redis, random, replication, now_us: 1_767_225_600_000_000 }).await;
}

async fn compare<S: Server>(mut server: S) {
    let (batches, seed) = (setting("TIDEGATE_CASES", 10_000), setting("TIDEGATE_SEED", 1));
    let mut replication = server.replication();
    let mut case = Case { random: Random(seed), told: HashMap::new(), number: 0, now: StoreTime(0) };
    let empty = Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: Vec::new() };
    case.now = server.run(empty).await.now;
    let mut stored = Stored::new();
    let mut seen = [0u64; 5];
    for number in 0..batches {
        if case.random.one_in(500) {
            server.take_over();
            replication = server.replication();
        }
        if case.random.one_in(3000) {
            server.forget_all();
            stored.clear();
        }
        let batch = case.batch();
        let answer = server.run(batch.clone()).await;
        case.now = answer.now;
        stored.retain(|_, (_, ends)| *ends + S::SLACK > answer.now.millis());
        let late = batch.not_after.is_some_and(|end| answer.now > end);
        let BatchOutcome::Ran(answers) = answer.outcome else {
            assert!(late, "batch {number} of seed {seed} is not late");
            seen[0] += 1;
            continue;
        };
        assert!(!late, "batch {number} of seed {seed} ran late");
        let Batch { holder, id, not_after, .. } = batch;
        let at = BatchContext { now: answer.now, replication, holder, batch: id, not_after };
        // Redis takes what expires by the clock of the script's beginning: what expires just then may be there or not.
        let mut unclear = Vec::new();
        for (item, answer) in batch.items.iter().zip(answers) {
            let known = stored.get(&item.key);
            let ms = at.now.millis();
            if unclear.contains(&&item.key) || known.is_some_and(|(_, ends)| ms.abs_diff(*ends) <= 20) {
                unclear.push(&item.key);
                continue;
            }
            let (kept, expected) = expect(known, item, at, known.is_some_and(|(_, ends)| ms > *ends));
            assert_eq!(answer, expected, "batch {number} of seed {seed}: {item:?} on {known:?} at {at:?}");
            let kind = match &answer {
                ItemReply::Failed => 1,
                ItemReply::OutOfBounds => 2,
                ItemReply::Done(grant) if matches!(grant.seen, Seen::Window { .. }) => 3,
                ItemReply::Done(_) => 4,
            };
            seen[kind] += 1;
            if let ItemReply::Done(grant) = answer {
                case.told.insert(item.key.clone(), grant.seen);
            }
            match kept {
                Some(kept) => stored.insert(item.key.clone(), kept),
                None => stored.remove(&item.key),
            };
        }
        for key in unclear {
            server.forget(key);
            stored.remove(key);
        }
    }
    println!("late, failed, out of bounds, windows, buckets: {seen:?}");
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// What brings a lease back twice counts once, also where another holder's came between.
#[test]
fn a_lease_s_end_is_known_again_after_another_holder_s() {
    let now = 1_767_225_600_000_000;
    let redis = Redis::new(0x00ab_cdef).unwrap();
    let run = |holder, id, asks: u64, returns: Vec<WindowReturn>| {
        let grid = Grid::Fixed { width_ms: 60_000 };
        let counter =
            Counter::Window { grid, limit: 100, seen: SeenCells::None, returns, debts: Debts::default(), lease: None };
        let asks = (asks > 0).then_some(Ask { hits: asks, count: 1 }).into_iter().collect();
        let item = Item { key: b"{lane}k".as_slice().into(), asks, counter };
        let batch = Batch {
            not_after: Some(StoreTime(now + 100_000)),
            holder: HolderId(holder),
            id: BatchId(id),
            items: vec![item],
        };
        let BatchOutcome::Ran(answers) = redis.run(&batch, now).unwrap().outcome else { panic!("it has time") };
        match &answers[..] {
            [ItemReply::Done(grant)] => grant.clone(),
            other => panic!("{other:?}"),
        }
    };
    let granted = run(1, 9, 20, Vec::new());
    let Seen::Window { incarnation, cell_ms, .. } = granted.seen else { panic!("a window") };
    let back = |tokens| vec![WindowReturn { cell_ms, incarnation, tokens }];
    assert_eq!(run(2, 3, 20, Vec::new()).available, 60);
    assert_eq!(run(1, 10, 0, back(5)).available, 65);
    assert_eq!(run(2, 4, 0, back(5)).available, 70);
    assert_eq!(run(1, 10, 0, back(5)).available, 70, "that one came before");
    assert_eq!(run(2, 4, 0, back(5)).available, 70, "and that one");
}
