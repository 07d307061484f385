//! The checks of a shard that wait for the store, by ticket.

use std::collections::HashMap;

use super::pending_check::PendingCheck;
use crate::check::Check;
use crate::ids::Ticket;

/// About the memory of a check that waits, without its attributes and limits, in bytes.
const CHECK_BYTES: usize = 1024;
/// About the memory of each limit of a check that waits, in bytes.
const LIMIT_BYTES: usize = 256;
/// About the memory of each descriptor and each attribute beside its text, in bytes.
const PART_BYTES: usize = 64;
/// The memory that each check may take for itself, in bytes. It is enough for the check of a browser's request with
/// some limits. Such a check waits however much others take.
const OWN_BYTES: usize = 4096;
/// The memory that the checks share beyond that, in bytes for each check that may wait.
const SHARED_BYTES: usize = 1024;

/// The waiting checks. `W` is what the shard keeps for the caller of each.
#[derive(Debug)]
pub struct PendingChecks<W> {
    checks: HashMap<Ticket, (PendingCheck, W), ahash::RandomState>,
    next: Ticket,
    /// The memory of these checks beyond [`OWN_BYTES`] of each, in bytes.
    shared_bytes: usize,
}

/// About the memory of a check that waits, with what its caller keeps of it, in bytes.
pub fn bytes_of(check: &Check<'_>, pending: &PendingCheck) -> usize {
    let texts = check.descriptors.iter().flat_map(|descriptor| descriptor.entries);
    let texts = texts.map(|(name, value)| PART_BYTES + name.len() + value.len()).sum::<usize>();
    let limits = pending.reported_limits.len().max(pending.reservations.len());
    CHECK_BYTES + check.descriptors.len() * PART_BYTES + texts + limits * LIMIT_BYTES
}

/// The memory that a check takes of what all share.
const fn shared(check: &PendingCheck) -> usize {
    check.bytes.saturating_sub(OWN_BYTES)
}

impl<W> PendingChecks<W> {
    /// No waiting checks. Tickets begin at `first`.
    pub fn new(seeds: [u64; 4], first: Ticket) -> Self {
        let [a, b, c, d] = seeds;
        Self { checks: HashMap::with_hasher(ahash::RandomState::with_seeds(b, c, d, a)), next: first, shared_bytes: 0 }
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

    /// True if there is memory for `check` among checks of which at most `most` may wait. No check is too large if
    /// the others take nothing of what all share.
    pub fn has_room_for(&self, check: &PendingCheck, most: usize) -> bool {
        let all = self.shared_bytes.saturating_add(shared(check));
        shared(check) == 0 || self.shared_bytes == 0 || all <= most.saturating_mul(SHARED_BYTES)
    }

    pub fn insert(&mut self, ticket: Ticket, check: PendingCheck, waiter: W) {
        self.shared_bytes += shared(&check);
        self.checks.insert(ticket, (check, waiter));
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut PendingCheck> {
        self.checks.get_mut(&ticket).map(|(check, _)| check)
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<(PendingCheck, W)> {
        let Self { checks, shared_bytes, .. } = self;
        checks.remove(&ticket).inspect(|(check, _)| *shared_bytes -= shared(check))
    }

    pub fn len(&self) -> usize {
        self.checks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Charging, Descriptor};

    #[test]
    fn the_memory_of_a_check_depends_on_its_descriptors_attributes_and_limits() {
        let descriptor =
            |entries| Descriptor { entries, ordered: true, hits: 1, charging: Charging::IfAllowed, limit: None };
        let long = "x".repeat(1000);
        let attributes = [("user", "alice"), ("path", long.as_str())];
        let bytes = |descriptors: &[Descriptor<'_>], limits: &[(usize, usize)]| {
            let mut pending = PendingCheck::default();
            pending.reported_limits.extend_from_slice(limits);
            bytes_of(&Check { domain: "d", descriptors }, &pending)
        };
        assert_eq!(bytes(&[], &[]), 1024);
        assert_eq!(bytes(&[descriptor(&attributes)], &[(0, 0)]), 1024 + 64 + (64 + 9) + (64 + 1004) + 256);
        let three = [&attributes[..1], &attributes[..1], &attributes[..0]].map(descriptor);
        assert_eq!(bytes(&three, &[(0, 0), (0, 1)]), 1024 + 3 * 64 + 2 * (64 + 9) + 2 * 256);
    }

    #[test]
    fn a_check_takes_of_the_shared_memory_what_it_needs_beyond_4_kib_until_it_is_removed() {
        let check = |bytes| {
            let mut check = PendingCheck::default();
            check.bytes = bytes;
            check
        };
        let mut pending = PendingChecks::new([1, 2, 3, 4], Ticket(5));
        assert!(pending.is_empty() && pending.has_room_for(&check(1 << 20), 2), "one check is never too large");
        let ticket = pending.take_ticket();
        pending.insert(ticket, check(4096 + 2000), ());
        assert_eq!((ticket, pending.next_ticket(), pending.len()), (Ticket(5), Ticket(6), 1));
        assert!(!pending.is_empty());
        // Two checks share 2 KiB.
        for (bytes, has_room) in [(4096, true), (4096 + 48, true), (4096 + 49, false)] {
            assert_eq!(pending.has_room_for(&check(bytes), 2), has_room, "{bytes} bytes");
        }
        assert!(pending.remove(ticket).is_some() && pending.remove(ticket).is_none());
        assert!(pending.is_empty() && pending.has_room_for(&check(1 << 20), 2));
    }
}
