//! Rule files as users write them: how their limits apply, and how their errors are reported.

use limiter::rules::RuleBook;
use limiter::{Check, Descriptor, Revision};
use tidegate::ports::RuleSource;
use tidegate::rulefile::decode::compile;
use tidegate::rulefile::metrics::RuleFileMetrics;
use tidegate::rulefile::watch::FileRules;
use tidegate::telemetry::registry::MetricsRegistry;

const BOOK: &str = r#"
version: 1
domains:
  - domain: api
    limits:
      - name: free-per-minute
        match: { tier: free, method: [GET, HEAD], path: { route: "/v1/posts/{id}" } }
        per: [user]
        limit: 100
        window: 1m
        overrides:
          - { match: { user: acme }, limit: 5000 }
          - { match: { user: [root, ops] }, limit: unlimited }
        replaces: [per-user]
        response_headers: { x-plan: free }
      - { name: per-user, per: [user], limit: 10, window: 1s, algorithm: rolling_window, cells: 5 }
      - { name: monthly, per: [], limit: 1000000, calendar: month, time_zone: Europe/Paris, algorithm: fixed_window }
      - { name: bucket, match: { user: { not: { prefix: t- } } }, per: [user], limit: 5, window: 1s, burst: 20,
          algorithm: token_bucket }
      - { name: cel, when: "hits > 100", per: [], limit: 0, window: 1s, mode: shadow }
      - { name: resting, per: [], limit: 1, window: 1s, mode: "off" }
"#;

/// Compiles the rules and returns `name=limit` of each limit that applies to these entries.
fn applicable(text: &str, entries: &[(&str, &str)], hits: u32) -> Vec<String> {
    let book = compile("rules.yaml", text, Revision(1)).unwrap();
    let mut out = limiter::rules::ApplicableLimits::new();
    let descriptors = [Descriptor { entries, ordered: true, hits, charging: Default::default(), limit: None }];
    book.applicable(&Check { domain: "api", descriptors: &descriptors }, &mut out);
    out.iter().map(|a| format!("{}={}", a.effective.name, a.effective.limit)).collect()
}

#[test]
fn limits_overrides_and_replaces_apply_as_written() {
    let free = [("user", "u1"), ("tier", "free"), ("method", "GET"), ("path", "/v1/posts/7")];
    assert_eq!(applicable(BOOK, &free, 1), ["free-per-minute=100", "monthly=1000000", "bucket=5"]);
    let acme = [("user", "acme"), ("tier", "free"), ("method", "GET"), ("path", "/v1/posts/7")];
    assert_eq!(applicable(BOOK, &acme, 1)[0], "free-per-minute=5000");
    assert_eq!(applicable(BOOK, &[("user", "t-1")], 101), ["per-user=10", "monthly=1000000", "cel=0"]);
    assert_eq!(applicable(BOOK, &[], 1), ["monthly=1000000", "bucket=5"][..1]);
}

#[test]
fn every_error_is_reported_at_once_with_its_place() {
    let text = r#"version: 2
domains:
  - domain: api
    limits:
      - name: Bad Name
        match: { path: { regex: "(" }, status: 200 }
        per: [user, user]
        limit: -1
        window: 1 fortnight
        algoritm: sliding_window
      - { name: a, per: [], limit: 1, window: 1s, calendar: day, replaces: [a, unknown] }
"#;
    let errors: Vec<String> =
        compile("r.yaml", text, Revision(1)).unwrap_err().iter().map(ToString::to_string).collect();
    let starts = [
        "r.yaml:1:10: version: expected 1",
        "r.yaml:5:15: domains[0].limits[0].name: expected 1 to 64 of a-z, 0-9, _ and -",
        "r.yaml:6:24: domains[0].limits[0].match.path: expected a regular expression",
        "r.yaml:6:48: domains[0].limits[0].match.status: expected a string: quote it, \"200\"",
        "r.yaml:7:21: domains[0].limits[0].per[1]: expected an attribute name that occurs once",
        "r.yaml:8:16: domains[0].limits[0].limit: expected a whole number",
        "r.yaml:9:17: domains[0].limits[0].window: expected a length of time",
        "r.yaml:10:19: domains[0].limits[0].algoritm: expected one of algorithm,",
        "domains[0].limits[1].calendar: expected either window or calendar, not both",
        "domains[0].limits[1].replaces[1]: expected the name of a limit of this domain, not \"unknown\"",
        "domains[0].limits[1].replaces: expected no cycle",
    ];
    for start in starts {
        assert!(errors.iter().any(|e| e.contains(start)), "{start} is missing in {errors:#?}");
    }
}

