//! The commands of "Fail over by hand" in `docs/postgres.md` do what it says.

use crate::servers::{assert_has_all, wait_for_answer, write_until_killed};
use crate::support::postgres::Postgres;
use crate::support::wait::wait_for;

/// Returns the shell commands of the runbook, block by block.
fn commands() -> Vec<String> {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/postgres.md")).unwrap();
    let section = document.split("\n## ").find(|section| section.starts_with("Fail over by hand")).unwrap();
    let blocks = section.split("```bash\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn a_person_who_follows_the_runbook_loses_no_acknowledged_commit() {
    let servers = Postgres::start();
    servers.psql(servers.port, "CREATE TABLE t (id int PRIMARY KEY)");
    let commands = commands();
    let [position, promote, rewind] = commands.as_slice() else { panic!("{commands:?}") };
    let on = |port: u16, script: &str| {
        let environment = format!(
            "export PGHOST=127.0.0.1 PGPORT={port} PGUSER=postgres PGDATABASE=postgres PGDATA=$PWD/{port}; exec 2>&1"
        );
        servers.shell(&format!("{environment}\n{script}"))
    };

    let old = servers.port;
    let process = format!("/proc/{}", servers.pid(old));
    let acknowledged = write_until_killed(&servers, 1, || servers.signal(old, "KILL"));
    let has = |port: u16| {
        let line = on(port, position);
        let (timeline, bytes) = line.split_once(' ').unwrap();
        (timeline.to_owned(), bytes.parse::<u64>().unwrap(), port)
    };
    let (_, _, new) = has(old + 1).max(has(old + 2));
    on(new, promote);
    assert_has_all(&servers, new, &acknowledged);
    // The other replica follows, so that commits go on.
    servers.psql(new, "INSERT INTO t VALUES (-1)");

    // A killed process is there until its parent has noticed, and PostgreSQL takes it for a running server.
    wait_for("the end of the old primary", || (!std::path::Path::new(&process).exists()).then_some(()));
    // These servers have their configuration in the data folder.
    on(old, "cp $PGDATA/postgresql.conf old.conf");
    on(old, &format!("unset PGPORT; primary='127.0.0.1 port={new}'\n{rewind}"));
    on(old, "cp old.conf $PGDATA/postgresql.conf; pg_ctl start -w -s -l $PGDATA.log");
    wait_for_answer(&servers, old, "SELECT count(*) FROM t WHERE id = -1", "1");
    let followed = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
    assert_eq!(servers.psql_as("postgres", "postgres", new, followed).unwrap(), "2");
}
