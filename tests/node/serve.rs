//! `tidegate serve`: its configuration, its shutdown, and rule files that change under load.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic_health::pb::health_check_response::ServingStatus;

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

/// Returns a `serve` command whose configuration comes from the environment only.
fn serve_from_environment(rules: &Path) -> Command {
    let mut command = tidegate(&["serve"]);
    command
        .env("TIDEGATE_REGION", "us-east")
        .env("TIDEGATE_STORE__URL", "memory:")
        .env("TIDEGATE_RULES__FILE", rules)
        .env("TIDEGATE_LISTEN__HTTP", "127.0.0.1:0")
        .env("TIDEGATE_LISTEN__GRPC", "127.0.0.1:0")
        .env("TIDEGATE_LISTEN__TRUSTED_PROXIES", "127.0.0.0/8, ::1")
        .env("TIDEGATE_LISTEN__ATTRIBUTE_HEADERS", "tier, user")
        .env("TIDEGATE_LOG__FORMAT", "json");
    command
}

/// Runs a command and returns its exit code and the lines of its standard error output.
fn exit_code_and_errors(mut command: Command) -> (Option<i32>, Vec<String>) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap().lines().map(ToOwned::to_owned).collect())
}

#[test]
fn a_node_can_be_configured_by_the_environment_alone() {
    let folder = Folder::new();
    let node = Node::start(serve_from_environment(&folder.path("rules.yaml")));
    assert_eq!(node.check(r#"{"domain":"d","attributes":{"user":"u"}}"#).json()["limits"][0]["limit"], 1_000_000);
    let authorize = node.send("GET /v1/authorize?domain=d HTTP/1.1\r\nx-tidegate-attr-user: u", "");
    assert_eq!(
        authorize.header("x-ratelimit-remaining"),
        Some("999998"),
        "the address of this test is a trusted proxy"
    );
}

#[test]
fn every_configuration_error_is_reported_at_once() {
    let folder = Folder::new();
    let config = "region: us east\nlisten: { http: nowhere, grpc: '0.0.0.0:1', cluster: '0.0.0.0:1' }\nstore:\n  \
                  url: redis://user:secret@h?secret=1\n  deadline: 1h\n  leese: 1s\nkafka: { brokers: x }\nlog: { level: loud }\n";
    folder.write("tidegate.yaml", config);
    let mut command = tidegate(&["serve", "--check", "--config", folder.path("tidegate.yaml").to_str().unwrap()]);
    command.args(["--log-level", "louder"]).env("TIDEGATE_WORKERS", "many").env("TIDEGATE_STORE__TAGS", "0");
    command.env("TIDEGATE_UNKNOWN", "1");
    let (code, errors) = exit_code_and_errors(command);
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
        "kafka: expected nothing",
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
fn flags_override_the_environment_and_the_environment_overrides_the_file() {
    let folder = Folder::new();
    let path = folder.path("rules.yaml");
    let config =
        format!("region: file\nnode: file\nstore: {{ url: 'memory:' }}\nrules: {{ file: {} }}\n", path.display());
    folder.write("tidegate.yaml", &config);
    let file = folder.path("tidegate.yaml");
    let region_and_node = |flags: &[&str], environment: &[(&str, &str)]| {
        let mut arguments = vec!["serve", "--check", "--output", "json", "--config", file.to_str().unwrap()];
        arguments.extend(flags);
        let output = tidegate(&arguments).envs(environment.iter().copied()).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["region"].as_str().unwrap().to_owned(), json["node"].as_str().unwrap().to_owned())
    };
    let expected = |region: &str, node: &str| (region.to_owned(), node.to_owned());
    assert_eq!(region_and_node(&[], &[]), expected("file", "file"));
    assert_eq!(region_and_node(&[], &[("TIDEGATE_REGION", "env"), ("TIDEGATE_NODE", "7")]), expected("env", "7"));
    assert_eq!(region_and_node(&["--region", "flag"], &[("TIDEGATE_REGION", "env")]), expected("flag", "file"));
}

#[test]
fn missing_or_invalid_configuration_exits_with_78() {
    let (code, missing) = exit_code_and_errors(tidegate(&["serve"]));
    assert_eq!(code, Some(78));
    for field in ["TIDEGATE_REGION: region", "TIDEGATE_STORE__URL: store.url", "TIDEGATE_RULES__FILE: rules.file"] {
        assert!(missing.iter().any(|line| line.starts_with(field)), "{field} is missing in {missing:?}");
    }
    let folder = Folder::new();
    let absent = folder.path("absent.yaml");
    assert_eq!(exit_code_and_errors(serve_from_environment(&absent)).0, Some(78));
    assert_eq!(output(&["serve", "--config", absent.to_str().unwrap()]).status.code(), Some(78));
    let mut redis = serve_from_environment(&folder.path("rules.yaml"));
    redis.env_remove("TIDEGATE_STORE__URL").env("REDIS_CLUSTER", "a:7001,b:seven");
    let (code, invalid) = exit_code_and_errors(redis);
    assert_eq!(code, Some(78));
    assert!(invalid[0].starts_with("REDIS_CLUSTER: store.url: expected further hosts"), "{invalid:?}");
}

/// Returns the limit that the node applies now. The check is a peek, so it charges nothing.
fn current_limit(node: &Node) -> Option<u64> {
    let answer = node.check(r#"{"domain":"d","attributes":{"user":"peek"},"hits":0}"#);
    answer.json()["limits"][0]["limit"].as_u64()
}

#[test]
fn the_node_follows_the_rule_file_however_it_is_replaced() {
    let folder = Folder::new();
    for version in ["a", "b"] {
        fs::create_dir(folder.path(version)).unwrap();
    }
    folder.write("a/rules.yaml", &rules("10"));
    folder.write("b/rules.yaml", &rules("20"));
    // Kubernetes mounts a config map like this: the path goes through a symbolic link, which is swapped.
    std::os::unix::fs::symlink("a", folder.path("data")).unwrap();
    std::os::unix::fs::symlink("data/rules.yaml", folder.path("linked.yaml")).unwrap();
    let node = Node::start(serve_from_environment(&folder.path("linked.yaml")));
    let wait_for_limit =
        |expected: u64| wait_for("the new limit", || (current_limit(&node) == Some(expected)).then_some(()));
    wait_for_limit(10);
    std::os::unix::fs::symlink("b", folder.path("next")).unwrap();
    fs::rename(folder.path("next"), folder.path("data")).unwrap();
    wait_for_limit(20);
    folder.write("b/rules.yaml", &rules("30"));
    wait_for_limit(30);
    folder.write("b/new.yaml", &rules("40"));
    fs::rename(folder.path("b/new.yaml"), folder.path("b/rules.yaml")).unwrap();
    wait_for_limit(40);
    folder.write("b/rules.yaml", &rules("50"));
    node.signal("HUP");
    wait_for_limit(50);
    // A pipe without a writer is reported as invalid, and the watcher does not block on it.
    let pipe = folder.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::rename(pipe, folder.path("b/rules.yaml")).unwrap();
    wait_for("the error about the pipe", || node.log().contains("expected a regular file").then_some(()));
    folder.write("b/new.yaml", &rules("60"));
    fs::rename(folder.path("b/new.yaml"), folder.path("b/rules.yaml")).unwrap();
    wait_for_limit(60);
}

#[test]
fn removing_a_limit_removes_its_metric_series() {
    let folder = Folder::new();
    let node = Node::start(serve_from_environment(&folder.path("rules.yaml")));
    let count_series = |limit: &str| {
        let label = format!("tidegate_decisions_total{{domain=\"d\",limit=\"{limit}\"");
        node.get("/metrics").body.lines().filter(|line| line.starts_with(&label)).count()
    };
    node.check(r#"{"domain":"d","attributes":{"user":"a"}}"#);
    assert!(count_series("l") > 0);
    folder.write("rules.yaml", &rules("5").replace("name: l", "name: other-limit"));
    wait_for("the new limit", || (current_limit(&node) == Some(5)).then_some(()));
    wait_for("the removal of the series", || (count_series("l") == 0).then_some(()));
    assert!(count_series("other-limit") > 0, "the series of the limit in force must remain");
    folder.write("rules.yaml", &rules("5").replace("domain: d", "domain: e"));
    wait_for("the removal of the domain's series", || {
        (!node.get("/metrics").body.contains("tidegate_checks_total{domain=\"d\"")).then_some(())
    });
}

#[test]
fn a_rule_change_under_load_fails_no_check_and_an_invalid_one_is_ignored() {
    let folder = Folder::new();
    let node = Node::start(serve_from_environment(&folder.path("rules.yaml")));
    let stop = AtomicBool::new(false);
    let load_count = |outcome: &str| {
        let name = format!("tidegate_rules_loads_total{{outcome=\"{outcome}\"}} ");
        let text = node.get("/metrics").body;
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (node, stop) = (&node, &stop);
                scope.spawn(move || {
                    let (mut checks, mut max_limit) = (0u64, 0);
                    while !stop.load(Ordering::Relaxed) || checks == 0 {
                        let answer = node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"u{client}"}}}}"#));
                        let body = answer.json();
                        let limit = body["limits"][0]["limit"].as_u64().unwrap();
                        assert!([1_000_000, 2_000_000, 4_000_000].contains(&limit), "{answer:?}");
                        assert_eq!((answer.status, body["degraded"].as_bool()), (200, Some(false)), "{answer:?}");
                        // One core may switch to new rules a moment later than another, and then keeps them.
                        max_limit = max_limit.max(limit);
                        checks += 1;
                    }
                    (checks, max_limit)
                })
            })
            .collect();
        folder.write("rules.yaml", &rules("2000000"));
        wait_for("the new limit", || (current_limit(&node) == Some(2_000_000)).then_some(()));
        for (count, invalid) in ["version: [", "version: 1\ndomains: 5\n", "", "version: 2\n"].into_iter().enumerate() {
            folder.write("rules.yaml", invalid);
            wait_for("the rules to be reported as invalid", || {
                (load_count("refused") == count as u64 + 1).then_some(())
            });
            assert_eq!(current_limit(&node), Some(2_000_000), "after {invalid:?}");
        }
        fs::remove_file(folder.path("rules.yaml")).unwrap();
        wait_for("the rules to be reported as invalid", || (load_count("refused") == 5).then_some(()));
        assert_eq!(current_limit(&node), Some(2_000_000), "after the file was removed");
        folder.write("rules.yaml", &rules("4000000"));
        wait_for("the new limit", || (current_limit(&node) == Some(4_000_000)).then_some(()));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (checks, max_limit) = client.join().unwrap();
            assert!(checks > 10 && max_limit >= 2_000_000, "{checks} checks, maximum limit {max_limit}");
        }
    });
    assert_eq!(load_count("taken"), 3);
    let log = node.log();
    assert!(
        log.contains("rules.yaml:2:10: domains: expected a list") && log.contains("new rules are in force"),
        "{log}"
    );
}

