//! What operators read: tokens, lists and the history of the rules.

use limiter::Revision;
use limiter::rules::Rules;
use plane::{Change, KeyHash, Mark, Snapshot};
use serde_json::json;

use super::Database;
use super::changes::signed;
use super::error::describe;
use super::metrics::Query;
use super::rows::change;
use super::session::Session;
use crate::ports::BoxFuture;
use crate::ports::plane::{Actor, AdminRole, ConfigStore, DatabaseError, Edit, List, Listed, Page};

const TIERS: &str = "
SELECT tier AS place, jsonb_build_object('tier', tier, 'description', description, 'created_at', created_at)::text AS row
FROM user_tiers WHERE ($1 IS NULL OR tier > $1) AND ($3 IS NULL OR tier = $3) ORDER BY tier LIMIT $2";

const USERS: &str = "
SELECT user_id AS place, jsonb_build_object('user', user_id, 'tier', tier, 'created_at', created_at)::text AS row
FROM users WHERE ($1 IS NULL OR user_id > $1) AND ($3 IS NULL OR user_id = $3) ORDER BY user_id LIMIT $2";

const KEYS: &str = "
SELECT key_id AS place, jsonb_build_object('key_id', key_id, 'prefix', prefix, 'user', user_id, 'tier', tier,
    'created_at', created_at, 'expires_at', expires_at, 'revoked_at', revoked_at)::text AS row
FROM api_keys WHERE ($1 IS NULL OR key_id > $1) AND ($3 IS NULL OR user_id = $3) ORDER BY key_id LIMIT $2";

/// Revisions of the rules that can be told. The audit says who made them.
const HISTORY: &str = "
SELECT revision::text AS place, jsonb_build_object('revision', revision, 'rows', rows,
    'at', (SELECT min(at) FROM audit WHERE audit.revision = part.revision),
    'actor', (SELECT actor FROM audit WHERE audit.revision = part.revision ORDER BY id LIMIT 1))::text AS row
FROM (
    SELECT revision, jsonb_agg(row_name ORDER BY part) AS rows FROM change_log
    WHERE table_name IN ('rate_limit_domains', 'rate_limit_rules') AND ($1 IS NULL OR revision < $1::bigint)
        AND revision > (SELECT pruned_to FROM config_revision)
    GROUP BY revision ORDER BY revision DESC LIMIT $2
) AS part ORDER BY revision DESC";

const AUDIT: &str = "
SELECT id::text AS place, jsonb_build_object('id', id, 'at', at, 'actor', actor, 'database_user', database_user,
    'action', action, 'table', table_name, 'row', row_name, 'before', before, 'after', after, 'revision', revision)::text AS row
FROM audit WHERE $1 IS NULL OR id < $1::bigint ORDER BY id DESC LIMIT $2";

/// The newest entry of each rule and each domain, up to a revision.
const RULES_AT: &str = "
SELECT head.revision, greatest(head.pruned_to, (SELECT min(revision) FROM change_log)) AS first,
    entry.table_name, entry.row_name, entry.payload::text
FROM config_revision AS head LEFT JOIN (
    SELECT DISTINCT ON (table_name, row_name) * FROM change_log
    WHERE revision <= $1 AND table_name IN ('rate_limit_domains', 'rate_limit_rules')
    ORDER BY table_name, row_name, revision DESC, part DESC
) AS entry ON entry.op = 'put'
ORDER BY entry.table_name, entry.row_name";

#[derive(sqlx::FromRow)]
struct HistoryRow {
    revision: i64,
    /// The first revision whose rules can be told.
    first: Option<i64>,
    table_name: Option<String>,
    row_name: Option<String>,
    payload: Option<String>,
}

