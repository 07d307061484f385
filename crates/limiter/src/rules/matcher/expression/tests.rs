use super::*;
use crate::check::Descriptor;

trait Holds {
    fn holds(&self, domain: &str, entries: &[(&str, &str)], hits: u32) -> bool;
}

impl Holds for Expression {
    fn holds(&self, domain: &str, entries: &[(&str, &str)], hits: u32) -> bool {
        let descriptor = Descriptor { entries, ordered: true, hits, charging: Default::default(), limit: None };
        self.is_true(&Subject::new(domain, &descriptor), &mut 0)
    }
}

#[test]
fn an_expression_reads_attributes_domain_and_hits() {
    let expression = Expression::compile("domain == 'api' && hits > 2 && attributes.user.startsWith('u')").unwrap();
    assert!(expression.holds("api", &[("user", "u1")], 3));
    assert!(!expression.holds("api", &[("user", "u1")], 2));
    assert!(!expression.holds("api", &[], 3), "an expression with a missing attribute does not match");
}

#[test]
fn entries_with_one_key_have_numbered_names() {
    let expression = "attributes.g == 'a' && attributes['g#2'] == 'b' && attributes['g#3'] == 'c'";
    let entries = [("g", "a"), ("g", "b"), ("x", "1"), ("g", "c")];
    assert!(Expression::compile(expression).unwrap().holds("api", &entries, 1));
}

#[test]
fn an_evaluation_takes_steps_for_its_parts_and_more_for_copies_and_searches() {
    // 100 steps, 5 for each part, and 200 for each value that is copied. For texts of 128 bytes, a copy takes a step,
    // a function that reads one 4, and `contains` 32.
    for (source, steps, searched) in [
        ("hits > 1", 115, 0),
        ("attributes.user == 'a'", 120, 0),
        ("attributes.user + 'a' == 'aa'", 330, 2),
        ("[attributes.user, 'a'].size() > 1", 335, 5),
        ("attributes.?user.orValue('') == 'a'", 335, 5),
        ("attributes.user.matches('^a+$')", 130, 29),
        ("attributes.user.matches('^a+$') && domain.matches('^b+$')", 160, 58),
        ("attributes.user.contains('a')", 120, 32),
        ("(attributes.user + 'a').contains('a')", 330, 66),
    ] {
        let expression = Expression::compile(source).unwrap();
        assert_eq!((expression.steps(), expression.search_steps()), (steps, searched), "{source}");
    }
}

