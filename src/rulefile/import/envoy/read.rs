//! Reads the tree of a file.

use std::collections::HashSet;

use super::super::Report;
use crate::yaml::decode::{Fields, number};
use crate::yaml::tree::Node;
use limiter::rules::{Attribute, Mode, Path, Quota};

/// An entry of `descriptors`.
#[derive(Debug)]
pub struct Entry {
    pub path: Path,
    pub key: String,
    pub pattern: Pattern,
    pub limit: Option<RateLimit>,
    pub below: Vec<Entry>,
}

/// The values of a key that an entry takes.
#[derive(Debug, PartialEq, Eq)]
pub enum Pattern {
    /// All that no other entry takes.
    Any,
    Exact(String),
    /// `value: foo*`
    Prefix(String),
    /// `value: foo*` with `share_threshold`: all values share a counter.
    SharedPrefix(String),
}

impl Pattern {
    /// The text with which every value begins, if the entry has a wildcard.
    pub fn prefix(&self) -> Option<&str> {
        match self {
            Self::Prefix(prefix) | Self::SharedPrefix(prefix) => Some(prefix),
            Self::Any | Self::Exact(_) => None,
        }
    }
}

/// A `rate_limit` with what stands beside it.
#[derive(Debug)]
pub struct RateLimit {
    pub quota: Quota,
    /// `None` for an unlimited one.
    pub window_ms: Option<u64>,
    pub name: Option<String>,
    /// Each name with its place.
    pub replaces: Vec<(String, Path)>,
    pub mode: Mode,
}

impl RateLimit {
    /// True if it has no part in a replacement.
    pub const fn is_alone(&self) -> bool {
        self.name.is_none() && self.replaces.is_empty()
    }
}

/// Reads a list of entries.
pub fn descriptors(node: &Node, path: &Path, report: &mut Report) -> Vec<Entry> {
    let mut keys = HashSet::new();
    let items = report.items(node, path);
    items.into_iter().filter_map(|(node, path)| entry(node, &path, &mut keys, report)).collect()
}

/// Reads an entry. `keys` are those of the entries before it, each with its value, as the reference service joins them.
fn entry(node: &Node, path: &Path, keys: &mut HashSet<String>, report: &mut Report) -> Option<Entry> {
    let mut fields = Fields::new(node, path.clone(), &mut report.errors);
    let at = |field: &str| path.field(field);
    let mut text = |field, report: &mut Report| {
        let node = fields.get(field);
        node.and_then(|node| report.text(node, &at(field))).unwrap_or_default()
    };
    let (key, value) = (text("key", report), text("value", report));
    if key.is_empty() {
        report.errors.add(&at("key"), "expected this field: it is required");
    }
    let joined = if value.is_empty() { key.clone() } else { format!("{key}_{value}") };
    if !keys.insert(joined.clone()) {
        report
            .errors
            .add(path, format!("expected a key and a value that no other entry beside it has, not {joined} again"));
    }
    let limit = fields.get("rate_limit").map(|node| rate_limit(node, &at("rate_limit"), report));
    let mut flag = |field, report: &mut Report| {
        let node = fields.get(field);
        node.is_some_and(|node| report.flag(node, &at(field)))
    };
    let (shadow, quota) = (flag("shadow_mode", report), flag("quota_mode", report));
    let shared = flag("share_threshold", report);
    for field in ["detailed_metric", "value_to_metric"] {
        if flag(field, report) {
            report.notice(&at(field), "has no effect here: metrics are by limit, never by value");
        }
    }
    if limit.is_none() && (shadow || quota) {
        let field = if shadow { "shadow_mode" } else { "quota_mode" };
        report.notice(&at(field), "has no effect: there is no rate_limit beside it");
    } else if quota {
        report.notice(
            &at("quota_mode"),
            "becomes mode: shadow, which never denies. Its metadata are not carried over, nor that a request is denied \
             when all limits in quota mode are exceeded",
        );
    }
    if shared && !joined.ends_with('*') {
        report.errors.add(&at("share_threshold"), "expected only beside a value that ends with *");
    }
    let descriptors_path = at("descriptors");
    let below = fields.get("descriptors").map(|node| descriptors(node, &descriptors_path, report)).unwrap_or_default();
    report.unread(&fields);
    if !is_carried_over(&key, &value, &at("key"), report) {
        return None;
    }
    let pattern = match value.strip_suffix('*') {
        Some(prefix) if shared => Pattern::SharedPrefix(prefix.to_owned()),
        Some(prefix) => Pattern::Prefix(prefix.to_owned()),
        None if value.is_empty() => Pattern::Any,
        None => Pattern::Exact(value),
    };
    let mode = if shadow || quota { Mode::Shadow } else { Mode::Enforce };
    let limit = limit.map(|limit| RateLimit { mode, ..limit });
    Some(Entry { path: path.clone(), key, pattern, limit, below })
}

