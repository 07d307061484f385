//! Property tests of each algorithm's guarantee, for one to eight holders on one store, under random interleavings,
//! clocks and network faults. The model is a list of admitted hits that is compared with the contract.

use crate::rules::limit;
use crate::world::{Admission, World};
use limiter::Revision;
use limiter::rules::{Algorithm, Consistency, EffectiveLimit};
use proptest::prelude::*;

const WINDOW_MS: u64 = 1000;
const WINDOW: u64 = WINDOW_MS * 1000;

#[derive(Clone, Debug)]
enum Step {
    Check {
        holder: usize,
        user: u8,
        hits: u32,
    },
    DeliverBatch {
        holder: usize,
        twice: bool,
    },
    DeliverReply {
        holder: usize,
    },
    LoseBatch {
        holder: usize,
        charged: bool,
    },
    Expire {
        holder: usize,
    },
    Advance(u64),
    /// Changes the limit to this number of hits.
    ChangeLimit(u64),
    /// Sets the store's clock to the world's clock plus these microseconds.
    SetStoreClock(i64),
    LoseData {
        all: bool,
    },
    Replicate,
    /// Delivers again the batch that came `back` batches before the last.
    RedeliverBatch {
        holder: usize,
        back: usize,
    },
    /// The store is not reachable.
    FailToSend {
        holder: usize,
    },
}

/// The kind of fault that a case adds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Faults {
    Network,
    RuleChanges,
    Clock,
    DataLoss,
}

fn step(faults: Faults) -> impl Strategy<Value = Step> {
    let holder = || 0usize..8;
    let hits = prop_oneof![6 => Just(1u32), 3 => 2u32..6, 1 => Just(0u32), 1 => Just(u32::MAX)];
    let pause = prop_oneof![4 => 0u64..2_000, 2 => 2_000u64..200_000, 1 => 200_000u64..2_500_000];
    let special = match faults {
        Faults::Network => prop_oneof![
            (holder(), 0usize..4).prop_map(|(holder, back)| Step::RedeliverBatch { holder, back }),
            holder().prop_map(|holder| Step::FailToSend { holder }),
        ]
        .boxed(),
        Faults::RuleChanges => (1u64..12).prop_map(Step::ChangeLimit).boxed(),
        Faults::Clock => (-3_000_000i64..3_000_000).prop_map(Step::SetStoreClock).boxed(),
        Faults::DataLoss => {
            prop_oneof![any::<bool>().prop_map(|all| Step::LoseData { all }), Just(Step::Replicate)].boxed()
        }
    };
    prop_oneof![
        12 => (holder(), 0u8..2, hits).prop_map(|(holder, user, hits)| Step::Check { holder, user, hits }),
        8 => (holder(), prop::bool::weighted(0.05)).prop_map(|(holder, twice)| Step::DeliverBatch { holder, twice }),
        8 => holder().prop_map(|holder| Step::DeliverReply { holder }),
        1 => (holder(), any::<bool>()).prop_map(|(holder, charged)| Step::LoseBatch { holder, charged }),
        1 => holder().prop_map(|holder| Step::Expire { holder }),
        6 => pause.prop_map(Step::Advance),
        1 => special,
    ]
}

#[derive(Clone, Debug)]
struct Case {
    algorithm: Algorithm,
    consistency: Consistency,
    holders: usize,
    /// Number of keys that each holder has room for.
    max_keys: usize,
    limit: u64,
    steps: Vec<Step>,
}

fn case(faults: Faults) -> impl Strategy<Value = Case> {
    let mut algorithms = vec![Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::TokenBucket];
    if faults != Faults::DataLoss {
        // A node remembers the newest two cells of a rolling window. Older cells that the store lost cannot be
        // restored.
        algorithms.push(Algorithm::RollingWindow);
    }
    // A lease assumes that the store's clock does not jump.
    let mut consistencies = vec![Consistency::Exact];
    if faults != Faults::Clock {
        consistencies.push(Consistency::Leased);
    }
    // A single holder saw everything that it charged, so it can restore all data that the store lost.
    let holders = if faults == Faults::DataLoss { 1usize..2 } else { 1usize..9 };
    // With room for one key, each of the two users evicts the other.
    let max_keys = if faults == Faults::Network { vec![1000, 1] } else { vec![1000] };
    (
        prop::sample::select(algorithms),
        prop::sample::select(consistencies),
        holders,
        prop::sample::select(max_keys),
        prop_oneof![0u64..13, Just(40)],
        prop::collection::vec(step(faults), 1..120),
    )
        .prop_map(|(algorithm, consistency, holders, max_keys, limit, steps)| Case {
            algorithm,
            consistency,
            holders,
            max_keys,
            limit,
            steps,
        })
}

