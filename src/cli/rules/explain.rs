//! `tidegate rules explain`.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Cell;

use super::super::check::attribute;
use super::super::output::{length, table, word};
use super::super::{Exit, Output};
use super::book;
use crate::limiter::effective::Effective;
use crate::limiter::matcher::Subject;
use crate::limiter::rule::Mode;
use crate::limiter::rule_book::RuleBook;

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
}

impl Explain {
    pub fn run(self, output: Output) -> Exit {
        let book = match book(&self.file) {
            Ok(book) => book,
            Err(exit) => return exit,
        };
        let entries: Vec<(&str, &str)> = self.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let subject = Subject { domain: &self.domain, entries: &entries, ordered: false, hits: self.hits };
        let mut applied = Vec::new();
        book.applying(&self.domain, &[subject], &mut applied);
        let mut name = Vec::new();
        let mut rows = Vec::new();
        for limit in &applied {
            limit.effective.key(limit.per.iter().map(|key| subject.value(key).unwrap_or_default()), &mut name);
            rows.push((limit.effective, limit.per, String::from_utf8_lossy(&name).into_owned()));
        }
        let others = others(&book, &self.domain, &rows);
        if output == Output::Json {
            let limits: Vec<_> = rows.iter().map(|(effective, per, key)| row(effective, per, key)).collect();
            println!("{}", serde_json::json!({ "domain": self.domain, "limits": limits, "others": others }));
            return Exit::Ok;
        }
        if book.domain(&self.domain).is_none() {
            println!("{}: no rule has the domain {:?}", word("no limit", false), self.domain);
            return Exit::Ok;
        }
        let mut shown = table(&["limit", "algorithm", "limit", "window", "per", "mode", "counter"]);
        for (effective, per, key) in &rows {
            let limit = if effective.is_unlimited() { "unlimited".to_owned() } else { effective.limit.to_string() };
            let cells = [&effective.name, effective.algorithm.as_str(), &limit, &length(effective.window_ms)];
            let mut cells: Vec<Cell> = cells.iter().map(Cell::new).collect();
            cells.extend([&per.join(", "), mode(effective.mode), key].map(Cell::new));
            shown.add_row(cells);
        }
        println!("{shown}");
        if !others.is_empty() {
            println!("do not apply: {}", others.join(", "));
        }
        Exit::Ok
    }
}

/// Names of the domain's limits that do not apply: they do not match, are off, or are replaced.
fn others(book: &RuleBook, domain: &str, rows: &[(&std::sync::Arc<Effective>, &[String], String)]) -> Vec<String> {
    let limits = book.rules().domains.iter().filter(|d| d.domain == domain).flat_map(|d| &d.limits);
    let applies = |name: &str| rows.iter().any(|(effective, ..)| *effective.name == *name);
    limits.map(|l| l.name.clone()).filter(|name| !applies(name)).collect()
}

fn row(effective: &Effective, per: &[String], key: &str) -> serde_json::Value {
    serde_json::json!({
        "name": &*effective.name,
        "algorithm": effective.algorithm.as_str(),
        "limit": if effective.is_unlimited() { None } else { Some(effective.limit) },
        "window_ms": effective.window_ms,
        "per": per,
        "mode": mode(effective.mode),
        "counter": key,
    })
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
        Mode::Off => "off",
    }
}
