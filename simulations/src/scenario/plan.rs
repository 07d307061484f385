//! A simulation before it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::calendar::Calendar;
use super::demand::Demand;
use super::gossip::GossipSettings;
use super::kind::Scenario;
use super::limit_set::LimitSet;
use super::meaning::DomainRules;
use super::regions::Regions;
use super::rules_text::override_text;
use crate::faults::{Fault, FaultKind};
use crate::ids::{Counter, Instant, RegionIndex};
use limiter::counter::Part;
use limiter::escrow::{RightsPlan, Weight};
use limiter::rules::{Limit, Period, RuleBook};

/// The domain of every check.
pub const DOMAIN: &str = "d";
/// The store's time at which simulations without a calendar begin, in microseconds since the Unix epoch.
const STORE_EPOCH_US: u64 = 1_700_000_000_000_000;
/// The largest number of checks that may wait at one core.
pub const MAX_WAITING: usize = 200;
/// At the end, the windows that do not end are used up for this many users.
pub const DRAINED_USERS: u32 = 3;
/// The number of additional users that only send checks when the shared limits are used up.
pub const DRAIN_PROBE_USERS: u32 = 80;
const MS: u64 = 1000;
/// The most messages with changes that wait for their acknowledgements.
const MAX_TELLING: u64 = 4;
/// The most bytes of a report, as the node counts them: a name, and cells with a few entries each.
const MAX_REPORT_BYTES: usize = 1000;

/// Rules and weights of regions that come into force.
#[derive(Clone, Debug)]
pub struct Edit {
    pub at: Instant,
    pub rules: DomainRules,
    pub book: Arc<RuleBook>,
    /// By region.
    pub weights: Vec<u32>,
    /// By region: the weights after the next edit, if that changes them. Under escrow, regions take the smaller parts
    /// until then.
    pub next_weights: Option<Vec<u32>>,
    /// By region: how much later the edit reaches it, in microseconds.
    pub delays_us: Vec<u64>,
}

impl Edit {
    /// Returns when the edit reaches a region.
    pub fn reaches_at(&self, region: RegionIndex) -> Instant {
        self.at + self.delays_us.get(region.0).copied().unwrap_or(0)
    }

    /// Returns how rights are split, as a region knows it.
    pub fn rights_plan(&self, region: RegionIndex) -> Option<RightsPlan> {
        let next = self.next_weights.as_ref().unwrap_or(&self.weights);
        let weight = |(now, next): (&u32, &u32)| Weight { now: u64::from(*now), next: u64::from(*next) };
        let weights = self.weights.iter().zip(next).enumerate();
        let weights: BTreeMap<String, Weight> =
            weights.map(|(region, of)| (RegionIndex(region).name(), weight(of))).collect();
        RightsPlan::new(&region.name(), &weights)
    }

    /// Returns the weighted part of a region.
    pub fn part_of(&self, region: RegionIndex) -> Part {
        let weight = self.weights.get(region.0).copied().unwrap_or(1);
        Part { weight, weights: self.weights.iter().sum() }
    }
}

/// How clients send checks. The fields in percent are of a hundred such cases.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The longest pause between two checks, in microseconds.
    pub longest_gap_us: u64,
    /// The percentage of pauses that are followed by a burst: many checks of one user at once.
    pub bursts: u32,
    /// True if a user sends all checks to one core, as long as that core lives.
    pub sticky: bool,
    /// The percentage of clients that hang up if the answer does not come at once.
    pub hang_up: u32,
    /// The percentage of clients that wait for less time than the deadline.
    pub impatient: u32,
    /// The percentage of denied clients that ask again at the stated retry time.
    pub retry: u32,
    /// The percentage of [`LimitSet::Short`] checks that are sent as [`LimitSet::ShortOnly`].
    pub short_only: u32,
    /// The percentage of denied clients that ask another region at once, and stay there.
    pub hop: u32,
    /// The percentage of clients that ask a region that is drawn for one check.
    pub roam: u32,
}

