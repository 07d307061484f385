//! `tidegate simulate`: runs the node's own code on virtual time, with one seed or thousands of seeds.

mod campaign_report;
mod run_report;

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Exit, GlobalArgs, Output};
use simulations::campaign::{Campaign, run_seed};
use simulations::plot;
use simulations::scenario::Scenario;

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
        let text =
            if output == Output::Json { format!("{}\n", run_report::json(&run)) } else { run_report::text(&run) };
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
        campaign_report::print(&summary, output);
        Ok(exit(summary.broken.is_empty()))
    }
}

fn draw_target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

const fn exit(all_kept: bool) -> Exit {
    if all_kept { Exit::Ok } else { Exit::Failed }
}
