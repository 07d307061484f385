//! Real gateways: nginx, Caddy and HAProxy. Each has free ports and a temporary folder and ends with the test.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::node::Node;
use crate::support::servers::free_ports;
use crate::support::wait::wait_for;

/// A gateway.
pub struct Gateway {
    child: Child,
    pub port: u16,
    _folder: TempDir,
}

impl Gateway {
    /// Starts a gateway with this command and waits until it listens on `port`.
    fn start(mut command: Command, port: u16, folder: TempDir) -> Self {
        let program = command.get_program().to_owned();
        let child = command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{program:?} must be installed: {error}"));
        wait_for("the gateway", || {
            assert!(child.try_wait().unwrap().is_none(), "{program:?} has ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port, _folder: folder }
    }

    /// Starts nginx with this content of its `http` block. `http` makes it from two free ports, of which the first is
    /// that of the gateway.
    pub fn nginx(http: impl FnOnce(u16, u16) -> String) -> Self {
        let port = free_ports(2);
        let folder = tempfile::tempdir().unwrap();
        let parts = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = parts.map(|part| format!("{part}_temp_path {part};\n")).concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\nevents {{}}\nhttp {{\n\
             access_log off;\nkeepalive_requests 1000000;\nlarge_client_header_buffers 4 64k;\n{temporary}{}\n}}\n",
            http(port, port + 1)
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        Self::start(command, port, folder)
    }

    /// Starts nginx before this node, as the document says.
    pub fn documented_nginx(node: &Node) -> Self {
        Self::nginx(|port, _| documented("nginx", node).replace("listen 80;", &format!("listen 127.0.0.1:{port};")))
    }

    /// Starts Caddy before this node, as the document says.
    pub fn documented_caddy(node: &Node) -> Self {
        let port = free_ports(1);
        let folder = tempfile::tempdir().unwrap();
        let site = documented("caddyfile", node).replace(":80 {", &format!(":{port} {{\n\tbind 127.0.0.1"));
        std::fs::write(folder.path().join("Caddyfile"), format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}"))
            .unwrap();
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
        command.env_clear().env("HOME", folder.path()).stderr(Stdio::null());
        Self::start(command, port, folder)
    }

    /// Starts HAProxy before this node, as the document says.
    pub fn documented_haproxy(node: &Node) -> Self {
        let port = free_ports(1);
        let folder = tempfile::tempdir().unwrap();
        let text = documented("haproxy", node).replace("bind :80", &format!("bind 127.0.0.1:{port}"));
        std::fs::write(folder.path().join("haproxy.cfg"), text).unwrap();
        std::fs::write(folder.path().join("tidegate.lua"), documented("lua", node)).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "haproxy.cfg"]).stderr(Stdio::null());
        Self::start(command, port, folder)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the configuration in this language in the document, with the addresses of `node` and of an application.
fn documented(language: &str, node: &Node) -> String {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gateways.md")).unwrap();
    let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language}"));
    let (text, _) = rest.split_once("```").unwrap();
    // The node's address could hold the application's.
    text.replace("127.0.0.1:8000", &application()).replace("127.0.0.1:8080", &node.http)
}

/// Starts an application that answers every request with 200, and returns its address.
fn application() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    #[expect(clippy::disallowed_methods, reason = "it serves as long as the process of the tests lives")]
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut head = BufReader::new(&stream).split(b'\n').map_while(Result::ok);
            while head.next().is_some_and(|line| line != b"\r") {}
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    address
}
