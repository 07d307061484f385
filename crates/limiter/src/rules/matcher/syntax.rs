//! The bounds of a `when` expression. They hold for its syntax tree, so that no comment, string or macro can evade
//! them. The tree is walked without recursion, because it may be as deep as the text is long.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::pattern::Pattern;
use super::search_cost::USUAL_TEXT;

/// The deepest tree. CEL evaluates it by recursion, on the stack of a worker thread.
const MAX_DEPTH: usize = 512;
/// The most nodes that are evaluated in one check. A macro evaluates its body for each element.
const MAX_STEPS: usize = 20_000;
/// The most `+`. Each may copy two long texts.
const MAX_SUMS: usize = 64;
/// The most values that are copied in one check. CEL copies the values of each `+`, list and map, and a value may be as
/// long as a message.
const MAX_COPIES: usize = 256;
/// The most regular expressions, and the largest compiled one, in bytes. A search takes as long as the text times the
/// size of the expression.
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
    /// The steps of all searches together, in texts of the usual length: those without the bytes, and those for them.
    pub searches: (usize, usize),
    /// How many nodes are evaluated in one check, and how many values are copied.
    pub evaluated: usize,
    pub copied: usize,
    /// How many times a text is looked for in another, how many times one may be read, and how many texts may have been
    /// put together to that.
    pub looked_for: usize,
    pub read: usize,
    pub joined: usize,
    /// The attributes whose values are read. `None` stands for all values and names.
    pub named: Option<Vec<String>>,
    sums: usize,
}

/// A node that is still to be visited.
struct Visit<'e> {
    node: &'e IdedExpr,
    depth: usize,
    /// How often it is evaluated.
    times: usize,
    /// True if a macro evaluates it for each element, or walks over it.
    in_loop: bool,
    /// True if all attributes may stand here, because they are not copied.
    takes_attributes: bool,
}

impl Syntax {
    /// Walks the tree. The error says what was expected.
    pub fn of(root: &IdedExpr) -> Result<Self, String> {
        let mut syntax = Self { named: Some(Vec::new()), ..Self::default() };
        let mut open = vec![Visit { node: root, depth: 1, times: 1, in_loop: false, takes_attributes: false }];
        while let Some(Visit { node, depth, times, in_loop, takes_attributes }) = open.pop() {
            syntax.evaluated = syntax.evaluated.saturating_add(times);
            if depth > MAX_DEPTH {
                return Err(format!("expected operators and brackets at most {MAX_DEPTH} deep"));
            }
            if syntax.evaluated > MAX_STEPS {
                return Err(format!("expected an expression that evaluates at most {MAX_STEPS} parts"));
            }
            let visit = |node| Visit { node, depth: depth + 1, times, in_loop, takes_attributes: false };
            let reader = |node| Visit { takes_attributes: true, ..visit(node) };
            match &node.expr {
                Expr::Call(call) => {
                    syntax.call(call, times, in_loop)?;
                    match (call.func_name.as_str(), call.args.as_slice()) {
                        (operators::INDEX, [map, index]) if is_attributes(map) => syntax.name(text(index)),
                        // It reads no value.
                        (operators::IN, [name, map]) if is_attributes(map) && is_written_out(name) => {}
                        ("size", [map]) if is_attributes(map) => {}
                        _ if operands(call).any(is_attributes) => syntax.name(None),
                        _ => {}
                    }
                    let reads = matches!(
                        call.func_name.as_str(),
                        operators::INDEX | operators::IN | operators::OPT_INDEX | operators::OPT_SELECT | "size"
                    );
                    open.extend(operands(call).map(|node| if reads { reader(node) } else { visit(node) }));
                }
                Expr::Select(select) => {
                    if is_attributes(&select.operand) {
                        syntax.name(Some(&select.field));
                    }
                    open.push(reader(&select.operand));
                }
                Expr::List(list) => syntax.copies(&mut open, list.elements.iter().map(visit))?,
                Expr::Map(map) => {
                    syntax.copies(&mut open, map.entries.iter().flat_map(|entry| parts(&entry.expr)).map(visit))?;
                }
                Expr::Struct(built) => {
                    syntax.copies(&mut open, built.entries.iter().flat_map(|entry| parts(&entry.expr)).map(visit))?;
                }
                Expr::Comprehension(comprehension) => {
                    if in_loop {
                        return Err(
                            "expected no macro (all, exists, exists_one, map, filter) within another".to_owned()
                        );
                    }
                    let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, .. } = &**comprehension;
                    let ComprehensionExpr { accu_init, loop_cond, loop_step, result, .. } = &**comprehension;
                    // The costs of these are known by their names.
                    let own = [iter_var, accu_var].into_iter().chain(iter_var2);
                    if own.into_iter().any(|name| ["attributes", "domain", "hits"].contains(&name.as_str())) {
                        return Err("expected a macro variable that is not attributes, domain or hits".to_owned());
                    }
                    syntax.bound.extend([iter_var, accu_var].into_iter().chain(iter_var2).cloned());
                    if is_attributes(iter_range) {
                        syntax.name(None);
                    }
                    let repeated = times.saturating_mul(elements(iter_range)?);
                    let body = |node| Visit { times: repeated, in_loop: true, ..visit(node) };
                    // Values that grow in one macro must not be the range of another, which would let them double.
                    open.push(Visit { in_loop: true, ..reader(iter_range) });
                    open.extend([accu_init, result].map(visit));
                    open.extend([loop_cond, loop_step].map(body));
                }
                Expr::Ident(name) if name == "attributes" && !takes_attributes => {
                    return Err(
                        "expected attributes only before . or [ ], after in, in size(), or as what a macro walks \
                                over"
                            .to_owned(),
                    );
                }
                Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
            }
        }
        Ok(syntax)
    }

    /// Opens the elements of a list or a map, which are copied into it.
    fn copies<'e>(
        &mut self,
        open: &mut Vec<Visit<'e>>,
        elements: impl Iterator<Item = Visit<'e>>,
    ) -> Result<(), String> {
        for element in elements {
            if !matches!(element.node.expr, Expr::Literal(_)) {
                self.copy(element.times)?;
            }
            open.push(element);
        }
        Ok(())
    }

    /// Counts values that are copied so many times.
    fn copy(&mut self, times: usize) -> Result<(), String> {
        self.copied = self.copied.saturating_add(times);
        if self.copied > MAX_COPIES {
            return Err(format!(
                "expected an expression that copies at most {MAX_COPIES} values, with each + and into lists and maps"
            ));
        }
        Ok(())
    }

    fn call(&mut self, call: &CallExpr, times: usize, in_loop: bool) -> Result<(), String> {
        match call.func_name.as_str() {
            operators::ADD => {
                self.sums += 1;
                if self.sums > MAX_SUMS {
                    return Err(format!("expected at most {MAX_SUMS} operators +"));
                }
                // A number is no long value.
                if call.args.iter().all(may_be_text) {
                    self.copy(times)?;
                    self.joined += 1;
                }
            }
            "contains" => self.looked_for = self.looked_for.saturating_add(times),
            operators::OPT_INDEX | operators::OPT_SELECT => self.copy(times)?,
            "matches" if in_loop => {
                return Err("expected no matches within a macro (all, exists, exists_one, map, filter), nor in what it walks over".to_owned());
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
                // CEL copies the text for it.
                self.read = self.read.saturating_add(times);
                if let Some(pattern) = self.patterns.get(pattern) {
                    self.searches.0 += pattern.steps();
                    self.searches.1 = self.searches.1.saturating_add(pattern.search_steps(USUAL_TEXT));
                }
            }
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {}
            operators::NOT_STRICTLY_FALSE | operators::CONDITIONAL => {}
            // A comparison ends with the shorter of two values, and one that is written out is short.
            _ if is_with_written_out(call) || !operands(call).any(may_be_text) => {}
            _ => self.read = self.read.saturating_add(times),
        }
        Ok(())
    }

    /// Takes note that the value of an attribute may be read; `None` for all values and names.
    fn name(&mut self, attribute: Option<&str>) {
        match (attribute, &mut self.named) {
            (Some(name), Some(named)) => named.push(name.to_owned()),
            (None, named) => *named = None,
            (Some(_), None) => {}
        }
    }
}