/// Runs the case. Returns the world, the largest limit that was in force, and the last one.
fn run(case: &Case) -> (World, u64, u64) {
    let rule = |hits: u64| vec![limit("l", case.algorithm, hits, WINDOW_MS, case.consistency)];
    let mut world = World::with_max_keys(case.holders, rule(case.limit), case.max_keys);
    let (mut largest, mut last) = (case.limit, case.limit);
    for step in &case.steps {
        match *step {
            Step::Check { holder, user, hits } => world.check(holder % case.holders, user, hits),
            Step::DeliverBatch { holder, twice } => world.deliver_batch(holder % case.holders, twice),
            Step::DeliverReply { holder } => world.deliver_reply(holder % case.holders),
            Step::LoseBatch { holder, charged } => world.lose_batch(holder % case.holders, charged),
            Step::Expire { holder } => world.expire_all(holder % case.holders),
            Step::Advance(micros) => world.advance(micros),
            Step::ChangeLimit(hits) => {
                (largest, last) = (largest.max(hits), hits);
                world.change_rules(rule(hits));
            }
            Step::SetStoreClock(offset) => world.store_clock_offset = offset,
            Step::LoseData { all } => world.lose_data(all),
            Step::Replicate => world.replica = world.store.clone(),
            Step::RedeliverBatch { holder, back } => world.redeliver_batch(holder % case.holders, back),
            Step::FailToSend { holder } => world.fail_to_send(holder % case.holders),
        }
    }
    world.deliver_all();
    (world, largest, last)
}

/// Checks the admissions of one user against the contract.
fn check_guarantee(algorithm: Algorithm, limit: u64, admitted: &[Admission]) -> Result<(), TestCaseError> {
    let sum = |keep: &dyn Fn(u64) -> bool| -> u64 { admitted.iter().filter(|a| keep(a.at)).map(|a| a.hits).sum() };
    for end in admitted.iter().filter(|a| a.hits > 0) {
        let cell = end.at / WINDOW;
        match algorithm {
            Algorithm::FixedWindow => {
                let used = sum(&|t| t / WINDOW == cell);
                prop_assert!(used <= limit, "{used} hits in one window, limit {limit}");
            }
            Algorithm::SlidingWindow => {
                let current = sum(&|t| t / WINDOW == cell && t <= end.at);
                // Hits that are older than the window may be left out.
                let before = sum(&|t| t / WINDOW + 1 == cell && t + WINDOW > end.at);
                let overlap = WINDOW - end.at % WINDOW;
                let used = u128::from(current) * u128::from(WINDOW) + u128::from(before) * u128::from(overlap);
                prop_assert!(used <= u128::from(limit * WINDOW), "{current} hits + part of {before}, limit {limit}");
            }
            Algorithm::RollingWindow => {
                let used = sum(&|t| t <= end.at && t + WINDOW > end.at);
                prop_assert!(used <= limit, "{used} hits within one window length, limit {limit}");
            }
            Algorithm::TokenBucket => {
                for begin in admitted.iter().filter(|a| a.at <= end.at) {
                    let used = sum(&|t| begin.at <= t && t <= end.at);
                    let max = limit * WINDOW + (end.at - begin.at) * limit;
                    prop_assert!(used * WINDOW <= max, "{used} hits in {} us, limit {limit}", end.at - begin.at);
                }
            }
        }
    }
    Ok(())
}

fn admissions_by_user(world: &World) -> [Vec<Admission>; 2] {
    [0, 1].map(|user| world.admissions.iter().filter(|a| a.user == user).copied().collect())
}

