//! Prints results: tables and colours for people, JSON for programs.

use std::io::IsTerminal;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde_json::Value;

use super::Output;
use crate::config::listen::Listen;
use crate::config::plane::Cluster;
use crate::config::settings::{RulesFrom, Settings};
use crate::rulefile::decode::FileError;
use limiter::rules::RuleBook;

/// An empty table with these column heads.
pub fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    // Some terminals report a width of 0.
    if table.width().is_some_and(|width| width < 20) {
        table.set_width(120);
    }
    table.set_header(heads.iter().map(|head| Cell::new(head).add_attribute(Attribute::Bold)));
    table
}

/// A table cell in green or red.
pub fn verdict(text: impl ToString, good: bool) -> Cell {
    Cell::new(text.to_string()).fg(if good { Color::Green } else { Color::Red })
}

/// A word in green or red on a terminal.
pub fn word(text: &str, good: bool) -> String {
    let colour = if good { 32 } else { 31 };
    if std::io::stdout().is_terminal() { format!("\u{1b}[1;{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A JSON value as people write it.
#[cfg(feature = "cluster")]
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Prints the rows of a list: a table with these columns, or JSON. Fields of a newer node get columns behind them.
#[cfg(feature = "cluster")]
pub fn rows(output: Output, columns: &[&str], rows: &[Value]) {
    if output == Output::Json {
        outln!("{}", Value::from(rows));
        return;
    }
    if rows.is_empty() {
        outln!("none");
        return;
    }
    let mut heads = columns.to_vec();
    for name in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
        if !heads.contains(&name.as_str()) {
            heads.push(name);
        }
    }
    let mut table = table(&heads);
    for row in rows {
        table.add_row(heads.iter().map(|head| plain(&row[*head])));
    }
    outln!("{table}");
}

/// Formats milliseconds for people.
pub fn length(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let exact = UNITS.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    match exact {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms >= 1000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        None => format!("{ms}ms"),
    }
}

/// Prints errors as JSON for programs. People see them on standard error.
pub fn wrong(output: Output, errors: &[Value]) {
    if output == Output::Json {
        outln!("{}", serde_json::json!({ "ok": false, "errors": errors }));
    }
}

/// A warning about a rule file, for people.
pub fn warning(warning: &FileError) -> String {
    format!("warning: {warning}")
}

/// An error of a problem document, for people: its place once, if it has one.
pub fn field_error(error: &Value) -> String {
    let text = |field: &str| error[field].as_str().unwrap_or_default();
    let (pointer, detail) = (text("pointer"), text("detail"));
    let field = pointer.rsplit('/').next().unwrap_or_default();
    let repeated = format!("{field}: ");
    match detail.strip_prefix(&repeated).unwrap_or(detail) {
        _ if pointer.is_empty() => detail.to_owned(),
        expected => format!("{pointer}: {expected}"),
    }
}

/// Formats a number of things, such as `2 limits`.
pub fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// The answer to a check, in the JSON of `/v1/check`.
pub fn decision(output: Output, answer: &Value) {
    if output == Output::Json {
        outln!("{answer}");
        return;
    }
    let allowed = answer["allowed"] == true;
    let mut line = word(if allowed { "allowed" } else { "denied" }, allowed);
    if let Some(wait) = answer["retry_after_ms"].as_u64() {
        line += &format!(", try again in {}", length(wait));
    }
    if answer["degraded"] == true {
        line += " (decided without the store)";
    }
    let reason = answer["reason"].as_str().filter(|reason| !reason.is_empty());
    if let Some(reason) = reason {
        line += &format!(": {reason}");
    }
    outln!("{line}");
    let limits = answer["limits"].as_array().map(Vec::as_slice).unwrap_or_default();
    if limits.is_empty() {
        if reason.is_none() {
            outln!("no limit matches");
        }
        return;
    }
    let mut table = table(&["limit", "algorithm", "left", "of", "window", "free again in", ""]);
    for limit in limits {
        let count = |field: &str| limit[field].as_u64().map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        let time = |field: &str| length(limit[field].as_u64().unwrap_or(0));
        let denied = limit["refused"] == true;
        let outcome = match (denied, limit["shadow"] == true) {
            (false, _) => "passes",
            (true, false) => "denies",
            (true, true) => "would deny (shadow)",
        };
        table.add_row(vec![
            Cell::new(limit["name"].as_str().unwrap_or_default()),
            Cell::new(limit["algorithm"].as_str().unwrap_or_default()),
            Cell::new(count("remaining")),
            Cell::new(count("limit")),
            Cell::new(time("window_ms")),
            Cell::new(time("reset_ms")),
            verdict(outcome, !denied),
        ]);
    }
    outln!("{table}");
}

/// Prints the settings that `serve --check` found valid, without secrets, and the book of the rule file if there is
/// one.
pub fn checked(output: Output, settings: &Settings, book: Option<&RuleBook>, warnings: &[FileError]) {
    let (domains, limits) = book.map(size).unzip();
    warnings.iter().for_each(|about| eprintln!("{}", warning(about)));
    let Settings { region, node, listen: Listen { http, grpc, .. }, .. } = settings;
    if output == Output::Json {
        let warnings: Vec<Value> = warnings.iter().map(FileError::json).collect();
        let report = serde_json::json!({
            "ok": true, "region": region, "node": node, "http": http, "grpc": grpc, "domains": domains, "limits": limits,
            "warnings": warnings,
        });
        outln!("{report}");
    } else {
        outln!("{}: node {node} of region {region}, HTTP {http}, gRPC {grpc}", word("good", true));
        match &settings.rules {
            RulesFrom::Cluster(Cluster { name, .. }) => outln!("the rules come from the cluster {name}"),
            RulesFrom::File(file) => {
                let (domains, limits) = (domains.unwrap_or(0), limits.unwrap_or(0));
                outln!("{}: {}, {}", file.display(), count(domains, "domain"), count(limits, "limit"));
            }
        }
    }
}

/// The numbers of domains and limits of a book.
pub fn size(book: &RuleBook) -> (usize, usize) {
    let domains = &book.rules().domains;
    (domains.len(), domains.iter().map(|domain| domain.limits.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::{field_error, length};

    #[test]
    fn the_place_of_an_error_is_named_once() {
        let table = [
            ("", "user_id: expected a user", "user_id: expected a user"),
            ("/foo", "foo: expected a setting", "/foo: expected a setting"),
            ("/limits/0/per", "expected a list", "/limits/0/per: expected a list"),
        ];
        for (pointer, detail, text) in table {
            assert_eq!(field_error(&serde_json::json!({ "pointer": pointer, "detail": detail })), text);
        }
    }

    #[test]
    fn lengths_read_as_people_say_them() {
        let table = [(0, "0ms"), (250, "250ms"), (1250, "1.2s"), (60_000, "1m"), (90_000, "90s"), (172_800_000, "2d")];
        for (ms, text) in table {
            assert_eq!(length(ms), text);
        }
    }
}
