//! What a scenario and a seed decide before anything happens: the region, its rules, its traffic and what goes wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::dice::{Dice, Stream};
use super::faults::{self, Draw, Fault, Instant, Place};
use super::scenario::Scenario;
use limiter::Revision;
use limiter::rules::{
    Algorithm, Charge, Condition, Consistency, Domain, Limit, Match, Mode, OnStoreFailure, Period, Problem, Quota,
    RuleBook, Rules, Scope,
};

/// The domain of every check.
pub const DOMAIN: &str = "d";
/// A window that no simulation sees the end of.
pub const LONG_MS: u64 = 30 * 86_400_000;
const MS: u64 = 1000;

/// Which limits a check meets; `kind` in its descriptor says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// One or two short windows or buckets.
    Brief,
    /// The first of these alone.
    Lone,
    /// A small limit for each user, and one that all share, of windows without end.
    Pair,
    /// One limit for each user, of a window without end.
    Solo,
}

impl Family {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brief => "brief",
            Self::Lone => "lone",
            Self::Pair => "pair",
            Self::Solo => "solo",
        }
    }
}

/// Rules that are put in place at an instant.
#[derive(Clone, Debug)]
pub struct Edit {
    pub at: Instant,
    pub limits: Vec<Limit>,
    pub book: Arc<RuleBook>,
}

/// How clients ask.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Longest pause between two checks.
    pub longest_gap_us: u64,
    /// So many of a hundred pauses are followed by many checks of one user at once.
    pub bursts: u32,
    /// A user asks one core, as long as it lives.
    pub sticky: bool,
    /// So many of a hundred do not wait for an answer that does not come at once.
    pub hang_up: u32,
    /// So many of a hundred wait for a shorter time than the deadline.
    pub impatient: u32,
    /// So many of a hundred that are refused ask again at the instant that they were told.
    pub retry: u32,
    /// So many of a hundred that meet brief limits meet the first alone.
    pub lone: u32,
}

/// A simulation before it runs.
#[derive(Clone, Debug)]
pub struct Plan {
    pub scenario: Scenario,
    pub seed: u64,
    pub nodes: usize,
    /// Cores of each node.
    pub cores: usize,
    pub primaries: usize,
    pub lanes: u16,
    pub users: u32,
    /// Keys in memory of each core.
    pub max_keys: usize,
    pub lease_us: u64,
    pub deadline_us: u64,
    pub min_holders: u32,
    /// Longest that a batch or an answer takes where nothing is wrong.
    pub delay_us: u64,
    /// Replicas are behind by at most so much.
    pub lag_us: u64,
    /// The first ones are in place from the beginning.
    pub edits: Vec<Edit>,
    pub traffic: Traffic,
    pub faults: Vec<Fault>,
    /// From then on nothing goes wrong any more.
    pub heals_at: Instant,
}

