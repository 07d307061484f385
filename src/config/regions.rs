//! The sections `peers`, `gossip` and `regions` of the settings: how regions count together.

use std::collections::BTreeMap;

use super::defaults::DEFAULTS;
use super::plane::host_and_port;
use super::tls;
use super::values::{length, section, within};
use crate::tls::settings::MutualFiles;
use crate::yaml::decode::{Errors, Fields, entries, list};
use crate::yaml::tree::{Node, Value};
use limiter::counter::MAX_REGIONS;
use limiter::escrow::{MAX_WEIGHT, RightsPlan, Weight};
use limiter::rules::Path;

/// How this region counts together with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// `regions`: the weights by name. A region that is not there has 1.
    pub weights: BTreeMap<String, Weight>,
    /// `peers`: the addresses of the nodes of each other region, without a cluster.
    pub peers: BTreeMap<String, Vec<String>>,
    pub gossip: Gossip,
}

/// `gossip:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gossip {
    /// The shortest time between two messages to one region.
    pub interval_ms: u64,
    /// A key of which the region has used fewer thousandths of its limit is not told.
    pub floor_thousandths: u32,
    /// A region is partitioned if it acknowledges nothing for so long.
    pub partition_after_ms: u64,
    /// `gossip.tls`, without a cluster. `None`: nodes trust whoever reaches the port, which is on loopback.
    pub tls: Option<MutualFiles>,
}

impl Default for Gossip {
    fn default() -> Self {
        Self {
            interval_ms: DEFAULTS.gossip_interval_ms,
            floor_thousandths: DEFAULTS.gossip_floor_thousandths,
            partition_after_ms: DEFAULTS.partition_after_ms,
            tls: None,
        }
    }
}

pub(super) fn regions(top: &mut Fields<'_>, own: &str, has_cluster: bool, errors: &mut Errors) -> Regions {
    let mut at = |field: &'static str| (top.get(field), top.path(field));
    let (weights, weights_path) = at("regions");
    let (peers, peers_path) = at("peers");
    let (gossip_node, gossip_path) = at("gossip");
    if peers.is_some() && has_cluster {
        errors.add(&peers_path, "expected nothing: with cluster, the addresses are those of its members");
    }
    let peers = self::peers(peers, &peers_path, own, errors);
    let gossip = gossip(gossip_node, &gossip_path, has_cluster, errors);
    let weights = self::weights(weights, &weights_path, errors);
    // A node that is alone would spend the rights of all regions.
    if peers.is_empty() && !has_cluster && weights.keys().any(|region| region != own) {
        errors.add(&weights_path, "expected peers or cluster too, through which this region reaches the others");
    }
    if !weights.is_empty() && RightsPlan::new(own, &weights).is_none() {
        errors.add(
            &weights_path,
            format!(
                "expected at most {MAX_REGIONS} regions with names of different hashes, and a weight and a next_weight \
                 above 0 for at least one"
            ),
        );
    }
    Regions { weights, peers, gossip }
}

fn weights(node: Option<&Node>, path: &Path, errors: &mut Errors) -> BTreeMap<String, Weight> {
    let all = node.map(|node| entries(node, path, errors)).unwrap_or_default();
    let weight = |(region, node, path): (&str, &Node, Path), errors: &mut Errors| {
        let weight = section(Some(node), &path, errors, |fields: &mut Fields<'_>, path, errors| {
            let mut weight = |field| {
                let node = fields.get(field);
                node.and_then(|n| within(n, &path.field(field), 0..=MAX_WEIGHT, errors))
            };
            let (now, next) = (weight("weight").unwrap_or(1), weight("next_weight"));
            Weight { now, next: next.unwrap_or(now) }
        });
        (region.to_owned(), weight)
    };
    all.into_iter().map(|region| weight(region, errors)).collect()
}

fn peers(node: Option<&Node>, path: &Path, own: &str, errors: &mut Errors) -> BTreeMap<String, Vec<String>> {
    let all = node.map(|node| entries(node, path, errors)).unwrap_or_default();
    if all.len() > MAX_REGIONS - 1 {
        errors.add(path, format!("expected at most {} other regions", MAX_REGIONS - 1));
    }
    let mut peers = BTreeMap::new();
    for (region, node, path) in all {
        if region == own {
            errors.add(&path, "expected another region: this node is in this one");
        }
        let addresses = list(node, &path, errors, host_and_port);
        if addresses.is_empty() {
            errors.add(&path, "expected at least one address, such as node.example:8082");
        }
        peers.insert(region.to_owned(), addresses);
    }
    peers
}

fn gossip(node: Option<&Node>, path: &Path, has_cluster: bool, errors: &mut Errors) -> Gossip {
    section(node, path, errors, |fields, path, errors| {
        let mut ms = |field, range| fields.get(field).and_then(|n| length(n, &path.field(field), range, errors));
        let (interval, partition_after) = (ms("interval", 20..=10_000), ms("partition_after", 500..=600_000));
        let floor = fields.get("floor").and_then(|n| fraction(n, &path.field("floor"), errors));
        let tls = fields.get("tls").and_then(|n| tls::mutual(n, &path.field("tls"), errors));
        if tls.is_some() && has_cluster {
            errors.add(&path.field("tls"), "expected nothing: with cluster, cluster.tls has the certificates");
        }
        let default = Gossip::default();
        let interval_ms = interval.unwrap_or(default.interval_ms);
        let partition_after_ms = partition_after.unwrap_or(default.partition_after_ms);
        if partition_after_ms < 4 * interval_ms {
            errors.add(&path.field("partition_after"), "expected at least four times gossip.interval");
        }
        let floor_thousandths = floor.unwrap_or(default.floor_thousandths);
        Gossip { interval_ms, floor_thousandths, partition_after_ms, tls }
    })
}

/// Reads a part of 1 in thousandths.
fn fraction(node: &Node, path: &Path, errors: &mut Errors) -> Option<u32> {
    let text = match &node.value {
        Value::Scalar { text, .. } => text.as_str(),
        _ => "",
    };
    let digits = |text: &str| text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = match text.split_once('.') {
        None if text == "0" || text == "1" => text.parse().ok().map(|whole: u32| whole * 1000),
        Some(("0", part)) if !part.is_empty() && digits(part) => format!("{part:0<3}").parse().ok(),
        Some(("1", part)) if !part.is_empty() && part.bytes().all(|byte| byte == b'0') => Some(1000),
        _ => None,
    };
    if thousandths.is_none() {
        errors.add(path, "expected 0 to 1 with at most three decimals, such as 0.1");
    }
    thousandths
}
