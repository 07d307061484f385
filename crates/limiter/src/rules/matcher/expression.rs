//! `when:` expressions in CEL, the Common Expression Language.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, ExecutionError, Program, Value};

use super::judge::{self, Facts};
use crate::rules::attribute::Attribute;

/// The longest expression, in bytes.
const MAX_BYTES: usize = 4096;
/// The deepest nesting of brackets, because the parser recurses.
const MAX_DEPTH: usize = 64;
/// The most operators and members (`.`, `+`, `<`, ...). A chain of them is a tree of the same depth, which is walked
/// recursively.
const MAX_OPERATORS: usize = 512;

/// A compiled expression.
pub struct Expression {
    program: Program,
    env: Arc<Env>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expression")
    }
}

impl Expression {
    pub fn compile(source: &str) -> Result<Self, String> {
        let shape = Shape::of(source);
        if source.len() > MAX_BYTES || shape.depth > MAX_DEPTH || shape.operators > MAX_OPERATORS {
            return Err(format!(
                "expected a CEL expression of at most {MAX_BYTES} bytes and {MAX_OPERATORS} operators, {MAX_DEPTH} brackets deep"
            ));
        }
        let env = Arc::new(Env::stdlib());
        let program = env.compile(source).map_err(|e| {
            format!("expected a CEL expression: {}", e.to_string().lines().next().unwrap_or("it does not parse"))
        })?;
        let Some(bound) = bound_by_loops(source) else {
            return Err("expected no macro (all, exists, exists_one, map, filter) within another".to_owned());
        };
        let references = program.references();
        let known = |v: &&str| ["attributes", "domain", "hits"].contains(v) || bound.iter().any(|own| own == *v);
        let unknown = references.variables().into_iter().find(|v| !known(v));
        if let Some(name) = unknown {
            return Err(format!("expected only the variables attributes, domain and hits, not {name}"));
        }
        if let Some(name) = references.functions().into_iter().find(|name| !is_declared(&env, name)) {
            return Err(format!("expected a function of CEL, not {name}"));
        }
        judge::check_types(program.expression(), &env)?;
        Ok(Self { program, env })
    }

    /// True if the expression is true. An error in it, such as a missing attribute, or a value of another type counts
    /// as false.
    pub fn holds(&self, domain: &str, entries: &[(&str, &str)], hits: u32) -> bool {
        matches!(self.value(domain, entries, hits), Ok(Value::Bool(true)))
    }

    /// Why the expression is not true, for people.
    pub fn why_not(&self, domain: &str, entries: &[(&str, &str)], hits: u32) -> Option<String> {
        match self.value(domain, entries, hits) {
            Ok(Value::Bool(true)) => None,
            Ok(Value::Bool(false)) => Some("when is false".to_owned()),
            Ok(other) => Some(format!("when is {}, not true or false", other.type_of())),
            Err(error) => Some(format!("when fails: {error}")),
        }
    }

    /// False if the expression is not true in any check of which `facts` hold.
    pub fn can_be_true(&self, facts: &Facts<'_>) -> bool {
        judge::can_be_true(self.program.expression(), &self.env, facts)
    }

    fn value(&self, domain: &str, entries: &[(&str, &str)], hits: u32) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        let mut attributes: HashMap<String, Value> = HashMap::with_capacity(entries.len());
        for (at, (key, value)) in entries.iter().enumerate() {
            let mut name = (*key).to_owned();
            if attributes.contains_key(*key) {
                let earlier = entries[..at].iter().filter(|(other, _)| other == key).count();
                name = Attribute { key: name.into(), earlier }.to_string();
            }
            attributes.entry(name).or_insert_with(|| Value::String(Arc::new((*value).to_owned())));
        }
        context.add_variable_from_value("attributes", attributes);
        context.add_variable_from_value("domain", domain.to_owned());
        context.add_variable_from_value("hits", i64::from(hits));
        self.program.execute(&context)
    }
}