impl Plan {
    /// # Errors
    /// When the rules that it draws up are not valid, which is a fault of ours.
    pub fn new(scenario: Scenario, seed: u64) -> Result<Self, Vec<Problem>> {
        let mut dice = Dice::new(seed, Stream::Plan);
        let heals_at = dice.between(1500, 4000) * MS;
        let memory = scenario == Scenario::Memory;
        let buckets = scenario == Scenario::Buckets;
        let suspended = scenario == Scenario::Suspended;
        let crowded = scenario == Scenario::Crowded || scenario == Scenario::Everything && dice.chance(20);
        // A store that forgets more often than a cell keeps sources apart.
        let storm = crowded && dice.chance(20);
        let forgets = matches!(scenario, Scenario::Failover | Scenario::Forgetting);
        let mut limits = draw_limits(&mut dice, scenario, crowded);
        let mut edits = vec![Edit { at: 0, book: book(&limits, Revision(1))?, limits: limits.clone() }];
        if matches!(scenario, Scenario::Edits | Scenario::Replaced | Scenario::Everything) {
            let mut at = 0;
            for revision in 2..=dice.between(2, 5) {
                at += dice.between(100, heals_at / MS / 4) * MS;
                for limit in limits.iter_mut().filter(|limit| limit.name.starts_with("brief")) {
                    edit(&mut dice, limit);
                }
                edits.push(Edit { at, book: book(&limits, Revision(revision))?, limits: limits.clone() });
            }
        }
        let deadline_us = dice.pick(100, &[50]) * MS;
        let (mut nodes, mut cores) = (dice.pick(2, &[1, 2, 3, 4]), dice.pick(1, &[1, 2]));
        let (mut primaries, mut lanes) = (dice.pick(1, &[2, 3]), dice.pick(4, &[1, 2, 8]));
        if buckets {
            (primaries, lanes) = (2, 8);
        }
        if crowded {
            (nodes, cores, lanes) = (dice.pick(3, &[4, 6]), dice.pick(8, &[12]), lanes.min(2));
        }
        let mut faults = Vec::new();
        let place = Place { nodes, primaries, lanes };
        if let [first, others @ ..] = scenario.faults() {
            for _ in 0..if storm { 100 } else { dice.between(1, if crowded || suspended { 10 } else { 4 }) } {
                let draw: Draw = if storm { faults::flush } else { dice.pick(*first, others) };
                let kind = draw(&mut dice, &place);
                let begin = dice.between(50, heals_at / MS - 400) * MS;
                let longest = (heals_at - begin).min(if crowded { 300 * MS } else { 1500 * MS });
                let end = if kind.is_sudden() { begin } else { begin + dice.between(20 * MS, longest) };
                faults.push(Fault { begin, end, kind });
            }
            faults.sort_by_key(|fault| fault.begin);
        }
        let (fewest, most) = if memory {
            (20, 60)
        } else {
            (
                1,
                if storm {
                    1
                } else if buckets || crowded || suspended {
                    2
                } else {
                    6
                },
            )
        };
        let mut traffic = Traffic {
            longest_gap_us: dice.pick(20, &[5, 50]) * MS,
            bursts: dice.pick(5, &[0, 20]),
            // Whoever is alone with a counter remembers all of it, so nothing of it may be forgotten.
            sticky: dice.chance(if forgets { 70 } else { 40 }),
            hang_up: dice.pick(0, &[3, 20, 40]),
            impatient: dice.pick(0, &[10]),
            retry: dice.pick(20, &[0, 80]),
            lone: dice.pick(0, &[50, 100]),
        };
        if buckets {
            // Whatever goes back to a bucket is asked for at once.
            traffic = Traffic { longest_gap_us: 5 * MS, bursts: 20, retry: 80, lone: dice.pick(50, &[80]), ..traffic };
        }
        if suspended {
            // Cores have tokens in hand when their machine is suspended, and much to spend when it wakes.
            traffic = Traffic { longest_gap_us: 5 * MS, sticky: false, lone: 80, ..traffic };
        }
        if crowded {
            // Every core has its part of the same few counters.
            traffic = Traffic { longest_gap_us: 5 * MS, bursts: if storm { 0 } else { 20 }, sticky: false, ..traffic };
        }
        Ok(Self {
            scenario,
            seed,
            nodes,
            cores,
            primaries,
            lanes,
            users: u32::try_from(dice.between(fewest, most)).unwrap_or(1),
            max_keys: usize::try_from(if memory { dice.between(4, 16) } else { 1000 }).unwrap_or(1),
            lease_us: dice.pick(300, &[100, 1000]).min(if buckets { 100 } else { 1000 }) * MS,
            deadline_us,
            min_holders: 3,
            delay_us: dice.pick(300, &[50, 3000, 10_000]).min(if buckets { 300 } else { deadline_us / 10 }),
            lag_us: dice.pick(1, &[20, 300, 1000]) * MS,
            edits,
            traffic,
            faults,
            heals_at,
        })
    }

    pub const fn holders(&self) -> usize {
        self.nodes * self.cores
    }

    /// What `on_store_failure: local` divides by.
    pub fn divisor(&self) -> u64 {
        (self.holders() as u64).max(self.min_holders.into())
    }

