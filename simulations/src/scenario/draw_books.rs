//! Draws whole rule books: several limits for one descriptor, overrides, `replaces`, `mode`, `charge` and `default`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::asked::Asked;
use super::limit_set::LimitSet;
use super::meaning::DomainRules;
use crate::rng::Rng;
use limiter::rules::{
    Algorithm, Charge, Condition, Consistency, Limit, Match, Mode, OnStoreFailure, Override, Period, Quota, Scope,
    Unmatched,
};

const TIERS: [&str; 2] = ["free", "pro"];
const PATHS: [&str; 2] = ["/a", "/b"];

/// What overrides test. Those that test only the user share the counter of a limit with `per: [user]`.
pub static OVERRIDE_TESTS: LazyLock<Vec<Match>> = LazyLock::new(|| {
    let equal = |value: &str| Condition::Equal(value.to_owned());
    let not = |condition| Condition::Not(Box::new(condition));
    let any = |values: &[&str]| Condition::AnyOf(values.iter().map(|value| (*value).to_owned()).collect());
    vec![
        matching(&[("user", equal("0"))]),
        matching(&[("user", any(&["1", "2"]))]),
        matching(&[("user", not(equal("0")))]),
        matching(&[]),
        matching(&[("tier", equal("pro"))]),
        matching(&[("tier", not(equal("pro")))]),
        matching(&[("path", Condition::Present(true))]),
        matching(&[("tier", equal("free")), ("user", equal("0"))]),
        matching(&[("path", equal("/b")), ("user", not(equal("1")))]),
    ]
});

fn matching(conditions: &[(&str, Condition)]) -> Match {
    let conditions = conditions.iter().map(|(name, condition)| ((*name).to_owned(), condition.clone()));
    Match { conditions: conditions.collect(), ..Match::default() }
}

/// Returns the number of what an override tests. Overrides of one limit that test the same have the same number.
pub fn override_test(matches: &Match) -> usize {
    OVERRIDE_TESTS.iter().position(|test| test == matches).unwrap_or(OVERRIDE_TESTS.len())
}

/// Draws rules: limits for the checks of [`LimitSet::Short`], and `others` for other checks.
pub fn draw_book(rng: &mut Rng, others: &[Limit]) -> DomainRules {
    let count = rng.index(3) + 2;
    let on_store_failure = others.first().map_or(OnStoreFailure::Deny, |limit| limit.on_store_failure);
    let limits = (0..count).map(|position| draw_limit(rng, (position, count), on_store_failure));
    let limits = limits.collect::<Vec<_>>().into_iter().chain(others.iter().cloned()).collect();
    with_terms(rng, limits)
}

/// Draws anew all that an edit may change without a new counter. For some limits, it also draws the window, which
/// begins a new counter.
pub fn edit_book(rng: &mut Rng, before: &DomainRules) -> DomainRules {
    let is_short = |limit: &&Limit| limit.name.starts_with(LimitSet::Short.name());
    let count = before.limits.iter().filter(is_short).count();
    let mut limits = before.limits.clone();
    for (position, limit) in limits.iter_mut().take(count).enumerate() {
        let (algorithm, mut consistency) = (limit.algorithm, limit.consistency);
        if consistency.is_some() && rng.chance(20) {
            consistency = Some(rng.pick(Consistency::Leased, &[Consistency::Exact]));
        }
        if rng.chance(15) {
            limit.period = draw_window(rng);
        }
        let meaning = draw_meaning(rng, (position, count), algorithm);
        *limit = Limit { consistency, ..with_meaning(rng, limit.clone(), meaning) };
    }
    with_terms(rng, limits)
}

fn with_terms(rng: &mut Rng, limits: Vec<Limit>) -> DomainRules {
    let charge = rng.pick(Charge::AllOrNothing, &[Charge::Each]);
    let unmatched = if rng.chance(20) { Unmatched::Deny } else { Unmatched::Allow };
    DomainRules::new(limits, charge, unmatched)
}

/// What an edit may change.
struct Meaning {
    matches: Match,
    limit: Quota,
    burst: Option<u64>,
    mode: Mode,
    overrides: Vec<Override>,
    replaces: Vec<String>,
}

fn draw_limit(rng: &mut Rng, (position, count): (usize, usize), on_store_failure: OnStoreFailure) -> Limit {
    use Algorithm::{FixedWindow, RollingWindow, SlidingWindow, TokenBucket};
    let algorithm = rng.pick(FixedWindow, &[SlidingWindow, RollingWindow, TokenBucket]);
    let consistency = rng.pick(Consistency::Leased, &[Consistency::Exact]);
    let limit = Limit {
        name: name(position),
        matches: Match::default(),
        per: if rng.chance(75) { vec!["user".into()] } else { Vec::new() },
        limit: Quota::Unlimited,
        period: draw_window(rng),
        algorithm,
        cells: (algorithm == RollingWindow).then(|| rng.pick(4, &[2, 10])),
        burst: None,
        consistency: (algorithm != TokenBucket).then_some(consistency),
        scope: Scope::Region,
        overdraft: false,
        on_store_failure,
        mode: Mode::Enforce,
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: BTreeMap::new(),
    };
    let meaning = draw_meaning(rng, (position, count), algorithm);
    with_meaning(rng, limit, meaning)
}

