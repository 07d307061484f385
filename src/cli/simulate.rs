//! `tidegate simulate`: the node's own code on virtual time, one seed at a time or thousands of them.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Exit, GlobalArgs, Output, output};
use simulations::drawing;
use simulations::many::{Many, Summary, one};
use simulations::plot::svg;
use simulations::run::Run;
use simulations::scenario::Scenario;

/// So many seeds that broke a promise are shown.
const MOST_SHOWN: usize = 20;

/// Simulate a region: shards, flusher and counter script on virtual time, with faults; one seed, one history
#[derive(Args)]
pub struct Simulate {
    /// What goes wrong; without it every scenario in turn with --seeds, else everything
    #[arg(long, value_name = "NAME", value_parser = scenarios())]
    scenario: Option<Scenario>,
    /// The seed that decides everything, or the first of them
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run so many seeds, and tell only what was broken
    #[arg(long, value_name = "COUNT")]
    seeds: Option<NonZeroU64>,
    /// Leave out what happened line by line
    #[arg(long)]
    brief: bool,
    /// Draw how full the busiest counters of one seed were, with their limits and the faults, into an SVG
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
        let done = match self.seeds {
            Some(seeds) => self.many(seeds, global.output),
            None => self.one(global.output),
        };
        done.unwrap_or_else(|why| {
            eprintln!("tidegate: {why}");
            Exit::Failed
        })
    }

    fn one(&self, output: Output) -> Result<Exit, String> {
        let run = one(self.scenario.unwrap_or(Scenario::Everything), self.seed, !self.brief)?;
        if let Some(path) = &self.plot {
            svg(&run).and_then(|picture| {
                std::fs::write(path, picture).map_err(|error| format!("{}: {error}", path.display()))
            })?;
        }
        let text = if output == Output::Json { format!("{}\n", as_json(&run)) } else { as_text(&run) };
        // Whoever has read enough of a story, as `head` does, closes the pipe.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(exit(run.violations.is_empty()))
    }

    fn many(&self, seeds: NonZeroU64, output: Output) -> Result<Exit, String> {
        let scenarios = self.scenario.map_or_else(|| Scenario::ALL.to_vec(), |scenario| vec![scenario]);
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let many = Many { scenarios, first: self.seed, seeds: seeds.get(), threads };
        let bar = ProgressBar::with_draw_target(Some(seeds.get()), target());
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left{msg}");
        bar.set_style(style.map_err(|error| error.to_string())?);
        let summary = many.run(|run| {
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

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

const fn exit(good: bool) -> Exit {
    if good { Exit::Ok } else { Exit::Failed }
}

fn as_text(run: &Run) -> String {
    let mut text = format!("{}\n\n{}{}\n", run.plan, run.story, drawing::draw(run));
    for violation in &run.violations {
        text += &format!("{} {violation}\n", output::word("broken", false));
    }
    if run.violations.is_empty() {
        let checks = run.ledger.asked.len();
        text += &format!("{}: {checks} checks, every promise kept\n", output::word("good", true));
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
        "scenario": run.plan.scenario.name(), "seed": run.plan.seed, "plan": run.plan.to_string(), "story": run.story,
        "checks": run.ledger.asked.len(), "violations": violations,
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
            .map(|b| json!({ "scenario": b.scenario.name(), "seed": b.seed, "violations": b.violations.iter().map(ToString::to_string).collect::<Vec<_>>() }))
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
    for broken in summary.broken.iter().take(MOST_SHOWN) {
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