    /// The limits that a family's checks meet, by their place among all.
    pub fn limits_of(&self, family: Family) -> impl Iterator<Item = usize> + '_ {
        let all = self.edits.first().map(|edit| edit.limits.as_slice()).unwrap_or_default();
        let meets = move |limit: &Limit| match family {
            Family::Lone => limit.name == Family::Brief.name(),
            family => limit.name.starts_with(family.name()),
        };
        all.iter().enumerate().filter(move |(_, limit)| meets(limit)).map(|(at, _)| at)
    }

    /// Whether every outcome comes to be known, so that not a token may be lost.
    pub fn is_certain(&self) -> bool {
        !self.faults.iter().any(|fault| fault.kind.loses_outcomes())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}), seed {}", self.scenario.name(), self.scenario.about(), self.seed)?;
        let Self { nodes, cores, primaries, lanes, users, max_keys, lease_us, deadline_us, .. } = self;
        writeln!(
            f,
            "  region   {nodes} nodes of {cores} cores, {primaries} primaries with replicas behind by up to {} ms, {lanes} lanes",
            self.lag_us / MS
        )?;
        writeln!(
            f,
            "  settings lease {} ms, deadline {} ms, at most {max_keys} keys a core",
            lease_us / MS,
            deadline_us / MS
        )?;
        let Traffic { longest_gap_us, bursts, sticky, hang_up, impatient, retry, lone } = self.traffic;
        let sticky = if sticky { ", each at one core" } else { "" };
        writeln!(
            f,
            "  traffic  {users} users{sticky}, pauses up to {} ms, {bursts} % bursts, {hang_up} % hang up, {impatient} % impatient, {retry} % retry, {lone} % meet the first brief limit alone",
            longest_gap_us / MS
        )?;
        for edit in &self.edits {
            writeln!(f, "  rules    at {} ms, revision {}", edit.at / MS, edit.book.revision)?;
            for limit in &edit.limits {
                writeln!(f, "           {}", describe(limit))?;
            }
        }
        for Fault { begin, end, kind } in &self.faults {
            if begin == end {
                writeln!(f, "  fault    at {} ms {kind}", begin / MS)?;
            } else {
                writeln!(f, "  fault    {} to {} ms {kind}", begin / MS, end / MS)?;
            }
        }
        write!(f, "  heals    at {} ms", self.heals_at / MS)
    }
}

/// A limit in a line.
pub fn describe(limit: &Limit) -> String {
    let hits = if let Quota::Hits(hits) = limit.limit { hits.to_string() } else { "unlimited".to_owned() };
    let window = if let Period::Window { ms } = limit.period { ms } else { 0 };
    let window = if window == LONG_MS { "a month".to_owned() } else { format!("{window} ms") };
    let burst = limit.burst.map(|burst| format!(", burst {burst}")).unwrap_or_default();
    let consistency = if limit.consistency == Some(Consistency::Leased) { "leased" } else { "exact" };
    let whose = if limit.per.is_empty() { "for all" } else { "a user" };
    let failure = match limit.on_store_failure {
        OnStoreFailure::Local => "local",
        OnStoreFailure::Allow => "allow",
        OnStoreFailure::Deny => "deny",
    };
    let (name, algorithm) = (&limit.name, limit.algorithm.as_str());
    format!("{name}: {hits} {whose} in {window} ({algorithm}{burst}, {consistency}, without the store {failure})")
}

fn book(limits: &[Limit], revision: Revision) -> Result<Arc<RuleBook>, Vec<Problem>> {
    let domain = Domain { domain: DOMAIN.to_owned(), charge: Charge::AllOrNothing, limits: limits.to_vec() };
    RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).map(Arc::new)
}

