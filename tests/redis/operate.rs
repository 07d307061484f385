//! What an operator of a region with Redis meets: a store that comes late, nodes that do not fit, settings that weaken the
//! promises, TLS and users with few rights.

use std::process::Stdio;

use crate::node::{Node, output, serve, wait_for};
use crate::servers::{Cluster, Server, Single, ask, free_ports};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const RULES: &str = "version: 1\ndomains: [{ domain: d, limits: [{ name: l, per: [user], limit: 10, window: 1d, consistency: exact }] }]\n";
const CHECK: &str = r#"{"domain":"d","attributes":{"user":"u"}}"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("rules.yaml", RULES);
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn node(&self, url: &str, settings: &[(&str, &str)]) -> Node {
        let node = Node::serve(&self.path("rules.yaml"), url, settings);
        wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        node
    }
}

#[test]
fn a_node_serves_without_redis_and_with_it_when_it_comes() {
    let (folder, port) = (Folder::new(), free_ports(1));
    let node = Node::begin(serve(&folder.path("rules.yaml"), &format!("redis://127.0.0.1:{port}"), &[]));
    let ready = node.get("/ready");
    assert_eq!(ready.status, 503, "a store that was never reached may be just about to come");
    assert_eq!(node.get("/health").status, 200);
    // Until then whoever asks is to ask another node: a share of the limit for each start would be none.
    let early = node.check(CHECK);
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")), "{early:?}");
    assert_eq!(serving(&node), ServingStatus::NotServing);
    wait_for("the end of the grace", || (node.get("/ready").status == 200).then_some(()));
    wait_for("health that says so", || (serving(&node) == ServingStatus::Serving).then_some(()));
    assert_eq!(node.metric(r#"tidegate_shed_total{reason="starting"} "#), 1.0);
    assert!(node.get("/ready").json()["store"].as_str().unwrap().starts_with("no answer"));
    let alone = node.check(CHECK).json();
    assert_eq!((&alone["allowed"], &alone["degraded"]), (&true.into(), &true.into()), "its share of the limit");
    let redis = Server::start(port, folder.path("redis"), &["--save", ""]);
    wait_for("a store that came", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    wait_for("a decision of the store", || (node.check(CHECK).json()["degraded"] == false).then_some(()));
    // What it admitted by itself is charged, too.
    wait_for("the debts", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"u"},"hits":0}"#).json();
        (answer["limits"][0]["remaining"].as_u64() < Some(9)).then_some(())
    });
    drop(redis);
    wait_for("a lost store to be told of", || (node.get("/ready").json()["store"] != "ok").then_some(()));
    assert_eq!(node.get("/ready").status, 200, "or all nodes would leave at once");
    assert_eq!(node.check(CHECK).json()["degraded"], true);
    assert!(node.metric("redis_connection_errors_total ") > 0.0);
    assert_eq!(node.metric("tidegate_store_ok "), 0.0);
}

#[test]
fn a_node_that_would_count_apart_ends_with_78() {
    let (folder, redis) = (Folder::new(), Single::start(&[]));
    let node = folder.node(&redis.url(), &[]);
    let mut other = serve(&folder.path("rules.yaml"), &redis.url(), &[("TIDEGATE_STORE__TAGS", "16")]);
    let other = other.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(other.status.code(), Some(78));
    let log = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(log.contains("tags=32") && log.contains("tags=16"), "{log}");
    // A lost record is written again by those who run, also where a newcomer wrote its own in between.
    let key = "tidegate:us-east:{region}constants";
    wait_for("seniority", || (node.log().len() > 1 && beats(&redis, 11)).then_some(()));
    assert_eq!(ask(redis.server.port, &["set", key, "version=1 tags=16 hash=crc16"]), "OK");
    wait_for("the record of those who were there first", || {
        ask(redis.server.port, &["get", key]).contains("tags=32").then_some(())
    });
    assert_eq!(ask(redis.server.port, &["flushall"]), "OK");
    wait_for("the record", || {
        let kept = ask(redis.server.port, &["get", "tidegate:us-east:{region}constants"]);
        kept.contains("tags=32").then_some(())
    });
    drop(node);
}

