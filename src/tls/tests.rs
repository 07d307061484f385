//! Handshakes between both sides over loopback, with certificates of an authority made for the test.

mod peers;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use limiter::{NodeTime, WallTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::Service as _;

use super::authority::{Authority, Issued};
use super::certificates::Certificates;
use super::metrics::TlsMetrics;
use super::peers::{PeerSecurity, PeerStream};
use super::settings::{ClientFiles, IdentityFiles, MutualFiles, Pin, ServerFiles};
use super::{ClientTls, ServerTls};
use crate::ports::Clock;
use crate::telemetry::registry::MetricsRegistry;

/// The certificates of the tests begin and end around the real time, which the verifiers of the library read.
fn now() -> u64 {
    rustls_pki_types::UnixTime::now().as_secs()
}

/// A clock that stands still at `0`, in seconds.
struct FixedClock(AtomicU64);

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        NodeTime(0)
    }

    fn wall(&self) -> WallTime {
        WallTime(self.0.load(Ordering::Relaxed) * 1_000_000)
    }
}

/// An authority and a folder of files.
struct Workshop {
    folder: tempfile::TempDir,
    authority: Authority,
    registry: MetricsRegistry,
    certificates: Certificates,
}

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, issued) = Authority::create("test", now()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), issued.certificate).unwrap();
        let registry = MetricsRegistry::new("0", "test").unwrap();
        let clock = Arc::new(FixedClock(AtomicU64::new(now())));
        let certificates = Certificates::new(clock, TlsMetrics::new(&registry).unwrap());
        Self { folder, authority, registry, certificates }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, host: &str) -> Issued {
        self.authority.issue("node-1", &[host.to_owned()], None, now(), 30).unwrap()
    }

    fn write(&self, name: &str, issued: &Issued) -> IdentityFiles {
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}-key.pem")));
        std::fs::write(&cert, &issued.certificate).unwrap();
        std::fs::write(&key, &issued.key).unwrap();
        IdentityFiles { cert, key }
    }

    /// The files of a new certificate for 127.0.0.1, and its pin.
    fn identity(&self, name: &str) -> (IdentityFiles, Pin) {
        let issued = self.issue("127.0.0.1");
        (self.write(name, &issued), issued.pin)
    }

    fn server(&self, identity: IdentityFiles, client_ca: Option<PathBuf>) -> ServerTls {
        self.certificates.server("tls", &ServerFiles { identity, client_ca }, &["http"]).unwrap()
    }

    fn client(&self, identity: Option<IdentityFiles>, pins: &[Pin]) -> ClientTls {
        let files = ClientFiles { ca: Some(self.path("ca.pem")), identity, pins: pins.to_vec() };
        self.certificates.client("store", &files).unwrap()
    }

    fn mutual(&self, identity: IdentityFiles, pins: &[Pin]) -> PeerSecurity {
        let files = MutualFiles { ca: self.path("ca.pem"), identity, pins: pins.to_vec() };
        PeerSecurity::mutual(self.certificates.mutual("cluster.tls", &files, &["cluster"]).unwrap())
    }

    /// Lets the service look at the files as often as a change needs.
    fn poll(&self) {
        for _ in 0..2 {
            self.certificates.poll_once();
        }
    }

    /// The value of a metric with one label.
    fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.registry.render().unwrap();
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(&format!("\"{label}\"")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap()
    }
}

/// An echo of one connection through both sides: what the client read, or why it did not. The server echoes only after
/// its handshake.
async fn echo(server: &ServerTls, client: &ClientTls, host: &str) -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = server.accept(stream).await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.shutdown().await
    };
    let ask = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = client.connect(host, stream).await?;
        stream.write_all(b"ping").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let (_, answer) = tokio::join!(serve, ask);
    answer.map_err(|error| error.to_string())
}

