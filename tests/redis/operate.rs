//! Situations in the operation of a region with Redis: a store that starts late, nodes with other constants, settings
//! that weaken the guarantees, TLS, and users with few rights.

use std::process::Stdio;

use crate::node::{Node, output, serve_command, wait_for};
use crate::replicas::give;
use crate::servers::{Cluster, Server, SingleServer, free_ports, open_store, redis_cli, redis_region};
use tidegate::ports::Replicated;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub const RULES: &str = "version: 1\ndomains: [{ domain: d, limits: [{ name: l, per: [user], limit: 10, window: 1d, consistency: exact }] }]\n";
pub const CHECK: &str = r#"{"domain":"d","attributes":{"user":"u"}}"#;

/// A temporary folder with a rule file.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("rules.yaml", RULES);
        folder
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    /// Starts a node and waits until it reaches the store.
    pub fn start_node(&self, url: &str, settings: &[(&str, &str)]) -> Node {
        let node = Node::serve(&self.path("rules.yaml"), url, settings);
        wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        node
    }
}

#[test]
fn a_node_serves_without_redis_and_uses_it_once_it_starts() {
    let (folder, port) = (Folder::new(), free_ports(1));
    let node = Node::spawn(serve_command(&folder.path("rules.yaml"), &format!("redis://127.0.0.1:{port}"), &[]));
    let ready = node.get("/ready");
    assert_eq!(ready.status, 503, "a store that was never reached may start soon");
    assert_eq!(node.get("/health").status, 200);
    // Until then clients must use another node. Otherwise each start would admit a further share of the limit.
    let early = node.check(CHECK);
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")), "{early:?}");
    assert_eq!(health_status(&node), ServingStatus::NotServing);
    wait_for("the grace period to end", || (node.get("/ready").status == 200).then_some(()));
    wait_for("gRPC health to say so", || (health_status(&node) == ServingStatus::Serving).then_some(()));
    assert_eq!(node.metric(r#"tidegate_shed_total{reason="starting"} "#), 1.0);
    assert!(node.get("/ready").json()["store"].as_str().unwrap().starts_with("no answer"));
    let without_store = node.check(CHECK).json();
    assert_eq!(
        (&without_store["allowed"], &without_store["degraded"]),
        (&true.into(), &true.into()),
        "the node admits from its share of the limit"
    );
    let redis = Server::start(port, folder.path("redis"), &["--save", ""]);
    wait_for("the node to reach the new store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    wait_for("a decision of the store", || (node.check(CHECK).json()["degraded"] == false).then_some(()));
    // The hit that the node admitted without the store is charged, too.
    wait_for("the debt to be charged", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"u"},"hits":0}"#).json();
        (answer["limits"][0]["remaining"].as_u64() < Some(9)).then_some(())
    });
    drop(redis);
    wait_for("/ready to report the lost store", || (node.get("/ready").json()["store"] != "ok").then_some(()));
    assert_eq!(node.get("/ready").status, 200, "otherwise all nodes would become unready at once");
    assert_eq!(node.check(CHECK).json()["degraded"], true);
    assert!(node.metric("redis_connection_errors_total ") > 0.0);
    assert_eq!(node.metric("tidegate_store_ok "), 0.0);
}

#[test]
fn a_node_with_other_constants_exits_with_78() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let node = folder.start_node(&redis.url(), &[]);
    let mut other = serve_command(&folder.path("rules.yaml"), &redis.url(), &[("TIDEGATE_STORE__TAGS", "16")]);
    let other = other.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(other.status.code(), Some(78));
    let log = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(log.contains("tags=32") && log.contains("tags=16"), "{log}");
    // The running nodes write a lost record again, even if a new node wrote its own in between.
    let key = "tidegate:us-east:{region}constants";
    wait_for("enough heartbeats to make the node established", || {
        (node.log().len() > 1 && has_heartbeats(&redis, 11)).then_some(())
    });
    assert_eq!(redis_cli(redis.server.port, &["set", key, "version=1 tags=16 hash=crc16"]), "OK");
    wait_for("the record of the established node", || {
        redis_cli(redis.server.port, &["get", key]).contains("tags=32").then_some(())
    });
    assert_eq!(redis_cli(redis.server.port, &["flushall"]), "OK");
    wait_for("the lost record to be written again", || {
        let record = redis_cli(redis.server.port, &["get", "tidegate:us-east:{region}constants"]);
        record.contains("tags=32").then_some(())
    });
    drop(node);
}

