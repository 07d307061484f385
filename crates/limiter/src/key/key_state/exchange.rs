//! A key's talk with the store: the next item, and what its reply changes.

use super::{Denial, Estimate, KeyState};
use crate::counter::{
    CellSpan, Counter, Debts, Entry, Grant, Granted, Grid, Item, Prefetch, Seen, Share, Spending, used_by,
};
use crate::escrow::{Holding, Want, wanted};
use crate::gossip::Report;
use crate::ids::RegionNumber;
use crate::key::Regions;
use crate::key::messages::{AskResult, BatchTimes, ChargeOrigin, Context, MayHaveRun, QueuedAsk, Receipt};
use crate::key::outage::Outage;
use crate::rules::{EffectiveLimit, OnPartition};
use crate::time::{NodeTime, StoreTime};

/// A denial for want of rights is remembered for at most so long, in microseconds.
const ESCROW_DENIAL_US: u64 = 20_000;

impl KeyState {
    /// The next item for the store, if there is something to send.
    pub fn next_item(&mut self, key: &[u8], cx: &Context) -> Option<Item> {
        let waiting = self.has_waiting();
        // An ask that the tokens in hand do not cover asks for the whole amount, and the same item gives them back.
        if waiting || cx.now >= self.held_until {
            self.release();
        }
        let want = if self.effective.leased && (waiting || self.prefetcher.wants_refill()) {
            self.prefetcher.want(self.held, cx.lease_us, cx.now)
        } else {
            0
        };
        let queue = self.queue.get_or_insert_default();
        queue.outage.take_if(|outage| outage.is_settled(cx.now));
        if let Some(outage) = &mut queue.outage {
            outage.adopt_clock(&self.effective, cx);
        }
        let owes = queue.outage.as_ref().is_some_and(Outage::is_unreported);
        let prefetcher = &mut self.prefetcher;
        let (effective, asks, refund) =
            queue.take_waiting(&self.effective, |hits| prefetcher.spend(u32::try_from(hits).unwrap_or(u32::MAX)));
        let counter =
            if effective.is_bucket() { self.bucket(&effective, cx) } else { self.window(&effective, want, cx) };
        let carries = match &counter {
            Counter::Window { returns, lease, .. } => !returns.is_empty() || lease.is_some(),
            Counter::Bucket { returns, .. } => !returns.is_empty(),
            Counter::Import { .. } | Counter::Give { .. } | Counter::Take { .. } => false,
        };
        if asks.is_empty() && !carries && !owes {
            self.drop_empty_queue();
            return None;
        }
        self.queue.get_or_insert_default().mark_sent(effective.terms());
        Some(Item { key: key.into(), asks, refund, counter })
    }

    fn bucket(&mut self, effective: &EffectiveLimit, cx: &Context) -> Counter {
        let queue = self.queue.get_or_insert_default();
        let owed = queue.outage.as_mut().map_or(0, |outage| outage.report_bucket(cx.store_now));
        let returns = queue.send_bucket_returns();
        Counter::Bucket { rate: effective.rate, revision: effective.revision, seen: self.seen.bucket(), owed, returns }
    }

    fn window(&mut self, effective: &EffectiveLimit, want: u32, cx: &Context) -> Counter {
        let queue = self.queue.get_or_insert_default();
        // The time of a counter is never before its newest cell, nor before a cell that has a debt. No store can be
        // where no calendar reaches.
        let owed_ms = queue.outage.as_ref().map_or(0, Outage::newest_ms);
        let at = cx.store_now.max(StoreTime::from_millis(self.seen.newest_ms().max(owed_ms)));
        let grid = effective.grid(at).unwrap_or(Grid::Calendar { bounds: [0; 4] });
        let reports = queue.outage.as_mut().map(Outage::report_window).unwrap_or_default();
        let (seen_in, seen) = self.seen.debts();
        let lease = Prefetch { want, holders: cx.holders, min_left: cx.lease_us / 16 };
        let shares = |regions: &Regions| regions.on_partition(effective) == Some(OnPartition::Share);
        let share = cx.regions.filter(shares).and_then(|regions| {
            let ago_us = cx.now.since(regions.partitioned_since?);
            let since_ms = StoreTime(cx.store_now.0.saturating_sub(ago_us)).millis();
            Some(Share { since_ms, part: regions.part })
        });
        Counter::Window {
            grid,
            limit: effective.limit,
            seen: self.seen.cells().clone(),
            returns: queue.send_window_returns(),
            debts: Debts { seen_in, seen, reports },
            lease: Some(lease).filter(|_| effective.terms() == self.effective.terms() && want > 0),
            share,
            escrow: Regions::escrow(cx.regions, effective),
        }
    }

