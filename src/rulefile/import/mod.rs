//! Imports the files of other rate limiters as [`Rules`]. What a file says and the rules do not is a notice with its
//! place; nothing is left out without one.

mod cel;
mod envoy;
mod limitador;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use self::names::Names;
use super::decode::FileError;
use crate::yaml::decode::{Errors, Fields};
use crate::yaml::tree::{Node, Style, Value};
use limiter::Revision;
use limiter::rules::{Algorithm, Limit, Match, Path, Per, Period, Problem, Quota, RuleBook, Rules};

/// The rate limiter that a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// envoyproxy/ratelimit: each file is a domain.
    Envoy,
    /// Limitador: each file is a list of limits, each with its namespace.
    Limitador,
}

/// A file to import.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, for errors and notices.
    pub file: String,
    pub text: String,
}

/// Imported rules, which are valid.
#[derive(Debug)]
pub struct Imported {
    pub rules: Rules,
    /// What was not carried over, or has another effect here. By file, and in a file by place.
    pub notices: Vec<FileError>,
}

/// What was found in one file.
#[derive(Default)]
struct Report {
    errors: Errors,
    notices: Errors,
}

impl Report {
    fn notice(&mut self, path: &Path, message: impl Into<String>) {
        self.notices.add(path, message);
    }

    /// Reports each field that was not read.
    fn unread(&mut self, fields: &Fields<'_>) {
        for (path, hint) in fields.unread() {
            self.notice(&path, format!("is not carried over: this field is unknown{hint}"));
        }
    }

    /// The text of a scalar. A number and a boolean are texts too: these files quote few of them.
    fn text(&mut self, node: &Node, path: &Path) -> Option<String> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            Value::List(_) | Value::Map(_) => {
                self.errors.add(path, "expected a single value");
                None
            }
        }
    }

    /// The items of a list, each with its path.
    fn items<'n>(&mut self, node: &'n Node, path: &Path) -> Vec<(&'n Node, Path)> {
        let Value::List(items) = &node.value else {
            self.errors.add(path, "expected a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(at, item)| (&**item, path.index(at))).collect()
    }

    /// A boolean, as YAML 1.1 writes it.
    fn flag(&mut self, node: &Node, path: &Path) -> bool {
        match &node.value {
            Value::Scalar { text, style: Style::Plain } => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => return true,
                "false" | "no" | "off" | "n" => return false,
                _ => {}
            },
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {}
        }
        self.errors.add(path, "expected true or false");
        false
    }
}

/// Imports files that belong together.
///
/// # Errors
/// Every syntax error and every invalid field of the files.
pub fn import(format: Format, sources: &[Source]) -> Result<Imported, Vec<FileError>> {
    let (mut rules, mut names) = (Rules::default(), Names::default());
    let (mut errors, mut notices) = (Vec::new(), Vec::new());
    let mut owners: HashMap<String, &str> = HashMap::new();
    let mut known = limitador::Known::default();
    for source in sources {
        let root = match Node::parse(&source.text) {
            Ok(root) => root,
            Err(error) => {
                let (file, field) = (source.file.clone(), String::new());
                errors.push(FileError { file, place: error.place, field, message: error.message });
                continue;
            }
        };
        let mut report = Report::default();
        match format {
            Format::Envoy => {
                if let Some(domain) = envoy::domain(&root, &mut names, &mut report) {
                    if let Some(owner) = owners.insert(domain.domain.clone(), &source.file) {
                        let expected = format!("expected a domain that no other file has: {owner} has it");
                        report.errors.add(&Path::default().field("domain"), expected);
                    }
                    rules.domains.push(domain);
                }
            }
            Format::Limitador => limitador::limits(&root, &mut rules.domains, &mut known, &mut names, &mut report),
        }
        errors.extend(placed(source, &root, report.errors));
        notices.extend(placed(source, &root, report.notices));
    }
    if errors.is_empty() {
        errors.extend(invalid(&rules, sources));
    }
    if errors.is_empty() { Ok(Imported { rules, notices }) } else { Err(errors) }
}

/// The problems of one file, in the order of their places.
fn placed(source: &Source, root: &Rc<Node>, problems: Errors) -> Vec<FileError> {
    let mut placed: Vec<FileError> =
        problems.0.into_iter().map(|problem| FileError::new(&source.file, root, problem)).collect();
    placed.sort_by_key(|error| error.place);
    placed.dedup();
    placed
}

/// What makes the imported rules invalid, such as the name of a domain that is too long. It has no place in a file.
fn invalid(rules: &Rules, sources: &[Source]) -> Vec<FileError> {
    let problems = RuleBook::compile(Arc::new(rules.clone()), Revision::NONE).err().unwrap_or_default();
    let file = sources.iter().map(|source| source.file.as_str()).collect::<Vec<_>>().join(", ");
    let place = Node::empty().place;
    let error = |problem: Problem| FileError {
        file: file.clone(),
        place,
        field: problem.path.to_string(),
        message: format!("the imported rules would be invalid: {}", problem.message),
    };
    problems.into_iter().map(error).collect()
}

/// A limit of a fixed window, as both formats have it.
fn fixed_window(name: String, matches: Match, per: Vec<Per>, limit: Quota, ms: u64) -> Limit {
    Limit {
        name,
        matches,
        per,
        limit,
        period: Period::Window { ms },
        algorithm: Algorithm::FixedWindow,
        cells: None,
        burst: None,
        consistency: None,
        scope: Default::default(),
        overdraft: false,
        on_store_failure: Default::default(),
        mode: Default::default(),
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: BTreeMap::new(),
    }
}
