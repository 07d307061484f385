//! `tidegate serve`: its configuration, and a rule file that changes while checks go on.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::node::{Node, output, tidegate, wait_for};

fn rules(limit: &str) -> String {
    format!(
        "version: 1\ndomains: [{{ domain: d, limits: [{{ name: l, per: [user], limit: {limit}, window: 1h }}] }}]\n"
    )
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("rules.yaml", &rules("1000000"));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }
}

/// `serve` with everything from the environment.
fn serve(rules: &Path) -> Command {
    let mut command = tidegate(&["serve"]);
    command
        .env("TIDEGATE_REGION", "us-east")
        .env("TIDEGATE_STORE__URL", "memory:")
        .env("TIDEGATE_RULES__FILE", rules)
        .env("TIDEGATE_LISTEN__HTTP", "127.0.0.1:0")
        .env("TIDEGATE_LISTEN__GRPC", "127.0.0.1:0")
        .env("TIDEGATE_LISTEN__TRUSTED_PROXIES", "127.0.0.0/8, ::1")
        .env("TIDEGATE_LOG__FORMAT", "json");
    command
}

fn errors(mut command: Command) -> (Option<i32>, Vec<String>) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap().lines().map(ToOwned::to_owned).collect())
}

#[test]
fn the_environment_is_enough() {
    let folder = Folder::new();
    let node = Node::start(serve(&folder.path("rules.yaml")));
    assert_eq!(node.check(r#"{"domain":"d","attributes":{"user":"u"}}"#).json()["limits"][0]["limit"], 1_000_000);
    let authorize = node.send("GET /v1/authorize?domain=d HTTP/1.1\r\nx-tidegate-attr-user: u", "");
    assert_eq!(authorize.header("x-ratelimit-remaining"), Some("999998"), "this test is a trusted proxy");
}

#[test]
fn every_error_of_every_source_is_told_at_once() {
    let folder = Folder::new();
    let config = "region: us east\nlisten: { http: nowhere, grpc: '0.0.0.0:1', cluster: '0.0.0.0:1' }\nstore:\n  \
                  url: redis://user:secret@h?secret=1\n  deadline: 1h\n  leese: 1s\npostgres: { url: x }\nlog: { level: loud }\n";
    folder.write("tidegate.yaml", config);
    let mut command = tidegate(&["serve", "--check", "--config", folder.path("tidegate.yaml").to_str().unwrap()]);
    command.args(["--log-level", "louder"]).env("TIDEGATE_WORKERS", "many").env("TIDEGATE_STORE__TAGS", "0");
    command.env("TIDEGATE_UNKNOWN", "1");
    let (code, errors) = errors(command);
    assert_eq!(code, Some(78));
    for expected in [
        "tidegate.yaml:1:9: region: expected",
        "TIDEGATE_WORKERS: workers: expected a whole number",
        "tidegate.yaml:2:17: listen.http: expected",
        "listen.cluster: expected an address that no other",
        "tidegate.yaml:4:8: store.url: expected only the parameter node",
        "tidegate.yaml:5:13: store.deadline: expected 1ms to 10000ms",
        "store.leese: expected one of",
        "TIDEGATE_STORE__TAGS: store.tags: expected 1 to",
        "postgres: expected nothing",
        "--log-level: log.level: expected error | warn",
        "rules.file: expected this field",
        "TIDEGATE_UNKNOWN: unknown: expected one of",
    ] {
        assert!(errors.iter().any(|line| line.contains(expected)), "{expected} is missing in {errors:#?}");
    }
    assert_eq!(errors.len(), 12, "{errors:#?}");
    assert!(!errors.concat().contains("secret"));
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let folder = Folder::new();
    let path = folder.path("rules.yaml");
    let config =
        format!("region: file\nnode: file\nstore: {{ url: 'memory:' }}\nrules: {{ file: {} }}\n", path.display());
    folder.write("tidegate.yaml", &config);
    let file = folder.path("tidegate.yaml");
    let check = |flags: &[&str], environment: &[(&str, &str)]| {
        let mut all = vec!["serve", "--check", "--output", "json", "--config", file.to_str().unwrap()];
        all.extend(flags);
        let output = tidegate(&all).envs(environment.iter().copied()).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["region"].as_str().unwrap().to_owned(), json["node"].as_str().unwrap().to_owned())
    };
    let both = |region: &str, node: &str| (region.to_owned(), node.to_owned());
    assert_eq!(check(&[], &[]), both("file", "file"));
    assert_eq!(check(&[], &[("TIDEGATE_REGION", "env"), ("TIDEGATE_NODE", "7")]), both("env", "7"));
    assert_eq!(check(&["--region", "flag"], &[("TIDEGATE_REGION", "env")]), both("flag", "file"));
}

#[test]
fn what_is_missing_or_wrong_ends_with_78() {
    let (code, missing) = errors(tidegate(&["serve"]));
    assert_eq!(code, Some(78));
    for field in ["TIDEGATE_REGION: region", "TIDEGATE_STORE__URL: store.url", "TIDEGATE_RULES__FILE: rules.file"] {
        assert!(missing.iter().any(|line| line.starts_with(field)), "{field} is missing in {missing:?}");
    }
    let folder = Folder::new();
    let absent = folder.path("absent.yaml");
    assert_eq!(errors(serve(&absent)).0, Some(78));
    assert_eq!(output(&["serve", "--config", absent.to_str().unwrap()]).status.code(), Some(78));
    let mut redis = serve(&folder.path("rules.yaml"));
    redis.env_remove("TIDEGATE_STORE__URL").env("REDIS_CLUSTER", "a:7001,b:seven");
    let (code, refused) = errors(redis);
    assert_eq!(code, Some(78));
    assert!(refused[0].starts_with("REDIS_CLUSTER: store.url: expected further hosts"), "{refused:?}");
}

fn limit(node: &Node) -> Option<u64> {
    let answer = node.check(r#"{"domain":"d","attributes":{"user":"look"},"hits":0}"#);
    answer.json()["limits"][0]["limit"].as_u64()
}

#[test]
fn every_way_of_changing_the_file_is_seen() {
    let folder = Folder::new();
    for version in ["a", "b"] {
        fs::create_dir(folder.path(version)).unwrap();
    }
    folder.write("a/rules.yaml", &rules("10"));
    folder.write("b/rules.yaml", &rules("20"));
    // As Kubernetes mounts a config map: a link to a folder that is swapped.
    std::os::unix::fs::symlink("a", folder.path("data")).unwrap();
    std::os::unix::fs::symlink("data/rules.yaml", folder.path("linked.yaml")).unwrap();
    let node = Node::start(serve(&folder.path("linked.yaml")));
    let becomes = |expected: u64| wait_for("the new limit", || (limit(&node) == Some(expected)).then_some(()));
    becomes(10);
    std::os::unix::fs::symlink("b", folder.path("next")).unwrap();
    fs::rename(folder.path("next"), folder.path("data")).unwrap();
    becomes(20);
    folder.write("b/rules.yaml", &rules("30"));
    becomes(30);
    folder.write("b/new.yaml", &rules("40"));
    fs::rename(folder.path("b/new.yaml"), folder.path("b/rules.yaml")).unwrap();
    becomes(40);
    folder.write("b/rules.yaml", &rules("50"));
    node.signal("HUP");
    becomes(50);
    // A pipe in its place, which nobody writes to, is told and holds up nothing.
    let pipe = folder.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::rename(pipe, folder.path("b/rules.yaml")).unwrap();
    wait_for("the pipe to be refused", || node.log().contains("expected a regular file").then_some(()));
    folder.write("b/new.yaml", &rules("60"));
    fs::rename(folder.path("b/new.yaml"), folder.path("b/rules.yaml")).unwrap();
    becomes(60);
}

#[test]
fn an_edit_removes_the_metric_series_of_limits_that_it_removes() {
    let folder = Folder::new();
    let node = Node::start(serve(&folder.path("rules.yaml")));
    let series = |limit: &str| {
        let label = format!("tidegate_decisions_total{{domain=\"d\",limit=\"{limit}\"");
        node.get("/metrics").body.lines().filter(|line| line.starts_with(&label)).count()
    };
    node.check(r#"{"domain":"d","attributes":{"user":"a"}}"#);
    assert!(series("l") > 0);
    folder.write("rules.yaml", &rules("5").replace("name: l", "name: other-limit"));
    wait_for("the new limit", || (limit(&node) == Some(5)).then_some(()));
    wait_for("the removal of the series", || (series("l") == 0).then_some(()));
    assert!(series("other-limit") > 0, "the series of limits in force stay");
}

#[test]
fn an_edit_under_load_fails_no_check_and_a_broken_one_changes_nothing() {
    let folder = Folder::new();
    let node = Node::start(serve(&folder.path("rules.yaml")));
    let stop = AtomicBool::new(false);
    let reads = |outcome: &str| {
        let name = format!("tidegate_rules_loads_total{{outcome=\"{outcome}\"}} ");
        let text = node.get("/metrics").body;
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|thread| {
                let (node, stop) = (&node, &stop);
                scope.spawn(move || {
                    let (mut asked, mut last) = (0u64, 0);
                    while !stop.load(Ordering::Relaxed) || asked == 0 {
                        let answer = node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"u{thread}"}}}}"#));
                        let body = answer.json();
                        let limit = body["limits"][0]["limit"].as_u64().unwrap();
                        assert!([1_000_000, 2_000_000, 4_000_000].contains(&limit), "{answer:?}");
                        assert_eq!((answer.status, body["degraded"].as_bool()), (200, Some(false)), "{answer:?}");
                        // A core may take a new book a moment later than another, and then keeps it.
                        last = last.max(limit);
                        asked += 1;
                    }
                    (asked, last)
                })
            })
            .collect();
        folder.write("rules.yaml", &rules("2000000"));
        wait_for("the edit", || (limit(&node) == Some(2_000_000)).then_some(()));
        for (count, broken) in ["version: [", "version: 1\ndomains: 5\n", "", "version: 2\n"].into_iter().enumerate() {
            folder.write("rules.yaml", broken);
            wait_for("the refusal", || (reads("refused") == count as u64 + 1).then_some(()));
            assert_eq!(limit(&node), Some(2_000_000), "after {broken:?}");
        }
        fs::remove_file(folder.path("rules.yaml")).unwrap();
        wait_for("the refusal", || (reads("refused") == 5).then_some(()));
        assert_eq!(limit(&node), Some(2_000_000), "without a file");
        folder.write("rules.yaml", &rules("4000000"));
        wait_for("the good edit", || (limit(&node) == Some(4_000_000)).then_some(()));
        stop.store(true, Ordering::Relaxed);
        for thread in load {
            let (asked, last) = thread.join().unwrap();
            assert!(asked > 10 && last >= 2_000_000, "{asked} checks, last under {last}");
        }
    });
    assert_eq!(reads("taken"), 3);
    let log = node.log();
    assert!(
        log.contains("rules.yaml:2:10: domains: expected a list") && log.contains("new rules are in force"),
        "{log}"
    );
}