#[test]
fn a_node_warns_of_the_limit_of_open_files_only_if_raising_it_does_not_suffice() {
    let folder = Folder::new();
    let serve = ["serve", "--region", "r", "--store", "memory:", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
    let dev = ["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
    let rules = folder.path("rules.yaml").display().to_string();
    for (arguments, limits, max_connections, warns) in [
        // The hard limit of a kernel without further settings is 4,096, and the soft limit is 1,024.
        (&dev[..], "ulimit -Hn 4096; ulimit -Sn 1024", None, false),
        (&serve[..], "ulimit -Hn 4096; ulimit -Sn 1024", Some("1000"), false),
        (&serve[..], "ulimit -Hn 4096; ulimit -Sn 1024", Some("10000"), true),
        (&serve[..], "ulimit -Hn 4096; ulimit -Sn 1024", None, true),
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limits}; exec \"$@\""), "sh", crate::node::TIDEGATE]).args(arguments);
        command.args(["--rules", &rules, "--log-format", "json"]).env_clear();
        command.envs(max_connections.map(|most| ("TIDEGATE_LIMITS__MAX_CONNECTIONS", most)));
        let log = Node::start(command).log();
        assert_eq!(log.contains("limit of open files"), warns, "{arguments:?}, {max_connections:?}: {log}");
    }
}

