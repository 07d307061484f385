//! The simulator: every promise holds in every scenario, one seed has one history, and the oracles find planted bugs.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use limiter::counter::{Batch, BatchOutcome, BatchReply, Counter, Hits, ItemReply, Seen, SeenCells};
use limiter::{Revision, ShardConfig, StoreTime};
use simulations::bug_injector::{BugInjector, NoBugs, RegionMessage};
use simulations::campaign::{Campaign, run_seed};
use simulations::history::{ClientCheck, Decided};
use simulations::ids::{CoreId, CoreIndex, NodeIndex, RegionIndex};
use simulations::oracle::{PROMISES, Violation};
use simulations::plot;
use simulations::run::run;
use simulations::scenario::{Plan, Scenario};

/// Returns a campaign of `TIDEGATE_CASES` seeds (300 by default) from `TIDEGATE_SEED` on (0 by default), rounded up so
/// that each scenario runs equally often.
fn campaign() -> Campaign {
    let of = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds) = (of("TIDEGATE_SEED").unwrap_or(0), of("TIDEGATE_CASES").unwrap_or(300u64));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let seeds = seeds.next_multiple_of(Scenario::ALL.len() as u64);
    Campaign { scenarios: Scenario::ALL.to_vec(), first, seeds, threads }
}

#[test]
fn every_promise_is_kept_in_every_scenario() {
    let summary = campaign().run(|_| ()).unwrap();
    let broken: Vec<String> = summary
        .broken
        .iter()
        .map(|b| format!("--scenario {} --seed {}: {}", b.scenario.name(), b.seed, b.violations[0]))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    for scenario in Scenario::ALL {
        let sums = &summary.by_scenario[scenario.name()];
        assert!(
            sums.allowed > 0 && sums.allowed < sums.checks,
            "{scenario:?}: some checks must be allowed and some denied: {sums:?}"
        );
        let has_no_faults = matches!(scenario, Scenario::Calm | Scenario::Edits | Scenario::Memory | Scenario::Hop);
        assert_eq!(sums.faults == 0, has_no_faults, "{scenario:?}: {sums:?}");
        let has_outages = matches!(
            scenario,
            Scenario::Stall | Scenario::Outage | Scenario::Failover | Scenario::Everything | Scenario::Regions
        );
        assert!(!has_outages || sums.degraded > 0, "{scenario:?}: no check was decided without the store: {sums:?}");
    }
}

#[test]
fn one_seed_has_one_history() {
    for scenario in Scenario::ALL {
        let history = |seed| {
            let run = run_seed(scenario, seed, true).unwrap();
            format!("{}\n{}", run.plan, run.trace)
        };
        assert_eq!(history(7), history(7));
        assert_ne!(history(7), history(8));
    }
}

/// The bugs that tests plant. The nodes' code has no switch for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bug {
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
    /// A node tells other regions nothing.
    TellsNothing,
    /// A node leaves the last counter out of every third message.
    LeavesOutReports,
    /// A node tells other regions nothing more after a while.
    StopsTelling,
    /// The hits of other regions do not count.
    IgnoresOtherRegions,
    /// A core does not learn that another region does not hear its node.
    IgnoresPartitions,
}

/// The core that has the bug, if one core has it.
const FAULTY_CORE: CoreIndex = CoreIndex(0);

/// Plants one bug.
struct Planted {
    bug: Bug,
    /// Added to the id of each reported debt, so that no two reports have the same one.
    debt_id_offset: u64,
    /// The last denial by the store, by core and user.
    denied: HashMap<(CoreId, u32), Decided>,
    /// The newest revision that reached any core.
    newest_revision: Revision,
}

impl Planted {
    fn new(bug: Bug) -> Self {
        Self { bug, debt_id_offset: 0, denied: HashMap::new(), newest_revision: Revision::NONE }
    }
}

fn patch(script: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(script, |script, (from, to)| {
        assert!(script.contains(from), "the script no longer has {from:?}");
        script.replace(from, to)
    })
}

