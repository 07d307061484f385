use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::check::Descriptor;
use crate::rules::matcher::syntax::Syntax;
use crate::rules::matcher::{Expression, Subject};
use cel::Env;

/// Expressions over two attributes, with operators on right and wrong types.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "attributes.a",
        "attributes['b']",
        "attributes.c",
        "hits",
        "domain",
        "'1'",
        "'x'",
        "1",
        "0",
        "2.5",
        "true",
        "false",
        "null",
        "['x', '1']",
        "[1]",
        "has(attributes.a)",
        "has(attributes.c)",
        "'b' in attributes",
        "{'x': 1}",
        "attributes",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
        let binary = prop::sample::select(vec!["==", "!=", "<", ">=", "&&", "||", "+", "-", "/", "in"]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            inner.clone().prop_map(|a| format!("int({a})")),
            inner.clone().prop_map(|a| format!("string({a})")),
            inner.clone().prop_map(|a| format!("size({a})")),
            inner.clone().prop_map(|a| format!("dyn({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).startsWith({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).exists(v, v == {b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a}).all(v, {b})")),
        ]
    })
}

proptest! {
    /// A wrong answer would warn of rules that do apply.
    #[test]
    fn what_is_never_true_is_not_true_in_a_check(
        source in expression(),
        a in prop::option::of(prop::sample::select(vec!["x", "1", ""])),
        b in prop::sample::select(vec!["x", "true"]),
        hits in 0..3u32,
    ) {
        let Ok(compiled) = Expression::compile(&source) else { return Ok(()) };
        let attribute = |name: &str| match name {
            "b" => Fact::OneOf(vec!["x".to_owned(), "true".to_owned()]),
            "c" => Fact::Absent,
            _ => Fact::Unknown,
        };
        let facts = Facts { attribute: &attribute, domain: Some("d") };
        if !compiled.can_be_true(&facts) {
            let entries: Vec<(&str, &str)> = a.map(|a| ("a", a)).into_iter().chain([("b", b)]).collect();
            let descriptor =
                Descriptor { entries: &entries, ordered: true, hits, charging: Default::default(), limit: None };
            prop_assert!(!compiled.is_true(&Subject::new("d", &descriptor), &mut 0), "{}", source);
        }
    }

    /// An operator is rejected only if it fails in every check, or finds nothing.
    #[test]
    fn what_is_rejected_fails_in_a_check(
        left in prop::sample::select(vec!["attributes.a", "hits", "domain", "['x', '1']", "true", "1.5", "{'x': 1}"]),
        operator in prop::sample::select(vec!["<", ">", "<=", ">=", "in", "+", "-", "*", "/", "%", "=="]),
        right in prop::sample::select(vec!["attributes.a", "hits", "'x'", "1", "2u", "['x']", "false", "{'1': 1}", "[1]"]),
        a in prop::sample::select(vec!["x", "1", "true", ""]),
        hits in 0..3i64,
    ) {
        let env = Env::stdlib();
        let program = env.compile(&format!("[{left} {operator} {right}] == []")).unwrap();
        let scope = Scope::new(HashMap::new());
        if check_types(program.expression(), &scope).is_err() {
            let mut context = scope.context(&Arc::default());
            context.add_variable_from_value("attributes", HashMap::from([("a", a)]));
            context.add_variable_from_value("domain", "d");
            context.add_variable_from_value("hits", hits);
            let result = env.compile(&format!("{left} {operator} {right}")).unwrap().execute(&context);
            prop_assert!(matches!(result, Err(_) | Ok(Value::Bool(false))), "{:?}", result);
        }
    }
}

fn types(source: &str) -> Result<(), String> {
    let program = Env::stdlib().compile(source).unwrap();
    let Syntax { patterns, .. } = Syntax::of(program.expression())?;
    check_types(program.expression(), &Scope::new(patterns)).map(drop)
}

