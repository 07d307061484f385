//! Encodes [`Rules`] in the form of a rule file: as JSON for the admin API and the database, and as YAML for people.
//!
//! The form is canonical. Fields that have their default are left out, and a length of time has the largest unit that
//! divides it. What is decoded from the form is equal to what was encoded.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use limiter::rules::{
    Algorithm, CalendarUnit, Charge, Condition, Consistency, Domain, GlobalStrategy, Identity, Limit, Match, Mode,
    OnIdentityFailure, OnPartition, OnStoreFailure, Override, Per, Period, Quota, Rules, Scope, Unmatched,
};
use serde_json::Value;

/// The longest line of YAML that has a list or a map in braces.
const LINE: usize = 110;

/// A value of a rule file. The fields of a map are in the order in which people read them.
#[derive(Clone)]
enum Form {
    Text(String),
    /// A word that needs no quotes.
    Word(String),
    Number(u64),
    Bool(bool),
    List(Vec<Form>),
    Map(Vec<(String, Form)>),
}

/// The rules as a rule file in JSON.
pub fn rules_json(rules: &Rules) -> Value {
    rules_form(rules).json()
}

/// A domain with its limits, as an entry of `domains` in JSON.
pub fn domain_json(domain: &Domain) -> Value {
    domain_form(domain).json()
}

/// A limit, as an entry of `limits` in JSON.
pub fn limit_json(limit: &Limit) -> Value {
    limit_form(limit).json()
}

/// The rules as a rule file in YAML.
pub fn rules_yaml(rules: &Rules) -> String {
    let mut out = String::new();
    rules_form(rules).block(0, &mut out);
    out
}

fn rules_form(rules: &Rules) -> Form {
    let domains = rules.domains.iter().map(domain_form).collect();
    Map::default().put("version", Form::Number(1)).put("domains", Form::List(domains)).form()
}

fn domain_form(domain: &Domain) -> Form {
    let Domain { domain, charge, default, identity, on_identity_failure, limits } = domain;
    let charge = (*charge == Charge::Each).then(|| word("each"));
    let default = (*default == Unmatched::Deny).then(|| word("deny"));
    let identity = match identity {
        Identity::Caller => None,
        Identity::Key => Some(word("key")),
        Identity::Either => Some(word("either")),
    };
    let failure = (*on_identity_failure == OnIdentityFailure::Allow).then(|| word("allow"));
    Map::default()
        .put("domain", text(domain))
        .put_some("charge", charge)
        .put_some("default", default)
        .put_some("identity", identity)
        .put_some("on_identity_failure", failure)
        .put("limits", Form::List(limits.iter().map(limit_form).collect()))
        .form()
}

fn limit_form(limit: &Limit) -> Form {
    let algorithm = (limit.algorithm != Algorithm::default()).then(|| word(limit.algorithm.as_str()));
    let consistency = limit.consistency.map(|consistency| match consistency {
        Consistency::Exact => word("exact"),
        Consistency::Leased => word("leased"),
    });
    let scope = (limit.scope != Scope::Region).then(|| word("global"));
    let global = match limit.scope {
        Scope::Region => None,
        Scope::Global(strategy) => Some(strategy_form(strategy)),
    };
    let failure =
        (limit.on_store_failure != OnStoreFailure::default()).then(|| on_store_failure(limit.on_store_failure));
    let overrides = (!limit.overrides.is_empty()).then(|| limit.overrides.iter().map(override_form).collect());
    let headers = (!limit.response_headers.is_empty()).then(|| headers(&limit.response_headers));
    let map = Map::default().put("name", text(&limit.name));
    let map = put_match(map, &limit.matches)
        .put("per", Form::List(limit.per.iter().map(per).collect()))
        .put("limit", quota(limit.limit));
    let map = match &limit.period {
        Period::Window { ms } => map.put("window", Form::Word(duration(*ms))),
        Period::Calendar { unit, time_zone } => map
            .put("calendar", word(calendar(*unit)))
            .put_some("time_zone", (time_zone != "UTC").then(|| text(time_zone))),
    };
    map.put_some("algorithm", algorithm)
        .put_some("cells", limit.cells.map(|cells| Form::Number(cells.into())))
        .put_some("burst", limit.burst.map(Form::Number))
        .put_some("consistency", consistency)
        .put_some("scope", scope)
        .put_some("global", global)
        .put_some("overdraft", limit.overdraft.then_some(Form::Bool(true)))
        .put_some("on_store_failure", failure)
        .put_some("mode", (limit.mode != Mode::default()).then(|| mode(limit.mode)))
        .put_some("overrides", overrides.map(Form::List))
        .put_some("replaces", (!limit.replaces.is_empty()).then(|| texts(&limit.replaces)))
        .put_some("response_headers", headers)
        .form()
}

