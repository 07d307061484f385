//! The commands of the binary, run as a user runs them.

use std::process::Stdio;

use crate::node::{Node, output, tidegate, wait_for};

#[test]
fn a_limit_of_five_admits_five_checks_over_http_and_from_the_command_line() {
    let node = Node::dev(&[]);
    let check = || node.check(r#"{"domain":"demo","attributes":{"user":"u1"}}"#).status;
    assert_eq!([check(), check(), check(), check(), check(), check()], [200, 200, 200, 200, 200, 429]);
    for (user, address) in [("user=u2", format!("http://{}", node.http)), ("user=u3", format!("grpc://{}", node.grpc))]
    {
        let check = || output(&["check", "--addr", &address, "--domain", "demo", user]).status.code().unwrap();
        assert_eq!([check(), check(), check(), check(), check(), check()], [0, 0, 0, 0, 0, 3], "{address}");
    }
}

#[test]
fn check_prints_the_same_answer_over_http_and_grpc() {
    let node = Node::dev(&[]);
    let check = |address: String, user: &str| {
        let output = output(&["check", "--output", "json", "--addr", &address, "--domain", "demo", user]);
        let mut json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["request_id"].take();
        json["limits"][0]["reset_ms"].take();
        json
    };
    let http = check(format!("http://{}", node.http), "user=a");
    assert_eq!(http, check(format!("grpc://{}", node.grpc), "user=b"));
    assert_eq!(http["limits"][0]["remaining"], 4);
    let table = output(&["check", "--addr", &format!("http://{}", node.http), "--domain", "demo", "user=a"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("allowed") && table.contains("five-per-minute"), "{table}");
    assert!(!table.contains('\u{1b}'), "there must be no colours if the output is no terminal");
}

#[test]
fn an_invalid_rule_file_exits_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, "version: 1\ndomains:\n  - domain: a\n    limits: [{ name: x }]\n").unwrap();
    let name = file.to_str().unwrap();
    for args in [&["rules", "validate", name][..], &["dev", "--rules", name]] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(78));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("rules.yaml:4:14: domains[0].limits[0].per: expected"), "{errors}");
        assert!(errors.contains("domains[0].limits[0].window: expected"), "{errors}");
    }
}

#[test]
fn a_second_node_on_the_same_port_fails() {
    let node = Node::dev(&[]);
    let second = output(&["dev", "--http", &node.http, "--grpc", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains(&node.http));
}

#[test]
fn a_node_exits_with_0_after_a_signal() {
    for signal in ["TERM", "INT"] {
        let mut node = Node::dev(&[]);
        assert_eq!(node.check(r#"{"domain":"demo","attributes":{"user":"u1"}}"#).status, 200);
        node.signal(signal);
        let status = wait_for("the node to exit", || node.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", node.log());
    }
}

#[test]
fn the_command_line_reports_errors_the_version_and_completions() {
    assert_eq!(output(&["nonsense"]).status.code(), Some(2));
    assert_eq!(output(&["check", "--domain", "d", "=x"]).status.code(), Some(2));
    let version = String::from_utf8(output(&["--version"]).stdout).unwrap();
    assert!(version.starts_with(concat!("tidegate ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&["completions", shell]);
        assert!(script.status.success() && String::from_utf8(script.stdout).unwrap().contains("tidegate"));
    }
    let unreachable = output(&["check", "--addr", "http://127.0.0.1:1", "--domain", "d"]);
    assert_eq!(unreachable.status.code(), Some(1));
    assert_eq!(tidegate(&["check", "--addr", "ftp://x", "--domain", "d"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn a_closed_output_pipe_is_no_error() {
    for args in [&["rules", "schema"][..], &["completions", "bash"], &["simulate", "--seeds", "1"]] {
        let mut child = tidegate(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Closes the reading end of the pipe.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), errors.contains("panicked")), (Some(0), false), "{args:?}: {errors}");
    }
}
