//! The checks of a shard that wait for the store, by ticket.

use std::collections::HashMap;

use super::pending_check::PendingCheck;
use crate::ids::Ticket;

/// The waiting checks. `W` is what the shard keeps for the caller of each.
#[derive(Debug)]
pub struct PendingChecks<W> {
    checks: HashMap<Ticket, (PendingCheck, W), ahash::RandomState>,
    next: Ticket,
}

impl<W> PendingChecks<W> {
    /// No waiting checks. Tickets begin at `first`.
    pub fn new(seeds: [u64; 4], first: Ticket) -> Self {
        let [a, b, c, d] = seeds;
        Self { checks: HashMap::with_hasher(ahash::RandomState::with_seeds(b, c, d, a)), next: first }
    }

    /// The ticket of the next check. It stays the same until a check takes it.
    pub const fn next_ticket(&self) -> Ticket {
        self.next
    }

    /// Takes [`Self::next_ticket`].
    pub const fn take_ticket(&mut self) -> Ticket {
        let ticket = self.next;
        self.next = Ticket(ticket.0 + 1);
        ticket
    }

    pub fn insert(&mut self, ticket: Ticket, check: PendingCheck, waiter: W) {
        self.checks.insert(ticket, (check, waiter));
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut PendingCheck> {
        self.checks.get_mut(&ticket).map(|(check, _)| check)
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<(PendingCheck, W)> {
        self.checks.remove(&ticket)
    }

    pub fn len(&self) -> usize {
        self.checks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }
}
