//! The servers of `scripts/patroni` fail over without a person and lose no acknowledged commit.

use crate::servers::{assert_has_all, wait_for_answer, write_until_killed};
use crate::support::postgres::Postgres;
use crate::support::wait::{elapsed, wait_for};

/// Crashes the primary's machine in the middle of writes, as often as `rounds` says, and prints how long until another
/// server accepts writes.
fn crash_primaries(rounds: u32) {
    let servers = Postgres::start_with_patroni();
    servers.psql(servers.primary(), "CREATE TABLE t (id int PRIMARY KEY)");
    for round in 1..=rounds {
        let old = servers.primary();
        let acknowledged = write_until_killed(&servers, round, || servers.kill(old));
        let crashed = elapsed();
        let new = servers.primary();
        servers.psql(new, &format!("INSERT INTO t VALUES (-{round})"));
        println!("another server accepted writes {:.1} s after the crash", (elapsed() - crashed).as_secs_f64());
        assert_ne!(new, old);
        assert_has_all(&servers, new, &acknowledged);

        servers.start_stopped_servers();
        wait_for_answer(&servers, old, &format!("SELECT count(*) FROM t WHERE id = -{round}"), "1");
        assert_eq!(servers.psql_as("postgres", "postgres", old, "SELECT pg_is_in_recovery()").unwrap(), "t");
    }
}

#[test]
fn a_replica_takes_over_without_losing_a_commit_and_the_old_primary_follows_it() {
    crash_primaries(1);
}

#[test]
#[ignore = "a drill of some minutes: it prints the times in docs/postgres.md"]
fn replicas_take_over_again_and_again() {
    crash_primaries(5);
}

#[test]
fn every_server_has_the_settings_of_the_document() {
    let servers = Postgres::start_with_patroni();
    for port in servers.ports() {
        // A replica has the database a little later than the primary.
        wait_for("the database", || servers.try_psql(port, "SELECT 1").ok());
        for (name, value) in
            [("wal_level", "replica"), ("max_wal_senders", "10"), ("wal_keep_size", "1GB"), ("hot_standby", "on")]
        {
            assert_eq!(servers.psql(port, &format!("SHOW {name}")), value, "{name} of the server at {port}");
        }
    }
    // Commits wait for a replica that Patroni chose, or for any while it chooses.
    wait_for("Patroni to choose a replica", || {
        let names = servers.psql(servers.primary(), "SHOW synchronous_standby_names");
        assert!(["pg_1", "pg_2", "pg_3", "*"].contains(&names.as_str()), "{names}");
        (names != "*").then_some(())
    });
}
