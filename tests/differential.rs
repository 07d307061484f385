//! The counter script, in a real Redis on that server's own clock and in the simulator's Lua, and the core's store function
//! answer alike, batch for batch: whatever is asked, seen, given back, repeated, late, and whichever server takes over.
//!
//! 10,000 random batches, or as many as `TIDEGATE_CASES` says.

mod servers;

use std::collections::HashMap;

use tidegate::limiter::batch::{
    Ask, Batch, BatchAnswer, BatchOutcome, BucketReturn, BucketSeen, Counter, Item, ItemAnswer, Prefetch, Seen,
    WindowReturn,
};
use tidegate::limiter::counter::{At, Record, apply, expires_at};
use tidegate::limiter::rule::MAX_LIMIT;
use tidegate::limiter::time::StoreTime;
use tidegate::limiter::token_bucket::{Rate, Ticks};
use tidegate::limiter::window::{Cell, Entry, Grid, MAX_COUNT};

use servers::{Single, ask, open, region};
use tidegate::ports::CounterStore;
use tidegate::simulations::redis::{Data, Redis};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }

    /// Mostly small, now and then anything below `end`.
    fn size(&mut self, end: u64) -> u64 {
        let most = if self.one_in(10) { end } else { end.min(20) };
        self.below(most)
    }
}

/// What is stored under a key, and until when (ms).
type Stored = HashMap<Box<[u8]>, (Record, u64)>;

struct Case {
    random: Random,
    /// What each key's last answer told.
    told: HashMap<Box<[u8]>, Seen>,
    /// Batches so far.
    number: u64,
    now: StoreTime,
}

impl Case {
    fn batch(&mut self) -> Batch {
        let items = (0..=self.random.below(3)).map(|_| self.item()).collect();
        let holder = self.random.pick(&[1, 2, 0xffff_1234_5678, 0xffff_ffff_ffff]);
        self.number += 1;
        // Repeats, and batches that come behind later ones.
        let number = self.number.saturating_sub(if self.random.one_in(4) { self.random.below(9) } else { 0 });
        // Now and then more holders than a record keeps apart.
        let holder = if self.random.one_in(3) { 100 + self.random.below(90) } else { holder };
        // Most keys have one holder at a time.
        let holder = if (self.number / 500).is_multiple_of(2) && !self.random.one_in(5) { 1 } else { holder };
        let not_after = match self.random.below(10) {
            0 => None,
            1 => Some(StoreTime(self.now.0.saturating_sub(self.random.below(50_000)))),
            2 => Some(StoreTime(self.now.0 + self.random.below(20_000))),
            _ => Some(StoreTime(self.now.0 + 100_000)),
        };
        Batch { not_after, holder, number, items }
    }

    fn item(&mut self) -> Item {
        let kind = if self.random.one_in(3) { 14 + self.random.below(4) } else { self.random.below(14) };
        // All of one lane, for one batch is one lane's. What is calm stays so until a server takes over, so it is begun anew.
        let key: Box<[u8]> =
            format!("{{lane}}{kind}/{}", if kind < 14 { self.random.below(3) } else { self.number / 500 })
                .into_bytes()
                .into();
        let told = self.told.get(&key).cloned();
        // What is asked of a key now and then does not suit what is stored there.
        let kind = if self.random.one_in(100) { self.random.below(18) } else { kind };
        let most = self.random.pick(&[1, 3, 10, 100, 1_000_000, MAX_LIMIT]);
        let asks =
            (0..self.random.below(4)).map(|_| Ask { hits: self.random.size(most + 2), count: 1 + self.small(5) });
        let asks = asks.collect();
        let counter = match kind {
            0..=9 | 14.. => self.window(kind, most, told),
            _ => self.bucket(kind, most, told),
        };
        Item { key, asks, counter }
    }

    fn small(&mut self, end: u64) -> u32 {
        u32::try_from(self.random.below(end)).unwrap()
    }

