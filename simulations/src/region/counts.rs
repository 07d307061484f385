//! What a region's store has of the counters that regions share, as an observer reads it at the end.

use super::Region;
use super::gossip::number_of;
use crate::context::Context;
use crate::history::RegionCount;
use crate::ids::{Counter, PrimaryIndex};
use crate::scenario::{DOMAIN, DRAINED_USERS, LimitSet, on_partition, quota};
use limiter::counter::{
    Ask, Batch, BatchOutcome, Counter as ItemCounter, Debts, Entry, Item, ItemReply, Seen, SeenCells, used_by,
};
use limiter::rules::EffectiveLimit;
use limiter::{BatchId, HolderId, RegionNumber, Revision, StoreTime};

/// The holder of the observer's batches.
const OBSERVER: HolderId = HolderId(1);

impl Region {
    /// Records what the store has of each shared counter whose limit was used up.
    pub fn observe_counts(&mut self, cx: &mut Context<'_>) {
        let limits: Vec<usize> = cx.plan.limits_of(LimitSet::PerUser).collect();
        let users = cx.plan.users.min(DRAINED_USERS);
        let is_observed =
            |counter: &Counter| limits.contains(&counter.limit) && counter.user.is_none_or(|it| it < users);
        let observed = self.counters.iter().filter(|(_, counter)| is_observed(counter));
        let observed: Vec<(Vec<u8>, Counter)> = observed.map(|(key, counter)| (key.clone(), *counter)).collect();
        for (key, counter) in observed {
            let primary = self.lanes[usize::from(self.lane_of(&key).0)];
            let Some(cells) = self.read_cells(cx, primary, &key, counter) else { continue };
            for region in cx.plan.regions.indices() {
                let number = if region == self.index { RegionNumber::OWN } else { number_of(region) };
                let hits = cells.iter().map(|(_, entries)| used_by(entries, number)).sum();
                let is_count = |entry: &&Entry| entry.incarnation.region() == number && !entry.is_note();
                let of_region = |entries: &[Entry]| entries.iter().filter(is_count).copied().collect();
                let cells = cells.iter().map(|(start_ms, entries)| (start_ms, of_region(entries))).collect();
                cx.history.region_counts.push(RegionCount { at: cx.now, counter, of: region, hits, cells });
                cx.trace_in(self.index, |cx| {
                    let owner = cx.plan.owner(&counter.in_region(region));
                    format!("the store has {hits} hits of {owner}")
                });
            }
        }
    }

    /// Returns the cells of a counter, or `None` if regions do not share it or the store does not answer.
    fn read_cells(
        &mut self,
        cx: &Context<'_>,
        primary: PrimaryIndex,
        key: &[u8],
        counter: Counter,
    ) -> Option<SeenCells> {
        let limit = cx.plan.final_limits().get(counter.limit).filter(|limit| on_partition(limit).is_some())?;
        let server = &mut self.primaries[primary.0];
        let effective = EffectiveLimit::new(&DOMAIN.into(), limit, None, Revision(1));
        let asked = ItemCounter::Window {
            grid: effective.grid(StoreTime(server.clock(cx.now)))?,
            limit: quota(limit),
            seen: SeenCells::Empty,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: None,
        };
        // It asks whether more hits would pass, and takes none.
        let asks = vec![Ask { hits: 0, count: 1, overdraft: false }];
        let item = Item { key: key.into(), asks, refund: 0, counter: asked };
        let batch = Batch { not_after: None, holder: OBSERVER, id: BatchId(1), items: vec![item] };
        match server.run(&batch, cx.now, false).ok()?.outcome {
            BatchOutcome::Ran(mut replies) => match replies.pop()? {
                ItemReply::Done(grant) => match grant.seen {
                    Seen::Window { cells, .. } => Some(cells),
                    Seen::Bucket { .. } => None,
                },
                _ => None,
            },
            BatchOutcome::Late => None,
        }
    }
}
