//! What limits are matched with: a descriptor of a check.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;

use crate::check::Descriptor;
use crate::rules::attribute::Attribute;

/// A descriptor in its domain.
#[derive(Debug)]
pub struct Subject<'s> {
    pub domain: &'s str,
    pub descriptor: &'s Descriptor<'s>,
    /// The attributes as expressions read them. They are made once for all expressions.
    values: OnceCell<Value>,
}

impl<'s> Subject<'s> {
    pub const fn new(domain: &'s str, descriptor: &'s Descriptor<'s>) -> Self {
        Self { domain, descriptor, values: OnceCell::new() }
    }

    /// The length of the longest value, in bytes.
    pub fn longest(&self) -> usize {
        self.descriptor.entries.iter().map(|(_, value)| value.len()).max().unwrap_or(0)
    }

    /// The attributes as expressions read them: the second entry with the key `k` has the name `k#2`.
    pub fn values(&self) -> Value {
        self.values.get_or_init(|| named(self.descriptor.entries).into()).clone()
    }
}

fn named(entries: &[(&str, &str)]) -> HashMap<String, Value> {
    let mut attributes: HashMap<String, Value> = HashMap::with_capacity(entries.len());
    for (at, (key, value)) in entries.iter().enumerate() {
        let mut name = (*key).to_owned();
        if attributes.contains_key(*key) {
            let earlier = entries[..at].iter().filter(|(other, _)| other == key).count();
            name = Attribute { key: name.into(), earlier }.to_string();
        }
        attributes.entry(name).or_insert_with(|| Value::String(Arc::new((*value).to_owned())));
    }
    attributes
}
