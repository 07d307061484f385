//! The servers of `scripts/postgres` keep what the configuration in `deploy/postgres` promises.

use crate::support::postgres::Postgres;

#[test]
fn replicas_have_what_the_primary_acknowledged() {
    let servers = Postgres::start();
    servers.psql(servers.port, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    assert_eq!(servers.primary(), servers.port);
    crate::support::wait::wait_for("both replicas to have the row", || {
        let has = |port: u16| servers.try_psql(port, "SELECT id FROM t") == Ok("1".to_owned());
        (has(servers.port + 1) && has(servers.port + 2)).then_some(())
    });
}
