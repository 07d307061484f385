//! `per`: the values that name a counter of a limit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::attribute::Attribute;
use super::effective::EffectiveLimit;
use super::matcher::{address, network};
use super::rule::Condition;
use crate::check::Descriptor;

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

    /// The text that names the counter of `value`: its network, or the address if the network has only one. A value
    /// that is no address stays as it is.
    fn network_of<'v>(self, value: &'v str) -> Cow<'v, str> {
        let Some(ip) = address(value) else { return Cow::Borrowed(value) };
        let (length, longest) = match ip {
            IpAddr::V4(_) => (self.v4, Self::MAX.v4),
            IpAddr::V6(_) => (self.v6, Self::MAX.v6),
        };
        match IpNet::new(ip, length) {
            Ok(net) if length < longest => Cow::Owned(net.trunc().to_string()),
            _ => Cow::Owned(ip.to_string()),
        }
    }

    /// True if a condition has one result for all addresses of a network of these lengths.
    fn decide(self, condition: &Condition) -> bool {
        let fits = |net: IpNet| match net {
            IpNet::V4(net) => net.prefix_len() <= self.v4,
            IpNet::V6(net) => net.prefix_len() <= self.v6,
        };
        match condition {
            Condition::Present(_) => true,
            Condition::Not(inner) => self.decide(inner),
            Condition::Cidr(nets) => nets.iter().all(|net| network(net).is_ok_and(fits)),
            _ => false,
        }
    }
}

impl Per {
    /// True if a condition on the attribute `name` has one result for all descriptors that share a counter.
    pub fn decides(&self, name: &str, condition: &Condition) -> bool {
        let same = Attribute::parse(&self.attribute) == Attribute::parse(name);
        same && self.prefixes.is_none_or(|prefixes| prefixes.decide(condition))
    }
}

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

    /// Writes the name of the counter that counts `descriptor` under a limit into `out`. If `hash` is true, it has only a
    /// hash of the values.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_counted_by_its_network() {
        let table = [
            (32, 64, "203.0.113.9", "203.0.113.9"),
            (24, 64, "203.0.113.9", "203.0.113.0/24"),
            (0, 64, "203.0.113.9", "0.0.0.0/0"),
            (24, 64, "::ffff:203.0.113.9", "203.0.113.0/24"),
            (32, 64, "::ffff:cb00:7109", "203.0.113.9"),
            (32, 64, "2001:db8:0:1::7", "2001:db8:0:1::/64"),
            (32, 64, "2001:DB8:0000:0001:ab::", "2001:db8:0:1::/64"),
            (32, 128, "2001:DB8:0::7", "2001:db8::7"),
            (32, 0, "2001:db8::7", "::/0"),
            // These are no addresses.
            (24, 64, "", ""),
            (24, 64, "unknown", "unknown"),
            (24, 64, "203.0.113.9:80", "203.0.113.9:80"),
            (24, 64, "203.0.113.0/24", "203.0.113.0/24"),
            (24, 64, "fe80::1%eth0", "fe80::1%eth0"),
        ];
        for (v4, v6, value, network) in table {
            assert_eq!(Prefixes { v4, v6 }.network_of(value), network, "{value} {v4} {v6}");
        }
    }

    #[test]
    fn a_condition_decides_a_network_if_it_tests_no_more_than_the_network() {
        let per = Per { attribute: "ip".to_owned(), prefixes: Some(Prefixes { v4: 24, v6: 64 }) };
        let cidr = |net: &str| Condition::Cidr(vec![net.to_owned()]);
        let table = [
            (cidr("10.0.0.0/8"), true),
            (cidr("10.0.0.0/24"), true),
            (cidr("10.0.0.0/25"), false),
            (cidr("10.0.0.1"), false),
            (cidr("::ffff:10.0.0.0/104"), true),
            (cidr("2001:db8::/64"), true),
            (cidr("2001:db8::/65"), false),
            (Condition::Present(true), true),
            (Condition::Not(Box::new(cidr("10.0.0.0/8"))), true),
            (Condition::Equal("10.0.0.1".to_owned()), false),
            (Condition::Prefix("10.".to_owned()), false),
        ];
        for (condition, decides) in table {
            assert_eq!(per.decides("ip", &condition), decides, "{condition:?}");
            assert!(Per::from("ip").decides("ip", &condition) && !per.decides("ip#2", &condition));
        }
    }

    #[test]
    fn per_is_stored_as_it_is_written() {
        for text in [r#""user""#, r#"{"ip":{"v4":32,"v6":64}}"#] {
            let per: Per = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&per).unwrap(), text);
        }
        for text in ["{}", r#"{"a":{"v4":1,"v6":2},"b":{"v4":1,"v6":2}}"#] {
            assert!(serde_json::from_str::<Per>(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// Two addresses share a counter exactly if their first bits are the same, whatever their spelling.
        #[test]
        fn addresses_share_a_counter_if_they_share_a_network(
            a in any::<u128>(), flip in 0..128u32, length in 0..=128u8, upper in any::<bool>(),
        ) {
            let b = a ^ (1u128 << (127 - flip));
            let text = |bits: u128| {
                let ip = std::net::Ipv6Addr::from(bits);
                if upper { ip.to_string().to_uppercase() } else {
                    ip.segments().map(|part| format!("{part:04x}")).join(":")
                }
            };
            prop_assume!(std::net::Ipv6Addr::from(a).to_ipv4_mapped().is_none());
            prop_assume!(std::net::Ipv6Addr::from(b).to_ipv4_mapped().is_none());
            let prefixes = Prefixes { v4: 32, v6: length };
            let (a, b) = (text(a), text(b));
            prop_assert_eq!(prefixes.network_of(&a) == prefixes.network_of(&b), flip >= u32::from(length));
        }
    }
}