fn draw_window(rng: &mut Rng) -> Period {
    Period::Window { ms: rng.pick(1000, &[500, 2000]) }
}

fn name(position: usize) -> String {
    format!("{}-{position}", LimitSet::Short.name())
}

fn with_meaning(rng: &mut Rng, limit: Limit, meaning: Meaning) -> Limit {
    let Meaning { matches, limit: quota, burst, mode, overrides, replaces } = meaning;
    // An override must not switch a limit off that replaces others.
    let overrides = overrides.into_iter().map(|change| match change.mode {
        Some(Mode::Off) if !replaces.is_empty() => Override { mode: Some(draw_enforced(rng)), ..change },
        _ => change,
    });
    Limit { matches, limit: quota, burst, mode, overrides: overrides.collect(), replaces, ..limit }
}

fn draw_meaning(rng: &mut Rng, (position, count): (usize, usize), algorithm: Algorithm) -> Meaning {
    let limit = draw_quota(rng);
    let burst = draw_burst(rng, limit, algorithm);
    let mode = if rng.chance(8) { Mode::Off } else { draw_enforced(rng) };
    let overrides = (0..rng.index(3)).map(|_| draw_override(rng, algorithm)).collect();
    let later = (position + 1)..count;
    let replaces = if rng.chance(40) { later.filter(|_| rng.chance(50)).map(name).collect() } else { Vec::new() };
    Meaning { matches: draw_match(rng), limit, burst, mode, overrides, replaces }
}

fn draw_match(rng: &mut Rng) -> Match {
    let mut conditions = vec![("kind", Condition::Equal(LimitSet::Short.name().to_owned()))];
    if rng.chance(30) {
        let (name, values) = rng.pick(("tier", TIERS), &[("path", PATHS)]);
        let value = rng.pick(values[0], &values[1..]).to_owned();
        let condition = Condition::Equal(value);
        conditions.push((name, if rng.chance(40) { Condition::Not(Box::new(condition)) } else { condition }));
    }
    matching(&conditions)
}

fn draw_quota(rng: &mut Rng) -> Quota {
    match rng.index(16) {
        0 => Quota::Unlimited,
        1 => Quota::Hits(0),
        _ => Quota::Hits(rng.pick(5, &[1, 2, 3, 8, 12, 25, 40])),
    }
}

fn draw_burst(rng: &mut Rng, quota: Quota, algorithm: Algorithm) -> Option<u64> {
    match quota {
        Quota::Hits(hits @ 1..) if algorithm == Algorithm::TokenBucket && rng.chance(60) => {
            Some(rng.between(1, 2 * hits))
        }
        _ => None,
    }
}

fn draw_enforced(rng: &mut Rng) -> Mode {
    rng.pick(Mode::Enforce, &[Mode::Enforce, Mode::Enforce, Mode::Shadow])
}

fn draw_override(rng: &mut Rng, algorithm: Algorithm) -> Override {
    let test = rng.index(OVERRIDE_TESTS.len());
    let limit = rng.chance(75).then(|| draw_quota(rng));
    let mode = match limit {
        Some(_) if rng.chance(70) => None,
        _ if rng.chance(15) => Some(Mode::Off),
        _ => Some(draw_enforced(rng)),
    };
    Override {
        matches: OVERRIDE_TESTS.get(test).cloned().unwrap_or_default(),
        limit,
        burst: limit.and_then(|limit| draw_burst(rng, limit, algorithm)),
        mode,
        on_store_failure: rng.chance(15).then(|| rng.pick(OnStoreFailure::Deny, &[OnStoreFailure::Local])),
        response_headers: None,
    }
}

/// Draws the descriptors of a check of which `first` has the first user and hits.
pub fn draw_descriptors(rng: &mut Rng, first: Asked, users: u32) -> Vec<Asked> {
    let count = rng.pick(1, &[1, 1, 2, 2, 3]);
    let mut descriptors = Vec::new();
    for position in 0..count {
        let tier = rng.pick(None, &[Some(TIERS[0]), Some(TIERS[1])]);
        let path = rng.pick(None, &[Some(PATHS[0]), Some(PATHS[1])]);
        let other = Asked::of(u32::try_from(rng.index(users as usize)).unwrap_or(0), rng.pick(1, &[1, 2, 0]));
        let Asked { user, hits, .. } = if position == 0 { first } else { other };
        let user = if rng.chance(60) { first.user } else { user };
        descriptors.push(Asked { user, tier, path, hits });
    }
    descriptors
}