    fn window(&mut self, kind: u64, most: u64, told: Option<Seen>) -> Counter {
        let ms = self.now.millis();
        let grid = match kind {
            0 => Grid::Fixed { width_ms: 250 },
            1 => Grid::Fixed { width_ms: 34_560_000_000 },
            2 => Grid::Sliding { width_ms: 250 },
            3 => Grid::Sliding { width_ms: 1000 },
            4 => Grid::Sliding { width_ms: 86_400_000 },
            5 => Grid::Rolling { width_ms: 13, cells: 20 },
            6 => Grid::Rolling { width_ms: 100, cells: 10 },
            7 => Grid::Rolling { width_ms: 60_000, cells: 2 },
            14 => Grid::Fixed { width_ms: 1000 },
            15 => Grid::Fixed { width_ms: 3_600_000 },
            16 => Grid::Sliding { width_ms: 3_600_000 },
            17 => Grid::Rolling { width_ms: 1000, cells: 1 },
            _ => {
                let from = ms - ms % 400;
                let from = if self.random.one_in(10) { from + 800 } else { from };
                Grid::Calendar { bounds: [from - 400, from, from + 400, from + 800] }
            }
        };
        let width_ms = match grid {
            Grid::Fixed { width_ms } | Grid::Sliding { width_ms } | Grid::Rolling { width_ms, .. } => width_ms,
            Grid::Calendar { .. } => 400,
        };
        // What most keys are: charged by their own incarnation alone.
        let calm = kind > 9 && !self.random.one_in(50);
        let (mut seen, mut returns) = (Vec::new(), Vec::new());
        if let Some(Seen::Window { incarnation, cell_ms, cells, .. }) = told {
            if !self.random.one_in(4) {
                seen = cells;
            }
            // More than the store knows of, as after a failover.
            if calm && self.random.one_in(4) {
                for entry in seen.iter_mut().flat_map(|cell| &mut cell.entries) {
                    entry.charged += self.random.below(3);
                    entry.returned = (entry.returned + self.random.below(3)).min(entry.charged);
                }
            }
            if self.random.one_in(if calm { 2 } else { 4 }) {
                // Now and then to the cell before.
                let back = if self.random.one_in(8) { width_ms } else { 0 };
                let cell_ms = cell_ms.saturating_sub(back);
                returns.push(WindowReturn { cell_ms, source: incarnation, tokens: self.random.size(50) });
            }
        }
        // What others forgot, debts, and cells of the past and of a clock that leapt.
        if !calm && self.random.one_in(4) {
            let back = self.random.below(4) * width_ms;
            let ahead = if self.random.one_in(30) { width_ms } else { 0 };
            let start_ms = (ms - ms % width_ms).saturating_sub(back) + ahead;
            let entries = (0..1 + self.random.size(40)).map(|_| {
                let charged = self.random.size(most);
                Entry { source: self.random.size(1 << 48), charged, returned: self.random.below(charged + 1) }
            });
            let cell = Cell { start_ms, entries: entries.collect() };
            if seen.iter().all(|other| other.start_ms != start_ms) {
                seen.push(cell);
            }
        }
        if !calm && self.random.one_in(10) {
            let source = self.random.size(1 << 48);
            returns.push(WindowReturn { cell_ms: ms - ms % width_ms, source, tokens: self.random.size(9) });
        }
        let lease = self.random.one_in(2).then(|| Prefetch {
            want: u32::try_from(self.random.size(u64::from(u32::MAX))).unwrap(),
            holders: self.small(9),
            min_left: self.random.size(300_000),
        });
        let limit = if self.random.one_in(20) { MAX_COUNT } else { self.random.size(most + 10) };
        Counter::Window { grid, limit, seen, returns, lease }
    }

