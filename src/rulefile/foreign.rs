//! Recognises files of other rate limiters, so that their users get one error instead of many.

use crate::yaml::tree::{Node, Value};

/// The error about a file of another rate limiter.
pub fn foreign(root: &Node) -> Option<&'static str> {
    match &root.value {
        Value::Map(_) if has(root, "descriptors") && !has(root, "domains") => Some(
            "expected the fields version and domains: this is a file of envoyproxy/ratelimit. `tidegate rules import \
             --from envoy FILE` prints the rules that stand for it (docs/rules.md#from-envoyproxyratelimit)",
        ),
        Value::List(items) if items.first().is_some_and(|item| has(item, "namespace") && has(item, "max_value")) => {
            Some(
                "expected the fields version and domains: this is a file of Limitador. `tidegate rules import --from \
                 limitador FILE` prints the rules that stand for it (docs/rules.md#from-limitador)",
            )
        }
        _ => None,
    }
}

fn has(node: &Node, field: &str) -> bool {
    matches!(&node.value, Value::Map(entries) if entries.iter().any(|(key, ..)| key == field))
}
