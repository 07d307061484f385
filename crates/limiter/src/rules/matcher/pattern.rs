//! Compiled regular expressions. Each has a bound, and all of a rule book have a [`PatternBudget`].

use regex_automata::Input;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_syntax::hir::Hir;

use super::search_cost::{Walk, most_read, needs_unicode_words, places};
use crate::rules::work::TRIED;

/// What all regular expressions of a rule book may take together, in bytes: see [`Pattern::bytes`].
pub(super) const MAX_BOOK_BYTES: usize = 128 << 20;

/// The largest table of states, in bytes, and the largest program that is made a table, in states. An expression with a
/// larger one is searched without a table. The time to make a table is bounded by their product.
const MAX_TABLE: usize = 64 << 10;
const MAX_TABLE_PROGRAM: usize = 400;
/// The least that each state of a program takes of the budget, in bytes, for the time of the attempt at a table.
const ATTEMPT: usize = 1 << 10;

/// The memory of a search with a small expression, in bytes, and the size up to which an expression is small.
const SMALL_CACHE: usize = 16 << 10;
const SMALL_PROGRAM: usize = SMALL_CACHE / 2;
/// The largest memory of a search, in bytes.
const MAX_CACHE: usize = 1 << 20;

/// A compiled regular expression.
#[derive(Debug)]
pub struct Pattern {
    engine: Engine,
    walk: Walk,
    /// The most bytes of a text that a search reads.
    most_read: usize,
    /// See [`Self::bytes`].
    bytes: usize,
}

#[derive(Debug)]
enum Engine {
    /// A table of all states. A search reads each byte of a text once, and needs no memory.
    Table(Box<dense::DFA<Vec<u32>>>),
    /// A search builds the states that it meets, in a cache. It goes on without them where they are too many.
    Cache(Regex),
}

impl Pattern {
    /// Compiles an expression whose program takes at most about `most_bytes`. The error says what was expected.
    pub fn compile(text: &str, most_bytes: usize) -> Result<Self, PatternError> {
        let parsed = regex_syntax::parse(text).map_err(|error| PatternError::of_syntax(&error))?;
        let most_read = most_read(&parsed);
        let program = if needs_unicode_words(&parsed) { None } else { program(&parsed, most_bytes) };
        let attempt = program.as_ref().map_or(0, |program| program.states().len() * ATTEMPT);
        if let Some(table) = program.as_ref().and_then(table) {
            let (size, engine) = (table.memory_usage(), Engine::Table(Box::new(table)));
            return Ok(Self { engine, walk: Walk::Table(size), most_read, bytes: size.max(attempt) });
        }
        let small = cached(&parsed, most_bytes, SMALL_CACHE)?;
        let program = small.memory_usage();
        let cache = if program <= SMALL_PROGRAM { SMALL_CACHE } else { (2 * program).min(MAX_CACHE) };
        let regex = if cache == SMALL_CACHE { small } else { cached(&parsed, most_bytes, cache)? };
        let bytes = (3 * program + cache).max(attempt);
        Ok(Self { engine: Engine::Cache(regex), walk: Walk::Places(places(&parsed)), most_read, bytes })
    }

    #[inline]
    pub fn is_match(&self, text: &str) -> bool {
        match &self.engine {
            // A search fails only at quit bytes, and the table has none.
            Engine::Table(table) => {
                matches!(table.try_search_fwd(&Input::new(text).earliest(true)), Ok(Some(_)))
            }
            Engine::Cache(regex) => regex.is_match(text),
        }
    }

    /// The memory that it takes, in bytes: its program, and what one core keeps for searches with it. It is larger if
    /// compiling took the time of a larger one.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The steps of a search, without those for the bytes of the text.
    pub fn steps(&self) -> usize {
        match &self.engine {
            Engine::Table(_) => TRIED,
            Engine::Cache(regex) => TRIED + regex.memory_usage() / 512,
        }
    }

    /// The most steps that a search takes for the bytes of a text, beside [`Self::steps`].
    #[inline]
    pub fn search_steps(&self, text_bytes: usize) -> usize {
        self.walk.steps(text_bytes.min(self.most_read))
    }
}

