//! What the leader of the cluster reads: committed transactions in commit order.

use std::collections::BTreeMap;
use std::sync::Arc;

use limiter::Revision;
use plane::{CommitId, Mark, PlaneState, Refused, Snapshot, Transaction};
use sqlx::types::{Json, Uuid};

use super::Database;
use super::error::describe;
use super::metrics::Query;
use super::rows::change;
use crate::ports::BoxFuture;
use crate::ports::plane::{ChangeSource, Changes, DatabaseError};

/// The most entries of the log that one call reads. A transaction with more of them is not followed: the whole
/// configuration is read instead.
const MAX_ENTRIES: i64 = 20_000;
/// The most bytes of rows that one call reads, unless its first transaction alone has more.
const MAX_BYTES: i64 = 8 << 20;
/// A transaction with more bytes of rows is not followed.
const MAX_TRANSACTION_BYTES: i64 = 32 << 20;
/// How many old entries one statement removes. Its locks last until it ends.
const PRUNED_AT_ONCE: i32 = 10_000;
/// The most such statements in one call of `maintain`. The next call goes on.
const PRUNE_STATEMENTS: u32 = 100;

/// Whole transactions after a mark, beside what tells whether the log is complete there. One statement sees one state.
/// The counts of an entry include all of its transaction. PostgreSQL stops to read at the first transaction whose place
/// is too high.
const CHANGES: &str = "
SELECT head.pruned_to,
    $1 = 0 OR EXISTS (SELECT FROM change_log WHERE revision = $1 AND commit_id = $2) AS known,
    coalesce((SELECT max(revision) FROM change_log) > $1, false) AS more,
    entry.revision, entry.commit_id, entry.op, entry.table_name, entry.row_name, entry.payload::text
FROM config_revision AS head LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT *, dense_rank() OVER whole AS place, count(*) OVER whole AS entries,
            sum(octet_length(payload::text)) OVER whole AS bytes
        FROM (SELECT * FROM change_log WHERE revision > $1 ORDER BY revision, part LIMIT $4::bigint + 1) AS following
        WINDOW whole AS (ORDER BY revision)
    ) AS counted
    WHERE place <= $3 AND entries <= $4 AND bytes <= CASE place WHEN 1 THEN $6 ELSE $5 END
) AS entry ON true
ORDER BY entry.revision, entry.part";

/// Every rule, domain and setting.
const READ_ALL: &str = "
SELECT head.revision, head.rules_revision, head.commit_id, entry.table_name, entry.row_name, entry.payload::text
FROM config_revision AS head LEFT JOIN (
    SELECT 1 AS kind, 'rate_limit_domains' AS table_name, domain AS row_name, to_jsonb(d) AS payload
    FROM rate_limit_domains AS d
    UNION ALL SELECT 2, 'rate_limit_rules', domain || '/' || name, to_jsonb(r) FROM rate_limit_rules AS r
    UNION ALL SELECT 3, 'cluster_settings', name, to_jsonb(s) FROM cluster_settings AS s
) AS entry ON true
ORDER BY entry.kind, entry.row_name";

#[derive(sqlx::FromRow)]
struct Entry {
    pruned_to: i64,
    known: bool,
    more: bool,
    revision: Option<i64>,
    commit_id: Option<Uuid>,
    op: Option<String>,
    table_name: Option<String>,
    row_name: Option<String>,
    payload: Option<String>,
}

#[derive(sqlx::FromRow)]
struct ConfigurationRow {
    revision: i64,
    rules_revision: i64,
    commit_id: Uuid,
    table_name: Option<String>,
    row_name: Option<String>,
    payload: Option<String>,
}

/// A revision as PostgreSQL stores it.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(super) fn mark(revision: i64, id: Uuid) -> Mark {
    Mark { revision: Revision(u64::try_from(revision).unwrap_or(0)), id: CommitId(id.as_u128()) }
}

