//! What a key holds only while it has business with the store: asks that wait, the item in flight, hits to return, and
//! the debts of an outage.
//!
//! Most keys have no queue: it is made for the first ask and dropped when it is empty.

use std::collections::VecDeque;
use std::sync::Arc;

use super::messages::{AskResult, MayHaveRun, QueuedAsk};
use super::outage::Outage;
use crate::counter::{Ask, BucketReturn, Granted, WindowReturn};
use crate::ids::Ticket;
use crate::rules::{EffectiveLimit, Terms};

/// One item takes at most this many waiting asks.
const MAX_ASKS: usize = 4096;

#[derive(Debug, Default)]
pub struct KeyQueue {
    /// In the order of the tickets, the oldest first.
    waiting: VecDeque<QueuedAsk>,
    /// The asks of the item in flight.
    sent: Vec<QueuedAsk>,
    /// Tickets of checks that were withdrawn while the item is in flight.
    withdrawn: Vec<Ticket>,
    in_flight: bool,
    /// The terms that the item in flight was made under.
    sent_terms: Terms,
    window_returns: Returns<WindowReturn>,
    bucket_returns: Returns<BucketReturn>,
    pub outage: Option<Outage>,
}

/// Hits to give back. Those in flight are kept in case the store does nothing with the item.
#[derive(Debug)]
struct Returns<T> {
    next: Vec<T>,
    sent: Vec<T>,
}

impl<T> Default for Returns<T> {
    fn default() -> Self {
        Self { next: Vec::new(), sent: Vec::new() }
    }
}

impl<T: Clone> Returns<T> {
    fn send(&mut self) -> Vec<T> {
        self.sent = std::mem::take(&mut self.next);
        self.sent.clone()
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.next.iter().chain(&self.sent)
    }
}

impl KeyQueue {
    pub fn push(&mut self, ask: QueuedAsk) {
        // A bucket is asked last, so an ask may come after one of a later check. It is put before that one: withdrawing
        // thousands of checks takes long if each must be searched.
        let place = match self.waiting.back() {
            Some(last) if last.ticket > ask.ticket => self.waiting.partition_point(|other| other.ticket <= ask.ticket),
            _ => self.waiting.len(),
        };
        self.waiting.insert(place, ask);
    }

    /// Removes the asks of a check that waits no more. During an outage thousands of checks leave one by one, so the
    /// asks are found by binary search.
    pub fn withdraw(&mut self, ticket: Ticket) {
        if self.in_flight {
            self.withdrawn.push(ticket);
        }
        let first = self.waiting.partition_point(|ask| ask.ticket < ticket);
        while self.waiting.get(first).is_some_and(|ask| ask.ticket == ticket) {
            self.waiting.remove(first);
        }
    }

    /// Takes the ask that waits longest if it is of `terms` and `tokens` cover it.
    pub fn pop_covered(&mut self, tokens: u64, terms: Terms) -> Option<QueuedAsk> {
        let covered = |next: &mut QueuedAsk| {
            next.effective.terms() == terms && next.hits.max(1) <= tokens && next.refund.is_none()
        };
        self.waiting.pop_front_if(covered)
    }

    pub fn return_to_window(&mut self, back: WindowReturn) {
        // Tokens of one origin go back together.
        let same_origin =
            |other: &&mut WindowReturn| (other.cell_ms, other.incarnation) == (back.cell_ms, back.incarnation);
        match self.window_returns.next.last_mut().filter(same_origin) {
            Some(last) => last.tokens = last.tokens.saturating_add(back.tokens),
            None => self.window_returns.next.push(back),
        }
    }

    pub fn return_to_bucket(&mut self, back: BucketReturn) {
        self.bucket_returns.next.push(back);
    }

    /// True if asks wait to be sent.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub const fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// True if asks wait or hits are to be given back. The key must not be evicted then.
    pub fn has_asks_or_returns(&self) -> bool {
        self.has_waiting() || !self.window_returns.next.is_empty() || !self.bucket_returns.next.is_empty()
    }

    /// True if there is something to send, debts included.
    pub fn has_anything_to_send(&self) -> bool {
        self.has_asks_or_returns() || self.outage.as_ref().is_some_and(Outage::is_unreported)
    }

    /// True if it holds nothing at all.
    pub fn is_empty(&self) -> bool {
        !self.in_flight && self.sent.is_empty() && !self.has_asks_or_returns() && self.outage.is_none()
    }

    /// Hits that are on their way back to the store.
    pub fn returning(&self) -> u64 {
        let windows = self.window_returns.iter().map(|back| back.tokens);
        windows.chain(self.bucket_returns.iter().map(|back| back.hits)).fold(0, u64::saturating_add)
    }

