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
    let others = serde_json::json!([
        { "name": "per-user", "reasons": ["free replaces it"] },
        { "name": "bucket", "reasons": ["path is missing"] },
    ]);
    assert_eq!((&json["others"], &json["denied_by_default"]), (&others, &false.into()));
    let (_, table, _) = explain(&["--domain", "api", "user=u1", "tier=pro", "path=/c"]);
    assert!(table.contains("per-user"), "{table}");
    assert!(table.contains("  free: tier is pro, not free\n  bucket: path is /c, not /b\n"), "{table}");
    let (_, no_domain, _) = explain(&["--domain", "apis", "user=u1"]);
    assert!(no_domain.contains("no rule has the domain \"apis\": did you mean api?"), "{no_domain}");
}

#[test]
fn explain_shows_networks_positions_and_the_default() {
    let rules = "
version: 1
domains:
  - domain: edge
    default: deny
    limits:
      - { name: net, per: [{ ip: { v4: 24, v6: 64 } }], limit: 5, window: 1m }
      - { name: twice, exact_keys: [g, h, g], per: [g, g], limit: 5, window: 1m }
";
    let files = Files::new(rules, CASES);
    let explain = |args: &[&str]| files.run("explain", &[&["--domain", "edge"], args].concat());
    let json =
        |args: &[&str]| -> Value { serde_json::from_str(&explain(&[args, &["--output", "json"]].concat()).1).unwrap() };
    let (a, b) = (json(&["ip=2001:db8::1"]), json(&["ip=2001:DB8:0:0::ff"]));
    assert_eq!(a["limits"][0]["counter"], b["limits"][0]["counter"]);
    assert_eq!(a["limits"][0]["per"], serde_json::json!([{ "ip": { "v4": 24, "v6": 64 } }]));
    assert!(explain(&["ip=::1"]).1.contains("ip by /24 and /64"));
    for attributes in [&["ip=::1"][..], &["--ordered", "g=1", "h=2", "g=3"]] {
        let hashed = json(&[attributes, &["--hash-keys"]].concat());
        assert!(hashed["limits"][0]["counter"].as_str().unwrap().contains("/#"), "{hashed}");
    }
    let twice = json(&["--ordered", "g=1", "h=2", "g=3"]);
    assert_eq!(twice["limits"][0]["per"], serde_json::json!(["g", "g#2"]));
    assert!(twice["limits"][0]["counter"].as_str().unwrap().ends_with("/1/3"), "{twice}");
    let other_order = json(&["--ordered", "g=1", "g=3", "h=2"]);
    let reasons = serde_json::json!(["the keys are [g, g, h], not exactly [g, h, g]"]);
    assert_eq!((&other_order["others"][1]["reasons"], &other_order["denied_by_default"]), (&reasons, &true.into()));
    let (_, text, _) = explain(&["user=u"]);
    assert!(text.contains("no limit applies: the check is denied, as the default of the domain says"), "{text}");
}