/// What a node's gRPC health says.
#[tokio::main(flavor = "current_thread")]
async fn serving(node: &Node) -> ServingStatus {
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let asked = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(asked).await.unwrap().into_inner().status()
}

/// Whether so many heartbeats came.
fn beats(redis: &Single, count: u64) -> bool {
    let stats = ask(redis.server.port, &["info", "commandstats"]);
    let beats =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_zadd:calls=")?.split(',').next()?.parse().ok());
    beats.unwrap_or(0) >= count
}

#[test]
fn a_node_that_leaves_says_goodbye() {
    let (folder, redis) = (Folder::new(), Single::start(&[]));
    let members = || ask(redis.server.port, &["zcard", "tidegate:us-east:{region}members"]);
    let mut node = folder.node(&redis.url(), &[("TIDEGATE_WORKERS", "3")]);
    assert_eq!(members(), "1");
    assert_eq!(node.metric("tidegate_holders "), 3.0);
    node.signal("TERM");
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert_eq!(members(), "0");
}

#[test]
fn settings_that_weaken_the_promises_are_told() {
    let folder = Folder::new();
    let redis = Single::start(&["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]);
    let node = folder.node(&redis.url(), &[]);
    wait_for("advice", || {
        let advice = node.get("/ready").json()["advice"].to_string();
        (advice.contains("best effort") && advice.contains("appendonly")).then_some(())
    });
    assert_eq!(node.metric(r#"tidegate_store_advice{advice="evicts"} "#), 1.0);
    assert_eq!(node.metric(r#"tidegate_store_advice{advice="full_coverage"} "#), 0.0);
    assert!(node.log().contains("best effort"));
    // Counters whose values are kept with less memory than the limit are left alone.
    assert_eq!(node.check(CHECK).status, 200);
}

#[test]
fn a_user_with_the_rights_that_are_documented_is_enough() {
    let (folder, redis) = (Folder::new(), Cluster::start());
    // Every user of the file, the one that is switched off last.
    let users = include_str!("../../deploy/redis/users.acl");
    for line in users.lines().rev() {
        let words: Vec<&str> =
            line.split(' ').skip(1).map(|word| if word.starts_with('#') { ">s3cret" } else { word }).collect();
        for port in redis.ports().filter(|_| words[0] != "default") {
            assert_eq!(ask(port, &[&["acl", "setuser"], words.as_slice()].concat()), "OK", "{line}");
        }
    }
    for port in redis.ports() {
        assert_eq!(ask(port, &["config", "set", "masteruser", "replica", "masterauth", "s3cret"]), "OK");
        let (id, connected) = (ask(port, &["client", "kill", "type", "replica"]), "slave0:");
        let primary = |port: u16| ask(port, &["role"]).starts_with("master");
        assert!(!id.is_empty());
        wait_for("a replica that logs in anew", || {
            (!primary(port) || ask(port, &["info", "replication"]).contains(connected)).then_some(())
        });
    }
    for port in redis.ports() {
        assert_eq!(ask(port, &["acl", "log", "reset"]), "OK");
        assert_eq!(ask(port, &["acl", "setuser", "default", "off"]), "OK");
    }
    let ask = |port, words: &[&str]| {
        ask(port, &[&["--user", "admin", "--pass", "s3cret", "--no-auth-warning"], words].concat())
    };
    let secret = folder.write("password", "s3cret\n");
    let settings = [("TIDEGATE_STORE__USERNAME", "tidegate"), ("TIDEGATE_STORE__PASSWORD_FILE", secret.as_str())];
    let mut node = folder.node(&redis.url(), &settings);
    for _ in 0..11 {
        node.check(CHECK);
    }
    assert_eq!(node.check(CHECK).status, 429);
    node.signal("TERM");
    node.child.wait().unwrap();
    for port in redis.ports() {
        assert_eq!(ask(port, &["acl", "log"]), "", "nothing was refused");
    }
    assert!(!node.log().contains("s3cret"));
    let wrong = folder.write("wrong", "guess");
    let settings = [("TIDEGATE_STORE__USERNAME", "tidegate"), ("TIDEGATE_STORE__PASSWORD_FILE", wrong.as_str())];
    let node = Node::begin(serve(&folder.path("rules.yaml"), &redis.url(), &settings));
    wait_for("the grace", || (node.get("/ready").status == 200).then_some(()));
    assert_ne!(node.get("/ready").json()["store"], "ok");
}

#[test]
fn tls_is_verified() {
    let folder = Folder::new();
    let name = vec!["127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(name.clone()).unwrap();
    let other = rcgen::generate_simple_self_signed(name).unwrap();
    let certificate = folder.write("cert.pem", own.cert.pem());
    let key = folder.write("key.pem", own.signing_key.serialize_pem());
    let stranger = folder.write("stranger.pem", other.cert.pem());
    let port = free_ports(2);
    let secure = (port + 1).to_string();
    let arguments = ["--save", "", "--tls-port", &secure, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let arguments = [&arguments[..], &["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"]].concat();
    let arguments = [&arguments[..], &["--tls-protocols", "TLSv1.3"]].concat();
    let _redis = Server::start(port, folder.path("redis"), &arguments);
    let url = format!("rediss://127.0.0.1:{secure}");
    let node = folder.node(&url, &[("TIDEGATE_STORE__CA_FILE", &certificate)]);
    assert_eq!(node.check(CHECK).json()["degraded"], false);
    let deceived = Node::begin(serve(&folder.path("rules.yaml"), &url, &[("TIDEGATE_STORE__CA_FILE", &stranger)]));
    wait_for("the grace", || (deceived.get("/ready").status == 200).then_some(()));
    assert_ne!(deceived.get("/ready").json()["store"], "ok", "nobody vouches for that server");
    let none = folder.path("none.pem");
    let mut command = serve(&folder.path("rules.yaml"), &url, &[("TIDEGATE_STORE__CA_FILE", none.to_str().unwrap())]);
    assert_eq!(command.output().unwrap().status.code(), Some(78));
    assert_eq!(output(&["serve", "--region", "r", "--store", "redis://h"]).status.code(), Some(78), "no rules");
}

#[test]
fn a_key_of_a_foreign_type_hurts_itself_alone() {
    let (folder, redis) = (Folder::new(), Single::start(&[]));
    let node = folder.node(&redis.url(), &[]);
    let check = |user: &str| node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"{user}"}}}}"#)).json();
    assert_eq!(check("a")["degraded"], false);
    let key = ask(redis.server.port, &["--scan", "--pattern", "*/a"]);
    ask(redis.server.port, &["del", &key]);
    assert_eq!(ask(redis.server.port, &["lpush", &key, "x"]), "1");
    assert_eq!(check("a")["degraded"], true);
    for user in ["b", "c", "d"] {
        assert_eq!(check(user)["degraded"], false);
    }
    assert_eq!(ask(redis.server.port, &["type", &key]), "list", "what is not ours is left alone");
    ask(redis.server.port, &["del", &key]);
    assert_eq!(check("a")["degraded"], false);
}

#[test]
fn a_primary_that_stands_still_holds_up_nobody_else() {
    let (folder, redis) = (Folder::new(), Cluster::patient());
    let node = folder.node(&redis.url(), &[]);
    let check = |user: &str| node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"{user}"}}}}"#)).json();
    let users: Vec<String> = (0..60).map(|user| format!("u{user}")).collect();
    for user in &users {
        check(user);
    }
    let sick = redis.port;
    let theirs = ask(sick, &["--scan", "--pattern", "*/u*"]);
    let is_theirs = |user: &str| theirs.lines().any(|key| key.ends_with(&format!("/{user}")));
    assert!(users.iter().any(|user| is_theirs(user)) && !users.iter().all(|user| is_theirs(user)));
    redis.signal(sick, "STOP");
    // Its keys, and no others, are decided without it.
    for user in &users {
        let degraded = check(user)["degraded"] == true;
        assert!(!degraded || is_theirs(user), "{user} is another primary's");
    }
    wait_for("the primary to be missed", || {
        node.get("/ready").json()["store"].as_str().unwrap().contains(&sick.to_string()).then_some(())
    });
    redis.signal(sick, "CONT");
    wait_for("its return", || users.iter().all(|user| check(user)["degraded"] == false).then_some(()));
    wait_for("its return to be told", || (node.get("/ready").json()["store"] == "ok").then_some(()));
}

