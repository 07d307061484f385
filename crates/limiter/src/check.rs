//! A check: what a caller asks.

use crate::rules::{Attribute, Period};

/// The most attributes in one descriptor.
pub const MAX_ATTRIBUTES: usize = 100;

/// One check over one or more descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub domain: &'a str,
    pub descriptors: &'a [Descriptor<'a>],
}

/// How the hits of a descriptor are charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Charging {
    /// If the check is allowed. A limit with `overdraft` is charged like [`Self::Always`], unless a limit without it
    /// denies.
    #[default]
    IfAllowed,
    /// Whether they fit or not, because the hits have happened. The answer says whether they fitted.
    Always,
    /// The hits go back: as many of the newest ones as count now. This is never denied.
    Refund,
}

/// One descriptor of a check.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// Keys and values. Envoy may send a key several times.
    pub entries: &'a [(&'a str, &'a str)],
    /// True if the order of the entries has a meaning. That of a map has none.
    pub ordered: bool,
    /// 0 peeks: would one hit pass? Nothing is charged.
    pub hits: u32,
    pub charging: Charging,
    /// A limit from the request. It applies instead of the rules and has its own counter.
    pub limit: Option<(u64, Period)>,
}

impl<'a> Descriptor<'a> {
    /// True if the descriptor has exactly these attributes, in this order if its order has a meaning.
    pub(crate) fn has_exactly(&self, keys: &[Attribute]) -> bool {
        let in_order = || keys.iter().zip(self.entries).all(|(wanted, (key, _))| *wanted.key == **key);
        // Attributes are distinct: if as many are there, they are the same.
        let all_there = || keys.iter().all(|wanted| wanted.value(self).is_some());
        keys.len() == self.entries.len() && if self.ordered { in_order() } else { all_there() }
    }
}
