//! Limits that come with a descriptor, as Envoy sends them: their counter belongs to the entries and the window.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rules::{limit, rule_book};
use crate::world::proptest_config;
use limiter::counter::{Record, apply, run};
use limiter::rules::{Algorithm, CalendarUnit, Consistency, Domain, Period, RuleBook, Rules};
use limiter::{
    Charging, Check, Decision, Descriptor, DryRun, Event, LaneId, NodeTime, Reply, Revision, Shard, ShardConfig,
    StoreTime, Verdict, WallTime,
};
use proptest::prelude::*;

const HOUR: Period = Period::Window { ms: 3_600_000 };
const MINUTE: Period = Period::Window { ms: 60_000 };
const START: StoreTime = StoreTime(1_700_000_000_000_000);
const CLIENT: &[(&str, &str)] = &[("remote_address", "1.1.1.1")];

fn descriptor<'a>(entries: &'a [(&'a str, &'a str)], hits: u32, limit: (u64, Period)) -> Descriptor<'a> {
    Descriptor { entries, ordered: true, hits, charging: Charging::IfAllowed, limit: Some(limit) }
}

fn dry_run() -> DryRun {
    let rules = vec![limit("l", Algorithm::FixedWindow, 1, 1000, Consistency::Leased)];
    DryRun::new(rule_book(rules, Revision(1)), START)
}

