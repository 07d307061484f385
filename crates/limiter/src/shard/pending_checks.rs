//! The checks of a shard that wait for the store, by ticket.

use std::collections::HashMap;

use super::pending_check::PendingCheck;
use crate::check::Check;
use crate::ids::Ticket;

/// About the memory of a check that waits, without its attributes and limits, in bytes.
pub const CHECK_BYTES: usize = 1024;
/// About the memory of each limit of a check that waits, in bytes.
pub const LIMIT_BYTES: usize = 256;
/// About the memory of each descriptor and each attribute beside its text, in bytes.
const PART_BYTES: usize = 64;

/// The waiting checks. `W` is what the shard keeps for the caller of each.
#[derive(Debug)]
pub struct PendingChecks<W> {
    checks: HashMap<Ticket, (PendingCheck, W), ahash::RandomState>,
    next: Ticket,
    /// The memory of these checks beyond [`CHECK_BYTES`] of each, in bytes.
    extra_bytes: usize,
}

/// About the memory of a check that waits, with what its caller keeps of it, in bytes.
pub fn bytes_of(check: &Check<'_>, pending: &PendingCheck) -> usize {
    let texts = check.descriptors.iter().flat_map(|descriptor| descriptor.entries);
    let texts = texts.map(|(name, value)| PART_BYTES + name.len() + value.len()).sum::<usize>();
    let limits = pending.reported_limits.len().max(pending.reservations.len());
    CHECK_BYTES + check.descriptors.len() * PART_BYTES + texts + limits * LIMIT_BYTES
}

const fn extra(check: &PendingCheck) -> usize {
    check.bytes.saturating_sub(CHECK_BYTES)
}

impl<W> PendingChecks<W> {
    /// No waiting checks. Tickets begin at `first`.
    pub fn new(seeds: [u64; 4], first: Ticket) -> Self {
        let [a, b, c, d] = seeds;
        Self { checks: HashMap::with_hasher(ahash::RandomState::with_seeds(b, c, d, a)), next: first, extra_bytes: 0 }
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

    /// True if `check` fits among checks of which at most `most` may wait. Those that take more than [`CHECK_BYTES`]
    /// each may take as much again, all together.
    pub fn has_room_for(&self, check: &PendingCheck, most: usize) -> bool {
        self.extra_bytes.saturating_add(extra(check)) <= most.saturating_mul(CHECK_BYTES)
    }

    pub fn insert(&mut self, ticket: Ticket, check: PendingCheck, waiter: W) {
        self.extra_bytes += extra(&check);
        self.checks.insert(ticket, (check, waiter));
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut PendingCheck> {
        self.checks.get_mut(&ticket).map(|(check, _)| check)
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<(PendingCheck, W)> {
        let removed = self.checks.remove(&ticket)?;
        self.extra_bytes -= extra(&removed.0);
        Some(removed)
    }

    pub fn len(&self) -> usize {
        self.checks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }
}
