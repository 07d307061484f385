//! `tidegate bench`.

use std::fs;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, GlobalArgs, Output, output};
use crate::yaml::decode::parse_duration;
use loadgen::calls::{Call, Question};
use loadgen::compare::{Difference, Line, compare, differences};
use loadgen::keys::Keys;
use loadgen::plot::{self, thousands};
use loadgen::record::MAX_COUNTED;
use loadgen::report::Report;
use loadgen::{Length, Plan, run};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    load: Load,
}

#[derive(Subcommand)]
enum Command {
    /// Put two saved runs side by side
    Compare {
        /// A run saved with --save
        before: PathBuf,
        /// Another, whose figures are divided by the first's
        after: PathBuf,
        /// Draw both into this SVG
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
}

/// How checks are asked for
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Envoy's ShouldRateLimit, of any server
    Envoy,
    /// Tidegate's Check
    Native,
    /// Tidegate's CheckBatch
    Batch,
    /// Tidegate's CheckStream
    Stream,
    /// POST /v1/check over HTTP/1.1
    Http,
}

#[derive(Args)]
struct Load {
    /// Server to load: grpc://host:port; http://host:port for `--call http`
    #[arg(long, default_value = "grpc://127.0.0.1:8081", value_name = "URL")]
    addr: String,
    /// How checks are asked for
    #[arg(long, value_enum, default_value = "envoy")]
    call: Kind,
    /// Checks in one call of `--call batch` [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: Option<u32>,
    /// Connections to the server
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Calls under way on one connection: always in a closed loop, at most in an open one. With `--call http` each has a
    /// connection of its own [default: 32; batch 4, stream 256, http 1; in an open loop 1000, http 16]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Option<u32>,
    /// Threads of this tool
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Calls a second, whatever comes back (an open loop); without it as many as come back (a closed loop)
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = positive_time)]
    duration: Duration,
    /// Send so many calls instead, and measure all of them, without a warm-up
    #[arg(long, conflicts_with_all = ["duration", "warm_up"], value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,
    /// How long to load before measuring
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = time)]
    warm_up: Duration,
    #[arg(
        long,
        default_value = "hot",
        help = "hot, uniform:COUNT, zipf:COUNT[:EXPONENT] or cycle:COUNT (one after the other)"
    )]
    keys: Keys,
    /// The domain that is asked
    #[arg(long, default_value = "api")]
    domain: String,
    /// The attribute that has the key as its value
    #[arg(long, default_value = "user")]
    attribute: String,
    /// What comes before the number of a key
    #[arg(long, default_value = "u")]
    prefix: String,
    /// Hits of each check
    #[arg(long, default_value_t = 1)]
    hits: u32,
    /// Fail when more checks of one key than this were admitted in the whole run
    #[arg(long, value_name = "COUNT")]
    at_most: Option<u32>,
    /// Of the keys that are drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Save the run as JSON, for `bench compare`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Draw latency by percentile and over time into this SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a duration such as 500ms, 10s or 2m".to_owned())
}

fn positive_time(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| if time.is_zero() { Err("expected more than no time".to_owned()) } else { Ok(time) })
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.replace('_', "").parse::<f64>().ok().filter(|rate| (0.001..=1e8).contains(rate));
    rate.ok_or_else(|| "expected calls a second, at most 100000000".to_owned())
}

impl Bench {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        let done = match &self.command {
            Some(Command::Compare { before, after, plot }) => side_by_side(global, before, after, plot.as_deref()),
            None => self.load.run(global),
        };
        done.unwrap_or_else(|error| {
            eprintln!("{error}");
            output::wrong(global.output, &[serde_json::json!({ "detail": error })]);
            Exit::Failed
        })
    }
}

