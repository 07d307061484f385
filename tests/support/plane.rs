//! Real nodes that form a cluster on loopback, with a real PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::node::{Node, Response, send_to, tidegate};
use super::postgres::Postgres;
use super::recorder::Recorder;
use super::servers::free_ports;
use super::tls::Certificates;
use super::wait::wait_for;

/// How the nodes of a cluster are set up.
#[derive(Default)]
pub struct Setup {
    /// Further lines of settings.
    pub settings: String,
    /// With it, all listeners have TLS, and nodes show each other certificates that are made here.
    pub certificates: Option<Certificates>,
    /// The keys of the first nodes that are pinned; 0 pins none.
    pub pinned: usize,
    /// Puts a recorder before the cluster port and the admin port of each node.
    pub recorded: bool,
}

/// One node of a cluster, running or not.
pub struct Seat {
    pub name: String,
    pub config: PathBuf,
    pub admin: String,
    pub cluster: String,
    pub node: Option<Node>,
}

/// Nodes that form a cluster, and their PostgreSQL.
pub struct Plane {
    pub postgres: Postgres,
    pub seats: Vec<Seat>,
    pub voters: usize,
    pub token: String,
    pub certificates: Option<Certificates>,
    /// Of each node's key, with certificates.
    pub pins: Vec<String>,
    /// Before the cluster port and the admin port of each node, in turn.
    pub recorders: Vec<Recorder>,
    folder: tempfile::TempDir,
}

impl Plane {
    /// Starts PostgreSQL with the schema, and a cluster of `voters` voters and `learners` learners in three regions.
    /// Waits until all are ready.
    pub fn start(voters: usize, learners: usize) -> Self {
        Self::start_with(voters, learners, "")
    }

    /// As [`Self::start`], with further lines of settings.
    pub fn start_with(voters: usize, learners: usize, settings: &str) -> Self {
        Self::prepare_as(voters, learners, Setup { settings: settings.to_owned(), ..Setup::default() }).formed()
    }

    /// Makes everything but the cluster, and starts no node.
    pub fn prepare_as(voters: usize, learners: usize, setup: Setup) -> Self {
        let postgres = Postgres::start();
        let folder = tempfile::tempdir().unwrap();
        let count = voters + learners;
        let first = free_ports(u16::try_from(2 * count).unwrap());
        let address = |at: usize| format!("127.0.0.1:{}", usize::from(first) + at);
        let mut recorders = Vec::new();
        if setup.recorded {
            recorders.extend((0..count).flat_map(|at| [address(at), address(count + at)]).map(Recorder::start));
        }
        // What others connect to.
        let reached = |at: usize, port: usize| match recorders.get(2 * at + port) {
            Some(recorder) => recorder.address.clone(),
            None => address(port * count + at),
        };
        let issue = |certificates: &Certificates| {
            let made = (0..count).map(|at| certificates.issue(&format!("n{at}"), &["--host", "127.0.0.1"]));
            made.map(|made| made["node"]["pin"].as_str().unwrap().to_owned()).collect()
        };
        let pins: Vec<String> = setup.certificates.as_ref().map(issue).unwrap_or_default();
        let join: Vec<String> = (0..voters).map(|at| reached(at, 0)).collect();
        let seats = (0..count).map(|at| {
            let name = format!("n{at}");
            let region = ["us-east", "eu-west", "ap-northeast"][at % 3];
            let data = folder.path().join(&name);
            let (hosts, replica) = (postgres.hosts().join(", "), postgres.replica());
            let (data, password) = (data.display(), postgres.password_file());
            let (mut peers, mut clients) = (String::new(), String::new());
            if let Some(certificates) = &setup.certificates {
                let file = |suffix: &str| certificates.text(&format!("{name}{suffix}"));
                let own = format!("cert_file: {}, key_file: {}", file(".pem"), file("-key.pem"));
                let pinned = pins[..setup.pinned].join(", ");
                peers = format!(", tls: {{ ca_file: {}, {own}, pins: [{pinned}] }}", certificates.text("ca.pem"));
                clients = format!("tls: {{ {own} }}");
            }
            let (cluster, admin) = (reached(at, 0), reached(at, 1));
            let text = format!(
                "region: {region}\nnode: {name}\nworkers: 1\nstore: {{ url: 'memory:' }}\n\
                 listen: {{ http: '127.0.0.1:0', grpc: '127.0.0.1:0', cluster: '{}', admin: '{}' }}\n\
                 cluster: {{ name: test, data_dir: {data}, advertise: '{cluster}', join: [{}]{peers} }}\n\
                 postgres: {{ hosts: [{hosts}], replica: '{replica}', password_file: {} }}\n{clients}\n{}\n",
                address(at),
                address(count + at),
                join.join(", "),
                password.display(),
                setup.settings,
            );
            let config = folder.path().join(format!("{name}.yaml"));
            std::fs::write(&config, text).unwrap();
            Seat { name, config, admin, cluster, node: None }
        });
        let seats: Vec<Seat> = seats.collect();
        let config = seats[0].config.to_str().unwrap().to_owned();
        run(tidegate(&["migrate", "up", "--config", &config]));
        let made = run(tidegate(&["token", "create", "--role", "owner", "--config", &config, "--output", "json"]));
        let token = serde_json::from_str::<Value>(&made).unwrap()["token"].as_str().unwrap().to_owned();
        let certificates = setup.certificates;
        Self { postgres, seats, voters, token, certificates, pins, recorders, folder }
    }

