//! Warnings about rule files that are valid: what never applies is warned of, and what can apply is not.

use limiter::Revision;
use tidegate::rulefile::decode::{compile, file_warnings};

use crate::rule_file::rules_of;

/// The warnings about limits, without the name of the file.
fn warnings_of(limits: &[&str]) -> Vec<String> {
    let text = rules_of(limits);
    let book = compile("r.yaml", &text, Revision(1)).unwrap_or_else(|errors| panic!("{errors:?}"));
    file_warnings("r.yaml", &text, &book, 3)
        .iter()
        .map(|warning| format!("{}: {}", warning.field, warning.message))
        .collect()
}

#[test]
fn what_can_never_match_is_warned_of_with_its_place() {
    const L: &str = "limit: 9, window: 1m";
    let table = [
        (
            "match: { user: { present: false } }, per: [user]",
            "limits[0].match.user: this limit never matches: per needs user",
        ),
        (
            "match: { user: { not: { present: true } } }, per: [user]",
            "limits[0].match.user: this limit never matches: per needs user",
        ),
        ("exact_keys: [a], per: [b]", "limits[0].per[0]: this limit never matches: exact_keys does not have b"),
        ("exact_keys: [a, a], per: [a#3]", "limits[0].per[0]: this limit never matches: exact_keys does not have a#3"),
        (
            "exact_keys: [a], per: [], match: { c: x }",
            "limits[0].match.c: this limit never matches: exact_keys does not have c",
        ),
        (
            "exact_keys: [a], per: [], match: { a#2: x }",
            "limits[0].match.a#2: this limit never matches: exact_keys does not have a#2",
        ),
        (
            "exact_keys: [a], per: [], match: { a: { present: false } }",
            "limits[0].match.a: this limit never matches: exact_keys has a",
        ),
        (
            "per: [], match: { a: { not: { prefix: '' } } }, exact_keys: [a]",
            "limits[0].match.a: this limit never matches: exact_keys has a",
        ),
        (
            "per: [], match: { g: a, g#1: b }",
            "limits[0].match.g#1: this limit never matches: another condition on g excludes it",
        ),
        ("per: [], when: 'false'", "limits[0].when: this limit never matches: when is never true"),
        (
            "per: [], when: \"attributes.tier == 'pro'\", match: { tier: free }",
            "limits[0].when: this limit never matches: when is never true in this domain",
        ),
        (
            "per: [], when: \"domain == 'web'\"",
            "limits[0].when: this limit never matches: when is never true in this domain",
        ),
        (
            "per: [user], when: '!has(attributes.user)'",
            "limits[0].when: this limit never matches: when is never true in this domain",
        ),
        (
            "per: [], exact_keys: [a], when: \"attributes.b == 'x'\"",
            "limits[0].when: this limit never matches: when is never true in this domain",
        ),
        (
            "per: [], match: { path: '/api/*' }",
            "match.path: \"/api/*\" is compared as it is: for a pattern, write { glob: \"/api/*\" }",
        ),
        (
            "per: [], match: { path: [/a, '/a/{id}'] }",
            "match.path[1]: \"/a/{id}\" is compared as it is: for a pattern, write { route: \"/a/{id}\" }",
        ),
        (
            "per: [], match: { user: '*' }",
            "match.user: \"*\" is compared as it is: for any value, write { present: true }",
        ),
        (
            "per: [], match: { path: ^/api }",
            "match.path: \"^/api\" is compared as it is: for a regular expression, write { regex: \"^/api\" }",
        ),
        ("per: [], match: { path: '/api/.*' }", "for a regular expression, write { regex: \"/api/.*\" }"),
        (
            "per: [], match: { ip: 10.0.0.0/8 }",
            "match.ip: \"10.0.0.0/8\" is compared as it is: for a network, write { cidr: [\"10.0.0.0/8\"] }",
        ),
        ("per: [], match: { path: { not: '/api/*' } }", "match.path.not: \"/api/*\" is compared as it is"),
        ("per: [], match: { path: { prefix: '/api/*' } }", "match.path.prefix: a prefix is compared as it is"),
        ("per: [], match: { path: { suffix: '*.png' } }", "match.path.suffix: a suffix is compared as it is"),
        ("per: [], match: { path: { glob: '/a/{id}' } }", "match.path.glob: a glob takes { as it is"),
        ("per: [], match: { path: { route: '/a/*' } }", "match.path.route: a route takes * as it is"),
        ("per: [], match: { path: { cidr: [10.0.0.0/8] } }", "match.path.cidr: path is never an address"),
        (
            "per: [], match: { masked_remote_address: { cidr: 10.0.0.0/8 } }",
            "Envoy sends a network; remote_address is the address",
        ),
        (
            "per: [], match: { host: Shop.example }",
            "\"Shop.example\" never matches in forward-auth, which has hosts in lower",
        ),
        ("per: [], match: { host: [a.example, 'b.example:443'] }", "match.host[1]: \"b.example:443\" never matches"),
        ("per: [], match: { host: shop.example. }", "hosts without a final dot"),
        ("per: [], match: { path: //login }", "match.path: \"//login\" never matches in forward-auth"),
        ("per: [], match: { path: /a/../login }", "paths without . and .. segments"),
        ("per: [], match: { path: { prefix: /./admin } }", "match.path.prefix: \"/./admin\" never matches"),
        ("per: [], match: { path: /%6Cogin }", "only %2F and %25 are encoded"),
        ("per: [], match: { path: /a%2fb }", "only %2F and %25 are encoded"),
        ("per: [], match: { path: /a%20b }", "only %2F and %25 are encoded"),
        ("per: [], mode: shadow, replaces: [other]", "limits[0].replaces: a limit in shadow mode replaces nothing"),
        (
            "match: { tier: free }, per: [user], overrides: [{ match: { tier: pro }, limit: 8 }]",
            "overrides[0].match.tier: this override never applies: the match of its limit excludes this tier",
        ),
        (
            "match: { path: { prefix: /a } }, per: [], overrides: [{ match: { path: { prefix: /b } }, limit: 8 }]",
            "overrides[0].match.path: this override never applies",
        ),
        (
            "match: { ip: { cidr: 10.0.0.0/8 } }, per: [], overrides: [{ match: { ip: 192.0.2.1 }, limit: 8 }]",
            "overrides[0].match.ip: this override never applies",
        ),
        (
            "per: [user], overrides: [{ match: { user: { present: false } }, limit: 8 }]",
            "overrides[0].match.user: this override never applies: per needs user",
        ),
        (
            "exact_keys: [a], per: [], overrides: [{ match: { b: x }, limit: 8 }]",
            "overrides[0].match.b: this override never applies: exact_keys does not have b",
        ),
        (
            "exact_keys: [a], per: [], overrides: [{ exact_keys: [b], limit: 8 }]",
            "overrides[0].exact_keys: this override never applies: its limit has other exact_keys",
        ),
        (
            "per: [a], overrides: [{ exact_keys: [b], limit: 8 }]",
            "overrides[0].exact_keys: this override never applies: exact_keys does not have a",
        ),
        (
            "match: { a: x }, per: [], overrides: [{ exact_keys: [b], limit: 8 }]",
            "overrides[0].exact_keys: this override never applies: it does not have a",
        ),
        (
            "match: { tier: free }, per: [], overrides: [{ when: \"attributes.tier == 'pro'\", limit: 8 }]",
            "overrides[0].when: this override never applies: when is never true",
        ),
        (
            "per: [], when: \"attributes.tier == 'pro'\", overrides: [{ match: { tier: free }, limit: 8 }]",
            "overrides[0].match: this override never applies: when is never true",
        ),
        (
            "per: [], overrides: [{ limit: 8 }, { match: { user: acme }, limit: 7 }]",
            "overrides[1]: this override is never reached: overrides[0] matches whenever it does",
        ),
        (
            "per: [], overrides: [{ match: { user: [a, b] }, limit: 8 }, { match: { tier: x, user: b }, limit: 7 }]",
            "overrides[1]: this override is never reached: overrides[0]",
        ),
        (
            "per: [user], overrides: [{ match: { user: { present: true } }, limit: 8 }, { match: { tier: x }, limit: 7 }]",
            "overrides[1]: this override is never reached: overrides[0]",
        ),
        (
            "match: { tier: free }, per: [], overrides: [{ match: { tier: [free, pro] }, limit: 8 }, { match: { user: x }, limit: 7 }]",
            "overrides[1]: this override is never reached: overrides[0]",
        ),
    ];
    for (limit, expected) in table {
        let warnings = warnings_of(&[&format!("name: l, {L}, {limit}"), &format!("name: other, per: [], {L}")]);
        let found: Vec<&String> = warnings.iter().filter(|warning| !warning.contains("replaced")).collect();
        assert_eq!(found.len(), 1, "{limit}: {found:#?}");
        assert!(found[0].contains(expected), "{limit}: {found:#?}");
    }
    let replaced = warnings_of(&[
        "name: all, per: [user], limit: 9, window: 1m, replaces: [some, more, others]",
        "name: some, match: { tier: free }, per: [user], limit: 9, window: 1m",
        "name: more, match: { user: { prefix: a } }, per: [], limit: 9, window: 1m",
        "name: others, match: { tenant: t }, per: [tenant], limit: 9, window: 1m",
    ]);
    let expected = [1, 2].map(|at| {
        format!("domains[0].limits[{at}].name: this limit never applies: all replaces it whenever it matches")
    });
    assert_eq!(replaced, expected);
}

