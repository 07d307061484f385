//! Faults of a cluster of three primaries and three replicas.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::alone;
use crate::drill::Fault;
use crate::proxy::Proxy;
use crate::region::Region;
use crate::servers::{Cluster, ask, free_ports, wait_for};

/// Does something ten times a second until it is ended.
struct Again {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Again {
    #[expect(clippy::disallowed_methods, reason = "it is waited for")]
    fn begin(what: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                what();
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap();
    }
}

pub fn configure(ports: impl IntoIterator<Item = u16>, name: &str, value: &str) {
    for port in ports {
        assert_eq!(ask(port, &["config", "set", name, value]), "OK", "{name} {value}");
    }
}

fn cli(arguments: &[&str]) -> Result<(), String> {
    let done = std::process::Command::new("redis-cli").arg("--cluster").args(arguments).output().unwrap();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stdout).into_owned()) }
}

/// Primaries by their ports, as the server at `port` knows them, with the first of their slots.
pub fn primaries(redis: &Cluster) -> Vec<u16> {
    redis.ports().filter(|port| ask(*port, &["role"]).starts_with("master")).collect()
}

/// The replica of the primary at `port`.
pub fn replica(redis: &Cluster, port: u16) -> u16 {
    let follows = |at: &u16| ask(*at, &["info", "replication"]).contains(&format!("master_port:{port}\r"));
    wait_for("its replica", || redis.ports().find(follows))
}

/// The first primary is reached through a proxy: it announces the proxy's port.
fn through_a_proxy(redis: &Cluster) -> Proxy {
    let (port, shown) = (redis.port, free_ports(1));
    let proxy = Proxy::start(shown, port);
    configure([port], "cluster-announce-bus-port", &(port + 10_000).to_string());
    configure([port], "cluster-announce-port", &shown.to_string());
    wait_for("everybody to know of the proxy", || {
        redis.ports().all(|at| ask(at, &["cluster", "slots"]).contains(&shown.to_string())).then_some(())
    });
    proxy
}

