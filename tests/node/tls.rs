//! HTTP and gRPC over TLS: who gets in, what happens when certificates change, and clients that misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use limiter::{NodeTime, WallTime};
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tidegate::ports::Clock;
use tidegate::telemetry::registry::MetricsRegistry;
use tidegate::tls::metrics::TlsMetrics;
use tidegate::tls::peers::PeerSecurity;
use tidegate::tls::settings::{IdentityFiles, MutualFiles};
use tonic::transport::Endpoint;

use crate::node::{Node, output, serve_command, wait_for};
use crate::support::tls::{Certificates, Client};
use crate::support::wait::TIMEOUT;

/// One limit, which only a client from loopback matches.
const RULES: &str = "
version: 1
domains:
  - { domain: d, default: deny, limits: [{ name: l, match: { ip: 127.0.0.1 }, per: [ip], limit: 1000, window: 1m }] }
";
const CHECK: &str = "/v1/authorize?domain=d";

/// A node with TLS.
pub struct Secured {
    pub node: Node,
    pub certificates: Certificates,
    _rules: tempfile::TempDir,
}

impl Secured {
    /// Starts a node with the certificate `server` and these further settings.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(Certificates::new(), settings)
    }

    pub fn start_with(certificates: Certificates, settings: &[(&str, &str)]) -> Self {
        let rules = tempfile::tempdir().unwrap();
        std::fs::write(rules.path().join("rules.yaml"), RULES).unwrap();
        let (cert, key) = (certificates.text("server.pem"), certificates.text("server-key.pem"));
        let tls = [("TIDEGATE_TLS__CERT_FILE", &*cert), ("TIDEGATE_TLS__KEY_FILE", &*key)];
        let settings = [&tls[..], settings].concat();
        let node = Node::spawn(serve_command(&rules.path().join("rules.yaml"), "memory:", &settings));
        Self { node, certificates, _rules: rules }
    }

    /// Waits until the node is ready for `client`, which it lets in.
    pub fn wait_until_ready(&self, client: &Client) {
        wait_for("readiness over TLS", || (client.get(&self.node.http, "/ready").ok()?.0 == 200).then_some(()));
    }

    /// The value of a metric, as `client` reads it.
    fn metric(&self, client: &Client, name: &str) -> f64 {
        let text = client.get(&self.node.http, "/metrics").unwrap().1;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    fn closed(&self, client: &Client, face: &str, reason: &str) -> f64 {
        self.metric(client, &format!(r#"tidegate_connections_closed_total{{face="{face}",reason="{reason}"}} "#))
    }

    fn wait_until_closed(&self, client: &Client, face: &str, reason: &str, times: f64) {
        wait_for("a closed connection to be counted", || (self.closed(client, face, reason) >= times).then_some(()));
    }
}

/// A clock that stands still: the test makes one connection.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> NodeTime {
        NodeTime(0)
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

/// A check over gRPC, by the client that nodes use for each other.
fn check_over_grpc(secured: &Secured) -> Result<bool, String> {
    let registry = MetricsRegistry::new("0", "test").unwrap();
    let own = tidegate::tls::Certificates::new(Arc::new(NoClock), TlsMetrics::new(&registry).unwrap());
    let path = |name| secured.certificates.path(name);
    let identity = IdentityFiles { cert: path("server.pem"), key: path("server-key.pem") };
    let files = MutualFiles { ca: path("ca.pem"), identity, pins: Vec::new() };
    let connector = PeerSecurity::mutual(own.mutual("test", &files, &[]).unwrap()).connector();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", secured.node.grpc)).unwrap();
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| format!("{error:?}"))?;
        let attributes = [("ip".to_owned(), "127.0.0.1".to_owned())].into();
        let check = CheckRequest { domain: "d".to_owned(), attributes, ..CheckRequest::default() };
        let answer = RateLimitServiceClient::new(channel).check(check).await;
        answer.map(|answer| answer.into_inner().allowed).map_err(|error| format!("{error:?}"))
    })
}