#[test]
fn the_cause_of_a_store_that_does_not_work_is_told() {
    let (folder, redis) = (Folder::new(), Single::start(&["--requirepass", "secret"]));
    let told = |url: &str, settings: &[(&str, &str)], expected: &str| {
        let node = Node::begin(serve(&folder.path("rules.yaml"), url, settings));
        wait_for(expected, || {
            let store = node.get("/ready").json()["store"].as_str().unwrap().to_owned();
            (store.contains(expected) && node.log().contains(expected)).then_some(())
        });
    };
    told(&redis.url(), &[], "NOAUTH");
    let wrong = folder.write("wrong", "guess");
    told(&redis.url(), &[("TIDEGATE_STORE__PASSWORD_FILE", &wrong)], "WRONGPASS");
    let open = Single::start(&[]);
    let port = open.server.port;
    told(&format!("redis-sentinel://127.0.0.1:{port}?sentinelServiceName=x"), &[], "knows no primary of x");
    told(&format!("redis-cluster://127.0.0.1:{}", free_ports(1)), &[], "no answer from 127.0.0.1");
}

#[test]
fn a_server_that_takes_no_writes_is_told() {
    let (folder, redis) = (Folder::new(), Cluster::patient());
    let node = folder.node(&redis.url(), &[]);
    // Not the one that hears of members: its own troubles show in heartbeats.
    let heard = |port: &u16| !ask(*port, &["--scan", "--pattern", "*constants"]).is_empty();
    let full = redis.ports().take(3).find(|port| !heard(port)).unwrap();
    assert_eq!(ask(full, &["config", "set", "maxmemory", "1mb"]), "OK");
    let ask_all = || {
        let users = 0..20;
        users.for_each(|user| drop(node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"u{user}"}}}}"#))));
    };
    let store = || node.get("/ready").json()["store"].as_str().unwrap().to_owned();
    wait_for("the cause", || {
        ask_all();
        (store().starts_with(&format!("127.0.0.1:{full}: OOM")) && node.log().contains("OOM")).then_some(())
    });
    assert_eq!(node.metric("tidegate_store_ok "), 0.0);
    assert_eq!(ask(full, &["config", "set", "maxmemory", "0"]), "OK");
    wait_for("its end", || {
        ask_all();
        (store() == "ok").then_some(())
    });
}