#[test]
fn operators_on_wrong_types_are_found() {
    let table = [
        ("attributes.age > 18", "> accepts, not string and int. Attributes are strings"),
        ("18 <= attributes['age']", "<= accepts, not int and string"),
        ("attributes.age == 18", "== accepts, not string and int"),
        ("attributes.x != true", "!= accepts, not string and bool"),
        ("attributes.x == null", "== accepts, not string and null"),
        ("hits == '5'", "== accepts, not int and string"),
        ("attributes.x in [1, 2]", "in accepts, not string and list"),
        ("'a' in 'abc'", "in accepts, not string and string"),
        ("hits + attributes.x > 2", "+ accepts, not int and string"),
        ("attributes.x - 1 > 2", "- accepts, not string and int"),
        ("attributes.x && true", "of && that are true or false, not string"),
        ("false || hits", "of || that are true or false, not int"),
        ("!attributes.x", "! accepts, not string"),
        ("hits ? true : false", "of ?: that are true or false, not int"),
        ("-domain == 'a'", "- accepts, not string"),
        ("hits.startsWith('1')", "startsWith accepts, not int and string"),
        ("attributes.x.startsWith(1)", "startsWith accepts, not string and int"),
        ("attributes.x.startsWith('a', 'b')", "startsWith accepts, not string and string and string"),
        ("size(hits) > 1", "size accepts, not int"),
        ("attributes.x.y == 'a'", "a map before .y, not string"),
        ("has(attributes.x.y)", "a map before .y, not string"),
        ("attributes.x[0] == 'a'", "[] accepts, not string and int"),
        ("attributes.x.all(c, c == 'a')", "over a list that is written out, or over attributes"),
        ("[1, 2].exists(n, n == attributes.x)", "== accepts, not int and string"),
        ("attributes.exists(k, k == 1)", "== accepts, not string and int"),
        ("{'a': 1}['a'] == 'x'", "== accepts, not int and string"),
        ("[1].all(n, n + 1)", "of && that are true or false, not int"),
        ("hits", "true or false, not int"),
        ("attributes.x", "true or false, not string"),
        ("attributes", "attributes only before"),
        ("hits > 1 ? 'a' : 'b'", "true or false, not string"),
        ("[1].map(n, n > 0)", "true or false, not list"),
        ("size(attributes.x)", "true or false, not int"),
        ("acme.User{name: 'a'} == 1", "no message"),
    ];
    for (source, expected) in table {
        let error = types(source).expect_err(source);
        assert!(error.starts_with("expected ") && error.contains(expected), "{source}: {error}");
    }
}

#[test]
fn the_error_of_a_number_beside_an_attribute_says_that_attributes_are_strings() {
    for (source, is_number) in [
        ("attributes.x == 1", true),
        ("1u == attributes.x", true),
        ("attributes.x == 1.5", true),
        ("attributes.x == true", false),
        ("hits == true", false),
        ("attributes.x - 'a' == 'b'", false),
    ] {
        let hint = ". Attributes are strings: quote the number, or take int(attributes.x)";
        assert_eq!(types(source).unwrap_err().ends_with(hint), is_number, "{source}");
    }
}

#[test]
fn what_some_check_makes_true_is_not_rejected() {
    for source in [
        "attributes.x == 'foo' && hits > 1u && hits < 2.5 && domain != ''",
        "attributes.x.matches('^a+$') || attributes.x.contains(attributes.y)",
        "int(attributes.age) >= 18 && double(attributes.f) < 2.0 && uint(attributes.u) == 7u",
        "has(attributes.x) && 'x' in attributes && size(attributes) > 2 && !('y' in attributes)",
        "attributes.x in ['a', 'b'] && attributes.all(k, k.startsWith('x')) && attributes.exists(k, k == 'a')",
        "[1, 2][hits] == 2 && 6 / hits > 1 && {'a': 1}[attributes.x] == 1 && {'a': 1}.a == hits",
        "(hits > 1 ? attributes.x : 'b') == 'b' && (has(attributes.x) ? attributes.x : '') != ''",
        "[attributes.x, domain].exists_one(v, v == 'a') && [1, 2].map(n, n * 2).size() == hits",
        "['a', 'b'].filter(v, v != attributes.x).size() == 1 && string(hits) == '3'",
        "attributes[attributes.x] == 'b' && attributes.?x.orValue('') == 'a' && dyn(attributes.x) == 'a'",
        "dyn(hits) == 'a' || type(hits) == type(1) || b'a' == bytes(attributes.x)",
        "[] == [] && {} != {'a': 1} && [1] == [hits]",
        "'a' in ['a', 1].map(v, v)",
        "true",
        "false",
        "1 == 2",
        "1 / 0 == 1 || true",
    ] {
        assert_eq!(types(source), Ok(()), "{source}");
    }
}

