//! Bounds memory that clients decide about: requests that are still arriving, and answers that wait to be sent.
//!
//! Each listener has a budget for each of the two, and each connection has a share of it. A share has a small allowance
//! of its own, so that a connection with usual requests takes nothing from the budget, and is served while others have
//! used it up. Beyond its allowance, one connection takes at most half of what is left. So a few connections cannot use
//! up the budget, however much they ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that a connection may hold without taking them from the budget.
const ALLOWANCE: usize = 16 * 1024;

/// The bytes that the connections of one listener hold beyond their allowances.
pub struct Budget {
    taken: AtomicUsize,
    most: usize,
}

impl Budget {
    /// Returns a budget of `most` bytes.
    pub const fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }

    /// The bytes that are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// What one connection holds.
pub struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

/// The part of `held` bytes that is beyond the allowance of a connection.
const fn beyond_allowance(held: usize) -> usize {
    held.saturating_sub(ALLOWANCE)
}

impl Share {
    /// Returns the share of a connection that holds nothing.
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, held: AtomicUsize::new(0) }
    }

    /// The bytes that the connection holds now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// At least the bytes that the connection may still take.
    pub fn left(&self) -> usize {
        let all = self.budget.most.saturating_sub(self.budget.taken());
        // What it takes counts on both sides: it is less in the budget, and more in its own hands.
        all.saturating_sub(beyond_allowance(self.held())) / 2
    }

    /// Takes `bytes`. Returns false, and takes nothing, if the connection may not hold so many more now.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let own = beyond_allowance(before + bytes);
        let more = own - beyond_allowance(before);
        if more == 0 {
            return true;
        }
        let taken = self.budget.taken.fetch_add(more, Ordering::Relaxed) + more;
        if own <= self.budget.most.saturating_sub(taken) {
            return true;
        }
        self.give_back(bytes);
        false
    }

    /// Gives back `bytes` that were taken.
    pub fn give_back(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        let less = beyond_allowance(before) - beyond_allowance(before - bytes);
        if less > 0 {
            self.budget.taken.fetch_sub(less, Ordering::Relaxed);
        }
    }
}

/// Bytes of a share. They go back when this is dropped.
pub struct Taken {
    share: Arc<Share>,
    bytes: usize,
}

impl Taken {
    /// Returns nothing of a share.
    pub const fn none(share: Arc<Share>) -> Self {
        Self { share, bytes: 0 }
    }

    /// Returns `bytes` of a share, or `None` if the connection may not hold so many more now.
    pub fn of(share: &Arc<Share>, bytes: usize) -> Option<Self> {
        share.take(bytes).then(|| Self { share: Arc::clone(share), bytes })
    }

    /// Makes this `bytes` long. Returns false, and changes nothing, if the connection may not hold so many more now.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        match bytes.checked_sub(self.bytes) {
            Some(more) if !self.share.take(more) => return false,
            Some(_) => {}
            None => self.share.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
        true
    }

    /// The length of this, in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 10 * ALLOWANCE;

    fn share(budget: &Arc<Budget>) -> Arc<Share> {
        Arc::new(Share::new(Arc::clone(budget)))
    }

    /// Takes as much as possible, in pieces of this length. Returns the bytes that were taken.
    fn fill(share: &Share, piece: usize) -> usize {
        std::iter::repeat_with(|| share.take(piece)).take_while(|took| *took).count() * piece
    }

    #[test]
    fn an_allowance_takes_nothing_of_the_budget() {
        let budget = Arc::new(Budget::new(0));
        let share = share(&budget);
        assert_eq!(fill(&share, 1024), ALLOWANCE, "even if the budget is used up");
        assert_eq!(budget.taken(), 0);
        share.give_back(1024);
        assert_eq!(fill(&share, 1), 1024);
    }

    #[test]
    fn one_connection_leaves_half_of_the_budget_and_many_leave_a_part_for_the_next() {
        let budget = Arc::new(Budget::new(MOST));
        let mut left = MOST;
        for others in 0..20 {
            let share = share(&budget);
            assert_eq!(share.left(), left / 2);
            let taken = fill(&share, 1) - ALLOWANCE;
            assert_eq!((taken, share.left()), (left / 2, 0), "with {others} other connections");
            left -= taken;
        }
        assert_eq!(budget.taken(), MOST - left);
    }

    #[test]
    fn what_is_dropped_goes_back() {
        let budget = Arc::new(Budget::new(MOST));
        let share = share(&budget);
        let mut first = Taken::of(&share, ALLOWANCE).unwrap();
        let second = Taken::of(&share, 100).unwrap();
        assert_eq!(budget.taken(), 100);
        assert!(Taken::of(&share, MOST).is_none());
        assert!(!first.resize(MOST));
        assert_eq!((budget.taken(), first.bytes()), (100, ALLOWANCE), "a failure takes nothing");
        assert!(first.resize(ALLOWANCE + 50));
        assert_eq!(budget.taken(), 150);
        assert!(first.resize(0));
        assert_eq!(budget.taken(), 0, "the second is within the allowance now");
        drop((first, second));
        assert_eq!(fill(&share, 1), ALLOWANCE + MOST / 2);
    }
}
