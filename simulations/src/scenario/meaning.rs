//! What rules mean, from the contract's words in plain slow code: which limits apply to a check, in which counter each
//! one counts, and what is charged together. It uses nothing of the core but the rules as data.

use super::asked::Asked;
use super::draw_books::override_test;
use super::limit_set::LimitSet;
use crate::ids::{Counter, RegionIndex};
use limiter::rules::{Charge, Condition, Limit, Match, Mode, Override, Period, Unmatched};

/// The rules of the domain.
#[derive(Clone, Debug)]
pub struct DomainRules {
    pub limits: Vec<Limit>,
    pub charge: Charge,
    pub unmatched: Unmatched,
    /// By limit: the limit after each override.
    changed: Vec<Vec<Limit>>,
}

/// A limit that applies to a descriptor of a check.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'r> {
    /// The position of the descriptor in the check.
    pub descriptor: usize,
    /// The index of the limit.
    pub limit: usize,
    /// The limit after its override.
    pub terms: &'r Limit,
    pub counter: Counter,
    /// What has the same group is charged together or not at all.
    pub group: usize,
    /// The hits that the whole group asks of the counter.
    pub hits: u64,
}

impl Applied<'_> {
    /// True if the limit denies its group when it has no room.
    pub fn enforces(&self) -> bool {
        self.terms.mode == Mode::Enforce
    }
}

impl DomainRules {
    pub fn new(limits: Vec<Limit>, charge: Charge, unmatched: Unmatched) -> Self {
        let of = |limit: &Limit| limit.overrides.iter().map(|change| changed(limit, change)).collect();
        Self { changed: limits.iter().map(of).collect(), limits, charge, unmatched }
    }

    /// Returns rules with the defaults of a domain: a check is charged for all of its descriptors or for none, and
    /// allowed if no limit matches.
    pub fn of(limits: Vec<Limit>) -> Self {
        Self::new(limits, Charge::default(), Unmatched::default())
    }

