//! The compiled `match` of every limit of a domain.

mod condition;
mod expression;
mod index;
mod judge;
mod pattern;
mod possible;
mod route;
mod search_cost;
mod subject;
mod syntax;

pub use condition::{Compiled, address, network};
use condition::{MAX_PATTERN_BYTES, regex_of};
pub use expression::Expression;
use expression::MAX_BYTES as MAX_EXPRESSION_BYTES;
pub use index::Found;
use index::{Index, Token};
use judge::MAX_TRIALS;
pub use judge::{Fact, Facts};
use pattern::Pattern;
pub use pattern::PatternBudget;
use search_cost::USUAL_TEXT;
pub use subject::Subject;

use crate::rules::attribute::Attribute;
use crate::rules::rule::{Condition, Match};
use crate::rules::work::{ATTRIBUTE, MAX_WORK, TRIED};

/// The bytes of the budget that each byte of a `when` expression takes, and each combination of values that is tried to
/// check its types. They stand for the time and the memory of compiling it, up to 5 µs.
const PARSED_BYTES: usize = 64;
/// The further bytes of the budget that each byte beyond [`USUAL_EXPRESSION`] takes: the time grows faster than the
/// length.
const LONG_PARSED_BYTES: usize = 256;
/// The length of usual expressions, in bytes.
const USUAL_EXPRESSION: usize = 128;

/// Checks that a condition compiles, within `budget`. The error says what was expected. Once the budget is spent, no
/// further regular expression is compiled.
pub fn check_condition(condition: &Condition, budget: &mut PatternBudget) -> Result<(), String> {
    match regex_of(condition) {
        Some(_) if budget.is_spent() => Ok(()),
        Some(regex) => match Pattern::compile(&regex, MAX_PATTERN_BYTES) {
            Ok(pattern) => budget.take(pattern.bytes()),
            Err(error) => {
                // The attempt took as long as that to compile the largest one.
                let taken = if error.is_too_large { MAX_PATTERN_BYTES } else { 0 };
                budget.take(taken).and(Err(error.message))
            }
        },
        None => Compiled::new(condition).map(drop),
    }
}

/// Checks that a `when` expression compiles, within `budget`. The error says what was expected. Once the budget is
/// spent, no further expression is compiled.
pub fn check_expression(source: &str, budget: &mut PatternBudget) -> Result<(), String> {
    if budget.is_spent() {
        return Ok(());
    }
    // One that is too long is not compiled.
    if source.len() <= MAX_EXPRESSION_BYTES {
        let beyond = source.len().saturating_sub(USUAL_EXPRESSION);
        budget.take(source.len() * PARSED_BYTES + beyond * LONG_PARSED_BYTES)?;
    }
    match Expression::compile(source) {
        Ok(expression) => budget.take(expression.trials() * PARSED_BYTES + expression.pattern_bytes()),
        // It may have taken as long as any.
        Err(error) => {
            let _ = budget.take(MAX_TRIALS * PARSED_BYTES);
            Err(error)
        }
    }
}

/// One `match`, compiled.
#[derive(Debug)]
pub struct Matcher {
    conditions: Vec<(Attribute, Compiled)>,
    exact_keys: Option<Vec<Attribute>>,
    when: Option<Expression>,
}

impl Matcher {
    pub fn new(matches: &Match) -> Result<Self, String> {
        let compile =
            |(name, condition): (&String, &Condition)| Ok((Attribute::parse(name), Compiled::new(condition)?));
        Ok(Self {
            conditions: matches.conditions.iter().map(compile).collect::<Result<_, String>>()?,
            exact_keys: matches.exact_keys.as_ref().map(|keys| Attribute::in_order(keys.iter().map(String::as_str))),
            when: matches.when.as_deref().map(Expression::compile).transpose()?,
        })
    }

