//! `tidegate rules explain`.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Cell;

use super::super::check::attribute;
use super::super::output::{length, table, word};
use super::super::{Exit, Output};
use super::book;
use limiter::rules::{ApplicableLimits, EffectiveLimit, Mode, OnStoreFailure, RuleBook, Shape};
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
            ordered: false,
            hits: self.hits,
            charging: Default::default(),
            limit: None,
        }];
        let check = Check { domain: &self.domain, descriptors: &descriptors };
        let mut applied = ApplicableLimits::new();
        book.applicable(&check, &mut applied);
        let mut name = Vec::new();
        let mut rows = Vec::new();
        for limit in &applied {
            limit.effective.key(
                limit.per.iter().map(|key| descriptors[0].value(key).unwrap_or_default()),
                self.hash_keys,
                &mut name,
            );
            rows.push((limit.effective, limit.per, String::from_utf8_lossy(&name).into_owned()));
        }
        let others = others(&book, &self.domain, &rows);
        if output == Output::Json {
            let limits: Vec<_> = rows.iter().map(|(effective, per, key)| row(effective, per, key)).collect();
            outln!("{}", serde_json::json!({ "domain": self.domain, "limits": limits, "others": others }));
            return Exit::Ok;
        }
        if book.domain(&self.domain).is_none() {
            outln!("{}: no rule has the domain {:?}", word("no limit", false), self.domain);
            return Exit::Ok;
        }
        if rows.is_empty() {
            outln!("no limit applies");
        } else {
            let heads =
                ["limit", "algorithm", "limit", "window", "per", "consistency", "without store", "mode", "counter"];
            let mut shown = table(&heads);
            for (effective, per, key) in &rows {
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
            outln!("do not apply: {}", others.join(", "));
        }
        Exit::Ok
    }
}

/// The names of the limits of the domain that do not apply: they do not match, are off, or are replaced.
fn others(book: &RuleBook, domain: &str, rows: &[(&std::sync::Arc<EffectiveLimit>, &[String], String)]) -> Vec<String> {
    let limits = book.rules().domains.iter().filter(|d| d.domain == domain).flat_map(|d| &d.limits);
    let applies = |name: &str| rows.iter().any(|(effective, ..)| *effective.name == *name);
    limits.map(|l| l.name.clone()).filter(|name| !applies(name)).collect()
}

fn row(effective: &EffectiveLimit, per: &[String], key: &str) -> serde_json::Value {
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
