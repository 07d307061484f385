//! Reads typed values out of a [`Node`] tree, and collects every error instead of stopping at the first.

use std::collections::HashSet;
use std::rc::Rc;

use super::nearest::did_you_mean;
use super::tree::{Node, Style, Value};
use limiter::rules::{Path, Problem};

/// The collected errors.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<Problem>);

impl Errors {
    pub fn add(&mut self, path: &Path, message: impl Into<String>) {
        self.0.push(Problem { path: path.clone(), message: message.into() });
    }
}

/// A map that is being read. Fields that are not read are errors in the end.
pub struct Fields<'n> {
    path: Path,
    entries: &'n [(String, super::tree::Place, Rc<Node>)],
    read: HashSet<&'static str>,
}

impl<'n> Fields<'n> {
    /// Reads `node` as a map. Anything else is an error and reads as an empty map.
    pub fn new(node: &'n Node, path: Path, errors: &mut Errors) -> Self {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            other => {
                errors.add(&path, format!("expected a map, not {}", kind(other)));
                &[]
            }
        };
        Self { path, entries, read: HashSet::new() }
    }

    pub fn path(&self, field: &str) -> Path {
        self.path.field(field)
    }

    /// The node of `field`. An explicit null counts as absent.
    pub fn get(&mut self, field: &'static str) -> Option<&'n Node> {
        self.read.insert(field);
        let node = self.entries.iter().find(|(k, ..)| k == field).map(|(_, _, n)| &**n)?;
        let null = match &node.value {
            Value::Scalar { text, style: Style::Plain } => matches!(text.as_str(), "" | "~" | "null"),
            Value::Scalar { text, style: Style::Untyped } => text.is_empty(),
            _ => false,
        };
        (!null).then_some(node)
    }

    /// Like [`Self::get`], but an absent field is an error.
    pub fn require(&mut self, field: &'static str, errors: &mut Errors) -> Option<&'n Node> {
        let node = self.get(field);
        if node.is_none() {
            errors.add(&self.path(field), "expected this field: it is required");
        }
        node
    }

    /// Adds an error for every field that was not read.
    pub fn finish(self, errors: &mut Errors) {
        let known = self.known().join(", ");
        for (path, hint) in self.unread() {
            errors.add(&path, format!("expected one of {known}; this field is unknown{hint}"));
        }
    }

    /// Every field that was not read, with a question for the nearest known field if one is near.
    pub fn unread(&self) -> Vec<(Path, String)> {
        let known = self.known();
        let unread = self.entries.iter().filter(|(key, ..)| !self.read.contains(key.as_str()));
        unread.map(|(key, ..)| (self.path(key), did_you_mean(key, known.iter().copied()))).collect()
    }

    fn known(&self) -> Vec<&'static str> {
        let mut known: Vec<_> = self.read.iter().copied().collect();
        known.sort_unstable();
        known
    }
}

/// Reads a string. For a plain number or boolean, the error says to quote it.
pub fn string(node: &Node, path: &Path, errors: &mut Errors) -> Option<String> {
    match &node.value {
        Value::Scalar { text, style: Style::Plain } if looks_typed(text) => {
            errors.add(path, format!("expected a string: quote it, \"{text}\""));
            None
        }
        Value::Scalar { text, .. } => Some(text.clone()),
        other => {
            errors.add(path, format!("expected a string, not {}", kind(other)));
            None
        }
    }
}

/// Reads a whole number.
pub fn number(node: &Node, path: &Path, errors: &mut Errors) -> Option<u64> {
    let number = match &node.value {
        Value::Scalar { text, style: Style::Plain | Style::Untyped } => text.replace('_', "").parse().ok(),
        _ => None,
    };
    if number.is_none() {
        let hint = match &node.value {
            Value::Scalar { text, style: Style::Quoted } if text.parse::<u64>().is_ok() => {
                format!(": write it without quotes, {text}")
            }
            Value::Scalar { text, style: Style::Plain } => format!(", not {text:?}"),
            _ => String::new(),
        };
        errors.add(path, format!("expected a whole number{hint}"));
    }
    number
}

