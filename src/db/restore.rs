//! Writes back what the cluster has applied and a promoted server lacks.

use plane::{Change, PlaneState};
use serde_json::{Value, json};
use sqlx::types::{Json, Uuid};
use sqlx::{Error, PgConnection};

use super::Database;
use super::changes::signed;
use super::error::explain;
use super::metrics::Query;
use super::rules::{self, Kept};
use crate::ports::plane::DatabaseError;

/// The newest transaction of the cluster that the server has.
const COMMON: &str = "
SELECT max(log.revision) FROM change_log AS log
JOIN unnest($1::bigint[], $2::uuid[]) AS known (revision, commit_id) USING (revision, commit_id)";

/// The entries that the server made by itself, after a revision, and the rules and settings that the cluster has
/// refused, so that it does not have them.
const OWN: &str = "
SELECT DISTINCT table_name, row_name FROM change_log
WHERE revision > $1
    OR revision = ANY ($2) AND table_name IN ('rate_limit_domains', 'rate_limit_rules', 'cluster_settings')";

const PUT_TIERS: &str = "
INSERT INTO user_tiers (tier)
SELECT DISTINCT tier FROM jsonb_to_recordset($1) AS row (tier text) WHERE tier IS NOT NULL ON CONFLICT DO NOTHING";

const PUT_USERS: &str = "
INSERT INTO users AS old (user_id, tier) SELECT user_id, tier FROM jsonb_to_recordset($1) AS row (user_id text, tier text)
ON CONFLICT (user_id) DO UPDATE SET tier = EXCLUDED.tier WHERE old.tier IS DISTINCT FROM EXCLUDED.tier";

const ADD_USERS: &str = "
INSERT INTO users (user_id) SELECT DISTINCT user_id FROM jsonb_to_recordset($1) AS row (user_id text)
ON CONFLICT DO NOTHING";

/// A key that ended stays ended. A key of the server with the same name and another hash stays as it is there.
const PUT_KEYS: &str = "
INSERT INTO api_keys AS old (hash, key_id, user_id, tier, expires_at, revoked_at)
SELECT hash, key_id, user_id, tier, 'epoch'::timestamptz + expires_at_ms * interval '1 ms',
    'epoch'::timestamptz + revoked_at_ms * interval '1 ms'
FROM jsonb_to_recordset($1)
    AS row (hash text, key_id text, user_id text, tier text, expires_at_ms bigint, revoked_at_ms bigint)
WHERE NOT EXISTS (SELECT FROM api_keys AS other WHERE other.key_id = row.key_id AND other.hash <> row.hash)
ON CONFLICT (hash) DO UPDATE SET (key_id, user_id, tier, expires_at, revoked_at) = (
    EXCLUDED.key_id, EXCLUDED.user_id, EXCLUDED.tier, EXCLUDED.expires_at, coalesce(old.revoked_at, EXCLUDED.revoked_at)
)";

/// Revocations of keys that the server changed by itself.
const REVOKE_KEYS: &str = "
UPDATE api_keys AS key SET revoked_at = 'epoch'::timestamptz + row.revoked_at_ms * interval '1 ms'
FROM jsonb_to_recordset($1) AS row (hash text, revoked_at_ms bigint)
WHERE key.hash = row.hash AND key.revoked_at IS NULL AND row.revoked_at_ms IS NOT NULL";

/// The same for keys that the cluster knows as removed.
const END_KEYS: &str = "UPDATE api_keys SET revoked_at = now() WHERE hash = ANY ($1) AND revoked_at IS NULL";

/// The table and the name of a refused row.
fn place_of(row: &str) -> Option<(String, String)> {
    let (kind, name) = row.split_once(' ')?;
    let table = match kind {
        "domain" => "rate_limit_domains",
        "limit" => "rate_limit_rules",
        "setting" => "cluster_settings",
        _ => return None,
    };
    Some((table.to_owned(), name.to_owned()))
}

/// Remembered changes of identities, as rows of JSON.
#[derive(Default)]
struct Identities {
    users: Vec<Value>,
    removed_users: Vec<String>,
    keys: Vec<Value>,
    kept_keys: Vec<Value>,
    removed_keys: Vec<String>,
    ended_keys: Vec<String>,
}

