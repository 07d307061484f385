//! When a region must know what another one admitted: after one undisturbed exchange.

use crate::faults::{Fault, FaultKind};
use crate::ids::{Instant, RegionIndex};
use crate::scenario::Plan;

/// What one region must know of another one.
pub struct Hearing {
    /// The longest time without faults from an answer in the other region until this region knows of its hits, in
    /// microseconds.
    staleness_us: u64,
    /// The times in which the exchange is disturbed, by their beginning.
    disturbed: Vec<Disturbance>,
    /// The times in which this region may forget what it was told, by their end. It asks for everything again.
    forgets: Vec<(Instant, Instant)>,
    /// When its servers lost keys without being replaced. It does not notice that.
    unnoticed: Vec<Instant>,
    /// The times in which the other region may forget what it would have to tell again: a node dies, or the store
    /// forgets.
    untold: Vec<(Instant, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Disturbance {
    begin: Instant,
    end: Instant,
    /// A node of the other region dies with what it had to tell.
    forgets: bool,
}

impl Hearing {
    /// Returns what `to` must know of `from`.
    pub fn new(plan: &Plan, from: RegionIndex, to: RegionIndex) -> Self {
        // A message that is lost is told again after this time.
        let again_us = plan.message_timeout_us(from, to) + 2 * plan.gossip.interval_us;
        let mut disturbed: Vec<Disturbance> = plan
            .faults
            .iter()
            .filter(|fault| disturbs(fault, from, to))
            .map(|fault| Disturbance {
                begin: fault.begin,
                end: fault.end + again_us,
                forgets: fault.region == from
                    && matches!(fault.kind, FaultKind::Crash { .. } | FaultKind::RegionDies { .. }),
            })
            .collect();
        disturbed.sort_by_key(|it| it.begin);
        let is_unnoticed = |fault: &&Fault| matches!(fault.kind, FaultKind::Flush { .. } | FaultKind::Evict { .. });
        let unnoticed = plan.faults_of(to).filter(is_unnoticed).map(|fault| fault.begin).collect();
        let forgetting = plan.faults_of(to).filter(|fault| fault.kind.forgets());
        let mut forgets: Vec<_> = forgetting.map(|fault| (fault.begin, fault.end)).collect();
        forgets.sort_by_key(|(_, end)| *end);
        let dies = |kind: &FaultKind| matches!(kind, FaultKind::Crash { .. } | FaultKind::RegionDies { .. });
        let untold = plan.faults_of(from).filter(|fault| fault.kind.forgets() || dies(&fault.kind));
        let untold = untold.map(|fault| (fault.begin, fault.end)).collect();
        Self { staleness_us: plan.staleness_us(from, to), disturbed, forgets, unnoticed, untold }
    }

    /// Returns how often the other region may have forgotten its own hits before `at`. It does not add up what it
    /// counted before and after that.
    pub fn times_forgotten(&self, at: Instant) -> usize {
        self.untold.iter().filter(|(begin, _)| *begin <= at).count()
    }

    /// True if the region may have forgotten between two times what it was told.
    pub fn may_have_forgotten(&self, from: Instant, to: Instant) -> bool {
        self.forgets.iter().any(|(begin, end)| *begin <= to && from <= *end)
    }

    /// Returns since when at the latest the region must know what the other one answered at `answered`. Returns `None`
    /// if it need not know that at `at`.
    pub fn known_since(&self, answered: Instant, at: Instant) -> Option<Instant> {
        if self.may_have_forgotten(at, at) {
            return None;
        }
        if self.unnoticed.iter().any(|lost| (answered..=at).contains(lost)) {
            return None;
        }
        let asked_again = self.forgets.iter().map(|(_, end)| *end).rfind(|end| *end <= at).unwrap_or(0);
        if self.untold.iter().any(|(begin, end)| *end >= answered && *begin <= asked_again) {
            return None;
        }
        let first = answered.max(asked_again);
        let mut begin = first;
        for it in &self.disturbed {
            if it.begin > begin + self.staleness_us {
                break;
            }
            // It may lie within a longer one, and no exchange was undisturbed before it.
            if it.forgets && it.end > first {
                return None;
            }
            begin = begin.max(it.end);
        }
        Some(begin + self.staleness_us).filter(|since| *since <= at)
    }
}

/// True if a fault may prevent that a message of `from` is imported by `to` and acknowledged.
fn disturbs(fault: &Fault, from: RegionIndex, to: RegionIndex) -> bool {
    let is_between = |a: RegionIndex, b: RegionIndex| (a, b) == (from, to) || (a, b) == (to, from);
    match fault.kind {
        FaultKind::CutRegions { other: end }
        | FaultKind::CutRegionsOneWay { to: end }
        | FaultKind::LossyLink { to: end, .. } => is_between(fault.region, end),
        FaultKind::LaneMove { .. } | FaultKind::ClockJump { .. } | FaultKind::Repeat { .. } => false,
        _ => fault.region == from || fault.region == to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing(disturbed: &[(Instant, Instant, bool)]) -> Hearing {
        let disturbed = disturbed.iter().map(|&(begin, end, forgets)| Disturbance { begin, end, forgets }).collect();
        Hearing { staleness_us: 10, disturbed, forgets: Vec::new(), unnoticed: Vec::new(), untold: Vec::new() }
    }

    #[test]
    fn a_region_must_know_after_one_undisturbed_exchange() {
        assert_eq!(hearing(&[]).known_since(100, 109), None);
        assert_eq!(hearing(&[]).known_since(100, 110), Some(110));
        let disturbed = hearing(&[(50, 105, false), (112, 200, false), (211, 300, false)]);
        assert_eq!(disturbed.known_since(100, 400), Some(210), "the first time of 10 without a disturbance");
    }

    #[test]
    fn what_the_other_region_forgot_before_it_could_tell_need_not_be_known() {
        assert_eq!(hearing(&[(105, 200, true)]).known_since(100, 400), None);
        assert_eq!(hearing(&[(105, 200, true)]).known_since(200, 400), Some(210));
        assert_eq!(hearing(&[(111, 200, true)]).known_since(100, 400), Some(110), "it was told before");
        assert_eq!(hearing(&[(90, 300, false), (120, 200, true)]).known_since(100, 400), None, "one within another");
    }
}
