//! The simulator: seeds that keep every promise, one story for one seed, and bugs that are planted here and must be found.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use limiter::counter::{Batch, BatchOutcome, BatchReply, Counter, Hits, ItemReply, Seen, SeenCells};
use limiter::{Revision, ShardConfig, StoreTime};
use simulations::ledger::{Asked, Decided};
use simulations::many::{Many, one};
use simulations::meddler::{Honest, Meddler};
use simulations::oracle::{PROMISES, Violation};
use simulations::plan::Plan;
use simulations::run::run;
use simulations::scenario::Scenario;
use simulations::{drawing, plot};

/// 300 seeds, or as many as `TIDEGATE_CASES` says, from `TIDEGATE_SEED` on.
fn many() -> Many {
    let of = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds) = (of("TIDEGATE_SEED").unwrap_or(0), of("TIDEGATE_CASES").unwrap_or(300u64));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    // Each scenario has its turn.
    let seeds = seeds.next_multiple_of(Scenario::ALL.len() as u64);
    Many { scenarios: Scenario::ALL.to_vec(), first, seeds, threads }
}

#[test]
fn every_promise_is_kept_in_every_scenario() {
    let summary = many().run(|_| ()).unwrap();
    let broken: Vec<String> = summary
        .broken
        .iter()
        .map(|b| format!("--scenario {} --seed {}: {}", b.scenario.name(), b.seed, b.violations[0]))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    for scenario in Scenario::ALL {
        let sums = &summary.by_scenario[scenario.name()];
        assert!(sums.allowed > 0 && sums.allowed < sums.checks, "{scenario:?}: nothing was put to the test: {sums:?}");
        let quiet = matches!(scenario, Scenario::Calm | Scenario::Edits | Scenario::Memory);
        assert_eq!(sums.faults == 0, quiet, "{scenario:?}: {sums:?}");
        let alone = matches!(scenario, Scenario::Stall | Scenario::Outage | Scenario::Failover | Scenario::Everything);
        assert!(!alone || sums.degraded > 0, "{scenario:?}: the store was never away: {sums:?}");
    }
}

#[test]
fn one_seed_has_one_story() {
    for scenario in Scenario::ALL {
        let story = |seed| {
            let run = one(scenario, seed, true).unwrap();
            format!("{}\n{}", run.plan, run.story)
        };
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
    }
}

/// What is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bug {
    RefundsTwice,
    ResendsWhatIsUnknown,
    IgnoresIncarnations,
    RemembersNothing,
    LeasesOutliveTheirCell,
    TheOlderCellWeighsNothing,
    IgnoresNotAfter,
    ChargesDebtsTwice,
    RemembersRefusalsPastAnEdit,
    AllowsWhatALimitRefused,
    KeepsWhatItReserved,
    KeepsItsLeases,
    DecidesByAStaleBook,
    SaysANewerRevision,
    HoldsTwiceAsManyKeys,
    HoldsTwiceAsManyChecks,
    ForgetsDeadlines,
    WaitsAsLongAsTheStoreMay,
    NeverLooksAfterSilentServers,
    TakesEveryBatchForLate,
    ChargesBucketsOneLess,
    DividesByOne,
    NeverTellsItsDebts,
    TellsHalfOfItsDebts,
    /// A record charges all that a report says, whatever it has charged of that.
    ForgetsWhichDebtsItCharged,
    /// What a cell has dropped counts beside what it hears of again.
    CountsDroppedSourcesAgain,
    /// A replaced primary goes on granting.
    NeverFences,
    /// A suspended machine does not notice.
    ClockStandsStill,
}

struct Planted {
    bug: Bug,
    /// The debts that were reported, and how many names they had.
    names: u64,
    refused: HashMap<(usize, u32), Decided>,
    newest: Revision,
}

impl Planted {
    fn new(bug: Bug) -> Self {
        Self { bug, names: 0, refused: HashMap::new(), newest: Revision::NONE }
    }
}

fn patch(script: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(script, |script, (from, to)| {
        assert!(script.contains(from), "the script has no {from:?} any more");
        script.replace(from, to)
    })
}

