//! Transactions that are in each other's way, and connections that are all in use.

use std::time::Duration;

use futures_util::future::join_all;
use plane::Mark;
use serde_json::json;
use tidegate::db::{DatabaseConfig, Deadlines};
use tidegate::ports::plane::{ChangeSource, DatabaseError, Edit};

use crate::change_log::{wait_for_count, wait_for_waiting_queries};
use crate::edits::{edit, put};
use crate::single::{Server, database, sql};

fn settings(value: u64) -> Edit {
    Edit::PutSettings(["x", "y"].map(|name| (name.to_owned(), json!(value))).to_vec())
}

#[tokio::test]
async fn an_edit_that_a_deadlock_ends_is_made_again() {
    let server = Server::start().await;
    let (mut other, mut watcher) = (server.connect().await, server.connect().await);
    // PostgreSQL ends the transaction that is the first to look for a deadlock: the edit.
    sql(&mut other, "ALTER DATABASE postgres SET deadlock_timeout = '1s'; SET deadlock_timeout = '1h'").await;
    let database = server.database();
    edit(&database, settings(1)).await.unwrap();
    sql(&mut other, "BEGIN; UPDATE cluster_settings SET value = '2' WHERE name = 'y'").await;
    let others = async {
        wait_for_waiting_queries(&mut watcher, 1).await;
        // The other transaction would wait for ever if the edit did not end.
        sql(&mut other, "UPDATE cluster_settings SET value = '2' WHERE name = 'x'").await;
        sql(&mut other, "COMMIT").await;
    };
    let (edited, ()) = tokio::join!(edit(&database, settings(3)), others);
    edited.unwrap();
    let values = "SELECT string_agg(name || value, ' ' ORDER BY name) FROM cluster_settings";
    let values: String = sqlx::query_scalar(values).fetch_one(&mut other).await.unwrap();
    assert_eq!(values, "x3 y3");
}

#[tokio::test]
async fn a_lock_that_another_transaction_holds_too_long_is_named() {
    let server = Server::start().await;
    let deadlines = Deadlines { call: Duration::from_secs(2), ..server.config().deadlines };
    let database = database(DatabaseConfig { deadlines, ..server.config() });
    edit(&database, settings(1)).await.unwrap();
    let mut other = server.connect().await;
    sql(&mut other, "BEGIN; UPDATE cluster_settings SET value = '2'").await;
    let error = edit(&database, settings(3)).await.unwrap_err();
    assert!(matches!(&error, DatabaseError::Busy(reason) if reason.contains("held a lock")), "{error}");
}

#[tokio::test]
async fn connections_that_are_all_in_use_are_no_failover() {
    let server = Server::start().await;
    let deadlines = Deadlines { connect: Duration::from_secs(1), ..server.config().deadlines };
    let database = database(DatabaseConfig { deadlines, ..server.config() });
    let (mut other, mut watcher) = (server.connect().await, server.connect().await);
    sql(&mut other, "BEGIN; SELECT FROM config_revision FOR UPDATE").await;
    let edits = join_all((0..8).map(|n| {
        let database = &database;
        async move { edit(database, put(&format!("n{n}"), n)).await }
    }));
    let others = async {
        wait_for_waiting_queries(&mut watcher, 8).await;
        let error = database.changes_after(Mark::default(), 1).await.unwrap_err();
        assert!(
            matches!(&error, DatabaseError::Unavailable(reason) if reason.contains("no free connection")),
            "{error}"
        );
        // The connection that asked the servers which of them is primary ends, and the eight are still the only ones.
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate'";
        wait_for_count(&mut watcher, count, 8).await;
        sql(&mut other, "COMMIT").await;
    };
    let (edited, ()) = tokio::join!(edits, others);
    assert!(edited.iter().all(Result::is_ok), "{edited:?}");
    database.changes_after(Mark::default(), 1).await.unwrap();
}
