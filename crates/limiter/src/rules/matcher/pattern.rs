//! Compiled regular expressions. Each has a bound, and all of a rule book have a [`PatternBudget`].

use regex_automata::meta::{BuildError, Config, Regex};

/// What all regular expressions of a rule book may take together, in bytes: see [`Pattern::bytes`].
const MAX_BOOK_BYTES: usize = 128 << 20;

/// The memory of a search with a small expression, in bytes, and the size up to which an expression is small.
const SMALL_CACHE: usize = 16 << 10;
const SMALL_PROGRAM: usize = SMALL_CACHE / 2;
/// The largest memory of a search, in bytes.
const MAX_CACHE: usize = 1 << 20;

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// The memory for the states that a search has seen, in bytes.
    cache: usize,
}

impl Pattern {
    /// Compiles an expression whose program takes at most about `most_bytes`. The error says what was expected.
    pub fn compile(text: &str, most_bytes: usize) -> Result<Self, PatternError> {
        let small = Self::build(text, most_bytes, SMALL_CACHE)?;
        let program = small.regex.memory_usage();
        if program <= SMALL_PROGRAM {
            return Ok(small);
        }
        Self::build(text, most_bytes, (2 * program).min(MAX_CACHE))
    }

    fn build(text: &str, most_bytes: usize, cache: usize) -> Result<Self, PatternError> {
        // The backtracking engine would keep up to 256 KiB for each expression and core.
        let config = Config::new().nfa_size_limit(Some(most_bytes)).hybrid_cache_capacity(cache).backtrack(false);
        let regex = Regex::builder().configure(config).build(text).map_err(|error| PatternError::new(&error))?;
        Ok(Self { regex, cache })
    }

    #[inline]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The memory that it takes, in bytes: its program, and what one core keeps for searches with it.
    pub fn bytes(&self) -> usize {
        3 * self.program() + self.cache
    }

    /// The size of its program, in bytes.
    pub fn program(&self) -> usize {
        self.regex.memory_usage()
    }
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
        let (is_too_large, reason) = match (error.size_limit(), error.syntax_error()) {
            (Some(bytes), _) => (true, format!("this one takes more than {bytes} bytes")),
            (None, Some(syntax)) => (false, syntax.to_string().replace('\n', " ")),
            (None, None) => (false, error.to_string()),
        };
        Self { message: format!("expected a regular expression: {reason}"), is_too_large }
    }
}

impl From<PatternError> for String {
    fn from(error: PatternError) -> Self {
        error.message
    }
}

/// What is left for the regular expressions of a rule book.
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
                "expected regular expressions and globs that take at most {} MiB in the whole rule book: with this \
                 one, they take more",
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
    const EXPRESSIONS: [&str; 9] = [
        "^v[0-9]+$",
        r"^\w+$",
        r"\bbot\b",
        "^/api/v[0-9]+/users/[^/]+/posts$",
        "(?i)^/login(/|;|$)",
        "(bot|crawler|spider|curl)",
        r"\p{L}{1,16}",
        "[ab]*a[ab]{500}[^ab]",
        "[ab]*a[ab]{9000}[^ab]c?",
    ];

    /// Texts that lead a search through many states.
    fn texts() -> Vec<String> {
        let letter = |n: u64| if n.wrapping_mul(n).wrapping_mul(31) % 5 < 2 { 'a' } else { 'b' };
        let letters = |seed: u64| (0..4096).map(|n| letter(n * 7919 + seed)).collect::<String>();
        let words: String = (0..2000u32).filter_map(|n| char::from_u32(0x100 + n * 7)).collect();
        (0..20).map(letters).flat_map(|text| [format!("{text}c"), text]).chain([words]).collect()
    }

    #[test]
    fn an_expression_takes_no_more_memory_than_it_says() {
        for expression in EXPRESSIONS {
            let pattern = Pattern::compile(expression, 1 << 20).unwrap();
            let mut cache = pattern.regex.create_cache();
            for text in texts() {
                let _ = pattern.regex.search_half_with(&mut cache, &regex_automata::Input::new(&text).earliest(true));
            }
            let taken = pattern.program() + cache.memory_usage();
            assert!(taken <= pattern.bytes(), "{expression}: {taken} of {}", pattern.bytes());
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
}
