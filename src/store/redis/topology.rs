//! Which primary serves which slots.

use fred::types::Value;

use super::super::location::Address;
use counter_script::SLOTS;

/// Which primary serves which slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// First slot, last slot, primary.
    ranges: Vec<(u16, u16, Address)>,
}

impl Topology {
    /// Returns a topology in which one primary serves all slots.
    pub fn single(address: Address) -> Self {
        Self { ranges: vec![(0, SLOTS - 1, address)] }
    }

    /// Parses the reply of the server `asked` to `CLUSTER SLOTS`. A primary without a host has the host of `asked`.
    pub fn from_cluster_slots(slots: &Value, asked: &Address) -> Option<Self> {
        let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
        let range = |range: &Value| {
            let Value::Array(range) = range else { return None };
            let [first, last, Value::Array(primary), ..] = range.as_slice() else { return None };
            let host = primary.first()?.as_string().filter(|host| !host.is_empty() && host != "?");
            let address = Address::new(host.unwrap_or_else(|| asked.host.clone()), number(primary.get(1)?)?);
            Some((number(first)?, number(last)?, address))
        };
        let Value::Array(slots) = slots else { return None };
        let mut ranges: Vec<_> = slots.iter().map(range).collect::<Option<_>>()?;
        ranges.sort();
        (!ranges.is_empty()).then_some(Self { ranges })
    }

    /// Returns the primary of a slot; `None` if no primary serves it.
    pub fn primary(&self, slot: u16) -> Option<&Address> {
        self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(.., address)| address)
    }

    /// Returns every primary once, sorted.
    pub fn primaries(&self) -> Vec<Address> {
        let mut primaries: Vec<_> = self.ranges.iter().map(|(.., address)| address.clone()).collect();
        primaries.sort();
        primaries.dedup();
        primaries
    }

    /// True if every slot has a primary.
    pub fn covers_all_slots(&self) -> bool {
        let served = self.ranges.iter().map(|(first, last, _)| u32::from(last - first) + 1);
        served.sum::<u32>() >= u32::from(SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_slots_are_parsed() {
        let text = |text: &str| Value::from(text);
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::from(port), text("id")]);
        let range = |from: i64, to: i64, node| Value::Array(vec![Value::from(from), Value::from(to), node]);
        let asked = Address::new("seed".to_owned(), 1);
        let slots = Value::Array(vec![
            range(8192, 16_383, node(text("10.0.0.2"), 7002)),
            range(0, 8191, node(Value::Null, 7001)),
        ]);
        let topology = Topology::from_cluster_slots(&slots, &asked).unwrap();
        assert_eq!(topology.primary(8191).unwrap().to_string(), "seed:7001");
        assert_eq!(topology.primary(8192).unwrap().to_string(), "10.0.0.2:7002");
        assert!(topology.covers_all_slots());
        assert_eq!(topology.primaries().len(), 2);
        let half = Value::Array(vec![range(0, 8191, node(text("a"), 1))]);
        let half = Topology::from_cluster_slots(&half, &asked).unwrap();
        assert!(!half.covers_all_slots() && half.primary(9000).is_none());
        for invalid in [Value::Null, Value::Array(Vec::new()), Value::Array(vec![Value::Null])] {
            assert_eq!(Topology::from_cluster_slots(&invalid, &asked), None);
        }
    }
}
