//! Limitador: a list of limits with conditions and variables. All limits that apply to a request are charged, or none.

mod conditions;
mod expression;
mod tokens;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::names::Names;
use super::{Report, fixed_window};
use crate::rulefile::encode::duration;
use crate::yaml::decode::{Fields, number};
use crate::yaml::tree::{Node, Value};
use limiter::Revision;
use limiter::rules::{Condition, Domain, Limit, MAX_LIMIT, MAX_WINDOW_MS, Match, Path, Per, Quota, RuleBook, Rules};

/// Adds the limits of a file to the domains of their namespaces.
pub fn limits(root: &Node, domains: &mut Vec<Domain>, known: &mut Known, names: &mut Names, report: &mut Report) {
    let root_path = Path::default();
    let is_limit =
        |item: &Node| matches!(&item.value, Value::Map(all) if all.iter().any(|(key, ..)| key == "namespace"));
    if !matches!(&root.value, Value::List(items) if items.iter().any(|item| is_limit(item))) {
        let message = "expected a file of Limitador: a list of limits, each with namespace, max_value and seconds";
        report.errors.add(&root_path, message);
        return;
    }
    for (at, (node, path)) in report.items(root, &root_path).into_iter().enumerate() {
        if at == 0 {
            report.notice(&path.field("seconds"), WINDOWS);
            report.notice(&path, DESCRIPTORS);
        }
        let Some(Entry { namespace, limit, identity }) = entry(node, &path, names, report) else { continue };
        match known.0.get(&identity) {
            Some(first) => {
                let message = format!("is not carried over: Limitador takes it for the same limit as {first}");
                report.notice(&path, message);
                continue;
            }
            None => drop(known.0.insert(identity, limit.name.clone())),
        }
        match domains.iter_mut().find(|domain| domain.domain == namespace) {
            Some(domain) => domain.limits.push(limit),
            None => domains.push(Domain { domain: namespace, limits: vec![limit], ..Default::default() }),
        }
    }
}

/// What Limitador takes for the same limit: namespace, seconds, conditions and variables.
type Identity = (String, u64, BTreeSet<String>, BTreeSet<String>);

/// The limits that were read, each with its name.
#[derive(Default)]
pub struct Known(HashMap<Identity, String>);

const WINDOWS: &str = "windows begin at multiples of their length here; there, a window begins with its first hit";
const DESCRIPTORS: &str = "every descriptor of a check is tried here; there, descriptors[0] is the first of a request";

/// An entry of a file that is carried over.
struct Entry {
    namespace: String,
    limit: Limit,
    identity: Identity,
}

/// Reads an entry. `None` if it is invalid, or is not carried over.
fn entry(node: &Node, path: &Path, names: &mut Names, report: &mut Report) -> Option<Entry> {
    let mut fields = Fields::new(node, path.clone(), &mut report.errors);
    let at = |field: &str| path.field(field);
    let namespace = fields.require("namespace", &mut report.errors);
    let namespace = namespace.and_then(|node| report.text(node, &at("namespace"))).unwrap_or_default();
    let seconds = fields.require("seconds", &mut report.errors);
    let seconds = seconds.and_then(|node| number(node, &at("seconds"), &mut report.errors));
    let max_value = fields.get("max_value");
    if max_value.is_none() {
        report.notice(&at("max_value"), "is missing, which means 0: the limit denies everything");
    }
    let hits = max_value.and_then(|node| number(node, &at("max_value"), &mut report.errors)).unwrap_or(0);
    let mut text = |field, report: &mut Report| fields.get(field).and_then(|node| report.text(node, &at(field)));
    let (name, id) = (text("name", report), text("id", report));
    if name.is_some() && id.is_some() {
        report.notice(&at("id"), "has no effect here: the name of a limit stands for it");
    }
    let mut texts = |field, report: &mut Report| {
        let items = fields.get(field).map(|node| report.items(node, &at(field))).unwrap_or_default();
        let texts = items.into_iter().filter_map(|(node, path)| Some((report.text(node, &path)?, path)));
        texts.collect::<Vec<_>>()
    };
    let (conditions, variables) = (texts("conditions", report), texts("variables", report));
    report.unread(&fields);

    let sources = |texts: &[(String, Path)]| texts.iter().map(|(source, _)| source.clone()).collect();
    let identity = (namespace.clone(), seconds?, sources(&conditions), sources(&variables));
    let per = variables_of(&variables, report)?;
    let matches = conditions::conditions(&conditions, &per, report)?;
    let ms = seconds?.saturating_mul(1000);
    if !(1000..=MAX_WINDOW_MS).contains(&ms) {
        report.notice(&at("seconds"), "the limit is not carried over: a window has 1 second to 400 days");
        return None;
    }
    let is_unlimited = hits > MAX_LIMIT;
    if is_unlimited {
        report.notice(&at("max_value"), format!("becomes unlimited: a limit is at most {MAX_LIMIT}"));
    }
    let name_path = at(if name.is_some() { "name" } else { "id" });
    let name = limit_name(name.or(id), &namespace, &matches, (&per, ms), names, &name_path, report);
    let per = per.iter().map(|name| Per::from(name.as_str())).collect();
    let quota = if is_unlimited { Quota::Unlimited } else { Quota::Hits(hits) };
    let limit = fixed_window(name, matches, per, quota, ms);
    if let Some(problem) = problem(&limit) {
        report.notice(&at("conditions"), format!("the limit is not carried over: {problem}"));
        return None;
    }
    Some(Entry { namespace, limit, identity })
}

/// The name of a limit: the given one, or one from what it tests and counts by.
fn limit_name(
    given: Option<String>,
    namespace: &str,
    matches: &Match,
    (per, ms): (&[String], u64),
    names: &mut Names,
    path: &Path,
    report: &mut Report,
) -> String {
    let Some(given) = given else {
        let values = matches.conditions.values().filter_map(|condition| match condition {
            Condition::Equal(value) => Some(value.as_str()),
            _ => None,
        });
        let period = duration(ms);
        let per = per.iter().map(String::as_str).chain(["per", &period]);
        return names.unique(namespace, values.chain(per));
    };
    let name = names.unique(namespace, [given.as_str()]);
    if given != name {
        report.notice(path, format!("{given:?} becomes {name}: names here are unique, of a-z, 0-9, _ and -"));
    }
    name
}

/// The attributes that variables name. `None` if one of them is another expression.
fn variables_of(variables: &[(String, Path)], report: &mut Report) -> Option<Vec<String>> {
    let mut per = Vec::new();
    for (source, path) in variables {
        let Some(attribute) = tokens::scan(source).and_then(|tokens| expression::whole_attribute(&tokens)) else {
            let message =
                "the limit is not carried over: a variable is expected to be an attribute, descriptors[0].user";
            report.notice(path, message);
            return None;
        };
        if attribute.is_bare {
            report.notice(path, conditions::bare(&attribute.name));
        }
        if !per.contains(&attribute.name) {
            per.push(attribute.name);
        }
    }
    Some(per)
}

/// What is wrong with a limit.
fn problem(limit: &Limit) -> Option<String> {
    let domain = Domain { domain: "import".to_owned(), limits: vec![limit.clone()], ..Default::default() };
    let compiled = RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), Revision::NONE);
    compiled.err().and_then(|problems| problems.into_iter().next()).map(|problem| problem.message)
}
