//! Real Redis servers for tests: one server, three Sentinels with a primary and a replica, or a cluster of three
//! primaries and three replicas. Each has free ports and a temporary folder and ends with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

pub use super::wait::wait_for;
use super::wait::{TIMEOUT, elapsed};
use limiter::counter::Batch;
use limiter::{BatchId, HolderId, LaneId};
use tempfile::TempDir;
use tidegate::ports::{CounterStore, Region, Service, Shutdown, StoreHealth};
use tidegate::store::location::StoreLocation;
use tidegate::store::metrics::StoreMetrics;
use tidegate::store::redis::{RedisConfig, RedisRegion};
use tidegate::telemetry::registry::MetricsRegistry;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Returns the first of `count` consecutive free ports. The range depends on the process id, so that test processes
/// seldom take the same ports.
pub fn free_ports(count: u16) -> u16 {
    let range = u16::try_from(std::process::id() % 70).unwrap();
    loop {
        let first = 11_000 + range * 128 + NEXT_PORT.fetch_add(count, Ordering::Relaxed) % 120;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        // The cluster bus of a server uses its port plus 10,000.
        if (first..first + count).all(|port| free(port) && free(port + 10_000)) {
            return first;
        }
    }
}

/// Returns the root folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `redis-cli` for the server at this local port and returns its output.
pub fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments).output();
    let output = output.expect("redis-cli must be installed (Debian package redis-tools)");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// One Redis process.
pub struct Server {
    pub port: u16,
    child: Child,
    pub folder: PathBuf,
}

impl Server {
    /// Starts `redis-server` with these arguments and waits until it responds.
    pub fn start(port: u16, folder: PathBuf, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("redis-server");
        command.args(arguments).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        let child = command.current_dir(&folder).stdout(Stdio::null()).spawn().expect("redis-server");
        let server = Self { port, child, folder };
        wait_for("Redis to respond", || {
            ["PONG", "NOAUTH", "LOADING"].iter().any(|word| redis_cli(port, &["ping"]).contains(word)).then_some(())
        });
        server
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as a crash does.
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

/// One Redis server without persistence.
pub struct SingleServer {
    pub server: Server,
    folder: TempDir,
}

impl SingleServer {
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
        // Each server has a copy, because failovers rewrite the file.
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
        let sentinel = |index: u16| {
            let own = folder.path().join(format!("sentinel-{index}"));
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("sentinel.conf"), &conf).unwrap();
            Server::start(port + 2 + index, own, &["sentinel.conf", "--sentinel"])
        };
        let sentinels: Vec<Server> = (0..3).map(sentinel).collect();
        for sentinel in &sentinels {
            wait_for("the Sentinels to know each other and the replica", || {
                let known = redis_cli(sentinel.port, &["sentinel", "master", "tidegate"]);
                let field = |name: &str| known.lines().skip_while(|line| *line != name).nth(1).map(ToOwned::to_owned);
                (field("num-other-sentinels")? == "2" && field("num-slaves")? == "1").then_some(())
            });
        }
        Self { servers: vec![primary, second], sentinels, folder }
    }

    pub fn url(&self) -> String {
        let node = |index: usize| format!("127.0.0.1:{}", self.sentinels[index].port);
        format!("redis-sentinel://{}?node={}&node={}&sentinelServiceName=tidegate", node(0), node(1), node(2))
    }
}

/// A cluster of three primaries and three replicas that `scripts/redis-cluster` starts.
pub struct Cluster {
    /// The first of six consecutive ports.
    pub port: u16,
    folder: TempDir,
    node_timeout: &'static str,
}

impl Cluster {
    /// Starts a cluster that fails over after one second.
    pub fn start() -> Self {
        Self::with_timeout("1000")
    }

    /// Starts a cluster that fails over after 30 seconds, so that a busy machine does not cause a failover.
    pub fn start_with_slow_failover() -> Self {
        Self::with_timeout("30000")
    }