fn check(dry_run: &mut DryRun, descriptors: &[Descriptor<'_>]) -> Decision {
    dry_run.check(&Check { domain: "d", descriptors }, 0).unwrap()
}

/// Whether the check was allowed, and what was left.
fn outcome(dry_run: &mut DryRun, descriptor: Descriptor<'_>) -> (bool, Option<u64>) {
    let decision = check(dry_run, &[descriptor]);
    (decision.allowed, decision.limits[0].remaining)
}

#[test]
fn another_number_of_hits_goes_on_with_the_same_counter() {
    let mut dry_run = dry_run();
    let outcomes =
        [10, 10, 10, 2, 10, 4, 4, 10].map(|limit| outcome(&mut dry_run, descriptor(CLIENT, 1, (limit, HOUR))));
    let left = |left| (true, Some(left));
    assert_eq!(
        outcomes,
        [left(9), left(8), left(7), (false, Some(0)), left(6), (false, Some(0)), (false, Some(0)), left(5)]
    );
}

#[test]
fn entries_and_windows_have_counters_of_their_own() {
    let mut dry_run = dry_run();
    let month = Period::Calendar { unit: CalendarUnit::Month, time_zone: "UTC".to_owned() };
    for (entries, period) in [
        (CLIENT, HOUR),
        (&[("remote_address", "1.1.1.2")], HOUR),
        (&[("remote_address", "1.1.1.1"), ("path", "/")], HOUR),
        (&[], HOUR),
        (CLIENT, MINUTE),
        (CLIENT, month),
    ] {
        for allowed in [true, false] {
            let asked = descriptor(entries, 1, (1, period.clone()));
            assert_eq!(outcome(&mut dry_run, asked), (allowed, Some(0)), "{entries:?} {period:?}");
        }
    }
}

#[test]
fn no_limit_of_the_rules_shares_the_counters_of_a_limit_that_comes_with_a_descriptor() {
    // The counters of this limit begin with the same 48 bits. The names were found by trying 30 million.
    let (domain, colliding) = ("d10507345", "l5326649");
    let prefix = |decision: Decision| decision.limits[0].effective.key_prefix.clone();
    let of_descriptor = |limit_name: &str| {
        let rule = limit(limit_name, Algorithm::FixedWindow, 1, 60_000, Consistency::Leased);
        let domains = ["d", domain].map(|name| Domain {
            domain: name.to_owned(),
            limits: if name == "d" { vec![rule.clone()] } else { Vec::new() },
            ..Domain::default()
        });
        let rules = Rules { domains: domains.into() };
        let mut dry_run = DryRun::new(Arc::new(RuleBook::compile(Arc::new(rules), Revision(1)).unwrap()), START);
        let descriptors = [descriptor(CLIENT, 1, (10, Period::Window { ms: 1000 }))];
        prefix(dry_run.check(&Check { domain, descriptors: &descriptors }, 0).unwrap())
    };
    let mut with_rule = DryRun::new(
        rule_book(vec![limit(colliding, Algorithm::FixedWindow, 1, 60_000, Consistency::Leased)], Revision(1)),
        START,
    );
    let descriptors = [Descriptor { limit: None, ..descriptor(&[("user", "u")], 1, (0, HOUR)) }];
    let of_rule = prefix(check(&mut with_rule, &descriptors));
    assert_eq!(of_descriptor("another"), of_rule, "they do collide");
    assert_ne!(of_descriptor(colliding), of_rule);
}

#[test]
fn two_descriptors_with_one_counter_must_both_fit() {
    for limits in [[10, 3], [3, 10]] {
        let mut dry_run = dry_run();
        let two = limits.map(|limit| descriptor(CLIENT, 2, (limit, HOUR)));
        assert!(!check(&mut dry_run, &two).allowed, "4 hits in a limit of 3: {limits:?}");
        let one = limits.map(|limit| descriptor(CLIENT, 1, (limit, HOUR)));
        assert!(check(&mut dry_run, &one).allowed, "2 hits in a limit of 3: {limits:?}");
    }
}

#[test]
fn the_name_of_the_limit_says_where_it_comes_from() {
    // At most 120 bytes are shown.
    let (fits, long) = ("k".repeat(103), "k".repeat(104));
    let shown = format!("descriptor-limit/{fits}");
    let table: [(&[(&str, &str)], &str); 5] = [
        (CLIENT, "descriptor-limit/remote_address"),
        (&[("generic_key", "a"), ("path", "b")], "descriptor-limit/generic_key/path"),
        (&[("a\"b\n\u{e9}", "")], "descriptor-limit/a_b__"),
        (&[(&fits, "")], &shown),
        (&[(&long, "")], "descriptor-limit"),
    ];
    for (entries, name) in table {
        let decision = check(&mut dry_run(), &[descriptor(entries, 1, (5, HOUR))]);
        assert_eq!(&*decision.limits[0].effective.name, name);
        // Metrics have no label for a name that a request brought.
        assert!(decision.limits[0].effective.from_request);
    }
    let of_rule = [Descriptor { limit: None, ..descriptor(&[("user", "u")], 1, (0, HOUR)) }];
    assert!(!check(&mut dry_run(), &of_rule).limits[0].effective.from_request);
}

/// Two shards on one store. Batches are delivered when the test says so.
struct Shards {
    shards: Vec<Shard<u64>>,
    store: BTreeMap<Box<[u8]>, Option<Record>>,
    now: NodeTime,
}

impl Shards {
    fn new() -> Self {
        let config = ShardConfig {
            max_keys: 100,
            max_waiting: 100,
            lease_us: 1_000_000,
            deadline_us: 100_000,
            holders: 2,
            min_holders: 1,
            lanes: 1,
            max_items: 1000,
            hash_keys: false,
            seeds: [1, 2, 3, 4],
        };
        let book = rule_book(vec![limit("l", Algorithm::FixedWindow, 1, 1000, Consistency::Leased)], Revision(1));
        let shard = |seed: u64| {
            let mut shard = Shard::new(ShardConfig { seeds: [seed; 4], ..config }, WallTime(START.0), NodeTime(0));
            let _ = shard.handle(Event::Rules(Arc::clone(&book)), NodeTime(0));
            shard
        };
        Self { shards: (1..3).map(shard).collect(), store: BTreeMap::new(), now: NodeTime(0) }
    }

    /// Asks for hits under a limit. Returns the decision, if it needs no store. `tag` comes back with it otherwise.
    fn check(&mut self, at: usize, hits: u32, limit: u64, tag: u64) -> Option<Decision> {
        let descriptors = [descriptor(CLIENT, hits, (limit, HOUR))];
        let check = Check { domain: "d", descriptors: &descriptors };
        match self.shards[at].check(&check, |_| LaneId(0), self.now, || tag) {
            Verdict::Decided(decision) => Some(decision),
            Verdict::Waits { .. } => None,
            Verdict::Overloaded(overload) => panic!("{overload:?}"),
        }
    }

    /// Sends what a shard has to send, and delivers the replies. Returns the decisions.
    fn exchange(&mut self, at: usize) -> Vec<(u64, Decision)> {
        let mut decided = Vec::new();
        let mut events = vec![Event::Flush];
        while let Some(event) = events.pop() {
            let effects = self.shards[at].handle(event, self.now);
            decided.extend(effects.decided);
            for out in effects.send {
                let reply = run(&out.batch, StoreTime(START.0 + self.now.0), 1, &mut None, |item, cx| {
                    apply(self.store.entry(item.key.clone()).or_default(), item, cx)
                });
                events.push(Event::Reply(Reply { lane: out.lane, batch: out.batch.id, result: Ok(reply) }));
            }
        }
        decided
    }
}

proptest! {
    #![proptest_config(proptest_config())]

    /// Checks with different limits wait together, are paid from leases, and share a counter with another shard.
    #[test]
    fn no_check_is_admitted_above_its_own_limit(
        steps in prop::collection::vec((0usize..2, 0u32..4, 1u64..20, any::<bool>()), 1..60),
    ) {
        let mut shards = Shards::new();
        let (mut admitted, mut asked) = (0, Vec::new());
        let mut judge = |asked: (u32, u64), decision: Decision| {
            let (hits, limit) = asked;
            if decision.allowed {
                admitted += u64::from(hits);
                prop_assert!(admitted <= limit, "{admitted} hits are admitted, {hits} of them under {limit}");
            }
            Ok(())
        };
        for (at, hits, limit, exchange) in steps {
            shards.now = shards.now.plus(1000);
            asked.push((hits, limit));
            if let Some(decision) = shards.check(at, hits, limit, asked.len() as u64 - 1) {
                judge((hits, limit), decision)?;
            }
            if exchange {
                for (tag, decision) in shards.exchange(at) {
                    judge(asked[usize::try_from(tag).unwrap()], decision)?;
                }
            }
        }
    }
}