impl Meddler for Planted {
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
            Bug::TheOlderCellWeighsNothing => patch(
                text,
                &[(
                    "local function weighted(used, overlap_ms, width_ms)",
                    "local function weighted(used, overlap_ms, width_ms) do return 0 end",
                )],
            ),
            Bug::ChargesBucketsOneLess => {
                patch(text, &[("then charge(bucket, tokens) end", "then charge(bucket, tokens - 1) end")])
            }
            Bug::ForgetsWhichDebtsItCharged => patch(
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
                &[("return max(sum_and_floor(cell))", "local sum, floor = sum_and_floor(cell) return sum + floor")],
            ),
            _ => text,
        }
    }

    fn fences(&mut self, _: usize) -> bool {
        self.bug != Bug::NeverFences
    }

    fn notices_suspension(&mut self) -> bool {
        self.bug != Bug::ClockStandsStill
    }

    fn config(&mut self, config: &mut ShardConfig) {
        match self.bug {
            Bug::HoldsTwiceAsManyKeys => config.max_keys *= 2,
            Bug::HoldsTwiceAsManyChecks => config.max_waiting *= 2,
            Bug::DividesByOne => (config.holders, config.min_holders) = (1, 1),
            _ => {}
        }
    }

    fn batch(&mut self, _: usize, batch: &mut Batch) {
        match self.bug {
            Bug::IgnoresNotAfter => batch.not_after = None,
            Bug::TakesEveryBatchForLate => batch.not_after = batch.not_after.map(|at| StoreTime(at.0 - 60_000_000)),
            _ => {}
        }
        for item in &mut batch.items {
            let alone = item.asks.is_empty();
            match &mut item.counter {
                Counter::Window { seen, returns, debts, .. } => match self.bug {
                    Bug::RefundsTwice => returns.iter_mut().for_each(|back| back.tokens *= 2),
                    Bug::KeepsWhatItReserved if !alone => returns.clear(),
                    Bug::KeepsItsLeases if alone => returns.clear(),
                    Bug::RemembersNothing => (*seen, debts.seen) = (SeenCells::None, Vec::new()),
                    Bug::NeverTellsItsDebts => debts.reports.clear(),
                    Bug::TellsHalfOfItsDebts => {
                        debts.reports.iter_mut().for_each(|report| report.debt.hits.charged /= 2);
                    }
                    Bug::ChargesDebtsTwice => {
                        for report in &mut debts.reports {
                            self.names += 1 << 24;
                            report.debt.id.0 = (report.debt.id.0 + self.names) % (1 << 48);
                            report.known = Hits::default();
                        }
                    }
                    _ => {}
                },
                Counter::Bucket { seen, .. } if self.bug == Bug::RemembersNothing => *seen = None,
                Counter::Bucket { .. } => {}
            }
        }
    }

    fn answer(&mut self, _: usize, answer: &mut BatchReply) {
        let BatchOutcome::Ran(items) = &mut answer.outcome else { return };
        for item in items {
            if let ItemReply::Done(grant) = item
                && let Seen::Window { cell_end_ms, .. } = &mut grant.seen
                && self.bug == Bug::LeasesOutliveTheirCell
            {
                *cell_end_ms += 10_000;
            }
        }
    }

    fn resends(&mut self, _: usize) -> bool {
        self.bug == Bug::ResendsWhatIsUnknown
    }

    fn hears(&mut self, holder: usize, revision: Revision) -> bool {
        self.newest = self.newest.max(revision);
        let stale = matches!(self.bug, Bug::DecidesByAStaleBook | Bug::SaysANewerRevision);
        !(stale && holder == 0 && revision > Revision(1))
    }

    fn keeps_deadline(&mut self, asked: &Asked) -> bool {
        match self.bug {
            Bug::ForgetsDeadlines => false,
            // Longer than any simulated deadline but the longest.
            Bug::WaitsAsLongAsTheStoreMay => asked.within_us >= 50_000,
            _ => true,
        }
    }

    fn looks(&mut self, _: usize) -> bool {
        self.bug != Bug::NeverLooksAfterSilentServers
    }

    fn decided(&mut self, asked: &Asked, decided: &mut Decided) {
        match self.bug {
            Bug::AllowsWhatALimitRefused => decided.allowed |= decided.limits.iter().any(|limit| !limit.refused),
            Bug::SaysANewerRevision if asked.holder == 0 => decided.revision = self.newest,
            Bug::RemembersRefusalsPastAnEdit => {
                let key = (asked.holder, asked.user);
                let same = |old: &&Decided| {
                    old.limits.len() == decided.limits.len() && old.limits[0].limit == decided.limits[0].limit
                };
                if let Some(old) = self.refused.get(&key).filter(same).filter(|old| old.revision < decided.revision) {
                    let refused = old.limits.iter().map(|limit| limit.refused);
                    decided.limits.iter_mut().zip(refused).for_each(|(limit, refused)| limit.refused = refused);
                    decided.allowed = false;
                } else if !decided.allowed && !decided.degraded {
                    self.refused.insert(key, decided.clone());
                }
            }
            _ => {}
        }
    }
}