impl Identities {
    fn new(changes: Vec<Change>, kept: &Kept) -> Self {
        let mut all = Self::default();
        for change in changes {
            let is_kept = |table: &str, row: &str| kept.contains(&(table.to_owned(), row.to_owned()));
            match change {
                Change::PutUser(user) if !is_kept("users", &user.user) => {
                    all.users.push(json!({ "user_id": user.user, "tier": user.tier }));
                }
                Change::RemoveUser { user } if !is_kept("users", &user) => all.removed_users.push(user),
                Change::PutKey(key) => {
                    let hash = key.hash.to_string();
                    let row = json!({
                        "hash": hash, "key_id": key.key_id, "user_id": key.user, "tier": key.tier,
                        "expires_at_ms": key.expires_at_ms, "revoked_at_ms": key.revoked_at_ms,
                    });
                    let rows = if is_kept("api_keys", &hash) { &mut all.kept_keys } else { &mut all.keys };
                    rows.push(row);
                }
                Change::RemoveKey { hash } => {
                    let hash = hash.to_string();
                    let keys = if is_kept("api_keys", &hash) { &mut all.ended_keys } else { &mut all.removed_keys };
                    keys.push(hash);
                }
                _ => {}
            }
        }
        all
    }

    async fn write(self, connection: &mut PgConnection) -> Result<(), Error> {
        // A key that is put may have the name of one that was removed.
        let remove = sqlx::query("DELETE FROM api_keys WHERE hash = ANY ($1)").bind(self.removed_keys);
        remove.execute(&mut *connection).await?;
        sqlx::query(END_KEYS).bind(self.ended_keys).execute(&mut *connection).await?;
        let tiers: Vec<Value> = self.users.iter().chain(&self.keys).cloned().collect();
        let put = [
            (PUT_TIERS, tiers),
            (PUT_USERS, self.users),
            (ADD_USERS, self.keys.clone()),
            (PUT_KEYS, self.keys),
            (REVOKE_KEYS, self.kept_keys),
        ];
        for (statement, rows) in put {
            if !rows.is_empty() {
                sqlx::query(statement).bind(Json(rows)).execute(&mut *connection).await?;
            }
        }
        let remove = sqlx::query("DELETE FROM users WHERE user_id = ANY ($1)").bind(self.removed_users);
        remove.execute(connection).await?;
        Ok(())
    }
}

impl Database {
    pub(super) async fn restore(&self, state: &PlaneState) -> Result<(), DatabaseError> {
        let mut session = self.session().await?;
        let _timer = self.metrics.start(Query::RestoreMissing);
        if let Err(error) = self.write_missing(&mut session, state).await {
            self.primary.failed(&error);
            return Err(explain(&mut session, error, "what the database lacks").await);
        }
        session.finish();
        Ok(())
    }

    async fn write_missing(&self, connection: &mut PgConnection, state: &PlaneState) -> Result<(), Error> {
        let revision = signed(state.mark().revision);
        let history = state.history().map(|mark| (signed(mark.revision), Uuid::from_u128(mark.id.0)));
        let (revisions, ids): (Vec<i64>, Vec<Uuid>) = history.unzip();
        let refused: Vec<i64> = state.refused().iter().map(|refused| signed(refused.revision)).collect();
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        sqlx::query("SELECT set_config('tidegate.actor', 'tidegate: reconcile', true)")
            .execute(&mut *connection)
            .await?;
        // Nobody else commits until this transaction ends.
        sqlx::query("SELECT tidegate_reconcile($1)").bind(revision).execute(&mut *connection).await?;

        let common = sqlx::query_scalar(COMMON).bind(revisions).bind(ids).fetch_one(&mut *connection).await?;
        let common: Option<i64> = common;
        // Of a server that has none of the last transactions, only what is newer than all of the cluster's is kept.
        let own = sqlx::query_as::<_, (String, String)>(OWN).bind(common.unwrap_or(revision)).bind(refused);
        let mut kept: Kept = own.fetch_all(&mut *connection).await?.into_iter().collect();
        kept.remove(&("config_revision".to_owned(), String::new()));
        kept.extend(state.refused().iter().flat_map(|refused| &refused.rows).filter_map(|row| place_of(row)));

        rules::replace(connection, &state.rules(), self.encode, &kept).await?;
        let is_kept = |name: &str| kept.contains(&("cluster_settings".to_owned(), name.to_owned()));
        let settings = state.settings().iter().filter(|(name, _)| !is_kept(name));
        rules::put_settings(connection, settings).await?;
        let names = state.settings().keys().map(String::as_str);
        let own = kept.iter().filter(|(table, _)| table == "cluster_settings").map(|(_, row)| row.as_str());
        let names: Vec<&str> = names.chain(own).collect();
        let remove = sqlx::query("DELETE FROM cluster_settings WHERE name <> ALL ($1)").bind(names);
        remove.execute(&mut *connection).await?;

        let common = limiter::Revision(common.and_then(|common| u64::try_from(common).ok()).unwrap_or(0));
        Identities::new(state.recent().after(common), &kept).write(connection).await?;
        sqlx::raw_sql("COMMIT").execute(connection).await?;
        Ok(())
    }
}
