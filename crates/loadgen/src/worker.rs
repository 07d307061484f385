//! What all calls of one thread share: the plan, its pace, its keys, and what was measured.

use std::cell::RefCell;
use std::time::Instant;

use crate::answer::CheckOutcome;
use crate::key_distribution::KeyGenerator;
use crate::pacer::{Pacer, Slot};
use crate::plan::LoadPlan;
use crate::recorder::Recorder;

/// The state that all calls of one thread share.
pub struct Worker {
    pub plan: LoadPlan,
    pub pacer: Pacer,
    pub recorder: RefCell<Recorder>,
    pub key_generator: RefCell<KeyGenerator>,
}

impl Worker {
    /// Returns the keys of the call in `slot`.
    pub fn keys(&self, slot: Slot) -> Vec<u64> {
        let checks = u64::from(self.plan.call.checks());
        let mut generator = self.key_generator.borrow_mut();
        (0..checks).map(|index| generator.key(slot.number * checks + index)).collect()
    }

    /// Records the answer to the call in `slot`. If `outcomes` does not have one outcome for each key, every check of
    /// the call counts as an error. `cause` describes an error.
    pub fn record_answer(&self, slot: Slot, keys: &[u64], outcomes: &[CheckOutcome], cause: impl FnOnce() -> String) {
        let mut recorder = self.recorder.borrow_mut();
        let is_complete = outcomes.len() == keys.len();
        if !is_complete || outcomes.contains(&CheckOutcome::Error) {
            recorder.failures.first_cause.get_or_insert_with(cause);
        }
        if is_complete {
            recorder.record_answer(slot, keys.iter().copied().zip(outcomes.iter().copied()));
        } else {
            recorder.record_answer(slot, keys.iter().map(|key| (*key, CheckOutcome::Error)));
        }
    }

    /// Returns the number of calls in flight.
    pub fn in_flight(&self) -> u64 {
        self.pacer.taken().saturating_sub(self.recorder.borrow().ended())
    }
}

/// A call in flight. If it is dropped before it ends, it counts as unanswered.
pub struct InFlightCall<'a> {
    worker: &'a Worker,
    due_at: Instant,
    ended: bool,
}

impl<'a> InFlightCall<'a> {
    pub fn new(worker: &'a Worker, slot: Slot) -> Self {
        Self { worker, due_at: slot.due_at, ended: false }
    }

    /// Ends a call that was answered or lost.
    pub fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for InFlightCall<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.worker.recorder.borrow_mut().record_unanswered(self.due_at);
        }
    }
}