#[test]
fn a_cause_that_is_over_explains_nothing_that_comes_later() {
    let (folder, redis) = (Folder::new(), Single::start(&[]));
    let node = folder.node(&redis.url(), &[]);
    let port = redis.server.port;
    let store = || node.get("/ready").json()["store"].as_str().unwrap().to_owned();
    assert_eq!(ask(port, &["config", "set", "requirepass", "secret"]), "OK");
    let with = |words: &[&str]| ask(port, &[&["-a", "secret", "--no-auth-warning"], words].concat());
    with(&["client", "kill", "type", "normal"]);
    wait_for("the cause", || store().contains("NOAUTH").then_some(()));
    with(&["config", "set", "requirepass", ""]);
    wait_for("its end", || (store() == "ok").then_some(()));
    redis.server.signal("STOP");
    wait_for("another trouble", || (store() != "ok").then_some(()));
    assert!(!store().contains("NOAUTH"), "{}", store());
    redis.server.signal("CONT");
}

#[test]
fn what_is_left_without_the_store_is_what_this_node_may_still_admit() {
    let folder = Folder::new();
    let url = format!("redis://127.0.0.1:{}", free_ports(1));
    let node = Node::begin(serve(&folder.path("rules.yaml"), &url, &[("TIDEGATE_WORKERS", "1")]));
    wait_for("the end of the grace", || (node.get("/ready").status == 200).then_some(()));
    // A third of ten.
    for left in [2, 1, 0, 0] {
        let answer = node.check(CHECK);
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left.to_string().as_str()), "{answer:?}");
    }
    assert_eq!(node.check(CHECK).status, 429);
}
