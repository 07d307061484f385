//! Decodes one limit with its overrides and conditions.

use std::collections::BTreeMap;

use crate::yaml::decode::{Errors, Fields, boolean, duration_ms, entries, list, number, string, word};
use crate::yaml::nearest::{did_you_mean, nearest};
use crate::yaml::tree::{Node, Style, Value};
use limiter::rules::{
    Algorithm, Attribute, CalendarUnit, Condition, Consistency, GlobalStrategy, Limit, MAX_LIMIT, Match, Mode,
    OnPartition, OnStoreFailure, Override, Path, Per, Period, Prefixes, Quota, Scope,
};

/// One entry of `limits`.
pub(super) fn limit(node: &Node, path: &Path, errors: &mut Errors) -> Limit {
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
    const SCOPES: [(&str, bool); 2] = [("region", false), ("global", true)];
    let is_global =
        fields.get("scope").and_then(|n| word(n, &path.field("scope"), &SCOPES, errors)).unwrap_or_default();
    let path = path.field("global");
    match fields.get("global") {
        Some(node) if is_global => strategy(node, path, errors).map_or(Scope::Region, Scope::Global),
        Some(_) => {
            errors.add(&path, "expected only with scope: global");
            Scope::Region
        }
        None if is_global => {
            errors.add(&path, "expected this field with scope: global: { strategy: gossip | escrow }");
            Scope::Region
        }
        None => Scope::Region,
    }
}

/// How regions share a counter.
fn strategy(node: &Node, path: Path, errors: &mut Errors) -> Option<GlobalStrategy> {
    const ESCROW: [(&str, bool); 2] = [("gossip", false), ("escrow", true)];
    const ON_PARTITION: [(&str, OnPartition); 3] =
        [("open", OnPartition::Open), ("share", OnPartition::Share), ("deny", OnPartition::Deny)];
    let mut fields = Fields::new(node, path.clone(), errors);
    let escrow = fields.require("strategy", errors).and_then(|n| word(n, &path.field("strategy"), &ESCROW, errors));
    let path = path.field("on_partition");
    let on_partition = fields.get("on_partition").and_then(|n| word(n, &path, &ON_PARTITION, errors));
    fields.finish(errors);
    let escrow = escrow?;
    if escrow && on_partition.is_some() {
        errors.add(&path, "expected only with strategy: gossip");
    }
    let on_partition = on_partition.unwrap_or_default();
    Some(if escrow { GlobalStrategy::Escrow } else { GlobalStrategy::Gossip { on_partition } })
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