/// The program of an expression; `None` if it is too large for a table.
fn program(parsed: &Hir, most_bytes: usize) -> Option<NFA> {
    let config = thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(most_bytes));
    let program = thompson::Compiler::new().configure(config).build_from_hir(parsed).ok()?;
    (program.states().len() <= MAX_TABLE_PROGRAM).then_some(program)
}

/// The table of all states of a program; `None` if it is too large.
fn table(program: &NFA) -> Option<dense::DFA<Vec<u32>>> {
    let config = dense::Config::new().dfa_size_limit(Some(MAX_TABLE)).determinize_size_limit(Some(MAX_TABLE));
    dense::Builder::new().configure(config).build_from_nfa(program).ok()
}

fn cached(parsed: &Hir, most_bytes: usize, cache: usize) -> Result<Regex, PatternError> {
    // Without groups: they would take memory in each search, and time at each byte. The backtracking engine would keep
    // up to 256 KiB for each expression and core.
    let config = Config::new()
        .nfa_size_limit(Some(most_bytes))
        .hybrid_cache_capacity(cache)
        .which_captures(WhichCaptures::None)
        .backtrack(false);
    Regex::builder().configure(config).build_from_hir(parsed).map_err(|error| PatternError::new(&error))
}

/// Why an expression does not compile.
#[derive(Debug, PartialEq, Eq)]
pub struct PatternError {
    pub message: String,
    /// True if its program is too large.
    pub is_too_large: bool,
}

impl PatternError {
    fn new(error: &BuildError) -> Self {
        let (is_too_large, reason) = match error.size_limit() {
            Some(bytes) => (true, format!("this one takes more than {bytes} bytes")),
            None => (false, error.to_string()),
        };
        Self { message: format!("expected a regular expression: {reason}"), is_too_large }
    }

    fn of_syntax(error: &regex_syntax::Error) -> Self {
        let reason = error.to_string().replace('\n', " ");
        Self { message: format!("expected a regular expression: {reason}"), is_too_large: false }
    }
}

impl From<PatternError> for String {
    fn from(error: PatternError) -> Self {
        error.message
    }
}

/// The bytes that further expressions of a rule book may take.
#[derive(Debug)]
pub struct PatternBudget {
    left: usize,
}

impl Default for PatternBudget {
    fn default() -> Self {
        Self { left: MAX_BOOK_BYTES }
    }
}

impl PatternBudget {
    /// True if nothing is left: no further expression should be compiled.
    pub const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Takes `bytes`.
    ///
    /// # Errors
    /// Says what was expected if fewer are left. Nothing is left then.
    pub fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        let expected = || {
            format!(
                "expected `when`, regular expressions and globs that take at most {} MiB in the whole rule book: with \
                 this one, they take more",
                MAX_BOOK_BYTES >> 20
            )
        };
        left.map(drop).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expressions of many kinds, small and large.
    const EXPRESSIONS: [&str; 10] = [
        "^v[0-9]+$",
        r"^\w+$",
        r"\bbot\b",
        "^/api/v[0-9]+/users/[^/]+/posts$",
        "(?i)^/login(/|;|$)",
        "(bot|crawler|spider|curl)",
        r"\p{L}{1,16}",
        "[ab]*a[ab]{500}[^ab]",
        "[ab]*a[ab]{9000}[^ab]c?",
        r"\b((a)|(b)|(c)|(d)|(e)|(f)|(g)|(h)|(i)|(j)|(k)|(l)|(m)|(n)|(o)|(p))*[A-Z]\b",
    ];

    /// Texts that lead a search through many states.
    fn texts() -> Vec<String> {
        let letter = |n: u64| if n.wrapping_mul(n).wrapping_mul(31) % 5 < 2 { 'a' } else { 'b' };
        let letters = |seed: u64| (0..4096).map(|n| letter(n * 7919 + seed)).collect::<String>();
        let words: String = (0..2000u32).filter_map(|n| char::from_u32(0x100 + n * 7)).collect();
        (0..20).map(letters).flat_map(|text| [format!("{text}c"), text]).chain([words, "aé".repeat(900)]).collect()
    }

