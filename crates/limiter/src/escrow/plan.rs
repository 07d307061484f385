//! How the rights of a limit are split between the regions when a cell begins.

use std::collections::BTreeMap;

use crate::counter::{Escrow, MAX_LIMIT, MAX_REGIONS, OtherRegions};
use crate::ids::RegionNumber;

/// The largest weight of a region.
pub const MAX_WEIGHT: u64 = 1 << 16;

/// Which regions have rights, and their weights. All nodes of all regions must have the same.
///
/// While weights are edited, a plan has the old ones and the next ones. A region then begins cells with the smaller of
/// the two parts. So regions that have the old weights and regions that have both never hold more than the limit
/// together, and neither do regions that have both and regions that have the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RightsPlan {
    /// In the order of their names.
    weights: Weights,
    next: Weights,
    /// The place of this region, if it has a weight.
    own: Option<usize>,
    others: OtherRegions,
}

type Weights = [u64; MAX_REGIONS];

/// The weight of a region in a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub now: u64,
    /// The weight after an edit that is being made; the same as `now` if there is none.
    pub next: u64,
}

impl RightsPlan {
    /// The plan of the region `own`. A region without a weight begins no cell with rights, but others may give it some.
    /// `None` if the regions are too many, if two of them have one number, or if no region has a weight.
    pub fn new(own: &str, weights: &BTreeMap<String, Weight>) -> Option<Self> {
        let mut numbers: Vec<RegionNumber> = weights.keys().map(|region| RegionNumber::of(region)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let all = |of: fn(&Weight) -> u64| {
            let mut all = [0; MAX_REGIONS];
            all.iter_mut().zip(weights.values()).for_each(|(place, weight)| *place = of(weight).min(MAX_WEIGHT));
            all
        };
        let (now, next) = (all(|weight| weight.now), all(|weight| weight.next));
        let nobody = |weights: Weights| weights.iter().all(|weight| *weight == 0);
        if numbers.len() < weights.len() || weights.len() > MAX_REGIONS || nobody(now) || nobody(next) {
            return None;
        }
        let others = numbers.into_iter().filter(|number| *number != RegionNumber::of(own)).collect();
        Some(Self { weights: now, next, own: weights.keys().position(|region| region == own), others })
    }

    /// The other regions that have rights.
    pub fn others(&self) -> impl Iterator<Item = RegionNumber> {
        self.others.iter()
    }

    /// What an item says of a limit.
    pub fn escrow(&self, limit: u64) -> Escrow {
        let part = |own: usize| {
            let now = part(&self.weights, limit, own);
            if self.next == self.weights { now } else { now.min(part(&self.next, limit, own)) }
        };
        Escrow { part: self.own.map_or(0, part), others: self.others }
    }
}

/// The rights of one region. They are the seats of the method of D'Hondt: each right goes to the region with the
/// largest weight ÷ (rights + 1). The parts of all regions add up to the limit. A larger limit gives no region less, so
/// parts of different limits never add up to more than the largest.
fn part(weights: &Weights, limit: u64, region: usize) -> u64 {
    let (limit, sum) = (limit.min(MAX_LIMIT), weights.iter().sum::<u64>().max(1));
    let mut parts = weights.map(|weight| limit * weight / sum);
    for _ in parts.iter().sum::<u64>()..limit {
        // weight ÷ (rights + 1), compared without a division. The first of equals gets the right.
        let mut first = 0;
        for at in 1..MAX_REGIONS {
            if weights[at] * (parts[first] + 1) > weights[first] * (parts[at] + 1) {
                first = at;
            }
        }
        parts[first] += 1;
    }
    parts[region]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn parts(weights: &[u64], limit: u64) -> Vec<u64> {
        edited(&weights.iter().map(|weight| (*weight, *weight)).collect::<Vec<_>>(), limit)
    }

    /// The parts while weights are edited, each now and next.
    fn edited(weights: &[(u64, u64)], limit: u64) -> Vec<u64> {
        let named = (0..).zip(weights).map(|(n, (now, next))| (format!("r{n}"), Weight { now: *now, next: *next }));
        let names: BTreeMap<String, Weight> = named.collect();
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
    fn while_weights_are_edited_regions_that_are_behind_or_ahead_never_hold_more_than_the_limit() {
        for (before, after) in [([5, 1, 1], [1, 9, 1]), ([1, 1, 0], [1, 1, 1]), ([1, 2, 3], [3, 2, 1])] {
            let both: Vec<(u64, u64)> = before.into_iter().zip(after).collect();
            for limit in 0..100 {
                let (old, middle, new) = (parts(&before, limit), edited(&both, limit), parts(&after, limit));
                // Each region has the plan of one of two neighbouring steps.
                for ahead in 0..8 {
                    let held = |a: &[u64], b: &[u64]| -> u64 {
                        (0..3).map(|region| if ahead >> region & 1 == 0 { a[region] } else { b[region] }).sum()
                    };
                    assert!(held(&old, &middle) <= limit && held(&middle, &new) <= limit, "{both:?} {limit} {ahead}");
                }
            }
        }
    }

    #[test]
    fn a_region_knows_which_others_have_rights() {
        let names = ["ap", "eu", "us"].map(|name| (name.to_owned(), Weight { now: 1, next: 1 }));
        let plan = RightsPlan::new("eu", &BTreeMap::from(names)).unwrap();
        let others: BTreeSet<RegionNumber> = plan.others().collect();
        assert_eq!(others, BTreeSet::from(["ap", "us"].map(RegionNumber::of)));
    }

    #[test]
    fn regions_that_cannot_be_told_apart_have_no_plan() {
        let weights = |names: &[&str], weight| {
            let weight = Weight { now: weight, next: weight };
            names.iter().map(|name| ((*name).to_owned(), weight)).collect()
        };
        let many: Vec<String> = (0..9).map(|n| format!("r{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(RightsPlan::new("r0", &weights(&many, 1)), None);
        assert_eq!(RightsPlan::new("a", &weights(&["a", "b"], 0)), None);
        let plan = RightsPlan::new("c", &weights(&["a", "b"], 1)).unwrap();
        assert_eq!((plan.escrow(10).part, plan.escrow(10).others.iter().count()), (0, 2));
    }
}
