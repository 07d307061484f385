//! The change log: its revisions follow commit order, and a reader loses no transaction.

use std::time::Duration;

use limiter::Revision;
use plane::{Change, CommitId, KeyHash, KeyRow, Mark, Transaction, UserRow};
use sqlx::PgConnection;
use tidegate::db::{Database, Deadlines};
use tidegate::ports::plane::{ChangeSource, Changes};
use tidegate::ports::{Service, Shutdown};

use crate::single::{AGE, Server, age, database, rejected, sql};
use crate::support::wait::{TIMEOUT, elapsed};

const RULE: &str = "INSERT INTO rate_limit_rules (domain, name, per, limit_hits, window_ms) VALUES";

/// The transactions after a mark, but for those without changes: the migration makes one, as the first revision.
pub async fn read(database: &Database, after: Mark) -> Vec<Transaction> {
    match database.changes_after(after, 1000).await.unwrap() {
        Changes::Next(transactions) => {
            transactions.into_iter().filter(|transaction| !transaction.changes.is_empty()).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The names of the limits that a transaction puts.
fn puts(transaction: &Transaction) -> Vec<&str> {
    let name = |change: &'_ Change| match change {
        Change::PutLimit { limit, .. } => Some(limit.name.clone().leak() as &str),
        _ => None,
    };
    transaction.changes.iter().filter_map(name).collect()
}

/// Waits until `count` queries of this server wait for locks.
pub async fn wait_for_waiting_queries(watcher: &mut PgConnection, count: i64) {
    wait_for_count(watcher, "SELECT count(*) FROM pg_locks WHERE NOT granted", count).await;
}

/// Waits until a query that counts gives `expected`.
pub async fn wait_for_count(watcher: &mut PgConnection, query: &'static str, expected: i64) {
    let start = elapsed();
    loop {
        let count = sqlx::query_scalar::<_, i64>(query).fetch_one(&mut *watcher).await;
        if matches!(count, Ok(count) if count == expected) {
            return;
        }
        assert!(elapsed() - start < TIMEOUT, "timed out: {query} gives {count:?}, not {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_reader_of_a_sequence_loses_a_slow_transaction_and_ours_does_not() {
    let server = Server::start().await;
    let (mut slow, mut fast) = (server.connect().await, server.connect().await);
    sql(&mut slow, "CREATE TABLE numbered (number bigserial, name text)").await;
    let numbers = "SELECT number, name FROM numbered WHERE number > $1 ORDER BY number";
    let database = server.database();

    sql(&mut slow, "BEGIN; INSERT INTO numbered (name) VALUES ('slow')").await;
    sql(&mut slow, &format!("{RULE} ('api', 'slow', '[]', 1, 1000)")).await;
    sql(&mut fast, "BEGIN; INSERT INTO numbered (name) VALUES ('fast')").await;
    sql(&mut fast, &format!("{RULE} ('other', 'fast', '[]', 1, 1000)")).await;
    sql(&mut fast, "COMMIT").await;
    // A reader of the sequence is at 2 now.
    let seen: Vec<(i64, String)> = sqlx::query_as(numbers).bind(0i64).fetch_all(&mut fast).await.unwrap();
    assert_eq!(seen, [(2, "fast".to_owned())]);
    let first = read(&database, Mark::default()).await;
    assert_eq!(first.iter().map(puts).collect::<Vec<_>>(), [["fast"]]);

    sql(&mut slow, "COMMIT").await;
    let missed: Vec<(i64, String)> = sqlx::query_as(numbers).bind(2i64).fetch_all(&mut fast).await.unwrap();
    assert_eq!(missed, [], "the sequence gave the slow transaction the number 1, which the reader has passed");
    let second = read(&database, first[0].mark).await;
    assert_eq!(second.iter().map(puts).collect::<Vec<_>>(), [["slow"]]);
    assert!(second[0].mark.revision > first[0].mark.revision);
}

#[tokio::test]
async fn a_transaction_waits_for_the_revision_until_the_one_before_it_is_committed() {
    let server = Server::start().await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    // The triggers of the first transaction have run, and its commit is still to come.
    sql(&mut first, &format!("BEGIN; {RULE} ('api', 'first', '[]', 1, 1000); SET CONSTRAINTS ALL IMMEDIATE")).await;
    let committing = async {
        sql(&mut second, &format!("{RULE} ('other', 'second', '[]', 1, 1000)")).await;
    };
    let database = server.database();
    let mut watcher = server.connect().await;
    let order = async {
        wait_for_waiting_queries(&mut watcher, 1).await;
        assert_eq!(read(&database, Mark::default()).await, []);
        sql(&mut first, "COMMIT").await;
    };
    tokio::join!(committing, order);
    let all = read(&database, Mark::default()).await;
    assert_eq!(all.iter().map(puts).collect::<Vec<_>>(), [["first"], ["second"]]);
}

#[tokio::test]
async fn a_transaction_is_one_revision_with_its_changes_in_order() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let database = server.database();
    sql(&mut connection, &format!("BEGIN; {RULE} ('a/b', 'one', '[\"user\"]', 5, 1000); SAVEPOINT s")).await;
    // What a savepoint takes back is not in the log, even if its triggers ran.
    sql(&mut connection, &format!("{RULE} ('a/b', 'lost', '[]', 1, 1000); SET CONSTRAINTS ALL IMMEDIATE")).await;
    sql(&mut connection, "ROLLBACK TO s; SET CONSTRAINTS ALL DEFERRED").await;
    let users = "INSERT INTO user_tiers (tier) VALUES ('pro'); INSERT INTO users (user_id, tier) VALUES ('u', 'pro')";
    sql(&mut connection, users).await;
    let hash = "ab".repeat(32);
    let key =
        format!("INSERT INTO api_keys (hash, key_id, user_id, expires_at) VALUES ('{hash}', 'k1', 'u', '2030-01-01Z')");
    sql(&mut connection, &key).await;
    sql(&mut connection, "UPDATE rate_limit_rules SET limit_hits = 7; UPDATE rate_limit_rules SET limit_hits = 7")
        .await;
    sql(&mut connection, "INSERT INTO cluster_settings VALUES ('drop_learner_after_ms', '5000'); COMMIT").await;

    let all = read(&database, Mark::default()).await;
    let [Transaction { changes, .. }] = all.as_slice() else { panic!("{all:?}") };
    let kinds: Vec<String> = changes
        .iter()
        .map(|change| format!("{change:?}").split(&[' ', '(', '{'][..]).next().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["PutDomain", "PutLimit", "PutUser", "PutKey", "PutLimit", "PutSetting"]);
    let Change::PutLimit { domain, position: 1, limit } = &changes[4] else { panic!("{changes:?}") };
    assert_eq!((domain.as_str(), limit.limit), ("a/b", limiter::rules::Quota::Hits(7)));
    let hash = KeyHash::try_from(hash).unwrap();
    let (key_id, user) = ("k1".to_owned(), "u".to_owned());
    let row = KeyRow { hash, key_id, user, tier: None, expires_at_ms: Some(1_893_456_000_000), revoked_at_ms: None };
    assert_eq!(changes[3], Change::PutKey(row));
    assert_eq!(changes[2], Change::PutUser(UserRow { user: "u".to_owned(), tier: Some("pro".to_owned()) }));

    // Removing a user removes the keys.
    let mark = all[0].mark;
    sql(&mut connection, "DELETE FROM users; DELETE FROM rate_limit_domains").await;
    let removed: Vec<Change> = read(&database, mark).await.into_iter().flat_map(|t| t.changes).collect();
    let name = |name: &str| name.to_owned();
    assert!(removed.contains(&Change::RemoveUser { user: name("u") }) && removed.contains(&Change::RemoveKey { hash }));
    assert!(removed.contains(&Change::RemoveLimit { domain: name("a/b"), name: name("one") }));
    assert!(removed.contains(&Change::RemoveDomain { domain: name("a/b") }));
}

#[tokio::test]
async fn nothing_bypasses_the_log() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for table in
        ["rate_limit_rules", "rate_limit_domains", "users", "api_keys", "change_log", "audit", "config_revision"]
    {
        let error = rejected(&mut connection, &format!("TRUNCATE {table} CASCADE")).await;
        assert!(error.contains("would not be seen by the cluster"), "{error}");
    }
    assert!(rejected(&mut connection, "DELETE FROM config_revision").await.contains("cannot be deleted"));
    sql(&mut connection, "SET session_replication_role = replica").await;
    sql(&mut connection, &format!("{RULE} ('api', 'one', '[]', 1, 1000)")).await;
    assert_eq!(read(&server.database(), Mark::default()).await.iter().map(puts).collect::<Vec<_>>(), [["one"]]);
}

#[tokio::test]
async fn rows_that_are_no_limits_are_named_and_stop_nobody() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    // SQL cannot judge a regular expression; it can be told only what the rules' validation says later. A number that
    // is too large for any reader gets past it, too.
    sql(&mut connection, &format!("{RULE} ('api', 'first', '[]', 1, 1000)")).await;
    sql(&mut connection, "INSERT INTO cluster_settings VALUES ('x', '1e400')").await;
    sql(&mut connection, &format!("{RULE} ('api', 'second', '[]', 1, 1000)")).await;
    let all = read(&server.database(), Mark::default()).await;
    assert_eq!(all.len(), 3);
    assert!(matches!(&all[1].changes[0], Change::PutSetting { value, .. } if value == "(unreadable)"));
}

#[tokio::test]
async fn a_mark_that_the_database_lacks_is_diverged_and_one_whose_log_is_gone_is_pruned() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let database = server.database();
    for name in ["one", "two", "three"] {
        sql(&mut connection, &format!("{RULE} ('api', '{name}', '[]', 1, 1000)")).await;
    }
    let all = read(&database, Mark::default()).await;
    let other = |mark: Mark, by: u64| Mark { revision: Revision(mark.revision.0 + by), ..mark };
    assert_eq!(database.changes_after(other(all[2].mark, 1), 9).await.unwrap(), Changes::Diverged);
    let forged = Mark { id: CommitId(7), ..all[1].mark };
    assert_eq!(database.changes_after(forged, 9).await.unwrap(), Changes::Diverged, "another transaction is there");
    assert_eq!(database.changes_after(all[0].mark, 1).await.unwrap(), Changes::Next(vec![all[1].clone()]));

    // A user's entries are pruned. The newest entry of a rule is kept for the history.
    sql(&mut connection, "INSERT INTO users (user_id) VALUES ('u')").await;
    sql(&mut connection, "UPDATE rate_limit_rules SET limit_hits = 2 WHERE name = 'three'").await;
    let before = read(&database, Mark::default()).await;
    let newest = before.last().unwrap().mark;
    sql(&mut connection, "SELECT tidegate_prune_change_log('0')").await;
    assert_eq!(read(&database, Mark::default()).await, before, "the log of a day is kept, whatever is asked");
    age(&mut connection).await;
    // In batches, the log says from the first one on how far back it is complete.
    let prune = || sqlx::query_scalar::<_, i64>("SELECT tidegate_prune_change_log('0', 1)");
    assert_eq!(prune().fetch_one(&mut connection).await.unwrap(), 1);
    let aged = Mark { revision: Revision(all[0].mark.revision.0 - AGE), ..all[0].mark };
    assert_eq!(database.changes_after(aged, 9).await.unwrap(), Changes::Pruned);
    while prune().fetch_one(&mut connection).await.unwrap() > 0 {}
    assert_eq!(database.changes_after(aged, 9).await.unwrap(), Changes::Pruned);
    assert_eq!(database.changes_after(Mark::default(), 9).await.unwrap(), Changes::Pruned);
    assert_eq!(read(&database, newest).await, [], "a reader that is up to date stays so");
    let rows = database.read_all().await.unwrap();
    assert_eq!((rows.mark, rows.rules().domains[0].limits.len()), (newest, 3));
}

