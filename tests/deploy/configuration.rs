//! Each file of a region is valid for the program that reads it, and the files of a region name each other's addresses.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::files::{LOAD_BALANCERS, REGIONS, deploy};
use crate::namespace;
use crate::wait::wait_for;

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let Output { status, stdout, stderr } = output;
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

#[test]
fn haproxy_and_gdnsd_accept_their_files() {
    for (region, [address, _]) in REGIONS.into_iter().zip(LOAD_BALANCERS) {
        let mut command = Command::new("haproxy");
        command.args(["-c", "-f", "../haproxy/common.cfg", "-f", "haproxy.cfg"]);
        run(command.current_dir(deploy(region)).env("ADDRESS", address));
        run(&mut command);
    }
    run(Command::new("gdnsd").args(["-S", "-c"]).arg(deploy("geodns")).arg("checkconf"));
}

#[test]
fn envoy_accepts_the_gateways() {
    let envoy = run(&mut Command::new(deploy("../../scripts/envoy")));
    for region in REGIONS {
        let mut command = Command::new(envoy.trim());
        run(command.args(["--mode", "validate", "-c", "envoy.yaml"]).current_dir(deploy(region)));
    }
    // `--mode validate` does not read files that Envoy watches: the listener is validated as a static one.
    let listener = text(&deploy("envoy/listeners.yaml"));
    let (_, listener) = listener.split_once("resources:\n").unwrap();
    let typed = "- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n  name";
    assert!(listener.starts_with(typed), "{listener}");
    let listener = listener.replace(typed, "- name").replace('\n', "\n  ");
    let bootstrap = text(&deploy("us-east/envoy.yaml"));
    let (before, rest) = bootstrap.split_once("dynamic_resources:\n").unwrap();
    let (_, clusters) = rest.split_once("static_resources:\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    std::fs::write(&path, format!("{before}static_resources:\n  listeners:\n  {listener}\n{clusters}")).unwrap();
    run(Command::new(envoy.trim()).args(["--mode", "validate", "-c"]).arg(path));
}

#[test]
fn tidegate_accepts_the_configuration_of_every_node_and_the_rules() {
    let tidegate = || Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("etc");
    run(tidegate().args(["cluster", "ca"]).arg(&files).args(["--node", "node", "--host", "10.1.0.11"]));
    for name in ["postgres.password", "owner.token"] {
        std::fs::write(files.join(name), "0123456789abcdef0123456789abcdef").unwrap();
    }
    for (number, region) in (1..).zip(REGIONS) {
        let settings = text(&deploy(region).join("config.yaml"));
        let settings = settings.replace("/etc/tidegate", files.to_str().unwrap());
        let path = folder.path().join(format!("{region}.yaml"));
        std::fs::write(&path, settings).unwrap();
        let mut check = tidegate();
        check.args(["serve", "--check", "--config"]).arg(path).env("TIDEGATE_NODE", format!("{region}-1"));
        let checked = run(check.env("TIDEGATE_CLUSTER__ADVERTISE", format!("10.{number}.0.11:8082")));
        assert!(checked.contains(region), "{checked}");
    }
    run(tidegate().args(["rules", "validate"]).arg(deploy("rules.yaml")));
}

struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn redis_starts_with_the_files_and_forgets_nothing_when_it_is_full() {
    let addresses: Vec<String> = (1..=REGIONS.len()).map(|number| format!("10.{number}.0.21/32")).collect();
    let test = "configuration::redis_starts_with_the_files_and_forgets_nothing_when_it_is_full";
    if !namespace::enter(test, &addresses) {
        return;
    }
    for (number, region) in (1..).zip(REGIONS) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["redis.conf", "--port", "7001", "--dir"]).arg(folder.path()).current_dir(deploy(region));
        let _redis = Redis(command.stdout(Stdio::null()).spawn().unwrap());
        let address = format!("10.{number}.0.21");
        let ask = |arguments: &[&str]| {
            let mut command = Command::new("redis-cli");
            command.args(["-h", &address, "-p", "7001"]).args(arguments).stderr(Stdio::null());
            String::from_utf8(command.output().unwrap().stdout).unwrap().trim().replace('\n', " ")
        };
        wait_for("Redis to respond", || (ask(&["ping"]) == "PONG").then_some(()));
        assert_eq!(ask(&["config", "get", "maxmemory-policy"]), "maxmemory-policy noeviction", "{region}");
        // From the file that all share.
        assert_eq!(ask(&["config", "get", "cluster-require-full-coverage"]), "cluster-require-full-coverage no");
        assert!(ask(&["cluster", "info"]).contains("cluster_known_nodes:1"), "{region}");
    }
}

