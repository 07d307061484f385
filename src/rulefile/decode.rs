//! Decodes a rule file from YAML to [`Rules`]. Every error and every warning has its line and column.

mod limit;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use self::limit::limit;
use super::foreign::foreign;
use crate::yaml::decode::{Errors, Fields, list, number, string, word};
use crate::yaml::tree::{Node, Place, Style, Value};
use limiter::Revision;
use limiter::rules::{
    Charge, Domain, Identity, Limit, OnIdentityFailure, Path, Problem, RuleBook, Rules, Unmatched, warnings,
};

/// One error or one warning of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    pub file: String,
    pub place: Place,
    /// The path of the field; empty for a syntax error.
    pub field: String,
    pub message: String,
}

impl FileError {
    pub(super) fn new(file: &str, root: &Node, problem: Problem) -> Self {
        let (place, field) = (root.place_of(&problem.path), problem.path.to_string());
        Self { file: file.to_owned(), place, field, message: problem.message }
    }

    /// The error with its place, as JSON.
    pub fn json(&self) -> serde_json::Value {
        let Self { file, place, field, message } = self;
        let (line, column) = (place.line, place.column);
        serde_json::json!({ "file": file, "line": line, "column": column, "field": field, "message": message })
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, field, message } = self;
        write!(f, "{file}:{}:{}: ", place.line, place.column)?;
        if field.is_empty() { write!(f, "{message}") } else { write!(f, "{field}: {message}") }
    }
}

/// Compiles a rule file as a book of this revision.
///
/// # Errors
/// The first syntax error, else every invalid field.
pub fn compile(file: &str, text: &str, revision: Revision) -> Result<RuleBook, Vec<FileError>> {
    let root = Node::parse(text).map_err(|e| {
        vec![FileError { file: file.to_owned(), place: e.place, field: String::new(), message: e.message }]
    })?;
    if let Some(message) = foreign(&root) {
        let (place, field) = (root.place, String::new());
        return Err(vec![FileError { file: file.to_owned(), place, field, message: message.to_owned() }]);
    }
    let placed = |problem| FileError::new(file, &root, problem);
    let mut errors = Errors::default();
    let rules = decode(&root, &mut errors);
    // Rules with errors are validated as well, so that all errors are shown at once. A field that could not be read has
    // a valid placeholder.
    let compiled = RuleBook::compile(Arc::new(rules), revision);
    match compiled {
        Ok(book) if errors.0.is_empty() => Ok(book),
        compiled => {
            let meaning = compiled.err().unwrap_or_default();
            let mut all: Vec<FileError> = errors.0.into_iter().chain(meaning).map(placed).collect();
            all.sort_by_key(|e| e.place);
            all.dedup();
            Err(all)
        }
    }
}

/// Reads rules from the text of a rule file. Their meaning is checked only if there are other errors, so that all are
/// named at once.
///
/// # Errors
/// The syntax error, else every invalid field.
pub fn read_rules(text: &str) -> Result<Rules, Vec<Problem>> {
    let root = parse(text)?;
    if let Some(message) = foreign(&root) {
        return Err(vec![Problem { path: Path::default(), message: message.to_owned() }]);
    }
    let mut errors = Errors::default();
    let rules = decode(&root, &mut errors);
    if errors.0.is_empty() {
        return Ok(rules);
    }
    let meaning = RuleBook::compile(Arc::new(rules), Revision::NONE).err().unwrap_or_default();
    let mut all: Vec<Problem> = errors.0.into_iter().chain(meaning).collect();
    all.dedup();
    Err(all)
}

/// Reads one limit: an entry of `limits`, as YAML or JSON. Its meaning is not checked. `name` is its name if the text
/// has none.
///
/// # Errors
/// The syntax error, else every field that cannot be read.
pub fn read_limit(text: &str, name: Option<&str>) -> Result<Limit, Vec<Problem>> {
    let mut root = parse(text)?;
    let place = root.place;
    if let (Value::Map(entries), Some(name)) = (&mut Rc::make_mut(&mut root).value, name)
        && !entries.iter().any(|(field, ..)| field == "name")
    {
        let value = Value::Scalar { text: name.to_owned(), style: Style::Quoted };
        entries.push(("name".to_owned(), place, Rc::new(Node { place, value })));
    }
    let mut errors = Errors::default();
    let limit = limit(&root, &Path::default(), &mut errors);
    if errors.0.is_empty() { Ok(limit) } else { Err(errors.0) }
}

