//! What a `when` expression can evaluate to, found before any check: an abstract evaluation of its syntax tree.
//!
//! Every part of the expression has the set of its possible values. The set is exact for constants and for attributes
//! that `match` restricts. Otherwise it has samples of each possible type, and CEL itself is asked what an operator
//! does with samples. So an operator that rejects every sample because of its type is found to be wrong, and no list of
//! overloads is kept here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, MapEntryExpr, MapExpr, SelectExpr,
    operators,
};
use cel::{Context, ExecutionError, Value};

use super::expression::Scope;
use super::possible::{Possible, can_be_equal};
use super::syntax::text;
use crate::rules::work::MAX_WORK;

/// The most combinations of values that are tried for one operator.
const MAX_COMBINATIONS: usize = 256;
/// The most combinations for one expression. What comes after them is not judged.
pub(super) const MAX_TRIALS: usize = 4096;

/// The most bytes of all combinations for one expression, and of what comes from them. What comes after them is not
/// judged.
const MAX_BYTES: usize = 256 << 10;
/// The most bytes of all values that an attribute may have. More are not told apart.
const MAX_FACT_BYTES: usize = 4 << 10;

/// What the rules say about an attribute before `when` is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Unknown,
    Absent,
    Present,
    /// It is present, and has one of these values.
    OneOf(Vec<String>),
}

/// What is known about a check.
pub struct Facts<'f> {
    pub attribute: &'f dyn Fn(&str) -> Fact,
    pub domain: Option<&'f str>,
}

/// Checks the types of an expression. Returns how many combinations of values were tried; the error says what was
/// expected.
pub fn check_types(expression: &IdedExpr, scope: &Scope) -> Result<usize, String> {
    let facts = Facts { attribute: &|_| Fact::Unknown, domain: None };
    let mut evaluation = Evaluation::new(scope, &facts);
    let possible = evaluation.of(expression)?;
    if possible.values.is_empty() || possible.can_be(true) || possible.can_be(false) {
        return Ok(evaluation.trials.min(MAX_TRIALS));
    }
    Err(format!("expected an expression that is true or false, not {}", possible.types()))
}

/// True unless the expression is false, or fails, in every check of which `facts` hold.
pub fn can_be_true(expression: &IdedExpr, scope: &Scope, facts: &Facts<'_>) -> bool {
    Evaluation::new(scope, facts).of(expression).is_ok_and(|possible| possible.can_be(true))
}

struct Evaluation<'e> {
    facts: &'e Facts<'e>,
    scratch: Context<'static, 'static>,
    /// The steps of all searches. Beyond [`MAX_WORK`], nothing more is searched.
    searched: Arc<AtomicUsize>,
    /// The variables of macros such as `all`.
    bound: Vec<(String, Possible)>,
    trials: usize,
    /// The bytes of the combinations, and of what came from them.
    bytes: usize,
}

impl<'e> Evaluation<'e> {
    fn new(scope: &Scope, facts: &'e Facts<'e>) -> Self {
        let searched = Arc::default();
        Self { facts, scratch: scope.context(&searched), searched, bound: Vec::new(), trials: 0, bytes: 0 }
    }

