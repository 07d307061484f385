//! Rows of the tables as JSON, and what they mean.

use limiter::rules::{Limit, Period, Quota};
use plane::{Change, DomainTerms, KeyHash, KeyRow, UserRow};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Reads a limit from the form of a rule file. Each error has its field.
pub type LimitDecoder = fn(&Value) -> Result<Limit, Vec<String>>;
/// Writes a limit in the form of a rule file.
pub type LimitEncoder = fn(&Limit) -> Value;

/// The fields of a rule file that a row of `rate_limit_rules` has under the same name and in the same form.
const COMMON: [&str; 16] = [
    "name",
    "match",
    "exact_keys",
    "per",
    "overdraft",
    "calendar",
    "time_zone",
    "algorithm",
    "cells",
    "burst",
    "consistency",
    "scope",
    "global",
    "on_store_failure",
    "mode",
    "overrides",
];
/// The same for fields that a rule file leaves out if they are empty.
const LISTS: [&str; 2] = ["replaces", "response_headers"];

/// A row of `rate_limit_rules` as JSON. A position of `None` places a new rule behind the others of its domain.
pub(super) fn limit_row(domain: &str, position: Option<i32>, limit: &Limit, encode: LimitEncoder) -> Value {
    let file = encode(limit);
    let field = |name: &str| file.get(name).cloned();
    let mut row: Map<String, Value> =
        COMMON.iter().map(|name| ((*name).to_owned(), field(name).unwrap_or_default())).collect();
    let (hits, unlimited) = match limit.limit {
        Quota::Hits(hits) => (Some(hits), false),
        Quota::Unlimited => (None, true),
    };
    let window_ms = match &limit.period {
        Period::Window { ms } => Some(*ms),
        Period::Calendar { .. } => None,
    };
    let own = [
        ("domain", json!(domain)),
        ("position", json!(position)),
        ("match", field("match").unwrap_or_else(|| json!({}))),
        ("when_expression", field("when").unwrap_or_default()),
        ("limit_hits", json!(hits)),
        ("unlimited", json!(unlimited)),
        ("window_ms", json!(window_ms)),
        ("overdraft", json!(limit.overdraft)),
        ("algorithm", json!(limit.algorithm)),
        ("scope", field("scope").unwrap_or_else(|| json!("region"))),
        ("on_store_failure", json!(limit.on_store_failure)),
        ("mode", json!(limit.mode)),
        ("overrides", field("overrides").unwrap_or_else(|| json!([]))),
        ("replaces", json!(limit.replaces)),
        ("response_headers", json!(limit.response_headers)),
    ];
    row.extend(own.map(|(name, value)| (name.to_owned(), value)));
    Value::Object(row)
}

/// The limit of a row of `rate_limit_rules`.
fn limit(row: &Value, decode: LimitDecoder) -> Result<Limit, Vec<String>> {
    let field = |name: &str| row.get(name).filter(|value| !value.is_null()).cloned();
    let same = COMMON.iter().chain(&LISTS).filter_map(|name| Some(((*name).to_owned(), field(name)?)));
    let mut file: Map<String, Value> = same.collect();
    let quota = if row["unlimited"] == true { Some(json!("unlimited")) } else { field("limit_hits") };
    let window = field("window_ms").map(|ms| json!(format!("{ms}ms")));
    let renamed = [("when", field("when_expression")), ("limit", quota), ("window", window)];
    file.extend(renamed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    decode(&Value::Object(file))
}

/// A row of `rate_limit_domains` as JSON.
pub(super) fn domain_row(domain: &str, terms: DomainTerms) -> Value {
    let DomainTerms { charge, default, identity, on_identity_failure } = terms;
    json!({
        "domain": domain, "charge": charge, "default_answer": default, "identity": identity,
        "on_identity_failure": on_identity_failure,
    })
}

#[derive(Deserialize)]
struct LoggedUser {
    user_id: String,
    tier: Option<String>,
}

#[derive(Deserialize)]
struct LoggedKey {
    hash: KeyHash,
    key_id: String,
    user_id: String,
    tier: Option<String>,
    expires_at_ms: Option<u64>,
    revoked_at_ms: Option<u64>,
}

/// The change that an entry of the log describes. `None` if it changes nothing that the cluster has.
pub(super) fn change(op: &str, table: &str, row_name: &str, payload: &str, decode: LimitDecoder) -> Option<Change> {
    let (put, row_name) = (op == "put", row_name.to_owned());
    // SQL bounds most values. What is left, such as a number that is too large, must not stop the reader.
    let payload: Result<Value, _> = serde_json::from_str(payload);
    let text = |field: &str| payload.as_ref().ok()?.get(field)?.as_str().map(ToOwned::to_owned);
    let change = match table {
        "rate_limit_domains" if put => {
            let row = payload.as_ref().ok()?;
            let term = |name: &str| row.get(name).cloned().unwrap_or_default();
            let terms = DomainTerms {
                charge: serde_json::from_value(term("charge")).ok()?,
                default: serde_json::from_value(term("default_answer")).ok()?,
                identity: serde_json::from_value(term("identity")).ok()?,
                on_identity_failure: serde_json::from_value(term("on_identity_failure")).ok()?,
            };
            Change::PutDomain { domain: row_name, terms }
        }
        "rate_limit_domains" => Change::RemoveDomain { domain: row_name },
        "rate_limit_rules" => {
            // A domain may have slashes, a name has none.
            let (domain, name) = row_name.rsplit_once('/')?;
            let (domain, name) = (domain.to_owned(), name.to_owned());
            if !put {
                return Some(Change::RemoveLimit { domain, name });
            }
            let row = payload.map_err(|error| vec![format!("expected JSON that can be read: {error}")]);
            let read = row.and_then(|row| {
                let position = row["position"].as_i64().and_then(|position| i32::try_from(position).ok());
                Ok((position.unwrap_or(i32::MAX), limit(&row, decode)?))
            });
            match read {
                Ok((position, limit)) => Change::PutLimit { domain, position, limit: Box::new(limit) },
                Err(errors) => Change::UnreadableLimit { domain, name, errors },
            }
        }
        "cluster_settings" if put => {
            // A value that cannot be read is kept as a text, which no setting accepts.
            let value = payload.as_ref().map(|row| row.get("value").cloned().unwrap_or_default());
            Change::PutSetting { name: row_name, value: value.unwrap_or_else(|_| json!("(unreadable)")) }
        }
        "cluster_settings" => Change::RemoveSetting { name: row_name },
        "users" if put => {
            let LoggedUser { user_id, tier } = serde_json::from_value(payload.ok()?).ok()?;
            Change::PutUser(UserRow { user: user_id, tier })
        }
        "users" => Change::RemoveUser { user: row_name },
        "api_keys" if put => {
            let key: LoggedKey = serde_json::from_value(payload.ok()?).ok()?;
            let LoggedKey { hash, key_id, user_id, tier, expires_at_ms, revoked_at_ms } = key;
            Change::PutKey(KeyRow { hash, key_id, user: user_id, tier, expires_at_ms, revoked_at_ms })
        }
        "api_keys" => Change::RemoveKey { hash: KeyHash::try_from(text("hash")?).ok()? },
        _ => return None,
    };
    Some(change)
}
