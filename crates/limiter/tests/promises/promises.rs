//! The promise of every algorithm, for one to eight holders on one store, whatever the queue, the clocks and the
//! network do. The models here are plain: a list of admitted hits, held against the contract's words.

use crate::world::{Admitted, World, limit};
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
    Deliver {
        holder: usize,
        twice: bool,
    },
    Answer {
        holder: usize,
    },
    Lose {
        holder: usize,
        charged: bool,
    },
    Expire {
        holder: usize,
    },
    Advance(u64),
    /// The limit becomes this one.
    Edit(u64),
    /// The store's clock is set to the world's plus this.
    Leap(i64),
    Forget {
        all: bool,
    },
    Replicate,
    /// A batch comes once more, the `back`th before the last.
    Again {
        holder: usize,
        back: usize,
    },
    /// The store is not reached.
    Refuse {
        holder: usize,
    },
}

/// What may go wrong in a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Faults {
    Network,
    Edits,
    Clock,
    Forgetting,
}

fn step(faults: Faults) -> impl Strategy<Value = Step> {
    let holder = || 0usize..8;
    let hits = prop_oneof![6 => Just(1u32), 3 => 2u32..6, 1 => Just(0u32), 1 => Just(u32::MAX)];
    let pause = prop_oneof![4 => 0u64..2_000, 2 => 2_000u64..200_000, 1 => 200_000u64..2_500_000];
    let special = match faults {
        Faults::Network => prop_oneof![
            (holder(), 0usize..4).prop_map(|(holder, back)| Step::Again { holder, back }),
            holder().prop_map(|holder| Step::Refuse { holder }),
        ]
        .boxed(),
        Faults::Edits => (1u64..12).prop_map(Step::Edit).boxed(),
        Faults::Clock => (-3_000_000i64..3_000_000).prop_map(Step::Leap).boxed(),
        Faults::Forgetting => {
            prop_oneof![any::<bool>().prop_map(|all| Step::Forget { all }), Just(Step::Replicate)].boxed()
        }
    };
    prop_oneof![
        12 => (holder(), 0u8..2, hits).prop_map(|(holder, user, hits)| Step::Check { holder, user, hits }),
        8 => (holder(), prop::bool::weighted(0.05)).prop_map(|(holder, twice)| Step::Deliver { holder, twice }),
        8 => holder().prop_map(|holder| Step::Answer { holder }),
        1 => (holder(), any::<bool>()).prop_map(|(holder, charged)| Step::Lose { holder, charged }),
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
    /// Room for keys in each holder.
    keys: usize,
    limit: u64,
    steps: Vec<Step>,
}

fn case(faults: Faults) -> impl Strategy<Value = Case> {
    let mut algorithms = vec![Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::TokenBucket];
    if faults != Faults::Forgetting {
        // Of a rolling window a node remembers the newest two cells: what a store forgets of older ones stays lost.
        algorithms.push(Algorithm::RollingWindow);
    }
    // A lease assumes that the store's clock does not leap.
    let mut consistencies = vec![Consistency::Exact];
    if faults != Faults::Clock {
        consistencies.push(Consistency::Leased);
    }
    // A lone holder saw all that it charged, so nothing is lost when the store forgets.
    let holders = if faults == Faults::Forgetting { 1usize..2 } else { 1usize..9 };
    // Where there is room for one key, each of the two users drives the other out.
    let keys = if faults == Faults::Network { vec![1000, 1] } else { vec![1000] };
    (
        prop::sample::select(algorithms),
        prop::sample::select(consistencies),
        holders,
        prop::sample::select(keys),
        prop_oneof![0u64..13, Just(40)],
        prop::collection::vec(step(faults), 1..120),
    )
        .prop_map(|(algorithm, consistency, holders, keys, limit, steps)| Case {
            algorithm,
            consistency,
            holders,
            keys,
            limit,
            steps,
        })
}

/// Runs the case, and returns the world with the largest and the last limit that were in force.
fn run(case: &Case) -> (World, u64, u64) {
    let rule = |hits: u64| vec![limit("l", case.algorithm, hits, WINDOW_MS, case.consistency)];
    let mut world = World::with_keys(case.holders, rule(case.limit), case.keys);
    let (mut largest, mut last) = (case.limit, case.limit);
    for step in &case.steps {
        match *step {
            Step::Check { holder, user, hits } => world.check(holder % case.holders, user, hits),
            Step::Deliver { holder, twice } => world.deliver(holder % case.holders, twice),
            Step::Answer { holder } => world.answer(holder % case.holders),
            Step::Lose { holder, charged } => world.lose(holder % case.holders, charged),
            Step::Expire { holder } => world.expire(holder % case.holders),
            Step::Advance(micros) => world.advance(micros),
            Step::Edit(hits) => {
                (largest, last) = (largest.max(hits), hits);
                world.edit(rule(hits));
            }
            Step::Leap(leap) => world.leap = leap,
            Step::Forget { all } => world.forget(all),
            Step::Replicate => world.replica = world.store.clone(),
            Step::Again { holder, back } => world.again(holder % case.holders, back),
            Step::Refuse { holder } => world.refuse(holder % case.holders),
        }
    }
    world.settle();
    (world, largest, last)
}

/// Holds what one user was granted against the contract.
fn keeps_promise(algorithm: Algorithm, limit: u64, admitted: &[Admitted]) -> Result<(), TestCaseError> {
    let sum = |keep: &dyn Fn(u64) -> bool| -> u64 { admitted.iter().filter(|a| keep(a.at)).map(|a| a.hits).sum() };
    for end in admitted.iter().filter(|a| a.hits > 0) {
        let cell = end.at / WINDOW;
        match algorithm {
            Algorithm::FixedWindow => {
                let used = sum(&|t| t / WINDOW == cell);
                prop_assert!(used <= limit, "{used} in one window, limit {limit}");
            }
            Algorithm::SlidingWindow => {
                let current = sum(&|t| t / WINDOW == cell && t <= end.at);
                let before = sum(&|t| t / WINDOW + 1 == cell);
                let overlap = WINDOW - end.at % WINDOW;
                let used = u128::from(current) * u128::from(WINDOW) + u128::from(before) * u128::from(overlap);
                prop_assert!(used <= u128::from(limit * WINDOW), "{current} + part of {before}, limit {limit}");
            }
            Algorithm::RollingWindow => {
                let used = sum(&|t| t <= end.at && t + WINDOW > end.at);
                prop_assert!(used <= limit, "{used} within a window's length, limit {limit}");
            }
            Algorithm::TokenBucket => {
                for begin in admitted.iter().filter(|a| a.at <= end.at) {
                    let used = sum(&|t| begin.at <= t && t <= end.at);
                    let most = limit * WINDOW + (end.at - begin.at) * limit;
                    prop_assert!(used * WINDOW <= most, "{used} in {} us, limit {limit}", end.at - begin.at);
                }
            }
        }
    }
    Ok(())
}

fn users(world: &World) -> [Vec<Admitted>; 2] {
    [0, 1].map(|user| world.admitted.iter().filter(|a| a.user == user).copied().collect())
}

/// Once all is quiet and two windows have passed, the whole limit can be had again.
fn whole_limit_is_back(world: &mut World, limit: u64) -> Result<(), TestCaseError> {
    world.rest();
    world.advance(3 * WINDOW + 3_000_000);
    world.settle();
    for user in 0..2 {
        world.rest();
        let before = world.admitted.len();
        for _ in 0..limit {
            world.check(0, user, 1);
            world.settle();
        }
        prop_assert_eq!(world.admitted.len() - before, usize::try_from(limit).unwrap(), "the whole limit is usable");
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::world::cases())]

    #[test]
    fn delays_losses_and_repeats_pass_no_limit_and_lose_no_token(case in case(Faults::Network)) {
        let (mut world, limit, last) = run(&case);
        for user in users(&world) {
            keeps_promise(case.algorithm, limit, &user)?;
        }
        whole_limit_is_back(&mut world, last)?;
    }

    #[test]
    fn an_edit_in_mid_window_is_bounded_by_the_largest_limit_in_force(case in case(Faults::Edits)) {
        let (mut world, limit, last) = run(&case);
        for user in users(&world) {
            keeps_promise(case.algorithm, limit, &user)?;
        }
        whole_limit_is_back(&mut world, last)?;
    }

    #[test]
    fn a_forgetting_store_is_reminded(case in case(Faults::Forgetting)) {
        let (mut world, limit, last) = run(&case);
        for user in users(&world) {
            keeps_promise(case.algorithm, limit, &user)?;
        }
        whole_limit_is_back(&mut world, last)?;
    }

    /// On a clock that leaps, an instant is what the store takes it for: it never goes back while the key lives.
    #[test]
    fn a_leaping_clock_passes_no_limit(case in case(Faults::Clock)) {
        let (mut world, limit, last) = run(&case);
        for user in users(&world) {
            keeps_promise(case.algorithm, limit, &user)?;
        }
        // What a leap forward charged stays charged until the clock is there again.
        world.leap = 3_000_000;
        whole_limit_is_back(&mut world, last)?;
    }

    /// Two limits, one check: what is charged at both is what was admitted, once all is quiet and nothing was lost.
    #[test]
    fn all_or_nothing_charges_what_it_admits(
        consistency in prop::sample::select(vec![Consistency::Exact, Consistency::Leased]),
        holders in 1usize..5,
        small in 1u64..10,
        large in 1u64..30,
        // Room for one user's keys only: the other's go, but never with tokens in hand.
        keys in prop::sample::select(vec![1000, 2]),
        steps in prop::collection::vec(step(Faults::Network), 1..80),
    ) {
        let window_ms = 86_400_000;
        let rules = vec![
            limit("small", Algorithm::SlidingWindow, small, window_ms, consistency),
            limit("large", Algorithm::FixedWindow, large, window_ms, Consistency::Exact),
        ];
        let names = [0, 1].map(|at: usize| EffectiveLimit::new(&"d".into(), &rules[at], None, Revision(1)).key_prefix);
        let mut world = World::with_keys(holders, rules, keys);
        for step in steps {
            match step {
                Step::Check { holder, user, hits } => world.check(holder % holders, user, hits),
                Step::Deliver { holder, .. } => world.deliver(holder % holders, false),
                Step::Answer { holder } => world.answer(holder % holders),
                Step::Expire { holder } => world.expire(holder % holders),
                Step::Refuse { holder } => world.refuse(holder % holders),
                // Longer pauses would make a batch late, which expires checks only.
                Step::Advance(micros) => world.advance(micros % 50_000),
                _ => {}
            }
        }
        world.rest();
        let admitted: u64 = world.admitted.iter().map(|a| a.hits).sum();
        for name in names {
            prop_assert_eq!(world.charged_to(|key| key.starts_with(&name)), admitted);
        }
    }
}
