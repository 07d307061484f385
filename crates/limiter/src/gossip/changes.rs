//! The newest report of every key, in the order of the last changes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use hashbrown::HashMap;

use super::report::{MAX_REPORTED_CELLS, Report};
use crate::counter::{Cell, Entry, Grid, SeenCells, cell_mut};
use crate::time::{NodeTime, StoreTime};

/// The newest report of every key. A change has a version, and each key has the version of its last change.
#[derive(Debug)]
pub struct Changes {
    keys: HashMap<Arc<[u8]>, Known, ahash::RandomState>,
    /// By the version of their last change.
    by_version: BTreeMap<u64, Arc<[u8]>>,
    /// One for each key. It may be earlier than the end that the key has now.
    ends: BinaryHeap<Reverse<(NodeTime, Arc<[u8]>)>>,
    last_version: u64,
    max_keys: usize,
}

#[derive(Debug)]
struct Known {
    grid: Grid,
    cells: SeenCells,
    version: u64,
    /// Nothing of the key counts any more from then on.
    ends: NodeTime,
}

impl Changes {
    pub fn new(max_keys: usize, seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            keys: HashMap::with_hasher(ahash::RandomState::with_seeds(a, b, c, d)),
            by_version: BTreeMap::new(),
            ends: BinaryHeap::new(),
            last_version: 0,
            max_keys,
        }
    }

    /// Merges a report of a key of which nothing counts from `ends` on. Returns false if there is no room for its key.
    ///
    /// No region is told more than the changes up to the version `told`. A key that changed after it keeps its version,
    /// so that it does not move behind all others each time that it changes.
    pub fn note(&mut self, report: Report, ends: NodeTime, told: u64) -> bool {
        let Report { key, grid, cells } = report;
        if let Some(known) = self.keys.get_mut(&*key) {
            let merged = merge(&grid, &known.cells, &cells);
            if merged == known.cells && known.grid == grid {
                return true;
            }
            let ends = known.ends.max(ends);
            (known.grid, known.cells, known.ends) = (grid, merged, ends);
            if known.version <= told {
                self.touch(&key);
            }
            return true;
        }
        if self.keys.len() >= self.max_keys {
            return false;
        }
        let name: Arc<[u8]> = key.into();
        self.ends.push(Reverse((ends, Arc::clone(&name))));
        self.last_version += 1;
        self.by_version.insert(self.last_version, Arc::clone(&name));
        self.keys.insert(name, Known { grid, cells, version: self.last_version, ends });
        true
    }

    /// The reports of keys that changed after `version`, the earliest change first, and the version of the last of
    /// them: about `max_bytes` of them.
    pub fn after(&self, version: u64, max_bytes: usize) -> (Vec<Report>, u64) {
        let (mut last, mut bytes, mut reports) = (version, 0, Vec::new());
        for (version, name) in self.by_version.range(version.saturating_add(1)..) {
            if bytes >= max_bytes {
                break;
            }
            last = *version;
            let Some(known) = self.keys.get(name) else { continue };
            bytes += name.len() + known.cells.iter().map(|(_, entries)| 16 + 20 * entries.len()).sum::<usize>();
            reports.push(Report { key: (**name).into(), grid: known.grid, cells: known.cells.clone() });
        }
        (reports, last)
    }

    /// Counts a key as changed: a region could not store it.
    pub fn touch(&mut self, key: &[u8]) {
        let Some(known) = self.keys.get_mut(key) else { return };
        let Some(name) = self.by_version.remove(&known.version) else { return };
        self.last_version += 1;
        known.version = self.last_version;
        self.by_version.insert(known.version, name);
    }

    /// The version of the last change.
    pub const fn last_version(&self) -> u64 {
        self.last_version
    }

    /// True if a key changed after `version`.
    pub fn has_after(&self, version: u64) -> bool {
        self.by_version.last_key_value().is_some_and(|(last, _)| *last > version)
    }

    /// True if the last change of a key is after `version` and not after `until`.
    pub fn has_between(&self, version: u64, until: u64) -> bool {
        version < until && self.by_version.range(version + 1..=until).next().is_some()
    }

    /// Forgets keys of which nothing counts any more, at most `count`.
    pub fn sweep(&mut self, count: usize, now: NodeTime) {
        for _ in 0..count {
            let Some(Reverse((end, _))) = self.ends.peek() else { return };
            if *end > now {
                return;
            }
            let Some(Reverse((_, name))) = self.ends.pop() else { return };
            match self.keys.get(&name) {
                Some(known) if known.ends > now => self.ends.push(Reverse((known.ends, name))),
                Some(known) => {
                    self.by_version.remove(&known.version);
                    self.keys.remove(&name);
                }
                None => {}
            }
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The number of keys that changed after `version`.
    pub fn count_after(&self, version: u64) -> usize {
        self.by_version.range(version.saturating_add(1)..).count()
    }
}

/// Merges two views of a key: the cells that count when the newest one is the current.
fn merge(grid: &Grid, a: &SeenCells, b: &SeenCells) -> SeenCells {
    // Most counters have one cell that one incarnation charges.
    if let (SeenCells::One { start_ms, entry: known }, SeenCells::One { start_ms: of, entry: new }) = (a, b)
        && start_ms == of
        && known.incarnation == new.incarnation
    {
        let (charged, returned) = (known.charged.max(new.charged), known.returned.max(new.returned));
        return SeenCells::One { start_ms: *start_ms, entry: Entry { charged, returned, ..*new } };
    }
    let mut cells: Vec<Cell> = Vec::new();
    for (start_ms, entries) in a.iter().chain(b.iter()) {
        let newest = entries.last().map(|entry| entry.incarnation).unwrap_or_default();
        cell_mut(&mut cells, start_ms).merge(entries, newest);
    }
    let newest_ms = cells.first().map_or(0, |cell| cell.start_ms);
    let oldest_ms = grid.span_at(StoreTime::from_millis(newest_ms)).map_or(newest_ms, |span| span.oldest_ms);
    cells.retain(|cell| cell.start_ms >= oldest_ms);
    cells.truncate(MAX_REPORTED_CELLS);
    cells.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn report(key: &str, start_ms: u64, charged: u64) -> Report {
        let entries = vec![Entry { incarnation: Incarnation(1), charged, returned: 0 }];
        let cells = [Cell { start_ms, entries }].as_slice().into();
        Report { key: key.as_bytes().into(), grid: Grid::Rolling { window_ms: 3000, cells: 3 }, cells }
    }

    fn told(changes: &Changes, version: u64) -> Vec<String> {
        let (reports, _) = changes.after(version, 10_000);
        reports.iter().map(|report| String::from_utf8_lossy(&report.key).into_owned()).collect()
    }

    #[test]
    fn a_key_is_told_again_only_after_a_change() {
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        for (key, charged) in [("a", 1), ("b", 1), ("a", 2), ("b", 1), ("a", 1)] {
            assert!(changes.note(report(key, 0, charged), NodeTime(100), u64::MAX));
        }
        assert_eq!(told(&changes, 0), ["b", "a"]);
        let (reports, version) = changes.after(0, 1);
        assert_eq!((reports.len(), told(&changes, version)), (1, vec!["a".to_owned()]));
        assert_eq!(changes.after(0, 10_000).0[1].cells, report("a", 0, 2).cells);
        assert!(changes.has_after(version) && !changes.has_after(changes.last_version));
        let (_, last) = changes.after(0, 10_000);
        assert!(changes.note(report("a", 0, 2), NodeTime(100), u64::MAX));
        assert!(!changes.has_after(last), "nothing changed");
    }

    #[test]
    fn each_change_has_the_next_version_and_each_key_that_of_its_last_change() {
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        assert_eq!(changes.last_version(), 0);
        for (key, charged) in [("a", 1), ("b", 1), ("c", 1), ("a", 2)] {
            changes.note(report(key, 0, charged), NodeTime(100), u64::MAX);
        }
        // No key has the version 1 any more.
        assert_eq!(changes.last_version(), 4);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|version| changes.count_after(version)), [3, 3, 2, 1, 0, 0]);
        let between = [(0, 1), (0, 2), (1, 2), (2, 2), (2, 3), (3, 9), (4, 9), (4, 2)];
        let expected = [false, true, true, false, true, true, false, false];
        assert_eq!(between.map(|(version, until)| changes.has_between(version, until)), expected);
    }

    #[test]
    fn a_message_ends_with_the_report_that_fills_it() {
        let entry = |n| Entry { incarnation: Incarnation(n), charged: 1, returned: 0 };
        let cells =
            [Cell { start_ms: 1000, entries: vec![entry(1), entry(2)] }, Cell { start_ms: 0, entries: vec![entry(1)] }];
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        changes.note(Report { cells: cells.as_slice().into(), ..report("key", 0, 0) }, NodeTime(100), u64::MAX);
        changes.note(report("next", 0, 1), NodeTime(100), u64::MAX);
        // The name has 3 bytes. Each of the two cells counts as 16 bytes, each of the three entries as 20.
        for (max_bytes, count) in [(0, 0), (1, 1), (95, 1), (96, 2)] {
            assert_eq!(changes.after(0, max_bytes).0.len(), count, "{max_bytes} bytes");
        }
    }

    #[test]
    fn reports_in_the_wrong_order_take_nothing_back() {
        let one = |charged, returned| {
            let entry = Entry { incarnation: Incarnation(1), charged, returned };
            Report { cells: SeenCells::One { start_ms: 0, entry }, ..report("a", 0, 0) }
        };
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        for (charged, returned) in [(5, 0), (3, 2), (4, 1)] {
            changes.note(one(charged, returned), NodeTime(100), u64::MAX);
        }
        assert_eq!(changes.after(0, 1).0, [one(5, 2)]);
    }

    #[test]
    fn what_two_incarnations_counted_in_one_cell_is_told_together() {
        let entry = |n, charged| Entry { incarnation: Incarnation(n), charged, returned: 0 };
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        for (n, charged) in [(1, 5), (2, 3), (1, 6)] {
            let cells = SeenCells::One { start_ms: 0, entry: entry(n, charged) };
            changes.note(Report { cells, ..report("a", 0, 0) }, NodeTime(100), u64::MAX);
        }
        assert_eq!(changes.after(0, 1).0[0].cells, SeenCells::one_cell(0, vec![entry(1, 6), entry(2, 3)]));
    }

    #[test]
    fn a_key_that_no_region_is_told_of_keeps_its_place() {
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        for (key, charged) in [("a", 1), ("b", 1), ("a", 2)] {
            changes.note(report(key, 0, charged), NodeTime(100), 0);
        }
        assert_eq!(told(&changes, 0), ["a", "b"]);
        assert_eq!(changes.after(0, 1).0[0].cells, report("a", 0, 2).cells);
        changes.note(report("a", 0, 3), NodeTime(100), 1);
        assert_eq!(told(&changes, 1), ["b", "a"], "a region is told of it, and of this change it is not");
    }

    #[test]
    fn all_cells_that_count_are_told_after_a_long_silence() {
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        for cell in 0..9 {
            changes.note(report("a", cell * 1000, cell + 1), NodeTime(100), u64::MAX);
        }
        let (reports, _) = changes.after(0, 1);
        let starts: Vec<u64> = reports[0].cells.iter().map(|(start_ms, _)| start_ms).collect();
        assert_eq!(starts, [8000, 7000, 6000, 5000]);
    }

    #[test]
    fn keys_that_have_ended_make_room_and_a_new_key_finds_none_before() {
        let mut changes = Changes::new(2, [1, 2, 3, 4]);
        assert!(changes.note(report("a", 0, 1), NodeTime(100), u64::MAX));
        assert!(changes.note(report("b", 0, 1), NodeTime(100), u64::MAX));
        assert!(!changes.note(report("c", 0, 1), NodeTime(100), u64::MAX));
        assert!(changes.note(report("b", 0, 2), NodeTime(900), u64::MAX), "a known key needs no room");
        changes.sweep(10, NodeTime(100));
        assert_eq!((changes.len(), told(&changes, 0)), (1, vec!["b".to_owned()]));
        assert!(changes.note(report("c", 0, 1), NodeTime(900), u64::MAX));
        changes.sweep(10, NodeTime(900));
        assert_eq!((changes.len(), told(&changes, 0)), (0, Vec::new()));
    }

    #[test]
    fn a_sweep_forgets_keys_from_their_end_on_and_no_more_than_it_may() {
        let mut changes = Changes::new(10, [1, 2, 3, 4]);
        for key in ["a", "b", "c", "d"] {
            changes.note(report(key, 0, 1), NodeTime(100), u64::MAX);
        }
        for (count, now, left) in [(10, 99, 4), (1, 100, 3), (1, 101, 2), (10, 200, 0)] {
            changes.sweep(count, NodeTime(now));
            assert_eq!(changes.len(), left, "{now}");
        }
    }
}
