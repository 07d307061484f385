//! What limits are matched with: a descriptor of a check.

use std::collections::HashMap;
use std::sync::OnceLock;

use cel::Value;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use crate::check::Descriptor;
use crate::rules::attribute::Attribute;

/// A descriptor in its domain.
#[derive(Debug)]
pub struct Subject<'s> {
    pub domain: &'s str,
    pub descriptor: &'s Descriptor<'s>,
    /// The attributes as expressions read them. They are made once for all expressions.
    values: OnceLock<Box<dyn Val>>,
}

impl<'s> Subject<'s> {
    pub const fn new(domain: &'s str, descriptor: &'s Descriptor<'s>) -> Self {
        Self { domain, descriptor, values: OnceLock::new() }
    }

    /// The length of the longest value of these attributes, in bytes. `None` stands for all values and names.
    pub fn longest(&self, of: Option<&[Attribute]>) -> usize {
        match of {
            Some(of) => of.iter().filter_map(|name| name.value(self.descriptor)).map(str::len).max().unwrap_or(0),
            None => self.descriptor.entries.iter().map(|(key, value)| key.len().max(value.len())).max().unwrap_or(0),
        }
    }

    /// The attributes as expressions read them: the second entry with the key `k` has the name `k#2`. No expression
    /// copies them.
    fn values(&self) -> &dyn Val {
        &**self.values.get_or_init(|| {
            let values = Box::<dyn Val>::try_from(Value::from(named(self.descriptor.entries)));
            // A map of texts is a value.
            values.unwrap_or_else(|_| Box::new(cel::common::types::CelNull))
        })
    }
}

impl VariableResolver for Subject<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        (variable == "attributes").then(|| CowVal::Borrowed(self.values()))
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
        attributes.entry(name).or_insert_with(|| Value::from(*value));
    }
    attributes
}