fn assert_fails(result: Result<String, String>, why: &str) {
    let error = result.unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[tokio::test]
async fn a_client_verifies_the_chain_and_the_name_of_its_server() {
    let shop = Workshop::new();
    let server = shop.server(shop.identity("a").0, None);
    let client = shop.client(None, &[]);
    assert_eq!(echo(&server, &client, "127.0.0.1").await.unwrap(), "ping");
    assert_eq!(echo(&server, &client, "node-1").await.unwrap(), "ping");
    assert_fails(echo(&server, &client, "127.0.0.2").await, "not valid for name");
    let stranger = Workshop::new();
    assert_fails(echo(&server, &stranger.client(None, &[]), "127.0.0.1").await, "UnknownIssuer");
}

#[tokio::test]
async fn an_expired_certificate_is_rejected_on_either_side() {
    let shop = Workshop::new();
    let expired = shop.authority.issue("node-1", &["127.0.0.1".to_owned()], None, now() - 3 * 86_400, 2).unwrap();
    let expired = shop.write("expired", &expired);
    let (valid, _) = shop.identity("valid");
    let server = shop.server(expired.clone(), None);
    assert_fails(echo(&server, &shop.client(None, &[]), "127.0.0.1").await, "certificate expired");
    let server = shop.server(valid.clone(), Some(shop.path("ca.pem")));
    assert_eq!(echo(&server, &shop.client(Some(valid), &[]), "127.0.0.1").await.unwrap(), "ping");
    assert_fails(echo(&server, &shop.client(Some(expired), &[]), "127.0.0.1").await, "CertificateExpired");
}

#[tokio::test]
async fn a_server_with_a_client_ca_lets_in_only_its_clients() {
    let (shop, stranger) = (Workshop::new(), Workshop::new());
    let server = shop.server(shop.identity("server").0, Some(shop.path("ca.pem")));
    let known = shop.client(Some(shop.identity("client").0), &[]);
    assert_eq!(echo(&server, &known, "127.0.0.1").await.unwrap(), "ping");
    assert_fails(echo(&server, &shop.client(None, &[]), "127.0.0.1").await, "CertificateRequired");
    let unknown = shop.client(Some(stranger.identity("client").0), &[]);
    assert_fails(echo(&server, &unknown, "127.0.0.1").await, "UnknownCA");
}

#[tokio::test]
async fn a_pin_rejects_another_key_of_the_right_authority() {
    let shop = Workshop::new();
    let ((first, pin), (second, other)) = (shop.identity("first"), shop.identity("second"));
    let (first, second) = (shop.server(first, None), shop.server(second, None));
    let client = shop.client(None, &[pin]);
    assert_eq!(echo(&first, &client, "127.0.0.1").await.unwrap(), "ping");
    assert_fails(echo(&second, &client, "127.0.0.1").await, &format!("the peer's key {other} is none of the pinned"));
    let both = shop.client(None, &[pin, other]);
    assert_eq!(echo(&second, &both, "127.0.0.1").await.unwrap(), "ping");
    // A pin is no substitute for the chain and the name.
    assert_fails(echo(&first, &client, "127.0.0.2").await, "not valid for name");
    let stranger = Workshop::new();
    let (unknown, pin) = stranger.identity("a");
    let server = stranger.server(unknown, None);
    assert_fails(echo(&server, &shop.client(None, &[pin]), "127.0.0.1").await, "UnknownIssuer");
}

#[tokio::test]
async fn changed_files_count_for_new_connections_and_open_ones_go_on() {
    let shop = Workshop::new();
    let (files, old) = shop.identity("a");
    let server = shop.server(files, None);
    let expiry = shop.metric("tidegate_certificate_expiry_timestamp_seconds", "http");
    assert!((now() + 29 * 86_400..now() + 31 * 86_400).contains(&expiry), "{expiry}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = shop.client(None, &[old]);
    let open = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let (at_server, at_client) = tokio::join!(server.accept(accepted), client.connect("127.0.0.1", open));
    let (mut at_server, mut at_client) = (at_server.unwrap(), at_client.unwrap());

    let renewed = shop.authority.issue("node-1", &["127.0.0.1".to_owned()], None, now(), 60).unwrap();
    shop.write("a", &renewed);
    shop.certificates.poll_once();
    assert_eq!(echo(&server, &client, "127.0.0.1").await.unwrap(), "ping", "a first look takes nothing");
    shop.certificates.poll_once();
    assert_eq!(echo(&server, &shop.client(None, &[renewed.pin]), "127.0.0.1").await.unwrap(), "ping");
    assert_fails(echo(&server, &client, "127.0.0.1").await, "none of the pinned keys");
    assert_eq!(shop.metric("tidegate_certificate_expiry_timestamp_seconds", "http"), renewed.expires_at);
    at_client.write_all(b"still here").await.unwrap();
    let mut word = [0; 10];
    at_server.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"still here");
    assert_eq!(shop.metric("tidegate_certificate_reload_failures_total", "tls"), 0);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_leaves_the_old_one_in_force_and_is_counted_once() {
    let shop = Workshop::new();
    let (files, pin) = shop.identity("a");
    let server = shop.server(files.clone(), None);
    let client = shop.client(None, &[pin]);
    let next = shop.issue("127.0.0.1");
    let old = std::fs::read(&files.cert).unwrap();
    let half = next.certificate.as_bytes()[..next.certificate.len() / 2].to_vec();
    let expired = shop.authority.issue("node-1", &["127.0.0.1".to_owned()], None, now() - 3 * 86_400, 2).unwrap();
    let mut failures = 0;
    // A half-written certificate, one without its key, one whose key does not fit, none, an empty one.
    for cert in [Some(half), Some(next.certificate.clone().into()), Some(b"-----BEGIN".to_vec()), None, Some(vec![])] {
        match cert {
            Some(cert) => std::fs::write(&files.cert, cert).unwrap(),
            None => std::fs::remove_file(&files.cert).unwrap(),
        }
        shop.poll();
        shop.poll();
        assert_eq!(echo(&server, &client, "127.0.0.1").await.unwrap(), "ping");
        let counted = shop.metric("tidegate_certificate_reload_failures_total", "tls");
        assert!((failures..=failures + 1).contains(&counted), "{counted} after {failures}");
        failures = counted;
    }
    assert!(failures >= 4, "{failures}");
    // An expired pair does not replace one that is not.
    shop.write("a", &expired);
    shop.poll();
    assert_eq!(echo(&server, &client, "127.0.0.1").await.unwrap(), "ping");
    std::fs::write(&files.cert, old).unwrap();
    shop.poll();
    shop.write("a", &next);
    shop.poll();
    assert_eq!(echo(&server, &shop.client(None, &[next.pin]), "127.0.0.1").await.unwrap(), "ping");
}

#[tokio::test]
async fn new_authorities_count_for_new_connections_on_both_sides() {
    let (shop, other) = (Workshop::new(), Workshop::new());
    let server = shop.server(shop.identity("server").0, Some(shop.path("ca.pem")));
    let client = shop.client(Some(shop.identity("client").0), &[]);
    let moved_client = other.client(Some(other.identity("client").0), &[]);
    let moved_server = other.server(other.identity("server").0, None);
    assert_fails(echo(&moved_server, &client, "127.0.0.1").await, "UnknownIssuer");
    // Both authorities, as during a rotation.
    let ca = |shop: &Workshop| std::fs::read_to_string(shop.path("ca.pem")).unwrap();
    let both = ca(&shop) + &ca(&other);
    std::fs::write(shop.path("ca.pem"), &both).unwrap();
    std::fs::write(other.path("ca.pem"), &both).unwrap();
    shop.poll();
    other.poll();
    assert_eq!(echo(&moved_server, &client, "127.0.0.1").await.unwrap(), "ping");
    assert_eq!(echo(&server, &moved_client, "127.0.0.1").await.unwrap(), "ping");
    assert_eq!(echo(&server, &client, "127.0.0.1").await.unwrap(), "ping");
}

#[test]
fn an_error_names_the_setting_and_the_file_and_shows_no_key() {
    let shop = Workshop::new();
    let (files, _) = shop.identity("a");
    let (other, _) = shop.identity("b");
    let secret: String = std::fs::read_to_string(&files.key).unwrap().lines().nth(1).unwrap().to_owned();
    let error = |identity: IdentityFiles| {
        let made = shop.certificates.server("tls", &ServerFiles { identity, client_ca: None }, &[]);
        let error = made.unwrap_err();
        assert!(!error.to_string().contains(&secret) && !format!("{error:?}").contains(&secret), "{error:?}");
        error.to_string()
    };
    let gone = shop.path("gone.pem");
    let file = |path: &Path| path.display().to_string();
    let mixed = error(IdentityFiles { cert: other.cert, key: files.key.clone() });
    let expected =
        format!("tls.key_file: {}: expected the private key of the certificate in cert_file", file(&files.key));
    assert_eq!(mixed, expected);
    let no_file = error(IdentityFiles { cert: gone.clone(), key: files.key.clone() });
    assert!(no_file.starts_with(&format!("tls.cert_file: {}: No such file", file(&gone))), "{no_file}");
    let no_cert = error(IdentityFiles { cert: files.key.clone(), key: files.key.clone() });
    assert!(no_cert.ends_with("expected certificates in PEM"), "{no_cert}");
    let no_key = error(IdentityFiles { cert: files.cert.clone(), key: files.cert.clone() });
    assert!(no_key.ends_with("expected a private key in PEM, without a passphrase"), "{no_key}");
    let folder = error(IdentityFiles { cert: shop.folder.path().to_owned(), key: files.key.clone() });
    assert!(folder.ends_with("expected a regular file"), "{folder}");
    let shown = format!("{:?}", shop.server(files, None));
    assert!(!shown.contains(&secret), "{shown}");
}
