//! `tidegate rules test`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::super::output::word;
use super::super::{Exit, Output};
use super::{bad, book};
use crate::rulefile::cases::{Ask, Case, Entries, Step, parse};
use crate::rulefile::watch::{InvalidRuleFile, read};
use crate::yaml::nearest::did_you_mean;
use limiter::rules::{ApplicableLimits, RuleBook};
use limiter::{Check, Decision, Descriptor, DryRun, StoreTime};

/// The instant at which every case begins: the first of 2026 in UTC, which begins every kind of window.
const BEGIN: StoreTime = StoreTime(1_767_225_600_000_000);

#[derive(Args)]
pub struct Test {
    file: PathBuf,
    /// File of cases; by default FILE with `.test` before its extension (rules.test.yaml)
    #[arg(long)]
    cases: Option<PathBuf>,
}

impl Test {
    pub fn run(self, output: Output) -> Exit {
        let book = match book(&self.file, output) {
            Ok(book) => Arc::new(book),
            Err(exit) => return exit,
        };
        let path = self.cases.unwrap_or_else(|| beside(&self.file));
        let cases = match read(&path) {
            Err(InvalidRuleFile::Unreadable { file, error }) if error.kind() == io::ErrorKind::NotFound => {
                let error = io::Error::other("no such file: write cases into it, or name another by --cases");
                return bad(output, &InvalidRuleFile::Unreadable { file, error });
            }
            Ok(text) => parse(&path.display().to_string(), &text),
            Err(refused) => return bad(output, &refused),
        };
        let cases = match cases {
            Ok(cases) => cases,
            Err(errors) => return bad(output, &InvalidRuleFile::Invalid(errors)),
        };
        let results: Vec<(&Case, Vec<String>)> = cases.iter().map(|case| (case, run(&book, case))).collect();
        let failed = results.iter().filter(|(_, faults)| !faults.is_empty()).count();
        if output == Output::Json {
            let cases: Vec<_> = results
                .iter()
                .map(|(case, faults)| serde_json::json!({ "name": case.name, "ok": faults.is_empty(), "faults": faults }))
                .collect();
            outln!("{}", serde_json::json!({ "ok": failed == 0, "cases": cases }));
        } else {
            for (case, faults) in &results {
                outln!(
                    "{} {}",
                    if faults.is_empty() { word("ok    ", true) } else { word("FAILED", false) },
                    case.name
                );
                faults.iter().for_each(|fault| outln!("       {}:{fault}", path.display()));
            }
            outln!("{} of {} cases pass", results.len() - failed, results.len());
        }
        if failed == 0 { Exit::Ok } else { Exit::Failed }
    }
}

/// `rules.test.yaml` beside `rules.yaml`.
fn beside(file: &Path) -> PathBuf {
    file.with_extension(
        file.extension().map_or("test".to_owned(), |ending| format!("test.{}", ending.to_string_lossy())),
    )
}

/// Returns every difference from the case, with its line.
fn run(book: &Arc<RuleBook>, case: &Case) -> Vec<String> {
    let mut faults = Vec::new();
    if book.domain(&case.domain).is_none() {
        let known = book.rules().domains.iter().map(|domain| domain.domain.as_str());
        faults.push(format!(
            "{}: no rule has the domain {:?}{}",
            case.line,
            case.domain,
            did_you_mean(&case.domain, known)
        ));
    }
    if let Some(expected) = &case.matches {
        let found = matching(book, case);
        if found != *expected {
            faults.push(format!("{}: matches: expected {expected:?}, found {found:?}", case.line));
        }
    }
    let mut trial = DryRun::new(Arc::clone(book), BEGIN);
    let mut after = 0u64;
    for step in &case.steps {
        after = after.saturating_add(step.after_ms.saturating_mul(1000));
        for time in 1..=step.times {
            let fault = match check(&mut trial, &case.domain, &step.ask, after) {
                Ok(decision) => differs(step, &decision),
                Err(shed) => Some(shed),
            };
            if let Some(fault) = fault {
                faults.push(format!("{}: time {time} of {}: {fault}", step.line, step.times));
                break;
            }
        }
    }
    faults
}

fn matching(book: &RuleBook, case: &Case) -> Vec<String> {
    with_check(&case.domain, &case.ask, |check| {
        let mut applied = ApplicableLimits::new();
        book.applicable(check, &mut applied);
        applied.iter().map(|limit| limit.effective.name.to_string()).collect()
    })
}

fn check(trial: &mut DryRun, domain: &str, ask: &Ask, after: u64) -> Result<Decision, String> {
    with_check(domain, ask, |check| trial.check(check, after).map_err(|shed| shed.to_string()))
}

/// Calls `work` with the check of a case in the form of the core.
fn with_check<T>(domain: &str, ask: &Ask, work: impl FnOnce(&Check<'_>) -> T) -> T {
    let pairs: Vec<Vec<(&str, &str)>> = ask.descriptors.iter().map(Entries::borrow).collect();
    let descriptors: Vec<Descriptor<'_>> = (ask.descriptors.iter().zip(&pairs))
        .map(|(entries, pairs)| Descriptor {
            entries: pairs,
            ordered: entries.ordered,
            hits: ask.hits,
            charging: Default::default(),
            limit: None,
        })
        .collect();
    work(&Check { domain, descriptors: &descriptors })
}

fn differs(step: &Step, decision: &Decision) -> Option<String> {
    let refusing = decision.limits.iter().filter(|l| l.denied && !l.shadow);
    let refusing: Vec<&str> = refusing.map(|l| &*l.effective.name).collect();
    let said = |allowed: bool| if allowed { "allowed" } else { "refused" };
    if decision.allowed != step.allowed {
        let by = if refusing.is_empty() { String::new() } else { format!(" by {refusing:?}") };
        return Some(format!("expected {}, found {}{by}", said(step.allowed), said(decision.allowed)));
    }
    let expected = step.by.as_ref()?;
    (refusing != *expected).then(|| format!("expected refused by {expected:?}, found {refusing:?}"))
}
