//! `tidegate rules`: work with rule files, offline, and with the rules of a running node.

#[cfg(feature = "cluster")]
mod book;
#[cfg(feature = "cluster")]
mod book_diff;
mod explain;
#[cfg(feature = "cluster")]
mod git;
mod import;
#[cfg(feature = "cluster")]
pub(super) mod refused;
mod test;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;

use super::{Exit, GlobalArgs, Output, output};
use crate::config::defaults::DEFAULTS;
use crate::rulefile::decode::FileError;
use crate::rulefile::watch::{InvalidRuleFile, load};
use limiter::Revision;
use limiter::rules::RuleBook;

/// The JSON Schema of a rule file.
const SCHEMA: &str = include_str!("../../rulefile/rules.schema.json");

#[derive(Subcommand)]
pub enum Rules {
    /// Show every error of a rule file
    Validate { file: PathBuf },
    /// Show the limits that apply to a descriptor, and their effect
    Explain(explain::Explain),
    /// Run the cases that are written beside a rule file
    Test(test::Test),
    /// Print the JSON Schema of a rule file, for editors
    Schema,
    /// Print the rule file that stands for files of another rate limiter
    ///
    /// Works offline. What cannot be carried over, or has another effect here, is listed on standard error by file,
    /// line and column, and in `--output json` as `notices`. With an error in the files, nothing is printed and the
    /// exit code is 78.
    Import(import::Import),
    #[cfg(feature = "cluster")]
    #[command(flatten)]
    Book(book::Book),
}

impl Rules {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        match self {
            Self::Validate { file } => validate(&file, global.output),
            Self::Explain(explain) => explain.run(global.output),
            Self::Test(test) => test.run(global.output),
            Self::Import(import) => import.run(global.output),
            #[cfg(feature = "cluster")]
            Self::Book(book) => book.run(global.output),
            Self::Schema => {
                outln!("{}", SCHEMA.trim_end());
                Exit::Ok
            }
        }
    }
}

/// Compiles a rule file, or prints its errors.
fn book(file: &Path, output: Output) -> Result<Arc<RuleBook>, Exit> {
    load(file, Revision(1)).map(|loaded| loaded.book).map_err(|refused| bad(output, &refused))
}

/// Prints the errors of a file.
fn bad(output: Output, refused: &InvalidRuleFile) -> Exit {
    eprintln!("{refused}");
    output::wrong(output, &refused.errors());
    Exit::BadConfiguration
}

fn validate(file: &Path, output: Output) -> Exit {
    let loaded = match load(file, Revision(1)) {
        Ok(loaded) => loaded,
        Err(refused) => return bad(output, &refused),
    };
    // A node warns with its own setting.
    let warnings = loaded.warnings(DEFAULTS.min_holders);
    warnings.iter().for_each(|warning| eprintln!("{}", output::warning(warning)));
    let (domains, limits) = output::size(&loaded.book);
    if output == Output::Json {
        let warnings: Vec<_> = warnings.iter().map(FileError::json).collect();
        outln!("{}", serde_json::json!({ "ok": true, "domains": domains, "limits": limits, "warnings": warnings }));
    } else {
        let (domains, limits) = (output::count(domains, "domain"), output::count(limits, "limit"));
        let warnings = match warnings.len() {
            0 => String::new(),
            warnings => format!(", {}", output::count(warnings, "warning")),
        };
        outln!("{}: {}: {domains}, {limits}{warnings}", file.display(), output::word("good", true));
    }
    Exit::Ok
}