#[test]
fn who_says_nothing_does_not_hold_up_the_end() {
    let folder = Folder::new();
    let mut node = Node::start(serve(&folder.path("rules.yaml")));
    // A connection that says nothing, one that begins, and one that watches health for ever.
    let silent = TcpStream::connect(&node.grpc).unwrap();
    let mut halting = TcpStream::connect(&node.grpc).unwrap();
    halting.write_all(b"PRI * HTT").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut watch = runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap();
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
        let request = tonic_health::pb::HealthCheckRequest::default();
        client.watch(request).await.unwrap().into_inner()
    });
    let first = runtime.block_on(watch.message()).unwrap().unwrap();
    assert_eq!(first.status, 1, "SERVING");
    node.signal("TERM");
    let second = runtime.block_on(watch.message()).unwrap().unwrap();
    assert_eq!(second.status, 2, "NOT_SERVING");
    // For a while it still serves, and says that it leaves.
    let ready = node.get("/ready");
    assert_eq!((ready.status, ready.json()["draining"].as_bool()), (503, Some(true)));
    assert_eq!(node.check(r#"{"domain":"d","attributes":{"user":"u"}}"#).status, 200);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert!(!node.log().contains("left before"), "{}", node.log());
    drop((silent, halting));
}

#[test]
fn errors_are_told_to_programs_too_and_those_of_the_rules_beside_those_of_the_configuration() {
    let folder = Folder::new();
    folder.write("wrong.yaml", "version: 1\ndomains:\n  - domain: d\n    limts:\n      - {}\n");
    let wrong = folder.path("wrong.yaml");
    let json = |command: &mut Command| -> serde_json::Value {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    let told = json(&mut tidegate(&["rules", "validate", wrong.to_str().unwrap(), "--output", "json"]));
    assert_eq!(told["ok"], false);
    assert_eq!((told["errors"][0]["line"].as_u64(), told["errors"][0]["column"].as_u64()), (Some(3), Some(5)));
    assert_eq!(
        (told["errors"][1]["line"].as_u64(), told["errors"][1]["field"].as_str()),
        (Some(4), Some("domains[0].limts"))
    );
    let check = ["serve", "--check", "--output", "json", "--region", "r", "--store", "memory:", "--log-level", "loud"];
    let mut command = tidegate(&check);
    let told = json(command.args(["--rules", wrong.to_str().unwrap()]));
    let fields: Vec<&str> = told["errors"].as_array().unwrap().iter().filter_map(|e| e["field"].as_str()).collect();
    assert!(fields.contains(&"log.level") && fields.contains(&"domains[0].limts"), "{fields:?}");
}
