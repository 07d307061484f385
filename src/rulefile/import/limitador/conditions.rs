//! The conditions of a limit, as `match` where they are simple and as `when` where they are not.

use std::collections::BTreeMap;

use super::super::{Report, cel};
use super::expression::{Attribute, Test, split, test, translated};
use super::tokens::scan;
use limiter::rules::{Condition, Match, Path};

/// Reads the conditions of a limit that counts by `per`. `None` if one of them cannot be carried over: without it, the
/// limit would apply to other requests.
pub fn conditions(sources: &[(String, Path)], per: &[String], report: &mut Report) -> Option<Match> {
    let mut conditions = BTreeMap::new();
    let mut when = Vec::new();
    for (source, path) in sources {
        let Some(tokens) = scan(source) else {
            report.notice(path, "the limit is not carried over: this expression has a form that is not read");
            return None;
        };
        let is_whole = ["||", "?"].iter().any(|operator| split(&tokens, operator).len() > 1);
        let parts = if is_whole { vec![tokens.as_slice()] } else { split(&tokens, "&&") };
        for part in parts {
            match test(part).ok_or_else(|| translated(part)) {
                Ok(test) => {
                    let (Test::OneOf(attribute, _) | Test::Differs(attribute, _)) = &test;
                    if attribute.is_bare {
                        report.notice(path, bare(&attribute.name));
                    }
                    when.extend(add(&mut conditions, test, per));
                }
                Err(Ok(expression)) => when.push(expression),
                Err(Err(message)) => {
                    report.notice(path, format!("the limit is not carried over: the condition has {message}"));
                    return None;
                }
            }
        }
    }
    Some(Match { conditions, exact_keys: None, when: (!when.is_empty()).then(|| when.join(" && ")) })
}

/// The notice about a name without a descriptor.
pub fn bare(name: &str) -> String {
    format!(
        "is taken for the attribute {name}, as in versions without CEL: newer versions expect \
         descriptors[0][{name:?}], and never apply this limit"
    )
}

/// Adds a test to `conditions`, or returns it as an expression: an attribute has one condition, and one that differs
/// must be present.
fn add(conditions: &mut BTreeMap<String, Condition>, test: Test, per: &[String]) -> Option<String> {
    match test {
        Test::OneOf(Attribute { name, .. }, values) if conditions.contains_key(&name) || values.is_empty() => {
            let values = values.iter().map(String::as_str);
            Some(format!("{} in {}", cel::attribute(&name), cel::list(values)))
        }
        Test::OneOf(Attribute { name, .. }, mut values) => {
            let condition = match values.len() {
                1 => Condition::Equal(values.remove(0)),
                _ => Condition::AnyOf(values),
            };
            conditions.insert(name, condition);
            None
        }
        Test::Differs(Attribute { name, .. }, value) if per.contains(&name) && !conditions.contains_key(&name) => {
            conditions.insert(name, Condition::Not(Box::new(Condition::Equal(value))));
            None
        }
        Test::Differs(Attribute { name, .. }, value) => {
            Some(format!("{} != {}", cel::attribute(&name), cel::quoted(&value)))
        }
    }
}
