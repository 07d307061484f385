//! The tokens of a CEL expression, as far as an import looks at them.

/// A part of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name, or a keyword such as `in`.
    Word(String),
    /// A string literal without escapes: its text.
    Text(String),
    /// Any other literal, as it is written.
    Literal(String),
    /// An operator or a bracket.
    Sign(&'static str),
}

impl Token {
    pub fn is(&self, sign: &str) -> bool {
        matches!(self, Self::Sign(own) if *own == sign)
    }
}

/// Two characters come first, so that `==` is not taken for two of another sign.
const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "+", "-", "*",
    "/", "%",
];

/// The longest expression, in bytes: a longer one is no valid `when`.
const MAX_BYTES: usize = 4096;
/// The deepest nesting of brackets, because tokens are translated recursively.
const MAX_DEPTH: usize = 64;

/// The tokens of `source`. `None` if it has something that this does not read, such as a comment.
pub fn scan(source: &str) -> Option<Vec<Token>> {
    let mut depth = 0usize;
    let (mut tokens, mut rest) = (Vec::new(), source.trim_start());
    while let Some(first) = rest.chars().next() {
        let (token, used) = if first.is_ascii_alphabetic() || first == '_' {
            let used = length(rest, |c| c.is_ascii_alphanumeric() || c == '_');
            if rest[used..].starts_with(['"', '\'']) {
                // The prefix of a raw string or of bytes.
                return None;
            }
            (Token::Word(rest[..used].to_owned()), used)
        } else if first.is_ascii_digit() {
            let used = length(rest, |c| c.is_ascii_alphanumeric() || c == '.');
            (Token::Literal(rest[..used].to_owned()), used)
        } else if first == '"' || first == '\'' {
            text(rest, first)?
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign) && !rest.starts_with("//"))?;
            (Token::Sign(sign), sign.len())
        };
        match token {
            Token::Sign("(" | "[" | "{") => depth += 1,
            Token::Sign(")" | "]" | "}") => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH || source.len() > MAX_BYTES {
            return None;
        }
        tokens.push(token);
        rest = rest[used..].trim_start();
    }
    Some(tokens)
}

fn length(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// A string literal, and its length. With escapes, it is kept as it is written.
fn text(rest: &str, quote: char) -> Option<(Token, usize)> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            let (inner, used) = (&rest[1..at], at + 1);
            if inner.is_empty() && rest[used..].starts_with(quote) {
                // Three quotes begin a string over several lines.
                return None;
            }
            let token = match inner.contains('\\') {
                true => Token::Literal(rest[..used].to_owned()),
                false => Token::Text(inner.to_owned()),
            };
            return Some((token, used));
        }
        escaped = !escaped && c == '\\';
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_split_into_tokens() {
        let word = |text: &str| Token::Word(text.to_owned());
        let tokens = scan(" descriptors[0]['a b'] != \"x\" && 1.5<=y2 || 'it\\'s'").unwrap();
        let expected = [
            word("descriptors"),
            Token::Sign("["),
            Token::Literal("0".to_owned()),
            Token::Sign("]"),
            Token::Sign("["),
            Token::Text("a b".to_owned()),
            Token::Sign("]"),
            Token::Sign("!="),
            Token::Text("x".to_owned()),
            Token::Sign("&&"),
            Token::Literal("1.5".to_owned()),
            Token::Sign("<="),
            word("y2"),
            Token::Sign("||"),
            Token::Literal("'it\\'s'".to_owned()),
        ];
        assert_eq!(tokens, expected);
    }

    #[test]
    fn what_is_not_read_is_no_list_of_tokens() {
        let deep = "(".repeat(65);
        let long = "a ".repeat(2049);
        for source in [&*deep, &long, "r'x' == y", "'''x'''", "'x", "a // b", "a ; b", "é == 'x'"] {
            assert_eq!(scan(source), None, "{source}");
        }
        assert_eq!(scan(""), Some(Vec::new()));
    }
}