#[tokio::test]
async fn a_transaction_that_is_too_large_to_follow_is_read_as_a_whole() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let database = server.database();
    sql(&mut connection, "INSERT INTO users (user_id) VALUES ('u')").await;
    let mark = read(&database, Mark::default()).await[0].mark;
    sql(&mut connection, "INSERT INTO users (user_id) SELECT 'u' || n FROM generate_series(1, 20001) AS n").await;
    assert_eq!(database.changes_after(mark, 9).await.unwrap(), Changes::Pruned);
}

#[tokio::test]
async fn one_call_reads_at_most_8_mib_but_at_least_one_transaction() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let database = server.database();
    sql(&mut connection, "INSERT INTO users (user_id) VALUES ('u')").await;
    let mut mark = read(&database, Mark::default()).await[0].mark;
    // Each row has 60 kB.
    for (name, rows) in [("a", 1), ("b", 70), ("c", 70), ("d", 200), ("e", 1)] {
        let value = "to_jsonb(repeat('x', 60000))";
        let rows = format!("SELECT '{name}' || n, {value} FROM generate_series(1, {rows}) AS n");
        sql(&mut connection, &format!("INSERT INTO cluster_settings {rows}")).await;
    }
    for expected in [&[1, 70][..], &[70], &[200], &[1]] {
        let Changes::Next(next) = database.changes_after(mark, 1000).await.unwrap() else { panic!() };
        assert_eq!(next.iter().map(|transaction| transaction.changes.len()).collect::<Vec<_>>(), expected);
        mark = next.last().unwrap().mark;
    }
    assert_eq!(database.changes_after(mark, 9).await.unwrap(), Changes::Next(Vec::new()));
    let large = "SELECT 'f' || n, to_jsonb(repeat('x', 60000)) FROM generate_series(1, 600) AS n";
    sql(&mut connection, &format!("INSERT INTO cluster_settings {large}")).await;
    assert_eq!(database.changes_after(mark, 9).await.unwrap(), Changes::Pruned, "36 MB are not followed");
}

