//! Addresses that share a counter, because they are of one network.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::attribute::Attribute;
use super::matcher::{address, network};
use super::per::{Per, Prefixes};
use super::rule::Condition;

impl Prefixes {
    /// The text that names the counter of `value`: its network, or the address if the network has only one. A value
    /// that is no address stays as it is.
    pub(super) fn network_of<'v>(self, value: &'v str) -> Cow<'v, str> {
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