    fn bucket(&mut self, kind: u64, most: u64, told: Option<Seen>) -> Counter {
        let window_ms = self.random.pick(&[250, 1000, 60_000, 86_400_000]);
        // One rate for each kind, but for edits.
        let mut rate = match kind {
            10 => Rate::new(10, 1000, 10),
            11 => Rate::new(999_983, 1000, 50_000),
            12 => Rate::new(3, 34_560_000_000, 7),
            _ => Rate::new(MAX_LIMIT, 250, MAX_LIMIT),
        };
        let mut revision = 5;
        if self.random.one_in(10) {
            rate = Rate::new(1 + self.random.size(most), window_ms, 1 + self.random.size(most.min(1000)));
            revision = 1 + self.random.below(12);
        } else if self.random.one_in(20) {
            // Another burst at the same rate.
            (rate.burst, revision) = (1 + self.random.below(rate.burst), 5 + self.random.below(8));
        }
        let (mut seen, mut returns) = (None, Vec::new());
        if let Some(Seen::Bucket { incarnation, tat, at }) = told {
            let other = Ticks(tat.0.saturating_add(u128::from(self.random.size(1 << 40))));
            seen = self.random.pick(&[
                None,
                Some(BucketSeen { incarnation, tat }),
                Some(BucketSeen { incarnation: incarnation + 1, tat: other }),
            ]);
            while self.random.one_in(3) {
                let hits = self.random.size(rate.burst);
                let charged_at = StoreTime(at.0.saturating_sub(self.random.size(2_000_000)));
                returns.push(BucketReturn { incarnation, step: rate.step, hits, charged_at });
            }
        }
        let owed = if self.random.one_in(6) { self.random.size(rate.burst * 2) } else { 0 };
        Counter::Bucket { rate, revision, seen, owed, returns }
    }
}

/// What the core's store function makes of an item; `gone` says that what is stored has expired.
fn expect(stored: Option<&(Record, u64)>, item: &Item, at: At, gone: bool) -> (Option<(Record, u64)>, ItemAnswer) {
    let mut record = stored.filter(|_| !gone).map(|(record, _)| record.clone());
    let answer = apply(&mut record, item, at);
    if !matches!(answer, ItemAnswer::Done(_)) {
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
    async fn run(&mut self, batch: Batch) -> BatchAnswer;
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
    lane: u16,
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
                seen: Vec::new(),
                returns: Vec::new(),
                lease: None,
            },
        };
        store.run(lane, Batch { not_after: None, holder: 1, number: 1, items: vec![first] }).await.unwrap();
        let key = ask(redis.server.port, &["--scan", "--pattern", "*first"]);
        let begin = key.strip_suffix("{lane}first").unwrap().to_owned();
        Self { redis, store, lane, begin }
    }
}

impl Server for Real {
    const SLACK: u64 = 20;

    async fn run(&mut self, batch: Batch) -> BatchAnswer {
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

    async fn run(&mut self, batch: Batch) -> BatchAnswer {
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
        self.redis.take_over(self.replication);
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
    let empty = Batch { not_after: None, holder: 1, number: 1, items: Vec::new() };
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
        let Batch { holder, number: own, not_after, .. } = batch;
        let at = At { now: answer.now, replication, holder, number: own, not_after };
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
                ItemAnswer::Failed => 1,
                ItemAnswer::OutOfBounds => 2,
                ItemAnswer::Done(grant) if matches!(grant.seen, Seen::Window { .. }) => 3,
                ItemAnswer::Done(_) => 4,
            };
            seen[kind] += 1;
            if let ItemAnswer::Done(grant) = answer {
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
    let run = |holder, number, asks: u64, returns: Vec<WindowReturn>| {
        let grid = Grid::Fixed { width_ms: 60_000 };
        let counter = Counter::Window { grid, limit: 100, seen: Vec::new(), returns, lease: None };
        let asks = (asks > 0).then_some(Ask { hits: asks, count: 1 }).into_iter().collect();
        let item = Item { key: b"{lane}k".as_slice().into(), asks, counter };
        let batch = Batch { not_after: Some(StoreTime(now + 100_000)), holder, number, items: vec![item] };
        let BatchOutcome::Ran(answers) = redis.run(&batch, now).unwrap().outcome else { panic!("it has time") };
        match &answers[..] {
            [ItemAnswer::Done(grant)] => grant.clone(),
            other => panic!("{other:?}"),
        }
    };
    let granted = run(1, 9, 20, Vec::new());
    let Seen::Window { incarnation, cell_ms, .. } = granted.seen else { panic!("a window") };
    let back = |tokens| vec![WindowReturn { cell_ms, source: incarnation, tokens }];
    assert_eq!(run(2, 3, 20, Vec::new()).available, 60);
    assert_eq!(run(1, 10, 0, back(5)).available, 65);
    assert_eq!(run(2, 4, 0, back(5)).available, 70);
    assert_eq!(run(1, 10, 0, back(5)).available, 70, "that one came before");
    assert_eq!(run(2, 4, 0, back(5)).available, 70, "and that one");
}
