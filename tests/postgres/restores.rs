//! Servers that do not have what the cluster has applied: one that was restored from a dump, and a second primary.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use plane::{Change, KeyHash, KeyRow, PlaneState, UserRow};
use serde_json::json;
use tidegate::db::{DatabaseConfig, Deadlines, migrations};
use tidegate::ports::plane::{ChangeSource, Changes, DatabaseError, Edit, KeyDirectory};
use tidegate::ports::{Service, Shutdown};

use crate::change_log::read;
use crate::edits::{edit, put};
use crate::failover::{config, edit_until_it_succeeds, follow};
use crate::single::{Server, database, metrics, sql};
use crate::support::postgres::Postgres;
use crate::support::wait::{TIMEOUT, elapsed, wait_for};

fn user(name: &str) -> Edit {
    Edit::PutUser(UserRow { user: name.to_owned(), tier: Some("pro".to_owned()) })
}

/// Runs a client program of PostgreSQL at a server.
fn client(program: &str, server: &Server, arguments: &[&str]) {
    let port = server.port.to_string();
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_server_that_is_restored_from_a_dump_goes_on_and_gets_back_what_came_after_the_dump() {
    let server = Server::start().await;
    server.begin_timeline();
    let database = server.database();
    let mut connection = server.connect().await;
    sql(&mut connection, "INSERT INTO user_tiers (tier) VALUES ('pro')").await;
    let text = ToOwned::to_owned;
    let (expires_at_ms, revoked_at_ms) = (None, None);
    let key = KeyRow {
        hash: KeyHash([1; 32]),
        key_id: text("k1"),
        user: text("removed"),
        tier: None,
        expires_at_ms,
        revoked_at_ms,
    };
    for made in [
        put("one", 1),
        user("kept"),
        user("removed"),
        Edit::CreateKey { key, prefix: text("ak_live_1") },
        Edit::PutSettings(vec![(text("removed"), json!(1)), (text("changed"), json!(1))]),
    ] {
        edit(&database, made).await.unwrap();
    }
    let mut state = PlaneState::default();
    follow(&database, &mut state).await;
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    client("pg_dump", &server, &["-Fc", "-d", "postgres", "-f", dump.to_str().unwrap()]);
    let dumped = state.mark();

    edit(&database, put("late", 7)).await.unwrap();
    edit(&database, user("late")).await.unwrap();
    edit(&database, Edit::RemoveUser { user: text("removed") }).await.unwrap();
    sql(&mut connection, "DELETE FROM cluster_settings WHERE name = 'removed'").await;
    edit(&database, Edit::PutSettings(vec![(text("changed"), json!(2))])).await.unwrap();
    follow(&database, &mut state).await;

    // The servers are on timelines of the same number, as after a failover.
    let fresh = Server::start_empty();
    fresh.begin_timeline();
    client("pg_restore", &fresh, &["-d", "postgres", "--exit-on-error", dump.to_str().unwrap()]);
    let database = fresh.database();
    // A leader that was at the dump goes on.
    assert_eq!(database.changes_after(dumped, 9).await.unwrap(), Changes::Next(Vec::new()));
    assert!(database.look_up(KeyHash([1; 32]), Arc::default()).await.unwrap().found.is_some());
    // One that has later transactions writes them back.
    assert_eq!(database.changes_after(state.mark(), 9).await.unwrap(), Changes::Diverged);
    database.restore_missing(Arc::new(state.clone())).await.unwrap();
    let restored = database.read_all().await.unwrap();
    assert!(restored.mark.revision > state.mark().revision);
    assert_eq!(restored.rules(), state.rules());
    let settings = restored.rows.iter().filter_map(|row| match row {
        Change::PutSetting { name, value } => Some((name.clone(), value.clone())),
        _ => None,
    });
    assert_eq!(settings.collect::<Vec<_>>(), [(text("changed"), json!(2))]);
    let mut connection = fresh.connect().await;
    let users = "SELECT string_agg(user_id || ' ' || tier, ', ' ORDER BY user_id) FROM users";
    let users: String = sqlx::query_scalar(users).fetch_one(&mut connection).await.unwrap();
    assert_eq!(users, "kept pro, late pro");
    assert!(database.look_up(KeyHash([1; 32]), Arc::default()).await.unwrap().found.is_none());
    // The triggers work as before.
    let next = edit(&database, put("next", 1)).await.unwrap();
    let after = read(&database, restored.mark).await;
    assert_eq!((after[0].mark, after[0].changes.len()), (next, 1));
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the service runs as long as the test's runtime")]
async fn edits_go_to_a_second_primary_of_a_higher_timeline_while_the_old_one_lives() {
    let servers = Postgres::start();
    migrations::up(config(&servers), metrics()).await.unwrap();
    let deadlines = Deadlines { check_primary: Duration::from_millis(200), ..config(&servers).deadlines };
    let database = database(DatabaseConfig { deadlines, ..config(&servers) });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let service = Arc::clone(&database);
    let running = tokio::spawn(async move { service.run(Shutdown(stopped)).await });
    let common = edit(&database, put("common", 1)).await.unwrap();

    let second = servers.port + 1;
    let revision = "SELECT revision FROM config_revision";
    crate::servers::wait_for_answer(&servers, second, revision, &common.revision.to_string());
    let at_second = |sql: &str| servers.psql_as("postgres", "postgres", second, sql).unwrap();
    at_second("ALTER SYSTEM SET primary_conninfo = ''");
    at_second("ALTER SYSTEM SET synchronous_standby_names = ''");
    at_second("SELECT pg_reload_conf()");
    wait_for("the end of replication", || {
        (at_second("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    // What the old primary commits from here on is not at the second one: the cluster has it only if its leader reads
    // it before it turns to the second one.
    edit(&database, put("followed", 1)).await.unwrap();
    let mut state = PlaneState::default();
    follow(&database, &mut state).await;
    edit(&database, put("not-followed", 1)).await.unwrap();
    at_second("SELECT pg_promote()");

    let start = elapsed();
    let names = "SELECT string_agg(name, ' ' ORDER BY name) FROM rate_limit_rules";
    while !servers.psql(second, names).contains("probe") {
        assert!(elapsed() - start < TIMEOUT, "edits still go to the old primary");
        edit_until_it_succeeds(&database, put("probe", 1)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(servers.psql(servers.port, "SELECT pg_is_in_recovery()"), "f", "the old primary lives");
    assert_eq!(database.changes_after(state.mark(), 9).await.unwrap(), Changes::Diverged);
    database.restore_missing(Arc::new(state)).await.unwrap();
    assert_eq!(servers.psql(second, names), "common followed probe");
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn two_primaries_of_one_timeline_are_both_refused_and_a_server_with_two_names_is_not() {
    let (first, second) = (Server::start().await, Server::start().await);
    let hosts = |hosts: &[String]| database(DatabaseConfig { hosts: hosts.to_vec(), ..first.config() });
    let host = |name: &str, server: &Server| format!("{name}:{}", server.port);
    let both = hosts(&[host("127.0.0.1", &first), host("127.0.0.1", &second)]);
    let error = edit(&both, put("one", 1)).await.unwrap_err();
    assert!(matches!(&error, DatabaseError::Unavailable(reason) if reason.contains("both are primaries")), "{error}");
    let same = hosts(&[host("127.0.0.1", &first), host("localhost", &first)]);
    edit(&same, put("one", 1)).await.unwrap();
}
