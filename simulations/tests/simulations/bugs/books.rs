//! Bugs in the meaning of rules: which limits apply, in which counters they count, and what is charged.

use limiter::Revision;
use limiter::counter::{Batch, Counter};
use limiter::rules::{Charge, Condition, EffectiveLimit, Limit, Mode, Override, Rules};
use simulations::bug_injector::BugInjector;
use simulations::history::{ClientCheck, Decided};
use simulations::ids::CoreId;
use simulations::scenario::{DOMAIN, LimitSet, Scenario, has_own_counter};

/// The bugs in the meaning of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// The last override that matches applies, not the first one.
    LastOverrideApplies,
    /// An override that tests only `per` has its own counter.
    SharedOverridesCountApart,
    /// An override that tests more than `per` counts in the counter of its limit.
    OverridesShareTheCounter,
    /// Limits apply although another one replaces them.
    ReplacedLimitsApply,
    /// Limits that another one replaces are not in the answer, and count all the same.
    ReplacedLimitsCount,
    /// A limit in shadow mode denies.
    ShadowLimitsDeny,
    /// A limit in shadow mode counts the hits that it has no room for.
    ShadowLimitsCountAll,
    /// Descriptors are charged separately although the domain charges all or nothing.
    ChargesEach,
    /// A descriptor is charged only if no other one is denied, although the domain charges each.
    ChargesAllOrNothing,
    /// What the limits of the book reserved stays charged when one of them denies.
    KeepsWhatADenialReserved,
}

/// Each bug and the promise that it breaks, in the scenario that shows it.
pub const PLANTED: [(Bug, &str, Scenario); 10] = [
    (Bug::LastOverrideApplies, "rules", Scenario::Books),
    (Bug::SharedOverridesCountApart, "I1", Scenario::Books),
    (Bug::OverridesShareTheCounter, "denial", Scenario::Books),
    (Bug::ReplacedLimitsApply, "rules", Scenario::Books),
    (Bug::ReplacedLimitsCount, "denial", Scenario::Books),
    (Bug::ShadowLimitsDeny, "I4", Scenario::Books),
    (Bug::ShadowLimitsCountAll, "denial", Scenario::Books),
    (Bug::ChargesEach, "denial", Scenario::Books),
    (Bug::ChargesAllOrNothing, "I1", Scenario::Books),
    (Bug::KeepsWhatADenialReserved, "denial", Scenario::Books),
];

/// Plants one bug.
pub struct Planted {
    bug: Bug,
    /// By revision, from the first one on, and by limit: the limits that it replaces.
    replaces: Vec<Vec<Vec<usize>>>,
    /// What the names of some counters begin with, and what the bug lets them begin with.
    prefixes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Planted {
    pub const fn new(bug: Bug) -> Self {
        Self { bug, replaces: Vec::new(), prefixes: Vec::new() }
    }

    fn change(&mut self, limit: &mut Limit) {
        match self.bug {
            Bug::LastOverrideApplies => limit.overrides.reverse(),
            Bug::SharedOverridesCountApart => {
                let own: Vec<bool> = limit.overrides.iter().map(|change| has_own_counter(change, limit)).collect();
                for (change, _) in limit.overrides.iter_mut().zip(own).filter(|(_, own)| !own) {
                    // Every descriptor has this entry, which is not in `per`.
                    change.matches.conditions.insert("kind".to_owned(), Condition::Present(true));
                }
            }
            Bug::OverridesShareTheCounter => {
                let own = limit.overrides.iter().filter(|change| has_own_counter(change, limit));
                let prefixes = own.map(|change| (prefix(limit, Some(change)), prefix(limit, None)));
                self.prefixes.extend(prefixes.collect::<Vec<_>>());
            }
            Bug::KeepsWhatADenialReserved if limit.name.starts_with(LimitSet::Short.name()) => {
                let changes = std::iter::once(None).chain(limit.overrides.iter().map(Some));
                let prefixes = changes.map(|change| (prefix(limit, change), prefix(limit, change)));
                self.prefixes.extend(prefixes.collect::<Vec<_>>());
            }
            Bug::ReplacedLimitsApply | Bug::ReplacedLimitsCount => limit.replaces.clear(),
            // An overdraft is charged whether it fits or not.
            Bug::ShadowLimitsCountAll => limit.overdraft |= limit.mode == Mode::Shadow,
            _ => {}
        }
    }
}

/// Returns what the names of the counters of a limit or an override begin with.
fn prefix(limit: &Limit, change: Option<&Override>) -> Vec<u8> {
    EffectiveLimit::new(&DOMAIN.into(), limit, change, Revision(1)).key_prefix.to_vec()
}

/// Returns the limits that each limit replaces.
fn replaces(limits: &[Limit]) -> Vec<Vec<usize>> {
    let position = |name: &String| limits.iter().position(|limit| limit.name == *name);
    limits.iter().map(|limit| limit.replaces.iter().filter_map(position).collect()).collect()
}

impl BugInjector for Planted {
    fn rules(&mut self, mut rules: Rules) -> Option<Rules> {
        for domain in &mut rules.domains {
            self.replaces.push(replaces(&domain.limits));
            domain.limits.iter_mut().for_each(|limit| self.change(limit));
            match self.bug {
                Bug::ChargesEach => domain.charge = Charge::Each,
                Bug::ChargesAllOrNothing => domain.charge = Charge::AllOrNothing,
                _ => {}
            }
        }
        Some(rules)
    }

    fn alter_batch(&mut self, _: CoreId, batch: &mut Batch) {
        for item in &mut batch.items {
            let counted =
                self.prefixes.iter().find_map(|(from, to)| Some([to, item.key.strip_prefix(&**from)?].concat()));
            let Some(key) = counted else { continue };
            item.key = key.into();
            if let (Counter::Window { returns, .. }, Bug::KeepsWhatADenialReserved) = (&mut item.counter, self.bug) {
                returns.clear();
            }
        }
    }

    fn decided(&mut self, _: &ClientCheck, decided: &mut Decided) {
        match self.bug {
            Bug::ShadowLimitsDeny => decided.allowed &= !decided.limits.iter().any(|limit| limit.denied),
            Bug::ReplacedLimitsCount => {
                let revision = usize::try_from(decided.revision.0).unwrap();
                let Some(replaces) = self.replaces.get(revision - 1) else { return };
                let enforced = decided.limits.iter().filter(|limit| !limit.shadow);
                let replaced: Vec<usize> = enforced.flat_map(|limit| replaces[limit.limit].clone()).collect();
                decided.limits.retain(|limit| !replaced.contains(&limit.limit));
            }
            _ => {}
        }
    }
}
