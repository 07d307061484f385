//! Bytes per resident key at a million keys, what passivation gives back, and bytes per record of the memory store.
//!
//! Prints one line of JSON for each; figures are the process's resident memory before and after.

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::limiter::batch::{BatchAnswer, ItemAnswer};
use tidegate::limiter::counter::{self, Record};
use tidegate::limiter::decision::{Check, Descriptor};
use tidegate::limiter::rule::Rules;
use tidegate::limiter::rule_book::RuleBook;
use tidegate::limiter::shard::{Shard, ShardConfig, Verdict};
use tidegate::limiter::time::{NodeTime, StoreTime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const WALL: u64 = 1_767_225_600_000_000;
const CONFIG: ShardConfig = ShardConfig {
    max_keys: 2_000_000,
    max_waiting: 100_000,
    lease_us: 1_000_000,
    deadline_us: 100_000,
    holders: 2,
    min_holders: 3,
    lanes: 1,
    max_items: 1000,
    seeds: [1, 2, 3, 4],
};
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

/// Sends what is queued, and answers from `records` where it keeps any.
fn carry(shard: &mut Shard, mut records: Option<&mut Vec<Option<Record>>>, now: NodeTime) {
    for out in shard.take_batches(now) {
        let answer: BatchAnswer = counter::run(&out.batch, StoreTime(WALL + now.0), 1, |item, at| {
            let mut record = None;
            let answer: ItemAnswer = counter::apply(&mut record, item, at);
            if let Some(records) = records.as_deref_mut() {
                records.push(record);
            }
            answer
        });
        shard.answer(out.lane, out.flight, Ok(answer), now);
    }
}

fn main() {
    let rules: Rules = {
        let book = tidegate::config::rules::compile("rules.yaml", RULES, 1).expect("good rules");
        Rules::clone(book.rules())
    };
    let mut shard = Shard::new(CONFIG, StoreTime(WALL), NodeTime(0));
    shard.set_book(Arc::new(RuleBook::compile(Arc::new(rules), 1).expect("good rules")));
    let before = resident();
    let mut now = NodeTime(1);
    for user in 0..KEYS {
        let name = format!("user-{user:012}");
        let entries = [("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits: 1, limit: None }];
        let verdict = shard.check(&Check { domain: "api", descriptors: &descriptors }, |_| 0, now);
        assert!(matches!(verdict, Verdict::Waits(_)), "{verdict:?}");
        if user % 1000 == 999 {
            carry(&mut shard, None, now);
            let done = shard.take_done();
            assert!(done.len() == 1000 && done.iter().all(|(_, decision)| decision.allowed));
        }
    }
    assert_eq!(shard.stats().keys as u64, KEYS);
    report("resident keys", resident() - before);
    // Two windows later nothing that a key remembers matters; a tick looks at a part of all keys.
    now = NodeTime(130_000_000);
    for _ in 0..1000 {
        now = now.plus(50_000);
        shard.tick(now);
    }
    assert_eq!(shard.stats().keys, 0, "every key is passivated");
    // The allocator hands pages to the system a second after they fell free, while it is in use.
    let freed = Instant::now();
    while freed.elapsed() < Duration::from_secs(3) {
        now = now.plus(50_000);
        shard.tick(now);
        drop(black_box(vec![0_u8; 1 << 20]));
        std::thread::sleep(Duration::from_millis(5));
    }
    report("3 s after passivation", resident().saturating_sub(before));

    let mut records = Vec::new();
    let begin = resident();
    for user in 0..KEYS {
        let name = format!("user-{user:012}");
        let entries = [("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits: 1, limit: None }];
        shard.check(&Check { domain: "api", descriptors: &descriptors }, |_| 0, now);
        if user % 1000 == 999 {
            carry(&mut shard, Some(&mut records), now);
            shard.take_done();
        }
    }
    report("keys and their records in the memory store, without its index", resident() - begin);
}
