//! Bugs of one region's nodes and of its counter script.

use std::collections::HashMap;

use super::patch;
use limiter::counter::{Batch, BatchOutcome, BatchReply, Counter, Hits, ItemReply, REPLICATION_MARKS, Seen, SeenCells};
use limiter::{Revision, ShardConfig, StoreTime};
use simulations::bug_injector::BugInjector;
use simulations::history::{ClientCheck, Decided};
use simulations::ids::{CoreId, CoreIndex, NodeIndex, RegionIndex};
use simulations::scenario::Scenario;

/// The bugs that need one region only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    RefundsTwice,
    /// Only the cores of later regions than the first refund twice.
    RefundsTwiceElsewhere,
    ResendsUnknownBatches,
    IgnoresIncarnations,
    ForgetsCounters,
    LeasesOutliveTheirCell,
    IgnoresOlderCell,
    IgnoresNotAfter,
    ChargesDebtsTwice,
    RemembersDenialsAfterAnEdit,
    AllowsDeniedChecks,
    NeverReturnsReservations,
    NeverReturnsLeases,
    DecidesByOldRules,
    StatesANewerRevision,
    HoldsTwiceAsManyKeys,
    HoldsTwiceAsManyChecks,
    ForgetsDeadlines,
    WaitsForTheStoreDeadline,
    NeverClosesBreakers,
    RejectsEveryBatchAsLate,
    ChargesBucketsOneLess,
    DividesByOne,
    NeverReportsDebts,
    ReportsHalfOfEachDebt,
    /// A record charges every report in full, without the part that it has already charged.
    ForgetsChargedDebts,
    /// A cell counts a source twice that it has dropped and then sees again.
    CountsDroppedSourcesAgain,
    /// A node never fences a replaced primary, which goes on granting.
    NeverFences,
    /// A node does not detect that its machine was suspended.
    IgnoresSuspension,
}

/// Each bug, the promise that it breaks, and the scenario that shows it.
pub const PLANTED: [(Bug, &str, Scenario); 29] = [
    (Bug::RefundsTwice, "I5", Scenario::Calm),
    (Bug::RefundsTwiceElsewhere, "I5", Scenario::Hop),
    (Bug::ResendsUnknownBatches, "I1", Scenario::Network),
    (Bug::IgnoresIncarnations, "I1", Scenario::Failover),
    (Bug::ForgetsCounters, "I1", Scenario::Forgetting),
    (Bug::LeasesOutliveTheirCell, "I1", Scenario::Calm),
    (Bug::IgnoresOlderCell, "I1", Scenario::Calm),
    (Bug::ChargesBucketsOneLess, "I1", Scenario::Buckets),
    (Bug::DividesByOne, "I1", Scenario::Outage),
    (Bug::NeverReportsDebts, "debts", Scenario::Outage),
    (Bug::ReportsHalfOfEachDebt, "debts", Scenario::Outage),
    (Bug::IgnoresNotAfter, "denial", Scenario::Stall),
    (Bug::ChargesDebtsTwice, "denial", Scenario::Outage),
    (Bug::ForgetsChargedDebts, "denial", Scenario::Crowded),
    (Bug::CountsDroppedSourcesAgain, "denial", Scenario::Crowded),
    (Bug::NeverFences, "I1", Scenario::Replaced),
    (Bug::IgnoresSuspension, "I1", Scenario::Suspended),
    (Bug::RemembersDenialsAfterAnEdit, "denial", Scenario::Edits),
    (Bug::AllowsDeniedChecks, "I4", Scenario::Calm),
    (Bug::NeverReturnsReservations, "I4", Scenario::Calm),
    (Bug::NeverReturnsLeases, "I5", Scenario::Memory),
    (Bug::DecidesByOldRules, "I6", Scenario::Edits),
    (Bug::StatesANewerRevision, "I6", Scenario::Edits),
    (Bug::HoldsTwiceAsManyKeys, "I10", Scenario::Memory),
    (Bug::HoldsTwiceAsManyChecks, "I10", Scenario::Stall),
    (Bug::ForgetsDeadlines, "deadline", Scenario::Network),
    (Bug::WaitsForTheStoreDeadline, "deadline", Scenario::Stall),
    (Bug::NeverClosesBreakers, "liveness", Scenario::Network),
    (Bug::RejectsEveryBatchAsLate, "liveness", Scenario::Calm),
];

/// The core that has the bug, if one core has it.
const FAULTY_CORE: CoreIndex = CoreIndex(0);

/// Plants one bug.
pub struct Planted {
    bug: Bug,
    /// Added to the id of each reported debt, so that no two reports have the same one.
    debt_id_offset: u64,
    /// The last denial by the store, by core and user.
    denied: HashMap<(CoreId, u32), Decided>,
    /// The newest revision that reached any core.
    newest_revision: Revision,
}

impl Planted {
    pub fn new(bug: Bug) -> Self {
        Self { bug, debt_id_offset: 0, denied: HashMap::new(), newest_revision: Revision::NONE }
    }
}