#[test]
fn a_syntax_error_is_reported_alone_with_its_place() {
    let errors = compile("r.yaml", "version: 1\ndomains: [1, }\nx: 1", Revision(1)).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].place.line, 2, "{}", errors[0]);
}

#[test]
fn one_of_ten_thousand_limits_is_found() {
    let mut text = "version: 1\ndomains:\n  - domain: api\n    limits:\n".to_owned();
    for index in 0..10_000 {
        text += &format!(
            "      - {{ name: l{index}, match: {{ tier: free, path: {{ route: \"/r{index}/{{x}}\" }} }}, per: [], limit: {index}, window: 1s }}\n"
        );
    }
    assert_eq!(applicable(&text, &[("tier", "free"), ("path", "/r77/a")], 1), ["l77=77"]);
}

#[test]
fn a_cycle_of_replacements_is_reported_once() {
    let limit = |name: &str, replaced: &str| {
        format!("      - {{ name: {name}, per: [], limit: 1, window: 1s, replaces: [{replaced}] }}\n")
    };
    let limits = [("d", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("e", "d, b")].map(|(name, by)| limit(name, by));
    let text = format!("version: 1\ndomains:\n  - domain: api\n    limits:\n{}", limits.concat());
    let errors = compile("rules.yaml", &text, Revision(1)).unwrap_err();
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["domains[0].limits[3].replaces"], "{errors:?}");
}

