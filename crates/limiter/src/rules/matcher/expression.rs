//! `when:` expressions in CEL, the Common Expression Language.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Program, Value};

use super::judge::{self, Facts};
use super::pattern::Pattern;
use super::search_cost::USUAL_TEXT;
use super::subject::Subject;
use super::syntax::Syntax;
use crate::rules::attribute::Attribute;
use crate::rules::work::MAX_WORK;

/// The longest expression, in bytes.
pub(super) const MAX_BYTES: usize = 4096;

/// The steps of an evaluation, without its parts.
const EVALUATION: usize = 100;
/// The steps of each part.
const NODE: usize = 5;
/// The steps of each value that is copied, beside those of a part: it may be long.
const COPY: usize = 200;

/// The bytes of a text that are copied in one step, and how many times longer it takes to read them, such as for
/// `double`, and to look for another text in them.
const BYTES_PER_STEP: usize = 128;
const READ: usize = 4;
const LOOKED_FOR: usize = 32;

/// The standard functions of CEL. They take as much memory as many expressions, so all share them.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
pub struct Expression {
    program: Program,
    scope: Scope,
    /// What an evaluation costs.
    steps: usize,
    /// The further steps of searches, if each text has the usual length.
    searched: usize,
    /// How many times texts are walked through. One that is only copied counts once, another one as often as it takes
    /// longer.
    walked: usize,
    /// The attributes whose values may be those texts. `None` stands for all values and names.
    named: Option<Vec<Attribute>>,
    /// How many combinations of values were tried to check its types.
    trials: usize,
}

/// The functions of CEL. `matches` knows the patterns of one expression, which were compiled with it.
#[derive(Clone)]
pub struct Scope {
    env: Arc<Env>,
    patterns: Arc<HashMap<String, Pattern>>,
}

impl Scope {
    pub(super) fn new(patterns: HashMap<String, Pattern>) -> Self {
        Self { env: Arc::clone(&STANDARD), patterns: Arc::new(patterns) }
    }

    /// An empty context. Searches add to `work` as [`super::Matcher::matches`] says.
    pub(super) fn context<'v>(&self, work: &Arc<AtomicUsize>) -> Context<'static, 'v> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        if !self.patterns.is_empty() {
            let (patterns, work) = (Arc::clone(&self.patterns), Arc::clone(work));
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                patterns.get(&*pattern).is_some_and(|pattern| {
                    let steps = pattern.search_steps(text.len());
                    // One thread evaluates an expression. CEL wants functions that several could call.
                    let known = work.load(Relaxed);
                    work.store(known.saturating_add(steps), Relaxed);
                    known.saturating_add(steps) <= MAX_WORK && pattern.is_match(&text)
                })
            };
            // The standard functions have no other of this name: that feature of the library is off.
            let _ = context.add_function("matches", matches);
        }
        context
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expression")
    }
}

impl Expression {
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_BYTES {
            return Err(format!("expected a CEL expression of at most {MAX_BYTES} bytes"));
        }
        // The parser bounds its own recursion.
        let program = STANDARD.compile(source).map_err(|e| {
            format!("expected a CEL expression: {}", e.to_string().lines().next().unwrap_or("it does not parse"))
        })?;
        // Nothing else may walk the tree before its depth is known.
        let Syntax { bound, patterns, searches, evaluated, copied, looked_for, read, joined, named, .. } =
            Syntax::of(program.expression())?;
        let steps = EVALUATION + NODE * evaluated + COPY * copied + searches.0;
        let scope = Scope::new(patterns);
        let references = program.references();
        let known = |v: &&str| ["attributes", "domain", "hits"].contains(v) || bound.iter().any(|own| own == *v);
        let unknown = references.variables().into_iter().find(|v| !known(v));
        if let Some(name) = unknown {
            return Err(format!("expected only the variables attributes, domain and hits, not {name}"));
        }
        if let Some(name) = references.functions().into_iter().find(|name| !is_declared(&scope.env, name)) {
            return Err(format!("expected a function of CEL, not {name}"));
        }
        let trials = judge::check_types(program.expression(), &scope)?;
        let walks =
            [(copied, 1), (read, READ), (looked_for, LOOKED_FOR)].map(|(times, each)| times.saturating_mul(each));
        let walked = walks.into_iter().fold(0, usize::saturating_add).saturating_mul(joined + 1);
        let named = named.map(|names| names.iter().map(|name| Attribute::parse(name)).collect());
        Ok(Self { program, scope, steps, searched: searches.1, walked, named, trials })
    }

    /// The memory of its regular expressions, in bytes.
    pub fn pattern_bytes(&self) -> usize {
        self.scope.patterns.values().map(Pattern::bytes).sum()
    }

    /// How many combinations of values were tried to check its types, at most [`judge::MAX_TRIALS`].
    pub const fn trials(&self) -> usize {
        self.trials
    }

    /// What an evaluation costs, in steps.
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// The most steps for the bytes of texts of the usual length, if no text is put together.
    pub const fn search_steps(&self) -> usize {
        self.searched.saturating_add(self.walk_steps(USUAL_TEXT))
    }

    /// The most steps to walk through texts of this length.
    const fn walk_steps(&self, bytes: usize) -> usize {
        self.walked.saturating_mul(bytes) / BYTES_PER_STEP
    }

    /// True if the expression is true. An error in it, such as a missing attribute, or a value of another type counts
    /// as false. Searches add to `work` as [`super::Matcher::matches`] says.
    pub fn is_true(&self, subject: &Subject<'_>, work: &mut usize) -> bool {
        if self.walked > 0 {
            *work = work.saturating_add(self.walk_steps(subject.longest(self.named.as_deref())));
            if *work > MAX_WORK {
                return false;
            }
        }
        matches!(self.value(subject, work), Ok(Value::Bool(true)))
    }

    /// Why the expression is not true, for people.
    pub fn why_not(&self, subject: &Subject<'_>) -> Option<String> {
        match self.value(subject, &mut 0) {
            Ok(Value::Bool(true)) => None,
            Ok(Value::Bool(false)) => Some("when is false".to_owned()),
            Ok(other) => Some(format!("when is {}, not true or false", other.type_of())),
            Err(error) => Some(format!("when fails: {error}")),
        }
    }

    /// False if the expression is not true in any check of which `facts` hold.
    pub fn can_be_true(&self, facts: &Facts<'_>) -> bool {
        judge::can_be_true(self.program.expression(), &self.scope, facts)
    }

    fn value(&self, subject: &Subject<'_>, work: &mut usize) -> Result<Value, ExecutionError> {
        let searched = Arc::new(AtomicUsize::new(*work));
        let mut context = self.scope.context(&searched);
        context.set_variable_resolver(subject);
        context.add_variable_from_value("domain", subject.domain.to_owned());
        context.add_variable_from_value("hits", i64::from(subject.descriptor.hits));
        let value = self.program.execute(&context);
        *work = searched.load(Relaxed);
        value
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
    is_operator
        || name == "matches"
        || !["", "''.", "[].", "{}."].iter().all(|receiver| undeclared(format!("{receiver}{name}()")))
}

#[cfg(test)]
mod tests {
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
        for growing in ["[[0]].map(x, x + x)[0].all(y, y == 0)", "([0] + [1]).all(x, x < 2)"] {
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
}