/// Each bug, the promise that it breaks, and a scenario that finds it.
const PLANTED: [(Bug, &str, Scenario); 28] = [
    (Bug::RefundsTwice, "I5", Scenario::Calm),
    (Bug::ResendsWhatIsUnknown, "I1", Scenario::Network),
    (Bug::IgnoresIncarnations, "I1", Scenario::Failover),
    (Bug::RemembersNothing, "I1", Scenario::Forgetting),
    (Bug::LeasesOutliveTheirCell, "I1", Scenario::Calm),
    (Bug::TheOlderCellWeighsNothing, "I1", Scenario::Calm),
    (Bug::ChargesBucketsOneLess, "I1", Scenario::Buckets),
    (Bug::DividesByOne, "I1", Scenario::Outage),
    (Bug::NeverTellsItsDebts, "debts", Scenario::Outage),
    (Bug::TellsHalfOfItsDebts, "debts", Scenario::Outage),
    (Bug::IgnoresNotAfter, "refusal", Scenario::Stall),
    (Bug::ChargesDebtsTwice, "refusal", Scenario::Outage),
    (Bug::ForgetsWhichDebtsItCharged, "refusal", Scenario::Crowded),
    (Bug::CountsDroppedSourcesAgain, "refusal", Scenario::Crowded),
    (Bug::NeverFences, "I1", Scenario::Replaced),
    (Bug::ClockStandsStill, "I1", Scenario::Suspended),
    (Bug::RemembersRefusalsPastAnEdit, "refusal", Scenario::Edits),
    (Bug::AllowsWhatALimitRefused, "I4", Scenario::Calm),
    (Bug::KeepsWhatItReserved, "I4", Scenario::Calm),
    (Bug::KeepsItsLeases, "I5", Scenario::Memory),
    (Bug::DecidesByAStaleBook, "I6", Scenario::Edits),
    (Bug::SaysANewerRevision, "I6", Scenario::Edits),
    (Bug::HoldsTwiceAsManyKeys, "I10", Scenario::Memory),
    (Bug::HoldsTwiceAsManyChecks, "I10", Scenario::Stall),
    (Bug::ForgetsDeadlines, "deadline", Scenario::Network),
    (Bug::WaitsAsLongAsTheStoreMay, "deadline", Scenario::Stall),
    (Bug::NeverLooksAfterSilentServers, "liveness", Scenario::Network),
    (Bug::TakesEveryBatchForLate, "liveness", Scenario::Calm),
];

/// So many seeds at most until a bug must be found.
const PATIENCE: u64 = 200;

/// Which seed finds a bug, and how it breaks the promise.
fn find(bug: Bug, promise: &str, scenario: Scenario) -> Option<(u64, Violation)> {
    (0..PATIENCE).find_map(|seed| {
        let run = run(Plan::new(scenario, seed).unwrap(), &mut Planted::new(bug), false).unwrap();
        run.violations.into_iter().find(|violation| violation.promise == promise).map(|violation| (seed, violation))
    })
}

#[test]
fn planted_bugs_are_found() {
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..many().threads {
            scope.spawn(|| {
                while let Some((bug, promise, scenario)) = PLANTED.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some((seed, violation)) = find(*bug, promise, *scenario) else {
                        missed.lock().unwrap().push(*bug);
                        continue;
                    };
                    println!("{bug:?}: found after {} seeds of {}: {violation}", seed + 1, scenario.name());
                    let honest = run(Plan::new(*scenario, seed).unwrap(), &mut Honest, false).unwrap();
                    assert!(honest.violations.is_empty(), "{bug:?}: without it seed {seed} keeps every promise");
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {PATIENCE} seeds: {missed:?}");
    for promise in PROMISES {
        let bugs = PLANTED.iter().filter(|(_, broken, _)| *broken == promise).count();
        assert!(bugs >= 2, "{promise} is put to the test by {bugs} bugs");
    }
}

#[test]
fn a_simulation_is_drawn() {
    let run = one(Scenario::Failover, 3, false).unwrap();
    let picture = plot::svg(&run).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("the limit"));
    let drawing = drawing::draw(&run);
    assert!(drawing.contains("a full bar is") && drawing.contains('▒'));
}