/// A simulation before it runs.
#[derive(Clone, Debug)]
pub struct Plan {
    pub scenario: Scenario,
    pub seed: u64,
    pub regions: Regions,
    /// How regions tell each other what they counted, if there are several.
    pub gossip: GossipSettings,
    /// The number of nodes of each region.
    pub nodes: usize,
    /// The number of cores of each node.
    pub cores: usize,
    /// The number of primaries of each region.
    pub primaries: usize,
    pub lanes: u16,
    pub users: u32,
    /// The largest number of keys that a core keeps in memory.
    pub max_keys: usize,
    pub lease_us: u64,
    pub deadline_us: u64,
    pub min_holders: u32,
    /// The longest time that a batch or a reply takes without faults, in microseconds.
    pub delay_us: u64,
    /// The longest time by which replicas are behind, in microseconds.
    pub lag_us: u64,
    /// The calendar of some limits under escrow, if there is one.
    pub calendar: Option<Calendar>,
    /// The rules. The first edit is in force from the beginning.
    pub edits: Vec<Edit>,
    pub traffic: Traffic,
    /// The checks that one user sends in each region. `None` if all checks come from one stream of clients.
    pub demand: Option<Demand>,
    pub faults: Vec<Fault>,
    /// All faults have ended at this time.
    pub heals_at: Instant,
}

impl Plan {
    /// Returns the number of cores of each region.
    pub const fn holders(&self) -> usize {
        self.nodes * self.cores
    }

    /// Returns the store's time at which the simulation begins, in microseconds since the Unix epoch.
    pub fn epoch_us(&self) -> u64 {
        self.calendar.map_or(STORE_EPOCH_US, |calendar| calendar.epoch_us())
    }

    /// Returns the length of a limit's windows, in microseconds. They begin at its multiples since the Unix epoch. For
    /// a calendar, this is the instant at which one of its windows begins in the simulation. So that window has the
    /// number 1, and the one before it has 0.
    pub fn window_us(&self, limit: &Limit) -> Option<u64> {
        match limit.period {
            Period::Window { ms } => Some(ms * MS),
            Period::Calendar { .. } => self.calendar.map(|calendar| calendar.begins_us),
        }
    }

    /// Returns the divisor of `on_store_failure: local`.
    pub fn divisor(&self) -> u64 {
        (self.holders() as u64).max(self.min_holders.into())
    }

    /// Returns the limits that are in force first. Later edits change their values, not their number or order.
    pub fn limits(&self) -> &[Limit] {
        self.edits.first().map(|edit| edit.rules.limits.as_slice()).unwrap_or_default()
    }

    /// True if some limits are under `strategy: escrow`.
    pub const fn has_escrow(&self) -> bool {
        self.scenario.has_escrow()
    }

    /// Returns the limits of the last edit.
    pub fn final_limits(&self) -> &[Limit] {
        self.edits.last().map(|edit| edit.rules.limits.as_slice()).unwrap_or_default()
    }

    /// Returns the versions of one limit, one for each edit.
    pub fn versions(&self, limit: usize) -> impl Iterator<Item = &Limit> {
        self.edits.iter().filter_map(move |edit| edit.rules.limits.get(limit))
    }

    /// Returns the limit of a counter after overrides, once for each edit in which something counts in it.
    pub fn terms_of(&self, counter: Counter) -> impl Iterator<Item = &Limit> {
        self.edits.iter().filter_map(move |edit| edit.rules.terms_of(&counter))
    }

