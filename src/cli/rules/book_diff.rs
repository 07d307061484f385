//! Prints the differences of rule books for people.

use std::io::IsTerminal;

use serde_json::Value;

use crate::rulefile::diff::{Difference, Effect, Kind};

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

/// A text in a colour on a terminal.
fn coloured(text: &str, colour: u8) -> String {
    if std::io::stdout().is_terminal() { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => "(default)".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Prints each limit and each field, and what happens to counters that are in use.
pub fn print(differences: &[Difference]) {
    for Difference { name, kind, fields, effects } in differences {
        let (sign, colour) = match kind {
            Kind::Added => ("+", GREEN),
            Kind::Removed => ("-", RED),
            Kind::Changed => ("~", YELLOW),
        };
        let effects: Vec<&str> = effects.iter().copied().map(Effect::text).collect();
        let effects = if effects.is_empty() { String::new() } else { format!("  ({})", effects.join(", ")) };
        outln!("{}{effects}", coloured(&format!("{sign} {name}"), colour));
        for change in fields {
            let (old, new) = (value(change.old.as_ref()), value(change.new.as_ref()));
            match kind {
                Kind::Added => outln!("    {}: {}", change.field, coloured(&new, GREEN)),
                Kind::Removed => outln!("    {}: {}", change.field, coloured(&old, RED)),
                Kind::Changed => {
                    outln!("    {}: {} -> {}", change.field, coloured(&old, RED), coloured(&new, GREEN));
                }
            }
        }
    }
}
