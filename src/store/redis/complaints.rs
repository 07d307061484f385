//! What Redis says no to, for those who look after it: `LOADING`, `OOM` and the like, of any of a region's servers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::location::Address;

/// So many heartbeats after it was last heard a complaint stands: checks may be further apart than they are.
const STANDS: u32 = 4;

/// The newest complaint of each server that has one.
#[derive(Default)]
pub struct Complaints(Mutex<BTreeMap<String, Complaint>>);

struct Complaint {
    why: String,
    /// Heartbeats since it was heard.
    age: u32,
}

impl Complaints {
    /// Notes what a server said. It is logged where the server had no complaint: each of many batches may be refused, for
    /// one reason or another.
    pub fn note(&self, of: &Address, why: &str) {
        let complaint = Complaint { why: why.to_owned(), age: 0 };
        if self.newest().insert(of.to_string(), complaint).is_none() {
            tracing::warn!(server = %of, why, "Redis refuses what it is asked");
        }
    }

    /// A heartbeat: what was not heard for a while stands no more.
    pub fn age(&self) {
        self.newest().retain(|_, complaint| {
            complaint.age += 1;
            complaint.age < STANDS
        });
    }

    /// Those that stand, if any.
    pub fn standing(&self) -> Option<String> {
        let all: Vec<String> = self.newest().iter().map(|(of, complaint)| format!("{of}: {}", complaint.why)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn newest(&self) -> MutexGuard<'_, BTreeMap<String, Complaint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_stands_until_it_was_not_heard_for_a_while() {
        let complaints = Complaints::default();
        let [first, second] = [1, 2].map(|port| Address::new("h".to_owned(), port));
        assert_eq!(complaints.standing(), None);
        complaints.note(&second, "LOADING");
        for _ in 0..3 {
            complaints.note(&first, "WRONGTYPE");
            complaints.note(&first, "OOM");
            complaints.age();
        }
        assert_eq!(complaints.standing().as_deref(), Some("h:1: OOM; h:2: LOADING"));
        complaints.age();
        assert_eq!(complaints.standing().as_deref(), Some("h:1: OOM"));
        (0..STANDS).for_each(|_| complaints.age());
        assert_eq!(complaints.standing(), None);
    }
}
