//! What a world's store and clients have counted.

use limiter::counter::Record;

use crate::world::World;

impl World {
    /// Returns the hits that the store has charged to the counters of `user`, in all cells.
    pub fn charged_hits(&self, user: u8) -> u64 {
        let name = format!("/{user}");
        self.charged_hits_where(|key| key.ends_with(name.as_bytes()))
    }

    /// Returns the hits that the store has charged to the counters whose key `matches`, in all cells.
    pub fn charged_hits_where(&self, matches: impl Fn(&[u8]) -> bool) -> u64 {
        let charged = |record: &Option<Record>| match record {
            Some(Record::Window(window)) => window.cells.iter().map(|cell| cell.used()).sum(),
            _ => 0,
        };
        self.store.iter().filter(|(key, _)| matches(key)).map(|(_, record)| charged(record)).sum()
    }

    /// Returns the hits that are missing in the bucket of `user` at the store.
    pub fn missing_hits(&self, user: u8) -> u64 {
        let name = format!("/{user}");
        let missing = |record: &Option<Record>| match record {
            Some(Record::Bucket(bucket)) => bucket.missing(),
            _ => 0,
        };
        self.store.iter().filter(|(key, _)| key.ends_with(name.as_bytes())).map(|(_, record)| missing(record)).sum()
    }

    /// Returns the hits that were admitted for `user`.
    pub fn admitted_hits(&self, user: u8) -> u64 {
        self.admissions.iter().filter(|a| a.user == user).map(|a| a.hits).sum()
    }

    /// Returns the number of debts that the store keeps until they are confirmed.
    pub fn unconfirmed_debts(&self) -> usize {
        let debts = |record: &Option<Record>| match record {
            Some(Record::Window(window)) => window.received.as_ref().map_or(0, |received| received.debts.len()),
            _ => 0,
        };
        self.store.values().map(debts).sum()
    }
}