#[tokio::test]
async fn maintenance_removes_what_is_old_from_the_log_and_from_the_audit() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let database = server.database();
    let users = "INSERT INTO users (user_id) SELECT 'u' || n FROM generate_series(1, 25000) AS n";
    sql(&mut connection, users).await;
    sql(&mut connection, &format!("{RULE} ('api', 'one', '[]', 1, 1000)")).await;
    sql(
        &mut connection,
        &format!("UPDATE change_log SET revision = revision - {} WHERE table_name = 'users'", 16 * AGE),
    )
    .await;
    sql(&mut connection, "UPDATE audit SET at = at - interval '401 days' WHERE table_name = 'users'").await;
    database.maintain().await.unwrap();
    let left = "SELECT (SELECT count(*) FROM change_log WHERE table_name = 'users')
        + (SELECT count(*) FROM audit WHERE table_name = 'users')";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 0);
    let rest: i64 = sqlx::query_scalar("SELECT count(*) FROM audit").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rest, 2, "the audit of the domain and the rule is kept");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the service runs as long as the test's runtime")]
async fn a_notification_wakes_the_reader_without_polling_and_polling_without_notifications() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let patient = Deadlines { poll: TIMEOUT, ..server.config().deadlines };
    let subscribed = database(tidegate::db::DatabaseConfig { deadlines: patient, ..server.config() });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let service = std::sync::Arc::clone(&subscribed);
    let running = tokio::spawn(async move { service.run(Shutdown(stopped)).await });
    // The subscription itself wakes the reader once.
    subscribed.wait_for_change().await;
    let start = elapsed();
    sql(&mut connection, &format!("{RULE} ('api', 'one', '[]', 1, 1000)")).await;
    subscribed.wait_for_change().await;
    assert!(elapsed() - start < TIMEOUT, "no notification arrived");
    assert_eq!(read(&subscribed, Mark::default()).await.len(), 1);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();

    let polling = server.database();
    polling.wait_for_change().await;
    assert_eq!(read(&polling, Mark::default()).await.len(), 1);
}
