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
    let contains = Match { when: Some("attributes.x.contains('aa')".to_owned()), ..Match::default() };
    let text = "a".repeat(1000);
    let entries = [("x", text.as_str())];
    let descriptor =
        Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
    // CEL copies the text for `matches` as well.
    for (matches, steps) in [(condition, 200), (when, 231), (contains, 250)] {
        let matcher = Matcher::new(&matches).unwrap();
        let matches = |mut work: usize| (matcher.matches(&Subject::new("d", &descriptor), &mut work), work);
        assert_eq!(matches(0), (true, steps));
        assert_eq!(matches(MAX_WORK - steps), (true, MAX_WORK));
        assert_eq!(matches(MAX_WORK - steps + 1), (false, MAX_WORK + 1));
    }
}

/// A table of limits without `per`.
fn table(limits: &[Match]) -> MatchTable {
    MatchTable::new(limits.iter().map(|matches| (Matcher::new(matches).unwrap(), Vec::new())).collect())
}

fn on<const N: usize>(conditions: [(&str, Condition); N]) -> Match {
    let conditions = conditions.map(|(name, condition)| (name.to_owned(), condition)).into();
    Match { conditions, ..Match::default() }
}

#[test]
fn the_index_finds_a_limit_with_a_condition_of_any_kind() {
    use Condition::*;
    let text = str::to_owned;
    let nets = || Cidr(vec![text("10.0.0.0/8"), text("2001:db8::/32")]);
    for (condition, value) in [
        (Equal(text("a")), "a"),
        (AnyOf(vec![text("a"), text("b")]), "b"),
        (Prefix(text("/a")), "/ab"),
        (Suffix(text("b")), "/ab"),
        (Glob(text("/a*")), "/ab"),
        (Regex(text("^/a")), "/ab"),
        (Route(text("/a/{id}")), "/a/1"),
        (Route(text("/a/{*rest}")), "/a/1/2"),
        (nets(), "10.1.2.3"),
        (nets(), "2001:db8::1"),
        (Present(true), ""),
        (Not(Box::new(Equal(text("b")))), "a"),
    ] {
        let entries = [("x", value)];
        let descriptor =
            Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
        let mut found = Found::new();
        table(&[on([("x", condition.clone())])]).matching(&Subject::new("d", &descriptor), &mut found, &mut 0);
        assert_eq!(found.as_slice(), [0], "{condition:?} {value}");
    }
}

#[test]
fn a_look_up_and_each_limit_that_is_tried_take_steps() {
    let work = |table: &MatchTable, entries: &[(&str, &str)]| {
        let descriptor = Descriptor { entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
        let (subject, mut found, mut all, mut first) = (Subject::new("d", &descriptor), Found::new(), 100, 100);
        table.matching(&subject, &mut found, &mut all);
        assert_eq!(table.first(&subject, &mut found, &mut first), Some(0));
        [all, first]
    };
    let keys = Some(vec!["x".to_owned(), "y".to_owned()]);
    let limit = Match { exact_keys: keys, ..on([("x", Condition::Prefix("/a".to_owned()))]) };
    // The look-up of a text takes 5 steps, the limit 10, its condition 2, and each key 2.
    assert_eq!(work(&table(&[limit]), &[("x", "/ab"), ("y", "1")]), [121, 121]);
    // Of three limits for one plan, the value of another attribute selects the first one.
    let equal = |value: &str| Condition::Equal(value.to_owned());
    let limits = ["u0", "u1", "u2"].map(|user| on([("plan", equal("pro")), ("user", equal(user))]));
    assert_eq!(work(&table(&limits), &[("plan", "pro"), ("user", "u0")]), [114, 114]);
}

#[test]
fn regular_expressions_and_globs_take_from_the_budget() {
    use Condition::*;
    let check = |condition: &Condition, left: usize| {
        let mut budget = PatternBudget::default();
        budget.take(MAX_BOOK_BYTES - left).unwrap();
        check_condition(condition, &mut budget)
    };
    let regex = Regex("^a+$".to_owned());
    for condition in [regex.clone(), Glob("a*".to_owned()), Not(Box::new(regex))] {
        assert_eq!(check(&condition, MAX_BOOK_BYTES), Ok(()), "{condition:?}");
        assert!(check(&condition, 1).unwrap_err().contains("128 MiB"), "{condition:?}");
    }
    assert_eq!(check(&Prefix("a".to_owned()), 1), Ok(()));
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
