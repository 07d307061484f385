//! Property tests of whole rule books against an oracle that computes their meaning by itself: which limits apply, what
//! is charged, which limits deny, and what the answer says of each.

mod node;
mod oracle;
mod rules;

use std::collections::BTreeMap;

use limiter::rules::{Algorithm, Mode};
use limiter::{Decision, LimitStatus};
use proptest::prelude::*;

use node::Node;
use oracle::{Applied, Counter, Oracle, applied};
use rules::{Attributes, Book, Rule, attributes, books, name};

/// A check: how long it comes after the one before, in milliseconds, and its descriptors with their hits.
type Asked = (u64, Vec<(Attributes, u32)>);

/// Midnight, in milliseconds since the epoch.
const MIDNIGHT_MS: u64 = crate::dry_domain::MIDNIGHT.0 / 1000;

fn asked() -> impl Strategy<Value = Asked> {
    let pause = prop_oneof![4 => Just(0), 4 => 1u64..100, 2 => 100u64..1500, 1 => 1500u64..5000];
    let hits = prop_oneof![6 => Just(1u32), 3 => 2u32..9, 1 => Just(0)];
    (pause, prop::collection::vec((attributes(), hits), 1..4))
}

/// A check, and what the oracle says of it.
struct Case<'c> {
    book: &'c Book,
    oracle: &'c Oracle,
    at_ms: u64,
    applied: Vec<Applied>,
    /// The group of each limit: what is charged together.
    groups: Vec<usize>,
    /// The hits that each group asks of each counter.
    sums: BTreeMap<(usize, Counter), u64>,
}

impl<'c> Case<'c> {
    fn new(book: &'c Book, oracle: &'c Oracle, at_ms: u64, descriptors: &[(Attributes, u32)]) -> Self {
        let attributes: Vec<Attributes> = descriptors.iter().map(|(attributes, _)| attributes.clone()).collect();
        let applied = applied(book, &attributes);
        let groups: Vec<usize> = applied.iter().map(|limit| if book.each { limit.descriptor } else { 0 }).collect();
        let mut sums = BTreeMap::new();
        for (limit, group) in applied.iter().zip(&groups) {
            let hits = u64::from(descriptors[limit.descriptor].1);
            *sums.entry((*group, limit.counter.clone())).or_insert(0) += hits;
        }
        Self { book, oracle, at_ms, applied, groups, sums }
    }

    /// The hits that the group of a limit asks of its counter.
    fn hits(&self, at: usize) -> u64 {
        self.sums[&(self.groups[at], self.applied[at].counter.clone())]
    }

    /// The hits that other groups of the check ask of the counter of a limit.
    fn hits_of_others(&self, at: usize) -> u64 {
        let counter = &self.applied[at].counter;
        self.sums.iter().filter(|((group, c), _)| c == counter && *group != self.groups[at]).map(|(_, hits)| hits).sum()
    }

    fn overdraft(&self, at: usize) -> bool {
        self.book.rules[self.applied[at].rule].overdraft
    }

    /// Compares the answer with the rules and what was charged before. Returns what the check charges.
    fn judge(&self, decision: &Decision) -> Result<Vec<(Applied, u64)>, TestCaseError> {
        let said: Vec<(usize, String, bool)> =
            decision.limits.iter().map(|l| (l.descriptor, l.effective.name.to_string(), l.shadow)).collect();
        let expected: Vec<(usize, String, bool)> =
            self.applied.iter().map(|l| (l.descriptor, name(l.rule), l.mode == Mode::Shadow)).collect();
        prop_assert_eq!(said, expected, "the limits that apply");

        let denies = |at: usize| decision.limits[at].denied && self.applied[at].mode == Mode::Enforce;
        let all = 0..self.applied.len();
        let group_denied = |group: usize| all.clone().any(|at| self.groups[at] == group && denies(at));
        // A limit without `overdraft` denies the group, so that nothing of it is charged.
        let uncharged =
            |group: usize| all.clone().any(|at| self.groups[at] == group && denies(at) && !self.overdraft(at));
        let unmatched = self.applied.is_empty() && self.book.deny_unmatched;
        prop_assert_eq!(decision.allowed, !unmatched && !all.clone().any(denies), "allowed");

        let mut charged = BTreeMap::new();
        for at in all.clone() {
            let (limit, group, status) = (&self.applied[at], self.groups[at], &decision.limits[at]);
            self.judge_limit(at, status)?;
            let is_charged =
                if self.overdraft(at) { !uncharged(group) } else { !group_denied(group) && !status.denied };
            if is_charged {
                charged.insert((group, limit.counter.clone()), (limit.clone(), self.hits(at)));
            }
        }
        let waits = all.filter(|at| denies(*at)).map(|at| decision.limits[at].retry_after);
        let longest = waits.collect::<Option<Vec<u64>>>().and_then(|waits| waits.into_iter().max());
        prop_assert_eq!(decision.retry_after, longest, "the wait of the check");
        Ok(charged.into_values().collect())
    }

    /// Compares what the answer says of one limit with what its counter has room for.
    fn judge_limit(&self, at: usize, status: &LimitStatus) -> Result<(), TestCaseError> {
        let limit = &self.applied[at];
        prop_assert_eq!(status.limit().is_none(), limit.hits.is_none(), "unlimited: {:?}", limit);
        // Groups ask at the same time, and each may find what another one has reserved.
        let asked = self.hits(at).max(1) + self.hits_of_others(at);
        let fits = self.oracle.fits(self.book, limit, self.at_ms, asked);
        prop_assert!(!status.denied || !fits, "{:?} denies what fits", limit);
        Ok(())
    }