fn operands(call: &CallExpr) -> impl Iterator<Item = &IdedExpr> {
    call.target.iter().map(|target| &**target).chain(&call.args)
}

/// True if a call compares a value with one that is written out, or looks one up that is.
fn is_with_written_out(call: &CallExpr) -> bool {
    match call.func_name.as_str() {
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
        | operators::IN
        | "startsWith"
        | "endsWith" => operands(call).any(is_written_out),
        operators::INDEX => call.args.last().is_some_and(is_written_out),
        _ => false,
    }
}

/// False if a value is a number, true or false, whatever the attributes are.
fn may_be_text(value: &IdedExpr) -> bool {
    match &value.expr {
        Expr::Literal(LiteralValue::String(_) | LiteralValue::Bytes(_)) => true,
        Expr::Literal(_) => false,
        // Whoever may read all attributes does not copy them.
        Expr::Ident(name) => name != "hits" && name != "attributes",
        Expr::Call(call) => !matches!(
            call.func_name.as_str(),
            "size"
                | "int"
                | "uint"
                | "double"
                | "bool"
                | "contains"
                | "matches"
                | "startsWith"
                | "endsWith"
                | operators::EQUALS
                | operators::NOT_EQUALS
                | operators::IN
                | operators::LOGICAL_NOT
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO
                | operators::NEGATE
        ),
        _ => true,
    }
}

/// True for a literal, and for a list of literals.
fn is_written_out(value: &IdedExpr) -> bool {
    match &value.expr {
        Expr::Literal(_) => true,
        Expr::List(list) => list.elements.iter().all(|element| matches!(element.expr, Expr::Literal(_))),
        _ => false,
    }
}

/// The most elements of what a macro walks over.
fn elements(range: &IdedExpr) -> Result<usize, String> {
    match &range.expr {
        // A variable that is a list would count as one value, whatever it holds.
        Expr::List(list) if list.elements.iter().any(has_list) => {
            Err("expected a macro (all, exists, exists_one, map, filter) over no lists or maps of attributes"
                .to_owned())
        }
        Expr::List(list) => Ok(list.elements.len()),
        Expr::Map(map) => Ok(map.entries.len()),
        Expr::Ident(name) if name == "attributes" => Ok(MAX_ATTRIBUTES),
        _ => Err("expected a macro (all, exists, exists_one, map, filter) over a list that is written out, or over \
                  attributes"
            .to_owned()),
    }
}

/// True if a list or a map that is not written out stands in `value`.
fn has_list(value: &IdedExpr) -> bool {
    let mut open = vec![value];
    while let Some(node) = open.pop() {
        match &node.expr {
            Expr::List(_) if is_written_out(node) => {}
            Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => return true,
            Expr::Call(call) => open.extend(operands(call)),
            Expr::Select(select) => open.push(&select.operand),
            // No macro may stand within another.
            Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }
    false
}

fn is_attributes(value: &IdedExpr) -> bool {
    matches!(&value.expr, Expr::Ident(name) if name == "attributes")
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
