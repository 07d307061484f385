//! Limitador, beside the crate itself.

use std::collections::HashMap;
use std::sync::Arc;

use ::limitador::RateLimiter;
use ::limitador::limit::{Context, Limit, Namespace};
use serde_json::{Value, json};

use super::{errors, imported, is_allowed, limits, printed};
use limiter::rules::RuleBook;
use limiter::{DryRun, Revision, StoreTime};
use tidegate::rulefile::import::{Format, Imported};

const DAY: u64 = 86_400;

/// The limits of a file. No window ends while the test runs. A method or a function of an absent attribute ends the
/// thread in Limitador, so `has` comes before them.
fn file() -> Value {
    let limit = |namespace: &str, max: u64, conditions: &[&str], variables: &[&str]| {
        json!({
            "namespace": namespace, "max_value": max, "seconds": DAY, "conditions": conditions, "variables": variables,
        })
    };
    let named = |mut limit: Value, name: &str, id: &str| {
        limit["name"] = name.into();
        limit["id"] = id.into();
        limit
    };
    json!([
        limit("api", 400, &[], &[]),
        named(limit("api", 60, &["descriptors[0].method == 'GET'"], &["descriptors[0].user"]), "Reads of a User", "r"),
        limit("api", 15, &["descriptors[0]['method'] == \"POST\""], &["descriptors[0]['user']"]),
        limit("api", 40, &["descriptors[0].tier != 'free'"], &["descriptors[0].tier"]),
        limit("api", 90, &["descriptors[0].tier != 'pro'", "descriptors[0].method == 'GET'"], &[]),
        limit("api", 50, &["descriptors[0].path in ['/a', '/b']"], &["descriptors[0]['client-id']"]),
        limit("api", 70, &["descriptors[0].method == 'GET' && descriptors[0].path == '/c'"], &[]),
        limit(
            "api",
            30,
            &["has(descriptors[0].path) && descriptors[0].path.startsWith('/a')", "'GET' == descriptors[0].method"],
            &[]
        ),
        limit("api", 55, &["descriptors[0].tier == 'free' || descriptors[0].path == '/b'"], &["descriptors[0].path"]),
        limit(
            "api",
            45,
            &["!(descriptors[0].tier == 'free' && descriptors[0].path == '/b')"],
            &["descriptors[0].user"]
        ),
        limit("api", 65, &["descriptors[0].tier == 'pro' ? descriptors[0].path == '/a' : true"], &[]),
        limit("api", 35, &["has(descriptors[0].tier) && !has(descriptors[0].path)"], &["descriptors[0].method"]),
        limit("api", 80, &["has(descriptors[0].size) && int(descriptors[0].size) > 2"], &["descriptors[0].size"]),
        limit("api", 25, &["user == 'u1'"], &["path"]),
        limit(
            "web",
            120,
            &["has(descriptors[0].user) && descriptors[0].user.matches('^u[12]$')"],
            &["descriptors[0].user", "descriptors[0].path"]
        ),
        limit("web", 0, &["descriptors[0].path == '/c'"], &[]),
        limit("web", 300, &["descriptors[0].method != 'GET'"], &[]),
        limit("web", 20, &["descriptors[0].tier == 'free'", "descriptors[0].tier == 'pro'"], &[]),
        limit(
            "web",
            75,
            &[
                "has(descriptors[0].path) && size(descriptors[0].path) > 1",
                "'GET' == descriptors[0].method || 'x' in descriptors[0]",
            ],
            &[]
        ),
    ])
}

/// A pseudo-random sequence (SplitMix64), the same in each run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn request(&mut self) -> Vec<(&'static str, &'static str)> {
        const VALUES: [(&str, &[&str]); 7] = [
            ("method", &["GET", "POST", "PUT"]),
            ("path", &["/a", "/b", "/c", ""]),
            ("user", &["u1", "u2", "u3"]),
            ("tier", &["free", "pro"]),
            ("client-id", &["c1", "c2"]),
            ("size", &["1", "3"]),
            ("x", &[""]),
        ];
        let all = VALUES.iter().filter_map(|(key, values)| {
            let is_there = self.below(10) < 7;
            let value = values[usize::try_from(self.below(values.len() as u64)).unwrap()];
            is_there.then_some((*key, value))
        });
        all.collect()
    }
}

