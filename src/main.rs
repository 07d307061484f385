//! `tidegate`: arguments in, an exit code out.

use tidegate::cli::{BuildInfo, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The scripts set the commit. It is part of the binary only, so that a commit does not rebuild the library.
const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    commit: match option_env!("BUILD_COMMIT") {
        Some(commit) => commit,
        None => "unknown",
    },
};

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(run(BUILD) as u8)
}