    /// The store ran the item: decides the asks that it carried. Returns true if the key must be flushed again.
    pub fn complete(
        &mut self,
        grant: Grant,
        times: &BatchTimes,
        cx: &Context,
        out: &mut Vec<(QueuedAsk, AskResult)>,
    ) -> bool {
        let Some(queue) = self.queue.as_mut() else { return false };
        let (asks, terms) = queue.complete(grant.reported);
        // Hits that came back meanwhile, of which the store did not know.
        let came_back = queue.returning() > 0;
        let same_terms = terms == self.effective.terms();
        let until = |at: StoreTime| at.since(times.ran);
        let origin = match &grant.seen {
            Seen::Window { incarnation, cell_ms, .. } => ChargeOrigin { cell_ms: *cell_ms, incarnation: *incarnation },
            Seen::Bucket { .. } => ChargeOrigin::default(),
        };
        let decided = out.len();
        let mut denial = decide(asks, &grant, origin, times, cx, out);
        if let (Some(denial), Some(Spending::Allowed | Spending::Unconfirmed { .. })) = (&mut denial, grant.spending) {
            // Rights of another region may come soon.
            denial.until = denial.until.min(times.sent.plus(ESCROW_DENIAL_US));
        }
        let spent = out[decided..].iter().filter(|(_, result)| *result == AskResult::Granted(Receipt::Window(origin)));
        self.note_spent(origin, spent.map(|(ask, _)| ask.hits).fold(0, u64::saturating_add));
        if same_terms {
            self.denial = denial.filter(|_| !came_back).map(Box::new);
            let reset_at = cx.now.plus(until(grant.reset_at));
            self.estimate = Some(Estimate { available: Some(grant.available), reset_at });
        }
        if let Seen::Window { cell_end_ms, .. } = &grant.seen
            && grant.lease > 0
        {
            let cell_ends_us = until(StoreTime::from_millis(*cell_end_ms));
            let lease_ends = times.sent.plus(cx.lease_us.min(cell_ends_us));
            self.hold(grant.lease, origin, lease_ends, same_terms, cx.now);
        }
        if let (Seen::Window { debts, .. }, Some(outage)) =
            (&grant.seen, self.queue.as_mut().and_then(|queue| queue.outage.as_mut()))
        {
            outage.mark_unconfirmed(debts);
        }
        self.seen = grant.seen.into();
        self.pay_waiting(cx.now, out);
        self.drop_empty_queue();
        self.needs_flush()
    }

    /// What the region used of this counter, for the other regions, and when nothing of it counts any more. `None` if
    /// regions do not share the counter, or if the region has used too little of it.
    pub fn report(&self, key: &[u8], regions: &Regions, cx: &Context) -> Option<(Report, NodeTime)> {
        self.effective.on_partition()?;
        let seen = self.seen.cells();
        let grid = self.effective.grid(cx.store_now)?;
        let floor = self.effective.limit.saturating_mul(regions.floor_thousandths.into()).div_ceil(1000);
        let newest_ms = seen.newest_ms();
        let report = Report::new(key, grid, seen, floor)?;
        let gone = grid.gone_at(newest_ms, grid.end_ms(newest_ms));
        Some((report, cx.now.plus(gone.since(cx.store_now))))
    }

    /// The rights that the region wants of this counter after a reply, before [`Self::complete`], and when their cell
    /// ends.
    pub fn want(
        &self,
        key: &[u8],
        grant: &Grant,
        spending: Spending,
        times: &BatchTimes,
        cx: &Context,
    ) -> Option<(Want, NodeTime)> {
        let Seen::Window { cell_ms, cell_end_ms, cells, .. } = &grant.seen else { return None };
        let epoch_ms = match spending {
            Spending::Allowed => 0,
            Spending::Unconfirmed { epoch_ms } => epoch_ms,
            Spending::Lost => return None,
        };
        let used_in = |entries: &[Entry]| used_by(entries, RegionNumber::OWN);
        let used = cells.iter().find(|(start_ms, _)| start_ms == cell_ms).map_or(0, |(_, entries)| used_in(entries));
        let seen = self.seen.cells();
        let before = seen.iter().find(|(start_ms, _)| start_ms < cell_ms);
        let span = CellSpan { start_ms: *cell_ms, end_ms: *cell_end_ms, oldest_ms: *cell_ms };
        let holding = Holding {
            available: grant.available,
            used,
            used_before: before.map_or(0, |(_, entries)| used_in(entries)),
            denied: self.queue.as_ref().map_or(0, |queue| queue.denied_by(&grant.granted, self.effective.limit)),
            span,
            now: times.ran,
        };
        let hits = wanted(&holding).min(self.effective.limit);
        if hits == 0 && epoch_ms == 0 {
            return None;
        }
        let grid = self.effective.grid(StoreTime::from_millis(*cell_ms))?;
        let (limit, denied) = (self.effective.limit, holding.denied > 0);
        let want = Want { key: key.into(), grid, limit, cell_ms: *cell_ms, hits, denied, received: 0, epoch_ms };
        Some((want, cx.now.plus(StoreTime::from_millis(*cell_end_ms).since(times.ran))))
    }

