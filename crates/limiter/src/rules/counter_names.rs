//! The names of the counters of one limit.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::attribute::Attribute;
use super::effective::EffectiveLimit;
use super::per::{Per, Prefixes};
use crate::check::Descriptor;

/// The compiled `per` of a limit.
#[derive(Debug)]
pub struct CounterNames {
    attributes: Vec<Attribute>,
    /// Those of each attribute. Empty if none has any, as in most limits.
    prefixes: Vec<Option<Prefixes>>,
}

impl CounterNames {
    pub fn new(per: &[Per]) -> Self {
        let attributes = per.iter().map(|per| Attribute::parse(&per.attribute)).collect();
        let prefixes: Vec<Option<Prefixes>> = per.iter().map(|per| per.prefixes).collect();
        let by_prefix = prefixes.iter().any(Option::is_some);
        Self { attributes, prefixes: if by_prefix { prefixes } else { Vec::new() } }
    }

    /// The bytes of the values that the name of the counter is made of.
    pub fn bytes(&self, descriptor: &Descriptor<'_>) -> usize {
        self.attributes.iter().filter_map(|attribute| attribute.value(descriptor)).map(str::len).sum()
    }

    /// Writes the name of the counter that counts `descriptor` under a limit into `out`. If `hash` is true, it has only
    /// a hash of the values.
    #[inline]
    pub fn write(&self, effective: &EffectiveLimit, descriptor: &Descriptor<'_>, hash: bool, out: &mut Vec<u8>) {
        // The limit matches only if all of them are present.
        let values = self.attributes.iter().map(|attribute| attribute.value(descriptor).unwrap_or_default());
        if self.prefixes.is_empty() {
            effective.key(values, hash, out);
        } else {
            let networks = values.zip(&self.prefixes).map(|(value, prefixes)| match prefixes {
                Some(prefixes) => prefixes.network_of(value),
                None => Cow::Borrowed(value),
            });
            let networks: SmallVec<[Cow<'_, str>; 4]> = networks.collect();
            effective.key(networks.iter().map(|network| &**network), hash, out);
        }
    }
}
