//! The command line: one file per subcommand.

mod check;
mod dev;
mod rules;

use clap::{Parser, Subcommand};

/// How a command ended; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Refused = 3,
    BadConfiguration = 78,
}

#[derive(Parser)]
#[command(name = "tidegate", version, about = "A distributed rate limiter")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One node on loopback with a memory store, for trying things out
    Dev(dev::Dev),
    /// Ask a running node
    Check(check::Check),
    /// Work with rule files, offline
    #[command(subcommand)]
    Rules(rules::Rules),
}

impl Cli {
    pub fn run(self) -> Exit {
        match self.command {
            Command::Dev(dev) => dev.run(),
            Command::Check(check) => check.run(),
            Command::Rules(rules) => rules.run(),
        }
    }
}
