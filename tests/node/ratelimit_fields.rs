//! `RateLimit-Policy` and `RateLimit` are structured fields (RFC 9651), and say what the examples of the draft say
//! (draft-ietf-httpapi-ratelimit-headers-11).

use serde_json::{Value, json};
use sfv::{BareItem, Item, List, ListEntry, Parser};

use crate::node::{Node, Response, serve_command};

/// Starts a node with these limits: the name, the hits and the window of each.
fn node(limits: &[(&str, u64, &str)]) -> (Node, tempfile::TempDir) {
    let limit = |(name, hits, window): &(&str, u64, &str)| json!({ "name": name, "per": [], "limit": hits, "window": window, "algorithm": "fixed_window" });
    let limits: Vec<Value> = limits.iter().map(limit).collect();
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, json!({ "version": 1, "domains": [{ "domain": "d", "limits": limits }] }).to_string())
        .unwrap();
    (Node::start(serve_command(&rules, "memory:", &[])), folder)
}

fn list(text: &str) -> Vec<Item> {
    let list: List = Parser::new(text).parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let item = |entry| match entry {
        ListEntry::Item(item) => item,
        ListEntry::InnerList(inner) => panic!("{inner:?} in {text}"),
    };
    list.into_iter().map(item).collect()
}

fn field(answer: &Response, name: &str) -> Vec<Item> {
    list(answer.header(name).unwrap_or_else(|| panic!("no {name} in {answer:?}")))
}

fn name(item: &Item) -> &str {
    item.bare_item.as_string().expect("a string").as_str()
}

fn number(item: &Item, parameter: &str) -> Option<i64> {
    let value = item.params.iter().find(|(key, _)| key.as_str() == parameter)?.1;
    let BareItem::Integer(number) = value else { panic!("{parameter}: expected an integer, not {value:?}") };
    Some((*number).into())
}

#[test]
fn policies_are_those_of_the_drafts_examples() {
    for (limits, example) in [
        (&[("burst", 100, "1m"), ("daily", 1000, "1d")][..], r#""burst";q=100;w=60,"daily";q=1000;w=86400"#),
        (&[("default", 100, "10s")], r#""default";q=100;w=10"#),
        (&[("permin", 50, "1m"), ("perhr", 1000, "1h")], r#""permin";q=50;w=60,"perhr";q=1000;w=3600"#),
    ] {
        let (node, _folder) = node(limits);
        let answer = node.check(r#"{"domain":"d"}"#);
        assert_eq!(field(&answer, "ratelimit-policy"), list(example));
    }
}

#[test]
fn available_quota_is_that_of_the_drafts_examples() {
    let (node, _folder) = node(&[("default", 100, "1d")]);
    let answer = node.check(r#"{"domain":"d","hits":50}"#);
    let limit = field(&answer, "ratelimit").pop().unwrap();
    let example = list(r#""default";r=50;t=30"#).pop().unwrap();
    assert_eq!((name(&limit), number(&limit, "r")), (name(&example), number(&example, "r")));
    let left = number(&limit, "t").unwrap();
    assert!((1..=86_400).contains(&left), "{left}");
    let keys = |item: &Item| item.params.keys().map(|key| key.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(&limit), keys(&example));
}

#[test]
fn retry_after_is_not_earlier_than_the_effective_window_of_a_limit_that_denies() {
    let (node, _folder) = node(&[("small", 1, "1d"), ("large", 5, "400d")]);
    node.check(r#"{"domain":"d"}"#);
    let denied = node.check(r#"{"domain":"d"}"#);
    assert_eq!(denied.status, 429);
    let retry_after: i64 = denied.header("retry-after").unwrap().parse().unwrap();
    let shown = field(&denied, "ratelimit");
    let [small, large] = ["small", "large"].map(|wanted| shown.iter().find(|item| name(item) == wanted).unwrap());
    assert_eq!((number(small, "r"), number(small, "t")), (Some(0), Some(retry_after)));
    assert_eq!(number(large, "r"), Some(4), "a denied check is charged nowhere");
}

#[test]
fn a_window_below_a_second_has_no_w() {
    let (node, _folder) = node(&[("brief", 3, "250ms")]);
    let answer = node.check(r#"{"domain":"d"}"#);
    assert_eq!(field(&answer, "ratelimit-policy"), list(r#""brief";q=3"#));
    assert_eq!(number(&field(&answer, "ratelimit")[0], "t"), Some(1));
}