/// Compiles the limits as those of the domain `api`, one on each line.
fn book_of(limits: &[&str]) -> RuleBook {
    compile("r.yaml", &rules_of(limits), Revision(1)).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// A file with these limits of the domain `api`, one on each line.
pub fn rules_of(limits: &[&str]) -> String {
    let limits: Vec<String> = limits.iter().map(|limit| format!("      - {{ {limit} }}\n")).collect();
    format!("version: 1\ndomains:\n  - domain: api\n    limits:\n{}", limits.concat())
}

/// The errors of one limit.
fn errors_of(limit: &str) -> String {
    let errors = compile("r.yaml", &rules_of(&[limit]), Revision(1)).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The names of the counters that count these entries.
fn counters(book: &RuleBook, entries: &[(&str, &str)]) -> Vec<String> {
    let descriptors = [Descriptor { entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
    let mut applied = limiter::rules::ApplicableLimits::new();
    book.applicable(&Check { domain: "api", descriptors: &descriptors }, &mut applied);
    let name = |limit: &limiter::rules::ApplicableLimit<'_>| {
        let mut name = Vec::new();
        limit.key(&descriptors[0], false, &mut name);
        String::from_utf8(name).unwrap()
    };
    applied.iter().map(name).collect()
}

#[test]
fn errors_of_common_mistakes_have_a_hint() {
    let table = [
        ("name: l, per: [], window: 1m, limit: Unlimited", "or unlimited: did you mean unlimited?"),
        ("name: l, per: [], window: 1m, limit: unlimitted", "or unlimited: did you mean unlimited?"),
        ("name: l, per: [], window: 1m, limit: -1", "or unlimited, not -1: for no limit, write unlimited"),
        (
            "name: l, per: [], window: 1m, limit: \"100\"",
            "limit: expected a whole number: write it without quotes, 100",
        ),
        ("name: l, per: [], window: 1m, limit: 1.5", "or unlimited, not \"1.5\""),
        ("name: l, per: [], window: 1m, limit: 100/m", "or unlimited, not \"100/m\""),
        (
            "name: l, per: [], window: 60, limit: 1",
            "window: expected a length of time such as 250ms, 10s, 1m, 1h or 30d: 60s is 60 seconds",
        ),
        ("name: l, per: [], windw: 1m, limit: 1", "this field is unknown: did you mean window?"),
        ("name: l, pre: [], window: 1m, limit: 1", "this field is unknown: did you mean per?"),
        ("name: l, per: [], window: 1m, limit: 1, matches: {}", "this field is unknown: did you mean match?"),
        (
            "name: l, per: [], window: 1m, limit: 1, mode: Enforce",
            "expected enforce | shadow | off: did you mean enforce?",
        ),
        ("name: l, per: [], window: 1m, limit: 1, algorithm: sliding-window", "did you mean sliding_window?"),
        ("name: l, per: [], window: 1m, limit: 1, match: { a: { perfix: x } }", "not \"perfix\": did you mean prefix?"),
        (
            "name: l, per: [], window: 1m, limit: 1, match: { a: { present: \"true\" } }",
            "expected true or false: write it without quotes, true",
        ),
        ("name: l, per: [user, user], window: 1m, limit: 1", "once: user#2 is a second entry with the key user"),
        ("name: l, per: [{ ip: { v4: 33, v6: 64 } }], window: 1m, limit: 1", "per[0].ip.v4: expected 0 to 32 bits"),
        ("name: l, per: [{ ip: { v4: 32, v6: 999 } }], window: 1m, limit: 1", "per[0].ip.v6: expected 0 to 128 bits"),
        (
            "name: l, per: [{ ip: { v4: 32 } }], window: 1m, limit: 1",
            "per[0].ip.v6: expected this field: it is required",
        ),
        ("name: l, per: [{ ip: 64 }], window: 1m, limit: 1", "per[0].ip: expected a map, not a single value"),
        (
            "name: l, per: [{}], window: 1m, limit: 1",
            "one attribute with the lengths of networks: { ip: { v4: 32, v6: 64 } }",
        ),
        (
            "name: l, per: [], exact_keys: [g, g#2], window: 1m, limit: 1",
            "exact_keys[1]: expected a key without a position: write g once for each entry",
        ),
        (
            "name: l, per: [], window: 1m, limit: 1, when: \"attributes.age > 18\"",
            "when: expected operands that > accepts, not string and int",
        ),
        (
            "name: l, per: [], window: 1m, limit: 1, when: \"attributes.tier\"",
            "when: expected an expression that is true or false, not string",
        ),
    ];
    for (limit, hint) in table {
        let errors = errors_of(limit);
        assert!(errors.contains(hint), "{limit}: {errors}");
    }
}

#[test]
fn files_of_other_rate_limiters_are_recognised() {
    let envoy = "domain: d\ndescriptors:\n  - key: user\n    rate_limit: { unit: second, requests_per_unit: 5 }\n";
    let limitador = "- namespace: d\n  max_value: 10\n  seconds: 60\n  conditions: []\n";
    for (text, name) in [(envoy, "envoyproxy/ratelimit"), (limitador, "Limitador")] {
        let errors = compile("r.yaml", text, Revision(1)).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        let message = errors[0].to_string();
        assert!(
            message.starts_with("r.yaml:1:1: expected the fields version and domains: this is a file of"),
            "{message}"
        );
        assert!(message.contains(name), "{message}");
        let anchor = message.split_once("docs/rules.md#").unwrap().1.trim_end_matches(')');
        let docs = include_str!("../../docs/rules.md").to_lowercase().replace(['/', '`'], "");
        assert!(docs.contains(&format!("## {}\n", anchor.replace('-', " "))), "{anchor} is no heading of the page");
    }
}

#[test]
fn addresses_of_one_network_share_a_counter() {
    let book = book_of(&["name: l, per: [{ ip: { v4: 24, v6: 64 } }], limit: 9, window: 1m"]);
    let counter = |ip: &str| counters(&book, &[("ip", ip)]).concat();
    let groups = [
        &["203.0.113.9", "203.0.113.200", "::ffff:203.0.113.7", "::FFFF:CB00:7107"][..],
        &["2001:db8:0:1::7", "2001:0DB8::1:0:0:0:8", "2001:db8:0:1:ffff::"],
        &["2001:db8:0:2::7"],
        &["unknown"],
        &["203.0.113.9:1234"],
        &[""],
    ];
    let names: Vec<String> = groups.map(|group| counter(group[0])).to_vec();
    for (group, name) in groups.iter().zip(&names) {
        assert!(group.iter().all(|ip| counter(ip) == *name), "{group:?}");
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
    }
    let limit =
        |per: &str| counters(&book_of(&[&format!("name: l, per: [{per}], limit: 9, window: 1m")]), &[("ip", "::1")]);
    let all =
        ["{ ip: { v4: 24, v6: 64 } }", "{ ip: { v4: 24, v6: 56 } }", "{ ip: { v4: 32, v6: 64 } }", "ip"].map(limit);
    for (at, name) in all.iter().enumerate() {
        assert!(!all[..at].contains(name), "a change of per begins a counter anew");
    }
}

#[test]
fn an_override_that_splits_a_network_has_a_counter_of_its_own() {
    let own = |condition: &str| {
        let book = book_of(&[&format!(
            "name: l, per: [{{ ip: {{ v4: 24, v6: 64 }} }}], limit: 9, window: 1m, overrides: [{{ match: {{ ip: {condition} }}, limit: 5 }}]"
        )]);
        counters(&book, &[("ip", "10.0.0.1")]) != counters(&book, &[("ip", "192.0.2.1")].map(|_| ("ip", "10.0.0.200")))
    };
    assert!(own("10.0.0.1"), "10.0.0.200 has another limit, and would share the counter");
    assert!(own("{ cidr: 10.0.0.0/30 }"));
    assert!(!own("{ cidr: 10.0.0.0/8 }") && !own("{ cidr: 10.0.0.0/24 }"));
}

#[test]
fn entries_with_one_key_are_told_apart() {
    let tree = "name: l, exact_keys: [generic_key, generic_key], per: [generic_key, generic_key], limit: 9, window: 1m";
    let book = book_of(&[tree]);
    let counter = |entries: &[(&str, &str)]| counters(&book, entries).concat();
    let g = |value| ("generic_key", value);
    let names =
        [[g("a"), g("b")], [g("a"), g("c")], [g("b"), g("b")], [g("b"), g("a")], [g("a"), g("a")]].map(|e| counter(&e));
    for (at, name) in names.iter().enumerate() {
        assert!(!name.is_empty() && !names[..at].contains(name), "{names:?}");
    }
    for other in [&[g("a")][..], &[g("a"), ("x", "b")], &[g("a"), g("b"), g("c")], &[("x", "a"), g("b")]] {
        assert_eq!(counter(other), "", "{other:?}");
    }
    let second =
        book_of(&["name: l, match: { generic_key: a, generic_key#2: b }, per: [generic_key#2], limit: 9, window: 1m"]);
    assert_eq!(counters(&second, &[g("a"), g("b")]).len(), 1);
    assert_eq!(counters(&second, &[g("b"), g("a")]).len(), 0);
    let cel = book_of(&["name: l, per: [], when: \"attributes['generic_key#2'] == 'b'\", limit: 9, window: 1m"]);
    assert_eq!((counters(&cel, &[g("a"), g("b")]).len(), counters(&cel, &[g("b"), g("a")]).len()), (1, 0));
    let kept = book_of(&[&format!("{tree}, overrides: [{{ match: {{ generic_key#2: b }}, limit: 5 }}]")]);
    assert_eq!(counters(&kept, &[g("a"), g("b")]).concat(), names[0], "generic_key#2 is one of the per attributes");
}

#[test]
fn a_node_is_advised_of_limits_that_admit_nothing_in_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    let metrics = RuleFileMetrics::new(&MetricsRegistry::new("0", "0").unwrap()).unwrap();
    for (limit, advised) in [("2", true), ("2, on_store_failure: deny", false), ("3", false), ("unlimited", false)] {
        let limit = format!("{{ name: l, per: [], window: 1m, limit: {limit} }}");
        std::fs::write(&path, format!("version: 1\ndomains: [{{ domain: d, limits: [{limit}] }}]\n")).unwrap();
        let source = FileRules::open(path.clone(), 3, metrics.clone()).unwrap();
        assert_eq!(source.advice().is_some(), advised, "{limit}");
    }
}