#[test]
fn an_expression_that_is_never_true_is_found() {
    let attribute = |name: &str| match name {
        "tier" => Fact::OneOf(vec!["free".to_owned(), "pro".to_owned()]),
        "zone" => Fact::OneOf(vec!["eu".to_owned(), "us".to_owned()]),
        "user" => Fact::Present,
        "gone" => Fact::Absent,
        _ => Fact::Unknown,
    };
    let facts = Facts { attribute: &attribute, domain: Some("api") };
    let possible = |source: &str| Expression::compile(source).unwrap().can_be_true(&facts);
    for never in [
        "false",
        "1 == 2",
        "1 / 0 == 1",
        "attributes.tier == 'basic'",
        "attributes['tier'] == 'basic' && hits > 1",
        "attributes.tier.startsWith('x') || domain == 'web'",
        "!(attributes.tier in ['free', 'pro'])",
        "attributes.gone == 'a'",
        "attributes.gone != 'a'",
        "has(attributes.gone)",
        "'gone' in attributes && attributes.x == 'a'",
        "!has(attributes.user)",
        "int(attributes.tier) > 1",
        "attributes.x == 'a' ? false : attributes.tier == 'basic'",
        "attributes.gone == attributes.x",
        "!(true || hits > 1)",
        "attributes.tier + attributes.zone == 'useu'",
    ] {
        assert!(!possible(never), "{never}");
    }
    for sometimes in [
        "true",
        "attributes.tier == 'pro'",
        "attributes.tier != 'pro'",
        "attributes.user == 'acme' && attributes.other == 'x'",
        "attributes.gone == 'a' || hits > 5",
        "!has(attributes.gone) && !('gone' in attributes)",
        "domain == 'api'",
        "hits > 1000",
        "attributes.x == 'a' ? false : attributes.tier == 'pro'",
        "['basic', 'pro'].exists(t, t == attributes.tier)",
        "int(attributes.x) > 1",
        "!(true && attributes.x == 'a')",
        "attributes.tier + attributes.zone == 'freeus'",
        "attributes.tier + attributes.zone == 'proeu'",
        "(hits > 1 ? attributes.tier : attributes.x) == 'basic'",
        "{'gold': 1}[attributes.x] == 1",
    ] {
        assert!(possible(sometimes), "{sometimes}");
    }
}

#[test]
fn long_values_are_not_judged() {
    let values = |length: usize| (0..16).map(|n| format!("{n:0length$}")).collect();
    let attribute = |name: &str| match name {
        "short" => Fact::OneOf(values(10)),
        "long" => Fact::OneOf(values(250)),
        "longer" => Fact::OneOf(values(300)),
        _ => Fact::Unknown,
    };
    let facts = Facts { attribute: &attribute, domain: None };
    let scope = Scope::new(HashMap::new());
    let possible = |source: &str| can_be_true(Env::stdlib().compile(source).unwrap().expression(), &scope, &facts);
    assert!(!possible("attributes.short == 'x'") && !possible("attributes.short + attributes.short == 'x'"));
    // All values together have 4,000 bytes. Their combinations have 128,000, and what comes from them as many.
    assert!(!possible("attributes.long == 'x'") && !possible("attributes.long.contains(attributes.long + 'x')"));
    assert!(possible("attributes.long + attributes.long == 'x' && attributes.long + attributes.long == 'x'"));
    let searches = vec!["attributes.long.contains(attributes.long + 'x')"; 16].join(" || ");
    assert!(possible(&searches), "a search has no long result, and takes long all the same");
    assert!(possible("attributes.longer == 'x'"), "all values together have 4,800 bytes");
}

#[test]
fn a_costly_expression_is_not_judged() {
    let list = (0..250).map(|n| format!("attributes.a{n}")).collect::<Vec<_>>().join(", ");
    assert_eq!(types(&format!("[{list}].exists(v, v == 'a')")), Ok(()));
    // An operator on two attributes tries 16 combinations, and all of an expression may try 4096.
    let last_of = |count: usize| {
        let calls = "attributes.x.contains(attributes.y) && ".repeat(count - 1);
        types(&format!("{calls} attributes.x - attributes.y == 1"))
    };
    assert!(last_of(256).unwrap_err().contains("- accepts, not string and string"));
    assert_eq!(last_of(257), Ok(()));
    // A list of three values of any type has too many combinations.
    assert!(types("[dyn(1), dyn(2)] == 'a'").unwrap_err().contains("== accepts, not list and string"));
    assert_eq!(types("[dyn(1), dyn(2), dyn(3)] == 'a'"), Ok(()));
}
