//! The clients: who asks what, when and where; in bursts, unevenly, impatiently, and again as soon as they may.

use super::ledger::Asked;
use super::plan::{Family, Traffic};
use super::world::{Event, World};

/// Checks in a simulation, its probes apart, at most: what a seed can cost.
const MOST_CHECKS: usize = 4000;
/// Checks in a burst at most.
const BURST: u64 = 60;

impl World<'_> {
    /// The next client asks, and another one comes after a pause.
    pub(super) fn client(&mut self) {
        if self.now >= self.plan.heals_at || self.ledger.asked.len() >= MOST_CHECKS {
            return;
        }
        let Traffic { longest_gap_us, bursts, lone, .. } = self.plan.traffic;
        let pause = self.traffic.between(1, longest_gap_us);
        self.at(self.now + pause, Event::Client);
        let user = u32::try_from(self.traffic.skewed(self.plan.users.into())).unwrap_or(0);
        let brief = if self.traffic.chance(lone) { Family::Lone } else { Family::Brief };
        let family = self.traffic.pick(brief, &[brief, brief, Family::Pair, Family::Solo]);
        let count = if self.traffic.chance(bursts) { self.traffic.between(2, BURST) } else { 1 };
        for _ in 0..count {
            let hits = self.traffic.pick(1, &[1, 1, 1, 1, 2, 5, 0]);
            let hits = if self.traffic.chance(1) { u32::MAX } else { hits };
            let Some(holder) = self.core_for(user) else { return };
            let soon = self.traffic.between(0, if count > 1 { 3000 } else { 0 });
            self.come(self.now + soon, holder, family, user, hits);
        }
    }

    /// The core that a user's next check comes to; a node that is dead is passed over.
    fn core_for(&mut self, user: u32) -> Option<usize> {
        let count = self.holders.len();
        let first = if self.plan.traffic.sticky {
            usize::try_from(user).unwrap_or(0)
        } else {
            usize::try_from(self.traffic.between(0, count as u64)).unwrap_or(0)
        };
        (0..count).map(|next| (first + next) % count).find(|at| self.holders[*at].alive)
    }

    fn come(&mut self, at: u64, holder: usize, family: Family, user: u32, hits: u32) {
        let deadline = self.plan.deadline_us;
        let short = self.traffic.chance(self.plan.traffic.impatient);
        let within_us = if short { self.traffic.between(0, deadline) } else { deadline };
        let boot = self.holders[holder].boot;
        let asked = Asked { at, came: at, within_us, holder, boot, family, user, hits, probe: false, answer: None };
        self.ledger.asked.push(asked);
        self.at(at, Event::Ask(self.ledger.asked.len() - 1));
    }

    /// Who was refused may come back when it was told to.
    pub(super) fn try_again(&mut self, refused: usize, wait_us: u64) {
        let Asked { holder, family, user, hits, probe, .. } = self.ledger.asked[refused];
        let at = self.now + wait_us;
        let more = self.ledger.asked.len() < MOST_CHECKS;
        if !probe && more && at < self.plan.heals_at && self.traffic.chance(self.plan.traffic.retry) {
            self.come(at, holder, family, user, hits);
        }
    }

    /// When all is well again: one check, and the answer to it. Returns whether it was allowed.
    pub(super) fn probe(&mut self, holder: usize, family: Family, user: u32) -> bool {
        let (at, within_us, boot) = (self.now, self.plan.deadline_us, self.holders[holder].boot);
        let asked = Asked { at, came: at, within_us, holder, boot, family, user, hits: 1, probe: true, answer: None };
        self.ledger.asked.push(asked);
        let index = self.ledger.asked.len() - 1;
        self.at(at, Event::Ask(index));
        while self.ledger.asked[index].answer.is_none() && self.now <= at + within_us {
            self.run_until(self.now + 100);
        }
        matches!(&self.ledger.asked[index].answer, Some((_, super::ledger::Said::Decided(d))) if d.allowed)
    }
}
