//! envoyproxy/ratelimit. The files and the answers are in `envoy/`.

use std::sync::Arc;

use super::{errors, imported, is_allowed, limits, printed};
use limiter::rules::{Quota, RuleBook};
use limiter::{DryRun, Revision, StoreTime};
use tidegate::rulefile::cases::{Entries, parse};
use tidegate::rulefile::import::{Format, Imported};

const FILES: [(&str, &str); 6] = [
    ("edge.yaml", include_str!("envoy/edge.yaml")),
    ("messaging.yaml", include_str!("envoy/messaging.yaml")),
    ("replaces.yaml", include_str!("envoy/replaces.yaml")),
    ("files.yaml", include_str!("envoy/files.yaml")),
    ("internal.yaml", include_str!("envoy/internal.yaml")),
    ("tenants.yaml", include_str!("envoy/tenants.yaml")),
];
const ANSWERS: &str = include_str!("envoy/answers.test.yaml");
const NOTICES: &str = include_str!("envoy/notices.txt");
/// The instant at which the counters are empty, as in `tidegate rules test`.
const BEGIN: StoreTime = StoreTime(1_767_225_600_000_000);

#[test]
fn every_request_is_answered_as_documented() {
    let rules = imported(Format::Envoy, &FILES).unwrap().rules;
    let book = Arc::new(RuleBook::compile(Arc::new(rules), Revision(1)).unwrap());
    let mut asked = 0;
    for case in parse("answers.test.yaml", ANSWERS).unwrap() {
        assert!(book.domain(&case.domain).is_some(), "{}: no domain {}", case.name, case.domain);
        let mut trial = DryRun::new(Arc::clone(&book), BEGIN);
        let mut after_us = 0;
        for step in &case.steps {
            after_us += step.after_ms * 1000;
            let descriptors: Vec<_> = step.ask.descriptors.iter().map(Entries::borrow).collect();
            for time in 1..=step.times {
                let allowed = is_allowed(&mut trial, &case.domain, &descriptors, step.ask.hits, after_us);
                assert_eq!(allowed, step.allowed, "{}: line {}, time {time}", case.name, step.line);
                asked += 1;
            }
        }
    }
    assert!(asked > 1500, "{asked} requests");
}

#[test]
fn what_is_not_carried_over_is_listed_by_line() {
    let Imported { rules, notices } = imported(Format::Envoy, &FILES).unwrap();
    let notices: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices, NOTICES.lines().collect::<Vec<_>>());
    let rate_limits: usize = FILES.iter().map(|(_, text)| text.matches(" rate_limit:").count()).sum();
    let overrides = |limit: &limiter::rules::Limit| limit.overrides.iter().filter(|c| c.limit.is_some()).count();
    let overrides: usize = rules.domains.iter().flat_map(|domain| &domain.limits).map(overrides).sum();
    let left_out = notices
        .iter()
        .filter(|line| line.contains("takes every value before it") || line.contains("all below"))
        .count();
    assert_eq!(limits(&rules) + overrides + left_out, rate_limits);
    assert!(rate_limits >= 200, "{rate_limits}");
}

#[test]
fn the_same_files_make_the_same_rules() {
    let import = || imported(Format::Envoy, &FILES).unwrap().rules;
    assert_eq!(import(), import());
}

/// The rules of a domain with these descriptors, and the notices but the one that every domain has.
fn of(descriptors: &str) -> (String, Vec<String>) {
    let (rules, notices) = printed(Format::Envoy, &format!("domain: d\ndescriptors:\n{descriptors}"));
    let (all, own): (Vec<_>, Vec<_>) = notices.into_iter().partition(|line| line.starts_with("f:1:9: domain: "));
    assert_eq!(all.len(), 1, "{all:?}");
    (rules, own)
}

