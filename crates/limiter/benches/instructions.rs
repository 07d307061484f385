//! Counts the instructions of the paths that every check takes, with Callgrind. A count does not vary from run to run
//! as times do, so a limit on it is a test. `scripts/instructions` runs it. A limit that is exceeded for a good reason
//! is raised here by hand.

mod fixtures;

use limiter::{Check, Descriptor, Event, Ticket};
use std::hint::black_box;
use std::sync::Arc;

use fixtures::{ENTRIES, HOT, NOW, ask, ask_for, book, hot_shard, shard, shard_with, waiting_shard};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use limiter::rules::{ApplicableLimits, Consistency, RuleBook};
use limiter::{Shard, Verdict};

/// Checks in one count.
const CHECKS: usize = 100;

fn book_of(limits: usize) -> Arc<RuleBook> {
    book(limits, Consistency::Leased)
}

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

// A hundred lookups in a rule book of ten, a thousand and ten thousand limits. All take nearly the same number.
#[library_benchmark(config = at_most(140_000))]
#[bench::ten(book_of(10))]
#[bench::thousand(book_of(1000))]
#[bench::ten_thousand(book_of(10_000))]
fn matching(book: Arc<RuleBook>) -> Arc<RuleBook> {
    let descriptors =
        [Descriptor { entries: &ENTRIES, ordered: true, hits: 1, charging: Default::default(), limit: None }];
    let check = Check { domain: "api", descriptors: &descriptors };
    for _ in 0..CHECKS {
        let mut applied = ApplicableLimits::new();
        book.applicable(black_box(&check), &mut applied);
        assert_eq!(black_box(applied).len(), 1);
    }
    book
}

// A hundred checks of a key that has tokens in hand.
#[library_benchmark(config = at_most(335_000))]
#[bench::in_hand(hot_shard())]
fn hot_key(mut shard: Shard<()>) -> Shard<()> {
    for _ in 0..CHECKS {
        assert!(matches!(ask(&mut shard, black_box(&ENTRIES), HOT), Verdict::Decided(_)));
    }
    shard
}

// A hundred checks that wait for the store, each with its own key.
#[library_benchmark(config = at_most(470_000))]
#[bench::queued(shard(Consistency::Exact), (0..CHECKS).map(|at| format!("u{at}")).collect())]
fn cold_keys(mut shard: Shard<()>, users: Vec<String>) -> (Shard<()>, Vec<String>) {
    for user in &users {
        let entries = [("route", "r7"), ("user", user.as_str())];
        assert!(matches!(ask(&mut shard, black_box(&entries), NOW), Verdict::Waits { .. }));
    }
    (shard, users)
}

// A thousand checks that wait for one key, half of them in flight, and expire one by one, as when
// a store does not reply.
#[library_benchmark(config = at_most(4_000_000))]
#[bench::expire(waiting_shard())]
fn expiring((mut shard, tickets): (Shard<()>, Vec<Ticket>)) -> Shard<()> {
    for ticket in tickets {
        assert_eq!(shard.handle(Event::Expire(black_box(ticket)), NOW).decided.len(), 1);
    }
    shard
}

// A check of many descriptors to each of which twenty limits apply. Twice as many descriptors take no more than twice
// the number.
#[library_benchmark]
#[bench::forty(args = (shard_with(20), 40), config = at_most(2_700_000))]
#[bench::eighty(args = (shard_with(20), 80), config = at_most(5_400_000))]
fn many_descriptors(mut shard: Shard<()>, count: usize) -> Shard<()> {
    assert!(matches!(ask_for(&mut shard, black_box(count)), Verdict::Waits { .. }));
    shard
}

library_benchmark_group!(name = paths, benchmarks = [matching, hot_key, cold_keys, expiring, many_descriptors]);

main!(library_benchmark_groups = paths);
