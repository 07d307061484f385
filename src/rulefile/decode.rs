//! Decodes a rule file from YAML to [`Rules`]. Every error and every warning has its line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::foreign::foreign;
use crate::yaml::decode::{Errors, Fields, boolean, duration_ms, entries, list, number, string, word};
use crate::yaml::nearest::{did_you_mean, nearest};
use crate::yaml::tree::{Node, Place, Style, Value};
use limiter::Revision;
use limiter::rules::{
    Algorithm, Attribute, CalendarUnit, Charge, Condition, Consistency, Domain, Identity, Limit, MAX_LIMIT, Match,
    Mode, OnIdentityFailure, OnStoreFailure, Override, Path, Per, Period, Prefixes, Problem, Quota, RuleBook, Rules,
    Scope, Unmatched, warnings,
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
    fn new(file: &str, root: &Node, problem: Problem) -> Self {
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

/// Reads one limit: an entry of `limits`, as YAML or JSON. Its meaning is not checked. `name` is its name if the text has
/// none.
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

fn limit(node: &Node, path: &Path, errors: &mut Errors) -> Limit {
    let mut fields = Fields::new(node, path.clone(), errors);
    let at = |field: &str| path.field(field);
    let placeholder = || format!("unread-{}", path.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    let name = fields.require("name", errors).and_then(|n| string(n, &at("name"), errors)).unwrap_or_else(placeholder);
    let per = fields.require("per", errors).map(|n| list(n, &at("per"), errors, per)).unwrap_or_default();
    let quota = fields.require("limit", errors).and_then(|n| quota(n, &at("limit"), errors));
    const ALGORITHMS: [(&str, Algorithm); 4] = [
        ("sliding_window", Algorithm::SlidingWindow),
        ("rolling_window", Algorithm::RollingWindow),
        ("fixed_window", Algorithm::FixedWindow),
        ("token_bucket", Algorithm::TokenBucket),
    ];
    let algorithm = fields.get("algorithm").and_then(|n| word(n, &at("algorithm"), &ALGORITHMS, errors));
    let algorithm = algorithm.unwrap_or_default();
    let period = period(&mut fields, path, algorithm, errors);
    let cells = fields.get("cells").and_then(|n| number(n, &at("cells"), errors));
    let burst = fields.get("burst").and_then(|n| number(n, &at("burst"), errors));
    const CONSISTENCIES: [(&str, Consistency); 2] = [("exact", Consistency::Exact), ("leased", Consistency::Leased)];
    let consistency = fields.get("consistency").and_then(|n| word(n, &at("consistency"), &CONSISTENCIES, errors));
    let scope = scope(&mut fields, path, errors);
    let overdraft = fields.get("overdraft").and_then(|n| boolean(n, &at("overdraft"), errors)).unwrap_or_default();
    let common = common(&mut fields, path, errors);
    let per = in_positions(per, common.matches.exact_keys.as_deref().unwrap_or_default());
    let overrides = fields.get("overrides").map(|n| list(n, &at("overrides"), errors, override_of)).unwrap_or_default();
    let replaces = fields.get("replaces").map(|n| list(n, &at("replaces"), errors, string)).unwrap_or_default();
    fields.finish(errors);
    Limit {
        name,
        matches: common.matches,
        per,
        limit: quota.unwrap_or(Quota::Hits(1)),
        period,
        algorithm,
        cells: cells.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        burst,
        consistency,
        scope,
        overdraft,
        on_store_failure: common.on_store_failure.unwrap_or_default(),
        mode: common.mode.unwrap_or_default(),
        overrides,
        replaces,
        response_headers: common.response_headers.unwrap_or_default(),
    }
}

/// An attribute, or an attribute whose addresses are counted by their network.
fn per(node: &Node, path: &Path, errors: &mut Errors) -> Option<Per> {
    let Value::Map(entries) = &node.value else { return string(node, path, errors).map(|name| Per::from(&*name)) };
    let [(attribute, _, lengths)] = entries.as_slice() else {
        errors.add(
            path,
            "expected an attribute, or one attribute with the lengths of networks: { ip: { v4: 32, v6: 64 } }",
        );
        return None;
    };
    let path = path.field(attribute);
    let mut fields = Fields::new(lengths, path.clone(), errors);
    // What is out of bounds for a byte is out of bounds for a length.
    let mut bits = |field| {
        let bits = fields.require(field, errors).and_then(|n| number(n, &path.field(field), errors));
        bits.map(|bits| u8::try_from(bits).unwrap_or(u8::MAX))
    };
    let (v4, v6) = (bits("v4"), bits("v6"));
    fields.finish(errors);
    let prefixes = Prefixes { v4: v4.unwrap_or(0), v6: v6.unwrap_or(0) };
    Some(Per { attribute: attribute.clone(), prefixes: Some(prefixes) })
}

/// Beside `exact_keys`, a name that comes again stands for the next entry with this key, as it does there.
fn in_positions(mut per: Vec<Per>, exact_keys: &[String]) -> Vec<Per> {
    let names = Attribute::in_order(per.iter().map(|per| per.attribute.as_str()));
    for (per, name) in per.iter_mut().zip(names) {
        if name.earlier > 0 && exact_keys.iter().filter(|key| **key == *name.key).count() > name.earlier {
            per.attribute = name.to_string();
        }
    }
    per
}

fn override_of(node: &Node, path: &Path, errors: &mut Errors) -> Option<Override> {
    let mut fields = Fields::new(node, path.clone(), errors);
    let limit = fields.get("limit").and_then(|n| quota(n, &path.field("limit"), errors));
    let burst = fields.get("burst").and_then(|n| number(n, &path.field("burst"), errors));
    let common = common(&mut fields, path, errors);
    fields.finish(errors);
    Some(Override {
        matches: common.matches,
        limit,
        burst,
        mode: common.mode,
        on_store_failure: common.on_store_failure,
        response_headers: common.response_headers,
    })
}

/// The fields that limits and overrides share.
struct Common {
    matches: Match,
    mode: Option<Mode>,
    on_store_failure: Option<OnStoreFailure>,
    response_headers: Option<BTreeMap<String, String>>,
}

fn common(fields: &mut Fields<'_>, path: &Path, errors: &mut Errors) -> Common {
    const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)];
    const FAILURES: [(&str, OnStoreFailure); 3] =
        [("local", OnStoreFailure::Local), ("allow", OnStoreFailure::Allow), ("deny", OnStoreFailure::Deny)];
    let at = |field: &str| path.field(field);
    let exact_keys = fields.get("exact_keys").map(|n| list(n, &at("exact_keys"), errors, string));
    let when = fields.get("when").and_then(|n| string(n, &at("when"), errors));
    let conditions = fields.get("match").map(|n| conditions(n, &at("match"), errors)).unwrap_or_default();
    let headers = fields.get("response_headers").map(|n| {
        let path = at("response_headers");
        let all = entries(n, &path, errors).into_iter();
        all.filter_map(|(key, node, path)| Some((key.to_owned(), string(node, &path, errors)?))).collect()
    });
    Common {
        matches: Match { conditions, exact_keys, when },
        mode: fields.get("mode").and_then(|n| word(n, &at("mode"), &MODES, errors)),
        on_store_failure: fields
            .get("on_store_failure")
            .and_then(|n| word(n, &at("on_store_failure"), &FAILURES, errors)),
        response_headers: headers,
    }
}

fn quota(node: &Node, path: &Path, errors: &mut Errors) -> Option<Quota> {
    const UNLIMITED: &str = "unlimited";
    match &node.value {
        Value::Scalar { text, .. } if text == UNLIMITED => Some(Quota::Unlimited),
        Value::Scalar { text, style: Style::Plain } if text.replace('_', "").parse::<u64>().is_err() => {
            let hint = match nearest(text, [UNLIMITED]) {
                Some(word) => format!(": did you mean {word}?"),
                None if text.starts_with('-') => format!(", not {text}: for no limit, write {UNLIMITED}"),
                None => format!(", not {text:?}"),
            };
            errors.add(path, format!("expected a whole number up to {MAX_LIMIT}, or {UNLIMITED}{hint}"));
            None
        }
        _ => number(node, path, errors).map(Quota::Hits),
    }
}

fn period(fields: &mut Fields<'_>, path: &Path, algorithm: Algorithm, errors: &mut Errors) -> Period {
    const UNITS: [(&str, CalendarUnit); 5] = [
        ("hour", CalendarUnit::Hour),
        ("day", CalendarUnit::Day),
        ("week", CalendarUnit::Week),
        ("month", CalendarUnit::Month),
        ("year", CalendarUnit::Year),
    ];
    let at = |field: &str| path.field(field);
    let window = fields.get("window");
    let calendar = fields.get("calendar");
    let zone_node = fields.get("time_zone");
    let zone = zone_node.and_then(|n| string(n, &at("time_zone"), errors)).unwrap_or_else(|| "UTC".to_owned());
    match (window, calendar) {
        (Some(_), Some(_)) => errors.add(&at("calendar"), "expected either window or calendar, not both"),
        (None, None) => errors.add(&at("window"), "expected a window, or instead a calendar"),
        _ => {}
    }
    if calendar.is_none() && zone_node.is_some() {
        errors.add(&at("time_zone"), "expected only with calendar");
    }
    let unit = calendar.and_then(|n| word(n, &at("calendar"), &UNITS, errors));
    let ms = window.and_then(|n| duration_ms(n, &at("window"), errors));
    match unit {
        Some(unit) if ms.is_none() => Period::Calendar { unit, time_zone: zone },
        _ => {
            if calendar.is_some() && algorithm != Algorithm::FixedWindow {
                errors.add(&at("calendar"), "expected only with algorithm: fixed_window");
            }
            Period::Window { ms: ms.unwrap_or(60_000) }
        }
    }
}

fn scope(fields: &mut Fields<'_>, path: &Path, errors: &mut Errors) -> Scope {
    const SCOPES: [(&str, Scope); 2] = [("region", Scope::Region), ("global", Scope::Global)];
    let scope = fields.get("scope").and_then(|n| word(n, &path.field("scope"), &SCOPES, errors)).unwrap_or_default();
    if fields.get("global").is_some() && scope == Scope::Region {
        errors.add(&path.field("global"), "expected only with scope: global");
    }
    scope
}

fn conditions(node: &Node, path: &Path, errors: &mut Errors) -> BTreeMap<String, Condition> {
    let all = entries(node, path, errors).into_iter();
    all.filter_map(|(key, node, path)| Some((key.to_owned(), condition(node, &path, errors)?))).collect()
}

fn condition(node: &Node, path: &Path, errors: &mut Errors) -> Option<Condition> {
    match &node.value {
        Value::Scalar { .. } => string(node, path, errors).map(Condition::Equal),
        Value::List(_) => Some(Condition::AnyOf(list(node, path, errors, string))),
        Value::Map(entries) => {
            const KINDS: [&str; 8] = ["prefix", "suffix", "glob", "route", "cidr", "regex", "present", "not"];
            let [(kind, _, inner)] = entries.as_slice() else {
                errors.add(path, format!("expected one of {}", KINDS.join(", ")));
                return None;
            };
            let mut text = || string(inner, path, errors);
            match kind.as_str() {
                "prefix" => text().map(Condition::Prefix),
                "suffix" => text().map(Condition::Suffix),
                "glob" => text().map(Condition::Glob),
                "route" => text().map(Condition::Route),
                "regex" => text().map(Condition::Regex),
                "cidr" if matches!(inner.value, Value::List(_)) => {
                    Some(Condition::Cidr(list(inner, path, errors, string)))
                }
                "cidr" => text().map(|net| Condition::Cidr(vec![net])),
                "present" => boolean(inner, path, errors).map(Condition::Present),
                "not" => condition(inner, path, errors).map(|c| Condition::Not(Box::new(c))),
                other => {
                    let hint = did_you_mean(other, KINDS);
                    errors.add(path, format!("expected one of {}, not {other:?}{hint}", KINDS.join(", ")));
                    None
                }
            }
        }
    }
}
