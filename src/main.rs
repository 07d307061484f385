//! `tidegate`: arguments in, an exit code out.

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let exit = tidegate::cli::Cli::parse().run();
    std::process::ExitCode::from(exit as u8)
}