    /// Compares the wait of a limit that denies with the time at which its hits fit, after what was charged.
    fn judge_wait(&self, oracle: &Oracle, at: usize, status: &LimitStatus) -> Result<(), TestCaseError> {
        let limit = &self.applied[at];
        let wait = |hits| oracle.wait(self.book, limit, self.at_ms, hits);
        match (wait(self.hits(at)), wait(limit.most)) {
            // A denial of fewer hits that is remembered gives the time at which the whole limit is free, for which
            // tokens of a lease count that have come back meanwhile.
            (Some(exact), Some(longest)) => {
                let longest = if self.book.rules[limit.rule].leased { u64::MAX / 1000 } else { longest };
                let bounds = exact * 1000..=longest * 1000;
                let said = status.retry_after.unwrap_or(0);
                prop_assert!(bounds.contains(&said), "{:?} says {}, not {:?}", limit, said, bounds);
            }
            _ => prop_assert_eq!(status.retry_after, None, "{:?} never fits", limit),
        }
        Ok(())
    }

    /// Compares the waits of the answer, and what an allowed check leaves, with the counters after the check.
    fn judge_after(&self, oracle: &Oracle, decision: &Decision) -> Result<(), TestCaseError> {
        for (at, (limit, status)) in self.applied.iter().zip(&decision.limits).enumerate() {
            let rule = &self.book.rules[limit.rule];
            if status.denied && self.hits_of_others(at) == 0 {
                self.judge_wait(oracle, at, status)?;
            }
            let used = oracle.used(self.book, limit, self.at_ms);
            // After a peek, other groups may have been charged, and with `overdraft` past the limit.
            let alone = self.hits_of_others(at) == 0;
            if decision.allowed && !status.denied && limit.hits.is_some() && (alone || !self.overdraft(at)) {
                let peeked = u64::from(alone && self.hits(at) == 0);
                prop_assert!(used + peeked <= limit.most, "{:?} has admitted {} hits", limit, used);
            }
            // If a key pays from a lease or remembers a denial, its answer has the numbers of the last reply of the
            // store.
            let asked = !status.denied && (!rule.leased || rule.algorithm == Algorithm::TokenBucket);
            if decision.allowed && asked {
                prop_assert_eq!(status.remaining, oracle.left(self.book, limit, self.at_ms), "left of {:?}", limit);
            }
        }
        Ok(())
    }
}

/// Asks the checks, each of which says whether the next book comes into force before it, and judges every answer.
fn follow(books: &[Book], checks: &[(bool, Asked)]) -> Result<(), TestCaseError> {
    let (mut node, mut oracle) = (Node::new(), Oracle::default());
    let (mut after_ms, mut later, mut book) = (0, books[1..].iter(), &books[0]);
    node.set_rules(book.domain(), 0);
    for (edits, (pause_ms, descriptors)) in checks {
        after_ms += pause_ms;
        if *edits && let Some(next) = later.next() {
            book = next;
            node.set_rules(book.domain(), after_ms * 1000);
        }
        let at_ms = MIDNIGHT_MS + after_ms;
        let decision = node.check(descriptors, after_ms * 1000);
        let charged = Case::new(book, &oracle, at_ms, descriptors).judge(&decision)?;
        for (limit, hits) in charged {
            oracle.charge(&limit, at_ms, hits);
        }
        Case::new(book, &oracle, at_ms, descriptors).judge_after(&oracle, &decision)?;
    }
    Ok(())
}

proptest! {
    // To shrink books and checks takes long.
    #![proptest_config(ProptestConfig { max_shrink_iters: 1000, ..crate::world::proptest_config() })]

    /// Each book is in force for some of the checks.
    #[test]
    fn checks_are_decided_as_the_rules_say(
        books in books(),
        checks in prop::collection::vec((prop::bool::weighted(0.1), asked()), 1..40),
    ) {
        follow(&books, &checks)?;
    }
}

/// The first descriptor of the second check reserves hits of the shared limit, of which the last one then finds too few.
/// They come back, because the limit for each tier denies the first descriptor.
#[test]
fn a_denial_is_forgotten_when_hits_come_back() {
    let rule = |hits: u64, per: Vec<&'static str>, leased: bool| Rule {
        tests: BTreeMap::new(),
        per,
        hits: Some(hits),
        algorithm: Algorithm::FixedWindow,
        window_ms: 1000,
        burst: None,
        leased,
        overdraft: !leased,
        mode: Mode::Enforce,
        overrides: Vec::new(),
        replaces: Vec::new(),
    };
    let rules = vec![rule(0, vec!["tier"], false), rule(11, Vec::new(), true)];
    let book = Book { each: true, deny_unmatched: false, rules };
    let of_tier = |hits| (BTreeMap::from([("tier", "free")]), hits);
    let other = |hits| (BTreeMap::from([("path", "/a")]), hits);
    let checks = [(0, vec![other(1)]), (10, vec![of_tier(7), other(1), of_tier(5)]), (10, vec![other(5)])];
    follow(&[book], &checks.map(|check| (false, check))).unwrap();
}