    /// Starts every node and forms the cluster.
    pub fn formed(mut self) -> Self {
        self.init();
        self
    }

    /// Starts every node and forms the cluster.
    pub fn init(&mut self) {
        for at in 0..self.seats.len() {
            self.launch(at);
        }
        let voters = self.seats[..self.voters].iter().map(|seat| format!("{}={}", seat.name, seat.cluster));
        let voters = voters.collect::<Vec<_>>().join(",");
        // The admin listener is up before the cluster port.
        wait_for("the cluster to form", || self.try_command(0, &["cluster", "init", "--voters", &voters]).ok());
        for at in 0..self.seats.len() {
            wait_for("readiness", || (self.get(at, "/ready").0 == 200).then_some(()));
        }
    }

    /// Sends a request to the HTTP listener of a node. Returns the status and the body.
    pub fn get(&self, at: usize, path: &str) -> (u16, String) {
        let node = self.node(at);
        match &self.certificates {
            Some(certificates) => certificates.client().get(&node.http, path).unwrap(),
            None => {
                let response = node.get(path);
                (response.status, response.body)
            }
        }
    }

    /// The arguments of a command that calls a node at the HTTP or admin listener `host_and_port`.
    pub fn address_of(&self, host_and_port: &str) -> Vec<String> {
        match &self.certificates {
            Some(certificates) => {
                let url = format!("https://{host_and_port}");
                vec!["--addr".to_owned(), url, "--ca-file".to_owned(), certificates.text("ca.pem")]
            }
            None => vec!["--addr".to_owned(), format!("http://{host_and_port}")],
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn node(&self, at: usize) -> &Node {
        self.seats[at].node.as_ref().unwrap()
    }

    /// Starts a node, and waits until it listens.
    pub fn launch(&mut self, at: usize) {
        let config = self.seats[at].config.to_str().unwrap().to_owned();
        let command = tidegate(&["serve", "--log-format", "json", "--config", &config]);
        self.seats[at].node = Some(Node::spawn(command));
    }

    /// Ends a node as a crash does.
    pub fn kill(&mut self, at: usize) {
        let mut node = self.seats[at].node.take().unwrap();
        node.child.kill().unwrap();
        node.child.wait().unwrap();
    }

    /// The position of the leader, if a running node knows one.
    pub fn leader(&self) -> Option<usize> {
        let running = (0..self.seats.len()).filter(|at| self.seats[*at].node.is_some());
        let mut leaders = running.filter_map(|at| {
            let status = self.try_command(at, &["cluster", "status", "--output", "json"]).ok()?;
            let leader = serde_json::from_str::<Value>(&status).unwrap()["leader"].as_str()?.to_owned();
            self.seats.iter().position(|seat| seat.name == leader && seat.node.is_some())
        });
        leaders.next()
    }

    /// Runs a command of an operator at a node. Returns its standard output.
    pub fn command(&self, at: usize, args: &[&str]) -> String {
        self.try_command(at, args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    /// As [`Self::command`], with what it wrote to standard error if it failed.
    pub fn try_command(&self, at: usize, args: &[&str]) -> Result<String, String> {
        let mut command = tidegate(args);
        command.args(self.address_of(&self.seats[at].admin)).env("TIDEGATE_TOKEN", &self.token);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Sends a request to the admin API of a node, with this token.
    pub fn admin_as(&self, at: usize, token: &str, line: &str, body: &str) -> Response {
        let head = format!("{line} HTTP/1.1\r\nauthorization: Bearer {token}\r\ncontent-type: application/json");
        send_to(&self.seats[at].admin, head.as_bytes(), body)
    }

    /// Sends a request to the admin API of a node, as the owner.
    pub fn admin(&self, at: usize, line: &str, body: &str) -> Response {
        self.admin_as(at, &self.token, line, body)
    }

    /// Writes a rule file into the folder of the cluster.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Applies a rule file at a node.
    pub fn apply(&self, at: usize, rules: &str) {
        let file = self.write("rules.yaml", rules);
        self.command(at, &["rules", "apply", &file, "--yes"]);
    }

    /// The revision and the hash of the rules at a node.
    pub fn rules(&self, at: usize) -> (u64, String) {
        let ready: Value = serde_json::from_str(&self.get(at, "/ready").1).unwrap();
        (ready["revision"].as_u64().unwrap(), ready["rules_hash"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until all running nodes have equal rules, at this revision or later. Returns them.
    pub fn agree(&self, least: u64) -> (u64, String) {
        wait_for("the nodes to agree", || {
            let mut all = (0..self.seats.len()).filter(|at| self.seats[*at].node.is_some()).map(|at| self.rules(at));
            let first = all.next()?;
            (first.0 >= least && !first.1.is_empty() && all.all(|other| other == first)).then_some(first)
        })
    }

    /// Runs SQL at the primary.
    pub fn sql(&self, sql: &str) -> String {
        self.postgres.psql(self.postgres.primary(), sql)
    }
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
