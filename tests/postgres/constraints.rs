//! Constraints reject invalid rows whoever writes them, and say what they expect.

use crate::single::{Server, rejected, sql};

/// Columns and values of a rule that differ from a valid one, and the constraint that rejects it.
const RULES: [(&str, &str, &str); 66] = [
    ("domain", "''", "domain"),
    ("domain", "repeat('x', 257)", "domain"),
    ("name", "'Upper'", "name"),
    ("name", "''", "name"),
    ("name", "repeat('x', 65)", "name"),
    ("name", "E'a\\n'", "name"),
    ("limit_hits", "-1", "limit_hits"),
    ("limit_hits", "68719476737", "limit_hits"),
    ("limit_hits", "NULL", "limit_or_unlimited"),
    ("unlimited", "true", "limit_or_unlimited"),
    ("window_ms", "249", "window_ms"),
    ("window_ms", "34560000001", "window_ms"),
    ("window_ms", "NULL", "window_or_calendar"),
    ("algorithm, calendar", "'fixed_window', 'day'", "window_or_calendar"),
    ("window_ms, calendar", "NULL, 'day'", "calendar_is_fixed"),
    ("window_ms, algorithm, calendar", "NULL, 'fixed_window', 'fortnight'", "calendar"),
    ("time_zone", "'UTC'", "time_zone"),
    ("algorithm", "'leaky_bucket'", "algorithm"),
    ("cells", "5", "cells"),
    ("algorithm, cells", "'rolling_window', 21", "cells"),
    ("algorithm, cells", "'rolling_window', 1", "cells"),
    ("burst", "5", "burst"),
    ("algorithm, burst", "'token_bucket', 0", "burst"),
    ("algorithm, burst, limit_hits, window_ms", "'token_bucket', 1000, 1, 34560000000", "burst_refills"),
    ("algorithm, consistency", "'token_bucket', 'leased'", "consistency"),
    ("consistency", "'loose'", "consistency"),
    ("scope", "'planet'", "scope"),
    ("algorithm, scope, global", r#"'token_bucket', 'global', '{"strategy": "gossip"}'"#, "scope"),
    ("scope", "'global'", "global"),
    ("global", r#"'{"strategy": "gossip"}'"#, "global"),
    ("scope, global", "'global', '{}'", "global"),
    ("scope, global", "'global', '[]'", "global"),
    ("scope, global", r#"'global', '{"strategy": "rumour"}'"#, "global"),
    ("scope, global", r#"'global', '{"strategy": "gossip", "on_partition": "wait"}'"#, "global"),
    ("scope, global", r#"'global', '{"strategy": "gossip", "floor": 1}'"#, "global"),
    ("scope, global", r#"'global', '{"strategy": "escrow"}'"#, "global"),
    (
        "algorithm, window_ms, calendar, scope, global",
        r#"'fixed_window', NULL, 'day', 'global', '{"strategy": "gossip"}'"#,
        "global",
    ),
    ("on_store_failure", "'panic'", "on_store_failure"),
    ("mode", "'on'", "mode"),
    ("match", "'[]'", "match"),
    ("match", "'{\"a\": 1}'", "match"),
    ("match", "'{\"a\": []}'", "match"),
    ("match", "'{\"a\": [1]}'", "match"),
    ("match", "'{\"a\": {\"prefix\": 1}}'", "match"),
    ("match", "'{\"a\": {\"prefix\": \"x\", \"suffix\": \"y\"}}'", "match"),
    ("match", "'{\"a\": {\"like\": \"x\"}}'", "match"),
    ("match", "'{\"a\": {\"not\": {\"present\": \"yes\"}}}'", "match"),
    ("match", "'{\"a\": {\"route\": \"v1\"}}'", "match"),
    ("match", "('{\"a\":' || repeat('{\"not\":', 40) || '\"x\"' || repeat('}', 41))::jsonb", "match"),
    ("exact_keys", "'{}'", "exact_keys"),
    ("exact_keys", "ARRAY['a', NULL]", "exact_keys"),
    ("exact_keys", "ARRAY[ARRAY['a'], ARRAY['b']]", "exact_keys"),
    ("when_expression", "''", "when_expression"),
    ("per", "'\"user\"'", "per"),
    ("per", "'[\"\"]'", "per"),
    ("per", "'[1]'", "per"),
    ("per", "'[{\"ip\": {\"v4\": 33, \"v6\": 64}}]'", "per"),
    ("per", "'[{\"ip\": {\"v4\": 32}}]'", "per"),
    ("per", "'[{\"ip\": {\"v4\": 32, \"v6\": 64, \"v8\": 1}}]'", "per"),
    ("overrides", "'[{\"match\": {}}]'", "overrides"),
    ("overrides", "'[{\"limit\": \"many\"}]'", "overrides"),
    ("overrides", "'[{\"limit\": 5, \"burst\": 5}]'", "overrides"),
    ("overrides", "'[{\"limit\": 5, \"wat\": 5}]'", "overrides"),
    ("overrides, replaces", "'[{\"mode\": \"off\"}]', ARRAY['other']", "overrides"),
    ("replaces", "ARRAY['one']", "replaces"),
    ("response_headers", "'{\"Content-Length\": \"1\"}'", "response_headers"),
];

/// Columns and values of valid rules.
const VALID: [(&str, &str); 13] = [
    ("scope, global", r#"'global', '{"strategy": "gossip", "on_partition": "open"}'"#),
    ("algorithm, scope, global", r#"'fixed_window', 'global', '{"strategy": "escrow"}'"#),
    ("limit_hits, unlimited", "NULL, true"),
    ("window_ms, algorithm, calendar, time_zone", "NULL, 'fixed_window', 'day', 'Europe/Paris'"),
    ("algorithm, cells", "'rolling_window', 20"),
    ("algorithm, burst, consistency", "'token_bucket', 1000000, 'exact'"),
    ("algorithm, burst, limit_hits", "'token_bucket', 68719476736, 0"),
    ("per", "'[\"user\", {\"ip\": {\"v4\": 32, \"v6\": 64}}]'"),
    (
        "match",
        "'{\"a\": \"x\", \"b\": [\"x\", \"y\"], \"c\": {\"not\": {\"cidr\": [\"10.0.0.0/8\"]}}, \"d\": {\"present\": false}}'",
    ),
    (
        "overrides",
        "'[{\"match\": {\"user\": \"a\"}, \"limit\": \"unlimited\"}, {\"mode\": \"off\"}, {\"exact_keys\": [\"a\"], \"limit\": 0}]'",
    ),
    ("replaces", "ARRAY['other']"),
    ("response_headers", "'{\"X-Plan\": \"free\"}'"),
    ("exact_keys, when_expression", "ARRAY['a', 'a'], 'hits > 1'"),
];

fn rule(columns: &str, values: &str) -> String {
    let (mut all, mut given) = (columns.to_owned(), values.to_owned());
    let defaults =
        [("domain", "'api'"), ("name", "'one'"), ("per", "'[]'"), ("limit_hits", "100"), ("window_ms", "1000")];
    for (column, value) in defaults {
        if !columns.split(", ").any(|named| named == column) {
            all += &format!(", {column}");
            given += &format!(", {value}");
        }
    }
    format!("INSERT INTO rate_limit_rules ({all}) VALUES ({given})")
}

#[tokio::test]
async fn plain_sql_cannot_write_invalid_rows() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for (columns, values, constraint) in RULES {
        let error = rejected(&mut connection, &rule(columns, values)).await;
        let table = if columns == "domain" { "rate_limit_domains" } else { "rate_limit_rules" };
        assert!(error.contains(&format!("\"{table}_{constraint}\"")), "{columns} {values}: {error}");
    }
    for (columns, values) in VALID {
        sql(&mut connection, &rule(columns, values)).await;
        sql(&mut connection, "DELETE FROM rate_limit_rules").await;
    }

    let hash = "a".repeat(64);
    sql(&mut connection, "INSERT INTO users (user_id) VALUES ('u')").await;
    let others = [
        ("rate_limit_domains (domain, charge) VALUES ('d', 'some')", "rate_limit_domains_charge"),
        ("rate_limit_domains (domain, default_answer) VALUES ('d', 'x')", "rate_limit_domains_default_answer"),
        ("rate_limit_domains (domain, identity) VALUES ('d', 'x')", "rate_limit_domains_identity"),
        (
            "rate_limit_domains (domain, on_identity_failure) VALUES ('d', 'x')",
            "rate_limit_domains_on_identity_failure",
        ),
        ("user_tiers (tier) VALUES ('')", "user_tiers_tier"),
        ("users (user_id) VALUES ('')", "users_user_id"),
        ("users (user_id, tier) VALUES ('v', 'none')", "users_tier"),
        ("api_keys (hash, user_id) VALUES ('ak_live_1234', 'u')", "api_keys_hash"),
        (&format!("api_keys (hash, user_id) VALUES ('{}', 'u')", hash.to_uppercase()), "api_keys_hash"),
        (&format!("api_keys (hash, user_id) VALUES ('{hash}', 'nobody')"), "api_keys_user_id"),
        (&format!("api_keys (hash, user_id, prefix) VALUES ('{hash}', 'u', 'ak_live_0123456789')"), "api_keys_prefix"),
        (&format!("api_keys (hash, user_id, key_id) VALUES ('{hash}', 'u', '{hash}')"), "api_keys_key_id"),
        (&format!("api_keys (hash, user_id, expires_at) VALUES ('{hash}', 'u', 'infinity')"), "api_keys_expires_at"),
        ("admin_tokens (hash, name, role) VALUES ('secret', 'n', 'owner')", "admin_tokens_hash"),
        (&format!("admin_tokens (hash, name, role) VALUES ('{hash}', 'n', 'root')"), "admin_tokens_role"),
        ("cluster_settings VALUES ('Not A Name', '1')", "cluster_settings_name"),
    ];
    for (values, constraint) in others {
        let error = rejected(&mut connection, &format!("INSERT INTO {values}")).await;
        assert!(error.contains(&format!("\"{constraint}\"")), "{values}: {error}");
    }
}

#[tokio::test]
async fn every_constraint_says_what_it_expects() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let silent = "SELECT conname::text FROM pg_constraint WHERE contype IN ('c', 'f') AND conparentid = 0
        AND connamespace = 'public'::regnamespace AND conislocal
        AND obj_description(oid, 'pg_constraint') IS NULL AND conrelid::regclass::text NOT LIKE 'rate_limit_violations_%'
        AND conname NOT IN ('config_revision_singleton', 'change_log_op')";
    let silent: Vec<String> = sqlx::query_scalar(silent).fetch_all(&mut connection).await.unwrap();
    assert_eq!(silent, Vec::<String>::new());
}
