use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::decode::{read_limit, read_rules};
use super::*;
use limiter::rules::{Attribute, Prefixes};

/// Any text, and texts that YAML or the decoder could take for something else.
fn any_text() -> impl Strategy<Value = String> {
    const TRAPS: [&str; 49] = [
        "",
        "~",
        "null",
        "true",
        "No",
        "off",
        "y",
        "1",
        "1_000",
        "0x1f",
        "1e3",
        ".inf",
        "nan",
        "-",
        "- a",
        "a: b",
        "a #b",
        "#a",
        "{a",
        "[",
        "&a",
        "*a",
        "!t",
        "|",
        ">",
        "'",
        "\"",
        "\\",
        "%",
        "@",
        "`",
        " a ",
        "a\nb",
        "\t",
        "\u{0}",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "é",
        "\u{1f600}",
        "90s",
        "2026-01-01",
        "---",
        "...",
        "?",
        ",",
        "<<",
        "=",
    ];
    prop_oneof![proptest::sample::select(&TRAPS[..]).prop_map(str::to_owned), any::<String>(), "[a-z_/.-]{1,12}"]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        any_text().prop_map(Condition::Equal),
        vec(any_text(), 0..3).prop_map(Condition::AnyOf),
        any_text().prop_map(Condition::Prefix),
        any_text().prop_map(Condition::Suffix),
        any_text().prop_map(Condition::Glob),
        any_text().prop_map(Condition::Route),
        any_text().prop_map(Condition::Regex),
        vec(any_text(), 0..3).prop_map(Condition::Cidr),
        any::<bool>().prop_map(Condition::Present),
    ];
    leaf.prop_recursive(3, 4, 1, |inner| inner.prop_map(|inner| Condition::Not(Box::new(inner))))
}

fn any_match() -> impl Strategy<Value = Match> {
    let conditions = btree_map(any_text(), any_condition(), 0..3);
    (conditions, option::of(vec(any_text(), 0..3)), option::of(any_text()))
        .prop_map(|(conditions, exact_keys, when)| Match { conditions, exact_keys, when })
}

fn any_quota() -> impl Strategy<Value = Quota> {
    prop_oneof![any::<u64>().prop_map(Quota::Hits), Just(Quota::Unlimited)]
}

fn any_headers() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(any_text(), any_text(), 0..3)
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Enforce), Just(Mode::Shadow), Just(Mode::Off)]
}

fn any_failure() -> impl Strategy<Value = OnStoreFailure> {
    prop_oneof![Just(OnStoreFailure::Local), Just(OnStoreFailure::Allow), Just(OnStoreFailure::Deny)]
}

fn any_override() -> impl Strategy<Value = Override> {
    let failure = option::of(any_failure());
    (
        any_match(),
        option::of(any_quota()),
        option::of(any::<u64>()),
        option::of(any_mode()),
        failure,
        option::of(any_headers()),
    )
        .prop_map(|(matches, limit, burst, mode, on_store_failure, response_headers)| Override {
            matches,
            limit,
            burst,
            mode,
            on_store_failure,
            response_headers,
        })
}