#[test]
fn a_thousand_random_requests_have_the_answers_of_limitador() {
    let text = file().to_string();
    let Imported { rules, notices } = imported(Format::Limitador, &[("limits.yaml", &text)]).unwrap();
    assert_eq!(limits(&rules), file().as_array().unwrap().len(), "{notices:?}");
    let book = Arc::new(RuleBook::compile(Arc::new(rules), Revision(1)).unwrap());
    let originals: Vec<Limit> = serde_json::from_value(file()).unwrap();
    let (mut allowed, mut denied) = (0, 0);
    for seed in 0..4 {
        let mut trial = DryRun::new(Arc::clone(&book), StoreTime(1_767_225_600_000_000));
        let original = RateLimiter::new(100_000);
        originals.iter().for_each(|limit| assert!(original.add_limit(limit.clone())));
        let mut sequence = Sequence(seed);
        for number in 0..1000 {
            let request = sequence.request();
            let domain = ["api", "web", "other"][usize::try_from(sequence.below(40)).unwrap() / 19];
            let hits = u32::try_from(sequence.below(3)).unwrap() + 1;
            let values: HashMap<String, String> =
                request.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            // A bare name is an attribute in the versions without CEL, and in the library.
            let mut context = Context::from(values.clone());
            context.list_binding("descriptors".to_owned(), vec![values]);
            let limited = original.check_rate_limited_and_update(&Namespace::from(domain), &context, hits.into());
            let expected = !limited.unwrap().limited;
            let answer = is_allowed(&mut trial, domain, std::slice::from_ref(&request), hits, number);
            assert_eq!(answer, expected, "seed {seed}, request {number}: {domain} {request:?}, {hits} hits");
            *if answer { &mut allowed } else { &mut denied } += 1;
        }
    }
    assert!(allowed > 500 && denied > 500, "{allowed} allowed, {denied} denied");
}

/// The rules and the notices of a file with one limit, but those that every file has.
fn of(conditions: &[&str], variables: &[&str]) -> (String, Vec<String>) {
    let limit = json!([{
        "namespace": "d", "max_value": 5, "seconds": 60, "conditions": conditions, "variables": variables,
    }]);
    let (rules, notices) = printed(Format::Limitador, &limit.to_string());
    let every = |line: &String| line.contains("begin at multiples") || line.contains("is the first of a request");
    let (all, own): (Vec<_>, Vec<_>) = notices.into_iter().partition(every);
    assert_eq!(all.len(), 2, "{all:?}");
    (rules, own)
}

