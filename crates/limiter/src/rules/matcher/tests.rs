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
    let invalid = "hits + 'a' == 1";
    assert!(check(invalid, (15 + MAX_TRIALS) * 64).unwrap_err().contains("expected operands"), "it has its own error");
    assert!(check(invalid, (15 + MAX_TRIALS) * 64 - 1).unwrap_err().contains("128 MiB"));
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
    for matches in [condition, when] {
        let matcher = Matcher::new(&matches).unwrap();
        let matches = |mut work: usize| (matcher.matches(&Subject::new("d", &descriptor), &mut work), work);
        assert_eq!(matches(0), (true, 200));
        assert_eq!(matches(MAX_WORK - 200), (true, MAX_WORK));
        assert_eq!(matches(MAX_WORK - 199), (false, MAX_WORK + 1));
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