pub fn boolean(node: &Node, path: &Path, errors: &mut Errors) -> Option<bool> {
    let boolean = match &node.value {
        Value::Scalar { text, style: Style::Plain | Style::Untyped } => text.parse().ok(),
        _ => None,
    };
    if boolean.is_none() {
        let hint = match &node.value {
            Value::Scalar { text, style: Style::Quoted } if text.parse::<bool>().is_ok() => {
                format!(": write it without quotes, {text}")
            }
            _ => String::new(),
        };
        errors.add(path, format!("expected true or false{hint}"));
    }
    boolean
}

/// Reads a duration such as `250ms`, `1m` or `1h 30m`, in milliseconds.
pub fn duration_ms(node: &Node, path: &Path, errors: &mut Errors) -> Option<u64> {
    let parsed = match &node.value {
        Value::Scalar { text, .. } => parse_duration(text),
        _ => None,
    };
    if parsed.is_none() {
        let hint = match &node.value {
            Value::Scalar { text, .. } if text.parse::<u64>().is_ok() => format!(": {text}s is {text} seconds"),
            _ => String::new(),
        };
        errors.add(path, format!("expected a length of time such as 250ms, 10s, 1m, 1h or 30d{hint}"));
    }
    parsed
}

/// Parses a duration of settings and rules, in milliseconds.
pub fn parse_duration(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let amount: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(amount.checked_mul(unit)?)?;
        rest = rest[unit_end..].trim_start();
    }
    Some(total)
}

/// Reads one of a few words.
pub fn word<T: Copy>(node: &Node, path: &Path, words: &[(&str, T)], errors: &mut Errors) -> Option<T> {
    let found = match &node.value {
        Value::Scalar { text, .. } => words.iter().find(|(word, _)| word == text).map(|(_, value)| *value),
        _ => None,
    };
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = match &node.value {
            Value::Scalar { text, .. } => did_you_mean(text, words.iter().copied()),
            _ => String::new(),
        };
        errors.add(path, format!("expected {}{hint}", words.join(" | ")));
    }
    found
}

/// Reads a list, each item with `read`.
pub fn list<T>(
    node: &Node,
    path: &Path,
    errors: &mut Errors,
    mut read: impl FnMut(&Node, &Path, &mut Errors) -> Option<T>,
) -> Vec<T> {
    match &node.value {
        Value::List(items) => {
            let items = items.iter().enumerate();
            items.filter_map(|(at, item)| read(item, &path.index(at), errors)).collect()
        }
        Value::Scalar { text, style: Style::Untyped } => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).enumerate();
            let node = |item: &str| Node {
                place: node.place,
                value: Value::Scalar { text: item.to_owned(), style: Style::Untyped },
            };
            items.filter_map(|(at, item)| read(&node(item), &path.index(at), errors)).collect()
        }
        other => {
            errors.add(path, format!("expected a list, not {}", kind(other)));
            Vec::new()
        }
    }
}

/// Reads a map with arbitrary keys.
pub fn entries<'n>(node: &'n Node, path: &Path, errors: &mut Errors) -> Vec<(&'n str, &'n Node, Path)> {
    match &node.value {
        Value::Map(entries) => entries.iter().map(|(key, _, node)| (key.as_str(), &**node, path.field(key))).collect(),
        other => {
            errors.add(path, format!("expected a map, not {}", kind(other)));
            Vec::new()
        }
    }
}

fn looks_typed(text: &str) -> bool {
    text.parse::<f64>().is_ok() || matches!(text, "true" | "false" | "null" | "~" | "")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Scalar { .. } => "a single value",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn lengths_of_time() {
        let table =
            [("250ms", Some(250)), ("1h 30m", Some(5_400_000)), ("400d", Some(34_560_000_000)), ("0s", Some(0))];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
        for text in ["", "5", "1 m", "m", "1w", "99999999999999999999s", "18446744073709551615d", "-1s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
