//! Drills with a cluster of three primaries and three replicas.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::drill::Fault;
use crate::proxy::Proxy;
use crate::region::Region;
use crate::servers::{Cluster, free_ports, redis_cli, wait_for};

/// A thread that repeats an action ten times a second until it is stopped.
struct Repeater {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Repeater {
    #[expect(clippy::disallowed_methods, reason = "`stop` joins the thread")]
    fn start(action: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                action();
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap();
    }
}

/// Sets a parameter of the servers at these ports.
pub fn configure(ports: impl IntoIterator<Item = u16>, name: &str, value: &str) {
    for port in ports {
        assert_eq!(redis_cli(port, &["config", "set", name, value]), "OK", "{name} {value}");
    }
}

/// Runs `redis-cli --cluster` with these arguments. The error is the output.
fn cluster_cli(arguments: &[&str]) -> Result<(), String> {
    let done = std::process::Command::new("redis-cli").arg("--cluster").args(arguments).output().unwrap();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stdout).into_owned()) }
}

/// Returns the ports of the servers that are primaries.
pub fn primaries(redis: &Cluster) -> Vec<u16> {
    redis.ports().filter(|port| redis_cli(*port, &["role"]).starts_with("master")).collect()
}

/// Returns the port of the replica of the primary at `port`.
pub fn replica(redis: &Cluster, port: u16) -> u16 {
    let follows = |other: &u16| redis_cli(*other, &["info", "replication"]).contains(&format!("master_port:{port}\r"));
    wait_for("the replica of the primary", || redis.ports().find(follows))
}

/// Puts a proxy in front of the first primary, which announces the proxy's port.
fn start_proxy(redis: &Cluster) -> Proxy {
    let (port, announced) = (redis.port, free_ports(1));
    let proxy = Proxy::start(announced, port);
    configure([port], "cluster-announce-bus-port", &(port + 10_000).to_string());
    configure([port], "cluster-announce-port", &announced.to_string());
    wait_for("all servers to know the port of the proxy", || {
        redis.ports().all(|port| redis_cli(port, &["cluster", "slots"]).contains(&announced.to_string())).then_some(())
    });
    proxy
}

#[test]
fn promises_hold_during_faults_of_a_cluster() {
    let redis = Cluster::start_with_slow_failover();
    let proxy = start_proxy(&redis);
    let mut region = Region::start(&redis.url(), &[]);
    let primary = redis.port + 1;
    let all = || redis.port..redis.port + 3;
    let proxied = redis.port;

    region.drill(Fault::new("none", |_| (), |_| ()));
    let stop = |_: &mut Region| redis.signal(primary, "STOP");
    region
        .drill(Fault::new("one primary stops (SIGSTOP)", stop, |_| redis.signal(primary, "CONT")).at_primary(primary));
    let signal = |name: &'static str| all().for_each(|port| redis.signal(port, name));
    region.drill(Fault::new("all primaries stop (SIGSTOP)", |_| signal("STOP"), |_| signal("CONT")));

    let delay = |ms| {
        let proxy = &proxy;
        move |_: &mut Region| proxy.delay(Duration::from_millis(ms))
    };
    region
        .drill(Fault::new("replies of one primary are 30 ms late", delay(30), |_| proxy.restore()).at_primary(proxied));
    region.drill(
        Fault::new("replies of one primary are 300 ms late", delay(300), |_| proxy.restore()).at_primary(proxied),
    );
    let discard = |_: &mut Region| proxy.discard();
    region.drill(
        Fault::new("all data to and from one primary is discarded", discard, |_| proxy.restore()).at_primary(proxied),
    );
    let repeater: RefCell<Option<Repeater>> = RefCell::default();
    let stop = |_: &mut Region| repeater.take().into_iter().for_each(Repeater::stop);
    let closing_proxy = proxy.clone();
    let close =
        |_: &mut Region| drop(repeater.replace(Some(Repeater::start(move || closing_proxy.close_connections()))));
    region
        .drill(Fault::new("connections to one primary are closed ten times a second", close, stop).at_primary(proxied));

    region.drill(
        Fault::new(
            "one primary has no memory left (OOM, noeviction)",
            |_| configure([primary], "maxmemory", "1mb"),
            |_| configure([primary], "maxmemory", "0"),
        )
        .at_primary(primary),
    );
    region.drill(evictions(primary));
    let flush = |_: &mut Region| {
        let scripts = move || (proxied..proxied + 3).for_each(|port| drop(redis_cli(port, &["script", "flush"])));
        repeater.replace(Some(Repeater::start(scripts)));
    };
    region.drill(Fault::new("scripts are flushed ten times a second (NOSCRIPT)", flush, stop));
    let delete_all = |_: &mut Region| all().for_each(|port| assert_eq!(redis_cli(port, &["flushall"]), "OK"));
    region.drill(Fault::new("all data is deleted (FLUSHALL)", delete_all, |_| ()).loses_data());

    let slots = ["10923", "16383"];
    let third = redis.port + 2;
    let unassign = |_: &mut Region| {
        redis.ports().for_each(|port| drop(redis_cli(port, &[&["cluster", "delslotsrange"][..], &slots].concat())));
    };
    let assign = |_: &mut Region| drop(redis_cli(third, &[&["cluster", "addslotsrange"][..], &slots].concat()));
    region.drill(Fault::new("a third of the slots is unassigned (CLUSTERDOWN)", unassign, assign).at_primary(third));
    let move_slots = |_: &mut Region| {
        // Gossip takes a while to spread the assignment of the slots.
        wait_for("the servers to agree on the slots", || cluster_cli(&["check", &format!("127.0.0.1:{third}")]).ok());
        let id = |port: u16| redis_cli(port, &["cluster", "myid"]);
        let (from, to, known) = (id(primary), id(third), format!("127.0.0.1:{third}"));
        cluster_cli(&[
            "reshard",
            &known,
            "--cluster-from",
            &from,
            "--cluster-to",
            &to,
            "--cluster-slots",
            "2000",
            "--cluster-yes",
        ])
        .unwrap();
    };
    region.drill(Fault::new("2,000 slots move (MOVED, ASK, TRYAGAIN)", move_slots, |_| ()));
    let successor = replica(&redis, third);
    let fail_over = |_: &mut Region| assert_eq!(redis_cli(successor, &["cluster", "failover"]), "OK");
    region.drill(Fault::new("a planned failover (CLUSTER FAILOVER)", fail_over, |_| ()));
    region.drill(changed_password(&redis));
    region.print_report("A cluster of 3 + 3, two nodes of two cores");
}