    /// Moves the waiting asks of equal terms to the next item. Returns their limit, or `fallback_limit` when none
    /// waits, the asks, equal ones in a row as one, and the hits to take back. Calls `spent` with the hits of each.
    pub fn take_waiting(
        &mut self,
        fallback_limit: &Arc<EffectiveLimit>,
        mut spent: impl FnMut(u64),
    ) -> (Arc<EffectiveLimit>, Vec<Ask>, u64) {
        let effective = Arc::clone(self.waiting.front().map_or(fallback_limit, |ask| &ask.effective));
        let (mut asks, mut refund): (Vec<Ask>, u64) = (Vec::new(), 0);
        while self.sent.len() < MAX_ASKS
            && let Some(next) = self.waiting.pop_front_if(|ask| ask.effective.terms() == effective.terms())
        {
            match asks.last_mut().filter(|ask| (ask.hits, ask.overdraft) == next.kind()) {
                Some(ask) => ask.count += 1,
                None => asks.push(Ask { hits: next.hits, count: 1, overdraft: next.overdraft }),
            }
            refund = refund.saturating_add(next.refund.unwrap_or(0));
            spent(next.hits);
            self.sent.push(next);
        }
        (effective, asks, refund)
    }

    /// Takes what the next item gives back to a window.
    pub fn send_window_returns(&mut self) -> Vec<WindowReturn> {
        self.window_returns.send()
    }

    /// Takes what the next item gives back to a bucket.
    pub fn send_bucket_returns(&mut self) -> Vec<BucketReturn> {
        self.bucket_returns.send()
    }

    pub const fn mark_sent(&mut self, terms: Terms) {
        (self.in_flight, self.sent_terms) = (true, terms);
    }

    /// Hits of the item in flight that the store has denied, without asks for more than the limit, which never pass.
    /// `granted` says for each run of asks how many passed.
    pub fn denied_by(&self, granted: &[Granted], limit: u64) -> u64 {
        let runs = self.sent.chunk_by(|a, b| a.kind() == b.kind());
        let denied = |(run, granted): (&[QueuedAsk], &Granted)| {
            let count = run.len() as u64;
            let hits = run.first().map_or(0, |ask| ask.hits);
            let hits = if hits <= limit { hits } else { 0 };
            count.saturating_sub(granted.count.into()).saturating_mul(hits)
        };
        runs.zip(granted).map(denied).fold(0, u64::saturating_add)
    }

    /// The store ran the item. Returns the asks that it carried and the terms that it was made under.
    /// `debts_charged` says that the store has charged the debts that it carried.
    pub fn complete(&mut self, debts_charged: bool) -> (Vec<QueuedAsk>, Terms) {
        self.end_flight(debts_charged);
        (std::mem::take(&mut self.sent), self.sent_terms)
    }

    /// The store did nothing with the item. Its asks are sent once more, except those that were resent already and
    /// those of withdrawn checks.
    pub fn requeue_sent(&mut self, out: &mut Vec<(QueuedAsk, AskResult)>) {
        self.requeue_returns();
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        withdrawn.sort_unstable();
        self.end_flight(false);
        for mut ask in std::mem::take(&mut self.sent).into_iter().rev() {
            if withdrawn.binary_search(&ask.ticket).is_ok() {
                continue;
            }
            if ask.resent {
                out.push((ask, AskResult::Undecided));
            } else {
                ask.resent = true;
                let place = self.waiting.partition_point(|other| other.ticket < ask.ticket);
                self.waiting.insert(place, ask);
            }
        }
    }

    /// The item got no reply. Its asks and returns are not sent again if the store may have run it. Debts are: a store
    /// that has charged a debt does not charge it again.
    pub fn fail_sent(&mut self, ran: MayHaveRun, out: &mut Vec<(QueuedAsk, AskResult)>) {
        if ran == MayHaveRun::No {
            self.requeue_returns();
        }
        self.end_flight(false);
        out.extend(self.sent.drain(..).map(|ask| (ask, AskResult::Undecided)));
    }

    /// Nothing can be sent: the waiting asks stay undecided.
    pub fn fail_waiting(&mut self, out: &mut Vec<(QueuedAsk, AskResult)>) {
        out.extend(self.waiting.drain(..).map(|ask| (ask, AskResult::Undecided)));
    }

    fn requeue_returns(&mut self) {
        self.window_returns.next.append(&mut self.window_returns.sent);
        self.bucket_returns.next.append(&mut self.bucket_returns.sent);
    }

