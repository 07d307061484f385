//! Who the primaries are, and how that is found out.

use std::sync::Arc;

use fred::types::Value;

use super::connection::{Connection, Manner};
use super::links::Links;
use super::tags::SLOTS;
use crate::ports::location::{Address, Kind, Redis};

/// Which primary serves which slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// First slot, last slot, primary.
    ranges: Vec<(u16, u16, Address)>,
}

impl Topology {
    /// One primary for all slots.
    fn of_one(address: Address) -> Self {
        Self { ranges: vec![(0, SLOTS - 1, address)] }
    }

    /// What `CLUSTER SLOTS` says; a primary that does not name its host has that of `asked`.
    fn of_cluster(slots: &Value, asked: &Address) -> Option<Self> {
        let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
        let range = |range: &Value| {
            let Value::Array(range) = range else { return None };
            let [first, last, Value::Array(primary), ..] = range.as_slice() else { return None };
            let host = primary.first()?.as_string().filter(|host| !host.is_empty() && host != "?");
            let address = Address { host: host.unwrap_or_else(|| asked.host.clone()), port: number(primary.get(1)?)? };
            Some((number(first)?, number(last)?, address))
        };
        let Value::Array(slots) = slots else { return None };
        let mut ranges: Vec<_> = slots.iter().map(range).collect::<Option<_>>()?;
        ranges.sort();
        (!ranges.is_empty()).then_some(Self { ranges })
    }

    /// The primary of a slot; `None` where nobody serves it.
    pub fn primary(&self, slot: u16) -> Option<&Address> {
        self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(.., address)| address)
    }

    /// Every primary once.
    pub fn primaries(&self) -> Vec<Address> {
        let mut primaries: Vec<_> = self.ranges.iter().map(|(.., address)| address.clone()).collect();
        primaries.sort();
        primaries.dedup();
        primaries
    }

    /// Whether every slot has a primary.
    pub fn is_whole(&self) -> bool {
        let served = self.ranges.iter().map(|(first, last, _)| u32::from(last - first) + 1);
        served.sum::<u32>() >= u32::from(SLOTS)
    }
}

/// Asks those who know.
pub struct Lookout {
    kind: Kind,
    seeds: Vec<Address>,
    /// To seeds and Sentinels.
    links: Links,
}

impl Lookout {
    pub fn new(redis: &Redis, manner: &Manner) -> Self {
        let mut manner = manner.clone();
        if let Kind::Sentinel { .. } = redis.kind {
            // Sentinels have users and no databases of their own.
            (manner.username, manner.password) = (redis.sentinel_username.clone(), redis.sentinel_password.clone());
            manner.database = 0;
        }
        Self { kind: redis.kind.clone(), seeds: redis.seeds.clone(), links: Links::new(manner) }
    }

    /// What the first says that answers: `known` primaries before seeds.
    ///
    /// # Errors
    /// What they say instead.
    pub async fn find(&self, known: &[Arc<Connection>]) -> Result<Topology, String> {
        match &self.kind {
            Kind::Single => {
                self.seeds.first().cloned().map(Topology::of_one).ok_or_else(|| "no server is named".to_owned())
            }
            Kind::Sentinel { service } => {
                let mut why = Vec::new();
                for seed in &self.seeds {
                    let sentinel = self.links.get_or_open(seed);
                    if !sentinel.connected().await {
                        why.push(format!("no answer from {}", sentinel.trouble()));
                        continue;
                    }
                    let found = sentinel.command("SENTINEL", &["GET-MASTER-ADDR-BY-NAME", service]).await;
                    if let Ok(Value::Array(address)) = found
                        && let [host, port] = address.as_slice()
                        && let Some((host, Ok(port))) = host.as_string().zip(port.as_string().map(|p| p.parse()))
                    {
                        return Ok(Topology::of_one(Address { host, port }));
                    }
                    why.push(format!("{seed} knows no primary of {service}"));
                }
                Err(why.join(", "))
            }
            Kind::Cluster => {
                let known: Vec<_> = known.iter().filter(|connection| connection.is_up()).cloned().collect();
                // One that is cut off from the others does not know that it was replaced.
                let (mut outdated, mut why) = (None, Vec::new());
                for connection in &known {
                    match slots(connection).await {
                        Some((found, true)) => {
                            // They are asked from now on: seeds may be long gone.
                            self.links.keep(&[]);
                            return Ok(found);
                        }
                        found => outdated = outdated.or(found),
                    }
                }
                for seed in self.seeds.iter().filter(|seed| known.iter().all(|k| k.address != **seed)) {
                    let connection = self.links.get_or_open(seed);
                    if !connection.connected().await {
                        why.push(format!("no answer from {}", connection.trouble()));
                        continue;
                    }
                    match slots(&connection).await {
                        Some((found, true)) => return Ok(found),
                        None => why.push(format!("{seed} says nothing of a cluster")),
                        found => outdated = outdated.or(found),
                    }
                }
                outdated.map(|(found, _)| found).ok_or_else(|| why.join(", "))
            }
        }
    }
}

/// What a server of a cluster knows, and whether it is with the majority of the primaries.
async fn slots(connection: &Connection) -> Option<(Topology, bool)> {
    let slots = connection.command("CLUSTER", &["SLOTS"]).await.ok()?;
    let topology = Topology::of_cluster(&slots, &connection.address)?;
    let info = connection.command("CLUSTER", &["INFO"]).await;
    // One that may not say is believed.
    let sound = info.map_or(true, |info| info.as_string().is_none_or(|info| !info.contains("cluster_state:fail")));
    Some((topology, sound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_says_who_serves_what() {
        let text = |text: &str| Value::from(text);
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::from(port), text("id")]);
        let range = |from: i64, to: i64, node| Value::Array(vec![Value::from(from), Value::from(to), node]);
        let asked = Address { host: "seed".to_owned(), port: 1 };
        let slots = Value::Array(vec![
            range(8192, 16_383, node(text("10.0.0.2"), 7002)),
            range(0, 8191, node(Value::Null, 7001)),
        ]);
        let topology = Topology::of_cluster(&slots, &asked).unwrap();
        assert_eq!(topology.primary(8191).unwrap().to_string(), "seed:7001");
        assert_eq!(topology.primary(8192).unwrap().to_string(), "10.0.0.2:7002");
        assert!(topology.is_whole());
        assert_eq!(topology.primaries().len(), 2);
        let half = Value::Array(vec![range(0, 8191, node(text("a"), 1))]);
        let half = Topology::of_cluster(&half, &asked).unwrap();
        assert!(!half.is_whole() && half.primary(9000).is_none());
        for wrong in [Value::Null, Value::Array(Vec::new()), Value::Array(vec![Value::Null])] {
            assert_eq!(Topology::of_cluster(&wrong, &asked), None);
        }
    }
}
