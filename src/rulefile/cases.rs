//! The cases of `rules test`, which a user writes beside a rule file: descriptors, and the expected limits and
//! decisions.

use std::rc::Rc;

use super::decode::FileError;
use crate::yaml::decode::{Errors, Fields, duration_ms, entries, list, number, string, word};
use crate::yaml::tree::{Node, Value};
use limiter::rules::Path;

/// One case. Its counters begin empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    /// The line of the file, from 1.
    pub line: usize,
    pub domain: String,
    pub ask: Ask,
    /// The names of the limits that apply, in book order. `None` if the case does not say.
    pub matches: Option<Vec<String>>,
    pub steps: Vec<Step>,
}

/// The check of a case or of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    pub descriptors: Vec<Entries>,
    pub hits: u32,
}

/// The attributes of a descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    pub pairs: Vec<(String, String)>,
    /// They are written as a list: their order has a meaning, and a key may come several times.
    pub ordered: bool,
}

impl Entries {
    /// The attributes in the form of the core.
    pub fn borrow(&self) -> Vec<(&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

/// Checks in a row with the same expected decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    /// Milliseconds after the step before.
    pub after_ms: u64,
    pub times: u32,
    /// The check, if it is not that of the case.
    pub ask: Ask,
    pub allowed: bool,
    /// The names of the limits that deny, if the step says.
    pub by: Option<Vec<String>>,
}

/// The most checks of one step.
const MAX_TIMES: u64 = 100_000;

/// Reads the cases of a file, or returns every error.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, Vec<FileError>> {
    let root = Node::parse(text).map_err(|e| {
        vec![FileError { file: file.to_owned(), place: e.place, field: String::new(), message: e.message }]
    })?;
    let mut errors = Errors::default();
    let cases = decode(&root, &mut errors);
    if errors.0.is_empty() {
        return Ok(cases);
    }
    let placed = errors.0.into_iter().map(|problem| FileError {
        file: file.to_owned(),
        place: root.place_of(&problem.path),
        field: problem.path.to_string(),
        message: problem.message,
    });
    Err(placed.collect())
}

fn decode(root: &Rc<Node>, errors: &mut Errors) -> Vec<Case> {
    let mut fields = Fields::new(root, Path::default(), errors);
    let path = fields.path("version");
    if let Some(version) = fields.require("version", errors).and_then(|n| number(n, &path, errors))
        && version != 1
    {
        errors.add(&path, "expected 1");
    }
    let path = fields.path("cases");
    let cases = fields.require("cases", errors).map(|n| list(n, &path, errors, |n, p, e| Some(case(n, p, e))));
    fields.finish(errors);
    cases.unwrap_or_default()
}

fn case(node: &Node, path: &Path, errors: &mut Errors) -> Case {
    let mut fields = Fields::new(node, path.clone(), errors);
    let at = |field: &str| path.field(field);
    let name = fields.require("name", errors).and_then(|n| string(n, &at("name"), errors)).unwrap_or_default();
    let domain = fields.require("domain", errors).and_then(|n| string(n, &at("domain"), errors)).unwrap_or_default();
    let nothing = Ask { descriptors: vec![Entries::default()], hits: 1 };
    let asked = ask(&mut fields, path, &nothing, errors);
    let matches = fields.get("matches").map(|n| list(n, &at("matches"), errors, string));
    let read = |n: &Node, p: &Path, e: &mut Errors| Some(step(n, p, &asked, e));
    let steps = fields.get("steps").map(|n| list(n, &at("steps"), errors, read)).unwrap_or_default();
    if matches.is_none() && steps.is_empty() {
        errors.add(path, "expected matches, steps, or both: this case says nothing");
    }
    fields.finish(errors);
    Case { name, line: node.place.line, domain, ask: asked, matches, steps }
}

fn step(node: &Node, path: &Path, case: &Ask, errors: &mut Errors) -> Step {
    let mut fields = Fields::new(node, path.clone(), errors);
    let at = |field: &str| path.field(field);
    let after = fields.get("after").and_then(|n| duration_ms(n, &at("after"), errors)).unwrap_or(0);
    let times = fields.get("times").and_then(|n| number(n, &at("times"), errors)).unwrap_or(1);
    if !(1..=MAX_TIMES).contains(&times) {
        errors.add(&at("times"), format!("expected 1 to {MAX_TIMES}"));
    }
    const VERDICTS: [(&str, bool); 2] = [("allowed", true), ("refused", false)];
    let allowed = fields.require("expect", errors).and_then(|n| word(n, &at("expect"), &VERDICTS, errors));
    let allowed = allowed.unwrap_or(true);
    let by = fields.get("by").map(|n| list(n, &at("by"), errors, string));
    if by.is_some() && allowed {
        errors.add(&at("by"), "expected only with expect: refused");
    }
    let ask = ask(&mut fields, path, case, errors);
    fields.finish(errors);
    Step { line: node.place.line, after_ms: after, times: u32::try_from(times).unwrap_or(1), ask, allowed, by }
}

fn ask(fields: &mut Fields<'_>, path: &Path, base: &Ask, errors: &mut Errors) -> Ask {
    let at = |field: &str| path.field(field);
    let one = fields.get("attributes").map(|n| attributes(n, &at("attributes"), errors));
    let read = |n: &Node, p: &Path, e: &mut Errors| Some(attributes(n, p, e));
    let many = fields.get("descriptors").map(|n| list(n, &at("descriptors"), errors, read));
    if one.is_some() && many.is_some() {
        errors.add(&at("descriptors"), "expected either attributes or descriptors, not both");
    }
    let hits = fields.get("hits").and_then(|n| number(n, &at("hits"), errors));
    let hits = hits.map_or(base.hits, |hits| {
        u32::try_from(hits).unwrap_or_else(|_| {
            errors.add(&at("hits"), format!("expected at most {}", u32::MAX));
            1
        })
    });
    let descriptors = one.map(|one| vec![one]).or(many).unwrap_or_else(|| base.descriptors.clone());
    Ask { descriptors, hits }
}

/// Attributes as a map, or in order as a list of maps: `[{ generic_key: a }, { generic_key: b }]`.
fn attributes(node: &Node, path: &Path, errors: &mut Errors) -> Entries {
    let pairs = |n: &Node, p: &Path, e: &mut Errors| -> Option<Vec<(String, String)>> {
        let all = entries(n, p, e).into_iter();
        Some(all.filter_map(|(key, node, path)| Some((key.to_owned(), string(node, &path, e)?))).collect())
    };
    match &node.value {
        Value::List(_) => Entries { pairs: list(node, path, errors, pairs).concat(), ordered: true },
        _ => Entries { pairs: pairs(node, path, errors).unwrap_or_default(), ordered: false },
    }
}