#[test]
fn small_limits_without_a_share_in_an_outage_are_warned_of() {
    let place = |limit: &str| warnings_of(&[&format!("name: l, per: [user], {limit}")]);
    let table = [
        ("limit: 2, window: 1m", Some("limits[0].limit: on_store_failure: local admits nothing")),
        ("limit: 3, window: 1m", None),
        ("limit: 0, window: 1m", None),
        ("limit: unlimited, window: 1m", None),
        ("limit: 2, window: 1m, on_store_failure: deny", None),
        ("limit: 2, window: 1m, on_store_failure: allow", None),
        ("limit: 2, window: 1m, mode: shadow", None),
        ("limit: 1, window: 1s, burst: 3, algorithm: token_bucket", None),
        ("limit: 9, window: 1s, burst: 2, algorithm: token_bucket", Some("limits[0].limit: on_store_failure: local")),
        (
            "limit: 9, window: 1m, overrides: [{ match: { user: a }, limit: 1 }]",
            Some("overrides[0]: on_store_failure: local"),
        ),
        (
            "limit: 2, window: 1m, on_store_failure: deny, overrides: [{ match: { user: a }, on_store_failure: local }]",
            Some("overrides[0]: on_store_failure: local"),
        ),
        ("limit: 9, window: 1m, overrides: [{ match: { user: a }, limit: 1, on_store_failure: deny }]", None),
    ];
    for (limit, expected) in table {
        let warnings = place(limit);
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{limit}: {warnings:#?}");
        assert!(expected.is_none_or(|expected| warnings[0].contains(expected)), "{limit}: {warnings:#?}");
    }
}

#[test]
fn rules_that_can_apply_are_not_warned_of() {
    for limit in [
        "match: { user: { not: { present: true } } }, per: [tenant]",
        "match: { a: { not: x } }, exact_keys: [b], per: [b]",
        "match: { a: { present: false } }, exact_keys: [b], per: []",
        "match: { g: a, g#2: b }, exact_keys: [g, g], per: [g, g]",
        "match: { path: '/a?b=c', mail: a+b@example.com, price: 5$, note: 'a{b', any: '' }, per: []",
        "match: { masked_remote_address: 10.0.0.0/8, path: { regex: '^/a/.*$' }, host: { cidr: 10.0.0.0/8 } }, per: []",
        "match: { path: { glob: '/a/*' }, file: { suffix: .png } }, per: []",
        "match: { path: { prefix: /. }, host: { suffix: .example }, raw_path: //a }, per: []",
        "match: { path: /a%2Fb%25c%, host: '2001:db8::1' }, per: []",
        "match: { path: /.well-known/a..b/, host: '[2001:db8::1]' }, per: []",
        "match: { path: { route: '/a/{id}/{*rest}' } }, per: []",
        "when: \"attributes.tier == 'pro' && hits > 1\", match: { tier: [free, pro] }, per: []",
        "match: { tier: free }, per: [user], overrides: [{ match: { tier: [free, pro], user: a }, limit: 8 }, { match: { user: b }, limit: 7 }]",
        "per: [ip], overrides: [{ match: { ip: { cidr: 10.0.0.0/16 } }, limit: 8 }, { match: { ip: { cidr: 10.0.0.0/8 } }, limit: 7 }]",
        "per: [], overrides: [{ when: 'hits > 1', limit: 8 }, { limit: 7 }]",
        "per: [], overrides: [{ exact_keys: [a], limit: 8 }, { match: { a: x }, limit: 7 }]",
        "per: [], mode: shadow, replaces: [other], overrides: [{ match: { a: x }, mode: enforce }]",
        "match: { tenant: t }, per: [user], replaces: [other]",
        "per: [], mode: shadow",
        "per: [user], replaces: [other], overrides: [{ match: { user: a }, mode: shadow }]",
    ] {
        let other = "name: other, match: { user: { present: true } }, per: [user], limit: 9, window: 1m";
        let warnings = warnings_of(&[&format!("name: l, limit: 9, window: 1m, {limit}"), other]);
        assert_eq!(warnings, [""; 0], "{limit}");
    }
    let text =
        rules_of(&["name: a, per: [], limit: 9, window: 1m"]) + "  - { domain: shut, default: deny, limits: [] }\n";
    let book = compile("r.yaml", &text, Revision(1)).unwrap();
    assert_eq!(file_warnings("r.yaml", &text, &book, 3), []);
}

#[test]
fn domains_and_files_without_limits_are_warned_of() {
    let warnings = |text: &str| {
        let book = compile("r.yaml", text, Revision(1)).unwrap();
        file_warnings("r.yaml", text, &book, 3).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let empty = "version: 1\ndomains:\n  - { domain: d, limits: [] }\n";
    assert_eq!(
        warnings(empty),
        ["r.yaml:3:26: domains[0].limits: this domain has no limit: every check in it is allowed"]
    );
    assert_eq!(
        warnings("version: 1\ndomains: []\n"),
        ["r.yaml:2:10: domains: there is no domain: every check is allowed"]
    );
}

#[test]
fn many_overrides_are_compared_in_a_moment() {
    let overrides: Vec<String> = (0..5000)
        .map(|at| {
            format!(
                "{{ match: {{ user: u{at} }}, limit: 8 }}, {{ match: {{ path: {{ prefix: /p{at}/ }} }}, limit: 7 }}"
            )
        })
        .collect();
    let hidden = "{ match: { tier: x, user: u4999 }, limit: 6 }";
    let limit = format!("name: l, per: [user], limit: 9, window: 1m, overrides: [{}, {hidden}]", overrides.join(", "));
    assert_eq!(
        warnings_of(&[&limit]),
        [
            "domains[0].limits[0].overrides[10000]: this override is never reached: overrides[9998] matches whenever it does"
        ]
    );
}