impl BugInjector for Planted {
    fn script(&mut self, text: String) -> String {
        match self.bug {
            Bug::IgnoresIncarnations => {
                let is_same = format!("if incarnation % {REPLICATION_MARKS} == replication_mark then");
                let is_other = format!("if incarnation % {REPLICATION_MARKS} ~= replication_mark then return end");
                patch(
                    text,
                    &[
                        (&format!("{is_same} return incarnation end"), "do return incarnation end"),
                        (&is_other, ""),
                        ("if seen_incarnation ~= incarnation or seen_charged == 0 then return end", ""),
                    ],
                )
            }
            Bug::IgnoresOlderCell => patch(
                text,
                &[(
                    "local function weighted(used, overlap_ms, width_ms)",
                    "local function weighted(used, overlap_ms, width_ms) do return 0 end",
                )],
            ),
            Bug::ChargesBucketsOneLess => {
                patch(text, &[("    charge(bucket, tokens)", "    charge(bucket, tokens - 1)")])
            }
            Bug::ForgetsChargedDebts => patch(
                text,
                &[
                    (
                        "  if own then\n    done_charged, done_returned",
                        "  if false then\n    done_charged, done_returned",
                    ),
                    ("done_returned = report.known_charged, report.known_returned", "done_returned = 0, 0"),
                ],
            ),
            Bug::CountsDroppedSourcesAgain => patch(
                text,
                &[(
                    "used = used + max(sum_and_floor(cell, region))",
                    "local sum, floor = sum_and_floor(cell, region) used = used + sum + floor",
                )],
            ),
            _ => text,
        }
    }

    fn fences(&mut self, _: NodeIndex) -> bool {
        self.bug != Bug::NeverFences
    }

    fn detects_suspension(&mut self) -> bool {
        self.bug != Bug::IgnoresSuspension
    }

    fn config(&mut self, config: &mut ShardConfig) {
        match self.bug {
            Bug::HoldsTwiceAsManyKeys => config.max_keys *= 2,
            Bug::HoldsTwiceAsManyChecks => config.max_waiting *= 2,
            Bug::DividesByOne => (config.holders, config.min_holders) = (1, 1),
            _ => {}
        }
    }

    fn alter_batch(&mut self, core: CoreId, batch: &mut Batch) {
        match self.bug {
            Bug::IgnoresNotAfter => batch.not_after = None,
            Bug::RejectsEveryBatchAsLate => batch.not_after = batch.not_after.map(|at| StoreTime(at.0 - 60_000_000)),
            _ => {}
        }
        for item in &mut batch.items {
            let only_returns = item.asks.is_empty();
            match &mut item.counter {
                Counter::Window { seen, returns, debts, .. } => match self.bug {
                    Bug::RefundsTwiceElsewhere if core.region == RegionIndex(0) => {}
                    Bug::RefundsTwice | Bug::RefundsTwiceElsewhere => {
                        returns.iter_mut().for_each(|returned| returned.tokens *= 2)
                    }
                    Bug::NeverReturnsReservations if !only_returns => returns.clear(),
                    Bug::NeverReturnsLeases if only_returns => returns.clear(),
                    Bug::ForgetsCounters => (*seen, debts.seen) = (SeenCells::Empty, Vec::new()),
                    Bug::NeverReportsDebts => debts.reports.clear(),
                    Bug::ReportsHalfOfEachDebt => {
                        debts.reports.iter_mut().for_each(|report| report.debt.hits.charged /= 2);
                    }
                    Bug::ChargesDebtsTwice => {
                        for report in &mut debts.reports {
                            self.debt_id_offset += 1 << 24;
                            report.debt.id.0 = (report.debt.id.0 + self.debt_id_offset) % (1 << 48);
                            report.known = Hits::default();
                        }
                    }
                    _ => {}
                },
                Counter::Bucket { seen, .. } if self.bug == Bug::ForgetsCounters => *seen = None,
                Counter::Bucket { .. } | Counter::Import { .. } | Counter::Give { .. } | Counter::Take { .. } => {}
            }
        }
    }

    fn alter_reply(&mut self, _: CoreId, reply: &mut BatchReply) {
        let BatchOutcome::Ran(items) = &mut reply.outcome else { return };
        for item in items {
            if let ItemReply::Done(grant) = item
                && let Seen::Window { cell_end_ms, .. } = &mut grant.seen
                && self.bug == Bug::LeasesOutliveTheirCell
            {
                *cell_end_ms += 10_000;
            }
        }
    }

    fn resends(&mut self, _: CoreId) -> bool {
        self.bug == Bug::ResendsUnknownBatches
    }

    fn receives_rules(&mut self, core: CoreId, revision: Revision) -> bool {
        self.newest_revision = self.newest_revision.max(revision);
        let stale = matches!(self.bug, Bug::DecidesByOldRules | Bug::StatesANewerRevision);
        !(stale && core.core == FAULTY_CORE && revision > Revision(1))
    }

    fn enforces_deadline(&mut self, check: &ClientCheck) -> bool {
        match self.bug {
            Bug::ForgetsDeadlines => false,
            // 50 ms is the shortest deadline of a plan: only an impatient client waits for less.
            Bug::WaitsForTheStoreDeadline => check.timeout_us >= 50_000,
            _ => true,
        }
    }

    fn probes(&mut self, _: CoreId) -> bool {
        self.bug != Bug::NeverClosesBreakers
    }

    fn decided(&mut self, check: &ClientCheck, decided: &mut Decided) {
        match self.bug {
            Bug::AllowsDeniedChecks => decided.allowed |= decided.limits.iter().any(|limit| !limit.denied),
            Bug::StatesANewerRevision if check.core.core == FAULTY_CORE => decided.revision = self.newest_revision,
            Bug::RemembersDenialsAfterAnEdit => {
                let key = (check.core, check.user());
                let same = |old: &&Decided| {
                    old.limits.len() == decided.limits.len() && old.limits[0].limit == decided.limits[0].limit
                };
                if let Some(old) = self.denied.get(&key).filter(same).filter(|old| old.revision < decided.revision) {
                    let denied = old.limits.iter().map(|limit| limit.denied);
                    decided.limits.iter_mut().zip(denied).for_each(|(limit, denied)| limit.denied = denied);
                    decided.allowed = false;
                } else if !decided.allowed && !decided.degraded {
                    self.denied.insert(key, decided.clone());
                }
            }
            _ => {}
        }
    }
}
