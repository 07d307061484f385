//! Which regions are asked for rights of which keys.

use std::collections::{BTreeMap, VecDeque};

use indexmap::IndexMap;

use super::want::Want;
use crate::counter::Given;
use crate::ids::RegionNumber;
use crate::time::NodeTime;

/// The most wants of one question.
pub const MAX_WANTS: usize = 1000;
/// Questions to one region that may wait for their answer.
const MAX_IN_FLIGHT: usize = 4;
/// A region that had nothing to give is not asked for the same key again for so long, in microseconds. The pause
/// doubles each time.
const FIRST_PAUSE_US: u64 = 50_000;
const MAX_PAUSE_US: u64 = 1_000_000;
/// Keys that are checked for their end when a new one comes.
const SWEEP: usize = 2;

/// A question to a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub to: RegionNumber,
    pub wants: Vec<Want>,
}

/// The rights that this region asks others for. It merges what is wanted of one key, and asks each region for many keys
/// at once.
#[derive(Debug)]
pub struct Requests {
    regions: BTreeMap<RegionNumber, Talk>,
    max_keys: usize,
    hasher: ahash::RandomState,
    dropped: u64,
}

/// The talk with one region.
#[derive(Debug)]
struct Talk {
    keys: IndexMap<Box<[u8]>, Asked, ahash::RandomState>,
    /// Keys that are to be asked for.
    due: VecDeque<Box<[u8]>>,
    in_flight: usize,
    sweep_position: usize,
}

/// What is known of one key.
#[derive(Debug)]
struct Asked {
    want: Want,
    /// It is among the due keys, or its answer is awaited.
    busy: bool,
    /// What the region has given of the cell so far.
    given: u64,
    /// The last question that was answered came after a denial.
    answered_denial: bool,
    pause_us: u64,
    paused_until: NodeTime,
    /// When the cell ends.
    ends: NodeTime,
}

impl Requests {
    /// Asks nobody until [`Self::set_regions`]. `max_keys` are kept for each region. `seeds` must be random.
    pub fn new(max_keys: usize, [a, b, c, d]: [u64; 4]) -> Self {
        let hasher = ahash::RandomState::with_seeds(a, b, c, d);
        Self { regions: BTreeMap::new(), max_keys, hasher, dropped: 0 }
    }

    /// The regions that can be asked.
    pub fn set_regions(&mut self, regions: impl IntoIterator<Item = RegionNumber>) {
        let mut before = std::mem::take(&mut self.regions);
        let hasher = &self.hasher;
        let mut talk = |region| before.remove(&region).unwrap_or_else(|| Talk::new(hasher.clone()));
        self.regions = regions.into_iter().map(|region| (region, talk(region))).collect();
    }

    /// Takes a want. Its cell ends at `ends`. Returns true if there may be something to ask now.
    pub fn want(&mut self, want: &Want, ends: NodeTime, now: NodeTime) -> bool {
        let count = self.regions.len().max(1) as u64;
        // Each region is asked for its part. After a denial, whoever has rights should give them.
        let hits = if want.denied { want.hits } else { want.hits.div_ceil(count) };
        let mut asks = false;
        for talk in self.regions.values_mut() {
            match talk.want(&Want { hits, ..want.clone() }, ends, now, self.max_keys) {
                Some(due) => asks |= due,
                None => self.dropped += 1,
            }
        }
        asks
    }

    /// The questions that can be asked now.
    pub fn questions(&mut self) -> Vec<Question> {
        let mut questions = Vec::new();
        for (to, talk) in &mut self.regions {
            while talk.in_flight < MAX_IN_FLIGHT && !talk.due.is_empty() {
                let due = talk.due.drain(..talk.due.len().min(MAX_WANTS));
                let wants: Vec<Want> = due.filter_map(|key| talk.keys.get(&key)).map(Asked::want_now).collect();
                if !wants.is_empty() {
                    talk.in_flight += 1;
                    questions.push(Question { to: *to, wants });
                }
            }
        }
        questions
    }

