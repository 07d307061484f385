//! BatchContext ten million keys: bytes per resident key, what passivation gives back, bytes per record of the memory
//! store, and for how long the longest check and the longest tick on the way there held up a core.
//!
//! Prints one line of JSON for each; bytes are the process's resident memory before and after.

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

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn report(what: &str, bytes: u64) {
    println!("{{\"what\":\"{what}\",\"bytes\":{bytes},\"per_key\":{:.1}}}", bytes as f64 / KEYS as f64);
}

/// The longest pauses.
#[derive(Default)]
struct Pauses {
    check: Cell<Duration>,
    tick: Cell<Duration>,
    /// The tick that finds no key any more.
    last_tick: Cell<Duration>,
    batch: Cell<Duration>,
}

/// What this thread took of a core: others of this machine do not count.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().expect("it grows"), time.tv_nsec.try_into().expect("below a second"))
}

/// Does `work`, and remembers how long it took if that was the longest yet.
fn timed<T>(longest: &Cell<Duration>, work: impl FnOnce() -> T) -> T {
    let begin = spent();
    let value = work();
    longest.set((spent() - begin).max(longest.get()));
    value
}

impl Pauses {
    fn report(&self) {
        let all = [
            ("check", &self.check),
            ("tick", &self.tick),
            ("tick that gives back what a crowd took", &self.last_tick),
            ("batch of 1,000 in the memory store", &self.batch),
        ];
        for (what, longest) in all {
            println!("{{\"what\":\"longest {what}\",\"us\":{}}}", longest.get().as_micros());
        }
    }
}

/// A clock that does not move.
struct Standing(NodeTime);

impl Clock for Standing {
    fn now(&self) -> NodeTime {
        self.0
    }

    fn wall(&self) -> WallTime {
        WallTime(WALL + self.0.0)
    }
}

/// Sends what is queued, and has it answered by `run`.
fn carry(shard: &mut Shard<()>, now: NodeTime, run: impl Fn(Batch) -> BatchReply) -> Vec<Decision> {
    let mut decided = Vec::new();
    for out in shard.handle(Event::Flush, now).send {
        let (lane, batch) = (out.lane, out.batch.id);
        let reply = Event::Reply(Reply { lane, batch, result: Ok(run(out.batch)) });
        decided.extend(shard.handle(reply, now).decided.into_iter().map(|((), decision)| decision));
    }
    decided
}

/// A store that keeps nothing.
fn forget(batch: &Batch, now: NodeTime) -> BatchReply {
    counter::run(batch, StoreTime(WALL + now.0), 1, |item, at| counter::apply(&mut None, item, at))
}

#[expect(clippy::disallowed_methods, reason = "it measures what the process holds while real time passes")]
fn main() {
    let rules: Rules = {
        let book = tidegate::rulefile::decode::compile("rules.yaml", RULES, Revision(1)).expect("good rules");
        Rules::clone(book.rules())
    };
    let mut shard = Shard::new(CONFIG, WallTime(WALL), NodeTime(0));
    let book = Arc::new(RuleBook::compile(Arc::new(rules), Revision(1)).expect("good rules"));
    let _ = shard.handle(Event::Rules(book), NodeTime(0));
    let before = resident();
    let mut now = NodeTime(1);
    let pauses = Pauses::default();
    for user in 0..KEYS {
        let name = format!("user-{user:012}");
        let entries = [("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits: 1, limit: None }];
        let check = Check { domain: "api", descriptors: &descriptors };
        let verdict = timed(&pauses.check, || shard.check(&check, |_| LaneId(0), now, || ()));
        assert!(matches!(verdict, Verdict::Waits(_)), "{verdict:?}");
        if user % 1000 == 999 {
            let decided = carry(&mut shard, now, |batch| forget(&batch, now));
            assert!(decided.len() == 1000 && decided.iter().all(|decision| decision.allowed));
            let _ = timed(&pauses.tick, || shard.handle(Event::Tick, now));
        }
    }
    assert_eq!(shard.stats().keys as u64, KEYS);
    report("resident keys", resident() - before);
    // Two windows later nothing that a key remembers matters; a tick looks at a part of all keys.
    now = NodeTime(130_000_000);
    for _ in 0..KEYS / 512 {
        now = now.plus(50_000);
        let before = shard.stats().keys;
        let tick = Cell::default();
        let _ = timed(&tick, || shard.handle(Event::Tick, now));
        let longest = if before > 0 && shard.stats().keys == 0 { &pauses.last_tick } else { &pauses.tick };
        longest.set(longest.get().max(tick.get()));
    }
    assert_eq!(shard.stats().keys, 0, "every key is passivated");
    // The allocator hands pages to the system a second after they fell free, while it is in use.
    let freed = Instant::now();
    while freed.elapsed() < Duration::from_secs(3) {
        now = now.plus(50_000);
        let _ = shard.handle(Event::Tick, now);
        drop(black_box(vec![0_u8; 1 << 20]));
        std::thread::sleep(Duration::from_millis(5));
    }
    report("3 s after passivation", resident().saturating_sub(before));

    let store = MemoryStore::new(Arc::new(Standing(now)), 12_000_000);
    let begin = resident();
    for user in 0..KEYS {
        let name = format!("user-{user:012}");
        let entries = [("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits: 1, limit: None }];
        shard.check(&Check { domain: "api", descriptors: &descriptors }, |_| LaneId(0), now, || ());
        if user % 1000 == 999 {
            carry(&mut shard, now, |batch| {
                timed(&pauses.batch, || {
                    store.run(LaneId(0), batch).now_or_never().expect("it never waits").expect("it never fails")
                })
            });
        }
    }
    assert_eq!(store.len() as u64, KEYS);
    report("resident keys and their records in the memory store", resident() - begin);
    pauses.report();
}
