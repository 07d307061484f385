//! Names of imported limits: readable, valid, and unique in their domain.

use std::collections::HashSet;

/// The longest name of a limit, in bytes.
const MAX_NAME: usize = 64;

/// The names that are given. The same files in the same order get the same names.
#[derive(Default)]
pub struct Names(HashSet<(String, String)>);

impl Names {
    /// A name for a limit of `domain`: that of `parts`, with a number if another limit has it.
    pub fn unique<'p>(&mut self, domain: &str, parts: impl IntoIterator<Item = &'p str>) -> String {
        let wanted = slug(parts);
        let mut name = cut(&wanted, MAX_NAME).to_owned();
        let mut number = 1;
        while !self.0.insert((domain.to_owned(), name.clone())) {
            number += 1;
            let number = format!("-{number}");
            name = format!("{}{number}", cut(&wanted, MAX_NAME - number.len()));
        }
        name
    }
}

/// The parts in lower case, with one `-` for all between them that a name cannot have.
fn slug<'p>(parts: impl IntoIterator<Item = &'p str>) -> String {
    let mut slug = String::new();
    for part in parts {
        slug.push('-');
        for c in part.chars() {
            let c = c.to_ascii_lowercase();
            let plain = c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            slug.push(if plain { c } else { '-' });
        }
    }
    let words: Vec<&str> = slug.split('-').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "limit".to_owned() } else { words.join("-") }
}

/// At most `length` bytes of a slug.
fn cut(slug: &str, length: usize) -> &str {
    slug.get(..length).unwrap_or(slug).trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_unique_and_readable() {
        let mut names = Names::default();
        let table = [
            (&["Remote_Address", "192.0.2.7"][..], "remote_address-192-0-2-7"),
            (&["remote_address", "192-0-2-7"], "remote_address-192-0-2-7-2"),
            (&["--é--", "*"], "limit"),
            (&[""], "limit-2"),
            (&[&"x".repeat(70)], &"x".repeat(64)),
            (&[&"x".repeat(80)], &format!("{}-2", "x".repeat(62))),
        ];
        for (parts, name) in table {
            assert_eq!(names.unique("d", parts.iter().copied()), name);
        }
        assert_eq!(names.unique("other", ["limit"]), "limit");
    }
}