/// A fault in which the server at `port` has little memory, and other keys fill it.
fn evictions<'a>(port: u16) -> Fault<'a> {
    let begin = move |_: &mut Region| {
        configure([port], "maxmemory-policy", "allkeys-lru");
        let used = redis_cli(port, &["info", "memory"]);
        let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        configure([port], "maxmemory", &(used.unwrap() + 1_000_000).to_string());
        // The keys are in the server's own slots, because it returns an error for others.
        let fill = "for i = 1, 3000 do redis.call('set', KEYS[1] .. i, string.rep('x', 2000)) end";
        let tag = (0..).map(|n| format!("{{{n}}}")).find(|tag| {
            let slot: u16 = redis_cli(port, &["cluster", "keyslot", tag]).parse().unwrap();
            (5461..=10_922).contains(&slot)
        });
        redis_cli(port, &["eval", fill, "1", &tag.unwrap()]);
        let evicted = redis_cli(port, &["info", "stats"]);
        let evicted = evicted.lines().find_map(|line| line.strip_prefix("evicted_keys:"));
        assert_ne!(evicted, Some("0"), "the server evicted keys");
    };
    let end = move |_: &mut Region| {
        configure([port], "maxmemory", "0");
        configure([port], "maxmemory-policy", "noeviction");
    };
    Fault::new("one primary evicts keys (allkeys-lru)", begin, end).loses_data().at_primary(port)
}

/// A fault in which all servers require a password that the nodes do not have.
pub fn changed_password(redis: &Cluster) -> Fault<'_> {
    let begin = |_: &mut Region| {
        for port in redis.ports() {
            configure([port], "masterauth", "secret");
            configure([port], "requirepass", "secret");
            let secret = ["-a", "secret", "--no-auth-warning"];
            redis_cli(port, &[&secret[..], &["client", "kill", "type", "normal"]].concat());
        }
    };
    let end = |_: &mut Region| {
        for port in redis.ports() {
            let secret = ["-a", "secret", "--no-auth-warning"];
            redis_cli(port, &[&secret[..], &["config", "set", "requirepass", ""]].concat());
        }
    };
    Fault::new("the password is changed (NOAUTH)", begin, end)
}

#[test]
fn promises_hold_during_failovers_of_a_cluster() {
    let redis = Cluster::start();
    let mut region = Region::start(&redis.url(), &[]);
    let duration = Duration::from_secs(4);
    // The replica may lack the charges of the last milliseconds.
    let primary = primaries(&redis)[0];
    let kill = |_: &mut Region| redis.signal(primary, "KILL");
    let restart = |_: &mut Region| redis.start_stopped_servers();
    region.drill(
        Fault::new("one primary is killed, its replica takes over", kill, restart)
            .loses_data()
            .recovers_during_fault()
            .at_primary(primary)
            .lasting(duration),
    );
    let primary = primaries(&redis)[0];
    let stop = |_: &mut Region| redis.signal(primary, "STOP");
    let resume = |_: &mut Region| redis.signal(primary, "CONT");
    region.drill(
        Fault::new("one primary stops, its replica takes over", stop, resume)
            .loses_data()
            .recovers_during_fault()
            .at_primary(primary)
            .lasting(duration),
    );
    let primary = primaries(&redis)[1];
    let successor = replica(&redis, primary);
    let lose_writes = |_: &mut Region| {
        // Charges from now on are lost: the replica's connection is closed, and it cannot open another.
        redis.signal(successor, "STOP");
        assert_eq!(redis_cli(primary, &["client", "kill", "type", "replica"]), "1");
        crate::drill::pause(Duration::from_millis(500));
        redis.signal(primary, "KILL");
        redis.signal(successor, "CONT");
    };
    let fault = Fault::new("a failover that loses half a second of writes", lose_writes, restart)
        .loses_data()
        .recovers_during_fault()
        .at_primary(primary);
    region.drill(fault.lasting(duration));
    let kill = |_: &mut Region| redis.ports().for_each(|port| redis.signal(port, "KILL"));
    region.drill(Fault::new("all six servers are killed and restart with their files", kill, restart).loses_data());
    region.print_report("A cluster of 3 + 3 that fails over after a second, two nodes of two cores");
}
