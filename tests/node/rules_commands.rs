//! `tidegate rules …`: commands that work on rule files without a node.

use std::collections::BTreeSet;
use std::fs;

use crate::node::output;
use serde_json::Value;

const RULES: &str = "
version: 1
domains:
  - domain: api
    limits:
      - { name: per-user, match: { user: { present: true } }, per: [user], limit: 5, window: 1m }
      - { name: free, match: { tier: free }, per: [user], limit: 2, window: 1m, algorithm: fixed_window, replaces: [per-user],
          overrides: [{ match: { user: acme }, limit: 3 }] }
      - { name: bucket, match: { path: /b }, per: [], limit: 1, burst: 2, window: 1s, algorithm: token_bucket }
";

const CASES: &str = "
version: 1
cases:
  - name: free users have two a minute
    domain: api
    attributes: { user: u1, tier: free }
    matches: [free]
    steps:
      - { times: 2, expect: allowed }
      - { expect: refused, by: [free] }
      - { attributes: { user: acme, tier: free }, times: 3, expect: allowed }
      - { after: 1m, expect: allowed }
  - name: the bucket refills
    domain: api
    attributes: { path: /b }
    steps:
      - { times: 2, expect: allowed }
      - { expect: refused, by: [bucket] }
      - { after: 1s, expect: allowed }
      - { expect: refused }
";

/// A rule file and its test cases in a temporary folder.
struct Files(tempfile::TempDir);

impl Files {
    fn new(rules: &str, cases: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::write(files.0.path().join("rules.yaml"), rules).unwrap();
        fs::write(files.0.path().join("rules.test.yaml"), cases).unwrap();
        files
    }

    /// Runs `tidegate rules` and returns the exit code, the standard output and the standard error output.
    fn run(&self, command: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let file = self.0.path().join("rules.yaml");
        let mut arguments = vec!["rules", command, file.to_str().unwrap()];
        arguments.extend(args);
        let output = output(&arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn cases_that_meet_their_expectations_pass() {
    let (code, out, _) = Files::new(RULES, CASES).run("test", &[]);
    assert_eq!((code, out.contains("2 of 2 cases pass")), (Some(0), true), "{out}");
}

#[test]
fn failing_cases_are_reported_with_their_line() {
    let failing = CASES.replace("times: 3", "times: 4").replace("matches: [free]", "matches: [free, per-user]");
    let files = Files::new(RULES, &failing);
    let (code, out, _) = files.run("test", &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("rules.test.yaml:11: time 4 of 4: expected allowed, found refused by [\"free\"]"), "{out}");
    assert!(out.contains("rules.test.yaml:4: matches: expected"), "{out}");
    let (code, out, _) = files.run("test", &["--output", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"], &json["cases"][1]["ok"]), (Some(1), &false.into(), &true.into()));
}

#[test]
fn every_error_of_an_invalid_case_file_is_reported() {
    let invalid = "version: 1\ncases:\n  - { name: a, domain: api, steps: [{ expect: perhaps, times: 0, by: [x] }], more: 1 }\n  - { name: b }\n";
    let (code, _, errors) = Files::new(RULES, invalid).run("test", &[]);
    assert_eq!(code, Some(78));
    for expected in [
        "cases[0].steps[0].expect: expected allowed | refused",
        "cases[0].steps[0].times: expected 1 to",
        "cases[0].more: expected one of",
        "cases[1].domain: expected this field",
        "rules.test.yaml:4:5: cases[1]: expected matches, steps, or both",
    ] {
        assert!(errors.contains(expected), "{expected} is missing in {errors}");
    }
}

#[test]
fn explain_lists_the_limits_that_apply_and_those_that_do_not() {
    let files = Files::new(RULES, CASES);
    let explain = |args: &[&str]| files.run("explain", args);
    let (code, out, _) = explain(&["--domain", "api", "user=acme", "tier=free", "--output", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!((&json["limits"][0]["name"], &json["limits"][0]["limit"]), (&"free".into(), &3.into()));
    assert_eq!(json["others"], serde_json::json!(["per-user", "bucket"]));
    let (_, table, _) = explain(&["--domain", "api", "user=u1"]);
    assert!(table.contains("per-user") && table.contains("do not apply: free, bucket"), "{table}");
    let (_, no_domain, _) = explain(&["--domain", "other", "user=u1"]);
    assert!(no_domain.contains("no rule has the domain"), "{no_domain}");
}

#[test]
fn the_schema_and_the_decoder_have_the_same_fields() {
    let schema: Value = serde_json::from_slice(&output(&["rules", "schema"]).stdout).unwrap();
    let unknown = "version: 1\nx: 1\ndomains:\n  - domain: d\n    x: 1\n    limits:\n      \
                   - { name: l, per: [], limit: 1, window: 1s, x: 1, overrides: [{ x: 1 }] }\n";
    let (_, _, errors) = Files::new(unknown, CASES).run("validate", &[]);
    let places = [
        (" x: ", "/properties"),
        ("domains[0].x: ", "/$defs/domain/properties"),
        ("limits[0].x: ", "/$defs/limit/properties"),
        ("overrides[0].x: ", "/$defs/override/properties"),
    ];
    for (field, pointer) in places {
        let line = errors.lines().find(|line| line.contains(field)).unwrap_or_else(|| panic!("{field} in {errors}"));
        let known = line.split_once("expected one of ").unwrap().1.split_once("; this").unwrap().0;
        let known: BTreeSet<&str> = known.split(", ").collect();
        let schema = schema.pointer(pointer).unwrap().as_object().unwrap();
        assert_eq!(known, schema.keys().map(String::as_str).collect(), "{pointer}");
    }
}

#[test]
fn the_example_of_the_documentation_passes_its_tests() {
    let text = include_str!("../../docs/rules.md");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    for (name, block) in ["rules.yaml", "rules.test.yaml"].into_iter().zip(&blocks) {
        std::fs::write(folder.path().join(name), block).unwrap();
    }
    let result = output(&["rules", "test", folder.path().join("rules.yaml").to_str().unwrap()]);
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stdout));
}
