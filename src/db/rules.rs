//! Writes rules, domains and settings.

use std::collections::HashMap;

use limiter::rules::{Limit, Rules};
use plane::DomainTerms;
use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{Error, PgConnection};

use super::rows::{LimitEncoder, domain_row, limit_row};

/// Puts rows of `rate_limit_rules`. A row that stays the same is not written. The columns are listed, so that columns
/// of a newer schema get their defaults.
const PUT_RULES: &str = "
INSERT INTO rate_limit_rules AS old (
    domain, name, position, match, exact_keys, when_expression, per, limit_hits, unlimited, overdraft, window_ms, calendar,
    time_zone, algorithm, cells, burst, consistency, scope, global, on_store_failure, mode, overrides, replaces,
    response_headers
)
SELECT
    domain, name, position, match, exact_keys, when_expression, per, limit_hits, unlimited, overdraft, window_ms, calendar,
    time_zone, algorithm, cells, burst, consistency, scope, global, on_store_failure, mode, overrides, replaces,
    response_headers
FROM jsonb_populate_recordset(NULL::rate_limit_rules, $1)
ON CONFLICT (domain, name) DO UPDATE SET (
    position, match, exact_keys, when_expression, per, limit_hits, unlimited, overdraft, window_ms, calendar, time_zone,
    algorithm, cells, burst, consistency, scope, global, on_store_failure, mode, overrides, replaces, response_headers
) = (
    EXCLUDED.position, EXCLUDED.match, EXCLUDED.exact_keys, EXCLUDED.when_expression, EXCLUDED.per, EXCLUDED.limit_hits,
    EXCLUDED.unlimited, EXCLUDED.overdraft, EXCLUDED.window_ms, EXCLUDED.calendar, EXCLUDED.time_zone,
    EXCLUDED.algorithm, EXCLUDED.cells, EXCLUDED.burst, EXCLUDED.consistency, EXCLUDED.scope, EXCLUDED.global,
    EXCLUDED.on_store_failure, EXCLUDED.mode, EXCLUDED.overrides, EXCLUDED.replaces, EXCLUDED.response_headers
) WHERE old.* IS DISTINCT FROM EXCLUDED.*";

const PUT_DOMAINS: &str = "
INSERT INTO rate_limit_domains AS old (domain, charge, default_answer, identity, on_identity_failure)
SELECT domain, charge, default_answer, identity, on_identity_failure
FROM jsonb_populate_recordset(NULL::rate_limit_domains, $1)
ON CONFLICT (domain) DO UPDATE SET (charge, default_answer, identity, on_identity_failure)
    = (EXCLUDED.charge, EXCLUDED.default_answer, EXCLUDED.identity, EXCLUDED.on_identity_failure)
WHERE old.* IS DISTINCT FROM EXCLUDED.*";

const PUT_SETTINGS: &str = "
INSERT INTO cluster_settings AS old (name, value)
SELECT name, value FROM jsonb_populate_recordset(NULL::cluster_settings, $1)
ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value WHERE old.value IS DISTINCT FROM EXCLUDED.value";

/// Names of rows, each with its table, that are left as they are.
pub(super) type Kept = std::collections::HashSet<(String, String)>;

fn is_kept(kept: &Kept, table: &str, row: &str) -> bool {
    kept.contains(&(table.to_owned(), row.to_owned()))
}

/// Makes the rules of the database equal to `rules`, apart from rows that are `kept`.
pub(super) async fn replace(
    connection: &mut PgConnection,
    rules: &Rules,
    encode: LimitEncoder,
    kept: &Kept,
) -> Result<(), Error> {
    let (mut domains, mut limits) = (Vec::new(), Vec::new());
    for domain in &rules.domains {
        let (charge, default) = (domain.charge, domain.default);
        let (identity, on_identity_failure) = (domain.identity, domain.on_identity_failure);
        let terms = DomainTerms { charge, default, identity, on_identity_failure };
        domains.push((domain.domain.clone(), domain_row(&domain.domain, terms)));
        for (place, limit) in (1..).zip(&domain.limits) {
            let name = format!("{}/{}", domain.domain, limit.name);
            limits.push((name, limit_row(&domain.domain, Some(place), limit, encode)));
        }
    }

    let existing: Vec<(String,)> =
        sqlx::query_as("SELECT domain || '/' || name FROM rate_limit_rules").fetch_all(&mut *connection).await?;
    let new: HashMap<&str, ()> = limits.iter().map(|(name, _)| (name.as_str(), ())).collect();
    let removed = existing.into_iter().map(|(name,)| name).filter(|name| !new.contains_key(name.as_str()));
    let removed: Vec<String> = removed.filter(|name| !is_kept(kept, "rate_limit_rules", name)).collect();
    if !removed.is_empty() {
        let remove = sqlx::query("DELETE FROM rate_limit_rules WHERE domain || '/' || name = ANY ($1)");
        remove.bind(removed).execute(&mut *connection).await?;
    }
    let names: Vec<&str> = domains.iter().map(|(name, _)| name.as_str()).collect();
    let kept_domains = kept.iter().filter_map(|(table, row)| match table.as_str() {
        "rate_limit_domains" => Some(row.as_str()),
        "rate_limit_rules" => row.rsplit_once('/').map(|(domain, _)| domain),
        _ => None,
    });
    let names: Vec<&str> = names.into_iter().chain(kept_domains).collect();
    let remove = sqlx::query("DELETE FROM rate_limit_domains WHERE domain <> ALL ($1)");
    remove.bind(names).execute(&mut *connection).await?;

    for (statement, table, rows) in
        [(PUT_DOMAINS, "rate_limit_domains", domains), (PUT_RULES, "rate_limit_rules", limits)]
    {
        let rows = rows.into_iter().filter(|(name, _)| !is_kept(kept, table, name)).map(|(_, row)| row);
        sqlx::query(statement).bind(Json(Value::Array(rows.collect()))).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Puts one limit, at the place that it has, or behind the others of its domain.
pub(super) async fn put(
    connection: &mut PgConnection,
    domain: &str,
    limit: &Limit,
    encode: LimitEncoder,
) -> Result<(), Error> {
    let position = sqlx::query_scalar("SELECT position FROM rate_limit_rules WHERE domain = $1 AND name = $2");
    let position: Option<i32> = position.bind(domain).bind(&limit.name).fetch_optional(&mut *connection).await?;
    let rows = json!([limit_row(domain, position, limit, encode)]);
    sqlx::query(PUT_RULES).bind(Json(rows)).execute(connection).await?;
    Ok(())
}

/// Puts settings.
pub(super) async fn put_settings<'s>(
    connection: &mut PgConnection,
    settings: impl Iterator<Item = (&'s String, &'s Value)>,
) -> Result<(), Error> {
    let rows: Vec<Value> = settings.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    sqlx::query(PUT_SETTINGS).bind(Json(rows)).execute(connection).await?;
    Ok(())
}
