//! The regions and the links between them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::connection::Links;
use crate::link::{Conditions, Link, now};

/// Stands for every region other than the one at the other end of a link.
pub const ALL: &str = "all";
/// An hour.
const DELAY_MAX_MS: f64 = 3_600_000.0;

/// A change of links. What it does not name stays.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The region that sends, or [`ALL`].
    pub from: String,
    /// The region that receives, or [`ALL`].
    pub to: String,
    /// The opposite direction changes, too.
    #[serde(default)]
    pub both: bool,
    /// The one-way delay in milliseconds, at most an hour.
    #[serde(default)]
    pub delay_ms: Option<f64>,
    /// 0 is unlimited.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// The probability that a segment is lost, from 0 to below 1.
    #[serde(default)]
    pub loss: Option<f64>,
    /// True cuts the link, false heals it.
    #[serde(default)]
    pub cut: Option<bool>,
    /// Resets all connections over the link.
    #[serde(default)]
    pub reset: bool,
}

/// What a link does, and what it did.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LinkStatus {
    pub from: String,
    pub to: String,
    pub delay_ms: f64,
    /// 0 is unlimited.
    pub bytes_per_second: u64,
    pub loss: f64,
    pub cut: bool,
    /// The bytes that were delivered since the start.
    pub bytes: u64,
    /// The connections that were made since the start, from the sending region.
    pub connections: u64,
}

/// The links between all pairs of regions, in both directions, and within each region.
pub struct Network {
    regions: BTreeMap<String, Vec<ipnet::IpNet>>,
    links: BTreeMap<(String, String), Arc<Link>>,
}

impl Network {
    /// Makes the network of a valid configuration.
    pub fn new(config: &Config) -> Self {
        let regions = config.regions.clone();
        let pairs = regions.keys().flat_map(|from| regions.keys().map(move |to| (from.clone(), to.clone())));
        let links = (config.seed..).zip(pairs);
        let links = links.map(|(seed, pair)| (pair, Arc::new(Link::new(Conditions::default(), seed)))).collect();
        let network = Self { regions, links };
        for change in &config.links {
            // The configuration is valid.
            let _ = network.change(change);
        }
        network
    }

    /// Returns the region of an address: of all networks that have it, that of the longest prefix.
    pub fn region_of(&self, address: IpAddr) -> Option<&str> {
        let networks = self.regions.iter().flat_map(|(name, nets)| nets.iter().map(move |net| (net, name)));
        let matching = networks.filter(|(net, _)| net.contains(&address.to_canonical()));
        matching.max_by_key(|(net, _)| net.prefix_len()).map(|(_, name)| name.as_str())
    }

    /// Returns the links of a connection from one region to another. Both regions must exist.
    pub fn links(&self, from: &str, to: &str) -> Option<Links> {
        let link = |from: &str, to: &str| self.links.get(&(from.to_owned(), to.to_owned())).cloned();
        Some(Links { out: link(from, to)?, back: link(to, from)? })
    }

    /// Changes all links that the change names, or none.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the change.
    pub fn change(&self, change: &Change) -> Result<(), String> {
        for name in [&change.from, &change.to] {
            if name != ALL && !self.regions.contains_key(name) {
                let known = self.regions.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(format!("unknown region {name}: expected {known} or {ALL}"));
            }
        }
        if change.loss.is_some_and(|loss| !(0.0..1.0).contains(&loss)) {
            return Err("loss: expected a number from 0 to below 1".to_owned());
        }
        if change.delay_ms.is_some_and(|ms| !(0.0..=DELAY_MAX_MS).contains(&ms)) {
            return Err(format!("delay_ms: expected a number from 0 to {DELAY_MAX_MS}"));
        }
        let named = |name: &str, region: &str, other: &str| name == region || name == ALL && region != other;
        let forward = |from: &str, to: &str| named(&change.from, from, to) && named(&change.to, to, from);
        for ((from, to), link) in &self.links {
            if forward(from, to) || change.both && forward(to, from) {
                let mut conditions = link.conditions();
                if let Some(delay_ms) = change.delay_ms {
                    conditions.delay = Duration::from_secs_f64(delay_ms / 1000.0);
                }
                if let Some(rate) = change.bytes_per_second {
                    conditions.bytes_per_second = NonZeroU64::new(rate);
                }
                conditions.loss = change.loss.unwrap_or(conditions.loss);
                conditions.cut = change.cut.unwrap_or(conditions.cut);
                if change.reset {
                    link.reset();
                }
                link.set(conditions, now());
            }
        }
        Ok(())
    }

    /// Returns the status of each link, also of those within a region.
    pub fn status(&self) -> Vec<LinkStatus> {
        let status = |((from, to), link): (&(String, String), &Arc<Link>)| {
            let conditions = link.conditions();
            LinkStatus {
                from: from.clone(),
                to: to.clone(),
                delay_ms: conditions.delay.as_secs_f64() * 1000.0,
                bytes_per_second: conditions.bytes_per_second.map_or(0, NonZeroU64::get),
                loss: conditions.loss,
                cut: conditions.cut,
                bytes: link.delivered(),
                connections: link.connections(),
            }
        };
        self.links.iter().map(status).collect()
    }
}
