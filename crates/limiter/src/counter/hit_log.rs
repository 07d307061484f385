//! When the hits of a small limit were charged.
//!
//! A cell knows how many hits it has, and not when they came. For a limit of 5 that is too coarse: a client that asks
//! well spaced would be denied now and then. So the record of a small limit also keeps a log of its charges, from which
//! the store knows which hits of an older cell have left the window.

use serde::{Deserialize, Serialize};

use crate::time::StoreTime;

/// The largest limit whose hits are logged.
pub const MAX_LOGGED_LIMIT: u64 = 20;
/// A log has at most this many entries. Those of a limit that never takes hits back are fewer.
pub const MAX_LOG: usize = 64;
/// An entry counts no more hits than this. If fewer hits are known to be old, more count.
pub const MAX_LOGGED_HITS: u64 = 0xffff;

/// Hits that were charged at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedHits {
    pub at: StoreTime,
    pub hits: u64,
}

/// The charges of one counter, the oldest first. Hits that were taken back stay in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitLog(Vec<LoggedHits>);

impl HitLog {
    /// A log without entries.
    pub const EMPTY: &'static Self = &Self(Vec::new());

    /// The entries, the oldest first.
    pub fn entries(&self) -> &[LoggedHits] {
        &self.0
    }

    /// Notes a charge to the cell that begins at `cell_start`. If the log is full, the hits of its last entry count as
    /// charged now, or are forgotten if they are of an older cell. Either way they count longer, never shorter.
    pub fn note(&mut self, cell_start: StoreTime, at: StoreTime, hits: u64) {
        let full = self.0.len() >= MAX_LOG;
        match self.0.last_mut() {
            // In this cell they would stand for hits that were never charged to it.
            Some(last) if full && last.at < cell_start => *last = LoggedHits { at, hits: hits.min(MAX_LOGGED_HITS) },
            Some(last) if full || last.at >= at => {
                last.at = last.at.max(at);
                last.hits = (last.hits + hits.min(MAX_LOGGED_HITS)).min(MAX_LOGGED_HITS);
            }
            _ => self.0.push(LoggedHits { at, hits: hits.min(MAX_LOGGED_HITS) }),
        }
    }

    /// Drops the entries from before `oldest`.
    pub fn drop_before(&mut self, oldest: StoreTime) {
        self.0.retain(|entry| entry.at >= oldest);
    }

    /// The entries of the cell from `start_ms` until `end_ms`, in milliseconds since the epoch.
    pub fn of_cell(&self, start_ms: u64, end_ms: u64) -> impl Iterator<Item = &LoggedHits> {
        let (start, end) = (StoreTime::from_millis(start_ms), StoreTime::from_millis(end_ms));
        self.0.iter().filter(move |entry| start <= entry.at && entry.at < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_dates_hits_later_and_never_earlier() {
        let mut log = HitLog::default();
        (0..100).for_each(|at| log.note(StoreTime(0), StoreTime(at), 1));
        assert_eq!(log.entries().len(), MAX_LOG);
        assert_eq!(log.entries()[0], LoggedHits { at: StoreTime(0), hits: 1 });
        assert_eq!(log.entries()[MAX_LOG - 1], LoggedHits { at: StoreTime(99), hits: 37 });
        log.note(StoreTime(99), StoreTime(110), 1);
        assert_eq!(log.entries()[MAX_LOG - 1], LoggedHits { at: StoreTime(110), hits: 38 }, "the cell has all of them");
        log.note(StoreTime(111), StoreTime(120), 2);
        assert_eq!(log.entries()[MAX_LOG - 1], LoggedHits { at: StoreTime(120), hits: 2 }, "the cell has no more");
    }

    #[test]
    fn a_hit_at_the_end_of_a_cell_is_of_the_next_one() {
        let mut log = HitLog::default();
        for at in [999, 1000, 1999, 2000] {
            log.note(StoreTime(0), StoreTime(at), 1);
        }
        let of_cell: Vec<u64> = log.of_cell(1, 2).map(|entry| entry.at.0).collect();
        assert_eq!(of_cell, [1000, 1999]);
    }

    #[test]
    fn charges_of_one_instant_are_one_entry() {
        let mut log = HitLog::default();
        log.note(StoreTime(0), StoreTime(5), 2);
        log.note(StoreTime(0), StoreTime(5), u64::MAX);
        log.note(StoreTime(0), StoreTime(3), 1);
        assert_eq!(log.entries(), [LoggedHits { at: StoreTime(5), hits: MAX_LOGGED_HITS }]);
    }
}