#[test]
fn ready_says_that_the_newest_rules_were_rejected_and_which_stay_in_force() {
    let folder = Folder::new();
    let file = folder.path("rules.yaml").display().to_string();
    let node = Node::start(serve_from_environment(&folder.path("rules.yaml")));
    let revision = node.get("/ready").json()["revision"].clone();
    assert_eq!(
        (&node.get("/ready").json()["rejected_rules"], node.metric("tidegate_rules_ok ")),
        (&serde_json::Value::Null, 1.0)
    );
    let long = format!("version: 1\ndomains: [{{ domain: d, limits: [], {}: 1 }}]\n", "x".repeat(10_000));
    for (text, error, errors) in [
        ("version: [", "rules.yaml:2:1: expected YAML", 1),
        ("version: 1\ndomains: 5\n", "rules.yaml:2:10: domains: expected a list", 1),
        ("version: 2\ndomains:\n  - limits: 1\n", "rules.yaml:1:10: version: expected 1", 3),
        (&long, ": domains[0].xxxx", 1),
    ] {
        folder.write("rules.yaml", text);
        let rejected = wait_for("the rejection", || {
            let rejected = node.get("/ready").json()["rejected_rules"].clone();
            rejected["error"].as_str()?.contains(error).then_some(rejected)
        });
        assert_eq!((&rejected["file"], &rejected["errors"]), (&file.as_str().into(), &errors.into()), "{rejected}");
        assert_eq!(rejected["in_force"], revision, "{rejected}");
        assert!(rejected["error"].as_str().unwrap().chars().count() <= 501, "{rejected}");
        let ready = node.get("/ready");
        assert_eq!(
            (ready.status, &ready.json()["revision"]),
            (200, &revision),
            "the old rules are in force: {ready:?}"
        );
        assert_eq!(node.metric("tidegate_rules_ok "), 0.0);
    }
    fs::remove_file(folder.path("rules.yaml")).unwrap();
    let rejected = || node.get("/ready").json()["rejected_rules"].clone();
    wait_for("the missing file", || rejected()["error"].as_str()?.contains("No such file").then_some(()));
    // The file comes back as it was: its text is as wrong as before.
    folder.write("rules.yaml", &long);
    wait_for("the rejection of the text", || rejected()["error"].as_str()?.contains("xxxx").then_some(()));
    // The rules in force, again.
    folder.write("rules.yaml", &rules("1000000"));
    wait_for("the end of the rejection", || rejected().is_null().then_some(()));
    assert_eq!(node.metric("tidegate_rules_ok "), 1.0);
}

