//! `tidegate rules explain`.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Cell;

use super::super::check::attribute;
use super::super::output::{length, table, word};
use super::super::{Exit, Output};
use super::book;
use crate::yaml::nearest::did_you_mean;
use limiter::rules::{ApplicableLimits, EffectiveLimit, Mode, OnStoreFailure, Per, RuleBook, Shape, Unmatched};
use limiter::{Check, Descriptor};

#[derive(Args)]
pub struct Explain {
    file: PathBuf,
    #[arg(long)]
    domain: String,
    /// Attributes
    #[arg(value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    #[arg(long, default_value_t = 1)]
    hits: u32,
    /// Name counters as a region with `store.hash_keys: true` does
    #[arg(long)]
    hash_keys: bool,
    /// The order of the attributes has a meaning, as in Envoy's descriptors
    #[arg(long)]
    ordered: bool,
}

impl Explain {
    pub fn run(self, output: Output) -> Exit {
        let book = match book(&self.file, output) {
            Ok(book) => book,
            Err(exit) => return exit,
        };
        let entries: Vec<(&str, &str)> = self.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let descriptors = [Descriptor {
            entries: &entries,
            ordered: self.ordered,
            hits: self.hits,
            charging: Default::default(),
            limit: None,
        }];
        let check = Check { domain: &self.domain, descriptors: &descriptors };
        let mut applied = ApplicableLimits::new();
        let domain = book.applicable(&check, &mut applied);
        let mut counter = Vec::new();
        let mut rows = Vec::new();
        for limit in &applied {
            limit.key(&descriptors[0], self.hash_keys, &mut counter);
            let per = per(&book, &self.domain, &limit.effective.name);
            rows.push((limit.effective, per, String::from_utf8_lossy(&counter).into_owned()));
        }
        let others = book.unapplied(&check);
        let denies = domain.is_some_and(|terms| terms.default == Unmatched::Deny) && rows.is_empty();
        if output == Output::Json {
            let limits: Vec<_> = rows.iter().map(|(effective, per, key)| row(effective, per, key)).collect();
            let others = others.iter().map(|other| serde_json::json!({ "name": other.name, "reasons": other.reasons }));
            let others: Vec<_> = others.collect();
            let document = serde_json::json!({
                "domain": self.domain, "limits": limits, "others": others, "denied_by_default": denies,
            });
            outln!("{document}");
            return Exit::Ok;
        }
        if domain.is_none() {
            let known = book.rules().domains.iter().map(|domain| domain.domain.as_str());
            let hint = did_you_mean(&self.domain, known);
            outln!("{}: no rule has the domain {:?}{hint}", word("no limit", false), self.domain);
            return Exit::Ok;
        }
        if rows.is_empty() {
            let answer = if denies { "denied" } else { "allowed" };
            outln!("no limit applies: the check is {answer}, as the default of the domain says");
        } else {
            let heads =
                ["limit", "algorithm", "limit", "window", "per", "consistency", "without store", "mode", "counter"];
            let mut shown = table(&heads);
            for (effective, per, key) in &rows {
                let per: Vec<String> = per.iter().map(ToString::to_string).collect();
                let cells = [
                    &effective.name,
                    effective.algorithm.as_str(),
                    &quota(effective),
                    &window(effective),
                    &per.join(", "),
                    consistency(effective),
                    on_store_failure(effective),
                    mode(effective.mode),
                    key,
                ];
                shown.add_row(cells.map(Cell::new));
            }
            outln!("{shown}");
        }
        if !others.is_empty() {
            outln!("do not apply:");
            others.iter().for_each(|other| outln!("  {}: {}", other.name, other.reasons.join("; ")));
        }
        Exit::Ok
    }
}

/// The `per` of a limit.
fn per<'b>(book: &'b RuleBook, domain: &str, limit: &str) -> &'b [Per] {
    let domain = book.rules().domains.iter().find(|known| known.domain == domain);
    let limit = domain.and_then(|domain| domain.limits.iter().find(|known| known.name == limit));
    limit.map(|limit| limit.per.as_slice()).unwrap_or_default()
}

fn row(effective: &EffectiveLimit, per: &[Per], key: &str) -> serde_json::Value {
    serde_json::json!({
        "name": &*effective.name,
        "algorithm": effective.algorithm.as_str(),
        "limit": if effective.is_unlimited() { None } else { Some(effective.limit) },
        "burst": if effective.is_bucket() { Some(effective.rate.burst) } else { None },
        "window_ms": effective.window_ms,
        "window": window(effective),
        "per": per,
        "consistency": consistency(effective),
        "on_store_failure": on_store_failure(effective),
        "mode": mode(effective.mode),
        "counter": key,
    })
}

fn quota(effective: &EffectiveLimit) -> String {
    match effective.limit {
        _ if effective.is_unlimited() => "unlimited".to_owned(),
        limit if effective.is_bucket() && effective.rate.burst != limit => {
            format!("{limit}, burst {}", effective.rate.burst)
        }
        limit => limit.to_string(),
    }
}

fn window(effective: &EffectiveLimit) -> String {
    match &effective.shape {
        Shape::Calendar { unit, zone } => {
            let zone = zone.iana_name().unwrap_or("UTC");
            format!("{} in {zone}", format!("{unit:?}").to_lowercase())
        }
        _ => length(effective.window_ms),
    }
}

const fn consistency(effective: &EffectiveLimit) -> &'static str {
    if effective.leased { "leased" } else { "exact" }
}

const fn on_store_failure(effective: &EffectiveLimit) -> &'static str {
    match effective.on_store_failure {
        OnStoreFailure::Local => "local",
        OnStoreFailure::Allow => "allow",
        OnStoreFailure::Deny => "deny",
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
        Mode::Off => "off",
    }
}
