//! What Redis says no to, for those who look after it: `LOADING`, `OOM` and the like, of any of a region's servers.

use std::sync::{Mutex, PoisonError};

use crate::ports::location::Address;

/// So many heartbeats after it was last heard a complaint stands: checks may be further apart than they are.
const STANDS: u32 = 4;

/// The newest complaint.
#[derive(Default)]
pub struct Complaints(Mutex<Option<Complaint>>);

struct Complaint {
    of: Address,
    why: String,
    /// Heartbeats since it was heard.
    age: u32,
}

impl Complaints {
    /// Notes what a server said; what is new is logged.
    pub fn note(&self, of: &Address, why: &str) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *newest {
            Some(last) if last.of == *of && last.why == why => last.age = 0,
            newest => {
                tracing::warn!(server = %of, why, "Redis refuses what it is asked");
                *newest = Some(Complaint { of: of.clone(), why: why.to_owned(), age: 0 });
            }
        }
    }

    /// A heartbeat: one that was not heard for a while stands no more.
    pub fn age(&self) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.iter_mut().for_each(|complaint| complaint.age += 1);
        newest.take_if(|complaint| complaint.age >= STANDS);
    }

    /// The newest that stands.
    pub fn standing(&self) -> Option<String> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.as_ref().map(|Complaint { of, why, .. }| format!("{of}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_stands_until_it_was_not_heard_for_a_while() {
        let complaints = Complaints::default();
        let server = Address { host: "h".to_owned(), port: 1 };
        assert_eq!(complaints.standing(), None);
        for _ in 0..3 {
            complaints.note(&server, "OOM");
            (1..STANDS).for_each(|_| complaints.age());
            assert_eq!(complaints.standing().as_deref(), Some("h:1: OOM"));
        }
        complaints.age();
        assert_eq!(complaints.standing(), None);
    }
}