    fn of(&mut self, expression: &IdedExpr) -> Result<Possible, String> {
        match &expression.expr {
            Expr::Literal(_) => Ok(self.literal(expression)),
            Expr::Ident(name) => Ok(self.variable(name)),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) => Err("expected no message: CEL knows only its own types here".to_owned()),
            Expr::Unspecified => Ok(Possible::anything()),
        }
    }

    fn literal(&self, expression: &IdedExpr) -> Possible {
        Possible::exactly(Value::resolve(expression, &self.scratch).into_iter().collect())
    }

    fn variable(&self, name: &str) -> Possible {
        if let Some((_, possible)) = self.bound.iter().rev().find(|(bound, _)| bound == name) {
            return possible.clone();
        }
        match (name, self.facts.domain) {
            ("attributes", _) => {
                let sample = HashMap::from([("a".to_owned(), Value::from("1"))]);
                Possible { values: vec![Value::from(sample)], exact: false }
            }
            ("domain", Some(domain)) => Possible::exactly(vec![Value::from(domain)]),
            ("domain", None) => Possible::like(vec![Value::from("")]),
            ("hits", _) => Possible::like(vec![Value::Int(1)]),
            _ => Possible::anything(),
        }
    }

    fn names_attributes(&self, expression: &IdedExpr) -> bool {
        let unbound = || self.bound.iter().all(|(bound, _)| bound != "attributes");
        matches!(&expression.expr, Expr::Ident(name) if name == "attributes") && unbound()
    }

    fn attribute(&self, name: &str) -> Possible {
        match (self.facts.attribute)(name) {
            Fact::Unknown | Fact::Present => Possible::like(vec![Value::from("")]),
            Fact::OneOf(values) if values.iter().map(String::len).sum::<usize>() > MAX_FACT_BYTES => {
                Possible::like(vec![Value::from("")])
            }
            Fact::Absent => Possible::exactly(Vec::new()),
            Fact::OneOf(values) => Possible::exactly(values.into_iter().map(Value::from).collect()),
        }
    }

    fn presence(&self, name: &str) -> Possible {
        match (self.facts.attribute)(name) {
            Fact::Unknown => Possible::booleans(true, true),
            Fact::Absent => Possible::booleans(false, true),
            Fact::Present | Fact::OneOf(_) => Possible::booleans(true, false),
        }
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Possible, String> {
        let SelectExpr { operand, field, test } = select;
        if self.names_attributes(operand) {
            return Ok(if *test { self.presence(field) } else { self.attribute(field) });
        }
        let from = self.of(operand)?;
        let has_fields = |value: &Value| matches!(value, Value::Map(_) | Value::Struct(_) | Value::Opaque(_));
        if !from.values.is_empty() && !from.values.iter().any(has_fields) {
            return Err(format!("expected a map before .{field}, not {}", from.types()));
        }
        let (field, test) = (field.clone(), *test);
        let select = |mut operands: Vec<IdedExpr>| {
            let operand = Box::new(operands.pop().unwrap_or_default());
            Expr::Select(SelectExpr { operand, field: field.clone(), test })
        };
        Ok(self.combine(vec![from], select).unwrap_or_else(Possible::anything))
    }

    fn call(&mut self, call: &CallExpr) -> Result<Possible, String> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX, [map, index]) if self.names_attributes(map) => {
                if let Some(name) = text(index) {
                    return Ok(self.attribute(name));
                }
            }
            (operators::IN, [name, map]) if self.names_attributes(map) => {
                if let Some(name) = text(name) {
                    return Ok(self.presence(name));
                }
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                let (left, right) = (self.boolean(left, call)?, self.boolean(right, call)?);
                return Ok(if call.func_name == operators::LOGICAL_AND {
                    Possible::booleans(
                        left.can_be(true) && right.can_be(true),
                        left.can_be(false) || right.can_be(false),
                    )
                } else {
                    Possible::booleans(
                        left.can_be(true) || right.can_be(true),
                        left.can_be(false) && right.can_be(false),
                    )
                });
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let condition = self.boolean(condition, call)?;
                let (yes, no) = (self.of(yes)?, self.of(no)?);
                return Ok(match (condition.can_be(true), condition.can_be(false)) {
                    (true, true) => yes.or(no),
                    (true, false) => yes,
                    (false, true) => no,
                    (false, false) => Possible::exactly(Vec::new()),
                });
            }
            _ => {}
        }
        self.operator(call)
    }

    /// The operand of a logical operator.
    fn boolean(&mut self, operand: &IdedExpr, call: &CallExpr) -> Result<Possible, String> {
        let possible = self.of(operand)?;
        if possible.values.is_empty() || possible.can_be(true) || possible.can_be(false) {
            return Ok(possible);
        }
        let (symbol, types) = (symbol(&call.func_name), possible.types());
        Err(format!("expected operands of {symbol} that are true or false, not {types}"))
    }

    fn operator(&mut self, call: &CallExpr) -> Result<Possible, String> {
        let operands = call.target.iter().map(|target| &**target).chain(&call.args);
        let operands: Vec<Possible> = operands.map(|operand| self.of(operand)).collect::<Result<_, _>>()?;
        if call.func_name == "dyn" {
            // It asks not to judge the type.
            return Ok(Possible::anything());
        }
        if let [left, right] = operands.as_slice()
            && !can_be_equal(&call.func_name, left, right)
        {
            return Err(wrong_types(call, &operands));
        }
        let (func_name, has_target) = (&call.func_name, call.target.is_some());
        let apply = |mut args: Vec<IdedExpr>| {
            let target = has_target.then(|| Box::new(args.remove(0)));
            Expr::Call(CallExpr { func_name: func_name.clone(), target, args })
        };
        self.combine(operands.clone(), apply).ok_or_else(|| wrong_types(call, &operands))
    }

    fn list(&mut self, list: &ListExpr) -> Result<Possible, String> {
        let elements = list.elements.iter().map(|element| self.of(element)).collect::<Result<_, _>>()?;
        let build = |elements| Expr::List(ListExpr::new_with_optionals(elements, list.optional_indices.clone()));
        Ok(self.combine(elements, build).unwrap_or_else(Possible::anything))
    }

    fn map(&mut self, map: &MapExpr) -> Result<Possible, String> {
        let mut parts = Vec::new();
        for entry in &map.entries {
            if let EntryExpr::MapEntry(MapEntryExpr { key, value, optional: false }) = &entry.expr {
                parts.extend([self.of(key)?, self.of(value)?]);
            } else {
                return Ok(Possible::anything());
            }
        }
        let build = |parts: Vec<IdedExpr>| {
            let mut parts = parts.into_iter();
            let mut entries = Vec::new();
            while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                let expr = EntryExpr::MapEntry(MapEntryExpr { key, value, optional: false });
                entries.push(IdedEntryExpr { id: 0, expr });
            }
            Expr::Map(MapExpr { entries })
        };
        Ok(self.combine(parts, build).unwrap_or_else(Possible::anything))
    }

    /// A macro such as `all`, which walks over a list or a map.
    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Result<Possible, String> {
        let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, accu_init, loop_step, result, .. } =
            comprehension;
        let range = self.of(iter_range)?;
        let mut items = Vec::new();
        for value in &range.values {
            match value {
                Value::List(list) => items.extend(list.iter().cloned()),
                Value::Map(map) => items.extend(map.map.keys().map(Value::from)),
                _ => {}
            }
        }
        let item = if items.is_empty() { Possible::anything() } else { Possible::like(items) };
        let start = self.of(accu_init)?;
        let bound = self.bound.len();
        self.bound.push((iter_var.clone(), item));
        self.bound.extend(iter_var2.iter().map(|name| (name.clone(), Possible::anything())));
        self.bound.push((accu_var.clone(), Possible::like(start.values.clone())));
        let step = self.of(loop_step);
        let walked = step.and_then(|step| {
            self.bound.push((accu_var.clone(), Possible::like([start.values, step.values].concat())));
            self.of(result)
        });
        self.bound.truncate(bound);
        walked.map(|possible| Possible::like(possible.values))
    }

    /// Evaluates an expression over the operands for each combination of their values. `None` if every combination has
    /// the wrong types.
    fn combine(&mut self, operands: Vec<Possible>, build: impl Fn(Vec<IdedExpr>) -> Expr) -> Option<Possible> {
        let count = |operands: &[Possible]| {
            operands.iter().try_fold(1usize, |product, operand| product.checked_mul(operand.values.len()))
        };
        let fits = |operands: &[Possible]| count(operands).is_some_and(|count| count <= MAX_COMBINATIONS);
        let operands = match fits(&operands) {
            true => operands,
            false => operands.into_iter().map(Possible::one_of_each_type).collect(),
        };
        self.trials = self.trials.saturating_add(count(&operands).unwrap_or(usize::MAX));
        if !fits(&operands) || self.trials > MAX_TRIALS || self.bytes > MAX_BYTES {
            return Some(Possible::anything());
        }
        let exact = operands.iter().all(|operand| operand.exact);
        let names: Vec<String> = (0..operands.len()).map(|at| format!("operand{at}")).collect();
        let idents = names.iter().map(|name| IdedExpr { id: 0, expr: Expr::Ident(name.clone()) });
        let expression = IdedExpr { id: 0, expr: build(idents.collect()) };
        let (mut values, mut failed) = (Vec::new(), false);
        for combination in 0..count(&operands).unwrap_or(0) {
            let mut rest = combination;
            for (name, operand) in names.iter().zip(&operands) {
                let choices = operand.values.len();
                let value = &operand.values[rest % choices];
                self.bytes = self.bytes.saturating_add(bytes_of(value));
                self.scratch.add_variable_from_value(name.as_str(), value.clone());
                rest /= choices;
            }
            if self.bytes > MAX_BYTES {
                return Some(Possible::anything());
            }
            match Value::resolve(&expression, &self.scratch) {
                // It cannot be an operand.
                Ok(Value::Function(..)) => failed = true,
                Ok(value) => {
                    self.bytes = self.bytes.saturating_add(bytes_of(&value));
                    values.push(value);
                }
                Err(error) => failed |= !is_type_error(&error),
            }
        }
        if self.searched.load(Relaxed) > MAX_WORK {
            return Some(Possible::anything());
        }
        let empty = operands.iter().any(|operand| operand.values.is_empty());
        match (values.is_empty(), exact) {
            (true, _) if !failed && !empty => None,
            (true, false) if !empty => Some(Possible::anything()),
            (_, true) | (true, _) => Some(Possible::exactly(values)),
            (false, false) => Some(Possible::like(values)),
        }
    }
}