#[test]
fn entries_with_a_value_become_overrides_of_the_key() {
    let (rules, notices) = of("
  - key: user
    rate_limit: { unit: minute, requests_per_unit: 20 }
  - { key: user, value: acme, rate_limit: { unit: minute, requests_per_unit: 500 } }
  - { key: user, value: root, rate_limit: { unlimited: true } }
  - { key: user, value: bot*, shadow_mode: true, rate_limit: { unit: minute, requests_per_unit: 1 } }
  - { key: user, value: slow, rate_limit: { unit: hour, requests_per_unit: 3 } }
  - { key: user, value: free }
");
    let expected = r#"version: 1
domains:
  - domain: d
    charge: each
    limits:
      - name: user
        exact_keys: [user]
        per: [user]
        limit: 20
        window: 1m
        algorithm: fixed_window
        overrides:
          - { match: { user: acme }, limit: 500 }
          - { match: { user: root }, limit: unlimited }
          - { match: { user: slow }, mode: "off" }
          - { match: { user: free }, mode: "off" }
          - match: { user: { prefix: bot } }
            limit: 1
            mode: shadow
      - name: user-slow
        match: { user: slow }
        exact_keys: [user]
        per: []
        limit: 3
        window: 1h
        algorithm: fixed_window
"#;
    assert_eq!((rules.as_str(), notices), (expected, Vec::new()));
}

#[test]
fn a_limit_that_replaces_excludes_by_condition() {
    let (rules, _) = of("
  - { key: a, rate_limit: { unit: minute, requests_per_unit: 1, replaces: [{ name: x }] } }
  - { key: a, value: one, rate_limit: { unit: minute, requests_per_unit: 2 } }
  - { key: a, value: two }
  - { key: b, value: v*, rate_limit: { unit: minute, requests_per_unit: 1, replaces: [{ name: x }] } }
  - { key: b, value: 'v\"1' }
  - { key: c, rate_limit: { name: x, unit: minute, requests_per_unit: 1 } }
");
    for line in [
        "        match: { a: { not: [one, two] } }\n",
        "        match: { b: { prefix: v } }\n",
        r#"        when: "attributes[\"b\"] != \"v\\\"1\"""#,
        "        replaces: [x]\n",
    ] {
        assert!(rules.contains(line), "{line} is missing in {rules}");
    }
}

#[test]
fn every_difference_is_listed() {
    let table = [
        ("{ key: a*, rate_limit: { unit: second, requests_per_unit: 1 } }", "cannot match keys by a wildcard"),
        ("{ key: 'a#2', rate_limit: { unit: second, requests_per_unit: 1 } }", "means a position here"),
        ("{ key: a, colour: red, rate_limit: { unlimited: true } }", "descriptors[0].colour: is not carried over"),
        ("{ key: a, shadow_mod: true }", "did you mean shadow_mode?"),
        ("{ key: a, shadow_mode: true }", "there is no rate_limit beside it"),
        ("{ key: a, quota_mode: on, rate_limit: { unit: day, requests_per_unit: 1 } }", "becomes mode: shadow"),
        ("{ key: a, detailed_metric: true }", "metrics are by limit"),
        ("{ key: a, value_to_metric: true }", "metrics are by limit"),
        ("{ key: a, rate_limit: { unit: day } }", "denies everything"),
        ("{ key: a, rate_limit: { unlimited: true, requests_per_unit: 1 } }", "no effect beside unlimited"),
        (
            "{ key: a, rate_limit: { unit: day, requests_per_unit: 1, burst: 2 } }",
            "rate_limit.burst: is not carried over",
        ),
        ("{ key: a, rate_limit: { unit: day, requests_per_unit: 1, name: A b } }", "\"A b\" becomes a-b"),
        (
            "{ key: a, rate_limit: { unit: day, requests_per_unit: 1, replaces: [{ name: x, y: z }] } }",
            "replaces[0].y: is",
        ),
    ];
    for (entry, notice) in table {
        let (_, notices) = of(&format!("  - {entry}\n"));
        assert!(notices.iter().any(|line| line.contains(notice)), "{entry}: {notices:?}");
        assert!(notices.iter().all(|line| line.starts_with("f:3:")), "{entry}: {notices:?}");
    }
}

#[test]
fn what_the_reference_service_rejects_is_an_error() {
    let table = [
        ("[]", "f:1:1: expected a file of envoyproxy/ratelimit"),
        ("version: 1\ndomains: []", "f:1:1: expected a file of envoyproxy/ratelimit"),
        ("domain: [", ": expected YAML"),
        ("domain: ''", "f:1:9: domain: expected the name of a domain"),
        ("domain: d\ndescriptors: { key: a }", "f:2:14: descriptors: expected a list"),
        ("domain: d\ndescriptors: [a]", "descriptors[0]: expected a map"),
        ("domain: d\ndescriptors: [{ value: a }]", "descriptors[0].key: expected this field"),
        ("domain: d\ndescriptors: [{ key: [a] }]", "descriptors[0].key: expected a single value"),
        ("domain: d\ndescriptors: [{ key: a, shadow_mode: 2 }]", "shadow_mode: expected true or false"),
        (
            "domain: d\ndescriptors: [{ key: a }, { key: a }]",
            "descriptors[1]: expected a key and a value that no other",
        ),
        ("domain: d\ndescriptors: [{ key: a_b }, { key: a, value: b }]", "not a_b again"),
        (
            "domain: d\ndescriptors: [{ key: a, share_threshold: true }]",
            "expected only beside a value that ends with *",
        ),
        (
            "domain: d\ndescriptors: [{ key: a, rate_limit: { unit: eon, requests_per_unit: 1 } }]",
            "expected second | minute",
        ),
        (
            "domain: d\ndescriptors: [{ key: a, rate_limit: { requests_per_unit: 1 } }]",
            "unit: expected second | minute",
        ),
        ("domain: d\ndescriptors: [{ key: a, rate_limit: { unit: day, unlimited: true } }]", "expected no unit beside"),
        (
            "domain: d\ndescriptors: [{ key: a, rate_limit: { unit: day, requests_per_unit: -1 } }]",
            "expected a whole number",
        ),
        (
            "domain: d\ndescriptors: [{ key: a, rate_limit: { unit: day, requests_per_unit: 5000000000 } }]",
            "at most 4294967295",
        ),
        (
            "domain: d\ndescriptors: [{ key: a, rate_limit: { unlimited: true, name: n, replaces: [{ name: n }] } }]",
            "expected the name of another rate_limit",
        ),
        (
            "domain: d\ndescriptors: [{ key: a, rate_limit: { unlimited: true, replaces: [{}] } }]",
            "replaces[0].name: expected the name of a rate_limit",
        ),
    ];
    for (text, error) in table {
        let errors = errors(Format::Envoy, text);
        assert!(errors.iter().any(|line| line.contains(error)), "{text}: {errors:?}");
    }
    let long = format!("domain: {}", "d".repeat(257));
    assert!(errors(Format::Envoy, &long)[0].contains("the imported rules would be invalid: expected 1 to 256 bytes"));
}

#[test]
fn all_errors_of_all_files_are_reported() {
    let wrong = "domain: d\ndescriptors: [{ value: a }, { key: b, rate_limit: { unit: x } }]\n";
    let errors = imported(Format::Envoy, &[("a", "domain: d"), ("b", wrong), ("c", "domain: [")]).unwrap_err();
    let places: Vec<String> = errors.iter().map(|error| format!("{}:{}", error.file, error.field)).collect();
    assert_eq!(places, ["b:domain", "b:descriptors[0].key", "b:descriptors[1].rate_limit.unit", "c:"]);
    assert_eq!(errors[0].message, "expected a domain that no other file has: a has it");
}

#[test]
fn many_values_below_a_wildcard_stay_excluded() {
    let values: String = (0..300).map(|n| format!("  - {{ key: p, value: /api/{n} }}\n")).collect();
    let (_, notices) =
        of(&format!("{values}  - {{ key: p, value: /api/*, rate_limit: {{ unit: day, requests_per_unit: 0 }} }}\n"));
    assert_eq!(notices, Vec::<String>::new());
    let wildcard = "  - { key: p, value: /api/*, rate_limit: { unlimited: true, replaces: [{ name: x }] } }\n";
    let (rules, notices) = of(&format!("{values}{wildcard}"));
    assert!(notices.iter().any(|line| line.contains("make its condition too long")), "{notices:?}");
    assert!(rules.contains("limits: []"), "{rules}");
}

#[test]
fn an_unlimited_default_keeps_the_limits_of_its_values() {
    let text = "domain: d\ndescriptors:\n  - { key: a, rate_limit: { unlimited: true } }\n  \
                - { key: a, value: x, rate_limit: { unit: day, requests_per_unit: 1 } }\n";
    let rules = imported(Format::Envoy, &[("f", text)]).unwrap().rules;
    let quotas: Vec<Quota> = rules.domains[0].limits.iter().map(|limit| limit.limit).collect();
    assert_eq!(quotas, [Quota::Unlimited, Quota::Hits(1)]);
}

#[test]
fn the_example_of_the_documentation_is_what_the_import_prints() {
    let text = include_str!("../../../docs/rules.md").split_once("## From envoyproxy/ratelimit").unwrap().1;
    let block = |start: &str| {
        let from = text.find(&format!("```yaml\n{start}")).unwrap() + "```yaml\n".len();
        text[from..].split("```").next().unwrap()
    };
    let (rules, _) = printed(Format::Envoy, block("domain: shop"));
    assert_eq!(rules, block("version: 1"));
}
