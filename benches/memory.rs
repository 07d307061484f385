//! Measures a shard with ten million keys: bytes per resident key, bytes that remain after every key was evicted,
//! bytes per key and record with the memory store, and the longest time for which a check, a tick or a batch occupied
//! a core.
//!
//! Prints one line of JSON for each measurement. Bytes are differences of the resident memory of the process.

#[path = "../crates/limiter/benches/fixtures/mod.rs"]
mod fixtures;

use limiter::{Decision, Event, LaneId, Reply, WallTime};
use std::cell::Cell;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixtures::{CONFIG, WALL};
use futures_util::FutureExt;
use limiter::counter::{Batch, BatchReply};
use limiter::rules::{RuleBook, Rules};
use limiter::{Check, Descriptor, NodeTime, Revision, Shard, StoreTime, Verdict, counter};
use rustix::time::{ClockId, clock_gettime};
use tidegate::ports::{Clock, CounterStore};
use tidegate::store::memory::MemoryStore;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 10_000_000;
const RULES: &str =
    "version: 1\ndomains: [{ domain: api, limits: [{ name: per-user, per: [user], limit: 100, window: 1m }] }]\n";

/// Returns the resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn report(what: &str, bytes: u64) {
    println!("{{\"what\":\"{what}\",\"bytes\":{bytes},\"per_key\":{:.1}}}", bytes as f64 / KEYS as f64);
}

/// The longest durations of each operation, in CPU time.
#[derive(Default)]
struct Longest {
    check: Cell<Duration>,
    tick: Cell<Duration>,
    /// The tick that evicts the last keys and frees their tables.
    last_tick: Cell<Duration>,
    batch: Cell<Duration>,
}

/// Returns the CPU time of this thread. Other threads of the machine do not change it.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().expect("CPU time is not negative"),
        time.tv_nsec.try_into().expect("nanoseconds are below one second"),
    )
}

/// Runs `work`. If it took longer than `longest`, `longest` is set to its CPU time.
fn timed<T>(longest: &Cell<Duration>, work: impl FnOnce() -> T) -> T {
    let start = cpu_time();
    let value = work();
    longest.set((cpu_time() - start).max(longest.get()));
    value
}

impl Longest {
    fn report(&self) {
        let operations = [
            ("check", &self.check),
            ("tick", &self.tick),
            ("tick that frees the tables", &self.last_tick),
            ("batch of 1,000 in the memory store", &self.batch),
        ];
        for (what, longest) in operations {
            println!("{{\"what\":\"longest {what}\",\"us\":{}}}", longest.get().as_micros());
        }
    }
}

/// A clock that does not advance.
struct FixedClock(NodeTime);

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        self.0
    }

    fn wall(&self) -> WallTime {
        WallTime(WALL + self.0.0)
    }
}

/// Gives every queued batch to `run` and its reply to the shard. Returns the decisions.
fn run_batches(shard: &mut Shard<()>, now: NodeTime, run: impl Fn(Batch) -> BatchReply) -> Vec<Decision> {
    let mut decided = Vec::new();
    for out in shard.handle(Event::Flush, now).send {
        let (lane, batch) = (out.lane, out.batch.id);
        let reply = Event::Reply(Reply { lane, batch, result: Ok(run(out.batch)) });
        decided.extend(shard.handle(reply, now).decided.into_iter().map(|((), decision)| decision));
    }
    decided
}

/// Runs a batch as a store does that has no records and keeps none.
fn run_without_records(batch: &Batch, now: NodeTime) -> BatchReply {
    counter::run(batch, StoreTime(WALL + now.0), 1, &mut None, |item, cx| counter::apply(&mut None, item, cx))
}

#[expect(clippy::disallowed_methods, reason = "it measures the memory of the process while real time passes")]
fn main() {
    let rules: Rules = {
        let book = tidegate::rulefile::decode::compile("rules.yaml", RULES, Revision(1)).expect("valid rules");
        Rules::clone(book.rules())
    };
    let mut shard = Shard::new(CONFIG, WallTime(WALL), NodeTime(0));
    let book = Arc::new(RuleBook::compile(Arc::new(rules), Revision(1)).expect("valid rules"));
    let _ = shard.handle(Event::Rules(book), NodeTime(0));
    let before = resident_bytes();
    let mut now = NodeTime(1);
    let longest = Longest::default();
    for user in 0..KEYS {
        let name = format!("user-{user:012}");
        let entries = [("user", name.as_str())];
        let descriptors =
            [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
        let check = Check { domain: "api", descriptors: &descriptors };
        let verdict = timed(&longest.check, || shard.check(&check, |_| LaneId(0), now, || ()));
        assert!(matches!(verdict, Verdict::Waits { .. }), "{verdict:?}");
        if user % 1000 == 999 {
            let decided = run_batches(&mut shard, now, |batch| run_without_records(&batch, now));
            assert!(decided.len() == 1000 && decided.iter().all(|decision| decision.allowed));
            let _ = timed(&longest.tick, || shard.handle(Event::Tick, now));
        }
    }
    assert_eq!(shard.stats().keys as u64, KEYS);
    report("resident keys", resident_bytes() - before);
    // After two windows no key has state that matters, so each tick evicts some of the keys that it checks.
    now = NodeTime(130_000_000);
    for _ in 0..KEYS / 512 {
        now = now.plus(50_000);
        let before = shard.stats().keys;
        let tick = Cell::default();
        let _ = timed(&tick, || shard.handle(Event::Tick, now));
        let kind = if before > 0 && shard.stats().keys == 0 { &longest.last_tick } else { &longest.tick };
        kind.set(kind.get().max(tick.get()));
    }
    assert_eq!(shard.stats().keys, 0, "every key must be evicted");
    // The allocator returns pages to the system a second after they were freed, but only while it is in use.
    let freed_at = Instant::now();
    while freed_at.elapsed() < Duration::from_secs(3) {
        now = now.plus(50_000);
        let _ = shard.handle(Event::Tick, now);
        drop(black_box(vec![0_u8; 1 << 20]));
        std::thread::sleep(Duration::from_millis(5));
    }
    report("3 s after the eviction", resident_bytes().saturating_sub(before));

    let store = MemoryStore::new(Arc::new(FixedClock(now)), 12_000_000);
    let before = resident_bytes();
    for user in 0..KEYS {
        let name = format!("user-{user:012}");
        let entries = [("user", name.as_str())];
        let descriptors =
            [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
        shard.check(&Check { domain: "api", descriptors: &descriptors }, |_| LaneId(0), now, || ());
        if user % 1000 == 999 {
            run_batches(&mut shard, now, |batch| {
                timed(&longest.batch, || {
                    store
                        .run(LaneId(0), batch)
                        .now_or_never()
                        .expect("the memory store never waits")
                        .expect("the memory store never fails here")
                })
            });
        }
    }
    assert_eq!(store.len() as u64, KEYS);
    report("resident keys and their records in the memory store", resident_bytes() - before);
    longest.report();
}