#[test]
fn a_cluster_under_fire() {
    let _alone = alone();
    let redis = Cluster::patient();
    let proxy = through_a_proxy(&redis);
    let mut region = Region::start(&redis.url(), &[]);
    let sick = redis.port + 1;
    let all = || redis.port..redis.port + 3;
    let behind = redis.port;

    region.drill(Fault::new("none", |_| (), |_| ()));
    let halt = |_: &mut Region| redis.signal(sick, "STOP");
    region.drill(Fault::new("one primary stops (SIGSTOP)", halt, |_| redis.signal(sick, "CONT")).at(sick));
    let signal = |name: &'static str| all().for_each(|port| redis.signal(port, name));
    region.drill(Fault::new("all primaries stop (SIGSTOP)", |_| signal("STOP"), |_| signal("CONT")));

    let late = |ms| {
        let proxy = &proxy;
        move |_: &mut Region| proxy.delay(Duration::from_millis(ms))
    };
    region.drill(Fault::new("one primary's answers come 30 ms late", late(30), |_| proxy.heal()).at(behind));
    region.drill(Fault::new("one primary's answers come 300 ms late", late(300), |_| proxy.heal()).at(behind));
    region.drill(Fault::new("what goes to one primary is swallowed", |_| proxy.swallow(), |_| proxy.heal()).at(behind));
    let again: RefCell<Option<Again>> = RefCell::default();
    let stop = |_: &mut Region| again.take().into_iter().for_each(Again::end);
    let cutter = proxy.clone();
    let cut = |_: &mut Region| drop(again.replace(Some(Again::begin(move || cutter.cut()))));
    region.drill(Fault::new("connections to one primary are cut ten times a second", cut, stop).at(behind));

    region.drill(
        Fault::new(
            "one primary has no memory left (OOM, noeviction)",
            |_| configure([sick], "maxmemory", "1mb"),
            |_| configure([sick], "maxmemory", "0"),
        )
        .at(sick),
    );
    region.drill(evictions(sick));
    let flush = |_: &mut Region| {
        let scripts = move || (behind..behind + 3).for_each(|port| drop(ask(port, &["script", "flush"])));
        again.replace(Some(Again::begin(scripts)));
    };
    region.drill(Fault::new("scripts are flushed ten times a second (NOSCRIPT)", flush, stop));
    let forget = |_: &mut Region| all().for_each(|port| assert_eq!(ask(port, &["flushall"]), "OK"));
    region.drill(Fault::new("everything is forgotten (FLUSHALL)", forget, |_| ()).forgets());

    let slots = ["10923", "16383"];
    let third = redis.port + 2;
    let lose = |_: &mut Region| {
        redis.ports().for_each(|port| drop(ask(port, &[&["cluster", "delslotsrange"][..], &slots].concat())));
    };
    let find = |_: &mut Region| drop(ask(third, &[&["cluster", "addslotsrange"][..], &slots].concat()));
    region.drill(Fault::new("a third of the slots is nobody's (CLUSTERDOWN)", lose, find).at(third));
    let move_slots = |_: &mut Region| {
        // Servers learn of each other's slots by gossip.
        wait_for("a cluster that agrees", || cli(&["check", &format!("127.0.0.1:{third}")]).ok());
        let id = |port: u16| ask(port, &["cluster", "myid"]);
        let (from, to, known) = (id(sick), id(third), format!("127.0.0.1:{third}"));
        cli(&[
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
    let take_over = replica(&redis, third);
    let give = |_: &mut Region| assert_eq!(ask(take_over, &["cluster", "failover"]), "OK");
    region.drill(Fault::new("a replica takes over in order (CLUSTER FAILOVER)", give, |_| ()));
    region.drill(passwords(&redis));
    region.report("A cluster of 3 + 3, two nodes of two cores");
}

/// The server at `port` has room for little, and others fill it.
fn evictions<'a>(port: u16) -> Fault<'a> {
    let begin = move |_: &mut Region| {
        configure([port], "maxmemory-policy", "allkeys-lru");
        let used = ask(port, &["info", "memory"]);
        let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        configure([port], "maxmemory", &(used.unwrap() + 1_000_000).to_string());
        // Keys of its own slots: an uncovered one is refused.
        let fill = "for i = 1, 3000 do redis.call('set', KEYS[1] .. i, string.rep('x', 2000)) end";
        let tag = (0..).map(|n| format!("{{{n}}}")).find(|tag| {
            let slot: u16 = ask(port, &["cluster", "keyslot", tag]).parse().unwrap();
            (5461..=10_922).contains(&slot)
        });
        ask(port, &["eval", fill, "1", &tag.unwrap()]);
        let evicted = ask(port, &["info", "stats"]);
        let evicted = evicted.lines().find_map(|line| line.strip_prefix("evicted_keys:"));
        assert_ne!(evicted, Some("0"), "keys were evicted");
    };
    let end = move |_: &mut Region| {
        configure([port], "maxmemory", "0");
        configure([port], "maxmemory-policy", "noeviction");
    };
    Fault::new("one primary evicts keys (allkeys-lru)", begin, end).forgets().at(port)
}

/// All servers want a password that nobody knows.
pub fn passwords(redis: &Cluster) -> Fault<'_> {
    let begin = |_: &mut Region| {
        for port in redis.ports() {
            configure([port], "masterauth", "secret");
            configure([port], "requirepass", "secret");
            let secret = ["-a", "secret", "--no-auth-warning"];
            ask(port, &[&secret[..], &["client", "kill", "type", "normal"]].concat());
        }
    };
    let end = |_: &mut Region| {
        for port in redis.ports() {
            let secret = ["-a", "secret", "--no-auth-warning"];
            ask(port, &[&secret[..], &["config", "set", "requirepass", ""]].concat());
        }
    };
    Fault::new("the password is another (NOAUTH)", begin, end)
}

#[test]
fn a_cluster_that_fails_over() {
    let _alone = alone();
    let redis = Cluster::start();
    let mut region = Region::start(&redis.url(), &[]);
    let lasts = Duration::from_secs(4);
    // Whoever takes over may lack what was charged in the last milliseconds.
    let sick = primaries(&redis)[0];
    let kill = |_: &mut Region| redis.signal(sick, "KILL");
    let back = |_: &mut Region| redis.up();
    region.drill(
        Fault::new("one primary is killed, its replica takes over", kill, back)
            .forgets()
            .overcome()
            .at(sick)
            .lasts(lasts),
    );
    let sick = primaries(&redis)[0];
    let stop = |_: &mut Region| redis.signal(sick, "STOP");
    let wake = |_: &mut Region| redis.signal(sick, "CONT");
    region.drill(
        Fault::new("one primary stops, its replica takes over", stop, wake).forgets().overcome().at(sick).lasts(lasts),
    );
    let sick = primaries(&redis)[1];
    let behind = replica(&redis, sick);
    let lose = |_: &mut Region| {
        // What is charged from now on is lost: the replica's connection is gone, and it cannot make another.
        redis.signal(behind, "STOP");
        assert_eq!(ask(sick, &["client", "kill", "type", "replica"]), "1");
        crate::drill::pause(Duration::from_millis(500));
        redis.signal(sick, "KILL");
        redis.signal(behind, "CONT");
    };
    let fault = Fault::new("a failover that loses half a second of writes", lose, back).forgets().overcome().at(sick);
    region.drill(fault.lasts(lasts));
    let kill = |_: &mut Region| redis.ports().for_each(|port| redis.signal(port, "KILL"));
    region.drill(Fault::new("all six servers are killed, and come back with their files", kill, back).forgets());
    region.report("A cluster of 3 + 3 that fails over after a second, two nodes of two cores");
}
