//! The possible values of a part of a `when` expression.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;
use cel::common::ast::operators;

/// The values that an expression can have. There are none if it always fails.
#[derive(Clone, Debug)]
pub struct Possible {
    pub values: Vec<Value>,
    /// These are all values. Otherwise they are samples: at least one of each type.
    pub exact: bool,
}

impl Possible {
    pub const fn exactly(values: Vec<Value>) -> Self {
        Self { values, exact: true }
    }

    pub fn booleans(can_be_true: bool, can_be_false: bool) -> Self {
        let all = [(can_be_true, true), (can_be_false, false)].into_iter();
        Self::exactly(all.filter(|(can, _)| *can).map(|(_, value)| Value::Bool(value)).collect())
    }

    pub fn anything() -> Self {
        let empty: HashMap<String, Value> = HashMap::new();
        let all = [
            Value::from(""),
            Value::Int(1),
            Value::UInt(1),
            Value::Float(1.0),
            Value::Bool(true),
            Value::Bytes(Arc::new(Vec::new())),
            Value::Null,
            Value::List(Arc::new(Vec::new())),
            Value::from(empty),
        ];
        Self::like(all.into())
    }

    /// Samples of the types of these values.
    pub fn like(values: Vec<Value>) -> Self {
        let mut samples = Vec::new();
        for value in values {
            let more = match &value {
                // Texts that convert to a number or a boolean, and texts that do not.
                Value::String(_) => ["1", "true", "a", ""].map(Value::from).into(),
                Value::Bool(_) => vec![Value::Bool(true), Value::Bool(false)],
                Value::Int(_) => vec![Value::Int(1)],
                Value::UInt(_) => vec![Value::UInt(1)],
                Value::Float(_) => vec![Value::Float(1.0)],
                _ => vec![value],
            };
            for sample in more {
                if !samples.contains(&sample) || samples.iter().all(|known| !is_same_type(known, &sample)) {
                    samples.push(sample);
                }
            }
        }
        Self { values: samples, exact: false }
    }

    pub fn can_be(&self, boolean: bool) -> bool {
        self.values.contains(&Value::Bool(boolean))
    }

    /// One value of each type.
    pub fn one_of_each_type(self) -> Self {
        let mut values: Vec<Value> = Vec::new();
        for value in self.values {
            if values.iter().all(|known| !is_same_type(known, &value)) {
                values.push(value);
            }
        }
        Self { values, exact: false }
    }

    pub fn or(self, other: Self) -> Self {
        let exact = self.exact && other.exact;
        Self { values: [self.values, other.values].concat(), exact }
    }

    /// The types, for people.
    pub fn types(&self) -> String {
        let mut names: Vec<String> = self.values.iter().map(|value| value.type_of().to_string()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(" or ")
    }
}

fn is_same_type(a: &Value, b: &Value) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// True if values of these types may be equal. Numbers of all types can.
fn is_comparable(a: &Value, b: &Value) -> bool {
    let is_number = |value: &Value| matches!(value, Value::Int(_) | Value::UInt(_) | Value::Float(_));
    is_same_type(a, b) || is_number(a) && is_number(b)
}

/// False if the operator compares values of types that are never equal.
pub fn can_be_equal(operator: &str, left: &Possible, right: &Possible) -> bool {
    let comparable = |a: &[Value], b: &[Value]| {
        a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| is_comparable(a, b)))
    };
    match operator {
        operators::EQUALS | operators::NOT_EQUALS => comparable(&left.values, &right.values),
        operators::IN if right.exact => right.values.iter().all(|list| match list {
            Value::List(items) => comparable(&left.values, items),
            _ => true,
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_samples_stand_for_all_values_of_a_type() {
        let like = |values: Vec<Value>| Possible::like(values);
        let texts = like(vec![Value::from("x"), Value::from("y")]);
        assert_eq!(texts.values, ["1", "true", "a", ""].map(Value::from));
        let numbers = like(vec![Value::Int(7), Value::Int(8), Value::UInt(7), Value::Float(0.5)]);
        assert_eq!(numbers.values, [Value::Int(1), Value::UInt(1), Value::Float(1.0)]);
        assert_eq!(numbers.types(), "float or int or uint");
        let mixed = Possible::exactly(vec![Value::Int(1), Value::Int(2), Value::from("a"), Value::from("b")]);
        assert_eq!(mixed.one_of_each_type().values, [Value::Int(1), Value::from("a")]);
    }
}