#[test]
fn constants_that_change_after_a_node_has_served_are_a_fault_of_the_store() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let node = folder.start_node(&redis.url(), &[]);
    let store = || node.get("/ready").json()["store"].as_str().unwrap_or_default().to_owned();
    let peek = r#"{"domain":"d","attributes":{"user":"u"},"hits":0}"#;
    let degraded = || node.check(peek).json()["degraded"] == true;
    assert!(!degraded());
    // The node is not established yet, so that it does not write its own constants again.
    let key = "tidegate:us-east:{region}constants";
    let own = redis_cli(redis.server.port, &["get", key]);
    redis_cli(redis.server.port, &["set", key, "version=1 tags=16 hash=crc16"]);
    wait_for("/ready to name the other constants", || store().contains("tags=16").then_some(()));
    assert_eq!(node.get("/ready").status, 200, "otherwise all nodes would become unready at once");
    wait_for("a decision without the store, which others may count in", || degraded().then_some(()));
    redis_cli(redis.server.port, &["set", key, own.trim()]);
    wait_for("the store to be used again", || (store() == "ok" && !degraded()).then_some(()));
}

/// Returns the node's gRPC health status.
#[tokio::main(flavor = "current_thread")]
async fn health_status(node: &Node) -> ServingStatus {
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}

/// Returns true if Redis had at least `count` heartbeats.
fn has_heartbeats(redis: &SingleServer, count: u64) -> bool {
    let stats = redis_cli(redis.server.port, &["info", "commandstats"]);
    let heartbeats =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_zadd:calls=")?.split(',').next()?.parse().ok());
    heartbeats.unwrap_or(0) >= count
}

#[test]
fn a_node_that_exits_leaves_the_list_of_members() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let members = || redis_cli(redis.server.port, &["zcard", "tidegate:us-east:{region}members"]);
    let mut node = folder.start_node(&redis.url(), &[("TIDEGATE_WORKERS", "3")]);
    assert_eq!(members(), "1");
    assert_eq!(node.metric("tidegate_holders "), 3.0);
    node.signal("TERM");
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert_eq!(members(), "0");
}

