//! The command line: one file per subcommand.

#![deny(clippy::print_stdout)]

/// Prints a line. Whoever reads may have read enough: a pipe that is closed is no error.
macro_rules! outln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod bench;
mod check;
mod dev;
mod output;
mod rules;
mod run_node;
mod serve;
mod simulate;

use std::io::Write;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::telemetry::logs;

/// The commit that this program was built from.
pub const VERSION_COMMIT: &str = env!("TIDEGATE_COMMIT");
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TIDEGATE_COMMIT"), ")");

/// How a command ended; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Refused = 3,
    BadConfiguration = 78,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: colours on a terminal
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// What every command takes.
#[derive(Args)]
pub struct GlobalArgs {
    /// How results are printed
    #[arg(long, global = true, default_value = "table", value_name = "FORMAT")]
    output: Output,
    /// How logs look on standard error
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<logs::Format>,
}

#[derive(Parser)]
#[command(name = "tidegate", version = VERSION, about = "A distributed rate limiter")]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One node on loopback with counters in memory, for trying things out
    Dev(dev::Dev),
    /// One node of a region
    Serve(serve::Serve),
    /// Ask a running node: exit code 0 allowed, 3 refused
    Check(check::Check),
    /// Load a rate limiter, and measure it
    Bench(Box<bench::Bench>),
    /// Simulate a region with faults on virtual time, and see whether every promise is kept
    Simulate(simulate::Simulate),
    /// Work with rule files, offline
    #[command(subcommand)]
    Rules(rules::Rules),
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

impl Cli {
    pub fn run(self) -> Exit {
        let global = &self.global;
        match self.command {
            Command::Dev(dev) => dev.run(global),
            Command::Serve(serve) => serve.run(global),
            Command::Check(check) => check.run(global),
            Command::Bench(bench) => bench.run(global),
            Command::Simulate(simulate) => simulate.run(global),
            Command::Rules(rules) => rules.run(global),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "tidegate", &mut script);
                let _ = std::io::stdout().write_all(&script);
                Exit::Ok
            }
        }
    }
}
