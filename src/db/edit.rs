//! Edits of operators. Each is one transaction.

use limiter::Revision;
use plane::{KeyHash, KeyRow, Mark};
use sqlx::types::Uuid;
use sqlx::{Error, PgConnection};

use super::Database;
use super::changes::{mark, signed};
use super::error::{describe, explain, is_conflict, late};
use super::metrics::Query;
use super::rules::{self, Kept};
use super::session::Session;
use crate::ports::plane::{Actor, AdminRole, DatabaseError, Edit};

/// How often an edit is tried if another transaction was faster, or in its way.
const ATTEMPTS: u32 = 3;

const INSERT_KEY: &str = "
INSERT INTO api_keys (hash, key_id, prefix, user_id, tier, expires_at, revoked_at)
VALUES ($1, $2, $3, $4, $5, 'epoch'::timestamptz + $6 * interval '1 ms', 'epoch'::timestamptz + $7 * interval '1 ms')";

/// An edit that is complete but for its commit.
struct Prepared {
    session: Session,
    mark: Mark,
}

/// Why an edit was not made.
struct NotMade {
    error: DatabaseError,
    /// True if another transaction was the reason, so that the edit may succeed now.
    again: bool,
}

/// Why a step of an edit failed.
enum Failure {
    Sql(Error),
    Refused(DatabaseError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

fn ms(time: Option<u64>) -> Option<i64> {
    time.and_then(|ms| i64::try_from(ms).ok())
}

fn not_found<T>(what: String) -> Result<T, Failure> {
    Err(Failure::Refused(DatabaseError::NotFound(what)))
}

/// What an edit changes, for errors.
fn edited(edit: &Edit) -> String {
    match edit {
        Edit::ReplaceRules(_) => "the rule book".to_owned(),
        Edit::PutLimit { domain, limit } => format!("the limit {domain}/{}", limit.name),
        Edit::RemoveLimit { domain, name } => format!("the limit {domain}/{name}"),
        Edit::PutTier { tier, .. } | Edit::RemoveTier { tier } => format!("the tier {tier}"),
        Edit::PutUser(user) => format!("the user {}", user.user),
        Edit::RemoveUser { user } => format!("the user {user}"),
        Edit::CreateKey { key, .. } => format!("the API key {}", key.key_id),
        Edit::RevokeKey { key_id, .. } => format!("the API key {key_id}"),
        Edit::RotateKey { key, .. } => format!("the API key {}", key.key_id),
        Edit::PutSettings(_) => "the settings".to_owned(),
        Edit::CreateToken { name, .. } => format!("the admin token {name}"),
        Edit::Record { action, .. } => action.clone(),
    }
}

impl Database {
    /// Makes an edit.
    pub(super) async fn make_edit(
        &self,
        actor: &Actor,
        edit: &Edit,
        expected: Option<Revision>,
    ) -> Result<Mark, DatabaseError> {
        let whole = matches!(edit, Edit::ReplaceRules(_));
        let deadlines = &self.config.deadlines;
        let deadline = if whole { deadlines.bulk } else { deadlines.call };
        let prepare = async {
            for _ in 1..ATTEMPTS {
                match self.prepare(actor, edit, expected).await {
                    Err(NotMade { again: true, .. }) => {}
                    prepared => return prepared,
                }
            }
            self.prepare(actor, edit, expected).await
        };
        let prepared = tokio::time::timeout(deadline, prepare).await;
        let prepared = prepared.unwrap_or_else(|_| Err(NotMade { error: late(), again: false }));
        let Prepared { mut session, mark } = prepared.map_err(|not_made| not_made.error)?;

        let _timer = self.metrics.start(Query::Commit);
        let commit = sqlx::raw_sql("COMMIT").execute(&mut *session);
        match tokio::time::timeout(deadlines.call, commit).await {
            Ok(Ok(_)) => {
                session.finish();
                Ok(mark)
            }
            // The server answered that it rolled the transaction back. While it stops, its answer says nothing.
            Ok(Err(error))
                if error.as_database_error().is_some_and(|e| !e.code().unwrap_or_default().starts_with("57")) =>
            {
                Err(describe(&error))
            }
            Ok(Err(error)) => {
                // The next call searches the primary.
                self.primary.failed(&error);
                Err(DatabaseError::UnknownOutcome)
            }
            Err(_) => Err(DatabaseError::UnknownOutcome),
        }
    }

    /// Makes an edit up to its commit.
    async fn prepare(&self, actor: &Actor, edit: &Edit, expected: Option<Revision>) -> Result<Prepared, NotMade> {
        let session = self.session().await;
        let mut session = session.map_err(|error| NotMade { error, again: false })?;
        let _timer = self.metrics.start(Query::Edit);
        match self.write(&mut session, actor, edit, expected).await {
            Ok(mark) => Ok(Prepared { session, mark }),
            Err(Failure::Refused(error)) => {
                if sqlx::raw_sql("ROLLBACK").execute(&mut *session).await.is_ok() {
                    session.finish();
                }
                let again = expected.is_none() && matches!(error, DatabaseError::Stale { .. });
                Err(NotMade { error, again })
            }
            Err(Failure::Sql(error)) => {
                self.primary.failed(&error);
                let again = is_conflict(&error);
                Err(NotMade { error: explain(&mut session, error, &edited(edit)).await, again })
            }
        }
    }

    /// Writes the rows of an edit, and takes its revision.
    async fn write(
        &self,
        connection: &mut PgConnection,
        actor: &Actor,
        edit: &Edit,
        expected: Option<Revision>,
    ) -> Result<Mark, Failure> {
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        let begin =
            sqlx::query_as("SELECT rules_revision, set_config('tidegate.actor', $1, true) FROM config_revision");
        let (before, _): (i64, String) = begin.bind(&actor.name).fetch_one(&mut *connection).await?;
        let stale = |current: i64| {
            let current = Revision(u64::try_from(current).unwrap_or(0));
            Err(Failure::Refused(DatabaseError::Stale { current }))
        };
        if expected.is_some_and(|expected| signed(expected) != before) {
            return stale(before);
        }
        self.write_rows(connection, edit).await?;
        // Rows are locked before the revision, as other transactions do it, so that none waits in a circle.
        if expected.is_some() || matches!(edit, Edit::ReplaceRules(_)) {
            let locked = sqlx::query_scalar("SELECT rules_revision FROM tidegate_lock_revision()");
            let now: i64 = locked.fetch_one(&mut *connection).await?;
            if now != before {
                return stale(now);
            }
        }
        // Runs the triggers now rather than at the commit, so that their errors are known outcomes.
        sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await?;
        let taken = sqlx::query_as("SELECT revision, commit_id FROM config_revision");
        let (revision, id): (i64, Uuid) = taken.fetch_one(&mut *connection).await?;
        Ok(mark(revision, id))
    }

    async fn write_rows(&self, connection: &mut PgConnection, edit: &Edit) -> Result<(), Failure> {
        match edit {
            Edit::ReplaceRules(rules) => rules::replace(connection, rules, self.encode, &Kept::new()).await?,
            Edit::PutLimit { domain, limit } => rules::put(connection, domain, limit, self.encode).await?,
            Edit::RemoveLimit { domain, name } => {
                let remove = sqlx::query("DELETE FROM rate_limit_rules WHERE domain = $1 AND name = $2");
                let removed = remove.bind(domain).bind(name).execute(connection).await?;
                if removed.rows_affected() == 0 {
                    return not_found(edited(edit));
                }
            }
            Edit::PutTier { tier, description } => {
                let put = sqlx::query(
                    "INSERT INTO user_tiers (tier, description) VALUES ($1, $2) \
                     ON CONFLICT (tier) DO UPDATE SET description = EXCLUDED.description",
                );
                put.bind(tier).bind(description).execute(connection).await?;
            }
            Edit::RemoveTier { tier } => {
                let used = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM users WHERE tier = $1) OR EXISTS (SELECT FROM api_keys WHERE tier = $1)",
                );
                if used.bind(tier).fetch_one(&mut *connection).await? {
                    let message = format!("the tier {tier}: expected a tier that no user and no API key has");
                    return Err(Failure::Refused(DatabaseError::Invalid(message)));
                }
                let remove = sqlx::query("DELETE FROM user_tiers WHERE tier = $1").bind(tier);
                if remove.execute(connection).await?.rows_affected() == 0 {
                    return not_found(edited(edit));
                }
            }
            Edit::PutUser(user) => {
                let put = sqlx::query(
                    "INSERT INTO users (user_id, tier) VALUES ($1, $2) \
                     ON CONFLICT (user_id) DO UPDATE SET tier = EXCLUDED.tier",
                );
                put.bind(&user.user).bind(&user.tier).execute(connection).await?;
            }
            Edit::RemoveUser { user } => {
                let remove = sqlx::query("DELETE FROM users WHERE user_id = $1").bind(user);
                if remove.execute(connection).await?.rows_affected() == 0 {
                    return not_found(edited(edit));
                }
            }
            Edit::CreateKey { key, prefix } => insert_key(connection, key, prefix).await?,
            Edit::RevokeKey { key_id, at_ms } => {
                let revoke = sqlx::query(
                    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, 'epoch'::timestamptz + $2 * interval '1 ms') \
                     WHERE key_id = $1",
                );
                let revoked = revoke.bind(key_id).bind(ms(Some(*at_ms))).execute(connection).await?;
                if revoked.rows_affected() == 0 {
                    return not_found(edited(edit));
                }
            }
            Edit::RotateKey { key_id, key, prefix, old_expires_at_ms } => {
                let rotated = (key_id.as_str(), &**key, prefix.as_str(), *old_expires_at_ms);
                rotate_key(connection, rotated).await?;
            }
            Edit::PutSettings(settings) => {
                rules::put_settings(connection, settings.iter().map(|(name, value)| (name, value))).await?;
            }
            Edit::CreateToken { name, role, hash } => create_token(connection, name, *role, *hash).await?,
            Edit::Record { action, target } => {
                let record = sqlx::query("SELECT tidegate_record_action($1, $2)");
                record.bind(action).bind(target).execute(connection).await?;
            }
        }
        Ok(())
    }
}

