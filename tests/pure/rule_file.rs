//! Rule files as users write them: how their limits apply, and how their errors are reported.

use limiter::{Check, Descriptor, Revision};
use tidegate::rulefile::decode::compile;

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
