//! What a shard and the state of a key pass each other.

use std::sync::Arc;

use crate::counter::{Escrow, Part, Ticks};
use crate::escrow::RightsPlan;
use crate::ids::{Incarnation, SlotId, Ticket};
use crate::rules::{EffectiveLimit, OnPartition};
use crate::time::{NodeTime, StoreTime};

/// Where granted hits were charged. A refund names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Nothing was charged.
    Free,
    Window(ChargeOrigin),
    Bucket {
        incarnation: Incarnation,
        step: Ticks,
        charged_at: StoreTime,
    },
    /// This holder admitted the hits during an outage and owes them to the store.
    Local {
        cell_ms: u64,
    },
}

/// The cell and the incarnation that tokens of a window were charged to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChargeOrigin {
    pub cell_ms: u64,
    pub incarnation: Incarnation,
}

/// An ask of one check that waits at a key for the store.
#[derive(Clone, Debug)]
pub struct QueuedAsk {
    pub ticket: Ticket,
    /// The slot of the key.
    pub slot: SlotId,
    /// The position of the reservation in its check.
    pub reservation: usize,
    pub hits: u64,
    /// True if the hits are charged even if they do not fit.
    pub overdraft: bool,
    /// For a refund, the hits that the store takes back. A refund asks for no hits, and is never denied.
    pub refund: Option<u64>,
    /// The limit that was in force when the check came. An edit does not change it.
    pub effective: Arc<EffectiveLimit>,
    /// The ask was sent once before, and the store did nothing with it.
    pub resent: bool,
}

impl QueuedAsk {
    /// Asks of one kind in a row are one [`Ask`](crate::counter::Ask).
    pub const fn kind(&self) -> (u64, bool) {
        (self.hits, self.overdraft)
    }
}

/// What the store decided about an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskResult {
    Granted(Receipt),
    /// The hits would fit at this instant; `None` if they never will.
    Denied(Option<NodeTime>),
    /// The store did not decide.
    Undecided,
}

/// What the state of a key needs to know of its shard.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub now: NodeTime,
    /// The estimated time of the store.
    pub store_now: StoreTime,
    /// The store has answered once. Before that, `store_now` is the wall clock of the node, which may be far off.
    pub clock_known: bool,
    /// The longest time that tokens are held in advance, in microseconds.
    pub lease_us: u64,
    /// Shards of the region that may hold tokens of a key.
    pub holders: u32,
    /// The divisor of `on_store_failure: local`.
    pub divisor: u32,
    /// `None` if this is the only region.
    pub regions: Option<Regions>,
}

/// What a shard knows of the other regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regions {
    /// The weighted part of this region.
    pub part: Part,
    /// A key whose region has used less than this many thousandths of its limit is not reported.
    pub floor_thousandths: u32,
    /// When this node noticed that another region does not hear it; `None` if all do.
    pub partitioned_since: Option<NodeTime>,
    /// How rights are split under `escrow`. `None`: nobody knows, so this region has none.
    pub rights: Option<RightsPlan>,
}

impl Regions {
    /// What the region does about a limit, if it is partitioned from another region.
    pub const fn on_partition(&self, effective: &EffectiveLimit) -> Option<OnPartition> {
        match self.partitioned_since {
            Some(_) => effective.on_partition(),
            None => None,
        }
    }

    /// What an item says of the rights of its region. `None` if the limit is not under `escrow`.
    pub fn escrow(regions: Option<Self>, effective: &EffectiveLimit) -> Option<Escrow> {
        let limit = effective.is_escrow().then_some(effective.limit)?;
        Some(match regions {
            // The only region has all rights.
            None => Escrow { part: limit, ..Escrow::default() },
            Some(regions) => regions.rights.map(|plan| plan.escrow(limit)).unwrap_or_default(),
        })
    }
}

/// When a batch was sent by the node's clock, and when it ran by the store's.
#[derive(Clone, Copy, Debug)]
pub struct BatchTimes {
    pub sent: NodeTime,
    pub ran: StoreTime,
}

/// Whether the store may have run a batch that got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayHaveRun {
    No,
    Unknown,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::escrow::Weight;
    use crate::key::samples::fixed_window;
    use crate::rules::{GlobalStrategy, Scope};

    #[test]
    fn the_only_region_has_all_rights_and_one_that_does_not_know_how_they_are_split_has_none() {
        let escrow = EffectiveLimit { scope: Scope::Global(GlobalStrategy::Escrow), ..fixed_window(100) };
        let weight = |weight| Weight { now: weight, next: weight };
        let weights = BTreeMap::from([("a".to_owned(), weight(1)), ("b".to_owned(), weight(3))]);
        let regions = |rights| Regions { part: Part::ONE, floor_thousandths: 0, partitioned_since: None, rights };
        let part = |regions, effective| Regions::escrow(regions, effective).map(|escrow| escrow.part);
        assert_eq!(part(None, &escrow), Some(100));
        assert_eq!(part(Some(regions(None)), &escrow), Some(0));
        assert_eq!(part(Some(regions(RightsPlan::new("a", &weights))), &escrow), Some(25));
        assert_eq!(part(None, &fixed_window(100)), None, "the limit is not under escrow");
    }
}
