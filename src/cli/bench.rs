//! `tidegate bench`.

mod compare;
mod load_args;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressStyle};
use loadgen::{LoadPlan, Percentile, Report, RunLength, SecondSummary, format_latency, group_thousands, plot_svg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, GlobalArgs, Output, output};
use load_args::LoadArgs;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Compare two saved runs
    Compare {
        /// A run that was saved with --save
        before: PathBuf,
        /// Another saved run; its figures are divided by those of the first run
        after: PathBuf,
        /// Plot both runs into this SVG file
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
}

impl Bench {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let result = match &self.command {
            Some(Command::Compare { before, after, plot }) => {
                compare::run(global, before, after, plot.as_deref()).map(|()| Exit::Ok)
            }
            None => run_load(&self.load, global),
        };
        result.unwrap_or_else(|error| {
            eprintln!("{error}");
            output::wrong(global.output, &[serde_json::json!({ "detail": error })]);
            Exit::Failed
        })
    }
}

/// Runs the load and prints its report.
fn run_load(args: &LoadArgs, global: &GlobalArgs) -> Result<Exit, String> {
    let plan = args.plan()?;
    let (stop, signal_guard) = stop_on_signals().map_err(|error| format!("could not listen for signals: {error}"))?;
    let bar = progress_bar(&plan);
    let report = loadgen::run(&plan, &stop, |second| show_progress(&bar, &plan, second));
    bar.finish_and_clear();
    drop(signal_guard);
    let report = report.map_err(|error| format!("{}: {error}", args.addr))?;
    if let Some(path) = &args.save {
        write_file(path, &serde_json::to_string(&report).map_err(|error| error.to_string())?)?;
    }
    match global.output {
        Output::Json => outln!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?),
        Output::Table => print_table(&report),
    }
    let mut failures = failure_messages(&report, args.at_most);
    if let Some(path) = args.plot.as_ref().filter(|_| report.calls > 0) {
        match plot_svg(&[(&args.addr, &report)]) {
            Ok(svg) => write_file(path, &svg)?,
            Err(error) => failures.push(error.to_string()),
        }
    }
    failures.iter().for_each(|message| eprintln!("{message}"));
    if report.unlimited {
        eprintln!("note: no limit applied to the first call: see --domain and --attribute");
    }
    Ok(if failures.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// Returns the reasons why the run failed; empty if it succeeded.
fn failure_messages(report: &Report, at_most: Option<u32>) -> Vec<String> {
    let mut messages = Vec::new();
    if let Some((limit, admitted)) =
        at_most.zip(report.max_admitted_per_key).filter(|(limit, admitted)| admitted > limit)
    {
        messages.push(format!("{admitted} checks of one key were admitted; --at-most allows {limit}"));
    }
    let failed = report.failed.checks(report.batch);
    if failed > 0 {
        let cause = report.failed.first_cause.as_deref().unwrap_or("an unknown cause");
        messages.push(format!("{failed} checks failed; the first cause: {cause}"));
    }
    if report.interrupted {
        messages.push("interrupted: the report covers the time until the interruption".to_owned());
    }
    if report.calls == 0 && messages.is_empty() {
        messages.push("no call was answered in the measured time".to_owned());
    }
    messages
}

/// Returns a flag that the first SIGINT or SIGTERM sets. A second signal ends the program with exit code 130. The
/// program listens for signals until the returned sender is dropped.
#[expect(clippy::disallowed_methods, reason = "the thread ends when the returned sender is dropped")]
fn stop_on_signals() -> std::io::Result<(Arc<AtomicBool>, watch::Sender<()>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (guard, mut guard_dropped) = watch::channel(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let stop_flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = guard_dropped.changed() => return,
                }
                if stop_flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok((stop, guard))
}

/// Returns a progress bar. It is visible on a terminal only.
fn progress_bar(plan: &LoadPlan) -> ProgressBar {
    let bar = match plan.length {
        RunLength::Time(time) => ProgressBar::new((plan.warm_up + time).as_secs().max(1)),
        RunLength::Calls(_) => ProgressBar::no_length(),
    };
    let template = match plan.length {
        RunLength::Time(_) => "{bar:30} {pos}/{len} s  {msg}",
        RunLength::Calls(_) => "{spinner} {pos} s  {msg}",
    };
    // With an invalid template, the bar keeps its default style.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show_progress(bar: &ProgressBar, plan: &LoadPlan, second: &SecondSummary) {
    let warm_up = plan.warm_up.as_secs_f64().ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
    bar.set_position((second.second + 1 + warm_up as i64) as u64);
    let phase = if second.second < 0 { "warming up: " } else { "" };
    let p99 = second.p99_us.map_or_else(|| "-".to_owned(), format_latency);
    let failed = if second.failed > 0 { format!(", {} failed", second.failed) } else { String::new() };
    bar.set_message(format!("{phase}{} checks/s, p99 {p99}{failed}", format_count(second.checks)));
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[expect(clippy::cast_precision_loss, reason = "a count that is shown")]
fn format_count(count: u64) -> String {
    group_thousands(count as f64)
}

fn print_table(report: &Report) {
    let mut table =
        output::table(&["checks/s", "p50", "p90", "p99", "p99.9", "p99.99", "max", "admitted", "denied", "failed"]);
    let latency = &report.latency_us;
    let failed = report.failed.checks(report.batch);
    let latency_cell = |us: Option<f64>| Cell::new(us.map_or_else(|| "-".to_owned(), format_latency));
    table.add_row(vec![
        Cell::new(group_thousands(report.per_second)),
        latency_cell(latency.p50),
        latency_cell(latency.p90),
        latency_cell(latency.p99),
        latency_cell(latency.p999),
        latency_cell(latency.p9999),
        latency_cell(latency.max),
        Cell::new(format_count(report.admitted)),
        Cell::new(format_count(report.denied)),
        output::verdict(format_count(failed), failed == 0),
    ]);
    outln!("{table}");
    if latency.max.is_some() {
        note_missing_percentiles(report);
    }
}

/// Says which percentiles the table lacks, and why.
fn note_missing_percentiles(report: &Report) {
    let latency = &report.latency_us;
    let values = [latency.p50, latency.p90, latency.p99, latency.p999, latency.p9999];
    let missing = Percentile::ALL.into_iter().zip(values).filter(|(_, value)| value.is_none());
    let needs =
        |(percentile, _): (Percentile, _)| format!("{} needs {}", percentile.name, format_count(percentile.needs()));
    let missing: Vec<String> = missing.map(needs).collect();
    if !missing.is_empty() {
        outln!(
            "too few calls for some percentiles: {} ({} were answered)",
            missing.join(", "),
            format_count(report.calls)
        );
    }
}
