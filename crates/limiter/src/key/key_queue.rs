//! What only a key under way to the store needs: checks that wait, one item in flight, hits on their way back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::messages::{Applied, Outcome, Waiting};
use super::outage::Outage;
use crate::counter::{Ask, BucketReturn, WindowReturn};
use crate::revision::Revision;
use crate::rules::Effective;

/// At most so many waiting asks go into one item.
const MAX_ASKS: usize = 4096;

#[derive(Debug, Default)]
pub struct Traffic {
    /// In the order of their asking.
    waiting: VecDeque<Waiting>,
    /// Whether that is not the order of their tickets, as a bucket's need not be, which is asked last.
    mixed: bool,
    flying: Vec<Waiting>,
    /// Tickets of checks that left while the item was in flight.
    left: Vec<u64>,
    in_flight: bool,
    /// Revision of the rules that the item in flight was made under.
    sent_revision: Revision,
    window_returns: Returns<WindowReturn>,
    bucket_returns: Returns<BucketReturn>,
    pub outage: Option<Outage>,
}

/// What goes back, and what of it is in flight: kept in case nothing was applied.
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

impl Traffic {
    pub fn ask(&mut self, waiting: Waiting) {
        self.mixed = !self.waiting.is_empty()
            && (self.mixed || self.waiting.back().is_some_and(|last| last.ticket > waiting.ticket));
        self.waiting.push_back(waiting);
    }

    /// A check waits no more. Where thousands wait for a store that does not answer all of them leave, one by one.
    pub fn withdraw(&mut self, ticket: u64) {
        if self.in_flight {
            self.left.push(ticket);
        }
        if self.mixed {
            self.waiting.retain(|waiting| waiting.ticket != ticket);
            return;
        }
        let first = self.waiting.partition_point(|waiting| waiting.ticket < ticket);
        while self.waiting.get(first).is_some_and(|waiting| waiting.ticket == ticket) {
            self.waiting.remove(first);
        }
    }

    /// The check that waits longest, if it is of this revision and so many tokens cover it.
    pub fn next_within(&mut self, tokens: u64, revision: Revision) -> Option<Waiting> {
        self.waiting.pop_front_if(|next| next.effective.revision == revision && next.hits.max(1) <= tokens)
    }

    pub fn give_back_to_window(&mut self, back: WindowReturn) {
        // Of one lot they go back together.
        let lot = |other: &&mut WindowReturn| (other.cell_ms, other.source) == (back.cell_ms, back.source);
        match self.window_returns.next.last_mut().filter(lot) {
            Some(last) => last.tokens = last.tokens.saturating_add(back.tokens),
            None => self.window_returns.next.push(back),
        }
    }

    pub fn give_back_to_bucket(&mut self, back: BucketReturn) {
        self.bucket_returns.next.push(back);
    }

    /// Whether checks wait to be sent.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub const fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether checks wait or hits go back.
    pub fn is_needed(&self) -> bool {
        self.waits() || !self.window_returns.next.is_empty() || !self.bucket_returns.next.is_empty()
    }

    /// Whether there is something to be sent.
    pub fn has_news(&self) -> bool {
        self.is_needed() || self.outage.as_ref().is_some_and(Outage::is_unreported)
    }

    /// Whether it holds nothing at all.
    pub fn is_quiet(&self) -> bool {
        !self.in_flight && self.flying.is_empty() && !self.is_needed() && self.outage.is_none()
    }

    /// Hits on their way back to the store.
    pub fn coming_back(&self) -> u64 {
        let windows = self.window_returns.iter().map(|back| back.tokens);
        windows.chain(self.bucket_returns.iter().map(|back| back.hits)).fold(0, u64::saturating_add)
    }

    /// Takes those who wait under one revision into the next item: their limit, or `otherwise` when nobody waits, and
    /// what they ask for. `spent` is told of each.
    pub fn board(&mut self, otherwise: &Arc<Effective>, mut spent: impl FnMut(u64)) -> (Arc<Effective>, Vec<Ask>) {
        let effective = Arc::clone(self.waiting.front().map_or(otherwise, |w| &w.effective));
        let mut asks: Vec<Ask> = Vec::new();
        while self.flying.len() < MAX_ASKS
            && let Some(next) = self.waiting.pop_front_if(|w| w.effective.revision == effective.revision)
        {
            match asks.last_mut().filter(|run| run.hits == next.hits) {
                Some(run) => run.count += 1,
                None => asks.push(Ask { hits: next.hits, count: 1 }),
            }
            spent(next.hits);
            self.flying.push(next);
        }
        (effective, asks)
    }

    /// What goes back to a window with the next item.
    pub fn send_to_window(&mut self) -> Vec<WindowReturn> {
        self.window_returns.send()
    }

    /// What goes back to a bucket with the next item.
    pub fn send_to_bucket(&mut self) -> Vec<BucketReturn> {
        self.bucket_returns.send()
    }

    /// The item takes off.
    pub const fn take_off(&mut self, revision: Revision) {
        (self.in_flight, self.sent_revision) = (true, revision);
    }

    /// The item is answered: who flew with it, and the revision that it was made under. `reported` says that the store has
    /// charged the debts that it brought.
    pub fn answered(&mut self, reported: bool) -> (Vec<Waiting>, Revision) {
        self.land(reported);
        (std::mem::take(&mut self.flying), self.sent_revision)
    }

    /// The store did nothing with the item: what was sent is to be sent once more, but for asks that were already, and for
    /// checks that have left.
    pub fn resend(&mut self, out: &mut Vec<(Waiting, Outcome)>) {
        self.keep_returns();
        let mut left = std::mem::take(&mut self.left);
        left.sort_unstable();
        self.land(false);
        for mut waiting in std::mem::take(&mut self.flying).into_iter().rev() {
            if left.binary_search(&waiting.ticket).is_ok() {
                continue;
            }
            if waiting.resent {
                out.push((waiting, Outcome::Failed));
            } else {
                waiting.resent = true;
                self.waiting.push_front(waiting);
            }
        }
        self.mixed = !self.waiting.iter().is_sorted_by_key(|waiting| waiting.ticket);
    }

    /// No answer came. What was sent is not sent again when the store may have run it; debts are, which is harmless.
    pub fn fail(&mut self, applied: Applied, out: &mut Vec<(Waiting, Outcome)>) {
        if applied == Applied::No {
            self.keep_returns();
        }
        self.land(false);
        out.extend(self.flying.drain(..).map(|w| (w, Outcome::Failed)));
    }

    /// Nothing can be sent: those who wait are not decided by the store.
    pub fn fail_waiting(&mut self, out: &mut Vec<(Waiting, Outcome)>) {
        out.extend(self.waiting.drain(..).map(|w| (w, Outcome::Failed)));
        self.mixed = false;
    }

    fn keep_returns(&mut self) {
        self.window_returns.next.append(&mut self.window_returns.sent);
        self.bucket_returns.next.append(&mut self.bucket_returns.sent);
    }

    fn land(&mut self, reported: bool) {
        self.in_flight = false;
        self.left.clear();
        self.window_returns.sent.clear();
        self.bucket_returns.sent.clear();
        if let Some(outage) = &mut self.outage {
            outage.reported(reported);
        }
    }
}