fn strategy_form(strategy: GlobalStrategy) -> Form {
    let on_partition = match strategy {
        GlobalStrategy::Gossip { on_partition } if on_partition != OnPartition::default() => {
            Some(on_partition.as_str())
        }
        GlobalStrategy::Gossip { .. } | GlobalStrategy::Escrow => None,
    };
    Map::default().put("strategy", word(strategy.as_str())).put_some("on_partition", on_partition.map(word)).form()
}

fn override_form(change: &Override) -> Form {
    put_match(Map::default(), &change.matches)
        .put_some("limit", change.limit.map(quota))
        .put_some("burst", change.burst.map(Form::Number))
        .put_some("on_store_failure", change.on_store_failure.map(on_store_failure))
        .put_some("mode", change.mode.map(mode))
        .put_some("response_headers", change.response_headers.as_ref().map(headers))
        .form()
}

fn put_match(map: Map, matches: &Match) -> Map {
    let Match { conditions, exact_keys, when } = matches;
    let all = || conditions.iter().map(|(name, inner)| (name.clone(), condition(inner))).collect();
    map.put_some("match", (!conditions.is_empty()).then(|| Form::Map(all())))
        .put_some("exact_keys", exact_keys.as_deref().map(texts))
        .put_some("when", when.as_deref().map(text))
}

fn condition(condition: &Condition) -> Form {
    let one = |kind: &str, form| Map::default().put(kind, form).form();
    match condition {
        Condition::Equal(value) => text(value),
        Condition::AnyOf(values) => texts(values),
        Condition::Prefix(value) => one("prefix", text(value)),
        Condition::Suffix(value) => one("suffix", text(value)),
        Condition::Glob(value) => one("glob", text(value)),
        Condition::Route(value) => one("route", text(value)),
        Condition::Regex(value) => one("regex", text(value)),
        Condition::Cidr(nets) => one("cidr", texts(nets)),
        Condition::Present(present) => one("present", Form::Bool(*present)),
        Condition::Not(inner) => one("not", self::condition(inner)),
    }
}

fn per(per: &Per) -> Form {
    let Some(prefixes) = per.prefixes else { return text(&per.attribute) };
    let bits = |bits: u8| Form::Number(bits.into());
    let lengths = Map::default().put("v4", bits(prefixes.v4)).put("v6", bits(prefixes.v6)).form();
    Map::default().put(&per.attribute, lengths).form()
}

fn quota(quota: Quota) -> Form {
    match quota {
        Quota::Hits(hits) => Form::Number(hits),
        Quota::Unlimited => word("unlimited"),
    }
}

fn mode(mode: Mode) -> Form {
    match mode {
        Mode::Enforce => word("enforce"),
        Mode::Shadow => word("shadow"),
        // Other readers of YAML take the plain word for false.
        Mode::Off => text("off"),
    }
}

fn on_store_failure(failure: OnStoreFailure) -> Form {
    word(match failure {
        OnStoreFailure::Local => "local",
        OnStoreFailure::Allow => "allow",
        OnStoreFailure::Deny => "deny",
    })
}

const fn calendar(unit: CalendarUnit) -> &'static str {
    match unit {
        CalendarUnit::Hour => "hour",
        CalendarUnit::Day => "day",
        CalendarUnit::Week => "week",
        CalendarUnit::Month => "month",
        CalendarUnit::Year => "year",
    }
}