    /// A region has answered a question, or will not answer it. `answers` are in the order of its wants; a want without
    /// an answer has failed.
    pub fn answered(&mut self, question: &Question, answers: &[Option<Given>], now: NodeTime) {
        let Some(talk) = self.regions.get_mut(&question.to) else { return };
        talk.in_flight = talk.in_flight.saturating_sub(1);
        for (at, want) in question.wants.iter().enumerate() {
            let Some(asked) = talk.keys.get_mut(&want.key) else { continue };
            if asked.answered(want, answers.get(at).copied().flatten(), now) {
                talk.due.push_back(want.key.clone());
            }
        }
    }

    /// Wants that found no room since the last call.
    pub const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped, 0)
    }
}

impl Talk {
    fn new(hasher: ahash::RandomState) -> Self {
        Self { keys: IndexMap::with_hasher(hasher), due: VecDeque::new(), in_flight: 0, sweep_position: 0 }
    }

    /// Returns true if the key is due now, and `None` if it found no room.
    fn want(&mut self, want: &Want, ends: NodeTime, now: NodeTime, max_keys: usize) -> Option<bool> {
        if let Some(asked) = self.keys.get_mut(&want.key) {
            if !asked.want(want, ends, now) {
                return Some(false);
            }
        } else {
            self.sweep(now);
            if self.keys.len() >= max_keys {
                return None;
            }
            self.keys.insert(want.key.clone(), Asked::new(want.clone(), ends));
        }
        self.due.push_back(want.key.clone());
        Some(true)
    }

    /// Forgets keys whose cell is over, and keys that nobody has wanted for a while.
    fn sweep(&mut self, now: NodeTime) {
        for _ in 0..SWEEP {
            match self.keys.get_index(self.sweep_position) {
                None => self.sweep_position = 0,
                Some((_, asked)) if asked.is_over(now) => {
                    self.keys.swap_remove_index(self.sweep_position);
                }
                Some(_) => self.sweep_position += 1,
            }
        }
    }
}

impl Asked {
    const fn new(want: Want, ends: NodeTime) -> Self {
        Self { want, busy: true, given: 0, answered_denial: false, pause_us: 0, paused_until: NodeTime(0), ends }
    }

    /// Takes a newer want. Returns true if the key is to be asked for.
    fn want(&mut self, want: &Want, ends: NodeTime, now: NodeTime) -> bool {
        let same_cell = want.cell_ms == self.want.cell_ms;
        // A denial that may not be asked for yet stays one, with the most hits that it needs.
        let kept = self.busy && same_cell && self.want.denied;
        let denied = want.denied || kept;
        let hits = if kept { want.hits.max(self.want.hits) } else { want.hits };
        if !same_cell {
            self.given = 0;
        }
        if !same_cell || want.epoch_ms != self.want.epoch_ms {
            (self.pause_us, self.paused_until) = (0, now);
        }
        (self.want, self.ends) = (Want { denied, hits, ..want.clone() }, ends);
        // A region that has nothing to give ahead of need may still have what a denied check needs.
        let paused = now < self.paused_until && (self.answered_denial || !denied);
        let asks = !self.busy && !paused;
        self.busy |= asks;
        asks
    }

    /// What the region is asked for.
    fn want_now(&self) -> Want {
        Want { received: self.given, ..self.want.clone() }
    }

    /// True if nothing is lost with it.
    fn is_over(&self, now: NodeTime) -> bool {
        !self.busy && (self.ends <= now || self.paused_until.plus(MAX_PAUSE_US) <= now)
    }

    /// Takes the answer to `want`. Returns true if the key is to be asked for again: a check was denied since, and the
    /// answer did not bring what it needs.
    fn answered(&mut self, want: &Want, given: Option<Given>, now: NodeTime) -> bool {
        let same_cell = want.cell_ms == self.want.cell_ms;
        let given = given.filter(|_| same_cell).map_or(0, |given| given.given);
        let more = given.saturating_sub(self.given);
        self.given += more;
        self.answered_denial = want.denied;
        self.pause_us = if more > 0 { 0 } else { (2 * self.pause_us).clamp(FIRST_PAUSE_US, MAX_PAUSE_US) };
        self.paused_until = now.plus(if same_cell { self.pause_us } else { 0 });
        self.busy = self.want.denied && !(same_cell && (want.denied || more >= self.want.hits));
        self.busy
    }
}

#[cfg(test)]
mod tests;