fn draw_limits(dice: &mut Dice, scenario: Scenario, crowded: bool) -> Vec<Limit> {
    use Algorithm::{FixedWindow, RollingWindow, SlidingWindow, TokenBucket};
    let buckets = scenario == Scenario::Buckets;
    let hits = if crowded {
        dice.pick(200, &[100, 1000])
    } else if scenario == Scenario::Suspended {
        dice.pick(100, &[200, 400, 1000])
    } else if buckets {
        dice.pick(20, &[40, 100])
    } else {
        dice.pick(5, &[1, 2, 3, 8, 12, 20, 40, 100])
    };
    let mut algorithm = dice.pick(SlidingWindow, &[FixedWindow, RollingWindow, TokenBucket]);
    if buckets {
        algorithm = TokenBucket;
    }
    if scenario == Scenario::Suspended {
        algorithm = dice.pick(FixedWindow, &[FixedWindow, RollingWindow]);
    }
    let mut limits = vec![rule(dice, "brief", algorithm, hits, None)];
    if buckets || dice.chance(35) {
        let other = dice.pick(TokenBucket, &[FixedWindow, RollingWindow, SlidingWindow, TokenBucket]);
        algorithm = if buckets { TokenBucket } else { other };
        let more = dice.between(0, 20);
        let mut too = rule(dice, "brief-too", algorithm, hits + more, None);
        if dice.chance(50) {
            too.per.clear();
        }
        limits.push(too);
    }
    let mut long = |name, few, many| {
        let algorithm = dice.pick(FixedWindow, &[SlidingWindow, RollingWindow]);
        let hits = dice.between(few, many) * if crowded && name == "solo" { 10 } else { 1 };
        rule(dice, name, algorithm, hits, Some(LONG_MS))
    };
    limits.push(long("pair-small", 2, 8));
    limits.push(Limit { per: Vec::new(), ..long("pair-shared", 10, 60) });
    limits.push(long("solo", 5, 60));
    let on_store_failure = match scenario {
        Scenario::Outage | Scenario::Buckets | Scenario::Crowded => OnStoreFailure::Local,
        Scenario::Suspended | Scenario::Replaced => OnStoreFailure::Deny,
        _ => dice.pick(OnStoreFailure::Deny, &[OnStoreFailure::Local, OnStoreFailure::Allow]),
    };
    if scenario == Scenario::Suspended {
        limits
            .iter_mut()
            .filter(|limit| limit.consistency.is_some())
            .for_each(|limit| limit.consistency = Some(Consistency::Leased));
    }
    limits.iter_mut().for_each(|limit| limit.on_store_failure = on_store_failure);
    limits
}

/// A limit for each user that the checks of its family meet.
fn rule(dice: &mut Dice, name: &str, algorithm: Algorithm, hits: u64, window_ms: Option<u64>) -> Limit {
    let bucket = algorithm == Algorithm::TokenBucket;
    let family = name.split('-').next().unwrap_or(name);
    let mut kinds = vec![family.to_owned()];
    if name == Family::Brief.name() {
        kinds.push(Family::Lone.name().to_owned());
    }
    let kind = ("kind".to_owned(), Condition::AnyOf(kinds));
    let ms = window_ms.unwrap_or_else(|| dice.pick(1000, &[500, 2000]));
    let consistency = dice.pick(Consistency::Leased, &[Consistency::Exact]);
    Limit {
        name: name.to_owned(),
        matches: Match { conditions: BTreeMap::from([kind]), ..Match::default() },
        per: vec!["user".to_owned()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms },
        algorithm,
        cells: (algorithm == Algorithm::RollingWindow).then(|| dice.pick(4, &[2, 10])),
        burst: bucket.then(|| dice.between(1, 2 * hits)),
        consistency: (!bucket).then_some(consistency),
        scope: Scope::Region,
        on_store_failure: OnStoreFailure::Local,
        mode: Mode::Enforce,
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: BTreeMap::new(),
    }
}

fn edit(dice: &mut Dice, limit: &mut Limit) {
    let hits = dice.pick(5, &[1, 3, 12, 40, 100]);
    limit.limit = Quota::Hits(hits);
    if limit.burst.is_some() {
        limit.burst = Some(dice.between(1, 2 * hits));
    }
}
