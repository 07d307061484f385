//! The most that a descriptor can make the index find: a bound on the work of a check that holds whatever callers ask.

use std::collections::HashMap;

use ipnet::IpNet;

use super::{Index, KeyIndex, RouteNode};
use crate::check::MAX_ATTRIBUTES;

/// The steps of a look-up of a text, a network or a segment, without those for each byte of a text.
const LOOK_UP: usize = 5;
/// The bytes of a text that are hashed in one step.
const BYTES_PER_STEP: usize = 32;

/// What limits cost, by their positions.
type Costs<'c> = &'c dyn Fn(u32) -> usize;

impl Index {
    /// At least the sum of the costs of all limits that a descriptor can find whose attributes have different keys, and
    /// of the look-ups.
    pub fn most_steps(&self, cost: Costs<'_>) -> usize {
        let mut by_key: Vec<usize> = self.keys.values().map(|slot| slot.look_up + slot.most(cost)).collect();
        by_key.sort_unstable_by(|a, b| b.cmp(a));
        by_key.iter().take(MAX_ATTRIBUTES).sum::<usize>() + sum(&self.always, cost)
    }
}

impl KeyIndex {
    /// At least the cost of all limits that one value finds.
    fn most(&self, cost: Costs<'_>) -> usize {
        let equal = self.equal.values().map(|ids| sum(ids, cost)).max().unwrap_or(0);
        let prefixes = self.prefixes.values().flatten().map(|(text, ids)| (text.bytes().collect(), &**ids)).collect();
        let suffixes = self.suffixes.values().flatten().map(|(text, ids)| (text.bytes().rev().collect(), &**ids));
        let mut nets: Vec<(IpNet, &[u32])> = Vec::new();
        for ((_, length), by_network) in &self.nets {
            for (address, ids) in by_network {
                nets.extend(IpNet::new(*address, *length).ok().map(|net| (net, ids.as_slice())));
            }
        }
        // A network comes right before those that it contains.
        nets.sort_unstable_by_key(|(net, _)| *net);
        equal
            + most_of_texts(prefixes, cost)
            + most_of_texts(suffixes.collect(), cost)
            + heaviest_chain(&nets, |outer, inner| outer.contains(inner), cost)
            + self.routes.most(&|node| sum(&node.ids, cost))
            + sum(&self.present, cost)
    }

    /// At least the steps of a look-up of one value.
    pub fn most_look_up(&self) -> usize {
        let text = |length: &usize| LOOK_UP + length / BYTES_PER_STEP;
        let texts: usize = self.prefixes.keys().chain(self.suffixes.keys()).map(text).sum();
        // The root is always visited.
        texts + LOOK_UP * (self.nets.len() + self.routes.most(&|_| 1) - 1)
    }
}

impl RouteNode {
    /// At least the sum of what `own` says of the nodes that one path visits.
    fn most(&self, own: &dyn Fn(&Self) -> usize) -> usize {
        let literal = self.literal.values().map(|node| node.most(own)).max().unwrap_or(0);
        own(self) + literal + self.any.as_ref().map_or(0, |node| node.most(own))
    }
}

fn sum(ids: &[u32], cost: Costs<'_>) -> usize {
    ids.iter().map(|id| cost(*id)).sum()
}

/// The largest sum over texts that all begin one value.
fn most_of_texts(mut texts: Vec<(Vec<u8>, &[u32])>, cost: Costs<'_>) -> usize {
    // A text comes before those that it begins.
    texts.sort_unstable();
    heaviest_chain(&texts, |short, long| long.starts_with(short), cost)
}

/// The largest sum over a chain of items that each contain the next one. A limit counts once. Items are sorted so that
/// an item comes before those that it contains, and nothing else between.
fn heaviest_chain<T>(items: &[(T, &[u32])], contains: impl Fn(&T, &T) -> bool, cost: Costs<'_>) -> usize {
    let mut chain: Vec<usize> = Vec::new();
    let mut counted: HashMap<u32, usize> = HashMap::new();
    let (mut total, mut most) = (0, 0);
    for (at, (item, ids)) in items.iter().enumerate() {
        while let Some(last) = chain.pop_if(|last| !contains(&items[*last].0, item)) {
            for id in items[last].1 {
                if counted.get_mut(id).is_some_and(|count| {
                    *count -= 1;
                    *count == 0
                }) {
                    counted.remove(id);
                    total -= cost(*id);
                }
            }
        }
        chain.push(at);
        for id in *ids {
            let count = counted.entry(*id).or_default();
            *count += 1;
            if *count == 1 {
                total += cost(*id);
            }
        }
        most = most.max(total);
    }
    most
}