#[test]
fn idle_connections_do_not_delay_shutdown() {
    let folder = Folder::new();
    let mut node = Node::start(serve_from_environment(&folder.path("rules.yaml")));
    // A silent connection, one that sends half of the HTTP/2 preface, and one with an endless health stream.
    let silent = TcpStream::connect(&node.grpc).unwrap();
    let mut half_open = TcpStream::connect(&node.grpc).unwrap();
    half_open.write_all(b"PRI * HTT").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut watch = runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap();
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
        let request = tonic_health::pb::HealthCheckRequest::default();
        client.watch(request).await.unwrap().into_inner()
    });
    let mut next_status = || runtime.block_on(watch.message()).unwrap().unwrap().status();
    // HTTP may say that the node is ready a moment before gRPC does.
    while next_status() != ServingStatus::Serving {}
    node.signal("TERM");
    assert_eq!(next_status(), ServingStatus::NotServing);
    // The node serves for a while longer and reports that it is draining.
    let ready = node.get("/ready");
    assert_eq!((ready.status, ready.json()["draining"].as_bool()), (503, Some(true)));
    assert_eq!(node.check(r#"{"domain":"d","attributes":{"user":"u"}}"#).status, 200);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert!(!node.log().contains("left before"), "{}", node.log());
    drop((silent, half_open));
}

#[test]
fn json_output_lists_configuration_errors_and_rule_errors_together() {
    let folder = Folder::new();
    folder.write("invalid.yaml", "version: 1\ndomains:\n  - domain: d\n    limts:\n      - {}\n");
    let invalid = folder.path("invalid.yaml");
    let run = |command: &mut Command| -> serde_json::Value {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    let report = run(&mut tidegate(&["rules", "validate", invalid.to_str().unwrap(), "--output", "json"]));
    assert_eq!(report["ok"], false);
    assert_eq!((report["errors"][0]["line"].as_u64(), report["errors"][0]["column"].as_u64()), (Some(3), Some(5)));
    assert_eq!(
        (report["errors"][1]["line"].as_u64(), report["errors"][1]["field"].as_str()),
        (Some(4), Some("domains[0].limts"))
    );
    let arguments =
        ["serve", "--check", "--output", "json", "--region", "r", "--store", "memory:", "--log-level", "loud"];
    let mut command = tidegate(&arguments);
    let report = run(command.args(["--rules", invalid.to_str().unwrap()]));
    let fields: Vec<&str> = report["errors"].as_array().unwrap().iter().filter_map(|e| e["field"].as_str()).collect();
    assert!(fields.contains(&"log.level") && fields.contains(&"domains[0].limts"), "{fields:?}");
}