/// False if rules cannot name the key. The report says so.
fn is_carried_over(key: &str, value: &str, path: &Path, report: &mut Report) -> bool {
    let all = "The entry is not carried over, with all below it";
    if value.is_empty() && key.ends_with('*') {
        report.notice(path, format!("a limit names its keys, and cannot match keys by a wildcard. {all}"));
        return false;
    }
    if *Attribute::parse(key).key != *key {
        report.notice(path, format!("a key that ends with # and a number means a position here. {all}"));
        return false;
    }
    true
}

fn rate_limit(node: &Node, path: &Path, report: &mut Report) -> RateLimit {
    let mut fields = Fields::new(node, path.clone(), &mut report.errors);
    let at = |field: &str| path.field(field);
    let unlimited = fields.get("unlimited").is_some_and(|node| report.flag(node, &at("unlimited")));
    let unit = fields.get("unit").and_then(|node| report.text(node, &at("unit"))).unwrap_or_default();
    let window_ms = window_ms(&unit);
    if unlimited && window_ms.is_some() {
        report.errors.add(&at("unit"), "expected no unit beside unlimited: true");
    } else if !unlimited && window_ms.is_none() {
        report.errors.add(&at("unit"), format!("expected {}", UNITS.map(|(unit, _)| unit).join(" | ")));
    }
    let requests = fields.get("requests_per_unit");
    let hits = requests.and_then(|node| number(node, &at("requests_per_unit"), &mut report.errors));
    if hits.is_some_and(|hits| hits > u64::from(u32::MAX)) {
        report.errors.add(&at("requests_per_unit"), format!("expected at most {}", u32::MAX));
    } else if unlimited && requests.is_some() {
        report.notice(&at("requests_per_unit"), "has no effect beside unlimited: true");
    } else if !unlimited && requests.is_none() {
        report.notice(&at("requests_per_unit"), "is missing, which means 0: the limit denies everything");
    }
    let name = fields.get("name").and_then(|node| report.text(node, &at("name"))).filter(|name| !name.is_empty());
    let replaces = fields.get("replaces").map(|node| replaces(node, &at("replaces"), name.as_deref(), report));
    report.unread(&fields);
    RateLimit {
        quota: if unlimited { Quota::Unlimited } else { Quota::Hits(hits.unwrap_or(0)) },
        window_ms,
        name,
        replaces: replaces.unwrap_or_default(),
        mode: Mode::Enforce,
    }
}

/// The units in milliseconds. The reference service has no calendar: a month is 30 days, and a year 365.
const UNITS: [(&str, u64); 7] = [
    ("second", 1000),
    ("minute", 60_000),
    ("hour", 3_600_000),
    ("day", 86_400_000),
    ("week", 7 * 86_400_000),
    ("month", 30 * 86_400_000),
    ("year", 365 * 86_400_000),
];

fn window_ms(unit: &str) -> Option<u64> {
    UNITS.iter().find(|(known, _)| unit.eq_ignore_ascii_case(known)).map(|(_, ms)| *ms)
}

fn replaces(node: &Node, path: &Path, own: Option<&str>, report: &mut Report) -> Vec<(String, Path)> {
    let items = report.items(node, path);
    let read = |(node, path): (&Node, Path)| {
        let mut fields = Fields::new(node, path.clone(), &mut report.errors);
        let path = path.field("name");
        let name = fields.get("name").and_then(|node| report.text(node, &path)).unwrap_or_default();
        if name.is_empty() {
            report.errors.add(&path, "expected the name of a rate_limit");
        } else if own == Some(&*name) {
            report.errors.add(&path, "expected the name of another rate_limit");
        }
        report.unread(&fields);
        (name, path)
    };
    items.into_iter().map(read).collect()
}
