//! The most steps of a search with a regular expression. A step takes about 10 ns.

use regex_syntax::hir::{Hir, HirKind, Look};

/// The length of a text that rules are judged by, in bytes. A check with longer ones takes more steps.
pub const USUAL_TEXT: usize = 128;

/// The size of a table of states, in bytes, up to which a processor keeps it close at hand.
const SMALL_TABLE: usize = 32 << 10;

/// How a search walks through a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// A search looks up each byte in a table of this many bytes.
    Table(usize),
    /// A search may have to follow each place of the expression at each byte, and there are this many places.
    Places(usize),
}

impl Walk {
    /// The most steps of a search in a text of so many bytes.
    pub const fn steps(self, bytes: usize) -> usize {
        match self {
            // 2 ns for each byte, or 5 ns if the next state has to be fetched.
            Self::Table(size) if size <= SMALL_TABLE => bytes / 5,
            Self::Table(_) => bytes / 2,
            // At most 9 ns for each place and byte.
            Self::Places(places) => bytes.saturating_mul(places.saturating_add(2)),
        }
    }
}

/// The places of an expression in which a search may be at the same time: its characters and classes, each as often as
/// it may be repeated, and its branches.
pub fn places(expression: &Hir) -> usize {
    match expression.kind() {
        HirKind::Empty => 0,
        HirKind::Literal(text) => text.0.len(),
        HirKind::Class(_) | HirKind::Look(_) => 1,
        HirKind::Capture(group) => places(&group.sub),
        HirKind::Concat(parts) => parts.iter().map(places).fold(0, usize::saturating_add),
        HirKind::Alternation(branches) => {
            branches.iter().map(|branch| places(branch).saturating_add(1)).fold(0, usize::saturating_add)
        }
        HirKind::Repetition(repeated) => {
            let most = repeated.max.unwrap_or(repeated.min).max(1);
            places(&repeated.sub).saturating_add(1).saturating_mul(most as usize)
        }
    }
}

/// The most bytes of a text that a search reads: one more than an expression can match that begins where the text does.
pub fn most_read(expression: &Hir) -> usize {
    let properties = expression.properties();
    let begins_with_text = properties.look_set_prefix().contains(Look::Start);
    properties.maximum_len().filter(|_| begins_with_text).map_or(usize::MAX, |most| most.saturating_add(1))
}

/// True if no table can tell where a word of other letters than those of ASCII begins or ends.
pub fn needs_unicode_words(expression: &Hir) -> bool {
    expression.properties().look_set().contains_word_unicode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_an_expression_are_counted_as_often_as_they_are_repeated() {
        let table = [
            ("", 0),
            ("abc", 3),
            ("[a-z]", 1),
            (r"^a$", 3),
            ("(?i)abc", 3),
            ("ab|cd|[ef]", 8),
            ("[ab]*", 2),
            ("[ab]{500}", 1000),
            ("([ab]{10}c){20}", 440),
            ("(a[bc]){3,}", 9),
            ("[ab]*a[ab]{500}[^ab]c", 1005),
        ];
        for (text, expected) in table {
            assert_eq!(places(&regex_syntax::parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn only_an_expression_that_begins_with_the_text_and_has_an_end_reads_a_part_of_it() {
        let read = |text: &str| most_read(&regex_syntax::parse(text).unwrap());
        assert_eq!((read("^ab"), read("^(a|bcd)$"), read("^[é-ü]{1,16}$"), read("")), (3, 4, 33, usize::MAX));
        for whole in ["ab", "^ab*", "(?m)^ab", "^a|b", "a^"] {
            assert_eq!(read(whole), usize::MAX, "{whole}");
        }
    }

    #[test]
    fn steps_grow_with_the_text_and_with_the_places() {
        assert_eq!(Walk::Table(1000).steps(4096), 819);
        assert_eq!(Walk::Table(100_000).steps(4096), 2048);
        assert_eq!(Walk::Places(1005).steps(4096), 4_124_672);
        assert_eq!(Walk::Places(usize::MAX).steps(2), usize::MAX);
    }

    #[test]
    fn only_word_boundaries_of_all_letters_need_more_than_a_table() {
        let needs = |text: &str| needs_unicode_words(&regex_syntax::parse(text).unwrap());
        assert!(needs(r"\bbot\b") && needs(r"x(\B|y)"));
        assert!(!needs(r"(?-u:\b)bot(?-u:\b)") && !needs("^bot$") && !needs(r"\w+"));
    }
}