    fn with_timeout(node_timeout: &'static str) -> Self {
        let cluster = Self { port: free_ports(6), folder: tempfile::tempdir().unwrap(), node_timeout };
        cluster.start_stopped_servers();
        cluster
    }

    pub fn url(&self) -> String {
        let port = self.port;
        format!("redis-cluster://127.0.0.1:{port}?node=127.0.0.1:{}&node=127.0.0.1:{}", port + 1, port + 2)
    }

    pub fn ports(&self) -> std::ops::Range<u16> {
        self.port..self.port + 6
    }

    /// Starts the servers that do not run.
    pub fn start_stopped_servers(&self) {
        self.run("up");
    }

    fn run(&self, action: &str) {
        let mut command = Command::new(root().join("scripts/redis-cluster"));
        command.args([action, "--port", &self.port.to_string(), "--node-timeout", self.node_timeout, "--dir"]);
        let done = command.arg(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Returns the process id of the server at this port.
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

/// Starts a fourth primary for the cluster at this port, and moves its part of the slots to it. Returns when they have
/// moved.
pub fn move_slots_to_a_fourth_primary(port: u16) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let fourth = free_ports(1);
    let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "30000", "--save", ""];
    let server = Server::start(fourth, folder.path().join("fourth"), &arguments);
    let (new, known) = (format!("127.0.0.1:{fourth}"), format!("127.0.0.1:{port}"));
    let cli = |arguments: &[&str]| {
        let done = Command::new("redis-cli").arg("--cluster").args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    };
    cli(&["add-node", &new, &known]);
    wait_for("all servers to know the fourth primary", || {
        let knows = |port: u16| redis_cli(port, &["cluster", "nodes"]).matches("connected").count() == 7;
        (port..port + 6).all(knows).then_some(())
    });
    // The fourth primary reports that the cluster is down until it knows who serves each slot.
    wait_for("the fourth primary to be ready", || {
        redis_cli(fourth, &["cluster", "info"]).contains("cluster_state:ok").then_some(())
    });
    cli(&["rebalance", &known, "--cluster-use-empty-masters", "--cluster-yes"]);
    (server, folder)
}

/// Returns the region adapter of a node for this Redis. `change` may change its configuration.
pub fn redis_region(url: &str, change: impl FnOnce(&mut RedisConfig)) -> RedisRegion {
    let Ok(StoreLocation::Redis(redis)) = url.parse() else { panic!("{url}") };
    let mut config = RedisConfig {
        redis,
        tls: None,
        region: "test".to_owned(),
        node: "node".to_owned(),
        boot: 1,
        cores: 1,
        key_prefix: "tidegate".to_owned(),
        tags: 32,
        hash_keys: false,
        // Far longer than a shared machine takes.
        deadline: Duration::from_secs(5),
        metrics: StoreMetrics::new(&MetricsRegistry::new("0", "test").unwrap()).unwrap(),
    };
    change(&mut config);
    RedisRegion::new(config)
}

/// Opens the counter store of a region and runs its background tasks. Must be called within a runtime. Waits until
/// every lane is connected.
#[expect(clippy::disallowed_methods, reason = "both tasks run as long as the test's runtime")]
pub async fn open_store(region: RedisRegion) -> Arc<dyn CounterStore> {
    let region = Arc::new(region);
    let store = region.store();
    let task_region = Arc::clone(&region);
    tokio::spawn(async move {
        let (_shutdown, never) = tokio::sync::watch::channel(false);
        panic!("the region ended: {:?}", task_region.run(Shutdown(never)).await)
    });
    let task_store = Arc::clone(&store);
    tokio::spawn(async move { task_store.keep().await });
    let start = elapsed();
    while region.state().store != StoreHealth::Ok {
        assert!(elapsed() - start < TIMEOUT, "timed out waiting for the region: {:?}", region.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Every lane must be connected, too.
    for lane in 0..store.lanes() {
        let batch = || Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: Vec::new() };
        while store.run(LaneId(lane), batch()).await.is_err() {
            assert!(elapsed() - start < TIMEOUT, "timed out waiting for lane {lane}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    store
}
