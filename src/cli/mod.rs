//! The command line: one file per subcommand.

#![deny(clippy::print_stdout)]

/// Prints a line. A closed pipe is no error: its reader may have read enough.
macro_rules! outln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

#[cfg(feature = "cluster")]
mod admin_client;
#[cfg(feature = "cluster")]
mod audit;
#[cfg(feature = "bench")]
mod bench;
mod check;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod cluster_ca;
#[cfg(feature = "cluster")]
mod confirm;
mod dev;
#[cfg(feature = "cluster")]
mod directory;
#[cfg(feature = "cluster")]
mod migrate;
mod node_address;
mod output;
mod rules;
mod run_node;
mod serve;
mod settings;
#[cfg(feature = "simulate")]
mod simulate;
#[cfg(feature = "cluster")]
mod token;

use std::io::Write;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::telemetry::logs;

/// The version and the commit of this program.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    pub version: &'static str,
    pub commit: &'static str,
}

/// The result of a command. The number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Denied = 3,
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

/// The arguments of every command.
#[derive(Args)]
pub struct GlobalArgs {
    /// How results are printed
    #[arg(long, global = true, default_value = "table", value_name = "FORMAT")]
    output: Output,
    /// The format of logs on standard error
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<logs::Format>,
}

#[derive(Parser)]
#[command(name = "tidegate", about = "A distributed rate limiter")]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node on loopback with counters in memory, to try things out
    Dev(dev::Dev),
    /// Run one node of a region
    Serve(serve::Serve),
    /// Ask a running node to decide a check: exit code 0 if allowed, 3 if denied
    Check(check::Check),
    #[cfg(feature = "bench")]
    /// Put load on a rate limiter and measure it
    Bench(Box<bench::Bench>),
    /// Not in this build: put load on a rate limiter and measure it
    #[cfg(not(feature = "bench"))]
    Bench(NotBuilt),
    /// Simulate regions with faults on virtual time, and check every promise
    #[cfg(feature = "simulate")]
    Simulate(simulate::Simulate),
    /// Not in this build: simulate a region with faults on virtual time
    #[cfg(not(feature = "simulate"))]
    Simulate(NotBuilt),
    /// Work with rule files offline, and with the rules of a running node
    #[command(subcommand)]
    Rules(rules::Rules),
    /// Manage tiers
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Tiers(directory::Tiers),
    /// Manage users
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Users(directory::Users),
    /// Manage API keys
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Keys(directory::Keys),
    /// Show who changed what, the newest first
    #[cfg(feature = "cluster")]
    Audit(audit::Audit),
    /// Manage admin tokens
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Token(token::Token),
    #[cfg(feature = "cluster")]
    /// Form and manage a cluster of nodes
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Not in this build: work with a cluster of nodes
    #[cfg(not(feature = "cluster"))]
    Cluster(NotBuilt),
    /// Manage the schema in PostgreSQL
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

/// A command that this build does not have.
#[cfg(any(not(feature = "bench"), not(feature = "simulate"), not(feature = "cluster")))]
#[derive(Args)]
struct NotBuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

#[cfg(any(not(feature = "bench"), not(feature = "simulate"), not(feature = "cluster")))]
impl NotBuilt {
    fn run(self, feature: &str) -> Exit {
        eprintln!("this program was built without the feature {feature}: cargo build --release builds all of it");
        Exit::Failed
    }
}

/// Parses the arguments of this process and runs the command.
pub fn run(build: BuildInfo) -> Exit {
    let version: &'static str = format!("{} ({})", build.version, build.commit).leak();
    let matches = Cli::command().version(version).get_matches();
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.run(build),
        Err(error) => error.exit(),
    }
}

impl Cli {
    fn run(self, build: BuildInfo) -> Exit {
        let global = &self.global;
        match self.command {
            Command::Dev(dev) => dev.run(global, build),
            Command::Serve(serve) => serve.run(global, build),
            Command::Check(check) => check.run(global),
            #[cfg(not(feature = "bench"))]
            Command::Bench(not_built) => not_built.run("bench"),
            #[cfg(not(feature = "simulate"))]
            Command::Simulate(not_built) => not_built.run("simulate"),
            #[cfg(feature = "bench")]
            Command::Bench(bench) => bench.run(global),
            #[cfg(feature = "simulate")]
            Command::Simulate(simulate) => simulate.run(global),
            Command::Rules(rules) => rules.run(global),
            #[cfg(feature = "cluster")]
            Command::Tiers(tiers) => tiers.run(global.output),
            #[cfg(feature = "cluster")]
            Command::Users(users) => users.run(global.output),
            #[cfg(feature = "cluster")]
            Command::Token(token) => token.run(global),
            #[cfg(feature = "cluster")]
            Command::Audit(audit) => audit.run(global.output),
            #[cfg(feature = "cluster")]
            Command::Keys(keys) => keys.run(global.output),
            #[cfg(feature = "cluster")]
            Command::Cluster(cluster) => cluster.run(global),
            #[cfg(not(feature = "cluster"))]
            Command::Cluster(not_built) => not_built.run("cluster"),
            #[cfg(feature = "cluster")]
            Command::Migrate(migrate) => migrate.run(global),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "tidegate", &mut script);
                let _ = std::io::stdout().write_all(&script);
                Exit::Ok
            }
        }
    }
}