#[test]
fn conditions_become_match_or_when() {
    let table = [
        (&["descriptors[0].a == 'x'"][..], &[][..], "match: { a: x }"),
        (&["descriptors[0]['a-b'] in ['x', \"z\"]"], &[], "match: { a-b: [x, z] }"),
        (&["descriptors[0].a != 'x'"], &["descriptors[0].a"], "match: { a: { not: x } }"),
        (&["descriptors[0].a != 'x'"], &[], r#"when: "attributes[\"a\"] != \"x\"""#),
        (&["descriptors[0].a == 'x' && descriptors[ 0 ].b == 'z'"], &[], "match: { a: x, b: z }"),
        (
            &["descriptors[0].a == 'x'", "descriptors[0].b.startsWith('y')"],
            &[],
            r#"when: "attributes.b.startsWith(\"y\")""#,
        ),
        (
            &["descriptors[0].a == 'x' || descriptors[0]['b'] == 'y'"],
            &[],
            r#"when: "(attributes.a == \"x\" ? true : attributes[\"b\"] == \"y\")""#,
        ),
        (&["req.method == 'GET'"], &["user_id"], "match: { req.method: GET }"),
    ];
    for (conditions, variables, expected) in table {
        let (rules, _) = of(conditions, variables);
        assert!(rules.contains(expected), "{conditions:?}: {rules}");
    }
}

#[test]
fn what_is_not_carried_over_is_listed() {
    let table = [
        (&["descriptors[1].a == 'x'"][..], &[][..], "a descriptor other than descriptors[0]"),
        (&["descriptors.size() > 1"], &[], "a descriptor other than descriptors[0]"),
        (&["limit.name == 'x'"], &[], "not limit"),
        (&["foo(descriptors[0].a)"], &[], "expected a function of CEL, not foo"),
        (&["a == 'x' || b == 'y'"], &[], "expected only the variables"),
        (&["hits == 'x' || hits == 'y'"], &[], "the name hits"),
        (&["descriptors[0].a == r'x'"], &[], "a form that is not read"),
        (&["descriptors[0].a == "], &[], "expected a CEL expression"),
        (&[], &["descriptors[1].user"], "a variable is expected to be an attribute"),
        (&[], &["int(descriptors[0].n) * 3"], "a variable is expected to be an attribute"),
    ];
    for (conditions, variables, notice) in table {
        let (rules, notices) = of(conditions, variables);
        assert!(notices.iter().any(|line| line.contains(notice)), "{conditions:?} {variables:?}: {notices:?}");
        let listed = notices.iter().any(|line| line.contains("the limit is not carried over: "));
        assert!(listed && rules.contains("domains: []"), "{conditions:?} {variables:?}: {rules} {notices:?}");
    }
    let (_, notices) = of(&["method == 'GET'"], &["user"]);
    let bare = notices.iter().filter(|line| line.contains("as in versions without CEL")).count();
    assert_eq!(bare, 2, "{notices:?}");
}

#[test]
fn every_field_is_read_or_listed() {
    let text = "
- namespace: d
  id: '7'
  max_value: 5
  seconds: 60
  name: Per User
  policy: fail_open
  conditions:
  variables: [descriptors[0].user]
- { namespace: d, max_value: 9, seconds: 60, variables: ['descriptors[0].user'] }
- { namespace: d, max_value: 5, seconds: 0 }
- { namespace: d, max_value: 99999999999999, seconds: 60 }
- { namespace: d, seconds: 3600, id: Some Id }
";
    let text = text.replace("[descriptors[0].user]", "['descriptors[0].user']");
    let (rules, notices) = printed(Format::Limitador, &text);
    for notice in [
        "f:3:7: [0].id: has no effect here",
        "f:6:9: [0].name: \"Per User\" becomes per-user",
        "f:7:11: [0].policy: is not carried over: this field is unknown",
        "f:10:3: [1]: is not carried over: Limitador takes it for the same limit as per-user",
        "f:11:42: [2].seconds: the limit is not carried over: a window has 1 second to 400 days",
        "f:12:30: [3].max_value: becomes unlimited",
        "f:13:3: [4].max_value: is missing, which means 0",
        "f:13:38: [4].id: \"Some Id\" becomes some-id",
    ] {
        assert!(notices.iter().any(|line| line.starts_with(notice)), "{notice} is missing in {notices:#?}");
    }
    for name in ["name: per-user\n", "name: per-1m\n", "name: some-id\n", "limit: unlimited\n", "limit: 0\n"] {
        assert!(rules.contains(name), "{name} is missing in {rules}");
    }
}

#[test]
fn what_is_no_file_of_limitador_is_an_error() {
    let table = [
        ("domain: d\ndescriptors: []", "f:1:1: expected a file of Limitador"),
        ("[]", "f:1:1: expected a file of Limitador"),
        ("- namespace: d\n  max_value: x\n  seconds: 60", "f:2:14: [0].max_value: expected a whole number"),
        ("- namespace: d\n  max_value: 1", "[0].seconds: expected this field"),
        ("- namespace: d\n  max_value: 1\n  seconds: 1\n- a", "f:4:3: [1]: expected a map"),
        ("- namespace: d\n  max_value: 1\n  seconds: 1\n  conditions: x", "[0].conditions: expected a list"),
        (
            "- namespace: d\n  max_value: 1\n  seconds: 1\n  variables: [[x]]",
            "[0].variables[0]: expected a single value",
        ),
        ("- namespace: [d]\n  max_value: 1\n  seconds: 1", "[0].namespace: expected a single value"),
    ];
    for (text, error) in table {
        let errors = errors(Format::Limitador, text);
        assert!(errors.iter().any(|line| line.contains(error)), "{text}: {errors:?}");
    }
}
