//! Migrations: by several processes at once, down and up again, and what an existing database brings.

use std::sync::Arc;

use std::process::Command;

use plane::{KeyHash, Mark};
use tidegate::db::migrations::{self, Undo};
use tidegate::ports::plane::{ChangeSource, DatabaseError, KeyDirectory};

use crate::change_log::read;
use crate::edits::{edit, put};
use crate::single::{Server, config, database, metrics, rejected, sql};

#[tokio::test]
async fn two_processes_migrate_at_once_and_down_takes_everything_back() {
    let server = Server::start_empty();
    let missing = server.database().changes_after(Mark::default(), 1).await.unwrap_err();
    assert!(
        matches!(&missing, DatabaseError::Unavailable(reason) if reason.contains("tidegate migrate up")),
        "{missing}"
    );
    let up = || migrations::up(server.config(), metrics());
    let (first, second, third) = tokio::join!(up(), up(), up());
    let all = first.unwrap();
    assert!(all.iter().all(|migration| migration.applied) && second.unwrap() == all && third.unwrap() == all);

    edit(&server.database(), put("one", 1)).await.unwrap();
    let last = migrations::down(server.config(), metrics(), Undo::Last).await.unwrap();
    assert_eq!(last.iter().filter(|migration| !migration.applied).count(), 1);
    assert!(!last.last().unwrap().applied);
    migrations::down(server.config(), metrics(), Undo::All).await.unwrap();
    let mut connection = server.connect().await;
    let left = "SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> '_sqlx_migrations')
        + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(up().await.unwrap(), all);
    assert_eq!(migrations::status(server.config(), metrics()).await.unwrap(), all);
    edit(&server.database(), put("one", 1)).await.unwrap();
}

#[tokio::test]
async fn a_role_with_few_rights_can_do_all_that_a_node_does_and_forge_nothing() {
    let server = Server::start_empty();
    let mut owner = server.connect().await;
    sql(&mut owner, "CREATE ROLE tidegate LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC").await;
    migrations::up(server.config(), metrics()).await.unwrap();
    let database = database(config(server.config().hosts, "postgres", "tidegate"));
    let mark = edit(&database, put("one", 1)).await.unwrap();
    assert_eq!(read(&database, Mark::default()).await[0].mark, mark);
    database.read_all().await.unwrap();
    database.maintain().await.unwrap();
    database.report_refused(&[]).await.unwrap();
    database.restore_missing(plane::PlaneState::default().into()).await.unwrap();
    database.look_up(KeyHash([1; 32]), Arc::default()).await.unwrap();
    let mut node = server.connect_as("tidegate").await;
    for forged in [
        "UPDATE config_revision SET revision = 1",
        "DELETE FROM change_log",
        "DELETE FROM audit",
        "INSERT INTO audit (actor, database_user, action, row_name) VALUES ('a', 'b', 'c', 'd')",
        "ALTER TABLE users DISABLE TRIGGER ALL",
        "UPDATE admin_tokens SET role = 'owner'",
        "SELECT tidegate_log_change('remove', 'users', 'u', '{\"user_id\": \"u\"}')",
        "SELECT tidegate_take_revision(281474976710653)",
        "SELECT tidegate_grant('tidegate')",
    ] {
        let error = rejected(&mut node, forged).await;
        assert!(error.contains("permission denied") || error.contains("must be owner"), "{forged}: {error}");
    }
    // What a node may call cannot be misused either.
    let error = rejected(&mut node, "SELECT tidegate_reconcile(281474976710653)").await;
    assert!(error.contains("more than a day ahead of the clock"), "{error}");
    let counts = "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM change_log)";
    let before: (i64, i64) = sqlx::query_as(counts).fetch_one(&mut node).await.unwrap();
    assert!(before.0 > 0 && before.1 > 2, "{before:?}");
    sql(&mut node, "SELECT tidegate_prune_audit('0'), tidegate_prune_change_log('-100 years')").await;
    assert_eq!(sqlx::query_as::<_, (i64, i64)>(counts).fetch_one(&mut node).await.unwrap(), before);
    edit(&database, put("two", 2)).await.unwrap();
}

/// The statement of docs/database.md.
fn documented_import() -> String {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/database.md")).unwrap();
    let (_, from) = docs.split_once("<!-- import -->\n\n```sql\n").unwrap();
    from.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn an_existing_table_of_keys_is_imported_as_documented() {
    let server = Server::start_empty();
    let mut connection = server.connect().await;
    sql(
        &mut connection,
        "CREATE TABLE api_keys (key_hash text PRIMARY KEY, user_id text, tier text, created_at timestamptz)",
    )
    .await;
    let hash = "AB".repeat(32);
    sql(&mut connection, &format!("INSERT INTO api_keys VALUES ('{hash}', 'u', 'pro', now())")).await;
    sql(&mut connection, "ALTER TABLE api_keys RENAME TO old_api_keys").await;
    sql(&mut connection, "ALTER TABLE old_api_keys RENAME CONSTRAINT api_keys_pkey TO old_api_keys_pkey").await;
    migrations::up(server.config(), metrics()).await.unwrap();
    sql(&mut connection, &documented_import()).await;
    let database = server.database();
    let found = database.look_up(KeyHash([0xab; 32]), Arc::default()).await.unwrap();
    let (key, user) = found.found.unwrap();
    assert_eq!((key.user.as_str(), user.tier.as_deref()), ("u", Some("pro")));
    let all = read(&database, Mark::default()).await;
    assert_eq!(all.len(), 1, "an import is one revision");
}

#[tokio::test]
async fn the_command_migrates_and_prints_tables_and_json() {
    let server = Server::start_empty();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.yaml");
    let text = format!(
        "region: eu\nstore: {{ url: 'memory:' }}\nlisten: {{ cluster: 127.0.0.1:0 }}\n\
         cluster: {{ name: test, data_dir: none, advertise: 127.0.0.1:8082 }}\n\
         postgres: {{ hosts: [127.0.0.1:{}], database: postgres, user: postgres }}\n",
        server.port
    );
    std::fs::write(&file, text).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("migrate").args(arguments).arg("--config").arg(&file).output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{error}");
        out.into_owned()
    };
    assert!(run(&["status"]).contains("pending"));
    let table = run(&["up"]);
    assert!(table.contains("applied") && !table.contains("pending"), "{table}");
    let status: serde_json::Value = serde_json::from_str(&run(&["status", "--output", "json"])).unwrap();
    assert!(status["migrations"].as_array().unwrap().iter().all(|migration| migration["applied"] == true), "{status}");
    assert!(run(&["down"]).contains("pending"));
    let mut unconfirmed = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let unconfirmed = unconfirmed.args(["migrate", "down", "--all", "--config"]).arg(&file).output().unwrap();
    assert_eq!(unconfirmed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unconfirmed.stderr).contains("--yes"));
    assert!(run(&["status"]).contains("applied"));
    assert!(!run(&["down", "--all", "--yes"]).contains("applied"));
}
