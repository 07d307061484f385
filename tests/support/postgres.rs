//! Real PostgreSQL servers for tests: one primary and two streaming replicas that `scripts/postgres` or
//! `scripts/patroni` starts, with free ports and a temporary folder. They end with the test.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::servers::free_ports;
use super::wait::wait_for;

/// A primary and two replicas.
pub struct Postgres {
    /// The first of three consecutive ports. The server there is the first primary.
    pub port: u16,
    folder: TempDir,
    script: &'static str,
    options: &'static [&'static str],
}

impl Postgres {
    /// Starts three servers that ask for passwords, without TLS.
    pub fn start() -> Self {
        Self::run_by("postgres", &[])
    }

    /// Starts three servers that accept only TLS 1.3. [`Self::folder`] has the authority as `tls/ca.crt`.
    pub fn start_with_tls() -> Self {
        Self::run_by("postgres", &["--tls"])
    }

    /// Starts three servers that archive the WAL in `wal` of [`Self::folder`].
    pub fn start_with_archive() -> Self {
        Self::run_by("postgres", &["--archive"])
    }

    /// Starts three servers that fail over by themselves, with Patroni and etcd. Any of them may be the first primary.
    pub fn start_with_patroni() -> Self {
        Self::run_by("patroni", &[])
    }

    fn run_by(script: &'static str, options: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The servers of a test that root runs belong to the user postgres.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        // Patroni and etcd have ports above those of PostgreSQL.
        let port = free_ports(if script == "patroni" { 33 } else { 3 });
        let servers = Self { port, folder, script, options };
        servers.start_stopped_servers();
        servers
    }

    pub fn ports(&self) -> std::ops::Range<u16> {
        self.port..self.port + 3
    }

    /// Returns the addresses of all three servers, as in the configuration's `postgres.hosts`.
    pub fn hosts(&self) -> Vec<String> {
        self.ports().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// Returns the address of the first replica, as in the configuration's `postgres.replica`.
    pub fn replica(&self) -> String {
        format!("127.0.0.1:{}", self.port + 1)
    }

    /// Returns the name of the database, which the user `tidegate` owns.
    #[expect(clippy::unused_self, reason = "callers read it beside the other parts of the configuration")]
    pub fn database(&self) -> &'static str {
        "ratelimiter"
    }

    /// Returns the folder of the servers: `passwords/`, `pgpass`, and with TLS `tls/`.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("servers")
    }

    /// Returns the file with the password of the user `tidegate`.
    pub fn password_file(&self) -> PathBuf {
        self.folder().join("passwords/tidegate")
    }

    /// Returns the URL of the server at this port, with the password, for the user `tidegate`.
    pub fn url(&self, port: u16) -> String {
        let password = std::fs::read_to_string(self.password_file()).unwrap();
        format!("postgres://tidegate:{}@127.0.0.1:{port}/{}", password.trim(), self.database())
    }

    /// Runs SQL in the database as `tidegate` and returns the rows as lines, with `|` between columns. Each statement
    /// is a transaction, unless the SQL begins one. Panics when the SQL fails.
    pub fn psql(&self, port: u16, sql: &str) -> String {
        self.try_psql(port, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// As [`Self::psql`], but returns what `psql` wrote to standard error when the SQL fails.
    pub fn try_psql(&self, port: u16, sql: &str) -> Result<String, String> {
        self.psql_as("tidegate", self.database(), port, sql)
    }

    /// Runs SQL as another user (`postgres`, `replication` or `rewind`), maybe in another database.
    pub fn psql_as(&self, user: &str, database: &str, port: u16, sql: &str) -> Result<String, String> {
        let target = format!("host=127.0.0.1 port={port} user={user} dbname={database} connect_timeout=5");
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", &target]).env("PGPASSFILE", self.pgpass());
        // With -c, all statements would be one transaction.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut psql = command.spawn().expect("psql must be installed (Debian package postgresql-client)");
        let mut input = psql.stdin.take().unwrap();
        // A program that has ended reads no more; its error says why.
        let _ = input.write_all(sql.as_bytes());
        drop(input);
        result(&psql.wait_with_output().unwrap())
    }

    /// Returns the file with the passwords of all users, as the environment variable `PGPASSFILE` names it.
    pub fn pgpass(&self) -> PathBuf {
        self.folder().join("pgpass")
    }

    /// Runs a script as the user of the servers, in their folder, and returns what it prints. It finds PostgreSQL's
    /// programs and all users' passwords.
    pub fn shell(&self, script: &str) -> String {
        let run = r#"here=$1 dir=$2 && source "$here/scripts/servers" && enter shell && as_owner bash -euc "$3""#;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("bash");
        command.args(["-euc", run, "bash"]).arg(root).arg(self.folder()).arg(script);
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        result(&output).unwrap_or_else(|error| panic!("{script}: {error}{printed}"))
    }

    /// Returns the process id of the server at this port.
    pub fn pid(&self, port: u16) -> String {
        let server = self.folder().join(port.to_string());
        let data = if self.script == "patroni" { server.join("data") } else { server };
        let file = std::fs::read_to_string(data.join("postmaster.pid"));
        file.unwrap().lines().next().unwrap().to_owned()
    }

    /// Sends a signal to the server at this port. `STOP` and `CONT` go to all its processes, so that the whole server
    /// stands still; `KILL` does too, as when a machine crashes.
    pub fn signal(&self, port: u16, name: &str) {
        let server = self.pid(port);
        let mut pids = vec![server.clone()];
        if ["STOP", "CONT", "KILL"].contains(&name) {
            let children = Command::new("ps").args(["-o", "pid=", "--ppid", &server]).output().unwrap();
            pids.extend(String::from_utf8_lossy(&children.stdout).split_whitespace().map(ToOwned::to_owned));
        }
        // A child may have ended meanwhile.
        let _ = Command::new("kill").args(["-s", name]).args(&pids).output().unwrap();
    }

    /// Ends a server as a crash does, with Patroni and etcd beside it.
    pub fn kill(&self, port: u16) {
        self.run("kill", Some(&port.to_string()));
    }

    /// Makes a replica the primary, by default the one that has more of the WAL. Ends the old primary first.
    pub fn promote(&self, port: Option<u16>) {
        let port = port.map(|port| port.to_string());
        self.run("promote", port.as_deref());
    }

    /// Returns the port of the server that is the primary now. Waits until there is one.
    pub fn primary(&self) -> u16 {
        let is_primary = |port: &u16| {
            self.psql_as("postgres", "postgres", *port, "SELECT pg_is_in_recovery()") == Ok("f".to_owned())
        };
        wait_for("a primary", || self.ports().find(is_primary))
    }

    /// Starts the servers that do not run. A server that was the primary comes back as a replica.
    pub fn start_stopped_servers(&self) {
        self.run("up", None);
    }

    fn run(&self, action: &str, argument: Option<&str>) {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(self.script));
        command.arg(action).args(argument).args(["--port", &self.port.to_string()]).args(self.options);
        let done = command.arg("--dir").arg(self.folder()).output().unwrap();
        assert!(done.status.success(), "scripts/{} {action}: {}", self.script, String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.run("down", None);
    }
}

fn result(output: &Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
