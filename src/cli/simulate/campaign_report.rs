//! Reports many runs: their sums, how much more than a limit all regions together admitted, and broken promises.

use comfy_table::{Cell, Table};
use serde_json::{Value, json};

use super::super::{Output, output};
use simulations::campaign::{Overshoot, Summary};
use simulations::oracle::DemandMet;

/// The largest number of seeds that the report shows.
const MAX_SHOWN: usize = 20;

/// Prints the sums of each scenario, and the seeds that broke a promise.
pub fn print(summary: &Summary, output: Output) {
    if output == Output::Json {
        let sums: serde_json::Map<_, _> = summary
            .by_scenario
            .iter()
            .map(|(name, sums)| {
                let sums = json!({
                    "seeds": sums.seeds, "checks": sums.checks, "allowed": sums.allowed, "degraded": sums.degraded,
                    "faults": sums.faults, "violations": sums.violations,
                });
                ((*name).to_owned(), sums)
            })
            .collect();
        let broken: Vec<_> = summary
            .broken
            .iter()
            .map(|broken| {
                let violations: Vec<_> = broken.violations.iter().map(ToString::to_string).collect();
                json!({ "scenario": broken.scenario.name(), "seed": broken.seed, "violations": violations })
            })
            .collect();
        let overshoot: serde_json::Map<_, _> = summary
            .overshoots
            .iter()
            .map(|(name, overshoots)| ((*name).to_owned(), Overshoots::new(overshoots).json()))
            .collect();
        let demand: serde_json::Map<_, _> =
            summary.demands.iter().map(|(spread, met)| (spread.name().to_owned(), Demand::new(met).json())).collect();
        outln!("{}", json!({ "scenarios": sums, "broken": broken, "overshoot": overshoot, "demand": demand }));
        return;
    }
    let mut table = output::table(&["scenario", "seeds", "faults", "checks", "allowed", "without the store", "broken"]);
    for (name, sums) in &summary.by_scenario {
        let figures = [sums.seeds, sums.faults, sums.checks, sums.allowed, sums.degraded];
        let mut row = vec![Cell::new(name)];
        row.extend(figures.map(Cell::new));
        row.push(output::verdict(sums.violations, sums.violations == 0));
        table.add_row(row);
    }
    outln!("{table}");
    for (name, overshoots) in &summary.overshoots {
        outln!("{name}: what all regions together admitted in a window, of {} runs", overshoots.len());
        outln!("{}", Overshoots::new(overshoots).table());
    }
    if !summary.demands.is_empty() {
        outln!("what became of the demand for limits under escrow");
        let heads = [
            "demand",
            "runs",
            "legitimate checks",
            "denied while others held rights",
            "longest denial in round trips: p50",
            "p99",
            "most",
            "rights followed after round trips: p50",
            "p99",
            "most",
        ];
        let mut table = output::table(&heads);
        for (spread, met) in &summary.demands {
            table.add_row(Demand::new(met).row(spread.name()));
        }
        outln!("{table}");
    }
    for broken in summary.broken.iter().take(MAX_SHOWN) {
        if let Some(violation) = broken.violations.first() {
            outln!("tidegate simulate --scenario {} --seed {}: {violation}", broken.scenario.name(), broken.seed);
        }
    }
    let seeds: u64 = summary.by_scenario.values().map(|sums| sums.seeds).sum();
    let good = summary.broken.is_empty();
    outln!(
        "{}: {} of {seeds} seeds broke a promise",
        output::word(if good { "good" } else { "broken" }, good),
        summary.broken.len()
    );
}

/// The quantiles of what all regions together admitted, over many runs.
struct Overshoots {
    runs: usize,
    /// Of each run's window with the most hits for its limit: admitted ÷ limit.
    ratios: [f64; 3],
    /// The same windows: the hits above the limit, for each hit of the limit.
    above: [f64; 3],
    /// The window of each run that came closest to its bound: admitted − (limit + what the others admitted within the
    /// staleness).
    excess: [i64; 3],
}