fn parse(text: &str) -> Result<Rc<Node>, Vec<Problem>> {
    Node::parse(text).map_err(|error| {
        let Place { line, column } = error.place;
        vec![Problem { path: Path::default(), message: format!("line {line}, column {column}: {}", error.message) }]
    })
}

/// The warnings about a file that compiles to `book`: what can never match, and what admits nothing without the store.
/// `min_holders` is the node's `store.min_holders`.
pub fn file_warnings(file: &str, text: &str, book: &RuleBook, min_holders: u32) -> Vec<FileError> {
    let Ok(root) = Node::parse(text) else { return Vec::new() };
    let mut all: Vec<FileError> =
        warnings(book.rules(), min_holders).into_iter().map(|problem| FileError::new(file, &root, problem)).collect();
    all.sort_by_key(|warning| warning.place);
    all
}

/// The deepest nesting of a limit as JSON.
const MAX_DEPTH: usize = 64;

/// Reads one limit in the form of a rule file from JSON. It reads fields and types only: their meaning is checked when
/// rules are compiled.
///
/// # Errors
/// Every field that cannot be read, as `field: what was expected`.
pub fn limit_from_json(value: &serde_json::Value) -> Result<Limit, Vec<String>> {
    let node = Node::from_json(value, MAX_DEPTH)
        .ok_or_else(|| vec![format!("expected JSON that nests at most {MAX_DEPTH} deep")])?;
    let mut errors = Errors::default();
    let limit = limit(&node, &Path::default(), &mut errors);
    if errors.0.is_empty() { Ok(limit) } else { Err(errors.0.iter().map(ToString::to_string).collect()) }
}

fn decode(root: &Node, errors: &mut Errors) -> Rules {
    let mut fields = Fields::new(root, Path::default(), errors);
    let version_path = fields.path("version");
    if let Some(version) = fields.require("version", errors).and_then(|n| number(n, &version_path, errors))
        && version != 1
    {
        errors.add(&version_path, "expected 1");
    }
    let path = fields.path("domains");
    let node = fields.require("domains", errors);
    let domains = node.map(|n| list(n, &path, errors, |n, p, e| Some(domain(n, p, e)))).unwrap_or_default();
    fields.finish(errors);
    Rules { domains }
}

fn domain(node: &Node, path: &Path, errors: &mut Errors) -> Domain {
    let mut fields = Fields::new(node, path.clone(), errors);
    let name = fields.require("domain", errors).and_then(|n| string(n, &path.field("domain"), errors));
    const CHARGES: [(&str, Charge); 2] = [("all_or_nothing", Charge::AllOrNothing), ("each", Charge::Each)];
    let charge = fields.get("charge").and_then(|n| word(n, &path.field("charge"), &CHARGES, errors));
    const DEFAULTS: [(&str, Unmatched); 2] = [("allow", Unmatched::Allow), ("deny", Unmatched::Deny)];
    let default = fields.get("default").and_then(|n| word(n, &path.field("default"), &DEFAULTS, errors));
    const IDENTITIES: [(&str, Identity); 3] =
        [("caller", Identity::Caller), ("key", Identity::Key), ("either", Identity::Either)];
    let identity = fields.get("identity").and_then(|n| word(n, &path.field("identity"), &IDENTITIES, errors));
    const FAILURES: [(&str, OnIdentityFailure); 2] =
        [("deny", OnIdentityFailure::Deny), ("allow", OnIdentityFailure::Allow)];
    let failure_path = path.field("on_identity_failure");
    let on_identity_failure = fields.get("on_identity_failure").and_then(|n| word(n, &failure_path, &FAILURES, errors));
    let node = fields.require("limits", errors);
    let read = |n: &Node, p: &Path, e: &mut Errors| Some(limit(n, p, e));
    let limits = node.map(|n| list(n, &path.field("limits"), errors, read)).unwrap_or_default();
    fields.finish(errors);
    // A name that could not be read is told already; its place keeps it apart from the others.
    let placeholder = || format!("(unread {path})");
    Domain {
        domain: name.unwrap_or_else(placeholder),
        charge: charge.unwrap_or_default(),
        default: default.unwrap_or_default(),
        identity: identity.unwrap_or_default(),
        on_identity_failure: on_identity_failure.unwrap_or_default(),
        limits,
    }
}
