//! Faults of one server.

use std::time::Duration;

use crate::alone;
use crate::drill::Fault;
use crate::region::Region;
use crate::servers::{Server, ask, free_ports, wait_for};

const NOTHING_KEPT: [&str; 4] = ["--save", "", "--appendonly", "no"];

#[test]
fn one_server_under_fire() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let start = |arguments: &[&str]| Server::start(port, folder.path().join("redis"), arguments);
    let server = std::cell::RefCell::new(start(&NOTHING_KEPT));
    let mut region = Region::start(&format!("redis://127.0.0.1:{port}"), &[]);
    let signal = |name: &'static str| server.borrow().signal(name);
    region.drill(Fault::new("it stops (SIGSTOP)", |_| signal("STOP"), |_| signal("CONT")));
    let kill = |_: &mut Region| server.borrow_mut().kill();
    let back = |_: &mut Region| *server.borrow_mut() = start(&NOTHING_KEPT);
    region.drill(Fault::new("it is killed, and comes back empty", kill, back).forgets());
    let follow = |of: &'static [&'static str]| assert_eq!(ask(port, &[&["replicaof"][..], of].concat()), "OK");
    // It would follow a primary that is not there.
    let fault =
        Fault::new("it is made a replica (READONLY)", |_| follow(&["127.0.0.1", "1"]), |_| follow(&["no", "one"]));
    region.drill(fault);
    let busy = |_: &mut Region| {
        configure(port, "busy-reply-threshold", "100");
        spin(port, 2);
    };
    region.drill(Fault::new("somebody's script holds it up (BUSY)", busy, |_| ()).lasts(Duration::from_millis(2100)));
    let load = |_: &mut Region| {
        assert_eq!(ask(port, &["save"]), "OK");
        server.borrow_mut().kill();
        // Each of its few keys takes long to load.
        let slow = ["--save", "", "--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
        *server.borrow_mut() = start(&slow);
        assert!(ask(port, &["get", "x"]).contains("LOADING"), "it loads");
    };
    let loaded = |_: &mut Region| {
        wait_for("the end of loading", || ask(port, &["info", "persistence"]).contains("loading:0").then_some(()));
    };
    region.drill(Fault::new("it restarts, and loads its file (LOADING)", load, loaded).forgets());
    region.report("One server, two nodes of two cores");
}

fn configure(port: u16, name: &str, value: &str) {
    assert_eq!(ask(port, &["config", "set", name, value]), "OK", "{name} {value}");
}

/// Runs a script that ends after so many seconds, and does not wait for it.
#[expect(clippy::disallowed_methods, reason = "it ends by itself")]
fn spin(port: u16, seconds: u32) {
    let script = "local t = redis.call('time')[1] + ARGV[1] while tonumber(redis.call('time')[1]) < t do end";
    std::thread::spawn(move || ask(port, &["eval", script, "0", &seconds.to_string()]));
}

#[test]
fn a_server_whose_certificate_is_another() {
    let _alone = alone();
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
    let _redis = Server::start(port, folder.path().join("redis"), &[&NOTHING_KEPT[..], &tls, &rest].concat());
    let mut region = Region::start(&format!("rediss://127.0.0.1:{secure}"), &[("TIDEGATE_STORE__CA_FILE", &own.0)]);
    let show = |(certificate, key): &(String, String)| {
        let both = ["config", "set", "tls-cert-file", certificate, "tls-key-file", key];
        assert_eq!(ask(port, &both), "OK");
        ask(port, &["client", "kill", "type", "normal"]);
    };
    region.drill(Fault::new("its certificate is a stranger's (TLS fails)", |_| show(&other), |_| show(&own)));
    region.report("One server with TLS, two nodes of two cores");
}