#[test]
fn ready_logs_and_metrics_warn_of_settings_that_weaken_the_guarantees() {
    let folder = Folder::new();
    let redis = SingleServer::start(&["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]);
    let node = folder.start_node(&redis.url(), &[]);
    wait_for("the advice in /ready", || {
        let advice = node.get("/ready").json()["advice"].to_string();
        (advice.contains("best effort") && advice.contains("appendonly")).then_some(())
    });
    assert_eq!(node.metric(r#"tidegate_store_advice{advice="evicts"} "#), 1.0);
    assert_eq!(node.metric(r#"tidegate_store_advice{advice="full_coverage"} "#), 0.0);
    assert!(node.log().contains("best effort"));
    // The memory limit is not reached, so the counters still work.
    assert_eq!(node.check(CHECK).status, 200);
}

/// Gives rights of a limit under `escrow` to another region, which waits for a replica.
#[tokio::main(flavor = "current_thread")]
async fn give_away_rights(redis: &Cluster, username: &str, password: &str) {
    let change = |config: &mut tidegate::store::redis::RedisConfig| {
        config.redis.username = Some(username.to_owned());
        config.redis.password = Some(password.to_owned());
    };
    let store = open_store(redis_region(&redis.url(), change)).await;
    assert_eq!(give(&*store, 1).await.unwrap().1, Replicated::Yes);
}

#[test]
fn a_node_works_with_the_documented_rights() {
    let (folder, redis) = (Folder::new(), Cluster::start());
    // Add every user of the file. The default user is switched off last.
    let users = include_str!("../../deploy/redis/users.acl");
    for line in users.lines().rev() {
        let words: Vec<&str> =
            line.split(' ').skip(1).map(|word| if word.starts_with('#') { ">s3cret" } else { word }).collect();
        for port in redis.ports().filter(|_| words[0] != "default") {
            assert_eq!(redis_cli(port, &[&["acl", "setuser"], words.as_slice()].concat()), "OK", "{line}");
        }
    }
    for port in redis.ports() {
        assert_eq!(redis_cli(port, &["config", "set", "masteruser", "replica", "masterauth", "s3cret"]), "OK");
        let (id, connected) = (redis_cli(port, &["client", "kill", "type", "replica"]), "slave0:");
        let primary = |port: u16| redis_cli(port, &["role"]).starts_with("master");
        assert!(!id.is_empty());
        wait_for("the replica to log in again", || {
            (!primary(port) || redis_cli(port, &["info", "replication"]).contains(connected)).then_some(())
        });
    }
    for port in redis.ports() {
        assert_eq!(redis_cli(port, &["acl", "log", "reset"]), "OK");
        assert_eq!(redis_cli(port, &["acl", "setuser", "default", "off"]), "OK");
    }
    let redis_cli = |port, words: &[&str]| {
        redis_cli(port, &[&["--user", "admin", "--pass", "s3cret", "--no-auth-warning"], words].concat())
    };
    let secret = folder.write("password", "s3cret\n");
    let settings = [("TIDEGATE_STORE__USERNAME", "tidegate"), ("TIDEGATE_STORE__PASSWORD_FILE", secret.as_str())];
    let mut node = folder.start_node(&redis.url(), &settings);
    for _ in 0..11 {
        node.check(CHECK);
    }
    assert_eq!(node.check(CHECK).status, 429);
    node.signal("TERM");
    node.child.wait().unwrap();
    give_away_rights(&redis, "tidegate", "s3cret");
    for port in redis.ports() {
        assert_eq!(redis_cli(port, &["acl", "log"]), "", "no command was denied by the ACL");
    }
    assert!(!node.log().contains("s3cret"));
    let wrong = folder.write("wrong", "guess");
    let settings = [("TIDEGATE_STORE__USERNAME", "tidegate"), ("TIDEGATE_STORE__PASSWORD_FILE", wrong.as_str())];
    let node = Node::spawn(serve_command(&folder.path("rules.yaml"), &redis.url(), &settings));
    wait_for("the grace period to end", || (node.get("/ready").status == 200).then_some(()));
    assert_ne!(node.get("/ready").json()["store"], "ok");
}

#[test]
fn a_node_verifies_the_certificate_of_redis() {
    let folder = Folder::new();
    let name = vec!["127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(name.clone()).unwrap();
    let other = rcgen::generate_simple_self_signed(name).unwrap();
    let certificate = folder.write("cert.pem", own.cert.pem());
    let key = folder.write("key.pem", own.signing_key.serialize_pem());
    let other_ca = folder.write("other.pem", other.cert.pem());
    let port = free_ports(2);
    let secure = (port + 1).to_string();
    let arguments = ["--save", "", "--tls-port", &secure, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let arguments = [&arguments[..], &["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"]].concat();
    let arguments = [&arguments[..], &["--tls-protocols", "TLSv1.3"]].concat();
    let _redis = Server::start(port, folder.path("redis"), &arguments);
    let url = format!("rediss://127.0.0.1:{secure}");
    let node = folder.start_node(&url, &[("TIDEGATE_STORE__CA_FILE", &certificate)]);
    assert_eq!(node.check(CHECK).json()["degraded"], false);
    let untrusting =
        Node::spawn(serve_command(&folder.path("rules.yaml"), &url, &[("TIDEGATE_STORE__CA_FILE", &other_ca)]));
    wait_for("the grace period to end", || (untrusting.get("/ready").status == 200).then_some(()));
    assert_ne!(untrusting.get("/ready").json()["store"], "ok", "the CA file does not certify that server");
    let none = folder.path("none.pem");
    let mut command =
        serve_command(&folder.path("rules.yaml"), &url, &[("TIDEGATE_STORE__CA_FILE", none.to_str().unwrap())]);
    assert_eq!(command.output().unwrap().status.code(), Some(78));
    assert_eq!(output(&["serve", "--region", "r", "--store", "redis://h"]).status.code(), Some(78), "no rules");
}

#[test]
fn a_stopped_primary_does_not_affect_keys_of_other_primaries() {
    let (folder, redis) = (Folder::new(), Cluster::start_with_slow_failover());
    let node = folder.start_node(&redis.url(), &[]);
    let check = |user: &str| node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"{user}"}}}}"#)).json();
    let users: Vec<String> = (0..60).map(|user| format!("u{user}")).collect();
    for user in &users {
        check(user);
    }
    let stopped = redis.port;
    let its_keys = redis_cli(stopped, &["--scan", "--pattern", "*/u*"]);
    let is_its_user = |user: &str| its_keys.lines().any(|key| key.ends_with(&format!("/{user}")));
    assert!(users.iter().any(|user| is_its_user(user)) && !users.iter().all(|user| is_its_user(user)));
    redis.signal(stopped, "STOP");
    // Keys of the other primaries are decided with the store. A busy machine may be too slow for its deadline once.
    for user in users.iter().filter(|user| !is_its_user(user)) {
        wait_for(&format!("a decision of {user} with the store"), || (check(user)["degraded"] == false).then_some(()));
    }
    check(users.iter().find(|user| is_its_user(user)).unwrap());
    wait_for("/ready to name the stopped primary", || {
        node.get("/ready").json()["store"].as_str().unwrap().contains(&stopped.to_string()).then_some(())
    });
    redis.signal(stopped, "CONT");
    wait_for("the primary to decide again", || users.iter().all(|user| check(user)["degraded"] == false).then_some(()));
    wait_for("/ready to report that the store is ok", || (node.get("/ready").json()["store"] == "ok").then_some(()));
}

#[test]
fn ready_and_the_log_name_the_cause_of_an_unavailable_store() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&["--requirepass", "secret"]));
    let assert_cause = |url: &str, settings: &[(&str, &str)], expected: &str| {
        let node = Node::spawn(serve_command(&folder.path("rules.yaml"), url, settings));
        wait_for(expected, || {
            let store = node.get("/ready").json()["store"].as_str().unwrap().to_owned();
            (store.contains(expected) && node.log().contains(expected)).then_some(())
        });
    };
    assert_cause(&redis.url(), &[], "NOAUTH");
    let wrong = folder.write("wrong", "guess");
    assert_cause(&redis.url(), &[("TIDEGATE_STORE__PASSWORD_FILE", &wrong)], "WRONGPASS");
    let without_password = SingleServer::start(&[]);
    let port = without_password.server.port;
    assert_cause(&format!("redis-sentinel://127.0.0.1:{port}?sentinelServiceName=x"), &[], "knows no primary of x");
    assert_cause(&format!("redis-cluster://127.0.0.1:{}", free_ports(1)), &[], "no answer from 127.0.0.1");
}

#[test]
fn ready_names_a_server_that_takes_no_writes() {
    let (folder, redis) = (Folder::new(), Cluster::start_with_slow_failover());
    let node = folder.start_node(&redis.url(), &[]);
    // Not the primary that has the members, because its errors show in heartbeats.
    let has_members = |port: &u16| !redis_cli(*port, &["--scan", "--pattern", "*constants"]).is_empty();
    let full = redis.ports().take(3).find(|port| !has_members(port)).unwrap();
    assert_eq!(redis_cli(full, &["config", "set", "maxmemory", "1mb"]), "OK");
    let check_all = || {
        let users = 0..20;
        users.for_each(|user| drop(node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"u{user}"}}}}"#))));
    };
    let store = || node.get("/ready").json()["store"].as_str().unwrap().to_owned();
    wait_for("/ready to name the cause", || {
        check_all();
        (store().starts_with(&format!("127.0.0.1:{full}: OOM")) && node.log().contains("OOM")).then_some(())
    });
    assert_eq!(node.metric("tidegate_store_ok "), 0.0);
    assert_eq!(redis_cli(full, &["config", "set", "maxmemory", "0"]), "OK");
    wait_for("the cause to end", || {
        check_all();
        (store() == "ok").then_some(())
    });
}

