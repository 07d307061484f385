//! The commands that call a node, over TLS: whom they trust, what they show, and what their errors say.

use super::tls::Secured;
use crate::node::{Node, tidegate};
use crate::support::tls::Certificates;

const TOKEN: &str = "planted-token-6d1f0c9b8a7e5d4c3b2a";

/// A command that ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Panics unless the command failed with this text, and without the token.
    fn fails_with(&self, text: &str) {
        assert!(self.code == 1 && self.err.contains(text), "{}: {}", self.code, self.err);
        assert!(!self.err.contains(TOKEN) && !self.out.contains(TOKEN));
    }
}

fn run(address: &str, arguments: &[&str], more: &[&str]) -> Ran {
    let mut command = tidegate(arguments);
    let ended = command.args(["--addr", address]).args(more).env("TIDEGATE_TOKEN", TOKEN).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: ended.status.code().unwrap(), out: text(ended.stdout), err: text(ended.stderr) }
}

const CHECK: &[&str] = &["check", "--domain", "d", "ip=127.0.0.1"];
const RULES: &[&str] = &["rules", "list", "--output", "json"];

/// A node with TLS on all its listeners, and the calls for them: a scheme, a listener and a command.
struct Listeners {
    secured: Secured,
    calls: [(&'static str, String, &'static [&'static str]); 3],
}

impl Listeners {
    fn start(certificates: Certificates, settings: &[(&str, &str)]) -> Self {
        std::fs::write(certificates.path("token"), TOKEN).unwrap();
        let token = certificates.text("token");
        let admin = [("TIDEGATE_LISTEN__ADMIN", "127.0.0.1:0"), ("TIDEGATE_ADMIN__TOKEN_FILE", &*token)];
        let client = certificates.client_as("server");
        let secured = Secured::start_with(certificates, &[&admin[..], settings].concat());
        secured.wait_until_ready(&client);
        let (http, grpc) = (secured.node.http.clone(), secured.node.grpc.clone());
        let calls = [("http", http, CHECK), ("grpc", grpc, CHECK), ("http", secured.node.admin(), RULES)];
        Self { secured, calls }
    }

    /// Runs every command over TLS with these further arguments, and passes what came to `seen`.
    fn each(&self, more: &[&str], seen: impl Fn(Ran)) {
        for (scheme, address, arguments) in &self.calls {
            seen(run(&format!("{scheme}s://{address}"), arguments, more));
        }
    }
}

#[test]
fn every_command_calls_a_node_whose_authority_it_trusts() {
    let listeners = Listeners::start(Certificates::new(), &[]);
    let ca = listeners.secured.certificates.text("ca.pem");
    listeners.each(&["--ca-file", &ca], |ran| {
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains("allowed") || ran.out.contains("\"domain\":\"d\""), "{}", ran.out);
    });

    // The certificate is for 127.0.0.1.
    for (scheme, address, arguments) in &listeners.calls {
        let named = address.replace("127.0.0.1", "localhost");
        run(&format!("{scheme}s://{named}"), arguments, &["--ca-file", &ca]).fails_with("not valid for name");
    }
    let other = Certificates::new().text("ca.pem");
    listeners.each(&["--ca-file", &other], |ran| ran.fails_with("--ca-file: "));
    let others = Certificates::new();
    let other = others.text("ca.pem");
    let untrusted = format!("no authority in {other} signed the certificate of the node");
    listeners.each(&["--ca-file", &other], |ran| ran.fails_with(&untrusted));
    // The authorities of the machine, of which a small one has none.
    listeners.each(&[], |ran| ran.fails_with("--ca-file"));
    assert!(!listeners.secured.node.log().contains(TOKEN));
}

#[test]
fn a_command_shows_its_certificate_to_a_node_that_asks_for_one() {
    let certificates = Certificates::new();
    certificates.issue("operator", &["--host", "operator.internal"]);
    let ca = certificates.text("ca.pem");
    let listeners = Listeners::start(certificates, &[("TIDEGATE_TLS__CLIENT_CA_FILE", &ca)]);
    let file = |name| listeners.secured.certificates.text(name);
    let (cert, key) = (file("operator.pem"), file("operator-key.pem"));
    let shown = ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    listeners.each(&shown, |ran| assert_eq!(ran.code, 0, "{}", ran.err));
    listeners.each(&["--ca-file", &ca], |ran| ran.fails_with("it expects --cert-file and --key-file"));
    let others = Certificates::new();
    let (cert, key) = (others.text("server.pem"), others.text("server-key.pem"));
    let strange = ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    listeners.each(&strange, |ran| ran.fails_with("the node may reject --cert-file"));
    listeners.each(&["--ca-file", &ca, "--cert-file", &cert, "--key-file", &file("operator-key.pem")], |ran| {
        ran.fails_with("--key-file: ");
    });
}

#[test]
fn an_address_with_the_wrong_scheme_gets_a_hint() {
    let listeners = Listeners::start(Certificates::new(), &[]);
    for (scheme, address, arguments) in &listeners.calls {
        let hint = format!("the address is {scheme}s://{address}");
        run(&format!("{scheme}://{address}"), arguments, &[]).fails_with(&hint);
    }
    let ca = listeners.secured.certificates.text("ca.pem");
    let plain = Node::dev(&[]);
    let http = format!("https://{}", plain.http);
    run(&http, CHECK, &["--ca-file", &ca]).fails_with("does not speak TLS on this port");
    let grpc = format!("grpcs://{}", plain.grpc);
    run(&grpc, CHECK, &["--ca-file", &ca]).fails_with(&grpc);
    // Files for TLS show that TLS is meant.
    let meant = run(&format!("http://{}", plain.http), CHECK, &["--ca-file", &ca]);
    meant.fails_with("expected https://, because files for TLS are given");
    for invalid in ["https://", "https://host", "https://host:1/path", "ftp://host:1"] {
        run(invalid, CHECK, &["--ca-file", &ca]).fails_with("expected http://host:port or https://host:port, grpc://");
    }
    run("grpcs://host:1", RULES, &[]).fails_with("expected http://host:port or https://host:port");
}