    /// Returns the limits that apply to a check, by descriptor and then in the order of the rules.
    pub fn applied(&self, region: RegionIndex, set: LimitSet, asked: &[Asked]) -> Vec<Applied<'_>> {
        let mut all = Vec::new();
        for (descriptor, asked) in asked.iter().enumerate() {
            let entries = asked.entries(set);
            let group = if self.charge == Charge::Each { descriptor } else { 0 };
            for limit in 0..self.limits.len() {
                let Some((terms, counter)) = self.apply(region, limit, asked.user, &entries) else { continue };
                all.push(Applied { descriptor, limit, terms, counter, group, hits: asked.hits.into() });
            }
        }
        // A limit that only reports replaces nothing.
        let enforced = all.iter().filter(|applied| applied.enforces());
        let replaced: Vec<&String> = enforced.map(|applied| applied.terms).flat_map(|terms| &terms.replaces).collect();
        all.retain(|applied| !replaced.contains(&&applied.terms.name));
        let asked: Vec<(usize, Counter, u64)> = all.iter().map(|it| (it.group, it.counter, it.hits)).collect();
        for applied in &mut all {
            let same =
                asked.iter().filter(|(group, counter, _)| (*group, *counter) == (applied.group, applied.counter));
            applied.hits = same.map(|(.., hits)| hits).sum();
        }
        all
    }

    /// Returns the limit after its override, and its counter, if it applies to a descriptor of a user.
    fn apply(
        &self,
        region: RegionIndex,
        index: usize,
        user: u32,
        entries: &[(&str, String)],
    ) -> Option<(&Limit, Counter)> {
        let limit = self.limits.get(index)?;
        let is_present = |name: &String| entries.iter().any(|(key, _)| key == name);
        if !holds(&limit.matches, entries) || !limit.per.iter().all(|per| is_present(&per.attribute)) {
            return None;
        }
        // The first override that matches wins.
        let first = limit.overrides.iter().position(|change| holds(&change.matches, entries));
        let terms = first.map_or(Some(limit), |first| self.changed.get(index)?.get(first))?;
        let change = first.and_then(|first| limit.overrides.get(first));
        let apart = change.filter(|change| has_own_counter(change, limit));
        let apart = apart.map(|change| override_test(&change.matches));
        let counter = Counter { apart, ..self.counter(region, index, user) };
        (terms.mode != Mode::Off).then_some((terms, counter))
    }

    /// Returns the limit's own counter to which a user's checks are charged.
    pub fn counter(&self, region: RegionIndex, index: usize, user: u32) -> Counter {
        let limit = self.limits.get(index);
        // All limits of simulations count each user separately, or all users together.
        let counts_together = limit.is_some_and(|limit| limit.per.is_empty());
        let user = (!counts_together).then_some(user);
        Counter { region, limit: index, window_ms: limit.map_or(0, window_ms), apart: None, user }
    }

    /// Returns the limit that a counter has after the overrides. Returns `None` if nothing counts in it.
    pub fn terms_of(&self, counter: &Counter) -> Option<&Limit> {
        let limit = self.limits.get(counter.limit).filter(|limit| window_ms(limit) == counter.window_ms)?;
        let user: Vec<(&str, String)> = counter.user.iter().map(|user| ("user", user.to_string())).collect();
        // All hits of a limit's own counter have the same values of `per`. So an override that tests nothing else
        // applies to all of them or to none.
        let is_of = |change: &Override| match (counter.apart, has_own_counter(change, limit)) {
            (Some(test), true) => override_test(&change.matches) == test,
            (None, false) => holds(&change.matches, &user),
            _ => false,
        };
        let terms = match limit.overrides.iter().position(is_of) {
            Some(first) => self.changed.get(counter.limit)?.get(first)?,
            None if counter.apart.is_some() => return None,
            None => limit,
        };
        (terms.mode != Mode::Off).then_some(terms)
    }

    /// Returns the limit with this index after each of its overrides.
    pub fn changed(&self, limit: usize) -> &[Limit] {
        self.changed.get(limit).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns each limit, and what it is after each of its overrides.
    pub fn all_terms(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().chain(self.changed.iter().flatten())
    }
}

/// Returns the length of a limit's window, in milliseconds, or 0 for a calendar.
const fn window_ms(limit: &Limit) -> u64 {
    match limit.period {
        Period::Window { ms } => ms,
        Period::Calendar { .. } => 0,
    }
}

/// Returns a limit after an override.
fn changed(limit: &Limit, change: &Override) -> Limit {
    // A burst belongs to the limit beside which it is written.
    let inherited = if change.limit.is_some() { None } else { limit.burst };
    Limit {
        limit: change.limit.unwrap_or(limit.limit),
        burst: change.burst.or(inherited),
        mode: change.mode.unwrap_or(limit.mode),
        on_store_failure: change.on_store_failure.unwrap_or(limit.on_store_failure),
        overrides: Vec::new(),
        ..limit.clone()
    }
}

/// True if an override has its own counter: it tests an attribute that is not in `per`.
pub fn has_own_counter(change: &Override, limit: &Limit) -> bool {
    let is_in_per = |name: &String| limit.per.iter().any(|per| per.attribute == *name);
    !change.matches.conditions.keys().all(is_in_per)
}

fn holds(matches: &Match, entries: &[(&str, String)]) -> bool {
    matches.conditions.iter().all(|(name, condition)| {
        let value = entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        is_true(condition, value)
    })
}

