//! `per`: the values that name a counter of a limit.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An attribute whose values distinguish the counters of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Per {
    pub attribute: String,
    /// Addresses of one network share a counter. `None`: every value has its own.
    pub prefixes: Option<Prefixes>,
}

/// The lengths of networks, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    pub v4: u8,
    pub v6: u8,
}

/// How a [`Per`] is written: `ip`, or `{ ip: { v4: 32, v6: 64 } }`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Value(String),
    Network(BTreeMap<String, Prefixes>),
}

impl TryFrom<Form> for Per {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        match form {
            Form::Value(attribute) => Ok(Self { attribute, prefixes: None }),
            Form::Network(one) if one.len() > 1 => Err("expected one attribute"),
            Form::Network(one) => {
                let (attribute, prefixes) = one.into_iter().next().ok_or("expected an attribute")?;
                Ok(Self { attribute, prefixes: Some(prefixes) })
            }
        }
    }
}

impl From<Per> for Form {
    fn from(per: Per) -> Self {
        match per.prefixes {
            None => Self::Value(per.attribute),
            Some(prefixes) => Self::Network([(per.attribute, prefixes)].into()),
        }
    }
}

impl From<&str> for Per {
    fn from(attribute: &str) -> Self {
        Self { attribute: attribute.to_owned(), prefixes: None }
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attribute, prefixes } = self;
        match prefixes {
            None => f.write_str(attribute),
            Some(Prefixes { v4, v6 }) => write!(f, "{attribute} by /{v4} and /{v6}"),
        }
    }
}

impl Prefixes {
    /// The longest prefixes. A single address has a counter, however it is spelt.
    pub const MAX: Self = Self { v4: 32, v6: 128 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_with_the_lengths_of_its_networks() {
        let prefixes = Some(Prefixes { v4: 24, v6: 64 });
        assert_eq!(Per { attribute: "ip".to_owned(), prefixes }.to_string(), "ip by /24 and /64");
        assert_eq!(Per::from("user").to_string(), "user");
    }
}
