//! The other regions, and which of their nodes this one talks to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limiter::counter::{MAX_REGIONS, Part};
use limiter::escrow::{MAX_WEIGHT, RightsPlan, Weight};
use limiter::gossip::ranked;
use limiter::{NodeTime, RegionNumber};

use super::config::RegionsConfig;

/// A node that did not answer is avoided for so long.
const AVOIDED_FOR: Duration = Duration::from_secs(2);

/// Says which nodes the cluster has: the region and the address of each.
pub type Members = Arc<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

/// Where the other regions are known from.
#[derive(Clone)]
pub enum Peers {
    /// The addresses of each region, as `host:port`.
    Fixed(BTreeMap<String, Vec<String>>),
    /// The members of the cluster.
    Cluster(Members),
}

/// The other regions, and the addresses of their nodes.
pub struct Directory {
    region: String,
    node: String,
    weights: BTreeMap<String, Weight>,
    plan: Option<RightsPlan>,
    peers: Peers,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    regions: BTreeMap<String, Vec<String>>,
    /// Addresses that did not answer, with the end of the pause.
    avoided: HashMap<String, NodeTime>,
    /// Regions that cannot take part, as they were logged last.
    excluded: Vec<String>,
}

impl Directory {
    pub fn new(config: &RegionsConfig, peers: Peers) -> Self {
        let RegionsConfig { region, node, weights, .. } = config.clone();
        // Peers and members come and go, and two nodes may know different ones. Only `weights` split rights.
        let plan = RightsPlan::new(&region, &weights);
        let directory = Self { region, node, weights, plan, peers, known: Mutex::default() };
        directory.refresh();
        directory
    }

    fn known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the regions again. Those whose number another region has, and those past the most that can count together,
    /// are left out.
    pub fn refresh(&self) {
        let mut all: BTreeMap<String, Vec<String>> = match &self.peers {
            Peers::Fixed(regions) => regions.clone(),
            Peers::Cluster(members) => {
                let mut regions: BTreeMap<String, Vec<String>> = BTreeMap::new();
                members().into_iter().for_each(|(region, address)| regions.entry(region).or_default().push(address));
                regions
            }
        };
        all.remove(&self.region);
        let (mut numbers, mut excluded) = (vec![RegionNumber::of(&self.region)], Vec::new());
        all.retain(|region, _| {
            let number = RegionNumber::of(region);
            let fits = !numbers.contains(&number) && numbers.len() < MAX_REGIONS;
            if fits {
                numbers.push(number);
            } else {
                excluded.push(region.clone());
            }
            fits
        });
        self.known(|known| {
            if known.excluded != excluded && !excluded.is_empty() {
                tracing::error!(
                    ?excluded,
                    "these regions do not count together with this one: at most {MAX_REGIONS} regions can, and each \
                     needs a name whose hash no other region has"
                );
            }
            (known.regions, known.excluded) = (all, excluded);
        });
    }

    /// The other regions.
    pub fn regions(&self) -> Vec<String> {
        self.known(|known| known.regions.keys().cloned().collect())
    }

    /// The name of another region.
    pub fn name(&self, number: RegionNumber) -> Option<String> {
        self.known(|known| known.regions.keys().find(|region| RegionNumber::of(region) == number).cloned())
    }

    /// True if this is another region that can count together with this one.
    pub fn has(&self, region: &str) -> bool {
        self.known(|known| known.regions.contains_key(region))
    }

    /// True if a node of another region is at this address.
    pub fn has_address(&self, address: &str) -> bool {
        self.known(|known| known.regions.values().flatten().any(|known| known == address))
    }

    /// The node of a region that this node talks to now: the first by rendezvous hashing that is not avoided, else the
    /// first.
    pub fn choose(&self, region: &str, now: NodeTime) -> Option<String> {
        self.known(|known| {
            known.avoided.retain(|_, until| *until > now);
            let addresses = known.regions.get(region)?;
            let ranked = ranked(&self.node, addresses.iter().map(String::as_str));
            let reachable = ranked.iter().find(|address| !known.avoided.contains_key(**address));
            reachable.or(ranked.first()).map(|address| (*address).to_owned())
        })
    }

    /// A node did not answer: another one is asked for a while.
    pub fn avoid(&self, address: String, now: NodeTime) {
        let until = now.plus(super::micros(AVOIDED_FOR));
        self.known(|known| known.avoided.insert(address, until));
    }

    /// How rights are split under `strategy: escrow`. `None` if nobody knows.
    pub const fn plan(&self) -> Option<RightsPlan> {
        self.plan
    }

    /// The weight of a region.
    pub fn weight(&self, region: &str) -> u64 {
        self.weights.get(region).map_or(1, |weight| weight.now).min(MAX_WEIGHT)
    }

    /// The weighted part of this region.
    pub fn part(&self) -> Part {
        let own = self.weight(&self.region);
        let all = own + self.known(|known| known.regions.keys().map(|region| self.weight(region)).sum::<u64>());
        let small = |weight| u32::try_from(weight).unwrap_or(u32::MAX);
        Part { weight: small(own), weights: small(all.max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(peers: &[(&str, &[&str])]) -> Directory {
        let config = RegionsConfig {
            cluster: String::new(),
            region: "us".to_owned(),
            node: "us-1".to_owned(),
            weights: BTreeMap::from([("us".to_owned(), Weight { now: 2, next: 2 })]),
            listen: None,
            interval: Duration::from_millis(100),
            floor_thousandths: 0,
            partition_after: Duration::from_secs(2),
            max_keys: 10,
            hashed_keys: false,
        };
        let owned = |addresses: &&[&str]| addresses.iter().map(|address| (*address).to_owned()).collect();
        let peers = peers.iter().map(|(region, addresses)| ((*region).to_owned(), owned(addresses)));
        Directory::new(&config, Peers::Fixed(peers.collect()))
    }

    #[test]
    fn a_node_that_does_not_answer_is_avoided_while_another_one_does() {
        let directory = directory(&[("eu", &["eu-1:1", "eu-2:1"])]);
        let first = directory.choose("eu", NodeTime(0)).unwrap();
        directory.avoid(first.clone(), NodeTime(0));
        let second = directory.choose("eu", NodeTime(0)).unwrap();
        assert_ne!(first, second);
        directory.avoid(second, NodeTime(0));
        assert_eq!(directory.choose("eu", NodeTime(0)), Some(first.clone()), "all are avoided");
        assert_eq!(directory.choose("eu", NodeTime(3_000_000)), Some(first));
        assert_eq!(directory.choose("ap", NodeTime(0)), None);
    }

    #[test]
    fn weights_are_those_of_the_regions_that_are_known() {
        assert_eq!(directory(&[]).part(), Part { weight: 2, weights: 2 });
        assert_eq!(
            directory(&[("eu", &["a:1"]), ("ap", &["b:1"]), ("us", &["c:1"])]).part(),
            Part { weight: 2, weights: 4 }
        );
    }

    #[test]
    fn regions_past_the_most_that_count_together_are_left_out() {
        let names: Vec<String> = (0..9).map(|n| format!("r{n}")).collect();
        let peers: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), ["a:1"].as_slice())).collect();
        assert_eq!(directory(&peers).regions().len(), MAX_REGIONS - 1);
    }
}
