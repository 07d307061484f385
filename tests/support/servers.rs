//! Real Redis for tests: one server, three Sentinels with a primary and a replica, or a cluster of three and three. Each
//! on ports and in a folder of its own, ended with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

pub use super::wait::wait_for;
use super::wait::{PATIENCE, elapsed};
use limiter::counter::Batch;
use limiter::{BatchId, HolderId, LaneId};
use tempfile::TempDir;
use tidegate::node::{RedisConfig, RedisRegion};
use tidegate::ports::{CounterStore, Region, StoreHealth};
use tidegate::store::redis::location::StoreLocation;
use tidegate::telemetry::metrics::Metrics;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// The first of `count` ports that are free, and as far as possible nobody else's.
pub fn free_ports(count: u16) -> u16 {
    let own = u16::try_from(std::process::id() % 70).unwrap();
    loop {
        let first = 11_000 + own * 128 + NEXT_PORT.fetch_add(count, Ordering::Relaxed) % 120;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        // A cluster's servers talk to each other 10,000 above.
        if (first..first + count).all(|port| free(port) && free(port + 10_000)) {
            return first;
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `redis-cli` on a port of this machine.
pub fn ask(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments).output();
    let output = output.expect("redis-cli, of Debian's redis-tools");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// One process of Redis.
pub struct Server {
    pub port: u16,
    child: Child,
    pub folder: PathBuf,
}

impl Server {
    /// Starts `redis-server` with these arguments, and waits until it answers.
    pub fn start(port: u16, folder: PathBuf, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("redis-server");
        command.args(arguments).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        let child = command.current_dir(&folder).stdout(Stdio::null()).spawn().expect("redis-server");
        let server = Self { port, child, folder };
        wait_for("a Redis that answers", || {
            ["PONG", "NOAUTH", "LOADING"].iter().any(|word| ask(port, &["ping"]).contains(word)).then_some(())
        });
        server
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One server without persistence.
pub struct Single {
    pub server: Server,
    folder: TempDir,
}

impl Single {
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let all = [&["--save", "", "--appendonly", "no"], arguments].concat();
        let server = Server::start(free_ports(1), folder.path().join("redis"), &all);
        Self { server, folder }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.server.port)
    }
}

/// A primary, a replica, and three Sentinels that watch them.
pub struct Sentinels {
    pub servers: Vec<Server>,
    pub sentinels: Vec<Server>,
    folder: TempDir,
}

impl Sentinels {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_ports(5);
        // Failovers rewrite it: each has a copy.
        let conf = |name: &str| {
            let own = folder.path().join(name);
            std::fs::create_dir_all(&own).unwrap();
            std::fs::copy(root().join("deploy/redis/server.conf"), own.join("server.conf")).unwrap();
            own
        };
        let replica = format!("127.0.0.1 {port}");
        let primary = Server::start(port, conf("primary"), &["server.conf"]);
        let second = Server::start(port + 1, conf("replica"), &["server.conf", "--replicaof", &replica]);
        let conf = std::fs::read_to_string(root().join("deploy/redis/sentinel.conf")).unwrap();
        let conf = conf.replace("127.0.0.1 6379", &replica);
        let sentinel = |at: u16| {
            let own = folder.path().join(format!("sentinel-{at}"));
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("sentinel.conf"), &conf).unwrap();
            Server::start(port + 2 + at, own, &["sentinel.conf", "--sentinel"])
        };
        let sentinels: Vec<Server> = (0..3).map(sentinel).collect();
        for sentinel in &sentinels {
            wait_for("Sentinels that know each other and the replica", || {
                let known = ask(sentinel.port, &["sentinel", "master", "tidegate"]);
                let field = |name: &str| known.lines().skip_while(|line| *line != name).nth(1).map(ToOwned::to_owned);
                (field("num-other-sentinels")? == "2" && field("num-slaves")? == "1").then_some(())
            });
        }
        Self { servers: vec![primary, second], sentinels, folder }
    }

    pub fn url(&self) -> String {
        let node = |at: usize| format!("127.0.0.1:{}", self.sentinels[at].port);
        format!("redis-sentinel://{}?node={}&node={}&sentinelServiceName=tidegate", node(0), node(1), node(2))
    }
}

/// Three primaries and three replicas, as `scripts/redis-cluster` makes them.
pub struct Cluster {
    pub port: u16,
    folder: TempDir,
    node_timeout: &'static str,
}

impl Cluster {
    /// A cluster that fails over after a second.
    pub fn start() -> Self {
        Self::with_timeout("1000")
    }

    /// A cluster that takes no server for dead that a busy machine keeps waiting.
    pub fn patient() -> Self {
        Self::with_timeout("30000")
    }

    fn with_timeout(node_timeout: &'static str) -> Self {
        let cluster = Self { port: free_ports(6), folder: tempfile::tempdir().unwrap(), node_timeout };
        cluster.up();
        cluster
    }

    pub fn url(&self) -> String {
        let port = self.port;
        format!("redis-cluster://127.0.0.1:{port}?node=127.0.0.1:{}&node=127.0.0.1:{}", port + 1, port + 2)
    }

    pub fn ports(&self) -> std::ops::Range<u16> {
        self.port..self.port + 6
    }

    /// Starts those of its servers that do not run.
    pub fn up(&self) {
        self.run("up");
    }

    fn run(&self, what: &str) {
        let mut command = Command::new(root().join("scripts/redis-cluster"));
        command.args([what, "--port", &self.port.to_string(), "--node-timeout", self.node_timeout, "--dir"]);
        let done = command.arg(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// The process id of one of its servers.
    pub fn pid(&self, port: u16) -> String {
        let pid = std::fs::read_to_string(self.folder.path().join(port.to_string()).join("redis.pid"));
        pid.unwrap().trim().to_owned()
    }

    pub fn signal(&self, port: u16, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid(port)]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run("down");
    }
}

/// A node's place in a region of this Redis.
pub fn region(url: &str, change: impl FnOnce(&mut RedisConfig)) -> RedisRegion {
    let Ok(StoreLocation::Redis(redis)) = url.parse() else { panic!("{url}") };
    let mut config = RedisConfig {
        redis,
        authorities: None,
        region: "test".to_owned(),
        node: "node".to_owned(),
        boot: 1,
        cores: 1,
        key_prefix: "tidegate".to_owned(),
        tags: 32,
        // Far more than a shared machine ever takes.
        deadline: Duration::from_secs(5),
        metrics: Arc::new(Metrics::new("0", "test").unwrap()),
    };
    change(&mut config);
    RedisRegion::new(config).unwrap()
}

/// A door to the counters of a region, and what keeps it open: to be called within a runtime.
#[expect(clippy::disallowed_methods, reason = "both run as long as the runtime of the test")]
pub async fn open(region: RedisRegion) -> Arc<dyn CounterStore> {
    let region = Arc::new(region);
    let store = region.store();
    let kept = Arc::clone(&region);
    tokio::spawn(async move { panic!("unfit: {}", kept.keep().await) });
    let kept = Arc::clone(&store);
    tokio::spawn(async move { kept.keep().await });
    let begun = elapsed();
    while region.state().store != StoreHealth::Ok {
        assert!(elapsed() - begun < PATIENCE, "the region does not come: {:?}", region.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Every lane's connection must be there, too.
    for lane in 0..store.lanes() {
        let batch = || Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: Vec::new() };
        while store.run(LaneId(lane), batch()).await.is_err() {
            assert!(elapsed() - begun < PATIENCE, "lane {lane} does not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    store
}