impl Load {
    fn run(&self, global: &GlobalArgs) -> Result<Exit, String> {
        let plan = self.plan()?;
        let (stop, stopped) = stop_at_signals().map_err(|error| format!("signals: {error}"))?;
        let begin = plan.warm_up.as_secs_f64().ceil();
        let bar = progress(&plan);
        let report = run(&plan, &stop, |second| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
            bar.set_position((second.second + 1 + begin as i64) as u64);
            let what = if second.second < 0 { "warming up: " } else { "" };
            let p99 = second.p99_us.map_or_else(|| "-".to_owned(), latency);
            let failed = if second.failed > 0 { format!(", {} failed", second.failed) } else { String::new() };
            bar.set_message(format!("{what}{} checks/s, p99 {p99}{failed}", thousands_of(second.checks)));
        });
        bar.finish_and_clear();
        drop(stopped);
        let report = report.map_err(|error| format!("{}: {error}", self.addr))?;
        if let Some(path) = &self.save {
            write(path, &serde_json::to_string(&report).map_err(|error| error.to_string())?)?;
        }
        match global.output {
            Output::Json => outln!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?),
            Output::Table => show(&report),
        }
        let mut wrong = self.complaints(&report);
        if let Some(path) = self.plot.as_ref().filter(|_| report.calls > 0) {
            match plot::svg(&[(&self.addr, &report)]) {
                Ok(svg) => write(path, &svg)?,
                Err(error) => wrong.push(error.to_string()),
            }
        }
        wrong.iter().for_each(|complaint| eprintln!("{complaint}"));
        if report.unlimited {
            eprintln!("note: no limit applied to what was asked first: see --domain and --attribute");
        }
        Ok(if wrong.is_empty() { Exit::Ok } else { Exit::Failed })
    }

    /// What makes a run one that failed.
    fn complaints(&self, report: &Report) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some((limit, most)) =
            self.at_most.zip(report.most_admitted_of_a_key).filter(|(limit, most)| most > limit)
        {
            wrong.push(format!("{most} checks of one key were admitted, more than {limit}"));
        }
        let failed = report.failed.checks(report.batch);
        if failed > 0 {
            let first = report.failed.first.as_deref().unwrap_or("an unknown cause");
            wrong.push(format!("{failed} failed, the first with: {first}"));
        }
        if report.interrupted {
            wrong.push("interrupted: what was measured until then is shown".to_owned());
        }
        if report.calls == 0 && wrong.is_empty() {
            wrong.push("no call was answered in the time that is measured".to_owned());
        }
        wrong
    }

    fn plan(&self) -> Result<Plan, String> {
        let http = self.call == Kind::Http;
        let authority = match self.addr.split_once("://") {
            Some(("grpc", rest)) if !http => rest,
            Some(("http", rest)) if http => rest,
            _ if http => return Err(format!("{}: expected http://host:port", self.addr)),
            _ => return Err(format!("{}: expected grpc://host:port", self.addr)),
        };
        let authority = authority.trim_end_matches('/').to_owned();
        if authority.contains('/') || !authority.contains(':') {
            return Err(format!("{}: expected a scheme, a host and a port", self.addr));
        }
        let found = authority.to_socket_addrs().map_err(|error| format!("{}: {error}", self.addr))?.next();
        if self.batch.is_some() && self.call != Kind::Batch {
            return Err("--batch: expected with --call batch only".to_owned());
        }
        if self.at_most.is_some() && self.keys.count() > MAX_COUNTED {
            return Err(format!("--at-most: expected at most {MAX_COUNTED} keys, of which each is counted"));
        }
        let call = match self.call {
            Kind::Envoy => Call::Envoy,
            Kind::Native => Call::Native,
            Kind::Batch => Call::Batch(self.batch.unwrap_or(100)),
            Kind::Stream => Call::Stream,
            Kind::Http => Call::Http,
        };
        // In an open loop a call that is due should not have to wait for others.
        let in_flight = match (self.call, self.rate) {
            (Kind::Http, None) => 1,
            (Kind::Http, Some(_)) => 16,
            (Kind::Stream, None) => 256,
            (Kind::Batch, None) => 4,
            (_, None) => 32,
            (_, Some(_)) => 1000,
        };
        Ok(Plan {
            target: found.ok_or_else(|| format!("{}: no address", self.addr))?,
            authority,
            call,
            question: Question {
                domain: self.domain.clone(),
                attribute: self.attribute.clone(),
                prefix: self.prefix.clone(),
                hits: self.hits,
            },
            connections: self.connections,
            in_flight: self.in_flight.unwrap_or(in_flight),
            threads: self.threads,
            rate: self.rate,
            length: self.calls.map_or(Length::Time(self.duration), Length::Calls),
            warm_up: if self.calls.is_some() { Duration::ZERO } else { self.warm_up },
            patience: Duration::from_secs(5),
            keys: self.keys,
            seed: self.seed,
        })
    }
}