impl ConfigStore for Database {
    fn edit(
        &self,
        actor: &Actor,
        edit: Edit,
        expected: Option<Revision>,
    ) -> BoxFuture<'_, Result<Mark, DatabaseError>> {
        let actor = actor.clone();
        Box::pin(async move { self.make_edit(&actor, &edit, expected).await })
    }

    fn token(&self, hash: KeyHash) -> BoxFuture<'_, Result<Option<Actor>, DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.call, async move {
            let mut session = self.reading_session().await?;
            let _timer = self.metrics.start(Query::Token);
            let asked = sqlx::query_as("SELECT name, role FROM admin_tokens WHERE hash = $1").bind(hash.to_string());
            let found = asked.fetch_optional(&mut *session).await;
            let found: Option<(String, String)> = found.map_err(|error| describe(&error))?;
            session.finish();
            Ok(found.and_then(|(name, role)| AdminRole::named(&role).map(|role| Actor { name, role })))
        }))
    }

    fn list(&self, list: List, page: Page) -> BoxFuture<'_, Result<Listed, DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.call, async move { self.read_list(list, page).await }))
    }

    fn rules_at(&self, revision: Revision) -> BoxFuture<'_, Result<Option<Rules>, DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.bulk, async move { self.read_rules_at(revision).await }))
    }
}

impl Database {
    /// A connection to the primary, so that whoever has written reads that; to the replica if no primary answers.
    async fn reading_session(&self) -> Result<Session, DatabaseError> {
        let error = match self.session().await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        let Some(replica) = &self.replica else { return Err(error) };
        replica.session(&self.primary).await?.ok_or(error)
    }

    async fn read_list(&self, list: List, page: Page) -> Result<Listed, DatabaseError> {
        let numbered = matches!(list, List::History | List::Audit);
        if numbered && page.after.as_ref().is_some_and(|after| after.parse::<i64>().is_err()) {
            return Err(DatabaseError::Invalid("after: expected the `next` of the page before".to_owned()));
        }
        let (statement, of) = match list {
            List::Tiers { tier } => (TIERS, Some(tier)),
            List::Users { user } => (USERS, Some(user)),
            List::Keys { user } => (KEYS, Some(user)),
            List::History => (HISTORY, None),
            List::Audit => (AUDIT, None),
        };
        let size = page.size.clamp(1, 1000);
        let mut session = self.reading_session().await?;
        let _timer = self.metrics.start(Query::List);
        // One row more tells whether there is a next page.
        let asked = sqlx::query_as::<_, (String, String)>(statement).bind(page.after).bind(i64::from(size) + 1);
        let asked = if let Some(of) = of { asked.bind(of) } else { asked };
        let rows = asked.fetch_all(&mut *session).await.map_err(|error| describe(&error))?;
        session.finish();
        let size = usize::try_from(size).unwrap_or(1000);
        let more = rows.len() > size;
        let next = rows.get(size.saturating_sub(1)).filter(|_| more).map(|(place, _)| place.clone());
        // A number of PostgreSQL may be too large for ours.
        let read = |text: String| serde_json::from_str(&text).unwrap_or_else(|_| json!({ "unreadable": text }));
        Ok(Listed { rows: rows.into_iter().take(size).map(|(_, row)| read(row)).collect(), next })
    }

    async fn read_rules_at(&self, revision: Revision) -> Result<Option<Rules>, DatabaseError> {
        let mut session = self.reading_session().await?;
        let _timer = self.metrics.start(Query::RulesAt);
        let asked = sqlx::query_as::<_, HistoryRow>(RULES_AT).bind(signed(revision));
        let rows = asked.fetch_all(&mut *session).await.map_err(|error| describe(&error))?;
        session.finish();
        let reaches = rows
            .first()
            .is_some_and(|row| row.first.is_some_and(|first| (first..=row.revision).contains(&signed(revision))));
        if !reaches {
            return Ok(None);
        }
        let mut changes = Vec::new();
        for row in rows {
            let HistoryRow { table_name: Some(table), row_name: Some(name), payload: Some(payload), .. } = row else {
                continue;
            };
            match change("put", &table, &name, &payload, self.decode) {
                Some(Change::UnreadableLimit { domain, name, errors }) => {
                    let errors = errors.join("; ");
                    return Err(DatabaseError::Invalid(format!("{domain}/{name}, as of {revision}: {errors}")));
                }
                change => changes.extend(change),
            }
        }
        Ok(Some(Snapshot { rows: changes, ..Snapshot::default() }.rules()))
    }
}
