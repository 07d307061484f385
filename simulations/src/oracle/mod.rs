//! The oracles. Each one compares a promise with the answers that clients received. Apart from the answers, an oracle
//! knows only the plan and which faults occurred when.

mod allowance;
mod applied;
mod charges;
mod deadline;
mod debts;
mod denials;
mod hearing;
mod hits;
mod i10_bounded_memory;
mod i1_region_limit;
mod i2_escrow;
mod i3_gossip;
mod i3_partition;
mod i3_total;
mod i4_all_or_nothing;
mod i5_no_token_twice;
mod i6_revision;
mod i7_convergence;
mod liveness;
mod rights;
mod rules;
mod violation;
mod window_use;

pub use hits::{AdmittedHits, Usage, usages};
pub use i3_total::{WindowTotal, window_totals};
pub use rights::{DemandMet, demand_met};
pub use violation::{PROMISES, Violation};

use super::history::History;
use super::scenario::Plan;

/// Returns all violations of promises.
pub fn judge(plan: &Plan, history: &History) -> Vec<Violation> {
    let usages = usages(plan, history);
    let mut found = Vec::new();
    i1_region_limit::judge(plan, history, &usages, &mut found);
    i2_escrow::judge(plan, history, &usages, &mut found);
    i3_gossip::judge(plan, history, &usages, &mut found);
    i3_total::judge(plan, history, &usages, &mut found);
    i3_partition::judge(plan, history, &usages, &mut found);
    i4_all_or_nothing::judge(plan, history, &mut found);
    i5_no_token_twice::judge(plan, history, &mut found);
    i6_revision::judge(plan, history, &mut found);
    rules::judge(plan, history, &mut found);
    i7_convergence::judge(plan, history, &mut found);
    i10_bounded_memory::judge(plan, history, &mut found);
    deadline::judge(plan, history, &mut found);
    debts::judge(plan, history, &mut found);
    liveness::judge(history, &mut found);
    rights::judge(plan, history, &mut found);
    denials::judge(plan, history, &mut found);
    found
}