#[test]
fn warnings_are_printed_and_leave_the_file_good() {
    let rules = RULES.replace("match: { path: /b }", "match: { path: '/b/*' }");
    let files = Files::new(&rules, CASES);
    let (code, out, errors) = files.run("validate", &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("good") && out.contains("1 domain, 3 limits, 3 warnings"), "{out}");
    let first = errors.lines().next().unwrap();
    let expected = "rules.yaml:7:66: domains[0].limits[1].limit: on_store_failure: local admits nothing";
    assert!(first.starts_with("warning: ") && first.contains(expected), "{errors}");
    assert!(errors.contains("\"/b/*\" is compared as it is: for a pattern, write { glob: \"/b/*\" }"), "{errors}");
    let (code, out, _) = files.run("validate", &["--output", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"], json["warnings"].as_array().unwrap().len()), (Some(0), &true.into(), 3));
    assert_eq!(json["warnings"][1]["field"], "domains[0].limits[2].match.path");
    assert_eq!((&json["warnings"][1]["line"], &json["warnings"][1]["column"]), (&9.into(), &40.into()), "{json}");
    let (_, out, errors) = Files::new("version: 1\ndomains: []\n", CASES).run("validate", &[]);
    assert!(out.contains("1 warning") && errors.contains("there is no domain"), "{out} {errors}");
}

#[test]
fn a_case_in_a_domain_that_no_rule_has_fails() {
    let files = Files::new(RULES, "version: 1\ncases:\n  - { name: typo, domain: apj, attributes: {}, matches: [] }\n");
    let (code, out, _) = files.run("test", &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("rules.test.yaml:3: no rule has the domain \"apj\": did you mean api?"), "{out}");
}

#[test]
fn cases_can_keep_the_order_of_attributes_and_test_the_default() {
    let rules = "
version: 1
domains:
  - domain: edge
    default: deny
    limits: [{ name: twice, exact_keys: [g, g], match: { g#2: b }, per: [g, g], limit: 1, window: 1m }]
";
    let cases = "
version: 1
cases:
  - name: the second entry counts
    domain: edge
    attributes: [{ g: a }, { g: b }]
    matches: [twice]
    steps:
      - { expect: allowed }
      - { expect: refused, by: [twice] }
      - { expect: allowed, attributes: [{ g: c }, { g: b }] }
  - name: other descriptors are denied
    domain: edge
    descriptors: [[{ g: b }, { g: a }], { g: b }]
    matches: []
    steps: [{ expect: refused, by: [] }]
";
    let (code, out, _) = Files::new(rules, cases).run("test", &[]);
    assert_eq!(code, Some(0), "{out}");
    let (_, out, _) = Files::new(&rules.replace("deny", "allow"), cases).run("test", &[]);
    assert!(out.contains("expected refused, found allowed"), "{out}");
}

#[test]
fn the_schema_and_the_decoder_have_the_same_fields() {
    let schema: Value = serde_json::from_slice(&output(&["rules", "schema"]).stdout).unwrap();
    let unknown = "version: 1\nx: 1\ndomains:\n  - domain: d\n    x: 1\n    limits:\n      \
                   - { name: l, per: [{ ip: { x: 1 } }], limit: 1, window: 1s, x: 1, match: { a: { x: 1 } }, overrides: [{ x: 1 }] }\n";
    let (_, _, errors) = Files::new(unknown, CASES).run("validate", &[]);
    let places = [
        (" x: ", "/properties", "; this"),
        ("domains[0].x: ", "/$defs/domain/properties", "; this"),
        ("limits[0].x: ", "/$defs/limit/properties", "; this"),
        ("overrides[0].x: ", "/$defs/override/properties", "; this"),
        ("per[0].ip.x: ", "/$defs/per/oneOf/1/additionalProperties/properties", "; this"),
        ("match.a: ", "/$defs/condition/oneOf/2/properties", ", not \"x\""),
    ];
    for (field, pointer, end) in places {
        let line = errors.lines().find(|line| line.contains(field)).unwrap_or_else(|| panic!("{field} in {errors}"));
        let known = line.split_once("expected one of ").unwrap().1.split_once(end).unwrap().0;
        let known: BTreeSet<&str> = known.split(", ").collect();
        let schema = schema.pointer(pointer).unwrap().as_object().unwrap();
        assert_eq!(known, schema.keys().map(String::as_str).collect(), "{pointer}");
    }
}

#[test]
fn every_field_of_the_schema_has_a_description() {
    let schema: Value = serde_json::from_slice(&output(&["rules", "schema"]).stdout).unwrap();
    let described = |field: &Value| {
        let shared = field["$ref"].as_str().and_then(|name| schema.pointer(name.trim_start_matches('#')));
        field["description"].is_string() || shared.is_some_and(|shared| shared["description"].is_string())
    };
    for pointer in ["/properties", "/$defs/domain/properties", "/$defs/limit/properties", "/$defs/override/properties"]
    {
        for (name, field) in schema.pointer(pointer).unwrap().as_object().unwrap() {
            assert!(described(field), "{pointer}/{name}");
        }
    }
}

#[test]
fn the_examples_of_the_documentation_hold() {
    let text = include_str!("../../docs/rules.md");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let starting = |start: &'static str| blocks.iter().filter(move |block| block.starts_with(start)).copied();
    let (rules, cases) =
        (starting("version: 1\ndomains").next().unwrap(), starting("version: 1\ncases").next().unwrap());
    let (code, out, _) = Files::new(rules, cases).run("test", &[]);
    assert_eq!(code, Some(0), "{out}");
    let limits =
        starting("      - name: ").map(|limit| format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limit}"));
    let whole = starting("version: 1\ndomains").map(str::to_owned);
    let mut count = 0;
    for rules in whole.chain(limits) {
        let (code, out, errors) = Files::new(&rules, cases).run("validate", &[]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{rules}{out}");
        count += 1;
    }
    assert_eq!(count, 3);
    let foreign = starting("domain: shop").next().unwrap();
    assert!(Files::new(foreign, cases).run("validate", &[]).2.contains("this is a file of envoyproxy/ratelimit"));
}

#[test]
fn a_check_names_each_attribute_once() {
    let answer = output(&["check", "--domain", "demo", "user=a", "user=b"]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&answer.stderr).starts_with("user: expected this attribute once"), "{answer:?}");
}