    #[test]
    fn an_expression_takes_no_more_memory_than_it_says() {
        let many_groups = format!(r"\b(?:{}[^x])*[A-Z]B\b", "()".repeat(1000));
        for expression in EXPRESSIONS.into_iter().chain([many_groups.as_str()]) {
            let pattern = Pattern::compile(expression, 1 << 20).unwrap();
            let taken = match &pattern.engine {
                Engine::Table(table) => table.memory_usage(),
                Engine::Cache(regex) => {
                    let mut cache = regex.create_cache();
                    for text in texts() {
                        let _ = regex.search_half_with(&mut cache, &Input::new(&text).earliest(true));
                    }
                    regex.memory_usage() + cache.memory_usage()
                }
            };
            assert!(taken <= pattern.bytes(), "{expression}: {taken} of {}", pattern.bytes());
        }
    }

    #[test]
    fn an_expression_with_few_states_is_searched_with_a_table() {
        let has_table = |text: &str| matches!(Pattern::compile(text, 1 << 20).unwrap().engine, Engine::Table(_));
        for text in
            ["^v[0-9]+$", r"^[0-9A-Za-z_]+$", "^/api/v[0-9]+/users/[^/]+/posts$", "(?i)^/login(/|;|$)", "", "(?m)^a$"]
        {
            assert!(has_table(text), "{text}");
        }
        // The first has 2^20 states, and the next ones have large tables. The last is never searched with a table.
        for text in ["[ab]*a[ab]{20}[^ab]", r"^\w+$", "(a|b){400}", r"\bbot\b"] {
            assert!(!has_table(text), "{text}");
        }
    }

    proptest::proptest! {
        /// A table finds what the other engine finds.
        #[test]
        fn both_engines_agree(
            expression in r"(\^|)([abé.]|\[\^a\]|\\w|\(a\|b\|\)|\(\?-u:\\b\)|a\{2,3\})([*?]|)([abé.]|\\d|\\s|)(\$|)",
            text in "[abé1 \n]{0,6}",
        ) {
            let parsed = regex_syntax::parse(&expression).unwrap();
            let cached = cached(&parsed, 1 << 20, SMALL_CACHE).unwrap();
            let pattern = Pattern::compile(&expression, 1 << 20).unwrap();
            proptest::prop_assume!(matches!(pattern.engine, Engine::Table(_)));
            proptest::prop_assert_eq!(pattern.is_match(&text), cached.is_match(&text), "{}", expression);
        }
    }

    #[test]
    fn the_error_says_what_is_wrong_with_an_expression() {
        let error = Pattern::compile("(", 1 << 20).unwrap_err();
        assert!(error.message.contains("unclosed group") && !error.is_too_large, "{error:?}");
        let error = Pattern::compile(r"\p{L}{1000}", 1 << 20).unwrap_err();
        assert!(error.message.contains("more than 1048576 bytes") && error.is_too_large, "{error:?}");
    }

    #[test]
    fn a_budget_ends_with_the_expression_that_exceeds_it() {
        let mut budget = PatternBudget::default();
        assert!(budget.take(MAX_BOOK_BYTES - 1).is_ok() && budget.take(1).is_ok());
        assert!(budget.is_spent() && budget.take(1).unwrap_err().contains("at most 128 MiB"));
    }

    #[test]
    fn a_large_expression_takes_more_memory_and_more_steps_to_begin_a_search() {
        let [table, small, large] =
            ["^v[0-9]+$", r"\bbot\b", r"\p{L}{1,16}"].map(|text| Pattern::compile(text, 1 << 20).unwrap());
        let cache = |pattern: &Pattern| match &pattern.engine {
            Engine::Table(_) => 0,
            Engine::Cache(regex) => regex.get_config().get_hybrid_cache_capacity(),
        };
        assert_eq!([&table, &small, &large].map(cache), [0, 16 << 10, 1 << 20]);
        assert_eq!(table.steps(), 10);
        assert!((11..50).contains(&small.steps()), "{}", small.steps());
        assert!((1000..3000).contains(&large.steps()), "{}", large.steps());
        assert!((3 << 20..4 << 20).contains(&large.bytes()), "{}", large.bytes());
        assert_eq!(table.bytes(), 6 << 10, "the time to make a table stands for 1 KiB for each of its 6 states");
    }
}