fn is_true(condition: &Condition, value: Option<&str>) -> bool {
    match condition {
        Condition::Equal(wanted) => value == Some(wanted.as_str()),
        Condition::AnyOf(wanted) => wanted.iter().any(|wanted| value == Some(wanted.as_str())),
        Condition::Present(present) => value.is_some() == *present,
        Condition::Not(condition) => !is_true(condition, value),
        // Simulations draw no others.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};
    use crate::scenario::Scenario;
    use crate::scenario::draw_limits::draw_limits;
    use limiter::rules::Quota;

    /// A limit of 10 hits for each user.
    fn limit(name: &str, mode: Mode, replaces: &[&str]) -> Limit {
        let [drawn, ..] = &draw_limits(&mut Rng::new(0, Stream::Plan), Scenario::Calm, false)[..] else { panic!() };
        let replaces = replaces.iter().map(|name| (*name).to_owned()).collect();
        Limit { name: name.to_owned(), limit: Quota::Hits(10), burst: None, mode, replaces, ..drawn.clone() }
    }

    fn change(conditions: &[(&str, &str)], hits: u64) -> Override {
        let equal = |(name, value): &(&str, &str)| ((*name).to_owned(), Condition::Equal((*value).to_owned()));
        let matches = Match { conditions: conditions.iter().map(equal).collect(), ..Match::default() };
        Override { matches, limit: Some(Quota::Hits(hits)), ..Override::default() }
    }

    /// What applies to each descriptor: the name, the limit, the group, the hits of the group, and whether an override
    /// has its own counter.
    fn applied(rules: &DomainRules, asked: &[Asked]) -> Vec<(String, Quota, usize, u64, bool)> {
        let applied = rules.applied(RegionIndex(0), LimitSet::Short, asked);
        let told =
            |it: &Applied<'_>| (it.terms.name.clone(), it.terms.limit, it.group, it.hits, it.counter.apart.is_some());
        applied.iter().map(told).collect()
    }

    #[test]
    fn the_first_override_that_matches_wins_and_has_its_own_counter_if_it_tests_more_than_per() {
        let overrides = vec![change(&[("tier", "pro")], 40), change(&[("user", "0")], 20)];
        let rules = DomainRules::of(vec![Limit { overrides, ..limit("a", Mode::Enforce, &[]) }]);
        let of = |user, tier| applied(&rules, &[Asked { tier, ..Asked::of(user, 1) }]);
        let told = |hits, apart| vec![("a".to_owned(), Quota::Hits(hits), 0, 1, apart)];
        assert_eq!(of(0, Some("pro")), told(40, true));
        assert_eq!(of(0, Some("free")), told(20, false));
        assert_eq!(of(1, None), told(10, false));
        let own = rules.counter(RegionIndex(0), 0, 0);
        assert_eq!(rules.terms_of(&own).map(|terms| terms.limit), Some(Quota::Hits(20)));
    }

    #[test]
    fn only_a_limit_that_enforces_replaces_others_and_it_does_so_once() {
        let limits = |mode| vec![limit("a", mode, &["b"]), limit("b", Mode::Enforce, &["c"]), limit("c", mode, &[])];
        let names = |mode| {
            let applied = applied(&DomainRules::of(limits(mode)), &[Asked::of(0, 1)]);
            applied.into_iter().map(|(name, ..)| name).collect::<String>()
        };
        assert_eq!(names(Mode::Enforce), "a", "b is replaced, and replaces c all the same");
        assert_eq!(names(Mode::Shadow), "ab", "a replaces nothing");
        assert_eq!(names(Mode::Off), "b");
    }

    #[test]
    fn descriptors_ask_for_their_sum_unless_each_is_charged_separately() {
        let asked = [Asked::of(0, 2), Asked::of(0, 3)];
        let hits = |charge| {
            let rules = DomainRules::new(vec![limit("a", Mode::Enforce, &[])], charge, Unmatched::Allow);
            applied(&rules, &asked).into_iter().map(|(_, _, group, hits, _)| (group, hits)).collect::<Vec<_>>()
        };
        assert_eq!(hits(Charge::AllOrNothing), [(0, 5), (0, 5)]);
        assert_eq!(hits(Charge::Each), [(0, 2), (1, 3)]);
    }
}