/// True if CEL has a function or an operator of this name. Without this check, an expression with an unknown function
/// would be false for every check, and its limit would never apply.
fn is_declared(env: &Arc<Env>, name: &str) -> bool {
    let is_operator = !name.starts_with(char::is_alphabetic);
    let undeclared = |call: String| {
        let result = env.compile(&call).map(|program| program.execute(&Context::with_env(Arc::clone(env))));
        matches!(result, Ok(Err(ExecutionError::UndeclaredReference(_))))
    };
    // As a function, and as a method of each type that has methods. A declared one rejects the missing arguments.
    is_operator || !["", "''.", "[].", "{}."].iter().all(|receiver| undeclared(format!("{receiver}{name}()")))
}

/// The variables that macros over lists bind. `None` if one macro is within the brackets of another, which would
/// multiply the cost.
fn bound_by_loops(source: &str) -> Option<Vec<String>> {
    const LOOPS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];
    let plain: String = outside_of_strings(source).chars().filter(|c| !c.is_whitespace()).collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut open, mut bound) = (Vec::new(), Vec::new());
    for (at, c) in plain.char_indices() {
        match c {
            '(' => {
                let before = &plain[..at];
                let word = &before[before
                    .rfind(|c| !is_word(c))
                    .map_or(0, |end| end + before[end..].chars().next().map_or(1, char::len_utf8))..];
                let is_loop = LOOPS.contains(&word);
                if is_loop && open.contains(&true) {
                    return None;
                }
                if is_loop {
                    bound.push(plain[at + 1..].chars().take_while(|c| is_word(*c)).collect());
                }
                open.push(is_loop);
            }
            ')' => drop(open.pop()),
            _ => {}
        }
    }
    Some(bound)
}

/// The expression without its string literals.
fn outside_of_strings(source: &str) -> String {
    let (mut quote, mut escaped) = (None, false);
    let outside = |c: &char| {
        if let Some(open) = quote {
            quote = quote.filter(|_| escaped || *c != open);
            escaped = !escaped && *c == '\\';
            return false;
        }
        if matches!(c, '\'' | '"') {
            quote = Some(*c);
        }
        quote.is_none()
    };
    source.chars().filter(outside).collect()
}

/// What makes an expression expensive, outside of its strings.
struct Shape {
    /// The nesting of brackets, conditionals and repeated signs.
    depth: usize,
    operators: usize,
}

impl Shape {
    fn of(source: &str) -> Self {
        let (mut nested, mut signs) = (0usize, 0usize);
        let mut shape = Self { depth: 0, operators: 0 };
        for c in outside_of_strings(source).chars() {
            match c {
                '(' | '[' | '{' | '?' => nested += 1,
                ')' | ']' | '}' => nested = nested.saturating_sub(1),
                _ => {}
            }
            match c {
                '!' | '-' => signs += 1,
                ' ' => {}
                _ => signs = 0,
            }
            shape.operators += usize::from("!-+*/%.<>=?[".contains(c));
            shape.depth = shape.depth.max(nested + signs);
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_reads_attributes_domain_and_hits() {
        let expression = Expression::compile("domain == 'api' && hits > 2 && attributes.user.startsWith('u')").unwrap();
        assert!(expression.holds("api", &[("user", "u1")], 3));
        assert!(!expression.holds("api", &[("user", "u1")], 2));
        assert!(!expression.holds("api", &[], 3), "an expression with a missing attribute does not match");
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

    #[test]
    fn a_nested_loop_is_invalid() {
        let nested = "[0, 1].map(a, [0, 1].map(b, a + b)).size() > 0";
        assert!(Expression::compile(nested).unwrap_err().contains("within another"));
        assert_eq!(Expression::compile("[0, 1].all(a, a < 2) && [0].exists (b, b < 1)").map(drop), Ok(()));
        assert!(Expression::compile("[\"map(\"].all(a, a != 'map(map(')").is_ok());
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
    fn the_longest_valid_chains_are_evaluated_on_a_small_stack() {
        let chains = |n: usize| {
            [
                format!("hits{} > 0", "+1".repeat(n)),
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
            assert!(Expression::compile(source).unwrap_err().contains("512 operators"), "{source}");
        }
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
}
