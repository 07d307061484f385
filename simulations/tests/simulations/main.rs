//! The simulator: every promise holds in every scenario, one seed has one history, and the oracles find planted bugs.

mod bugs;
mod planted;

use simulations::campaign::{Campaign, run_seed};
use simulations::plot;
use simulations::scenario::Scenario;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Returns a campaign of `TIDEGATE_CASES` seeds (300 by default) from `TIDEGATE_SEED` on (0 by default), rounded up so
/// that each scenario runs equally often.
fn campaign() -> Campaign {
    let of = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds) = (of("TIDEGATE_SEED").unwrap_or(0), of("TIDEGATE_CASES").unwrap_or(300u64));
    let seeds = seeds.next_multiple_of(Scenario::ALL.len() as u64);
    Campaign { scenarios: Scenario::ALL.to_vec(), first, seeds, threads: threads() }
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
        let has_no_faults = matches!(
            scenario,
            Scenario::Calm | Scenario::Edits | Scenario::Memory | Scenario::Hop | Scenario::Rates | Scenario::Demand
        );
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

#[test]
fn the_pictures_show_limits_and_faults() {
    let run = run_seed(Scenario::Failover, 3, false).unwrap();
    let picture = plot::svg(&run);
    assert!(picture.starts_with("<svg") && picture.contains("the limit"));
    let text = plot::text(&run);
    assert!(text.contains("█ the limit") && text.contains('▒') && text.contains("\nseconds "));
}
