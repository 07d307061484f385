//! `tidegate rules`: work with rule files, offline.

mod explain;
mod test;

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Exit, GlobalArgs, Output, output};
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
}

impl Rules {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        match self {
            Self::Validate { file } => validate(&file, global.output),
            Self::Explain(explain) => explain.run(global.output),
            Self::Test(test) => test.run(global.output),
            Self::Schema => {
                outln!("{}", SCHEMA.trim_end());
                Exit::Ok
            }
        }
    }
}

/// Compiles a rule file, or prints its errors.
fn book(file: &Path, output: Output) -> Result<RuleBook, Exit> {
    load(file, Revision(1)).map(|(_, book)| book).map_err(|refused| bad(output, &refused))
}

/// Prints the errors of a file.
fn bad(output: Output, refused: &InvalidRuleFile) -> Exit {
    eprintln!("{refused}");
    output::wrong(output, &refused.errors());
    Exit::BadConfiguration
}

fn validate(file: &Path, output: Output) -> Exit {
    let book = match book(file, output) {
        Ok(book) => book,
        Err(exit) => return exit,
    };
    let (domains, limits) = output::size(&book);
    if output == Output::Json {
        outln!("{}", serde_json::json!({ "ok": true, "domains": domains, "limits": limits }));
    } else {
        let (domains, limits) = (output::count(domains, "domain"), output::count(limits, "limit"));
        outln!("{}: {}: {domains}, {limits}", file.display(), output::word("good", true));
    }
    Exit::Ok
}