    /// Pays asks that came while the item was in flight from the lease that it brought, in order, as far as the lease
    /// lasts. Under load there always are such asks, and without this the next item would give the lease back.
    fn pay_waiting(&mut self, now: NodeTime, out: &mut Vec<(QueuedAsk, AskResult)>) {
        if now >= self.held_until {
            return;
        }
        while let Some(next) =
            self.queue.as_mut().and_then(|queue| queue.pop_covered(self.held.into(), self.effective.terms()))
        {
            let receipt = self.pay(u32::try_from(next.hits).unwrap_or(u32::MAX));
            out.push((next, AskResult::Granted(receipt)));
        }
    }

    /// Holds granted tokens, or gives them back at once if the terms changed meanwhile.
    fn hold(&mut self, tokens: u32, origin: ChargeOrigin, until: NodeTime, same_terms: bool, now: NodeTime) {
        if self.origin != origin || !same_terms {
            self.release();
        }
        self.note_spent(origin, 0);
        (self.origin, self.held_until) = (origin, until);
        self.held = self.held.saturating_add(tokens);
        if same_terms {
            self.prefetcher.granted(now);
        } else {
            self.release();
        }
    }

    /// The item was out of its calendar bounds. Its asks are sent once more, with bounds around the newest cell of the
    /// record, except those that were resent already.
    pub fn resend_in_bounds(&mut self, newest_ms: u64, out: &mut Vec<(QueuedAsk, AskResult)>) {
        self.seen.note_out_of_bounds(newest_ms);
        self.resend(out);
    }

    /// The store did nothing with the item. Its asks are sent once more, except those that were resent already.
    pub fn resend(&mut self, out: &mut Vec<(QueuedAsk, AskResult)>) {
        if let Some(queue) = &mut self.queue {
            queue.requeue_sent(out);
        }
        self.drop_empty_queue();
    }

    /// The item got no reply.
    pub fn fail(&mut self, ran: MayHaveRun, out: &mut Vec<(QueuedAsk, AskResult)>) {
        if let Some(queue) = &mut self.queue {
            queue.fail_sent(ran, out);
        }
        self.drop_empty_queue();
    }

    /// Nothing can be sent: the waiting asks stay undecided.
    pub fn fail_waiting(&mut self, out: &mut Vec<(QueuedAsk, AskResult)>) {
        if let Some(queue) = &mut self.queue {
            queue.fail_waiting(out);
        }
        self.drop_empty_queue();
    }
}

/// Decides the asks of an item by its grant. Returns the denial to remember: that of the fewest hits.
fn decide(
    asks: Vec<QueuedAsk>,
    grant: &Grant,
    origin: ChargeOrigin,
    times: &BatchTimes,
    cx: &Context,
    out: &mut Vec<(QueuedAsk, AskResult)>,
) -> Option<Denial> {
    // Waits are counted from now, and the denial stands from the sending on: neither is too short for the client.
    let until = |at: StoreTime| at.since(times.ran);
    let receipt = |ask: &QueuedAsk| match &grant.seen {
        _ if ask.hits == 0 => Receipt::Free,
        Seen::Window { .. } => Receipt::Window(origin),
        Seen::Bucket { incarnation, at, .. } => {
            Receipt::Bucket { incarnation: *incarnation, step: ask.effective.rate.step, charged_at: *at }
        }
    };
    let mut denial: Option<Denial> = None;
    let (mut asks, mut runs) = (asks.into_iter().peekable(), grant.granted.iter());
    while let Some(kind @ (hits, _)) = asks.peek().map(QueuedAsk::kind) {
        let run = runs.next();
        let mut left = run.map_or(0, |Granted { count, .. }| *count);
        let fits_at = run.and_then(|run| run.fits_at);
        while let Some(ask) = asks.next_if(|ask| ask.kind() == kind) {
            let result = match (run, left) {
                (None, _) => AskResult::Undecided,
                _ if ask.refund.is_some() => AskResult::Granted(Receipt::Free),
                (Some(_), 0) => {
                    if denial.is_none_or(|denial| hits.max(1) < denial.hits) {
                        let stands_us = fits_at.map_or(cx.lease_us, until).min(cx.lease_us);
                        let fits_at = fits_at.map(|at| cx.now.plus(until(at)));
                        denial = Some(Denial { hits: hits.max(1), until: times.sent.plus(stands_us), fits_at });
                    }
                    AskResult::Denied(fits_at.map(|at| cx.now.plus(until(at))))
                }
                (Some(_), _) => {
                    left -= 1;
                    AskResult::Granted(receipt(&ask))
                }
            };
            out.push((ask, result));
        }
    }
    denial
}
