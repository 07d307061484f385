//! The servers of `scripts/postgres` keep what the configuration in `deploy/postgres` and `docs/postgres.md` promise.

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};

use crate::support::postgres::Postgres;
use crate::support::wait::wait_for;

/// Waits until the server at this port returns `expected` for this SQL.
pub fn wait_for_answer(servers: &Postgres, port: u16, sql: &str, expected: &str) {
    wait_for(&format!("{expected} as the answer to {sql}"), || {
        (servers.try_psql(port, sql).as_deref() == Ok(expected)).then_some(())
    });
}

/// A `psql` that runs in the background.
fn background(servers: &Postgres, port: u16, sql: &str) -> Child {
    let mut command = Command::new("psql");
    command.args(["-XAtq", "-c", sql, &servers.url(port)]).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn every_server_has_the_settings_of_the_document() {
    let servers = Postgres::start();
    let settings = [
        ("wal_level", "replica"),
        ("max_wal_senders", "10"),
        ("wal_keep_size", "1GB"),
        ("hot_standby", "on"),
        ("synchronous_commit", "on"),
        ("synchronous_standby_names", "ANY 1 (pg_1, pg_2, pg_3)"),
        ("password_encryption", "scram-sha-256"),
    ];
    for port in servers.ports() {
        for (name, value) in settings {
            assert_eq!(servers.psql(port, &format!("SHOW {name}")), value, "{name} of the server at {port}");
        }
        let conninfo = servers.psql_as("postgres", "postgres", port, "SHOW primary_conninfo").unwrap();
        assert!(conninfo.contains("user=replication "), "{conninfo}");
        assert!(!conninfo.contains("password="), "{conninfo}");
    }
    let replicas = "SELECT application_name, usename, sync_state FROM pg_stat_replication ORDER BY 1";
    let replicas = servers.psql_as("postgres", "postgres", servers.port, replicas).unwrap();
    assert_eq!(replicas, "pg_2|replication|quorum\npg_3|replication|quorum");
}

#[test]
fn a_commit_waits_while_both_replicas_are_down_and_goes_on_when_one_returns() {
    let servers = Postgres::start();
    let primary = servers.port;
    servers.psql(primary, "CREATE TABLE t (id int)");
    servers.signal(primary + 1, "STOP");
    servers.psql(primary, "INSERT INTO t VALUES (1)");
    servers.signal(primary + 2, "STOP");

    let mut writer = background(&servers, primary, "INSERT INTO t VALUES (2)");
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'tidegate'";
    wait_for_answer(&servers, primary, waits, "1");
    assert!(writer.try_wait().unwrap().is_none());
    assert_eq!(servers.psql(primary, "SELECT count(*) FROM t"), "1");

    servers.signal(primary + 1, "CONT");
    assert!(writer.wait().unwrap().success());
    assert_eq!(servers.psql(primary, "SELECT count(*) FROM t"), "2");
    servers.signal(primary + 2, "CONT");
    wait_for_answer(&servers, primary + 2, "SELECT count(*) FROM t", "2");
}

/// Writes rows one by one in several sessions until the server is gone and returns the ids whose commits it
/// acknowledged.
pub fn write_until_killed(servers: &Postgres, round: u32, kill: impl FnOnce()) -> Vec<String> {
    let primary = servers.primary();
    let insert = |session: u32| {
        let first = round * 1_000_000 + session * 100_000;
        // One statement per transaction: psql prints an id when its commit is acknowledged.
        let statements: String =
            (first..first + 20_000).map(|id| format!("INSERT INTO t VALUES ({id}) RETURNING id;\n")).collect();
        let script = servers.folder().with_extension(format!("{round}-{session}.sql"));
        std::fs::write(&script, statements).unwrap();
        let mut command = Command::new("psql");
        command.args(["-XAtq", &servers.url(primary), "-f"]).arg(script);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let sessions: Vec<Child> = (0..3).map(insert).collect();
    let written = format!("SELECT count(*) > 300 FROM t WHERE id >= {}", round * 1_000_000);
    wait_for_answer(servers, primary, &written, "t");
    kill();
    let acknowledged = sessions.into_iter().flat_map(|session| {
        let output = session.wait_with_output().unwrap();
        assert!(!output.status.success(), "the server must die before all rows are written");
        String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    });
    acknowledged.collect()
}

/// Asserts that the server at this port has the rows with these ids.
pub fn assert_has_all(servers: &Postgres, port: u16, acknowledged: &[String]) {
    let rows = servers.psql(port, "SELECT id FROM t");
    let rows: HashSet<&str> = rows.lines().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !rows.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() > 300);
}

#[test]
fn a_promoted_replica_has_every_acknowledged_commit_and_the_old_primary_follows_it() {
    let servers = Postgres::start();
    servers.psql(servers.port, "CREATE TABLE t (id int PRIMARY KEY)");
    for round in 1..=3 {
        let old = servers.primary();
        // One replica lags behind, so that the two differ.
        let lags = servers.ports().find(|port| *port != old).unwrap();
        let acknowledged = write_until_killed(&servers, round, || {
            servers.signal(lags, "STOP");
            let rows = servers.psql(old, "SELECT count(*) FROM t").parse::<u64>().unwrap();
            wait_for_answer(&servers, old, &format!("SELECT count(*) > {} FROM t", rows + 50), "t");
            servers.signal(old, "KILL");
            servers.signal(lags, "CONT");
        });
        servers.promote(None);
        let promoted = servers.primary();
        assert_ne!(promoted, old);
        assert_has_all(&servers, promoted, &acknowledged);

        servers.start_stopped_servers();
        servers.psql(promoted, &format!("INSERT INTO t VALUES (-{round})"));
        wait_for_answer(&servers, old, &format!("SELECT count(*) FROM t WHERE id = -{round}"), "1");
    }
}

#[test]
fn a_healthy_primary_hands_over_without_losing_anything() {
    let servers = Postgres::start();
    servers.psql(servers.port, "CREATE TABLE t (id int)");
    for port in [servers.port + 2, servers.port] {
        servers.psql(servers.primary(), "INSERT INTO t VALUES (1)");
        servers.promote(Some(port));
        assert_eq!(servers.primary(), port);
        servers.start_stopped_servers();
    }
    assert_eq!(servers.psql(servers.port, "SELECT count(*) FROM t"), "2");
}

#[test]
fn the_users_of_the_servers_can_do_no_more_than_they_need() {
    let servers = Postgres::start();
    let port = servers.port;
    servers.psql(port, "CREATE TABLE t (id int)");
    for (user, database) in [("replication", "ratelimiter"), ("rewind", "ratelimiter"), ("replication", "postgres")] {
        let refused = servers.psql_as(user, database, port, "SELECT 1").unwrap_err();
        assert!(refused.contains("no pg_hba.conf entry"), "{user}: {refused}");
    }
    // Nor by privileges, where pg_hba.conf would let them in.
    for user in ["replication", "rewind"] {
        let may = format!(
            "SELECT has_table_privilege('{user}', 't', 'SELECT'), has_database_privilege('{user}', 'ratelimiter', 'CONNECT')"
        );
        assert_eq!(servers.psql_as("postgres", "ratelimiter", port, &may).unwrap(), "f|f", "{user}");
    }
    let tidegate =
        "SELECT rolsuper, rolreplication, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'tidegate'";
    assert_eq!(servers.psql(port, tidegate), "f|f|f|f");
    let passwords = "SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolpassword IS NOT NULL";
    assert_eq!(servers.psql_as("postgres", "postgres", port, passwords).unwrap(), "t");
}

#[test]
fn servers_with_tls_refuse_older_versions_and_plain_connections() {
    let servers = Postgres::start_with_tls();
    let ask = |options: &str| {
        let target = format!("host=127.0.0.1 port={} user=tidegate dbname=ratelimiter {options}", servers.port);
        let version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-c", version, &target]).env("PGPASSFILE", servers.pgpass());
        let output = command.output().unwrap();
        (output.status.success(), format!("{output:?}"), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let authority = servers.folder().join("tls/ca.crt");
    let (_, shown, version) = ask(&format!("sslmode=verify-full sslrootcert={}", authority.display()));
    assert_eq!(version, "TLSv1.3", "{shown}");
    let (connected, shown, _) = ask("sslmode=require ssl_max_protocol_version=TLSv1.2");
    assert!(!connected && shown.contains("protocol version"), "{shown}");
    let (connected, shown, _) = ask("sslmode=disable");
    assert!(!connected && shown.contains("no encryption"), "{shown}");
    let replicas = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE version = 'TLSv1.3'";
    assert_eq!(servers.psql_as("postgres", "postgres", servers.port, replicas).unwrap(), "2");
}
