//! CEL expressions of Limitador: simple tests of attributes, and the translation of all others.

use std::fmt::Write as _;

use super::super::cel;
use super::tokens::Token;

/// An attribute in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub name: String,
    /// It is written as a name alone, without `descriptors[0]`.
    pub is_bare: bool,
}

/// A test of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It has one of these values.
    OneOf(Attribute, Vec<String>),
    Differs(Attribute, String),
}

/// The attribute that all of `tokens` name.
pub fn whole_attribute(tokens: &[Token]) -> Option<Attribute> {
    attribute(tokens).filter(|(_, used)| *used == tokens.len()).map(|(attribute, _)| attribute)
}

/// The attribute at the beginning of `tokens`, and the number of its tokens: `descriptors[0].a`, `descriptors[0]['a']`,
/// or a bare name such as `req.method`.
fn attribute(tokens: &[Token]) -> Option<(Attribute, usize)> {
    match tokens {
        [Token::Word(first), open, Token::Literal(zero), close, rest @ ..]
            if first == "descriptors" && open.is("[") && zero == "0" && close.is("]") =>
        {
            let (name, used) = match rest {
                [dot, Token::Word(name), ..] if dot.is(".") => (name, 2),
                [open, Token::Text(name), close, ..] if open.is("[") && close.is("]") => (name, 3),
                _ => return None,
            };
            Some((Attribute { name: name.clone(), is_bare: false }, 4 + used))
        }
        [Token::Word(first), rest @ ..] if !is_reserved(first) => {
            let mut name = first.clone();
            let mut used = 1;
            let mut rest = rest;
            while let [dot, Token::Word(next), more @ ..] = rest
                && dot.is(".")
            {
                name = format!("{name}.{next}");
                used += 2;
                rest = more;
            }
            let calls = rest.first().is_some_and(|next| next.is("(") || next.is("["));
            (!calls).then_some((Attribute { name, is_bare: true }, used))
        }
        _ => None,
    }
}

/// True for a word of CEL, and for a name that Limitador binds itself.
fn is_reserved(word: &str) -> bool {
    matches!(word, "in" | "true" | "false" | "null" | "descriptors" | "limit")
}

/// A simple test: `a == 'x'`, `'x' == a`, `a != 'x'` or `a in ['x', 'y']`.
pub fn test(tokens: &[Token]) -> Option<Test> {
    if let [Token::Text(value), sign @ Token::Sign(_), rest @ ..] = tokens {
        return compared(whole_attribute(rest)?, sign, value);
    }
    let (attribute, used) = attribute(tokens)?;
    match &tokens[used..] {
        [sign @ Token::Sign(_), Token::Text(value)] => compared(attribute, sign, value),
        [Token::Word(word), open, values @ .., close] if word == "in" && open.is("[") && close.is("]") => {
            let values = values.split(|token| token.is(",")).map(|value| match value {
                [Token::Text(value)] => Some(value.clone()),
                _ => None,
            });
            values.collect::<Option<_>>().map(|values| Test::OneOf(attribute, values))
        }
        _ => None,
    }
}

fn compared(attribute: Attribute, sign: &Token, value: &str) -> Option<Test> {
    match sign {
        Token::Sign("==") => Some(Test::OneOf(attribute, vec![value.to_owned()])),
        Token::Sign("!=") => Some(Test::Differs(attribute, value.to_owned())),
        _ => None,
    }
}

/// Splits at an operator that is in no brackets. One part if the operator is not there.
pub fn split<'t>(tokens: &'t [Token], operator: &str) -> Vec<&'t [Token]> {
    let mut depth = 0usize;
    let at_operator = |token: &Token| {
        match token {
            Token::Sign("(" | "[" | "{") => depth += 1,
            Token::Sign(")" | "]" | "}") => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token.is(operator)
    };
    tokens.split(at_operator).collect()
}

/// The expression over `attributes` that is true wherever Limitador takes `tokens` for true. The error says what
/// it cannot be.
///
/// An operand that fails, because it reads an absent attribute, fails the whole expression there. CEL as specified may
/// still take `||` and `&&` with it for true or false. So they are written as conditionals, which fail with their first
/// operand.
pub fn translated(tokens: &[Token]) -> Result<String, String> {
    let either = |operator| split(tokens, operator).len() > 1;
    if either("?") {
        let mut parts = split(tokens, "?").into_iter();
        let (condition, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let branches = split(rest, ":");
        let ([yes, no], None) = (branches.as_slice(), parts.next()) else {
            return Err("a conditional within another".to_owned());
        };
        return Ok(format!("({} ? {} : {})", translated(condition)?, translated(yes)?, translated(no)?));
    }
    for (operator, write) in [("||", or as fn(String, String) -> String), ("&&", and)] {
        if either(operator) {
            let parts: Vec<String> = split(tokens, operator).into_iter().map(translated).collect::<Result<_, _>>()?;
            let last_first = parts.into_iter().rev().reduce(|rest, part| write(part, rest));
            return Ok(last_first.unwrap_or_default());
        }
    }
    operand(tokens)
}

fn or(left: String, right: String) -> String {
    format!("({left} ? true : {right})")
}

fn and(left: String, right: String) -> String {
    format!("({left} ? {right} : false)")
}

/// What an expression over several descriptors has, which a limit sees one at a time.
const OTHERS: &str = "a descriptor other than descriptors[0]";

/// Writes tokens without `||`, `&&` and `?` outside of their brackets.
fn operand(tokens: &[Token]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = tokens;
    let mut is_member = false;
    while let Some(token) = rest.first() {
        let mut used = 1;
        match token {
            Token::Word(word) if word == "descriptors" && !is_member => {
                let [_, open, Token::Literal(zero), close, ..] = rest else { return Err(OTHERS.to_owned()) };
                if !open.is("[") || zero != "0" || !close.is("]") {
                    return Err(OTHERS.to_owned());
                }
                used = 4;
                out.push_str("attributes");
            }
            Token::Word(word) if !is_member && matches!(word.as_str(), "attributes" | "domain" | "hits") => {
                return Err(format!("the name {word}, which has a meaning of its own here"));
            }
            Token::Word(word) if word == "in" => out.push_str(" in "),
            Token::Word(word) | Token::Literal(word) => out.push_str(word),
            Token::Text(text) => out.push_str(&cel::quoted(text)),
            Token::Sign(open @ ("(" | "[" | "{")) => {
                let inner = inside(rest);
                let parts = split(inner, ",").into_iter().map(translated).collect::<Result<Vec<_>, _>>()?;
                let close = rest.get(inner.len() + 1);
                let _ = write!(out, "{open}{}", parts.join(", "));
                if let Some(Token::Sign(close)) = close {
                    out.push_str(close);
                }
                used = inner.len() + 2;
            }
            Token::Sign(sign @ ("." | "!")) => out.push_str(sign),
            Token::Sign(sign) => drop(write!(out, " {sign} ")),
        }
        is_member = token.is(".");
        rest = rest.get(used..).unwrap_or_default();
    }
    Ok(out.trim().to_owned())
}

/// The tokens between the bracket at the beginning and the one that closes it.
fn inside(tokens: &[Token]) -> &[Token] {
    let mut depth = 0usize;
    let end = tokens.iter().position(|token| {
        match token {
            Token::Sign("(" | "[" | "{") => depth += 1,
            Token::Sign(")" | "]" | "}") => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    tokens.get(1..end.unwrap_or(tokens.len())).unwrap_or_default()
}