    /// Returns the indices of the limits that apply to checks with a limit set.
    pub fn limits_of(&self, set: LimitSet) -> impl Iterator<Item = usize> + '_ {
        let applies = move |limit: &Limit| match set {
            LimitSet::ShortOnly => limit.name == LimitSet::Short.name(),
            set => limit.name.starts_with(set.name()),
        };
        self.limits().iter().enumerate().filter(move |(_, limit)| applies(limit)).map(|(at, _)| at)
    }

    /// Returns the limit's own counter to which a user's checks are charged.
    pub fn counter(&self, region: RegionIndex, limit: usize, user: u32) -> Counter {
        let unknown = Counter { region, limit, window_ms: 0, apart: None, user: Some(user) };
        self.edits.first().map_or(unknown, |edit| edit.rules.counter(region, limit, user))
    }

    /// Returns the faults of a region.
    pub fn faults_of(&self, region: RegionIndex) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.region == region)
    }

    /// Returns whose hits a counter counts: `user 3` or `all`, in which region if there are several, and the override
    /// if it has its own counter.
    pub fn owner(&self, counter: &Counter) -> String {
        let apart = counter.apart.map(|test| format!(", override for {}", override_text(test)));
        self.regions.prefix(counter.region) + &counter.owner() + &apart.unwrap_or_default()
    }

    /// True if every batch's outcome in a region becomes known, so that no token may be lost there.
    pub fn is_certain(&self, region: RegionIndex) -> bool {
        !self.faults_of(region).any(|fault| fault.kind.loses_outcomes())
    }

    /// Returns the sum of the times by which clocks are set, in microseconds.
    pub fn clock_jumps_us(&self) -> u64 {
        let jumps = self.faults.iter().map(|fault| match fault.kind {
            FaultKind::ClockJump { by_ms, .. } => by_ms.unsigned_abs() * MS,
            _ => 0,
        });
        jumps.sum()
    }

    /// Returns how much longer a charge may count in another region than in its own, in microseconds: a region whose
    /// clock is behind reaches its window later.
    pub fn clock_spread_us(&self) -> u64 {
        if self.regions.count() < 2 { 0 } else { self.regions.clock_spread_us() + self.clock_jumps_us() }
    }

    /// Returns the rights of a limit of `hits` with which a region begins a window, at the last weights.
    pub fn begins_with(&self, region: RegionIndex, hits: u64) -> u64 {
        let plan = self.edits.last().and_then(|edit| edit.rights_plan(region));
        plan.map_or(0, |plan| plan.escrow(hits).part)
    }

    /// Returns the longest time from the sending of a message to the arrival of its acknowledgement without faults, in
    /// microseconds.
    pub fn message_timeout_us(&self, from: RegionIndex, to: RegionIndex) -> u64 {
        let both_ways = self.regions.delay_us(from, to) + self.regions.delay_us(to, from);
        both_ways + both_ways / 10 + 2 * self.deadline_us
    }

    /// Returns the longest time without faults from an answer in one region until another one knows of its hits, in
    /// microseconds.
    pub fn staleness_us(&self, from: RegionIndex, to: RegionIndex) -> u64 {
        let counters = self.limits().len() * self.users as usize;
        let intervals = 1 + counters.div_ceil((self.gossip.max_bytes / MAX_REPORT_BYTES).max(1)) as u64;
        let delay = self.regions.delay_us(from, to);
        intervals * self.gossip.interval_us + delay + delay / 10 + self.round_trip_us() + MS
    }

    /// Returns the longest time without faults from a grant in one region until another one knows of it, in
    /// microseconds, if a message has room for all changes. At most four messages with changes wait for their
    /// acknowledgements, so a node waits longer than one interval if a round trip takes more than four.
    pub fn usual_staleness_us(&self, from: RegionIndex, to: RegionIndex) -> u64 {
        let (delay, back) = (self.regions.delay_us(from, to), self.regions.delay_us(to, from));
        let acknowledged = delay + back + (delay + back) / 10 + self.round_trip_us();
        let intervals = (acknowledged.div_ceil(self.gossip.interval_us)).saturating_sub(MAX_TELLING - 1).max(1);
        intervals * self.gossip.interval_us + delay + delay / 10 + self.round_trip_us() + MS
    }

    /// Returns the longest time without faults until all regions know the same counts, if no more checks come, in
    /// microseconds: tokens in advance return, and what was lost is told again.
    pub fn convergence_us(&self) -> u64 {
        let regions = self.regions.indices();
        let pairs = regions.clone().flat_map(|from| regions.clone().map(move |to| (from, to)));
        let exchanges = pairs.map(|(from, to)| self.message_timeout_us(from, to) + 2 * self.staleness_us(from, to));
        self.lease_us + 2 * self.deadline_us + exchanges.max().unwrap_or(0)
    }

    /// Returns the longest time without faults from a question for rights until its answer, in microseconds, if the two
    /// messages take at least `both_ways_us`.
    pub fn rights_answer_us(&self, both_ways_us: u64) -> u64 {
        both_ways_us + both_ways_us / 10 + self.round_trip_us() + self.confirmation_us() + MS
    }

    /// Returns the longest time in which a replica confirms a write, in microseconds.
    pub fn confirmation_us(&self) -> u64 {
        self.lag_us.min(self.deadline_us / 4)
    }

    /// Returns the longest pause between two checks of a region that has a rate of its own, in microseconds.
    pub fn longest_pause_us(&self, region: RegionIndex, now: Instant) -> u64 {
        self.demand.as_ref().and_then(|demand| demand.longest_pause_us(region, now)).unwrap_or(0)
    }

    /// Returns the longest time from the loss of all messages to or from a region until a node notices that, in
    /// microseconds: a node sends at least four messages in the time after which a region is partitioned.
    pub const fn partition_noticed_us(&self) -> u64 {
        self.gossip.partition_after_us * 5 / 4 + 2 * self.gossip.interval_us + MS
    }

    /// Returns the longest time for which a batch and its reply are in flight without faults, in microseconds.
    pub const fn round_trip_us(&self) -> u64 {
        2 * self.delay_us
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}), seed {}", self.scenario.name(), self.scenario.about(), self.seed)?;
        let Self { nodes, cores, primaries, lanes, users, max_keys, lease_us, deadline_us, .. } = self;
        writeln!(
            f,
            "  region   {nodes} nodes of {cores} cores, {primaries} primaries with replicas up to {} ms behind, {lanes} lanes",
            self.lag_us / MS
        )?;
        writeln!(
            f,
            "  settings lease {} ms, deadline {} ms, at most {max_keys} keys per core",
            lease_us / MS,
            deadline_us / MS
        )?;
        if self.regions.count() > 1 {
            writeln!(f, "{}\n{}", self.regions, self.gossip)?;
        }
        let Traffic { longest_gap_us, bursts, sticky, hang_up, impatient, retry, short_only, hop, roam } = self.traffic;
        let sticky = if sticky { ", each at one core" } else { "" };
        writeln!(
            f,
            "  traffic  {users} users{sticky}, pauses up to {} ms, {bursts} % bursts, {hang_up} % hang up, {impatient} % \
             impatient, {retry} % retry, {short_only} % meet only the first brief limit",
            longest_gap_us / MS
        )?;
        if self.regions.count() > 1 {
            writeln!(f, "           {hop} % go to another region when denied, {roam} % ask any region")?;
        }
        if let Some(calendar) = &self.calendar {
            writeln!(f, "{calendar}")?;
        }
        if let Some(demand) = &self.demand {
            writeln!(f, "{demand}")?;
        }
        for edit in &self.edits {
            write!(f, "  rules    at {} ms, revision {}", edit.at / MS, edit.book.revision)?;
            if self.regions.count() > 1 {
                let weights: Vec<String> = edit.weights.iter().map(u32::to_string).collect();
                write!(f, ", weights {}", weights.join(":"))?;
                if let Some(next) = &edit.next_weights {
                    let next: Vec<String> = next.iter().map(u32::to_string).collect();
                    write!(f, " and next {}", next.join(":"))?;
                }
                for region in self.regions.indices().filter(|region| edit.reaches_at(*region) > edit.at) {
                    write!(f, ", in region {region} at {} ms", edit.reaches_at(region) / MS)?;
                }
            }
            writeln!(f)?;
            write!(f, "{}", edit.rules)?;
        }
        for Fault { begin, end, region, kind } in &self.faults {
            let region = self.regions.prefix(*region);
            if begin == end {
                writeln!(f, "  fault    at {} ms {region}{kind}", begin / MS)?;
            } else {
                writeln!(f, "  fault    {} to {} ms {region}{kind}", begin / MS, end / MS)?;
            }
        }
        write!(f, "  heals    at {} ms", self.heals_at / MS)
    }
}