#[test]
fn a_resolved_error_is_cleared_from_ready() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let node = folder.start_node(&redis.url(), &[]);
    let port = redis.server.port;
    let store = || node.get("/ready").json()["store"].as_str().unwrap().to_owned();
    assert_eq!(redis_cli(port, &["config", "set", "requirepass", "secret"]), "OK");
    let with = |words: &[&str]| redis_cli(port, &[&["-a", "secret", "--no-auth-warning"], words].concat());
    with(&["client", "kill", "type", "normal"]);
    wait_for("/ready to name the cause", || store().contains("NOAUTH").then_some(()));
    with(&["config", "set", "requirepass", ""]);
    wait_for("the cause to end", || (store() == "ok").then_some(()));
    redis.server.signal("STOP");
    wait_for("the next error", || (store() != "ok").then_some(()));
    assert!(!store().contains("NOAUTH"), "{}", store());
    redis.server.signal("CONT");
}

#[test]
fn remaining_without_the_store_is_the_rest_of_the_nodes_share() {
    let folder = Folder::new();
    let url = format!("redis://127.0.0.1:{}", free_ports(1));
    let node = Node::spawn(serve_command(&folder.path("rules.yaml"), &url, &[("TIDEGATE_WORKERS", "1")]));
    wait_for("the grace period to end", || (node.get("/ready").status == 200).then_some(()));
    // The share is a third of ten.
    for left in [2, 1, 0, 0] {
        let answer = node.check(CHECK);
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left.to_string().as_str()), "{answer:?}");
    }
    assert_eq!(node.check(CHECK).status, 429);
}
