//! A cluster over mutual TLS: whom it admits, and what can be read on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::node::tidegate;
use crate::support::plane::{Plane, Setup};
use crate::support::recorder::Recorder;
use crate::support::tls::{Certificates, Client};
use crate::support::wait::{TIMEOUT, wait_for};

const RULES: &str = "
version: 1
domains:
  - { domain: api, identity: key, limits: [{ name: l, per: [user], limit: 1000000, window: 1m }] }
";

#[test]
fn nodes_with_pinned_keys_form_a_cluster_and_strangers_get_nothing() {
    let settings = "log: { level: debug }".to_owned();
    let setup = Setup { settings, certificates: Some(Certificates::new()), pinned: 3, ..Setup::default() };
    let mut plane = Plane::prepare_as(3, 1, setup);
    // Its certificate is of the right authority and has its name. Its key is pinned nowhere.
    let unpinned = plane.seats.pop().unwrap();
    plane.init();
    plane.apply(0, RULES);
    let edited =
        plane.sql("UPDATE rate_limit_rules SET limit_hits = 7 WHERE name = 'l'; SELECT revision FROM config_revision");
    plane.agree(edited.lines().last().unwrap().parse().unwrap());
    for at in 0..3 {
        let rules = plane.command(at, &["rules", "list", "--output", "json"]);
        let rules: Value = serde_json::from_str(&rules).unwrap();
        assert_eq!(rules["book"]["domains"][0]["limits"][0]["limit"], 7, "{rules}");
    }

    let certificates = plane.certificates.as_ref().unwrap();
    let (cluster, admin) = (&plane.seats[0].cluster, &plane.seats[0].admin);
    let nobody = Client { protocols: vec!["h2"], ..certificates.client() };
    let rejected = nobody.get(cluster, "/").unwrap_err();
    assert!(rejected.contains("CertificateRequired"), "{rejected}");
    for text in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = say_plainly(cluster, text);
        // An alert of TLS at most.
        assert!(answer.is_empty() || answer.len() == 7 && answer[0] == 21, "{answer:?}");
    }
    for address in [cluster, admin] {
        let old = Client { version: &rustls::version::TLS12, ..certificates.client_as("n0") };
        let rejected = old.connect(address).map(|_| ()).unwrap_err();
        assert!(rejected.contains("ProtocolVersion"), "{rejected}");
    }
    assert_eq!(certificates.client().get(admin, "/admin/v1/openapi.json").unwrap().0, 200);

    plane.seats.push(unpinned);
    plane.launch(3);
    let pin = plane.pins[3].clone();
    wait_for("the rejection of a key that is not pinned", || {
        let says = |at: usize| plane.node(at).log().contains(&format!("the peer's key {pin} is none of the pinned"));
        (0..3).any(says).then_some(())
    });
    let (status, ready) = plane.get(3, "/ready");
    assert_ne!(status, 200);
    assert!(ready.contains("no member has admitted this node yet"), "{ready}");
    let members = plane.command(0, &["cluster", "members", "--output", "json"]);
    let members: Value = serde_json::from_str(&members).unwrap();
    let mut names: Vec<_> = members.as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["n0", "n1", "n2"]);

    // A voter with the certificate of another.
    plane.kill(2);
    plane.certificates.as_ref().unwrap().install("n1", "n2");
    plane.launch(2);
    wait_for("the voter's complaint", || {
        let log = plane.node(2).log();
        let complaint = log.lines().find(|line| line.contains("other nodes reject the messages of this node"))?;
        assert!(complaint.contains("the certificate of this node does not name it"), "{complaint}");
        Some(())
    });
}

/// What a peer answers to a plain client that says `text`, until it closes.
fn say_plainly(address: &str, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(text).unwrap();
    let mut answer = Vec::new();
    // The end may be a reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Creates a key at one node and uses it at another. Returns the key, and what went to the listener for checks.
fn create_and_use_a_key(plane: &Plane) -> (String, Recorder) {
    plane.apply(0, RULES);
    plane.command(0, &["users", "put", "alice"]);
    let made = plane.command(0, &["keys", "create", "--user", "alice", "--output", "json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let key = made["api_key"].as_str().unwrap().to_owned();
    let checks = Recorder::start(plane.node(1).http.clone());
    let attribute = format!("api_key={key}");
    wait_for("a check with the key", || {
        let mut check = tidegate(&["check", "--domain", "api", &attribute]);
        check.args(plane.address_of(&checks.address));
        check.output().unwrap().status.success().then_some(())
    });
    (key, checks)
}

#[test]
fn neither_keys_nor_tokens_can_be_read_on_the_wire() {
    // Without TLS, which is for loopback only, both can be: the recording works.
    let plane = Plane::prepare_as(3, 0, Setup { recorded: true, ..Setup::default() }).formed();
    let (key, checks) = create_and_use_a_key(&plane);
    let saw = |text: &str| plane.recorders.iter().any(|recorder| recorder.saw(text));
    assert!(saw(&plane.token) && saw(&key) && checks.saw(&key));
    drop(plane);

    let setup = Setup { certificates: Some(Certificates::new()), recorded: true, ..Setup::default() };
    let plane = Plane::prepare_as(3, 0, setup).formed();
    let (key, checks) = create_and_use_a_key(&plane);
    for recorder in plane.recorders.iter().chain([&checks]) {
        for secret in [&plane.token, &key] {
            assert!(!recorder.saw(secret), "{}", recorder.address);
        }
        assert!(!recorder.saw("HTTP/"), "{}", recorder.address);
    }
    let counts: Vec<usize> = plane.recorders.iter().map(Recorder::count).collect();
    println!("bytes that went to the cluster port and to the admin port of each node: {counts:?}");
    // The voters spoke to each other, and the commands to the first node.
    assert!(counts.iter().filter(|count| **count > 1000).count() >= 3 && checks.count() > 1000, "{counts:?}");
}