    /// Adds to `work` the steps that searches take for the bytes of their texts. No search begins that would take it
    /// beyond [`MAX_WORK`]: then it is beyond, and the result says nothing.
    #[inline]
    pub fn matches(&self, subject: &Subject<'_>, work: &mut usize) -> bool {
        let descriptor = subject.descriptor;
        let mut holds = |(attribute, condition): &(Attribute, Compiled)| {
            let value = attribute.value(descriptor);
            *work = work.saturating_add(condition.search_steps(value.map_or(0, str::len)));
            *work <= MAX_WORK && condition.holds(value)
        };
        self.conditions.iter().all(&mut holds)
            && self.exact_keys.as_ref().is_none_or(|keys| descriptor.has_exactly(keys))
            && self.when.as_ref().is_none_or(|when| when.is_true(subject, work))
    }

    /// The steps of [`Self::matches`], without those for the bytes of texts.
    fn steps(&self) -> usize {
        let conditions: usize = self.conditions.iter().map(|(_, condition)| condition.steps()).sum();
        let keys = self.exact_keys.as_ref().map_or(0, Vec::len) * ATTRIBUTE;
        conditions + keys + self.when.as_ref().map_or(0, Expression::steps)
    }

    /// The most steps for the bytes of texts of the usual length.
    fn search_steps(&self) -> usize {
        let conditions = self.conditions.iter().map(|(_, condition)| condition.search_steps(USUAL_TEXT));
        let when = self.when.as_ref().map_or(0, Expression::search_steps);
        conditions.fold(when, usize::saturating_add)
    }
}

/// Many matchers, in order, and the index over them.
#[derive(Debug, Default)]
pub struct MatchTable {
    index: Index,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    matcher: Matcher,
    /// Attributes that must be present.
    per: Vec<Attribute>,
    /// The steps to try it, without those that depend on the lengths of texts.
    steps: usize,
    /// The most further steps, if each text has the usual length.
    search_steps: usize,
}

impl MatchTable {
    /// `matchers` are those of the limits in book order, each with the `per` attributes that must be present.
    pub fn new(matchers: Vec<(Matcher, Vec<Attribute>)>) -> Self {
        let anchors: Vec<_> = matchers.iter().map(|(matcher, per)| anchors(matcher, per)).collect();
        let index = Index::build(&anchors);
        let entries = matchers.into_iter().map(|(matcher, per)| {
            let steps = TRIED + matcher.steps() + per.len() * ATTRIBUTE;
            let search_steps = matcher.search_steps();
            Entry { matcher, per, steps, search_steps }
        });
        Self { index, entries: entries.collect() }
    }

    /// Sets `out` to the positions of all limits that match, in book order, and adds the steps to `work`. Once they are
    /// beyond [`MAX_WORK`], nothing more is searched, and `out` says nothing.
    pub fn matching(&self, subject: &Subject<'_>, out: &mut Found, work: &mut usize) {
        *work += self.index.candidates(subject.descriptor.entries, out);
        out.retain(|id| self.entries[*id as usize].matches(subject, work));
    }

    /// The first one that matches. It sets `candidates`, and adds the steps to `work` as [`Self::matching`] does.
    pub fn first(&self, subject: &Subject<'_>, candidates: &mut Found, work: &mut usize) -> Option<usize> {
        *work += self.index.candidates(subject.descriptor.entries, candidates);
        let mut in_order = candidates.iter().map(|id| *id as usize);
        in_order.find(|id| self.entries[*id].matches(subject, work))
    }

    /// At least the steps that a descriptor can take whose attributes differ and are of the usual length. `further` are
    /// those that a limit takes if it matches.
    pub fn most_steps(&self, further: impl Fn(usize) -> usize) -> usize {
        let tried = |entry: &Entry| entry.steps.saturating_add(entry.search_steps);
        self.index.most_steps(&|id| tried(&self.entries[id as usize]).saturating_add(further(id as usize)))
    }
}

impl Entry {
    #[inline]
    fn matches(&self, subject: &Subject<'_>, work: &mut usize) -> bool {
        *work += self.steps;
        self.per.iter().all(|attribute| attribute.value(subject.descriptor).is_some())
            && self.matcher.matches(subject, work)
    }
}