/// What a peer sends to a plain client that says `text` and waits for the end.
fn say_plainly(address: &str, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(text).unwrap();
    let mut answer = Vec::new();
    // The end may be a reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// True if `bytes` are one record of TLS with an alert, or nothing.
fn is_alert(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.len() == 7 && bytes[0] == 21
}

#[test]
fn both_front_ends_speak_tls_1_3_and_nothing_older() {
    let secured = Secured::start(&[]);
    let client = secured.certificates.client();
    secured.wait_until_ready(&client);
    // The limit matches the address of the client, and the domain denies all others.
    assert_eq!(client.get(&secured.node.http, CHECK).unwrap().0, 200);
    assert_eq!(check_over_grpc(&secured), Ok(true));

    let speaking = |protocols: &[&'static str]| Client { protocols: protocols.to_vec(), ..client.clone() };
    let agreed = |protocols: &[&'static str], address: &str| {
        let opened = speaking(protocols).connect(address)?;
        Ok::<_, String>(opened.protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()))
    };
    let Node { http, grpc, .. } = &secured.node;
    assert_eq!(agreed(&["http/1.1", "h2"], http), Ok(Some("h2".to_owned())));
    assert_eq!(agreed(&["http/1.1"], http), Ok(Some("http/1.1".to_owned())));
    assert_eq!(agreed(&["http/1.1", "h2"], grpc), Ok(Some("h2".to_owned())));
    assert!(agreed(&["http/1.1"], grpc).unwrap_err().contains("NoApplicationProtocol"));

    let old = Client { version: &rustls::version::TLS12, ..client.clone() };
    for address in [http, grpc] {
        let rejected = old.connect(address).map(|_| ()).unwrap_err();
        assert!(rejected.contains("ProtocolVersion"), "{rejected}");
    }
    secured.wait_until_closed(&client, "http", "handshake", 1.0);
    secured.wait_until_closed(&client, "grpc", "handshake", 2.0);
    let others = Certificates::new();
    assert!(others.client().connect(http).map(|_| ()).unwrap_err().contains("UnknownIssuer"));
}

#[test]
fn a_client_of_the_other_kind_gets_nothing_harmful() {
    let secured = Secured::start(&[]);
    let client = secured.certificates.client();
    secured.wait_until_ready(&client);
    for address in [&secured.node.http, &secured.node.grpc] {
        for text in [&b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let answer = say_plainly(address, text);
            assert!(is_alert(&answer), "{answer:?}");
        }
    }
    secured.wait_until_closed(&client, "http", "handshake", 2.0);
    secured.wait_until_closed(&client, "grpc", "handshake", 2.0);

    let plain = Node::dev(&[]);
    for address in [&plain.http, &plain.grpc] {
        let error = client.connect(address).map(|_| ()).unwrap_err();
        assert!(!error.is_empty());
    }
    for face in ["http", "grpc"] {
        let closed = format!(r#"tidegate_connections_closed_total{{face="{face}",reason="protocol"}} "#);
        wait_for("the closed connection to be counted", || (plain.metric(&closed) >= 1.0).then_some(()));
    }
    assert_eq!(plain.get("/ready").status, 200);
}

#[test]
fn a_client_ca_lets_in_only_clients_that_it_signed() {
    let certificates = Certificates::new();
    certificates.issue("gateway", &["--host", "gateway.internal"]);
    let ca = certificates.text("ca.pem");
    let secured = Secured::start_with(certificates, &[("TIDEGATE_TLS__CLIENT_CA_FILE", &ca)]);
    let gateway = secured.certificates.client_as("gateway");
    secured.wait_until_ready(&gateway);
    assert_eq!(check_over_grpc(&secured), Ok(true));
    let nobody = secured.certificates.client().get(&secured.node.http, "/ready").unwrap_err();
    assert!(nobody.contains("CertificateRequired"), "{nobody}");
    // A stranger with a certificate of another authority, which trusts this one.
    let others = Certificates::new();
    std::fs::copy(secured.certificates.path("ca.pem"), others.path("ca.pem")).unwrap();
    let stranger = others.client_as("server").get(&secured.node.http, "/ready").unwrap_err();
    assert!(stranger.contains("UnknownCA"), "{stranger}");
    secured.wait_until_closed(&gateway, "http", "handshake", 2.0);
}

#[test]
fn a_changed_certificate_is_shown_to_new_connections_and_open_ones_go_on() {
    let secured = Secured::start(&[]);
    let client = secured.certificates.client();
    secured.wait_until_ready(&client);
    let expiry = || secured.metric(&client, r#"tidegate_certificate_expiry_timestamp_seconds{face="http"} "#);
    let failures = || secured.metric(&client, r#"tidegate_certificate_reload_failures_total{section="tls"} "#);
    let mut open = client.connect(&secured.node.http).unwrap();
    let (first, first_expiry) = (open.certificate(), expiry());
    assert_eq!(open.get(CHECK).unwrap().0, 200);
    secured.certificates.issue("next", &["--host", "127.0.0.1", "--days", "700"]);

    // Half a file, for longer than a writer takes: the old certificate stays.
    let whole = std::fs::read(secured.certificates.path("next.pem")).unwrap();
    std::fs::write(secured.certificates.path("server.pem"), &whole[..whole.len() / 2]).unwrap();
    wait_for("the half-written file to be counted", || (failures() >= 1.0).then_some(()));
    assert_eq!(client.connect(&secured.node.http).unwrap().certificate(), first);
    assert!(secured.node.log().contains("tls.cert_file: "), "{}", secured.node.log());
    // A certificate without its key, too.
    std::fs::write(secured.certificates.path("server.pem"), &whole).unwrap();
    wait_for("the certificate without its key to be counted", || (failures() >= 2.0).then_some(()));
    assert_eq!(client.connect(&secured.node.http).unwrap().certificate(), first);
    assert_eq!(expiry(), first_expiry);

    secured.certificates.install("next", "server");
    let second = wait_for("the new certificate", || {
        let shown = client.connect(&secured.node.http).unwrap().certificate();
        (shown != first).then_some(shown)
    });
    assert_eq!(open.get(CHECK).unwrap().0, 200, "the open connection goes on");
    assert_eq!(open.certificate(), first);
    wait_for("the new expiry", || (expiry() > first_expiry + 300.0 * 86_400.0).then_some(()));
    let speaking = Client { protocols: vec!["h2"], ..client.clone() };
    assert_eq!(speaking.connect(&secured.node.grpc).unwrap().certificate(), second, "gRPC shows it as well");
    let key = std::fs::read_to_string(secured.certificates.path("server-key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!secured.node.log().contains(secret));
}

#[test]
fn clients_that_never_finish_their_handshake_are_bounded_and_closed() {
    let secured = Secured::start(&[("TIDEGATE_LIMITS__MAX_CONNECTIONS", "6")]);
    let client = secured.certificates.client();
    secured.wait_until_ready(&client);
    let mut open = client.connect(&secured.node.http).unwrap();
    // The beginning of a record of TLS, and nothing at all.
    let mut silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(&secured.node.http).unwrap()).collect();
    silent.iter_mut().step_by(2).for_each(|stream| stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap());
    // One that finishes its handshake and says nothing then, as an idle client of HTTP/1 may.
    let mut idle = client.connect(&secured.node.http).unwrap();
    assert_eq!(open.get(CHECK).unwrap().0, 200, "others are served");
    let is_full = || {
        let connections = open_connections(&mut open);
        (connections >= 6.0).then_some(())
    };
    wait_for("the listener to be full", is_full);
    assert!(say_plainly(&secured.node.http, b"").is_empty());
    assert!(client.connect(&secured.node.http).is_err(), "no more than the limit");
    for stream in &mut silent {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
    secured.wait_until_closed(&client, "http", "slow", 4.0);
    assert!(secured.closed(&client, "http", "full") >= 2.0);
    assert_eq!(idle.get(CHECK).unwrap().0, 200, "an idle client has more time");

    // On the gRPC listener, the preface must follow the handshake.
    let speaking = Client { protocols: vec!["h2"], ..client.clone() };
    let quiet = speaking.connect(&secured.node.grpc).unwrap();
    secured.wait_until_closed(&client, "grpc", "slow", 1.0);
    drop(quiet);
}

/// The open connections of the HTTP listener.
fn open_connections(connection: &mut crate::support::tls::TlsConnection) -> f64 {
    let text = connection.get("/metrics").unwrap().1;
    let line = text.lines().find_map(|line| line.strip_prefix(r#"tidegate_connections{face="http"} "#)?.parse().ok());
    line.unwrap()
}

#[test]
fn a_node_that_stops_waits_for_no_handshake() {
    let mut secured = Secured::start(&[]);
    let client = secured.certificates.client();
    secured.wait_until_ready(&client);
    let _silent = TcpStream::connect(&secured.node.http).unwrap();
    let _idle = client.connect(&secured.node.http).unwrap();
    secured.node.signal("TERM");
    let ended = wait_for("the node to end", || secured.node.child.try_wait().unwrap());
    assert!(ended.success());
    assert!(!secured.node.log().contains("left before every check"), "{}", secured.node.log());
}

#[test]
fn wrong_settings_are_named_before_the_node_starts() {
    let certificates = Certificates::new();
    certificates.issue("other", &["--host", "127.0.0.1"]);
    let rules = tempfile::tempdir().unwrap();
    let path = rules.path().join("rules.yaml");
    std::fs::write(&path, RULES).unwrap();
    let key = certificates.text("server-key.pem");
    let run = |settings: &[(&str, &str)], check: bool| {
        let mut command = serve_command(&path, "memory:", settings);
        if check {
            command.arg("--check");
        }
        let ended = command.output().unwrap();
        assert_eq!(ended.status.code(), Some(78), "{ended:?}");
        String::from_utf8(ended.stderr).unwrap()
    };
    let other = certificates.text("other.pem");
    let none = certificates.text("none.pem");
    for check in [true, false] {
        let mismatch = run(&[("TIDEGATE_TLS__CERT_FILE", &other), ("TIDEGATE_TLS__KEY_FILE", &key)], check);
        let expected = format!("tls.key_file: {key}: expected the private key of the certificate in cert_file");
        assert!(mismatch.contains(&expected), "{mismatch}");
        let absent = run(&[("TIDEGATE_TLS__CERT_FILE", &none), ("TIDEGATE_TLS__KEY_FILE", &key)], check);
        assert!(absent.contains(&format!("tls.cert_file: {none}: No such file")), "{absent}");
    }
    let alone = run(&[("TIDEGATE_TLS__CERT_FILE", &other)], true);
    assert!(alone.contains("tls.key_file: "), "{alone}");
}

#[test]
fn an_authority_is_never_overwritten_and_its_keys_are_secret() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let dir = dir.to_str().unwrap();
    let ca = |more: &[&str]| output(&[&["cluster", "ca", dir, "--output", "json"], more].concat());
    let json = |made: &std::process::Output| serde_json::from_slice::<serde_json::Value>(&made.stdout).unwrap();
    let made = ca(&[]);
    assert!(made.status.success(), "{made:?}");
    let pin = json(&made)["ca"]["pin"].as_str().unwrap().to_owned();
    assert!(pin.starts_with("sha256/") && pin.len() == 51, "{pin}");
    let again = ca(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("ca.pem exists already: it is never overwritten"));

    let hosts = ["--node", "n1", "--host", "n1.internal", "--host", "10.0.0.1"];
    let node = ca(&hosts);
    assert_eq!(json(&node)["ca"]["pin"], pin.as_str(), "the same authority");
    assert_eq!(ca(&hosts).status.code(), Some(1));
    let renewed = ca(&[&hosts[..], &["--renew", "--days", "30"]].concat());
    assert_eq!(json(&renewed)["node"]["pin"], json(&node)["node"]["pin"], "a renewed certificate keeps its pin");
    assert!(json(&renewed)["node"]["expires_at"].as_u64() < json(&node)["node"]["expires_at"].as_u64());
    for (file, mode) in [("ca.pem", 0o644), ("ca-key.pem", 0o600), ("n1.pem", 0o644), ("n1-key.pem", 0o600)] {
        let found = std::fs::metadata(format!("{dir}/{file}")).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{file}");
    }
    for made in [made, node, renewed] {
        assert!(!String::from_utf8(made.stdout).unwrap().contains("PRIVATE"));
    }
    for invalid in
        [&["--node", "../n"][..], &["--node", "ca", "--host", "a"], &["--node", "a", "--host", "a:1"], &["--host", "a"]]
    {
        assert_eq!(ca(invalid).status.code(), Some(2), "{invalid:?}");
    }
}
