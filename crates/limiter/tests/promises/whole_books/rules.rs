//! Whole rule books, drawn at random, as plain data that the oracle reads by itself.

use std::collections::BTreeMap;

use limiter::rules::{
    Algorithm, Charge, Condition, Consistency, Domain, Limit, Match, Mode, Override, Period, Quota, Unmatched,
};
use proptest::prelude::*;

/// The attributes of a descriptor. One that is absent has no entry.
pub type Attributes = BTreeMap<&'static str, &'static str>;

/// The attributes, and the values that they may have.
const VALUES: [(&str, [&str; 2]); 3] = [("path", ["/a", "/b"]), ("tier", ["free", "pro"]), ("user", ["bob", "eve"])];

/// A condition on one attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    Is(&'static str),
    IsNot(&'static str),
    Present(bool),
}

/// All of them must hold.
pub type Tests = BTreeMap<&'static str, Test>;

#[derive(Clone, Debug)]
pub struct Rule {
    pub tests: Tests,
    pub per: Vec<&'static str>,
    /// `None` is unlimited.
    pub hits: Option<u64>,
    pub algorithm: Algorithm,
    pub window_ms: u64,
    pub burst: Option<u64>,
    pub leased: bool,
    pub overdraft: bool,
    pub mode: Mode,
    pub overrides: Vec<Change>,
    /// Positions of other rules.
    pub replaces: Vec<usize>,
}

/// An override.
#[derive(Clone, Debug)]
pub struct Change {
    pub tests: Tests,
    pub hits: Option<Option<u64>>,
    pub mode: Option<Mode>,
}

#[derive(Clone, Debug)]
pub struct Book {
    pub each: bool,
    pub deny_unmatched: bool,
    pub rules: Vec<Rule>,
}

pub fn name(position: usize) -> String {
    format!("l{position}")
}

fn matching(tests: &Tests) -> Match {
    let condition = |test: &Test| match *test {
        Test::Is(value) => Condition::Equal(value.to_owned()),
        Test::IsNot(value) => Condition::Not(Box::new(Condition::Equal(value.to_owned()))),
        Test::Present(present) => Condition::Present(present),
    };
    let conditions = tests.iter().map(|(name, test)| ((*name).to_owned(), condition(test))).collect();
    Match { conditions, ..Match::default() }
}

fn quota(hits: Option<u64>) -> Quota {
    hits.map_or(Quota::Unlimited, Quota::Hits)
}

impl Book {
    /// The rules as the core takes them.
    pub fn domain(&self) -> Domain {
        let limits = self.rules.iter().enumerate().map(|(position, rule)| limit(&name(position), rule)).collect();
        Domain {
            charge: if self.each { Charge::Each } else { Charge::AllOrNothing },
            default: if self.deny_unmatched { Unmatched::Deny } else { Unmatched::Allow },
            limits,
            ..Domain::default()
        }
    }
}

fn limit(name: &str, rule: &Rule) -> Limit {
    let consistency = if rule.leased { Consistency::Leased } else { Consistency::Exact };
    let change = |change: &Change| Override {
        matches: matching(&change.tests),
        limit: change.hits.map(quota),
        mode: change.mode,
        ..Override::default()
    };
    Limit {
        matches: matching(&rule.tests),
        per: rule.per.iter().map(|attribute| (*attribute).into()).collect(),
        limit: quota(rule.hits),
        period: Period::Window { ms: rule.window_ms },
        burst: rule.burst,
        overdraft: rule.overdraft,
        mode: rule.mode,
        overrides: rule.overrides.iter().map(change).collect(),
        replaces: rule.replaces.iter().map(|position| self::name(*position)).collect(),
        ..crate::rules::limit(name, rule.algorithm, 1, rule.window_ms, consistency)
    }
}

pub fn attributes() -> impl Strategy<Value = Attributes> {
    prop::collection::vec(prop::option::weighted(0.8, 0usize..2), VALUES.len()).prop_map(|chosen| {
        let values = VALUES.iter().zip(chosen);
        values.filter_map(|((name, values), at)| Some((*name, values[at?]))).collect()
    })
}

fn tests() -> impl Strategy<Value = Tests> {
    let test = |values: [&'static str; 2]| {
        prop_oneof![
            4 => prop::sample::select(values.to_vec()).prop_map(Test::Is),
            1 => prop::sample::select(values.to_vec()).prop_map(Test::IsNot),
            1 => any::<bool>().prop_map(Test::Present),
        ]
    };
    let test = move |at: usize| prop::option::weighted(0.25, test(VALUES[at].1));
    (test(0), test(1), test(2)).prop_map(|(path, tier, user)| {
        let all = [("path", path), ("tier", tier), ("user", user)];
        all.into_iter().filter_map(|(name, test)| Some((name, test?))).collect()
    })
}

