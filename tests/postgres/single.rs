//! One PostgreSQL server without replicas, for tests of the schema. It asks for no password and ends with the test.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;
use tidegate::db::{Database, DatabaseConfig, DatabaseMetrics, Deadlines, migrations};
use tidegate::rulefile::{decode, encode};
use tidegate::telemetry::registry::MetricsRegistry;

use crate::support::servers::free_ports;

/// One server, with the schema in its database.
pub struct Server {
    pub port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts a server with an empty database.
    pub fn start_empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let server = Self { port: free_ports(1), folder };
        server.run(
            "as_owner initdb -D $dir/data -U postgres -A trust -E UTF8 --locale C --no-sync >/dev/null
            as_owner pg_ctl -D $dir/data -w -l $dir/log -o \"-p $port -c fsync=off -c listen_addresses=127.0.0.1 \
                -c unix_socket_directories= -c deadlock_timeout=100ms\" start >/dev/null",
        );
        server
    }

    /// Starts a server that has the schema.
    pub async fn start() -> Self {
        let server = Self::start_empty();
        migrations::up(server.config(), metrics()).await.unwrap();
        server
    }

    /// Promotes the server, as after a failover: it begins a new timeline.
    pub fn begin_timeline(&self) {
        self.run(
            "as_owner touch $dir/data/standby.signal
            as_owner pg_ctl -D $dir/data -w -m fast restart >/dev/null
            as_owner pg_ctl -D $dir/data -w promote >/dev/null",
        );
    }

    fn run(&self, commands: &str) {
        let script = format!("set -e; dir=$1; port=$2; source scripts/servers; cd $dir; {commands}");
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).arg(self.folder.path()).arg(self.port.to_string());
        let done = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub fn config(&self) -> DatabaseConfig {
        config(vec![format!("127.0.0.1:{}", self.port)], "postgres", "postgres")
    }

    pub fn database(&self) -> Arc<Database> {
        database(self.config())
    }

    /// A connection for plain SQL.
    pub async fn connect(&self) -> PgConnection {
        self.connect_as("postgres").await
    }

    pub async fn connect_as(&self, user: &str) -> PgConnection {
        let options = sqlx::postgres::PgConnectOptions::new_without_pgpass();
        let options = options.host("127.0.0.1").port(self.port).username(user).database("postgres");
        options.connect().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("as_owner pg_ctl -D $dir/data -m immediate stop >/dev/null");
    }
}

pub fn config(hosts: Vec<String>, database: &str, user: &str) -> DatabaseConfig {
    let deadlines =
        Deadlines { connect: Duration::from_secs(20), call: Duration::from_secs(20), ..Deadlines::default() };
    let deadlines = Deadlines { look_up: Duration::from_secs(20), bulk: Duration::from_secs(60), ..deadlines };
    let (database, user) = (database.to_owned(), user.to_owned());
    DatabaseConfig { hosts, replica: None, database, user, password_file: None, ca_file: None, deadlines }
}

pub fn metrics() -> DatabaseMetrics {
    DatabaseMetrics::new(&MetricsRegistry::new("0", "test").unwrap()).unwrap()
}

pub fn database(config: DatabaseConfig) -> Arc<Database> {
    Arc::new(Database::new(config, metrics(), decode::limit_from_json, encode::limit_json))
}

/// How much older [`age`] makes entries, in milliseconds: more than the least that is kept of the log.
pub const AGE: u64 = 2 * 24 * 3_600_000;

/// Makes all entries of the change log older, apart from those of the newest revision.
pub async fn age(connection: &mut PgConnection) {
    let older = format!("UPDATE change_log SET revision = revision - {AGE}");
    sql(connection, &format!("{older} WHERE revision < (SELECT revision FROM config_revision)")).await;
}

/// Runs SQL that must succeed.
pub async fn sql(connection: &mut PgConnection, text: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// Runs SQL that must fail, and returns the error.
pub async fn rejected(connection: &mut PgConnection, text: &str) -> String {
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned())).execute(connection).await;
    done.map(|_| panic!("{text}: accepted")).unwrap_err().to_string()
}
