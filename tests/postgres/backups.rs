//! The backups of `docs/postgres.md`: a dump and the archived WAL both bring everything back on a fresh server.

use crate::support::postgres::Postgres;
use crate::support::servers::free_ports;
use crate::support::wait::wait_for;

fn dump(servers: &Postgres, port: u16) -> String {
    let dump =
        servers.shell(&format!("port={port}; pg_dump \"host=127.0.0.1 port=$port user=tidegate dbname=ratelimiter\""));
    // Each dump has a random key in these two lines.
    dump.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

fn fill(servers: &Postgres) {
    let sql = "CREATE TABLE rules (id int PRIMARY KEY, body jsonb, at timestamptz DEFAULT now());
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.at = now(); RETURN NEW; END';
        CREATE TRIGGER touch BEFORE UPDATE ON rules FOR EACH ROW EXECUTE FUNCTION touch();
        INSERT INTO rules SELECT i, jsonb_build_object('limit', i, 'name', 'é' || i) FROM generate_series(1, 1000) i;";
    servers.psql(servers.port, sql);
}

#[test]
fn a_dump_of_the_primary_is_restored_on_a_fresh_server() {
    let servers = Postgres::start();
    fill(&servers);
    let backup = servers.folder().with_extension("sql");
    let all: Vec<String> = servers.ports().map(|port| port.to_string()).collect();
    // The document's line, for whichever of the servers is the primary now.
    let line = format!(
        "pg_dump 'host=127.0.0.1,127.0.0.1,127.0.0.1 port={} target_session_attrs=read-write user=postgres dbname=ratelimiter'",
        all.join(",")
    );
    std::fs::write(&backup, servers.shell(&line)).unwrap();

    let fresh = Postgres::start();
    let mut restore = std::process::Command::new("psql");
    restore.args(["-Xq", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f"]).arg(&backup);
    restore.arg(format!("host=127.0.0.1 port={} user=postgres dbname=ratelimiter", fresh.port));
    let restored = restore.env("PGPASSFILE", fresh.pgpass()).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let before = dump(&servers, servers.port);
    assert!(before.contains("CREATE TRIGGER touch") && before.contains("é1000"));
    assert_eq!(before, dump(&fresh, fresh.port));
    // The user tidegate owns what was restored.
    fresh.psql(fresh.port, "ALTER TABLE rules ADD COLUMN note text");
}

#[test]
fn the_archived_wal_brings_back_what_was_committed_after_the_base_backup() {
    let servers = Postgres::start_with_archive();
    fill(&servers);
    let port = servers.port;
    servers.shell(&format!("pg_basebackup -D base -d 'host=127.0.0.1 port={port} user=replication' --checkpoint=fast"));
    servers.psql(port, "INSERT INTO rules VALUES (2000, '{}')");
    let last = "SELECT pg_walfile_name(pg_switch_wal())";
    let last = servers.psql_as("postgres", "postgres", port, last).unwrap();
    let archived = servers.folder().join("wal").join(&last);
    wait_for("the WAL to be archived", || archived.exists().then_some(()));
    let before = dump(&servers, port);

    let restored = free_ports(1);
    let folder = servers.folder();
    let folder = folder.display();
    servers.shell(&format!(
        "cat >>base/postgresql.conf <<END
port = {restored}
synchronous_standby_names = ''
archive_mode = off
restore_command = 'cp {folder}/wal/%f %p'
END
touch base/recovery.signal
pg_ctl start -D base -l base.log -s -w >/dev/null"
    ));
    wait_for("the end of the recovery", || {
        let state = servers.psql_as("postgres", "postgres", restored, "SELECT pg_is_in_recovery()");
        (state.as_deref() == Ok("f")).then_some(())
    });
    let after = dump(&servers, restored);
    servers.shell("pg_ctl stop -D base -m fast -s");
    assert!(after.contains("2000\t{}"));
    assert_eq!(before, after);
}
