//! Drills with network faults: dropped packets and host names that change. Each test runs itself again in its own
//! network and mount namespaces.

use std::process::Command;
use std::time::Duration;

use crate::drill::Fault;
use crate::region::Region;
use crate::servers::{Cluster, Server, free_ports, redis_cli, wait_for};

/// The environment variable that is set inside the namespaces. It has the path of the hosts file.
const HOSTS_VARIABLE: &str = "TIDEGATE_TEST_IN_NAMESPACES";
/// Starts a program with its own loopback interface and its own copy of the hosts file.
const ENTER: &str =
    r#"ip link set lo up && cp /etc/hosts "$HOSTS" && mount --bind "$HOSTS" /etc/hosts && exec "$0" "$@""#;

/// Returns the path of the hosts file inside the namespaces. Outside of them, runs the test with this name again in new
/// namespaces and returns `None`.
fn enter_namespaces(test: &str) -> Option<std::path::PathBuf> {
    if let Some(hosts) = std::env::var_os(HOSTS_VARIABLE) {
        return Some(hosts.into());
    }
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--map-root-user", "sh", "-c", program]).env("HOSTS", &hosts);
        command
    };
    if !unshare(ENTER).args(["true"]).status().is_ok_and(|status| status.success()) {
        println!("{test}: NOT RUN, this machine does not allow network namespaces");
        return None;
    }
    let program = std::env::current_exe().unwrap();
    let status = unshare(ENTER)
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .env(HOSTS_VARIABLE, &hosts)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespaces");
    None
}

/// Runs `nft` with these arguments.
fn nft(rule: &[&str]) {
    let status = Command::new("nft").args(rule).status().expect("nft must be installed (Debian package nftables)");
    assert!(status.success(), "{rule:?}");
}

#[test]
fn promises_hold_while_packets_are_dropped() {
    if enter_namespaces("network::promises_hold_while_packets_are_dropped").is_none() {
        return;
    }
    let redis = Cluster::start_with_slow_failover();
    let mut region = Region::start(&redis.url(), &[]);
    nft(&["add", "table", "ip", "drill"]);
    nft(&["add", "chain", "ip", "drill", "in", "{ type filter hook input priority 0; }"]);
    let primary = redis.port + 1;
    let drop_to = |ports: &str| nft(&["add", "rule", "ip", "drill", "in", "tcp", "dport", ports, "drop"]);
    let drop_from = |ports: &str| nft(&["add", "rule", "ip", "drill", "in", "tcp", "sport", ports, "drop"]);
    let accept = |_: &mut Region| nft(&["flush", "chain", "ip", "drill", "in"]);
    let one = primary.to_string();
    region.drill(Fault::new("packets to one primary are dropped (nft)", |_| drop_to(&one), accept).at_primary(primary));
    region.drill(
        Fault::new("packets from one primary are dropped (nft)", |_| drop_from(&one), accept).at_primary(primary),
    );
    let long =
        Fault::new("packets to one primary are dropped for ten seconds", |_| drop_to(&one), accept).at_primary(primary);
    region.drill(long.lasting(Duration::from_secs(10)));
    let all = format!("{}-{}", redis.port, redis.port + 5);
    region.drill(Fault::new("packets to all servers are dropped", |_| drop_to(&all), accept));
    let drop_some = |_: &mut Region| {
        nft(&[
            "add", "rule", "ip", "drill", "in", "tcp", "dport", &all, "numgen", "random", "mod", "10", "<", "2", "drop",
        ]);
    };
    region.drill(Fault::new("every fifth packet to any server is lost", drop_some, accept));
    region.print_report("The network to a cluster of 3 + 3, two nodes of two cores");
}

