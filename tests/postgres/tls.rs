//! A node reaches PostgreSQL over TLS: it verifies the chain and the name of the server.

use std::path::Path;
use std::time::Duration;

use tidegate::db::migrations;
use tidegate::db::{DatabaseConfig, DatabaseMetrics, Deadlines};
use tidegate::telemetry::registry::MetricsRegistry;

use crate::support::postgres::Postgres;
use crate::support::tls::Certificates;
use crate::support::wait::wait_for;

/// Asks the primary for its migrations, with an authority of TLS or without TLS.
fn ask(servers: &Postgres, authority: Option<&Path>) -> Result<usize, String> {
    let config = DatabaseConfig {
        hosts: vec![format!("127.0.0.1:{}", servers.port)],
        replica: None,
        database: servers.database().to_owned(),
        user: "tidegate".to_owned(),
        password_file: Some(servers.password_file()),
        ca_file: authority.map(Path::to_owned),
        deadlines: Deadlines { connect: Duration::from_secs(10), ..Deadlines::default() },
    };
    let metrics = DatabaseMetrics::new(&MetricsRegistry::new("0", "test").unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(migrations::status(config, metrics));
    found.map(|found| found.len()).map_err(|error| error.to_string())
}

#[test]
fn a_node_verifies_the_chain_and_the_name_of_postgresql() {
    let servers = Postgres::start_with_tls();
    let own = servers.folder().join("tls/ca.crt");
    assert!(ask(&servers, Some(&own)).unwrap() > 0);
    let made = Certificates::new();
    let authority = made.path("ca.pem");
    let untrusted = ask(&servers, Some(&authority)).unwrap_err();
    assert!(untrusted.contains("UnknownIssuer"), "{untrusted}");

    // The server gets certificates of `tidegate cluster ca`: one for its address, then one for another.
    let install = |name: &str| {
        for (from, to) in [(format!("{name}.pem"), "server.crt"), (format!("{name}-key.pem"), "server.key")] {
            // The owner and the mode of the file stay.
            std::fs::write(servers.folder().join("tls").join(to), std::fs::read(made.path(&from)).unwrap()).unwrap();
        }
        servers.psql_as("postgres", "postgres", servers.port, "SELECT pg_reload_conf()").unwrap();
    };
    install("server");
    wait_for("a certificate of this authority", || ask(&servers, Some(&authority)).ok());
    made.issue("elsewhere", &["--host", "127.0.0.2"]);
    install("elsewhere");
    wait_for("a certificate of another name to be rejected", || {
        ask(&servers, Some(&authority)).err().filter(|error| error.contains("not valid for name"))
    });
}
