//! A primary that fails: writes go to the next one, unknown outcomes are called so, and lost commits are written back.

use std::sync::Arc;
use std::time::Duration;

use limiter::rules::Quota;
use plane::{Change, Command, KeyHash, KeyRow, Mark, PlaneState, UserRow};
use tidegate::db::{Database, DatabaseConfig, Deadlines, migrations};
use tidegate::ports::plane::{ChangeSource, Changes, DatabaseError, Edit, KeyDirectory};

use crate::change_log::read;
use crate::edits::{edit, put};
use crate::single::{self, metrics};
use crate::support::postgres::Postgres;
use crate::support::wait::{TIMEOUT, elapsed, wait_for};

pub fn config(servers: &Postgres) -> DatabaseConfig {
    let config = single::config(servers.hosts(), servers.database(), "tidegate");
    DatabaseConfig { replica: Some(servers.replica()), password_file: Some(servers.password_file()), ..config }
}

/// Applies all that the database has to a cluster's state.
pub async fn follow(database: &Database, state: &mut PlaneState) {
    let transactions = read(database, state.mark()).await;
    state.apply(Command::Apply { after: state.mark(), transactions, refused: Vec::new() });
}

pub async fn edit_until_it_succeeds(database: &Database, what: Edit) -> Mark {
    let start = elapsed();
    loop {
        match edit(database, what.clone()).await {
            Ok(mark) => return mark,
            Err(error) => assert!(elapsed() - start < TIMEOUT, "no edit succeeded: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_server_that_lacks_commits_gets_them_back_and_keeps_its_own() {
    let servers = Postgres::start();
    migrations::up(config(&servers), metrics()).await.unwrap();
    let database = single::database(config(&servers));
    let text = ToOwned::to_owned;
    let key = |byte, id| KeyRow {
        hash: KeyHash([byte; 32]),
        key_id: text(id),
        user: text("u"),
        tier: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    edit(&database, put("common", 1)).await.unwrap();
    edit(&database, put("edited-by-both", 1)).await.unwrap();
    edit(&database, put("removed", 1)).await.unwrap();
    edit(&database, Edit::PutUser(UserRow { user: text("u"), tier: None })).await.unwrap();
    edit(&database, Edit::CreateKey { key: key(1, "k1"), prefix: text("ak_live_1") }).await.unwrap();
    edit(&database, Edit::CreateKey { key: key(3, "k3"), prefix: text("ak_live_3") }).await.unwrap();
    edit(&database, Edit::CreateKey { key: key(4, "k4"), prefix: text("ak_live_4") }).await.unwrap();
    let mut state = PlaneState::default();
    follow(&database, &mut state).await;

    // The second server misses what follows, and becomes the primary.
    let behind = servers.port + 1;
    crate::servers::wait_for_answer(
        &servers,
        behind,
        "SELECT revision FROM config_revision",
        &state.mark().revision.to_string(),
    );
    let at_behind = |sql: &str| servers.psql_as("postgres", "postgres", behind, sql).unwrap();
    at_behind("ALTER SYSTEM SET primary_conninfo = ''");
    at_behind("SELECT pg_reload_conf()");
    wait_for("the end of replication", || {
        (at_behind("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    edit(&database, put("lost", 7)).await.unwrap();
    edit(&database, put("edited-by-both", 2)).await.unwrap();
    edit(&database, Edit::RemoveLimit { domain: text("api"), name: text("removed") }).await.unwrap();
    edit(&database, Edit::RevokeKey { key_id: text("k1"), at_ms: 5 }).await.unwrap();
    edit(&database, Edit::CreateKey { key: key(2, "k2"), prefix: text("ak_live_2") }).await.unwrap();
    // Another key gets the name of a removed one, and a key is removed that the second server changes.
    let at_first = |sql: &str| servers.psql_as("postgres", servers.database(), servers.port, sql).unwrap();
    at_first(&format!("UPDATE api_keys SET hash = '{}' WHERE key_id = 'k3'", KeyHash([5; 32])));
    at_first("DELETE FROM api_keys WHERE key_id = 'k4'");
    edit(&database, Edit::CreateKey { key: key(6, "k6"), prefix: text("ak_live_6") }).await.unwrap();
    follow(&database, &mut state).await;
    servers.kill(servers.port);
    servers.kill(servers.port + 2);
    at_behind("ALTER SYSTEM SET synchronous_standby_names = ''");
    at_behind("SELECT pg_reload_conf()");
    at_behind("SELECT pg_promote()");

    // Writes resume at the new primary without a restart.
    edit_until_it_succeeds(&database, put("own", 3)).await;
    edit(&database, put("edited-by-both", 3)).await.unwrap();
    edit(&database, Edit::CreateKey { key: key(7, "k6"), prefix: text("ak_live_7") }).await.unwrap();
    let at_new = |sql: &str| servers.psql_as("postgres", servers.database(), behind, sql).unwrap();
    at_new("UPDATE api_keys SET expires_at = now() + interval '1 day' WHERE key_id = 'k4'");
    assert_eq!(database.changes_after(state.mark(), 9).await.unwrap(), Changes::Diverged);
    // Until then its revisions do not count, so that the revocation that the cluster remembers takes precedence.
    let unaware = database.look_up(KeyHash([1; 32]), Arc::new(state.clone())).await.unwrap();
    assert_eq!(unaware.found.as_ref().unwrap().0.revoked_at_ms, None);
    let verdict = plane::resolve(&KeyHash([1; 32]), Some(&unaware), state.recent(), 10, false);
    assert_eq!(verdict, plane::KeyVerdict::Revoked);
    database.restore_missing(Arc::new(state.clone())).await.unwrap();

    let restored = database.read_all().await.unwrap();
    assert!(restored.mark.revision > state.mark().revision);
    let limits =
        restored.rules().domains[0].limits.iter().map(|limit| (limit.name.clone(), limit.limit)).collect::<Vec<_>>();
    for (name, hits) in [("common", 1), ("edited-by-both", 3), ("lost", 7), ("own", 3)] {
        assert!(limits.contains(&(text(name), Quota::Hits(hits))), "{name} {limits:?}");
    }
    assert_eq!(limits.len(), 4, "{limits:?}");
    let (revoked, _) = database.look_up(KeyHash([1; 32]), Arc::default()).await.unwrap().found.unwrap();
    assert_eq!(revoked.revoked_at_ms, Some(5));
    assert!(database.look_up(KeyHash([2; 32]), Arc::default()).await.unwrap().found.is_some());
    let keys = at_new(
        "SELECT string_agg(key_id || left(hash, 2) || '-' || (revoked_at IS NOT NULL), ' ' ORDER BY hash) \
         FROM api_keys WHERE key_id IN ('k3', 'k4', 'k6')",
    );
    assert_eq!(keys, "k404-true k305-false k607-false", "what the server made by itself stays, but for a removed key");
    // The cluster goes on from there.
    assert_eq!(read(&database, restored.mark).await, []);
    let next = edit(&database, put("next", 1)).await.unwrap();
    assert!(matches!(read(&database, restored.mark).await[0].changes[0], Change::PutLimit { .. }));
    assert!(next.revision > restored.mark.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_replica_acknowledges_has_an_unknown_outcome() {
    let servers = Postgres::start();
    migrations::up(config(&servers), metrics()).await.unwrap();
    let deadlines = Deadlines { call: Duration::from_secs(3), ..config(&servers).deadlines };
    let database = single::database(DatabaseConfig { deadlines, ..config(&servers) });
    let first = edit(&database, put("one", 1)).await.unwrap();
    servers.signal(servers.port + 1, "STOP");
    servers.signal(servers.port + 2, "STOP");
    assert_eq!(edit(&database, put("two", 2)).await, Err(DatabaseError::UnknownOutcome));
    // It holds the revision, so the next edit is known not to be made.
    assert!(matches!(edit(&database, put("three", 3)).await, Err(DatabaseError::Busy(_))));
    assert_eq!(read(&database, first).await, [], "nobody sees a commit that may be lost");
    servers.signal(servers.port + 1, "CONT");
    servers.signal(servers.port + 2, "CONT");
    let start = elapsed();
    while read(&database, first).await.is_empty() {
        assert!(elapsed() - start < TIMEOUT, "the commit was not made after all");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    edit_until_it_succeeds(&database, put("four", 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn look_ups_go_to_the_replica_and_to_the_primary_when_it_is_away_or_too_old() {
    let servers = Postgres::start();
    migrations::up(config(&servers), metrics()).await.unwrap();
    let database = single::database(config(&servers));
    let mut state = PlaneState::default();
    let mark = edit(&database, Edit::PutUser(UserRow { user: "u".to_owned(), tier: None })).await.unwrap();
    follow(&database, &mut state).await;
    let replica = servers.port + 1;
    crate::servers::wait_for_answer(
        &servers,
        replica,
        "SELECT revision FROM config_revision",
        &mark.revision.to_string(),
    );
    // Without replay, the replica is at an older revision than the primary, and its answer says so.
    servers.psql_as("postgres", "postgres", replica, "SELECT pg_wal_replay_pause()").unwrap();
    let newer = edit(&database, put("one", 1)).await.unwrap();
    follow(&database, &mut state).await;
    let revision_for =
        async |state: &PlaneState| database.look_up(KeyHash([1; 32]), Arc::new(state.clone())).await.unwrap().revision;
    assert_eq!(revision_for(&state).await, mark.revision, "the cluster remembers what the replica lacks");
    // The cluster remembers a new key, but not its user, whom the replica does not tell with a key that it lacks.
    let mut new_key = state.clone();
    new_key.forget_recent();
    let (expires_at_ms, revoked_at_ms) = (None, None);
    let user = "u".to_owned();
    let key =
        KeyRow { hash: KeyHash([2; 32]), key_id: "k2".to_owned(), user, tier: None, expires_at_ms, revoked_at_ms };
    edit(&database, Edit::CreateKey { key, prefix: String::new() }).await.unwrap();
    follow(&database, &mut new_key).await;
    let found = database.look_up(KeyHash([2; 32]), Arc::new(new_key.clone())).await.unwrap();
    let verdict = plane::resolve(&KeyHash([2; 32]), Some(&found), new_key.recent(), 0, false);
    assert!(matches!(verdict, plane::KeyVerdict::Valid(_)), "{verdict:?}");
    let mut forgetful = state.clone();
    forgetful.forget_recent();
    assert_eq!(revision_for(&forgetful).await, newer.revision, "the primary is asked");
    servers.kill(replica);
    assert_eq!(revision_for(&state).await, newer.revision);
}