impl Overshoots {
    /// `overshoots` is not empty.
    fn new(overshoots: &[Overshoot]) -> Self {
        let mut ratios: Vec<f64> = overshoots.iter().map(|it| it.largest.ratio()).collect();
        ratios.sort_by(f64::total_cmp);
        let above: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0).max(0.0)).collect();
        let mut excess: Vec<i64> = overshoots.iter().map(|it| it.closest.excess()).collect();
        excess.sort_unstable();
        let runs = overshoots.len();
        Self { runs, ratios: quantiles(&ratios), above: quantiles(&above), excess: quantiles(&excess) }
    }

    fn table(&self) -> Table {
        let mut table = output::table(&["", "p50", "p99", "most"]);
        let row = |name: &str, values: [String; 3]| std::iter::once(name.to_owned()).chain(values).map(Cell::new);
        table.add_row(row("admitted ÷ limit", self.ratios.map(|ratio| format!("{ratio:.2}"))));
        table.add_row(row("overshoot, in % of the limit", self.above.map(|above| format!("{:.0}", above * 100.0))));
        let excess = self.excess.map(|hits| hits.to_string());
        table.add_row(row("admitted − (limit + what the others admitted within the staleness), in hits", excess));
        table
    }

    fn json(&self) -> Value {
        let of = |values: [Value; 3]| {
            let [p50, p99, most] = values;
            json!({ "p50": p50, "p99": p99, "most": most })
        };
        json!({
            "runs": self.runs, "admitted_by_limit": of(self.ratios.map(Value::from)),
            "overshoot_by_limit": of(self.above.map(Value::from)),
            "admitted_above_bound": of(self.excess.map(Value::from)),
        })
    }
}

/// What became of the demand for limits under escrow, over many runs.
struct Demand {
    runs: usize,
    legitimate: u64,
    denied: u64,
    /// The longest time in each run in which a region was denied again and again, in round trips.
    longest: Vec<f64>,
    /// The time in each run until the rights had followed a demand that moved, in round trips.
    followed: Vec<f64>,
}

impl Demand {
    fn new(met: &[DemandMet]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "times of a simulation")]
        let in_round_trips = |time_us: fn(&DemandMet) -> u64| {
            let times = met.iter().map(|met| time_us(met) as f64 / met.round_trip_us.max(1) as f64);
            let mut times: Vec<f64> = times.collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let (legitimate, denied) = (met.iter().map(|met| met.legitimate).sum(), met.iter().map(|met| met.denied).sum());
        let (longest, followed) = (in_round_trips(|met| met.longest_us), in_round_trips(|met| met.followed_us));
        Self { runs: met.len(), legitimate, denied, longest, followed }
    }

    #[expect(clippy::cast_precision_loss, reason = "checks of a simulation")]
    fn denied_share(&self) -> f64 {
        self.denied as f64 / self.legitimate.max(1) as f64
    }

    fn row(&self, name: &str) -> Vec<Cell> {
        let denied = format!("{} ({:.2} %)", self.denied, self.denied_share() * 100.0);
        let cells = [name.to_owned(), self.runs.to_string(), self.legitimate.to_string(), denied];
        let times = [&self.longest, &self.followed].map(|times| quantiles(times).map(|time| format!("{time:.1}")));
        cells.into_iter().chain(times.into_iter().flatten()).map(Cell::new).collect()
    }

    fn json(&self) -> Value {
        let of = |times: &[f64]| {
            let [p50, p99, most] = quantiles(times);
            json!({ "p50": p50, "p99": p99, "most": most })
        };
        json!({
            "runs": self.runs, "legitimate": self.legitimate, "denied": self.denied, "denied_share": self.denied_share(),
            "longest_denial_in_round_trips": of(&self.longest),
            "rights_followed_in_round_trips": of(&self.followed),
        })
    }
}

/// Returns the median, the 99th percentile and the largest of sorted values.
fn quantiles<T: Copy + Default>(sorted: &[T]) -> [T; 3] {
    let last = sorted.len().saturating_sub(1);
    [last.div_ceil(2), (last * 99).div_ceil(100), last].map(|at| sorted.get(at).copied().unwrap_or_default())
}