/// The first signal that asks for the end ends the run, the second the program. Signals are heard until the second value is
/// dropped.
#[expect(clippy::disallowed_methods, reason = "it listens beside the run")]
fn stop_at_signals() -> std::io::Result<(Arc<AtomicBool>, watch::Sender<()>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (over, mut is_over) = watch::channel(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = is_over.changed() => return,
                }
                if told.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok((stop, over))
}

/// A bar on a terminal, and nothing elsewhere.
fn progress(plan: &Plan) -> ProgressBar {
    let bar = match plan.length {
        Length::Time(time) => ProgressBar::new((plan.warm_up + time).as_secs().max(1)),
        Length::Calls(_) => ProgressBar::no_length(),
    };
    let template = match plan.length {
        Length::Time(_) => "{bar:30} {pos}/{len} s  {msg}",
        Length::Calls(_) => "{spinner} {pos} s  {msg}",
    };
    // A template that is wrong draws the default.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Report, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: expected a saved run: {error}", path.display()))
}

#[expect(clippy::cast_precision_loss, reason = "a count that is shown")]
fn thousands_of(count: u64) -> String {
    thousands(count as f64)
}

/// Microseconds as people say them.
fn latency(us: f64) -> String {
    if us >= 1e6 {
        format!("{:.2} s", us / 1e6)
    } else if us >= 1000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{us:.0} us")
    }
}

fn show(report: &Report) {
    let mut table = output::table(&[
        "checks/s", "p50", "p90", "p99", "p99.9", "p99.99", "longest", "admitted", "refused", "failed",
    ]);
    let l = &report.latency_us;
    let failed = report.failed.checks(report.batch);
    let time = |us: f64| Cell::new(if us == 0.0 { "-".to_owned() } else { latency(us) });
    table.add_row(vec![
        Cell::new(thousands(report.per_second)),
        time(l.p50),
        time(l.p90),
        time(l.p99),
        time(l.p999),
        time(l.p9999),
        time(l.max),
        Cell::new(thousands_of(report.admitted)),
        Cell::new(thousands_of(report.refused)),
        output::verdict(thousands_of(failed), failed == 0),
    ]);
    outln!("{table}");
}

fn side_by_side(global: &GlobalArgs, before: &Path, after: &Path, picture: Option<&Path>) -> Result<Exit, String> {
    let (one, other) = (read(before)?, read(after)?);
    let (lines, differ) = (compare(&one, &other), differences(&one, &other));
    if let Some(path) = picture {
        let names = [before.display().to_string(), after.display().to_string()];
        let svg = plot::svg(&[(&names[0], &one), (&names[1], &other)]).map_err(|error| error.to_string())?;
        write(path, &svg)?;
    }
    if global.output == Output::Json {
        let line = |line: &Line| serde_json::json!({ "what": line.what, "before": line.before, "after": line.after, "ratio": line.ratio() });
        let difference = |d: &Difference| serde_json::json!({ "what": d.what, "before": d.before, "after": d.after });
        let lines: Vec<_> = lines.iter().map(line).collect();
        let differ: Vec<_> = differ.iter().map(difference).collect();
        outln!("{}", serde_json::json!({ "differ": differ, "lines": lines }));
        return Ok(Exit::Ok);
    }
    for Difference { what, before, after } in &differ {
        outln!("{what} differs: {before} and {after}");
    }
    let mut table = output::table(&["", "before", "after", "ratio"]);
    for line in &lines {
        let ratio = line.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), thousands);
        let ratio = line.is_better().map_or_else(|| Cell::new(&ratio), |better| output::verdict(&ratio, better));
        table.add_row(vec![Cell::new(line.what), Cell::new(figure(line.before)), Cell::new(figure(line.after)), ratio]);
    }
    outln!("{table}");
    Ok(Exit::Ok)
}
