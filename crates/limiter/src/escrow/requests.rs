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
/// A region that had nothing to give is not asked for the same key again for so long, in microseconds. The pause doubles
/// each time.
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

    /// Keys that are kept, over all regions.
    pub fn len(&self) -> usize {
        self.regions.values().map(|talk| talk.keys.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
mod tests {
    use super::*;
    use crate::counter::Grid;

    const EU: RegionNumber = RegionNumber(7);
    const AP: RegionNumber = RegionNumber(8);

    fn want(key: &str, hits: u64, denied: bool) -> Want {
        let grid = Grid::Fixed { width_ms: 1000 };
        Want { key: key.as_bytes().into(), grid, limit: 10, cell_ms: 5000, hits, denied, received: 0, epoch_ms: 0 }
    }

    fn at(ms: u64) -> NodeTime {
        NodeTime(ms * 1000)
    }

    fn requests(max_keys: usize) -> Requests {
        let mut requests = Requests::new(max_keys, [1, 2, 3, 4]);
        requests.set_regions([EU, AP]);
        requests
    }

    fn given(given: u64) -> Option<Given> {
        Some(Given { given, ..Given::default() })
    }

    #[test]
    fn each_region_is_asked_for_a_part_and_after_a_denial_for_all() {
        let mut requests = requests(10);
        requests.want(&want("a", 7, false), at(1000), at(0));
        requests.want(&want("b", 7, true), at(1000), at(0));
        let questions = requests.questions();
        let hits: Vec<Vec<u64>> = questions.iter().map(|q| q.wants.iter().map(|w| w.hits).collect()).collect();
        assert_eq!(hits, [[4, 7], [4, 7]]);
        assert_eq!(requests.questions(), [], "they are asked once");
    }

    #[test]
    fn a_region_that_gives_nothing_is_asked_less_and_less() {
        let mut requests = requests(10);
        let mut asked = Vec::new();
        for ms in (0..10_000).step_by(10) {
            requests.want(&want("a", 1, true), at(60_000), at(ms));
            for question in requests.questions() {
                requests.answered(&question, &[given(3)], at(ms));
                if question.to == EU {
                    asked.push(ms);
                }
            }
        }
        // The first answer brings rights, the others do not.
        assert_eq!(asked[..6], [0, 10, 60, 160, 360, 760]);
        assert!(asked.len() < 18, "{asked:?}");
    }

    #[test]
    fn a_denial_is_asked_for_although_the_region_just_gave_nothing_ahead_of_need() {
        let mut requests = requests(10);
        requests.want(&want("a", 1, false), at(60_000), at(0));
        for question in requests.questions() {
            requests.answered(&question, &[], at(10));
        }
        assert!(!requests.want(&want("a", 1, false), at(60_000), at(20)), "the region has nothing for now");
        assert!(requests.want(&want("a", 1, true), at(60_000), at(20)));
        for question in requests.questions() {
            assert!(question.wants[0].denied);
            requests.answered(&question, &[], at(30));
        }
        assert!(
            !requests.want(&want("a", 1, true), at(60_000), at(40)),
            "the region has nothing after a denial either"
        );
    }

    #[test]
    fn a_denial_while_an_answer_is_awaited_is_asked_for_once_it_is_there() {
        let mut requests = requests(10);
        requests.want(&want("a", 1, false), at(60_000), at(0));
        let first = requests.questions();
        assert!(!requests.want(&want("a", 5, true), at(60_000), at(5)), "the answer is awaited");
        assert!(!requests.want(&want("a", 1, false), at(60_000), at(6)), "a later want does not hide the denial");
        for question in &first {
            requests.answered(question, &[], at(10));
        }
        let second = requests.questions();
        assert_eq!(second.iter().map(|q| (q.wants[0].denied, q.wants[0].hits)).collect::<Vec<_>>(), [(true, 5); 2]);
        for question in &second {
            requests.answered(question, &[], at(20));
        }
        assert_eq!(requests.questions(), [], "it is asked for once");
    }

    #[test]
    fn a_denial_that_is_not_asked_for_yet_is_not_forgotten() {
        let mut requests = requests(10);
        requests.want(&want("a", 1, false), at(60_000), at(0));
        let first = requests.questions();
        requests.want(&want("a", 1, true), at(60_000), at(5));
        requests.want(&want("a", 2, false), at(60_000), at(6));
        requests.answered(&first[0], &[], at(10));
        assert!(requests.questions()[0].wants[0].denied);
    }

    #[test]
    fn a_question_says_which_rights_were_received() {
        let mut requests = requests(10);
        for (ms, received, answer) in [(0, 0, 3), (10, 3, 5), (20, 5, 5)] {
            requests.want(&want("a", 1, true), at(60_000), at(ms));
            for question in requests.questions() {
                assert_eq!(question.wants[0].received, received, "{question:?}");
                requests.answered(&question, &[given(answer)], at(ms));
            }
        }
    }

    #[test]
    fn the_next_cell_is_asked_for_at_once() {
        let mut requests = requests(10);
        assert!(requests.want(&want("a", 1, true), at(1000), at(0)));
        let first = requests.questions().remove(0);
        let next = Want { cell_ms: 6000, ..want("a", 1, true) };
        assert!(!requests.want(&next, at(2000), at(0)), "the answer is awaited");
        requests.answered(&first, &[], at(10));
        assert!(requests.questions().iter().any(|q| q.to == EU && q.wants[0].cell_ms == 6000));
    }

    #[test]
    fn keys_past_the_most_are_counted_and_those_of_past_cells_make_room() {
        let mut requests = requests(2);
        for key in ["a", "b", "c"] {
            requests.want(&want(key, 1, false), at(1000), at(0));
        }
        assert_eq!((requests.len(), requests.take_dropped()), (4, 2));
        for question in requests.questions() {
            requests.answered(&question, &[], at(10));
        }
        // Two later keys find room: those of the past cell leave.
        requests.want(&want("d", 1, false), at(9000), at(2000));
        requests.want(&want("e", 1, false), at(9000), at(2000));
        assert_eq!((requests.len(), requests.take_dropped()), (4, 0));
    }

    #[test]
    fn keys_that_nobody_wants_any_more_make_room_although_their_cell_goes_on() {
        let mut requests = requests(2);
        for key in ["a", "b"] {
            requests.want(&want(key, 1, false), at(1_000_000), at(0));
        }
        for question in requests.questions() {
            requests.answered(&question, &[], at(10));
        }
        requests.want(&want("c", 1, false), at(1_000_000), at(100));
        assert_eq!(requests.take_dropped(), 2, "they may be wanted again soon");
        requests.want(&want("c", 1, false), at(1_000_000), at(2000));
        assert_eq!(requests.take_dropped(), 0);
    }

    #[test]
    fn at_most_four_questions_to_a_region_wait() {
        let mut requests = requests(100_000);
        for n in 0..6 * MAX_WANTS {
            requests.want(&want(&n.to_string(), 1, false), at(1000), at(0));
        }
        let questions = requests.questions();
        assert_eq!(questions.iter().filter(|q| q.to == EU).count(), MAX_IN_FLIGHT);
        assert!(questions.iter().all(|q| q.wants.len() == MAX_WANTS));
        requests.answered(&questions[0], &[], at(10));
        assert_eq!(requests.questions().len(), 1);
    }

    #[test]
    fn of_two_denials_the_larger_one_is_asked_for() {
        let mut requests = requests(10);
        requests.want(&want("a", 8, false), at(60_000), at(0));
        let first = requests.questions();
        requests.want(&want("a", 10, true), at(60_000), at(5));
        requests.want(&want("a", 2, true), at(60_000), at(6));
        requests.answered(&first[0], &[], at(10));
        let again = requests.questions();
        assert_eq!((again[0].wants[0].denied, again[0].wants[0].hits), (true, 10));
    }

    #[test]
    fn rights_that_came_are_not_asked_for_again() {
        let mut requests = requests(10);
        requests.want(&want("a", 20, false), at(60_000), at(0));
        let first = requests.questions();
        requests.want(&want("a", 1, true), at(60_000), at(5));
        requests.answered(&first[0], &[given(10)], at(10));
        assert_eq!(requests.questions(), []);
    }
}
