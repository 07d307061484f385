//! Logs, on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Sends logs to standard error. A second call changes nothing.
pub fn start(level: LevelFilter, format: Format) {
    // The store adapter logs the connections to Redis itself, once.
    let clients = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    // Raft logs every step, and warns of messages that are late, as many are.
    let raft = if level >= LevelFilter::DEBUG { level } else { level.min(LevelFilter::ERROR) };
    let filter = Targets::new().with_default(level).with_target("fred", clients).with_target("openraft", raft);
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        Format::Text => to_stderr.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => to_stderr.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    // The first call wins.
    drop(started);
}
