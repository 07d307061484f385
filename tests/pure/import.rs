//! Imports of other rate limiters' files: that the rules answer as the original would, and what is listed.

mod envoy;
mod limitador;

use limiter::rules::Rules;
use limiter::{Check, Descriptor, DryRun};
use tidegate::rulefile::decode::{FileError, read_rules};
use tidegate::rulefile::encode::rules_yaml;
use tidegate::rulefile::import::{Format, Imported, Source, import};

/// Imports files, each with its name.
fn imported(format: Format, files: &[(&str, &str)]) -> Result<Imported, Vec<FileError>> {
    let source = |(file, text): &(&str, &str)| Source { file: (*file).to_owned(), text: (*text).to_owned() };
    let imported = import(format, &files.iter().map(source).collect::<Vec<_>>());
    if let Ok(Imported { rules, .. }) = &imported {
        assert_eq!(read_rules(&rules_yaml(rules)).as_ref(), Ok(rules), "what is printed is not what was imported");
    }
    imported
}

/// Imports one file, and returns its rules as they are printed, and its notices.
fn printed(format: Format, text: &str) -> (String, Vec<String>) {
    let Imported { rules, notices } = imported(format, &[("f", text)]).unwrap();
    (rules_yaml(&rules), notices.iter().map(ToString::to_string).collect())
}

/// The errors of one file.
fn errors(format: Format, text: &str) -> Vec<String> {
    imported(format, &[("f", text)]).unwrap_err().iter().map(ToString::to_string).collect()
}

/// True if the check is allowed.
fn is_allowed(trial: &mut DryRun, domain: &str, descriptors: &[Vec<(&str, &str)>], hits: u32, after_us: u64) -> bool {
    let descriptors: Vec<Descriptor<'_>> = descriptors
        .iter()
        .map(|entries| Descriptor { entries, ordered: true, hits, charging: Default::default(), limit: None })
        .collect();
    trial.check(&Check { domain, descriptors: &descriptors }, after_us).unwrap().allowed
}

fn limits(rules: &Rules) -> usize {
    rules.domains.iter().map(|domain| domain.limits.len()).sum()
}

#[test]
fn a_file_that_is_cut_anywhere_is_imported_or_rejected() {
    let expressions = "- { namespace: d, seconds: 1, conditions: ['!(a || descriptors[0].b[\"c\"]) ? {1: 2} : [3]'] }";
    for (format, text) in [(Format::Envoy, include_str!("import/envoy/edge.yaml")), (Format::Limitador, expressions)] {
        for end in (0..text.len()).step_by(7) {
            let (head, tail) = text.split_at(end);
            for part in [head.to_owned(), format!("- {{ namespace: d, seconds: 1, conditions: ['{tail}'] }}")] {
                if let Err(errors) = imported(format, &[("f", &part)]) {
                    assert!(errors.iter().all(|error| error.message.contains("expected")), "{part}: {errors:?}");
                }
            }
        }
    }
}