impl ChangeSource for Database {
    fn changes_after(&self, after: Mark, max: usize) -> BoxFuture<'_, Result<Changes, DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.call, self.read_changes(after, max)))
    }

    fn read_all(&self) -> BoxFuture<'_, Result<Snapshot, DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.bulk, self.read_configuration()))
    }

    fn wait_for_change(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let _ = tokio::time::timeout(self.config.deadlines.poll, self.changed.notified()).await;
        })
    }

    fn report_refused(&self, refused: &[Refused]) -> BoxFuture<'_, Result<(), DatabaseError>> {
        // The table has one row for a revision.
        let mut by_revision: BTreeMap<Revision, Refused> = BTreeMap::new();
        for Refused { revision, rows, errors } in refused.iter().cloned() {
            let none = || Refused { revision, rows: Vec::new(), errors: Vec::new() };
            let all = by_revision.entry(revision).or_insert_with(none);
            all.rows.extend(rows);
            all.errors.extend(errors);
        }
        let refused = Json(by_revision.into_values().collect::<Vec<_>>());
        Box::pin(Self::within(self.config.deadlines.call, async move {
            let mut session = self.session().await?;
            let _timer = self.metrics.start(Query::ReportRefused);
            let done = sqlx::query("SELECT tidegate_replace_refused($1)").bind(refused).execute(&mut *session).await;
            done.map_err(|error| self.primary.failed(&error))?;
            session.finish();
            Ok(())
        }))
    }

    fn restore_missing(&self, state: Arc<PlaneState>) -> BoxFuture<'_, Result<(), DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.bulk, async move { self.restore(&state).await }))
    }

    fn maintain(&self) -> BoxFuture<'_, Result<(), DatabaseError>> {
        Box::pin(Self::within(self.config.deadlines.bulk, async move {
            let mut session = self.session().await?;
            let _timer = self.metrics.start(Query::Maintain);
            // Each is a transaction of its own, so that no lock lasts longer than one of them.
            for make_or_drop in ["SELECT tidegate_make_partitions()", "SELECT tidegate_drop_partitions()"] {
                let done = sqlx::query(make_or_drop).execute(&mut *session).await;
                done.map_err(|error| self.primary.failed(&error))?;
            }
            for prune in ["SELECT tidegate_prune_change_log(most => $1)", "SELECT tidegate_prune_audit(most => $1)"] {
                for _ in 0..PRUNE_STATEMENTS {
                    let removed = sqlx::query_scalar(prune).bind(PRUNED_AT_ONCE).fetch_one(&mut *session).await;
                    let removed: i64 = removed.map_err(|error| self.primary.failed(&error))?;
                    if removed < i64::from(PRUNED_AT_ONCE) {
                        break;
                    }
                }
            }
            session.finish();
            Ok(())
        }))
    }
}

impl Database {
    async fn read_changes(&self, after: Mark, max: usize) -> Result<Changes, DatabaseError> {
        let mut session = self.session().await?;
        let timer = self.metrics.start(Query::Changes);
        let asked = sqlx::query_as::<_, Entry>(CHANGES).bind(signed(after.revision)).bind(Uuid::from_u128(after.id.0));
        let asked = asked.bind(i64::try_from(max.max(1)).unwrap_or(i64::MAX));
        let asked = asked.bind(MAX_ENTRIES).bind(MAX_BYTES).bind(MAX_TRANSACTION_BYTES);
        let entries = asked.fetch_all(&mut *session).await.map_err(|error| self.primary.failed(&error))?;
        session.finish();
        drop(timer);

        let first = entries.first().ok_or_else(|| {
            DatabaseError::Unavailable("config_revision is empty: run `tidegate migrate up`".to_owned())
        })?;
        if first.pruned_to > 0 && signed(after.revision) <= first.pruned_to {
            return Ok(Changes::Pruned);
        }
        if !first.known {
            return Ok(Changes::Diverged);
        }
        // The next transaction is too large.
        if first.more && first.revision.is_none() {
            return Ok(Changes::Pruned);
        }
        let mut transactions: Vec<Transaction> = Vec::new();
        for entry in entries {
            let Entry { revision: Some(revision), commit_id: Some(id), .. } = entry else { continue };
            let mark = mark(revision, id);
            if transactions.last().is_none_or(|last| last.mark != mark) {
                transactions.push(Transaction::new(mark, Vec::new()));
            }
            let text = Option::unwrap_or_default;
            let (op, table, row) = (text(entry.op), text(entry.table_name), text(entry.row_name));
            let read = change(&op, &table, &row, &text(entry.payload), self.decode);
            if read.is_none() && op != "none" {
                tracing::warn!(table, row, revision, "skipped an entry of the change log that cannot be read");
            }
            if let Some(last) = transactions.last_mut() {
                last.of_rules |= matches!(&*table, "rate_limit_domains" | "rate_limit_rules");
                last.changes.extend(read);
            }
        }
        Ok(Changes::Next(transactions))
    }

    async fn read_configuration(&self) -> Result<Snapshot, DatabaseError> {
        let mut session = self.session().await?;
        let _timer = self.metrics.start(Query::ReadAll);
        let rows = sqlx::query_as::<_, ConfigurationRow>(READ_ALL).fetch_all(&mut *session).await;
        let rows = rows.map_err(|error| self.primary.failed(&error))?;
        session.finish();
        let first = rows.first().ok_or_else(|| describe(&sqlx::Error::RowNotFound))?;
        let mark = mark(first.revision, first.commit_id);
        let rules_revision = Revision(u64::try_from(first.rules_revision).unwrap_or(0));
        let changes = rows.into_iter().filter_map(|row| {
            let ConfigurationRow { table_name: Some(table), row_name: Some(name), payload: Some(payload), .. } = row
            else {
                return None;
            };
            change("put", &table, &name, &payload, self.decode)
        });
        Ok(Snapshot { mark, rules_revision, rows: changes.collect() })
    }
}