/// Every address that a region's own files name, by its last part: `.11` and `.12` are nodes, and so on.
#[test]
fn the_files_of_a_region_name_the_same_addresses() {
    for (number, region) in (1..).zip(REGIONS) {
        let network = format!("10.{number}.0.");
        let named = |file: &str, before: &str, after: &str| -> BTreeSet<String> {
            let text = text(&deploy(region).join(file));
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
            let text = lines.join("\n");
            let found = text.split(before).skip(1).filter_map(|rest| rest.split_once(after));
            found.map(|(found, _)| found.to_owned()).filter(|found| found.starts_with(&network)).collect()
        };
        let set = |parts: &[&str]| parts.iter().map(|part| format!("{network}{part}")).collect::<BTreeSet<String>>();
        assert_eq!(named("envoy.yaml", "address: ", ", port_value: 8081"), set(&["11", "12"]), "{region}: nodes");
        assert_eq!(named("envoy.yaml", "address: ", ", port_value: 8000"), set(&["51"]), "{region}: application");
        assert_eq!(named("haproxy.cfg", "server gateway-1 ", "\n"), set(&["41:10000"]), "{region}: gateways");
        assert_eq!(named("redis.conf", "bind ", "\n"), set(&["21"]), "{region}: Redis");
        assert!(text(&deploy(region).join("config.yaml")).contains(&format!("redis-cluster://{network}21:7001")));
        let replica = if number == 1 { "32:5432" } else { "31:5432" };
        assert_eq!(named("config.yaml", "replica: ", "\n"), set(&[replica]), "{region}: PostgreSQL");
    }
}

#[test]
fn route_53_and_gdnsd_have_the_same_load_balancers_and_health_checks() {
    let json = |file: &str| -> Value { serde_json::from_str(&text(&deploy("geodns/route53").join(file))).unwrap() };
    let (records, checks) = (json("records.json"), json("health-checks.json"));
    let checks = checks.as_array().unwrap();
    let gdnsd = text(&deploy("geodns/config"));
    for (region, addresses) in REGIONS.into_iter().zip(LOAD_BALANCERS) {
        let [first, second] = addresses;
        assert!(gdnsd.contains(&format!("{region} => {{ lb-1 => {first}, lb-2 => {second} }}")), "{region}");
        let sets = records["Changes"].as_array().unwrap().iter().map(|change| &change["ResourceRecordSet"]);
        let set = sets.clone().find(|set| set["SetIdentifier"] == region).unwrap();
        assert_eq!(set["Name"], "api.example.com.");
        assert_eq!(set["ResourceRecords"], serde_json::json!([{ "Value": first }, { "Value": second }]), "{region}");
        let checked = checks.iter().find(|check| check["CallerReference"] == region).unwrap();
        assert_eq!(set["HealthCheckId"], format!("ID-OF-{region}"));
        for (number, address) in (1..).zip(addresses) {
            let name = format!("{region}-lb-{number}");
            let check = checks.iter().find(|check| check["CallerReference"] == name.as_str()).unwrap();
            assert_eq!(check["HealthCheckConfig"]["IPAddress"], address);
            assert_eq!(check["HealthCheckConfig"]["ResourcePath"], "/readyz");
            let children = checked["HealthCheckConfig"]["ChildHealthChecks"].as_array().unwrap();
            assert!(children.contains(&format!("ID-OF-{name}").into()), "{name}");
        }
    }
    assert!(gdnsd.contains("url_path => /readyz"));
}