async fn insert_key(connection: &mut PgConnection, key: &KeyRow, prefix: &str) -> Result<(), Error> {
    let KeyRow { hash, key_id, user, tier, expires_at_ms, revoked_at_ms } = key;
    let insert = sqlx::query(INSERT_KEY).bind(hash.to_string()).bind(key_id).bind(prefix).bind(user).bind(tier);
    insert.bind(ms(*expires_at_ms)).bind(ms(*revoked_at_ms)).execute(connection).await?;
    Ok(())
}

/// The user and the tier of a key, when it expires, and how it has ended if it has.
type OldKey = (String, Option<String>, Option<i64>, Option<String>);

/// Creates a key beside an old one, which then expires.
async fn rotate_key(
    connection: &mut PgConnection,
    (old_id, key, prefix, old_expires_at_ms): (&str, &KeyRow, &str, u64),
) -> Result<(), Failure> {
    let shorten = sqlx::query_as(
        "WITH old AS (SELECT hash, expires_at FROM api_keys WHERE key_id = $1 FOR UPDATE) UPDATE api_keys AS key \
         SET expires_at = least(key.expires_at, 'epoch'::timestamptz + $2 * interval '1 ms') \
         FROM old WHERE key.hash = old.hash RETURNING key.user_id, key.tier, \
         floor(extract(epoch FROM old.expires_at) * 1000)::bigint, \
         CASE WHEN key.revoked_at IS NOT NULL THEN 'revoked' WHEN old.expires_at <= now() THEN 'expired' END",
    );
    let shorten = shorten.bind(old_id).bind(ms(Some(old_expires_at_ms)));
    let old: Option<OldKey> = shorten.fetch_optional(&mut *connection).await?;
    let Some((user, tier, expires_at, ended)) = old else { return not_found(format!("the API key {old_id}")) };
    if let Some(ended) = ended {
        let message = format!("the API key {old_id}: expected a key that is not {ended}");
        return Err(Failure::Refused(DatabaseError::Invalid(message)));
    }
    let expires_at_ms = key.expires_at_ms.or(expires_at.and_then(|at| u64::try_from(at).ok()));
    insert_key(connection, &KeyRow { user, tier, expires_at_ms, ..key.clone() }, prefix).await?;
    Ok(())
}

async fn create_token(connection: &mut PgConnection, name: &str, role: AdminRole, hash: KeyHash) -> Result<(), Error> {
    let insert = sqlx::query("INSERT INTO admin_tokens (hash, name, role) VALUES ($1, $2, $3)");
    insert.bind(hash.to_string()).bind(name).bind(role.as_str()).execute(connection).await?;
    Ok(())
}