/// Formats milliseconds as a length of time in the largest unit that divides them, such as `90s`.
pub fn duration(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let exact = UNITS.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

fn headers(headers: &BTreeMap<String, String>) -> Form {
    Form::Map(headers.iter().map(|(name, value)| (name.clone(), text(value))).collect())
}

fn word(word: &str) -> Form {
    Form::Word(word.to_owned())
}

fn text(value: &str) -> Form {
    Form::Text(value.to_owned())
}

fn texts(values: &[String]) -> Form {
    Form::List(values.iter().map(|value| text(value)).collect())
}

/// A map that is being written.
#[derive(Default)]
struct Map(Vec<(String, Form)>);

impl Map {
    fn put(mut self, field: &str, form: Form) -> Self {
        self.0.push((field.to_owned(), form));
        self
    }

    fn put_some(self, field: &str, form: Option<Form>) -> Self {
        match form {
            Some(form) => self.put(field, form),
            None => self,
        }
    }

    fn form(self) -> Form {
        Form::Map(self.0)
    }
}

impl Form {
    fn json(self) -> Value {
        match self {
            Self::Text(text) | Self::Word(text) => Value::String(text),
            Self::Number(number) => number.into(),
            Self::Bool(value) => value.into(),
            Self::List(items) => items.into_iter().map(Self::json).collect(),
            Self::Map(fields) => fields.into_iter().map(|(field, form)| (field, form.json())).collect(),
        }
    }

    /// True for what is written over several lines however short it is: maps with several fields in a list.
    fn is_long(&self) -> bool {
        match self {
            Self::List(items) => items.iter().any(|item| item.has_many_fields() || item.is_long()),
            Self::Map(fields) => fields.iter().any(|(_, form)| form.is_long()),
            _ => false,
        }
    }

    fn has_many_fields(&self) -> bool {
        matches!(self, Self::Map(fields) if fields.len() > 2)
    }

    /// The form on one line.
    fn flow(&self) -> String {
        let joined = |parts: Vec<String>, open: &str, close: &str| match parts.is_empty() {
            true => format!("{open}{close}"),
            false => format!("{open} {} {close}", parts.join(", ")),
        };
        match self {
            Self::Text(text) => scalar(text),
            Self::Word(word) => word.clone(),
            Self::Number(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(items) => format!("[{}]", items.iter().map(Self::flow).collect::<Vec<_>>().join(", ")),
            Self::Map(fields) => {
                let field = |(field, form): &(String, Self)| format!("{}: {}", scalar(field), form.flow());
                joined(fields.iter().map(field).collect(), "{", "}")
            }
        }
    }

    /// Appends the form in lines that are indented by `indent`. The first line is indented already.
    fn block(&self, indent: usize, out: &mut String) {
        match self {
            Self::List(items) if !items.is_empty() => {
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.extend(std::iter::repeat_n(' ', indent));
                    }
                    out.push_str("- ");
                    let flow = item.flow();
                    if item.has_many_fields() || item.is_long() || indent + 2 + flow.len() > LINE {
                        item.block(indent + 2, out);
                    } else {
                        let _ = writeln!(out, "{flow}");
                    }
                }
            }
            Self::Map(fields) if !fields.is_empty() => {
                for (at, (field, form)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.extend(std::iter::repeat_n(' ', indent));
                    }
                    let (name, flow) = (scalar(field), form.flow());
                    let nested = matches!(form, Self::List(items) if !items.is_empty())
                        || matches!(form, Self::Map(fields) if !fields.is_empty());
                    if nested && (form.is_long() || indent + name.len() + 2 + flow.len() > LINE) {
                        let _ = writeln!(out, "{name}:");
                        out.extend(std::iter::repeat_n(' ', indent + 2));
                        form.block(indent + 2, out);
                    } else {
                        let _ = writeln!(out, "{name}: {flow}");
                    }
                }
            }
            other => {
                let _ = writeln!(out, "{}", other.flow());
            }
        }
    }
}

/// A text in YAML: plain if every reader of YAML takes it for a text, else in quotes.
fn scalar(text: &str) -> String {
    const RESERVED: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let reserved = RESERVED.contains(&text.to_ascii_lowercase().as_str()) || text.parse::<f64>().is_ok();
    if begins && plain && !reserved {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if is_printable(c) => quoted.push(c),
            c => drop(write!(quoted, "\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// True for a character that a YAML document may have in quotes, and that people see.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