/// Checks that the whole limit is available again after everything is delivered and three windows have passed.
fn check_whole_limit_is_available(world: &mut World, limit: u64) -> Result<(), TestCaseError> {
    world.end_leases();
    world.advance(3 * WINDOW + 3_000_000);
    world.deliver_all();
    for user in 0..2 {
        world.end_leases();
        let before = world.admissions.len();
        for _ in 0..limit {
            world.check(0, user, 1);
            world.deliver_all();
        }
        prop_assert_eq!(
            world.admissions.len() - before,
            usize::try_from(limit).unwrap(),
            "the whole limit is available"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::world::proptest_config())]

    #[test]
    fn network_faults_exceed_no_limit_and_lose_no_token(case in case(Faults::Network)) {
        let (mut world, limit, last) = run(&case);
        for user in admissions_by_user(&world) {
            check_guarantee(case.algorithm, limit, &user)?;
        }
        check_whole_limit_is_available(&mut world, last)?;
    }

    #[test]
    fn a_rule_change_within_a_window_admits_no_more_than_the_largest_limit_in_force(case in case(Faults::RuleChanges)) {
        let (mut world, limit, last) = run(&case);
        for user in admissions_by_user(&world) {
            check_guarantee(case.algorithm, limit, &user)?;
        }
        check_whole_limit_is_available(&mut world, last)?;
    }

    #[test]
    fn a_single_holder_restores_data_that_the_store_lost(case in case(Faults::DataLoss)) {
        let (mut world, limit, last) = run(&case);
        for user in admissions_by_user(&world) {
            check_guarantee(case.algorithm, limit, &user)?;
        }
        check_whole_limit_is_available(&mut world, last)?;
    }

    /// Times are those that the store used. For a key that still has a record, the store's time never goes back.
    #[test]
    fn a_store_clock_that_jumps_exceeds_no_limit(case in case(Faults::Clock)) {
        let (mut world, limit, last) = run(&case);
        for user in admissions_by_user(&world) {
            check_guarantee(case.algorithm, limit, &user)?;
        }
        // Hits that were charged after a jump forward stay charged until the clock reaches that time again.
        world.store_clock_offset = 3_000_000;
        check_whole_limit_is_available(&mut world, last)?;
    }

    /// If one check has two limits and no batch is lost, both counters end with exactly the admitted hits.
    #[test]
    fn all_or_nothing_charges_both_limits_the_admitted_hits(
        consistency in prop::sample::select(vec![Consistency::Exact, Consistency::Leased]),
        holders in 1usize..5,
        small in 1u64..10,
        large in 1u64..30,
        // With room for one user's keys, the other user's keys are evicted, but never while they hold tokens.
        max_keys in prop::sample::select(vec![1000, 2]),
        steps in prop::collection::vec(step(Faults::Network), 1..80),
    ) {
        let window_ms = 86_400_000;
        let rules = vec![
            limit("small", Algorithm::SlidingWindow, small, window_ms, consistency),
            limit("large", Algorithm::FixedWindow, large, window_ms, Consistency::Exact),
        ];
        let prefixes =
            [0, 1].map(|index: usize| EffectiveLimit::new(&"d".into(), &rules[index], None, Revision(1)).key_prefix);
        let mut world = World::with_max_keys(holders, rules, max_keys);
        for step in steps {
            match step {
                Step::Check { holder, user, hits } => world.check(holder % holders, user, hits),
                Step::DeliverBatch { holder, .. } => world.deliver_batch(holder % holders, false),
                Step::DeliverReply { holder } => world.deliver_reply(holder % holders),
                Step::Expire { holder } => world.expire_all(holder % holders),
                Step::FailToSend { holder } => world.fail_to_send(holder % holders),
                // Longer pauses would make a batch late, which only expires checks.
                Step::Advance(micros) => world.advance(micros % 50_000),
                _ => {}
            }
        }
        world.end_leases();
        let admitted: u64 = world.admissions.iter().map(|a| a.hits).sum();
        for prefix in prefixes {
            prop_assert_eq!(world.charged_hits_where(|key| key.starts_with(&prefix)), admitted);
        }
    }
}
