//! `tidegate simulate`: runs the node's own code on virtual time, with one seed or thousands of seeds.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Exit, GlobalArgs, Output, output};
use simulations::campaign::{Campaign, Summary, run_seed};
use simulations::plot;
use simulations::run::Run;
use simulations::scenario::Scenario;

/// The largest number of seeds that the report shows.
const MAX_SHOWN: usize = 20;

/// Simulate regions with faults: shards, flusher and counter script on virtual time. One seed has one history
#[derive(Args)]
pub struct Simulate {
    /// The faults to simulate. Default: `everything`, or each scenario in turn with --seeds
    #[arg(long, value_name = "NAME", value_parser = scenarios())]
    scenario: Option<Scenario>,
    /// The seed, or the first seed with --seeds
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run this number of seeds, and report only broken promises
    #[arg(long, value_name = "COUNT")]
    seeds: Option<NonZeroU64>,
    /// Do not print the trace of events
    #[arg(long)]
    brief: bool,
    /// Write an SVG that shows how full the busiest counters were, their limits and the faults
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    plot: Option<PathBuf>,
}

fn scenarios() -> impl TypedValueParser<Value = Scenario> {
    let names = Scenario::ALL.map(|scenario| PossibleValue::new(scenario.name()).help(scenario.about()));
    let find = |name: String| Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    PossibleValuesParser::new(names).try_map(move |name| find(name).ok_or("no such scenario"))
}

impl Simulate {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let result = match self.seeds {
            Some(seeds) => self.run_campaign(seeds, global.output),
            None => self.run_one(global.output),
        };
        result.unwrap_or_else(|error| {
            eprintln!("tidegate: {error}");
            Exit::Failed
        })
    }

    fn run_one(&self, output: Output) -> Result<Exit, String> {
        let run = run_seed(self.scenario.unwrap_or(Scenario::Everything), self.seed, !self.brief)?;
        if let Some(path) = &self.plot {
            std::fs::write(path, plot::svg(&run)).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let text = if output == Output::Json { format!("{}\n", as_json(&run)) } else { as_text(&run) };
        // A reader such as `head` may close the pipe early.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(exit(run.violations.is_empty()))
    }

    fn run_campaign(&self, seeds: NonZeroU64, output: Output) -> Result<Exit, String> {
        let scenarios = self.scenario.map_or_else(|| Scenario::ALL.to_vec(), |scenario| vec![scenario]);
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let campaign = Campaign { scenarios, first: self.seed, seeds: seeds.get(), threads };
        let bar = ProgressBar::with_draw_target(Some(seeds.get()), draw_target());
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left{msg}");
        bar.set_style(style.map_err(|error| error.to_string())?);
        let summary = campaign.run(|run| {
            bar.inc(1);
            if let Some(violation) = run.violations.first() {
                bar.println(format!("--scenario {} --seed {}: {violation}", run.plan.scenario.name(), run.plan.seed));
            }
        })?;
        bar.finish_and_clear();
        report(&summary, output);
        Ok(exit(summary.broken.is_empty()))
    }
}

fn draw_target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

const fn exit(all_kept: bool) -> Exit {
    if all_kept { Exit::Ok } else { Exit::Failed }
}

fn as_text(run: &Run) -> String {
    let trace = if run.trace.is_empty() { String::new() } else { format!("\n{}", run.trace) };
    let mut text = format!("{}\n{trace}{}\n", run.plan, plot::text(run));
    for violation in &run.violations {
        text += &format!("{} {violation}\n", output::word("broken", false));
    }
    if run.violations.is_empty() {
        let checks = run.history.checks.len();
        text += &format!("{}: {checks} checks, all promises kept\n", output::word("good", true));
    }
    text
}

fn as_json(run: &Run) -> serde_json::Value {
    let violations: Vec<_> = run
        .violations
        .iter()
        .map(|broken| json!({ "promise": broken.promise, "at_us": broken.at, "text": broken.text }))
        .collect();
    json!({
        "scenario": run.plan.scenario.name(), "seed": run.plan.seed, "plan": run.plan.to_string(), "story": run.trace,
        "checks": run.history.checks.len(), "violations": violations,
    })
}

fn report(summary: &Summary, output: Output) {
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
        outln!("{}", json!({ "scenarios": sums, "broken": broken }));
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