#[test]
fn promises_hold_while_a_host_name_does_not_resolve() {
    let Some(hosts) = enter_namespaces("network::promises_hold_while_a_host_name_does_not_resolve") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let known = format!("{}127.0.0.1 redis.test\n", std::fs::read_to_string(&hosts).unwrap());
    let write_hosts = |text: &str| std::fs::write(&hosts, text).unwrap();
    write_hosts(&known);
    let _redis = Server::start(port, folder.path().join("redis"), &["--save", ""]);
    let mut region = Region::start(&format!("redis://redis.test:{port}"), &[]);
    let remove_name = |_: &mut Region| {
        write_hosts("127.0.0.1 localhost\n");
        redis_cli(port, &["client", "kill", "type", "normal"]);
    };
    region.drill(Fault::new("its name does not resolve (DNS)", remove_name, |_| write_hosts(&known)));
    region.print_report("One server with a host name, two nodes of two cores");
}

#[test]
fn the_old_server_is_fenced_when_a_host_name_resolves_to_another() {
    let Some(hosts) = enter_namespaces("network::the_old_server_is_fenced_when_a_host_name_resolves_to_another") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(2);
    let start = |port: u16, arguments: &[&str]| Server::start(port, folder.path().join(port.to_string()), arguments);
    let old = start(port, &["--save", ""]);
    let new = start(port + 1, &["--save", "", "--replicaof", "127.0.0.1", &port.to_string()]);
    wait_for("the replica to be in sync", || {
        redis_cli(new.port, &["info", "replication"]).contains("master_link_status:up").then_some(())
    });
    // The second server has the same port at another address, like a replacement by a managed service.
    nft(&["add", "table", "ip", "names"]);
    nft(&["add", "chain", "ip", "names", "out", "{ type nat hook output priority -100; }"]);
    let (visible, real) = (port.to_string(), format!(":{}", new.port));
    let redirect = ["ip", "daddr", "127.0.0.2", "tcp", "dport", &visible, "redirect", "to", &real];
    nft(&[&["add", "rule", "ip", "names", "out"][..], &redirect].concat());
    let others = std::fs::read_to_string(&hosts).unwrap();
    let resolve_to = |address: &str| std::fs::write(&hosts, format!("{others}{address} redis.test\n")).unwrap();
    resolve_to("127.0.0.1");
    let mut region = Region::start(&format!("redis://redis.test:{port}"), &[]);
    let replace = |_: &mut Region| {
        assert_eq!(redis_cli(new.port, &["replicaof", "no", "one"]), "OK");
        resolve_to("127.0.0.2");
        let fenced = || redis_cli(old.port, &["--scan", "--pattern", "*{region}fence"]);
        wait_for("the old server to be fenced", || fenced().contains("fence").then_some(()));
    };
    let replication_id = |port: u16| {
        let info = redis_cli(port, &["info", "replication"]);
        info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().trim().to_owned()
    };
    let fault = Fault::new("its name resolves to another server, and the old one continues", replace, |_| ());
    region.drill(fault.loses_data().recovers_during_fault());
    let fence = redis_cli(old.port, &["--scan", "--pattern", "*{region}fence"]);
    assert_eq!(redis_cli(old.port, &["get", &fence]), replication_id(old.port), "the fence names the old server");
    assert_eq!(redis_cli(new.port, &["exists", &fence]), "0", "the new server is not fenced");
    // Checks now go to the new server: only that server has the new key.
    let body = r#"{"domain":"d","attributes":{"mode":"exact","user":"later"}}"#;
    region.nodes.iter().for_each(|node| assert_eq!(node.check(body).status, 200));
    let has = |port: u16| redis_cli(port, &["--scan", "--pattern", "*/later"]).contains("later");
    assert_eq!((has(old.port), has(new.port)), (false, true));
    // The old server did not become a replica, so it is still fenced when the name resolves to it again. Then the new
    // server is fenced instead.
    let return_to_old = |_: &mut Region| {
        resolve_to("127.0.0.1");
        let fenced = |port: u16| redis_cli(port, &["exists", &fence]) == "1";
        wait_for("the new server to be fenced", || (fenced(new.port) && !fenced(old.port)).then_some(()));
    };
    region.drill(
        Fault::new("its name resolves to the old server again", return_to_old, |_| ())
            .loses_data()
            .recovers_during_fault(),
    );
    region.print_report("One server with a host name that resolves to another server, two nodes of two cores");
}
