//! Faults of the network: packets that are dropped, and names that are not found. Both in namespaces of the test's own, in which
//! it runs itself again.

use std::process::Command;
use std::time::Duration;

use crate::alone;
use crate::drill::Fault;
use crate::region::Region;
use crate::servers::{Cluster, Server, ask, free_ports, wait_for};

const INSIDE: &str = "TIDEGATE_TEST_IN_NAMESPACES";
/// With an own loopback, and an own copy of the file that names hosts.
const ENTER: &str =
    r#"ip link set lo up && cp /etc/hosts "$HOSTS" && mount --bind "$HOSTS" /etc/hosts && exec "$0" "$@""#;

/// Runs the test of this name again in namespaces of its own; says whether this is it, and where hosts are named there.
fn inside(test: &str) -> Option<std::path::PathBuf> {
    if let Some(hosts) = std::env::var_os(INSIDE) {
        return Some(hosts.into());
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--map-root-user", "sh", "-c", program]).env("HOSTS", &hosts);
        command
    };
    if !unshare(ENTER).args(["true"]).status().is_ok_and(|status| status.success()) {
        println!("{test}: NOT RUN, this machine allows no network namespaces");
        return None;
    }
    let own = std::env::current_exe().unwrap();
    let again = unshare(ENTER).arg(own).args([test, "--exact", "--nocapture"]).env(INSIDE, &hosts).status().unwrap();
    assert!(again.success(), "{test} failed in namespaces of its own");
    None
}

fn nft(rule: &[&str]) {
    let status = Command::new("nft").args(rule).status().expect("nft, of Debian's nftables");
    assert!(status.success(), "{rule:?}");
}

#[test]
fn packets_are_dropped() {
    if inside("network::packets_are_dropped").is_none() {
        return;
    }
    let redis = Cluster::patient();
    let mut region = Region::start(&redis.url(), &[]);
    nft(&["add", "table", "ip", "drill"]);
    nft(&["add", "chain", "ip", "drill", "in", "{ type filter hook input priority 0; }"]);
    let sick = redis.port + 1;
    let drop_to = |ports: &str| nft(&["add", "rule", "ip", "drill", "in", "tcp", "dport", ports, "drop"]);
    let drop_from = |ports: &str| nft(&["add", "rule", "ip", "drill", "in", "tcp", "sport", ports, "drop"]);
    let pass = |_: &mut Region| nft(&["flush", "chain", "ip", "drill", "in"]);
    let one = sick.to_string();
    region.drill(Fault::new("packets to one primary are dropped (nft)", |_| drop_to(&one), pass).at(sick));
    region.drill(Fault::new("its answers are dropped (nft)", |_| drop_from(&one), pass).at(sick));
    let long = Fault::new("packets to one primary are dropped for ten seconds", |_| drop_to(&one), pass).at(sick);
    region.drill(long.lasts(Duration::from_secs(10)));
    let all = format!("{}-{}", redis.port, redis.port + 5);
    region.drill(Fault::new("packets to all servers are dropped", |_| drop_to(&all), pass));
    let third = |_: &mut Region| {
        nft(&[
            "add", "rule", "ip", "drill", "in", "tcp", "dport", &all, "numgen", "random", "mod", "10", "<", "2", "drop",
        ]);
    };
    region.drill(Fault::new("every fifth packet to any server is lost", third, pass));
    region.report("The network before a cluster of 3 + 3, two nodes of two cores");
}

#[test]
fn names_are_not_found() {
    let Some(hosts) = inside("network::names_are_not_found") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let known = format!("{}127.0.0.1 redis.test\n", std::fs::read_to_string(&hosts).unwrap());
    let name = |text: &str| std::fs::write(&hosts, text).unwrap();
    name(&known);
    let _redis = Server::start(port, folder.path().join("redis"), &["--save", ""]);
    let mut region = Region::start(&format!("redis://redis.test:{port}"), &[]);
    let lose = |_: &mut Region| {
        name("127.0.0.1 localhost\n");
        ask(port, &["client", "kill", "type", "normal"]);
    };
    region.drill(Fault::new("its name is not found (DNS)", lose, |_| name(&known)));
    region.report("One server that is known by its name, two nodes of two cores");
}

#[test]
fn a_name_leads_to_another_server() {
    let Some(hosts) = inside("network::a_name_leads_to_another_server") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(2);
    let start = |port: u16, arguments: &[&str]| Server::start(port, folder.path().join(port.to_string()), arguments);
    let old = start(port, &["--save", ""]);
    let new = start(port + 1, &["--save", "", "--replicaof", "127.0.0.1", &port.to_string()]);
    wait_for("a replica", || ask(new.port, &["info", "replication"]).contains("master_link_status:up").then_some(()));
    // The second server has the same port at another address, as one that a managed service puts in place.
    nft(&["add", "table", "ip", "names"]);
    nft(&["add", "chain", "ip", "names", "out", "{ type nat hook output priority -100; }"]);
    let (shown, real) = (port.to_string(), format!(":{}", new.port));
    let there = ["ip", "daddr", "127.0.0.2", "tcp", "dport", &shown, "redirect", "to", &real];
    nft(&[&["add", "rule", "ip", "names", "out"][..], &there].concat());
    let others = std::fs::read_to_string(&hosts).unwrap();
    let name = |address: &str| std::fs::write(&hosts, format!("{others}{address} redis.test\n")).unwrap();
    name("127.0.0.1");
    let mut region = Region::start(&format!("redis://redis.test:{port}"), &[]);
    let replace = |_: &mut Region| {
        assert_eq!(ask(new.port, &["replicaof", "no", "one"]), "OK");
        name("127.0.0.2");
        let fenced = || ask(old.port, &["--scan", "--pattern", "*{region}fence"]);
        wait_for("the old server to be told", || fenced().contains("fence").then_some(()));
    };
    let id = |port: u16| {
        let info = ask(port, &["info", "replication"]);
        info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().trim().to_owned()
    };
    let fault = Fault::new("its name leads to another server, and the old one goes on", replace, |_| ());
    region.drill(fault.forgets().overcome());
    let fence = ask(old.port, &["--scan", "--pattern", "*{region}fence"]);
    assert_eq!(ask(old.port, &["get", &fence]), id(old.port), "the old server knows that it was replaced");
    assert_eq!(ask(new.port, &["exists", &fence]), "0", "and the new one counts");
    // A key that only the new server has: what is asked from now on goes there.
    let body = r#"{"domain":"d","attributes":{"mode":"exact","user":"later"}}"#;
    region.nodes.iter().for_each(|node| assert_eq!(node.check(body).status, 200));
    let has = |port: u16| ask(port, &["--scan", "--pattern", "*/later"]).contains("later");
    assert_eq!((has(old.port), has(new.port)), (false, true));
    // Nobody made the old server a replica: it is fenced when the name leads back to it.
    let again = |_: &mut Region| {
        name("127.0.0.1");
        let fenced = |port: u16| ask(port, &["exists", &fence]) == "1";
        wait_for("the new server to be told", || (fenced(new.port) && !fenced(old.port)).then_some(()));
    };
    region.drill(Fault::new("its name leads back", again, |_| ()).forgets().overcome());
    region.report("One server that is known by its name, which leads elsewhere, two nodes of two cores");
}
