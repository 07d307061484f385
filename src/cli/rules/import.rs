//! `tidegate rules import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::{Exit, Output, output};
use super::bad;
use crate::rulefile::decode::FileError;
use crate::rulefile::encode::{rules_json, rules_yaml};
use crate::rulefile::import::{Format, Imported, Source, import};
use crate::rulefile::watch::{InvalidRuleFile, read};

/// The rate limiter that files belong to.
#[derive(Clone, Copy, ValueEnum)]
enum Origin {
    /// envoyproxy/ratelimit, the reference service of Envoy
    Envoy,
    Limitador,
}

#[derive(Args)]
pub struct Import {
    /// The rate limiter that the files belong to
    #[arg(long, value_enum)]
    from: Origin,
    /// Files that belong together: all of them become one rule file
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

impl Import {
    pub fn run(self, output: Output) -> Exit {
        let sources: Result<Vec<Source>, InvalidRuleFile> =
            self.files.iter().map(|path| Ok(Source { file: path.display().to_string(), text: read(path)? })).collect();
        let format = match self.from {
            Origin::Envoy => Format::Envoy,
            Origin::Limitador => Format::Limitador,
        };
        let imported = sources.and_then(|sources| import(format, &sources).map_err(InvalidRuleFile::Invalid));
        let Imported { rules, notices } = match imported {
            Ok(imported) => imported,
            Err(refused) => return bad(output, &refused),
        };
        notices.iter().for_each(|notice| eprintln!("{notice}"));
        let limits = rules.domains.iter().map(|domain| domain.limits.len()).sum();
        let (domains, limits) = (output::count(rules.domains.len(), "domain"), output::count(limits, "limit"));
        eprintln!("imported {domains}, {limits}, {}", output::count(notices.len(), "notice"));
        match output {
            Output::Json => {
                let notices: Vec<_> = notices.iter().map(FileError::json).collect();
                outln!("{}", serde_json::json!({ "ok": true, "rules": rules_json(&rules), "notices": notices }));
            }
            Output::Table => outln!("{}", rules_yaml(&rules).trim_end()),
        }
        Exit::Ok
    }
}