#[test]
fn an_expression_has_at_most_4096_bytes_512_levels_and_20000_parts() {
    let bytes = |count: usize| format!("hits > 1{}", " ".repeat(count - 8));
    let deep = |depth: usize| format!("hits{} > 0", "-1".repeat(depth - 2));
    // The macro has 4 parts, 100 elements, and 195 parts for each of them.
    let body = vec!["x == 0"; 48].join(" && ");
    let parts = |ands: usize| format!("[{}].all(x, {body}){}", vec!["0"; 100].join(","), " && true".repeat(ands));
    for (most, more, expected) in [
        (bytes(4096), bytes(4097), "at most 4096 bytes"),
        (deep(512), deep(513), "at most 512 deep"),
        (parts(198), parts(199), "at most 20000 parts"),
    ] {
        assert_eq!(Expression::compile(&most).err(), None);
        let error = Expression::compile(&more).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_unknown_variable_is_invalid() {
    for (source, name) in [("user == 'a'", "user"), ("[1].all(a, b == 1)", "b")] {
        let error = Expression::compile(source).err();
        let expected = format!("expected only the variables attributes, domain and hits, not {name}");
        assert_eq!(error.as_deref(), Some(expected.as_str()), "{source}");
    }
}

#[test]
fn an_unknown_function_is_invalid() {
    for unknown in ["foo(attributes.user)", "attributes.user.bar()", "hits > 1 && attributes.user.baz('x')"] {
        let error = Expression::compile(unknown).unwrap_err();
        assert!(error.starts_with("expected a function of CEL, not "), "{unknown}: {error}");
    }
    for known in [
        "attributes.user.startsWith('a') || attributes.user.endsWith('z') || attributes.user.contains('m')",
        "attributes.user.matches('^a+$') && size(attributes.user) > 2 && attributes.user.size() < 9",
        "int(attributes.age) >= 18 && double('1.5') < 2.0 && string(hits) != '3' && uint('7') == 7u",
        "has(attributes.user) && ['a', 'b'].exists(u, u == attributes.user) && !(attributes.user in ['c'])",
        "(hits > 1 ? -1 : 1) < 0 && attributes['user'] != '' && [1, 2][0] + 1 == 2",
    ] {
        assert_eq!(Expression::compile(known).map(drop), Ok(()), "{known}");
    }
}

/// Values that grow in one macro would double in each further one.
#[test]
fn a_macro_walks_over_nothing_that_a_macro_made() {
    let doubled = "[['a'].map(x, x + x)[0]].map(y, y + y)[0]";
    let listed = "[[[0]].map(x, [x, x])[0]].all(v, v == v)";
    for nested in [format!("size({doubled}) > 0"), listed.to_owned()] {
        let error = Expression::compile(&nested).unwrap_err();
        assert!(error.contains("within another"), "{nested}: {error}");
    }
    assert!(Expression::compile("['a', 'b'].map(x, x + x) == ['aa'] || ['c'].exists(x, x == 'c')").is_ok());
}

/// CEL copies what a list holds: these would copy a long attribute, or all of them, thousands of times.
#[test]
fn an_expression_that_copies_many_values_is_invalid() {
    let [all, one] = ["attributes, ".repeat(180), "attributes.user, ".repeat(90)];
    let zeros = "0, ".repeat(60);
    let sums = format!("attributes.user{}", " + attributes.user".repeat(50));
    for copies in [
        format!("[{zeros}].map(x, [{all}]) != []"),
        format!("[{zeros}].map(x, [{one}]) != []"),
        format!("[{zeros}].map(x, {{1: [{one}]}}) != []"),
        format!("[{zeros}].map(x, {sums}) != []"),
        format!("attributes.map(x, {sums}) != []"),
        format!("[{}] != []", "attributes.u, ".repeat(257)),
        format!("[{}].all(x, attributes.?u.orValue('') == 'a')", "0, ".repeat(257)),
        "[attributes].map(x, x.user) != []".to_owned(),
        "attributes == {}".to_owned(),
        "(true ? attributes : attributes).user == ''".to_owned(),
    ] {
        let error = Expression::compile(&copies).unwrap_err();
        assert!(error.contains("copies at most") || error.contains("attributes only"), "{copies}: {error}");
    }
    for good in [
        "attributes.exists(k, attributes[k] == 'x') && 'user' in attributes && size(attributes) > 1",
        "attributes.filter(k, k.startsWith('x')).size() > 1 && attributes.size() > 2",
        "attributes.map(k, attributes[k]).exists(v, v == 'x') || has(attributes.user)",
        &format!("[{}] != []", "attributes.u, ".repeat(256)),
        &format!("[{}].all(x, attributes.?u.orValue('') == 'a')", "0, ".repeat(256)),
        "[1, 2, 3].map(a, a + 1).size() == 3 && attributes.user + ':' + attributes.path != ''",
    ] {
        assert_eq!(Expression::compile(good).err().filter(|e| !e.contains("over a list")), None, "{good}");
    }
}

#[test]
fn a_nested_loop_is_invalid_also_where_text_hides_it() {
    for nested in [
        "[0, 1].map(a, [0, 1].map(b, a + b)).size() > 0",
        "[0].all(a, r'\\' == '' || [0].all(b, true))",
        "[0].all(a, \"\"\" ' \"\"\" == '' || [0].all(b, true))",
        "[0].all(a, // '\n [0].all(b, true)) // '",
    ] {
        let error = Expression::compile(nested).unwrap_err();
        assert!(error.contains("within another"), "{nested}: {error}");
    }
    assert_eq!(Expression::compile("[0, 1].all(a, a < 2) && [0].exists (b, b < 1)").map(drop), Ok(()));
    assert!(Expression::compile("[\"map(\"].all(a, a != 'map(map(')").is_ok());
}

#[test]
fn a_loop_walks_over_what_is_written_out_or_over_attributes() {
    let of_attributes = Expression::compile("attributes.exists(name, name.startsWith('x-'))").unwrap();
    assert!(of_attributes.holds("api", &[("x-a", "1")], 1) && !of_attributes.holds("api", &[("a", "1")], 1));
    let of_a_map = Expression::compile("{'x': 1, 'y': 2}.exists(name, name == attributes.a)").unwrap();
    assert!(of_a_map.holds("api", &[("a", "y")], 1) && !of_a_map.holds("api", &[("a", "2")], 1));
    for growing in ["[[0]].map(x, x + x)[0].all(y, y == 0)", "([0] + [1]).all(x, x < 2)", "domain.exists(x, x == 'a')"]
    {
        assert!(Expression::compile(growing).unwrap_err().contains("written out"), "{growing}");
    }
    let list = vec!["0"; 500].join(",");
    let body = vec!["x == 0"; 50].join("&&");
    let error = Expression::compile(&format!("[{list}].all(x, {body})")).unwrap_err();
    assert!(error.contains("at most 20000 parts"), "{error}");
}

#[test]
fn a_pattern_is_written_out_and_compiled_once() {
    let matches = Expression::compile(r"attributes.path.matches(r'^/v\d+/') || matches(domain, '^a')").unwrap();
    assert!(matches.holds("web", &[("path", "/v12/x")], 1) && matches.holds("api", &[("path", "/")], 1));
    assert!(!matches.holds("web", &[("path", "/vx/")], 1));
    assert_eq!(matches.scope.patterns.len(), 2);
    for chosen in ["attributes.a.matches(attributes.b)", "attributes.a.matches('a' + 'b')", "matches(domain)"] {
        let error = Expression::compile(chosen).unwrap_err();
        assert!(error.contains("written out"), "{chosen}: {error}");
    }
    for (invalid, expected) in [
        ("attributes.a.matches('(')".to_owned(), "regular expression"),
        (r"attributes.a.matches('\\pL{1000}{1000}')".to_owned(), "regular expression"),
        (r"attributes.a.matches('[ab]*a[ab]{9000}[^ab]')".to_owned(), "regular expression"),
        ("[1, 2].exists(i, attributes.a.matches('a'))".to_owned(), "no matches within a macro"),
        (
            (0..9).map(|n| format!("domain.matches('{n}')")).collect::<Vec<_>>().join(" || "),
            "at most 8 regular expressions",
        ),
    ] {
        assert!(Expression::compile(&invalid).unwrap_err().contains(expected), "{invalid}");
    }
}

#[test]
fn dashes_in_strings_do_not_count_as_operators() {
    let regions: Vec<String> = (0..100).map(|n| format!("'us-east-{n}'")).collect();
    let listed = Expression::compile(&format!("attributes.region in [{}]", regions.join(","))).unwrap();
    assert!(listed.holds("api", &[("region", "us-east-7")], 1));
    let other = Expression::compile(&vec!["attributes.region != 'a'"; 100].join(" && ")).unwrap();
    assert!(other.holds("api", &[("region", "b")], 1));
}

#[test]
fn the_deepest_valid_expressions_are_evaluated_on_a_small_stack() {
    let chains = |n: usize| {
        [
            format!("hits{} > 0", "-1".repeat(n)),
            format!("attributes{} == 1", ".a".repeat(n)),
            format!("attributes{} == 1", "['a']".repeat(n)),
            format!("{}true", "true ? true : ".repeat(n.min(250))),
        ]
    };
    // The stack of a test thread is as small as that of a worker thread.
    for source in chains(500) {
        if let Ok(expression) = Expression::compile(&source) {
            expression.holds("api", &[("a", "b")], 1);
        }
    }
    for source in &chains(800)[..3] {
        assert!(Expression::compile(source).unwrap_err().contains("512 deep"), "{source}");
    }
}

#[test]
fn text_that_hides_a_deep_expression_does_not_overflow_the_stack() {
    let chain = "-1".repeat(1900);
    for source in [
        format!("// '\nhits{chain} > 0 // '"),
        format!(r"r'\' == '' || hits{chain} > 0 || r'\' == ''"),
        format!("\"\"\" ' \"\"\" == '' || hits{chain} > 0 || \"\"\" ' \"\"\" == ''"),
    ] {
        let error = Expression::compile(&source).unwrap_err();
        assert!(error.contains("512 deep"), "{error}");
    }
    let long = "a".repeat(4096);
    let sums = |count: usize| format!("size(attributes.a{}) > 0", "+attributes.a".repeat(count));
    assert!(Expression::compile(&sums(64)).unwrap().holds("api", &[("a", &long)], 1));
    assert!(Expression::compile(&sums(65)).unwrap_err().contains("64 operators +"));
}

#[test]
fn invalid_source_has_an_error_and_deep_source_does_not_overflow_the_stack() {
    let deep = "(".repeat(2000) + "true" + &")".repeat(2000);
    for source in ["1 +", "usr == 'a'", "\"", deep.as_str(), &"!".repeat(3000), &"a.".repeat(5000)] {
        assert!(
            Expression::compile(source).unwrap_err().starts_with("expected"),
            "{}",
            &source[..source.len().min(20)]
        );
    }
}

#[test]
fn a_macro_walks_over_no_lists_of_attributes_and_hides_no_name() {
    for (source, expected) in [
        ("[attributes.a].exists(hits, hits + hits == '')", "that is not attributes, domain or hits"),
        ("[attributes.a].exists(attributes, size(attributes) == 1)", "that is not attributes, domain or hits"),
        ("[[attributes.a, attributes.a]].exists(x, [x, x] == [])", "no lists or maps of attributes"),
        ("[hits > 0 ? [attributes.a] : [attributes.b]].exists(x, [x, x] == [])", "no lists or maps of attributes"),
        ("[{'a': attributes.a}].exists(x, [x, x] == [])", "no lists or maps of attributes"),
    ] {
        let error = Expression::compile(source).err().unwrap();
        assert!(error.contains(expected), "{source}: {error}");
    }
    for source in ["[attributes.a, attributes.b].exists(x, x == 'a')", "[['a'], ['b']].exists(x, attributes.a in x)"] {
        assert_eq!(Expression::compile(source).err(), None, "{source}");
    }
}
