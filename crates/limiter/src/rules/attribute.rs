//! How rules name an entry of a descriptor.

use std::fmt;

use crate::check::Descriptor;

/// The most entries with one key that rules can name. A descriptor has no more.
const MAX_POSITION: usize = 100;

/// The name of an attribute in rules: a key, and which of the entries with this key is meant. Envoy may send a key
/// several times: `generic_key` is the first of these entries, and `generic_key#2` the second.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    pub key: Box<str>,
    /// The number of entries with this key that come before.
    pub earlier: usize,
}

impl Attribute {
    pub fn parse(name: &str) -> Self {
        let numbered = name.rsplit_once('#').and_then(|(key, position)| {
            let canonical = !key.is_empty() && !position.starts_with(['0', '+']);
            let position: usize = position.parse().ok().filter(|_| canonical)?;
            (1..=MAX_POSITION).contains(&position).then(|| Self { key: key.into(), earlier: position - 1 })
        });
        numbered.unwrap_or_else(|| Self { key: name.into(), earlier: 0 })
    }

    /// The attributes that a list of keys names: a key that comes again stands for the next entry with this key.
    pub fn in_order<'n>(keys: impl Iterator<Item = &'n str>) -> Vec<Self> {
        let mut attributes: Vec<Self> = Vec::new();
        for key in keys {
            let earlier = attributes.iter().filter(|attribute| *attribute.key == *key).count();
            attributes.push(Self { key: key.into(), earlier });
        }
        attributes
    }

    /// The value in a descriptor.
    #[inline]
    pub fn value<'a>(&self, descriptor: &Descriptor<'a>) -> Option<&'a str> {
        let is_key = |(key, _): &&(&str, &str)| *key == &*self.key;
        let entry = match self.earlier {
            // Nearly every attribute.
            0 => descriptor.entries.iter().find(is_key),
            earlier => descriptor.entries.iter().filter(is_key).nth(earlier),
        };
        entry.map(|(_, value)| *value)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, earlier } = self;
        if *earlier == 0 { f.write_str(key) } else { write!(f, "{key}#{}", earlier + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_number_behind_the_key() {
        let table = [
            ("user", "user", 0),
            ("generic_key#1", "generic_key", 0),
            ("generic_key#2", "generic_key", 1),
            ("a#b#100", "a#b", 99),
            // These are keys.
            ("generic_key#0", "generic_key#0", 0),
            ("generic_key#02", "generic_key#02", 0),
            ("generic_key#+2", "generic_key#+2", 0),
            ("generic_key#101", "generic_key#101", 0),
            ("generic_key#", "generic_key#", 0),
            ("#2", "#2", 0),
        ];
        for (name, key, earlier) in table {
            assert_eq!(Attribute::parse(name), Attribute { key: key.into(), earlier }, "{name}");
        }
        let repeated = Attribute::in_order(["a", "b", "a", "a"].into_iter());
        assert_eq!(repeated.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "b", "a#2", "a#3"]);
    }

    #[test]
    fn a_position_selects_the_entry() {
        let entries = [("g", "a"), ("x", "y"), ("g", "b")];
        let descriptor =
            Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
        let table = [("g", Some("a")), ("g#2", Some("b")), ("g#3", None), ("x", Some("y")), ("x#2", None), ("z", None)];
        for (name, value) in table {
            assert_eq!(Attribute::parse(name).value(&descriptor), value, "{name}");
        }
    }
}