impl BugInjector for Planted {
    fn script(&mut self, text: String) -> String {
        match self.bug {
            Bug::IgnoresIncarnations => patch(
                text,
                &[
                    (
                        "if incarnation % REPLICATION_MARKS == replication_mark then return incarnation end",
                        "do return incarnation end",
                    ),
                    ("if incarnation % REPLICATION_MARKS ~= replication_mark then return end", ""),
                    ("if seen_incarnation ~= incarnation or seen_charged == 0 then return end", ""),
                ],
            ),
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
            Bug::IgnoresOtherRegions => patch(
                text,
                &[(
                    "    local region = entry.region\n    if not",
                    "    local region = entry.region\n    if region == 0 and not",
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

    fn alter_region_message(&mut self, message: &mut RegionMessage) {
        match self.bug {
            Bug::TellsNothing => message.reports.clear(),
            Bug::StopsTelling if message.number > 20 => message.reports.clear(),
            Bug::LeavesOutReports if message.number.is_multiple_of(3) => {
                message.reports.pop();
            }
            _ => {}
        }
    }

    fn notices_partitions(&mut self, _: CoreId) -> bool {
        self.bug != Bug::IgnoresPartitions
    }

    fn decided(&mut self, check: &ClientCheck, decided: &mut Decided) {
        match self.bug {
            Bug::AllowsDeniedChecks => decided.allowed |= decided.limits.iter().any(|limit| !limit.denied),
            Bug::StatesANewerRevision if check.core.core == FAULTY_CORE => decided.revision = self.newest_revision,
            Bug::RemembersDenialsAfterAnEdit => {
                let key = (check.core, check.user);
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

/// Each bug, the promise that it breaks, and the scenario that shows it.
const PLANTED: [(Bug, &str, Scenario); 34] = [
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
    (Bug::TellsNothing, "I3", Scenario::Hop),
    (Bug::IgnoresOtherRegions, "I3", Scenario::Hop),
    (Bug::IgnoresPartitions, "I3", Scenario::Partition),
    (Bug::LeavesOutReports, "I7", Scenario::Hop),
    (Bug::StopsTelling, "I7", Scenario::Partition),
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

/// A bug must be found within this number of seeds.
const MAX_SEEDS: u64 = 200;

/// Returns the first seed that finds a bug, and the violation.
fn find(bug: Bug, promise: &str, scenario: Scenario) -> Option<(u64, Violation)> {
    (0..MAX_SEEDS).find_map(|seed| {
        let run = run(Plan::new(scenario, seed).unwrap(), &mut Planted::new(bug), false).unwrap();
        run.violations.into_iter().find(|violation| violation.promise == promise).map(|violation| (seed, violation))
    })
}

#[test]
fn planted_bugs_are_found() {
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..campaign().threads {
            scope.spawn(|| {
                while let Some((bug, promise, scenario)) = PLANTED.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some((seed, violation)) = find(*bug, promise, *scenario) else {
                        missed.lock().unwrap().push(*bug);
                        continue;
                    };
                    println!("{bug:?}: found after {} seeds of {}: {violation}", seed + 1, scenario.name());
                    let without = run(Plan::new(*scenario, seed).unwrap(), &mut NoBugs, false).unwrap();
                    assert!(without.violations.is_empty(), "{bug:?}: seed {seed} breaks a promise without the bug");
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {MAX_SEEDS} seeds: {missed:?}");
    for promise in PROMISES {
        let bugs = PLANTED.iter().filter(|(_, broken, _)| *broken == promise).count();
        assert!(bugs >= 2, "{promise}: {bugs} bugs break it, expected at least 2");
    }
}

#[test]
fn the_pictures_show_limits_and_faults() {
    let run = run_seed(Scenario::Failover, 3, false).unwrap();
    let picture = plot::svg(&run);
    assert!(picture.starts_with("<svg") && picture.contains("the limit"));
    let text = plot::text(&run);
    assert!(text.contains("█ the limit") && text.contains('▒') && text.contains("\nseconds "));
}