/// A period that fits the algorithm: `calendar` needs `fixed_window`.
fn any_period() -> impl Strategy<Value = (Algorithm, Period)> {
    const ALGORITHMS: [Algorithm; 4] =
        [Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket];
    const UNITS: [CalendarUnit; 5] =
        [CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Year];
    let lengths =
        prop_oneof![any::<u64>(), (1..500u64).prop_map(|n| n * 1000), (1..500u64).prop_map(|n| n * 3_600_000)];
    let calendar = (proptest::sample::select(&UNITS[..]), any_text())
        .prop_map(|(unit, time_zone)| (Algorithm::FixedWindow, Period::Calendar { unit, time_zone }));
    prop_oneof![
        (proptest::sample::select(&ALGORITHMS[..]), lengths)
            .prop_map(|(algorithm, ms)| (algorithm, Period::Window { ms })),
        calendar,
    ]
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let prefixes = option::of((any::<u8>(), any::<u8>()).prop_map(|(v4, v6)| Prefixes { v4, v6 }));
    let per = vec((any_text(), prefixes).prop_map(|(attribute, prefixes)| Per { attribute, prefixes }), 0..4);
    let consistency = option::of(prop_oneof![Just(Consistency::Exact), Just(Consistency::Leased)]);
    let on_partition = prop_oneof![Just(OnPartition::Open), Just(OnPartition::Share), Just(OnPartition::Deny)];
    let strategies = on_partition.prop_map(|on_partition| GlobalStrategy::Gossip { on_partition });
    let strategies = prop_oneof![strategies, Just(GlobalStrategy::Escrow)];
    let scope = prop_oneof![Just(Scope::Region), strategies.prop_map(Scope::Global)];
    let first =
        (any_text(), any_match(), per, any_quota(), any_period(), option::of(any::<u32>()), option::of(any::<u64>()));
    let second = (consistency, scope, any::<bool>(), any_failure(), any_mode(), vec(any_override(), 0..2));
    (first, second, vec(any_text(), 0..3), any_headers()).prop_map(|(first, second, replaces, response_headers)| {
        let (name, matches, mut per, limit, (algorithm, period), cells, burst) = first;
        let (consistency, scope, overdraft, on_store_failure, mode, overrides) = second;
        // A valid limit names an attribute once.
        let mut seen = std::collections::BTreeSet::new();
        per.retain(|per| seen.insert(Attribute::parse(&per.attribute)));
        Limit {
            name,
            matches,
            per,
            limit,
            period,
            algorithm,
            cells,
            burst,
            consistency,
            scope,
            overdraft,
            on_store_failure,
            mode,
            overrides,
            replaces,
            response_headers,
        }
    })
}

fn any_domain() -> impl Strategy<Value = Domain> {
    let charge = prop_oneof![Just(Charge::AllOrNothing), Just(Charge::Each)];
    let default = prop_oneof![Just(Unmatched::Allow), Just(Unmatched::Deny)];
    let identity = prop_oneof![Just(Identity::Caller), Just(Identity::Key), Just(Identity::Either)];
    let failure = prop_oneof![Just(OnIdentityFailure::Deny), Just(OnIdentityFailure::Allow)];
    (any_text(), charge, default, identity, failure, vec(any_limit(), 0..3)).prop_map(
        |(domain, charge, default, identity, on_identity_failure, limits)| Domain {
            domain,
            charge,
            default,
            identity,
            on_identity_failure,
            limits,
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(rules in vec(any_domain(), 0..3).prop_map(|domains| Rules { domains })) {
        let (yaml, json) = (rules_yaml(&rules), rules_json(&rules).to_string());
        prop_assert_eq!(read_rules(&yaml), Ok(rules.clone()), "{}", yaml);
        prop_assert_eq!(read_rules(&json), Ok(rules.clone()), "{}", json);
        for limit in rules.domains.iter().flat_map(|domain| &domain.limits) {
            let json = limit_json(limit).to_string();
            prop_assert_eq!(read_limit(&json, None), Ok(limit.clone()), "{}", json);
        }
    }
}

#[test]
fn yaml_is_what_a_person_would_write() {
    let text = r#"version: 1
domains:
  - domain: api
    identity: key
    on_identity_failure: allow
    limits:
      - name: free-per-minute
        match: { path: { route: "/v1/posts/{id}" }, tier: free }
        per: [user, { ip: { v4: 32, v6: 64 } }]
        limit: 100
        window: 90s
        mode: "off"
        overrides:
          - { match: { user: acme }, limit: 5000 }
          - match: { user: [root, ops] }
            limit: unlimited
            mode: shadow
        replaces: [per-user]
      - name: per-user
        per: []
        limit: 0
        calendar: day
        time_zone: Europe/Paris
        algorithm: fixed_window
"#;
    assert_eq!(rules_yaml(&read_rules(text).unwrap()), text);
}

#[test]
fn a_length_of_time_has_the_largest_unit_that_divides_it() {
    let table = [
        (250, "250ms"),
        (1000, "1s"),
        (90_000, "90s"),
        (60_000, "1m"),
        (7_200_000, "2h"),
        (86_400_000, "1d"),
        (0, "0ms"),
    ];
    for (ms, text) in table {
        assert_eq!(duration(ms), text);
    }
}
