//! Who the primaries are, and how that is found out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use tokio::sync::Notify;

use super::connection::{Connection, Manner};
use super::links::Links;
use super::location::{Address, Deployment, RedisLocation};
use super::sentinels::Sentinels;
use counter_script::SLOTS;

/// Longest that the lookup of a name takes.
const NAMES: Duration = Duration::from_secs(1);

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
            let address = Address::new(host.unwrap_or_else(|| asked.host.clone()), number(primary.get(1)?)?);
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
pub enum Lookout {
    /// One server, by its name: a managed service gives the name another address when it replaces the server.
    Single(Option<Address>),
    Sentinels(Sentinels),
    Cluster {
        seeds: Vec<Address>,
        links: Links,
    },
}

impl Lookout {
    pub fn new(redis: &RedisLocation, manner: &Manner) -> Self {
        let (seeds, mut manner) = (redis.seeds.clone(), manner.clone());
        match &redis.deployment {
            Deployment::Single => Self::Single(seeds.first().cloned()),
            Deployment::Sentinel { service } => {
                // Sentinels have users and no databases of their own.
                (manner.username, manner.password) = (redis.sentinel_username.clone(), redis.sentinel_password.clone());
                manner.database = 0;
                Self::Sentinels(Sentinels::new(service.clone(), seeds, manner))
            }
            Deployment::Cluster => Self::Cluster { seeds, links: Links::new(manner) },
        }
    }

    /// Tells `changed` at once when there may be another primary, as far as somebody announces it; never ends.
    pub async fn watch(&self, changed: &Notify) {
        match self {
            Self::Sentinels(sentinels) => sentinels.watch(changed).await,
            Self::Single(_) | Self::Cluster { .. } => std::future::pending().await,
        }
    }

    /// Whether it costs little to ask with every heartbeat.
    pub const fn is_cheap(&self) -> bool {
        !matches!(self, Self::Cluster { .. })
    }

    /// What the first says that answers: `known` primaries before seeds.
    ///
    /// # Errors
    /// What they say instead.
    pub async fn find(&self, known: &[Arc<Connection>]) -> Result<Topology, String> {
        match self {
            Self::Single(None) => Err("no server is named".to_owned()),
            Self::Single(Some(seed)) => {
                let known = known.iter().find(|known| known.address.host == seed.host);
                resolve(seed, known.map(|known| &**known)).await.map(Topology::of_one)
            }
            Self::Sentinels(sentinels) => sentinels.primary().await.map(Topology::of_one),
            Self::Cluster { seeds, links } => {
                let known: Vec<_> = known.iter().filter(|connection| connection.is_up()).cloned().collect();
                // One that is cut off from the others does not know that it was replaced.
                let (mut outdated, mut why) = (None, Vec::new());
                for connection in &known {
                    match slots(connection).await {
                        Some((found, true)) => {
                            // They are asked from now on: seeds may be long gone.
                            links.keep(&[]);
                            return Ok(found);
                        }
                        found => outdated = outdated.or(found),
                    }
                }
                for seed in seeds.iter().filter(|seed| known.iter().all(|k| k.address != **seed)) {
                    let connection = links.get_or_open(seed);
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

/// Where a server is: where it was `known` to be as long as it answers there and its name still says so, or says nothing; else
/// at the next of the addresses that the name has.
async fn resolve(seed: &Address, known: Option<&Connection>) -> Result<Address, String> {
    if seed.host.parse::<IpAddr>().is_ok() {
        return Ok(seed.clone());
    }
    let looked_up = tokio::time::timeout(NAMES, tokio::net::lookup_host((seed.host.as_str(), seed.port))).await;
    let found: Vec<IpAddr> = looked_up.ok().and_then(Result::ok).into_iter().flatten().map(|at| at.ip()).collect();
    // One that was just found has its time to be connected.
    let answers = known.is_some_and(|known| known.is_up() || known.is_coming());
    let known = known.map(|known| &known.address);
    next_address(&found, known.and_then(|known| known.ip), answers)
        .map(|ip| Address { ip: Some(ip), ..seed.clone() })
        .or_else(|| known.cloned())
        .ok_or_else(|| format!("the name {} is not found", seed.host))
}

fn next_address(found: &[IpAddr], known: Option<IpAddr>, answers: bool) -> Option<IpAddr> {
    let at = known.and_then(|known| found.iter().position(|ip| *ip == known));
    match at {
        Some(at) if !answers => found.get((at + 1) % found.len()).copied(),
        Some(_) => known,
        None => found.first().copied(),
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
    fn a_name_is_followed_and_each_of_its_addresses_is_tried() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(next_address(&[a, b], None, false), Some(a));
        assert_eq!(next_address(&[b, a], Some(a), true), Some(a), "their order means nothing");
        assert_eq!(next_address(&[a, b], Some(a), false), Some(b), "nobody answers there");
        assert_eq!(next_address(&[a, b], Some(b), false), Some(a));
        assert_eq!(next_address(&[c], Some(a), true), Some(c), "the name leads elsewhere");
        assert_eq!(next_address(&[], Some(a), true), None);
    }

    #[test]
    fn a_cluster_says_who_serves_what() {
        let text = |text: &str| Value::from(text);
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::from(port), text("id")]);
        let range = |from: i64, to: i64, node| Value::Array(vec![Value::from(from), Value::from(to), node]);
        let asked = Address::new("seed".to_owned(), 1);
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