/// Hits of a limit that grants at least `few`. Limits of up to 20 hits also have a log, if their window slides.
fn hits(few: u64) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(0)), 8 => (few..few + 12).prop_map(Some), 2 => Just(Some(few + 40))]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![6 => Just(Mode::Enforce), 2 => Just(Mode::Shadow)]
}

fn change(few: u64) -> impl Strategy<Value = Change> {
    let hits = prop::option::weighted(0.8, hits(few));
    (tests(), hits, prop::option::weighted(0.3, mode())).prop_map(|(tests, hits, mode)| Change {
        tests,
        // An override changes something.
        hits: if mode.is_none() { hits.or(Some(None)) } else { hits },
        mode,
    })
}

fn rule(position: usize, count: usize) -> impl Strategy<Value = Rule> {
    // Weights of the older cell of a sliding window are exact for this length. Others divide a second.
    let algorithms = vec![
        (Algorithm::FixedWindow, 1000, 1),
        (Algorithm::FixedWindow, 3000, 1),
        (Algorithm::SlidingWindow, 1024, 21),
        (Algorithm::RollingWindow, 1000, 21),
    ];
    let window = prop::sample::select(algorithms).prop_flat_map(|(algorithm, window_ms, few)| {
        let overrides = prop::collection::vec(change(few), 0..3);
        (Just((algorithm, window_ms, None)), hits(few), overrides)
    });
    // A hit costs a whole number of milliseconds.
    let rate = || prop::sample::select(vec![Some(0), Some(5), Some(10), None]);
    let bucket_change = (tests(), rate(), prop::option::of(mode())).prop_map(|(tests, hits, mode)| Change {
        tests,
        hits: Some(hits),
        mode,
    });
    let bucket = (rate(), prop::option::of(1u64..12), prop::collection::vec(bucket_change, 0..2))
        .prop_map(|(hits, burst, overrides)| ((Algorithm::TokenBucket, 1000, burst), hits, overrides));
    let what = prop_oneof![3 => window.boxed(), 1 => bucket.boxed()];
    let per = prop::sample::subsequence(vec!["path", "tier", "user"], 0..=2);
    let replaces =
        prop::sample::subsequence((position + 1..count).collect::<Vec<_>>(), 0..=(count - position - 1).min(2));
    let mode = prop_oneof![8 => mode(), 1 => Just(Mode::Off)];
    let replaces = prop::option::weighted(0.3, replaces);
    (tests(), per, what, any::<bool>(), prop::bool::weighted(0.1), mode, replaces).prop_map(
        |(tests, per, ((algorithm, window_ms, burst), hits, overrides), leased, overdraft, mode, replaces)| Rule {
            tests,
            per,
            hits,
            algorithm,
            window_ms,
            burst,
            leased,
            overdraft,
            mode,
            overrides,
            replaces: replaces.unwrap_or_default(),
        },
    )
}

fn book(count: usize) -> impl Strategy<Value = Book> {
    let rules = (0..count).map(|position| rule(position, count)).collect::<Vec<_>>();
    (any::<bool>(), prop::bool::weighted(0.2), rules).prop_map(|(each, deny_unmatched, rules)| Book {
        each,
        deny_unmatched,
        rules,
    })
}

/// One to three books with the same counters: an edit of a rule changes neither its window nor what names its counters.
/// That of a bucket does not change its rate, either.
pub fn books() -> impl Strategy<Value = Vec<Book>> {
    (1usize..6).prop_flat_map(|count| prop::collection::vec(book(count), 1..4)).prop_map(|mut books| {
        let first = books[0].rules.clone();
        for rules in books[1..].iter_mut().map(|book| &mut book.rules) {
            for (rule, before) in rules.iter_mut().zip(&first) {
                *rule = edited(before, rule.clone());
            }
        }
        books
    })
}

/// `drawn`, with the counters of `before`.
fn edited(before: &Rule, drawn: Rule) -> Rule {
    let Rule { algorithm, window_ms, burst, ref per, .. } = *before;
    let mut rule = Rule { algorithm, window_ms, burst, per: per.clone(), ..drawn };
    if algorithm == Algorithm::TokenBucket {
        return Rule { hits: before.hits, overrides: before.overrides.clone(), ..rule };
    }
    if algorithm != Algorithm::FixedWindow {
        let enough =
            |hits: &mut Option<u64>| *hits = hits.map(|hits| if (1..=20).contains(&hits) { hits + 20 } else { hits });
        enough(&mut rule.hits);
        rule.overrides.iter_mut().filter_map(|change| change.hits.as_mut()).for_each(enough);
    }
    rule
}