    fn end_flight(&mut self, debts_charged: bool) {
        self.in_flight = false;
        self.withdrawn.clear();
        self.window_returns.sent.clear();
        self.bucket_returns.sent.clear();
        if let Some(outage) = &mut self.outage {
            outage.complete_report(debts_charged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DebtId, Incarnation};
    use crate::key::last_seen::LastSeen;
    use crate::key::samples::{CX, ask, fixed_window};

    fn tickets(queue: &KeyQueue) -> Vec<u64> {
        queue.waiting.iter().map(|ask| ask.ticket.0).collect()
    }

    fn effective(limit: u64) -> Arc<EffectiveLimit> {
        Arc::new(fixed_window(limit))
    }

    #[test]
    fn tokens_pay_for_asks_that_they_cover_of_the_terms_that_they_were_taken_under() {
        let (old, new) = (effective(10), effective(20));
        let mut queue = KeyQueue::default();
        queue.push(ask(1, 3, &new));
        queue.push(QueuedAsk { refund: Some(1), ..ask(2, 0, &new) });
        assert!(queue.pop_covered(3, old.terms()).is_none(), "other terms");
        assert!(queue.pop_covered(2, new.terms()).is_none(), "too few tokens");
        assert_eq!(queue.pop_covered(3, new.terms()).map(|ask| ask.ticket), Some(Ticket(1)));
        assert!(queue.pop_covered(3, new.terms()).is_none(), "a refund is for the store");
    }

    #[test]
    fn asks_are_in_the_order_of_their_tickets_so_that_each_can_be_withdrawn() {
        let effective = effective(10);
        let ask = |ticket| ask(ticket, 1, &effective);
        let mut queue = KeyQueue::default();
        [2, 4, 1, 5, 3].into_iter().for_each(|ticket| queue.push(ask(ticket)));
        assert_eq!(tickets(&queue), [1, 2, 3, 4, 5]);
        queue.withdraw(Ticket(3));
        assert_eq!(tickets(&queue), [1, 2, 4, 5]);
        queue.take_waiting(&effective, |_| {});
        queue.mark_sent(effective.terms());
        [7, 3].into_iter().for_each(|ticket| queue.push(ask(ticket)));
        queue.withdraw(Ticket(4));
        // The store did nothing: what was sent waits again, apart from the withdrawn ask.
        queue.requeue_sent(&mut Vec::new());
        assert_eq!(tickets(&queue), [1, 2, 3, 5, 7]);
    }

    #[test]
    fn the_asks_of_one_check_keep_their_order_when_they_are_sent_again() {
        let effective = effective(10);
        let mut queue = KeyQueue::default();
        for reservation in [0, 1, 2] {
            queue.push(QueuedAsk { reservation, ..ask(5, 1, &effective) });
        }
        queue.take_waiting(&effective, |_| {});
        queue.requeue_sent(&mut Vec::new());
        assert_eq!(queue.waiting.iter().map(|ask| ask.reservation).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn an_item_takes_at_most_4096_asks_and_the_others_wait_for_the_next() {
        let effective = effective(10);
        let mut queue = KeyQueue::default();
        (0..4100).for_each(|ticket| queue.push(ask(ticket, 2, &effective)));
        for count in [4096, 4] {
            let (_, asks, _) = queue.take_waiting(&effective, |_| {});
            assert_eq!(asks, [Ask { hits: 2, count, overdraft: false }]);
            queue.complete(true);
        }
    }

    #[test]
    fn the_hits_of_denied_asks_add_up_without_those_that_never_pass() {
        let effective = effective(10);
        let mut queue = KeyQueue::default();
        let asks = [3, 3, 3, 10, 11, 2];
        (0..).zip(asks).for_each(|(ticket, hits)| queue.push(ask(ticket, hits, &effective)));
        queue.take_waiting(&effective, |_| {});
        let denied = |counts: [u32; 4]| queue.denied_by(&counts.map(|count| Granted { count, fits_at: None }), 10);
        assert_eq!(denied([3, 1, 1, 1]), 0);
        assert_eq!(denied([1, 1, 0, 0]), 2 * 3 + 2);
        assert_eq!(denied([0, 0, 0, 0]), 3 * 3 + 10 + 2, "11 hits never pass a limit of 10");
    }

    #[test]
    fn a_queue_has_something_to_send_while_it_has_asks_returns_or_debts() {
        let effective = effective(10);
        let mut queue = KeyQueue::default();
        let state = |queue: &KeyQueue| (queue.has_anything_to_send(), queue.is_empty());
        assert_eq!(state(&queue), (false, true));
        queue.push(ask(1, 1, &effective));
        assert_eq!(state(&queue), (true, false));
        queue.take_waiting(&effective, |_| {});
        queue.mark_sent(effective.terms());
        assert_eq!(state(&queue), (false, false), "an item is in flight");
        queue.complete(true);
        assert_eq!(state(&queue), (false, true));
        queue.return_to_window(WindowReturn { cell_ms: 1000, incarnation: Incarnation(1), tokens: 3 });
        assert_eq!(state(&queue), (true, false));
        queue.send_window_returns();
        let outage = queue.outage.insert(Outage::new(&effective, DebtId(1), &CX));
        outage.admit(1, false, &effective, &LastSeen::Nothing, &CX);
        assert_eq!(state(&queue), (true, false), "a debt is unreported");
    }

    #[test]
    fn tokens_of_one_cell_and_incarnation_go_back_together() {
        let mut queue = KeyQueue::default();
        let back =
            |cell_ms, incarnation, tokens| WindowReturn { cell_ms, incarnation: Incarnation(incarnation), tokens };
        for (cell_ms, incarnation) in [(1000, 1), (1000, 1), (2000, 1), (2000, 2), (2000, 2)] {
            queue.return_to_window(back(cell_ms, incarnation, 3));
        }
        assert_eq!(queue.window_returns.next, [back(1000, 1, 6), back(2000, 1, 3), back(2000, 2, 6)]);
        assert_eq!(queue.returning(), 15);
    }
}
