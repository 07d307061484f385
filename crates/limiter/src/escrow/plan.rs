//! How the rights of a limit are split between the regions when a cell begins.

use std::collections::BTreeMap;

use crate::counter::{Escrow, MAX_LIMIT, MAX_REGIONS, OtherRegions};
use crate::ids::RegionNumber;

/// The largest weight of a region.
const MAX_WEIGHT: u64 = 1 << 16;

/// Which regions have rights, and their weights. All nodes of all regions must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RightsPlan {
    /// In the order of their names.
    weights: [u64; MAX_REGIONS],
    /// The place of this region, if it has a weight.
    own: Option<usize>,
    others: OtherRegions,
}

impl RightsPlan {
    /// The plan of the region `own`. A region without a weight begins no cell with rights, but others may give it some.
    /// `None` if the regions are too many, if two of them have one number, or if no region has a weight.
    pub fn new(own: &str, weights: &BTreeMap<String, u64>) -> Option<Self> {
        let mut numbers: Vec<RegionNumber> = weights.keys().map(|region| RegionNumber::of(region)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() < weights.len() || weights.len() > MAX_REGIONS || weights.values().all(|weight| *weight == 0) {
            return None;
        }
        let mut all = [0; MAX_REGIONS];
        all.iter_mut().zip(weights.values()).for_each(|(place, weight)| *place = (*weight).min(MAX_WEIGHT));
        let others = numbers.into_iter().filter(|number| *number != RegionNumber::of(own)).collect();
        Some(Self { weights: all, own: weights.keys().position(|region| region == own), others })
    }

    /// The other regions that have rights.
    pub fn others(&self) -> impl Iterator<Item = RegionNumber> {
        self.others.iter()
    }

    /// What an item says of a limit.
    pub fn escrow(&self, limit: u64) -> Escrow {
        Escrow { part: self.own.map_or(0, |own| self.part(limit, own)), others: self.others }
    }

    /// The rights of one region. They are the seats of the method of D'Hondt: each right goes to the region with the
    /// largest weight ÷ (rights + 1). The parts of all regions add up to the limit. A larger limit gives no region less,
    /// so parts of different limits never add up to more than the largest.
    fn part(&self, limit: u64, region: usize) -> u64 {
        let (limit, sum) = (limit.min(MAX_LIMIT), self.weights.iter().sum::<u64>().max(1));
        let mut parts = self.weights.map(|weight| limit * weight / sum);
        for _ in parts.iter().sum::<u64>()..limit {
            // weight ÷ (rights + 1), compared without a division. The first of equals gets the right.
            let mut first = 0;
            for at in 1..MAX_REGIONS {
                if self.weights[at] * (parts[first] + 1) > self.weights[first] * (parts[at] + 1) {
                    first = at;
                }
            }
            parts[first] += 1;
        }
        parts[region]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(weights: &[u64], limit: u64) -> Vec<u64> {
        let names: BTreeMap<String, u64> = (0..).zip(weights).map(|(n, weight)| (format!("r{n}"), *weight)).collect();
        let part = |region: &String| RightsPlan::new(region, &names).unwrap().escrow(limit).part;
        names.keys().map(part).collect()
    }

    #[test]
    fn the_parts_of_all_regions_add_up_to_the_limit() {
        assert_eq!(parts(&[1, 1, 1], 10), [4, 3, 3]);
        assert_eq!(parts(&[1, 1, 1], 1), [1, 0, 0]);
        assert_eq!(parts(&[2, 1, 1], 100), [50, 25, 25]);
        assert_eq!(parts(&[0, 1], 7), [0, 7]);
        assert_eq!(parts(&[1, 65_536], MAX_LIMIT).iter().sum::<u64>(), MAX_LIMIT);
    }

    #[test]
    fn a_larger_limit_gives_no_region_less() {
        for weights in [vec![1, 1, 1], vec![5, 3, 1], vec![7, 1], vec![1, 2, 3, 4, 5, 6, 7, 8], vec![0, 10, 3]] {
            let mut before = parts(&weights, 0);
            for limit in 1..500 {
                let now = parts(&weights, limit);
                assert_eq!(now.iter().sum::<u64>(), limit);
                assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "{weights:?} {limit}");
                before = now;
            }
        }
    }

    #[test]
    fn regions_that_cannot_be_told_apart_have_no_plan() {
        let weights = |names: &[&str], weight| names.iter().map(|name| ((*name).to_owned(), weight)).collect();
        let many: Vec<String> = (0..9).map(|n| format!("r{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(RightsPlan::new("r0", &weights(&many, 1)), None);
        assert_eq!(RightsPlan::new("a", &weights(&["a", "b"], 0)), None);
        let plan = RightsPlan::new("c", &weights(&["a", "b"], 1)).unwrap();
        assert_eq!((plan.escrow(10).part, plan.escrow(10).others.iter().count()), (0, 2));
    }
}
