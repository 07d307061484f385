//! `tidegate rules refused`: what PostgreSQL holds and no node has in force.

use limiter::rules::Rules;
use serde_json::{Value, json};

use crate::cli::admin_client::{AdminClient, Call};
use crate::cli::{Exit, Output, output};

/// The refused transactions, each with its revision, its rows and its errors.
pub fn fetch(client: &AdminClient) -> Result<Vec<Value>, Exit> {
    let mut reply = client.call(Call::new("GET", "/rules/refused"))?.json();
    Ok(reply["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Prints each refused transaction.
pub fn show(client: &AdminClient, output: Output) -> Result<(), Exit> {
    let refused = fetch(client)?;
    if output == Output::Json {
        outln!("{}", Value::from(refused));
        return Ok(());
    }
    if refused.is_empty() {
        outln!("none");
        return Ok(());
    }
    let mut table = output::table(&["rows", "errors", "revision"]);
    for entry in &refused {
        let lines = |field: &str| texts(&entry[field]).collect::<Vec<_>>().join("\n");
        table.add_row([lines("rows"), lines("errors"), entry["revision"].to_string()]);
    }
    outln!("{table}");
    Ok(())
}

/// Says for people how many transactions are refused, if any are.
pub fn hint(count: u64) {
    match count {
        0 => {}
        1 => outln!("1 transaction is refused: `tidegate rules refused`"),
        count => outln!("{count} transactions are refused: `tidegate rules refused`"),
    }
}

/// What happens to the rows of refused transactions when the whole book is replaced: `removed`, or `replaced` if the
/// new rules have the row.
pub fn overwritten(refused: &[Value], new: &Rules) -> Vec<Value> {
    let limits = new
        .domains
        .iter()
        .flat_map(|domain| domain.limits.iter().map(move |limit| format!("limit {}/{}", domain.domain, limit.name)));
    let domains = new.domains.iter().map(|domain| format!("domain {}", domain.domain));
    let kept: std::collections::HashSet<String> = limits.chain(domains).collect();
    let of_rules = |row: &&str| row.starts_with("limit ") || row.starts_with("domain ");
    let rows = refused.iter().flat_map(|entry| {
        texts(&entry["rows"]).filter(of_rules).map(|row| {
            let outcome = if kept.contains(row) { "replaced" } else { "removed" };
            json!({ "row": row, "revision": entry["revision"], "outcome": outcome })
        })
    });
    rows.collect()
}

/// Prints what [`overwritten`] found.
pub fn print(overwritten: &[Value]) {
    for entry in overwritten {
        let (row, outcome) = (output::plain(&entry["row"]), output::plain(&entry["outcome"]));
        let sign = if outcome == "removed" { '-' } else { '~' };
        outln!("{sign} {row}  (refused at revision {}, never in force: {outcome} in PostgreSQL)", entry["revision"]);
    }
}
