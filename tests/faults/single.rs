//! Drills with one server.

use std::time::Duration;

use crate::drill::Fault;
use crate::region::Region;
use crate::servers::{Server, free_ports, redis_cli, wait_for};

const NO_PERSISTENCE: [&str; 4] = ["--save", "", "--appendonly", "no"];

#[test]
fn promises_hold_during_faults_of_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let start = |arguments: &[&str]| Server::start(port, folder.path().join("redis"), arguments);
    let server = std::cell::RefCell::new(start(&NO_PERSISTENCE));
    let mut region = Region::start(&format!("redis://127.0.0.1:{port}"), &[]);
    let signal = |name: &'static str| server.borrow().signal(name);
    region.drill(Fault::new("it stops (SIGSTOP)", |_| signal("STOP"), |_| signal("CONT")));
    let kill = |_: &mut Region| server.borrow_mut().kill();
    let back = |_: &mut Region| *server.borrow_mut() = start(&NO_PERSISTENCE);
    region.drill(Fault::new("it is killed and restarts empty", kill, back).loses_data());
    let follow = |of: &'static [&'static str]| assert_eq!(redis_cli(port, &[&["replicaof"][..], of].concat()), "OK");
    // The primary that it should follow does not exist.
    let fault =
        Fault::new("it is made a replica (READONLY)", |_| follow(&["127.0.0.1", "1"]), |_| follow(&["no", "one"]));
    region.drill(fault);
    let busy = |_: &mut Region| {
        configure(port, "busy-reply-threshold", "100");
        run_long_script(port, 2);
    };
    region.drill(Fault::new("a long script blocks it (BUSY)", busy, |_| ()).lasting(Duration::from_millis(2100)));
    let load = |_: &mut Region| {
        assert_eq!(redis_cli(port, &["save"]), "OK");
        server.borrow_mut().kill();
        // Each of the few keys takes long to load.
        let slow = ["--save", "", "--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
        *server.borrow_mut() = start(&slow);
        assert!(redis_cli(port, &["get", "x"]).contains("LOADING"), "the server is loading its file");
    };
    let loaded = |_: &mut Region| {
        wait_for("the server to load its file", || {
            redis_cli(port, &["info", "persistence"]).contains("loading:0").then_some(())
        });
    };
    region.drill(Fault::new("it restarts and loads its file (LOADING)", load, loaded).loses_data());
    region.print_report("One server, two nodes of two cores");
}

fn configure(port: u16, name: &str, value: &str) {
    assert_eq!(redis_cli(port, &["config", "set", name, value]), "OK", "{name} {value}");
}

/// Starts a script that blocks the server for this many seconds. Does not wait for its end.
#[expect(clippy::disallowed_methods, reason = "the thread ends with the script")]
fn run_long_script(port: u16, seconds: u32) {
    let script = "local t = redis.call('time')[1] + ARGV[1] while tonumber(redis.call('time')[1]) < t do end";
    std::thread::spawn(move || redis_cli(port, &["eval", script, "0", &seconds.to_string()]));
}

#[test]
fn promises_hold_while_a_server_has_another_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let certificate = |name: &str| {
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        (write(&format!("{name}.pem"), own.cert.pem()), write(&format!("{name}.key"), own.signing_key.serialize_pem()))
    };
    let [own, other] = ["own", "other"].map(certificate);
    let port = free_ports(2);
    let secure = (port + 1).to_string();
    let tls =
        ["--tls-port", &secure, "--tls-cert-file", &own.0, "--tls-key-file", &own.1, "--tls-ca-cert-file", &own.0];
    let rest = ["--tls-auth-clients", "no", "--tls-protocols", "TLSv1.3"];
    let _redis = Server::start(port, folder.path().join("redis"), &[&NO_PERSISTENCE[..], &tls, &rest].concat());
    let mut region = Region::start(&format!("rediss://127.0.0.1:{secure}"), &[("TIDEGATE_STORE__CA_FILE", &own.0)]);
    let set_certificate = |(certificate, key): &(String, String)| {
        let both = ["config", "set", "tls-cert-file", certificate, "tls-key-file", key];
        assert_eq!(redis_cli(port, &both), "OK");
        redis_cli(port, &["client", "kill", "type", "normal"]);
    };
    region.drill(Fault::new(
        "its certificate is not trusted (TLS fails)",
        |_| set_certificate(&other),
        |_| set_certificate(&own),
    ));
    region.print_report("One server with TLS, two nodes of two cores");
}