/// The tokens under which a limit may be filed in the index. All entries with one key are looked up, so the position of
/// an entry does not matter.
fn anchors<'m>(matcher: &'m Matcher, per: &'m [Attribute]) -> Vec<(&'m str, Vec<Token>)> {
    let conditions =
        matcher.conditions.iter().map(|(attribute, condition)| (&*attribute.key, index::tokens(condition)));
    let keys = matcher.exact_keys.iter().flatten();
    let present = per.iter().chain(keys).map(|attribute| (&*attribute.key, vec![Token::Present]));
    conditions.chain(present).filter(|(_, tokens)| !tokens.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::pattern::MAX_BOOK_BYTES;
    use super::*;
    use crate::check::Descriptor;

    fn condition() -> impl Strategy<Value = Condition> {
        let text = || "[ab/]{0,3}".prop_map(|s| format!("/{s}"));
        let nets = prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "0.0.0.0/0"]);
        let leaf = prop_oneof![
            text().prop_map(Condition::Equal),
            prop::collection::vec(text(), 1..3).prop_map(Condition::AnyOf),
            text().prop_map(Condition::Prefix),
            "[ab/]{0,2}".prop_map(Condition::Suffix),
            "/[ab*?]{0,3}".prop_map(Condition::Glob),
            prop::sample::select(vec!["/a", "/{x}", "/a/{x}", "/{x}/b", "/a/{*r}", "/{*r}"])
                .prop_map(|s| Condition::Route(s.to_owned())),
            nets.prop_map(|s| Condition::Cidr(vec![s.to_owned()])),
            any::<bool>().prop_map(Condition::Present),
        ];
        leaf.prop_recursive(2, 4, 1, |inner| inner.prop_map(|c| Condition::Not(Box::new(c))))
    }

    fn matches() -> impl Strategy<Value = Match> {
        prop::collection::btree_map("[xyz](#[23])?", condition(), 0..3)
            .prop_map(|conditions| Match { conditions, ..Match::default() })
    }

    proptest! {
        /// The index finds every limit that a scan of the whole book finds, in the same order, and no descriptor takes
        /// more steps than the index says.
        #[test]
        fn the_index_finds_what_a_scan_finds(
            book in prop::collection::vec((matches(), prop::collection::vec("[xyz](#2)?", 0..2)), 0..12),
            entries in prop::collection::vec(("[xyz]", prop_oneof![
                "/[ab/]{0,4}", Just("10.1.2.3".to_owned()), Just("2001:db8::1".to_owned())
            ]), 0..4),
        ) {
            let entries: Vec<(&str, &str)> = entries.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let descriptor = Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
            let subject = Subject::new("d", &descriptor);
            let compile = |(m, per): &(Match, Vec<String>)| {
                (Matcher::new(m).unwrap(), per.iter().map(|name| Attribute::parse(name)).collect::<Vec<_>>())
            };
            let scan: Vec<u32> = (0u32..)
                .zip(book.iter().map(compile))
                .filter(|(_, (m, per))| {
                    per.iter().all(|a| a.value(&descriptor).is_some()) && m.matches(&subject, &mut 0)
                })
                .map(|(id, _)| id)
                .collect();
            let mut found = Found::new();
            let table = MatchTable::new(book.iter().map(compile).collect());
            let mut steps = 0;
            table.matching(&subject, &mut found, &mut steps);
            prop_assert_eq!(found.as_slice(), &scan);
            let mut steps_to_first = 0;
            let first = table.first(&subject, &mut found, &mut steps_to_first);
            prop_assert_eq!(first, scan.first().map(|id| *id as usize));
            prop_assert!(steps_to_first <= steps);
            let keys: BTreeSet<&str> = entries.iter().map(|(key, _)| *key).collect();
            if keys.len() == entries.len() {
                let taken = steps + scan.iter().map(|id| 100 + *id as usize).sum::<usize>();
                prop_assert!(taken <= table.most_steps(|id| 100 + id));
            }
        }
    }

    #[test]
    fn an_expression_takes_from_the_budget_what_it_takes_to_check_its_types() {
        let check = |source: &str, left: usize| {
            let mut budget = PatternBudget::default();
            budget.take(MAX_BOOK_BYTES - left).unwrap();
            check_expression(source, &mut budget)
        };
        let usual = "attributes.user.startsWith('u') && hits > 1";
        // It has 43 bytes. Each of the four texts that stand for a user begins with the other or not, and 1 is greater
        // than 1 or not.
        assert_eq!(check(usual, (43 + 5) * 64), Ok(()));
        assert!(check(usual, (43 + 5) * 64 - 1).unwrap_err().contains("128 MiB"));
        // 13 values stand for all.
        let any = "dyn(1) == dyn(2)";
        assert_eq!(check(any, (16 + 13 * 13) * 64), Ok(()));
        assert!(check(any, (16 + 13 * 13) * 64 - 1).unwrap_err().contains("128 MiB"));
        let mut budget = PatternBudget::default();
        budget.take(MAX_BOOK_BYTES - (15 + MAX_TRIALS) * 64).unwrap();
        assert!(check_expression("hits + 'a' == 1", &mut budget).unwrap_err().contains("expected operands"));
        assert!(budget.take(1).is_err(), "an invalid one takes as much as any");
    }

    #[test]
    fn no_search_begins_that_would_be_too_much_work() {
        let regex = ("x".to_owned(), Condition::Regex("^a+$".to_owned()));
        let condition = Match { conditions: [regex].into(), ..Match::default() };
        let when = Match { when: Some("attributes.x.matches('^a+$')".to_owned()), ..Match::default() };
        let text = "a".repeat(1000);
        let entries = [("x", text.as_str())];
        let descriptor =
            Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
        // CEL copies the text as well.
        for (matches, steps) in [(condition, 200), (when, 231)] {
            let matcher = Matcher::new(&matches).unwrap();
            let matches = |mut work: usize| (matcher.matches(&Subject::new("d", &descriptor), &mut work), work);
            assert_eq!(matches(0), (true, steps));
            assert_eq!(matches(MAX_WORK - steps), (true, MAX_WORK));
            assert_eq!(matches(MAX_WORK - steps + 1), (false, MAX_WORK + 1));
        }
    }

    #[test]
    fn exact_keys_match_as_envoys_descriptor_tree_does() {
        let keys = Some(vec!["a".to_owned(), "b".to_owned()]);
        let matcher = Matcher::new(&Match { exact_keys: keys, ..Match::default() }).unwrap();
        let matches = |ordered, entries: &[(&str, &str)]| {
            let descriptor = Descriptor { entries, ordered, hits: 1, charging: Default::default(), limit: None };
            matcher.matches(&Subject::new("d", &descriptor), &mut 0)
        };
        assert!(matches(true, &[("a", "1"), ("b", "2")]));
        assert!(!matches(true, &[("b", "2"), ("a", "1")]));
        assert!(matches(false, &[("b", "2"), ("a", "1")]), "the keys of a map have no order");
        for ordered in [true, false] {
            assert!(!matches(ordered, &[("a", "1"), ("b", "2"), ("c", "3")]));
            assert!(!matches(ordered, &[("a", "1")]));
        }
    }

    #[test]
    fn exact_keys_tell_entries_with_one_key_apart() {
        let keys = Some(vec!["g".to_owned(), "g".to_owned()]);
        let equal = |name: &str, value: &str| (name.to_owned(), Condition::Equal(value.to_owned()));
        let conditions = [equal("g", "a"), equal("g#2", "b")].into();
        let matcher = Matcher::new(&Match { exact_keys: keys, conditions, when: None }).unwrap();
        let matches = |ordered, entries: &[(&str, &str)]| {
            let descriptor = Descriptor { entries, ordered, hits: 1, charging: Default::default(), limit: None };
            matcher.matches(&Subject::new("d", &descriptor), &mut 0)
        };
        assert!(matches(true, &[("g", "a"), ("g", "b")]));
        for other in [
            &[("g", "b"), ("g", "a")][..],
            &[("g", "a"), ("g", "a")],
            &[("g", "a")],
            &[("g", "a"), ("x", "b")],
            &[("g", "a"), ("g", "b"), ("g", "b")],
        ] {
            assert!(!matches(true, other) && !matches(false, other), "{other:?}");
        }
    }
}
