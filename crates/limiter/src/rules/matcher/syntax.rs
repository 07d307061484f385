//! The bounds of a `when` expression. They hold for its syntax tree, so that no comment, string or macro can evade them.
//! The tree is walked without recursion, because it may be as deep as the text is long.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::pattern::Pattern;

/// The deepest tree. CEL evaluates it by recursion, on the stack of a worker thread.
const MAX_DEPTH: usize = 512;
/// The most nodes that are evaluated in one check. A macro evaluates its body for each element.
const MAX_STEPS: usize = 20_000;
/// The most `+`. Each may copy two long texts.
const MAX_SUMS: usize = 64;
/// The most regular expressions, and the largest compiled one, in bytes. A search takes as long as the text times the size
/// of the expression.
const MAX_PATTERNS: usize = 8;
const MAX_PATTERN_BYTES: usize = 64 * 1024;
/// The most attributes of a check, which a macro may walk over.
const MAX_ATTRIBUTES: usize = crate::MAX_ATTRIBUTES;

/// The names and patterns in the tree of an expression.
#[derive(Debug, Default)]
pub struct Syntax {
    /// The variables that macros bind.
    pub bound: Vec<String>,
    /// The regular expressions of `matches`, by their texts.
    pub patterns: HashMap<String, Pattern>,
    /// How many nodes are evaluated in one check, and how many of them are a `+`.
    pub evaluated: usize,
    pub added: usize,
    sums: usize,
}

/// A node that is still to be visited.
struct Visit<'e> {
    node: &'e IdedExpr,
    depth: usize,
    /// How often it is evaluated.
    times: usize,
    /// True if a macro evaluates it for each element.
    in_loop: bool,
}

impl Syntax {
    /// Walks the tree. The error says what was expected.
    pub fn of(root: &IdedExpr) -> Result<Self, String> {
        let mut syntax = Self::default();
        let mut open = vec![Visit { node: root, depth: 1, times: 1, in_loop: false }];
        while let Some(Visit { node, depth, times, in_loop }) = open.pop() {
            syntax.evaluated = syntax.evaluated.saturating_add(times);
            if depth > MAX_DEPTH {
                return Err(format!("expected operators and brackets at most {MAX_DEPTH} deep"));
            }
            if syntax.evaluated > MAX_STEPS {
                return Err(format!("expected an expression that evaluates at most {MAX_STEPS} parts"));
            }
            let visit = |node| Visit { node, depth: depth + 1, times, in_loop };
            match &node.expr {
                Expr::Call(call) => {
                    syntax.call(call, times, in_loop)?;
                    open.extend(call.target.iter().map(|target| &**target).chain(&call.args).map(visit));
                }
                Expr::Select(select) => open.push(visit(&select.operand)),
                Expr::List(list) => open.extend(list.elements.iter().map(visit)),
                Expr::Map(map) => open.extend(map.entries.iter().flat_map(|entry| parts(&entry.expr)).map(visit)),
                Expr::Struct(built) => {
                    open.extend(built.entries.iter().flat_map(|entry| parts(&entry.expr)).map(visit))
                }
                Expr::Comprehension(comprehension) => {
                    if in_loop {
                        return Err(
                            "expected no macro (all, exists, exists_one, map, filter) within another".to_owned()
                        );
                    }
                    let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, .. } = &**comprehension;
                    let ComprehensionExpr { accu_init, loop_cond, loop_step, result, .. } = &**comprehension;
                    syntax.bound.extend([iter_var, accu_var].into_iter().chain(iter_var2).cloned());
                    let repeated = times.saturating_mul(elements(iter_range)?);
                    let body = |node| Visit { node, depth: depth + 1, times: repeated, in_loop: true };
                    open.extend([iter_range, accu_init, result].map(visit));
                    open.extend([loop_cond, loop_step].map(body));
                }
                Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
            }
        }
        Ok(syntax)
    }

    fn call(&mut self, call: &CallExpr, times: usize, in_loop: bool) -> Result<(), String> {
        match call.func_name.as_str() {
            operators::ADD => {
                self.sums += 1;
                self.added += times;
                if self.sums > MAX_SUMS {
                    return Err(format!("expected at most {MAX_SUMS} operators +"));
                }
            }
            "matches" if in_loop => {
                return Err("expected no matches within a macro (all, exists, exists_one, map, filter)".to_owned());
            }
            "matches" => {
                let Some(pattern) = call.args.last().and_then(text) else {
                    return Err("expected matches with a regular expression that is written out".to_owned());
                };
                if !self.patterns.contains_key(pattern) {
                    if self.patterns.len() == MAX_PATTERNS {
                        return Err(format!("expected at most {MAX_PATTERNS} regular expressions"));
                    }
                    self.patterns.insert(pattern.to_owned(), Pattern::compile(pattern, MAX_PATTERN_BYTES)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The most elements of what a macro walks over.
fn elements(range: &IdedExpr) -> Result<usize, String> {
    match &range.expr {
        Expr::List(list) => Ok(list.elements.len()),
        Expr::Map(map) => Ok(map.entries.len()),
        Expr::Ident(name) if name == "attributes" => Ok(MAX_ATTRIBUTES),
        _ => Err("expected a macro (all, exists, exists_one, map, filter) over a list that is written out, or over \
                  attributes"
            .to_owned()),
    }
}

fn parts(entry: &EntryExpr) -> impl Iterator<Item = &IdedExpr> {
    let (first, second) = match entry {
        EntryExpr::StructField(field) => (&field.value, None),
        EntryExpr::MapEntry(entry) => (&entry.key, Some(&entry.value)),
    };
    std::iter::once(first).chain(second)
}

/// The text of a string literal.
pub fn text(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