/// The bytes of the texts in a value.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.iter().map(bytes_of).sum(),
        Value::Map(map) => map.map.iter().map(|(key, value)| bytes_of(&key.into()) + bytes_of(value)).sum(),
        _ => 0,
    }
}

/// True if an operator or a function does not take values of these types, whatever the values are.
const fn is_type_error(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::NoSuchOverload(_)
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::ValuesNotComparable(..)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::UnsupportedIndex(..)
            | ExecutionError::UnsupportedKeyType(_)
            | ExecutionError::UnsupportedTargetType { .. }
            | ExecutionError::NotSupportedAsMethod { .. }
            | ExecutionError::InvalidArgumentCount { .. }
            | ExecutionError::MissingArgumentOrTarget
            | ExecutionError::UndeclaredReference(_)
    )
}

fn wrong_types(call: &CallExpr, operands: &[Possible]) -> String {
    let types: Vec<String> = operands.iter().map(Possible::types).collect();
    let is_number = |types: &String| types == "int" || types == "uint" || types == "float";
    let hint = match types.iter().any(|types| types == "string") && types.iter().any(is_number) {
        true => ". Attributes are strings: quote the number, or take int(attributes.x)",
        false => "",
    };
    format!("expected operands that {} accepts, not {}{hint}", symbol(&call.func_name), types.join(" and "))
}

/// An operator as it is written.
fn symbol(name: &str) -> &str {
    match name {
        operators::CONDITIONAL => "?:",
        operators::INDEX => "[]",
        operators::IN => "in",
        name => name.trim_matches('_'),
    }
}

#[cfg(test)]
mod tests;
