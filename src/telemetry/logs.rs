//! Logs, on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Sends logs to standard error from now on; a second call changes nothing.
pub fn start(level: LevelFilter, format: Format) {
    let to_stderr = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    let started = match format {
        Format::Text => to_stderr.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => to_stderr.json().flatten_event(true).try_init(),
    };
    // Whoever began to log first goes on.
    drop(started);
}
