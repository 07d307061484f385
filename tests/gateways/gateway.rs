//! Real gateways with the files of `deploy/gateways`: nginx, Caddy and HAProxy. Each has free ports and a temporary
//! folder and ends with the test.

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
    pub fn start(mut command: Command, port: u16, folder: TempDir) -> Self {
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
        Self::nginx_at(port, "", &http(port, port + 1))
    }

    /// Starts nginx with its Lua module and this content of its `http` block, which has the port of the gateway.
    pub fn nginx_with_lua(http: impl FnOnce(u16) -> String) -> Self {
        let port = free_ports(1);
        let modules = ["ndk_http_module", "ngx_http_lua_module"];
        let load = modules.map(|module| format!("load_module /usr/lib/nginx/modules/{module}.so;\n")).concat();
        Self::nginx_at(port, &load, &http(port))
    }

    fn nginx_at(port: u16, load: &str, http: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let parts = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = parts.map(|part| format!("{part}_temp_path {part};\n")).concat();
        let text = format!(
            "{load}daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\nevents {{}}\nhttp {{\n\
             access_log off;\nkeepalive_requests 1000000;\nlarge_client_header_buffers 4 64k;\n{temporary}{http}\n}}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        Self::start(command, port, folder)
    }

    /// Starts nginx with `deploy/gateways/nginx`.
    pub fn deployed_nginx(setup: &Setup<'_>) -> Self {
        let text = setup.file("nginx/tidegate.conf");
        let nodes = setup.lines(|at| format!("server {at} max_fails=1 fail_timeout=1s;"));
        let text = replaced(&text, "server 127.0.0.1:8080 max_fails=1 fail_timeout=1s;", &nodes);
        let text = match setup.fail_mode {
            FailMode::Closed => text,
            FailMode::Open => {
                let text = replaced(&text, "# proxy_intercept_errors on;", "proxy_intercept_errors on;");
                replaced(&text, "# error_page 502", "error_page 502")
            }
        };
        let text = (setup.edit)(text);
        Self::nginx(|port, _| replaced(&text, "listen 10000;", &format!("listen 127.0.0.1:{port};")))
    }

    /// Starts Caddy with `deploy/gateways/caddy`: its short file if it fails closed, and its long one if it fails open.
    pub fn deployed_caddy(setup: &Setup<'_>) -> Self {
        let port = free_ports(1);
        let folder = tempfile::tempdir().unwrap();
        let name = match setup.fail_mode {
            FailMode::Closed => "caddy/Caddyfile",
            FailMode::Open => "caddy/open.Caddyfile",
        };
        let text = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{}", setup.file(name));
        let text = replaced(
            &text,
            "127.0.0.1:8080",
            &setup.nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>().join(" "),
        );
        let text = replaced(&text, ":10000 {", &format!(":{port} {{\n\tbind 127.0.0.1"));
        std::fs::write(folder.path().join("Caddyfile"), (setup.edit)(text)).unwrap();
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
        command.env_clear().env("HOME", folder.path()).stderr(Stdio::null());
        Self::start(command, port, folder)
    }

    /// Starts HAProxy with `deploy/gateways/haproxy`.
    pub fn deployed_haproxy(setup: &Setup<'_>) -> Self {
        let port = free_ports(2);
        let folder = tempfile::tempdir().unwrap();
        let text = setup.file("haproxy/haproxy.cfg");
        let nodes = setup.lines(|at| format!("server node{} {at}", at.replace([':', '.'], "-")));
        let text = replaced(&text, "server node1 127.0.0.1:8080", &nodes);
        let text = replaced(&text, "bind :10000", &format!("bind 127.0.0.1:{port}"));
        let text = text.replace("127.0.0.1:10081", &format!("127.0.0.1:{}", port + 1));
        let text = replaced(&text, "web closed", &format!("web {}", setup.fail_mode.word()));
        std::fs::write(folder.path().join("haproxy.cfg"), (setup.edit)(text)).unwrap();
        std::fs::write(folder.path().join("tidegate.lua"), deployed("haproxy/tidegate.lua")).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "haproxy.cfg"]).stdout(Stdio::null()).stderr(Stdio::null());
        Self::start(command, port, folder)
    }
}

/// What a gateway does with a request if no node answers.
#[derive(Clone, Copy, PartialEq)]
pub enum FailMode {
    Closed,
    Open,
}

impl FailMode {
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// What a gateway stands between.
pub struct Setup<'s> {
    pub nodes: Vec<&'s Node>,
    pub application: String,
    pub fail_mode: FailMode,
    /// If true, a check may take ten seconds: on a shared machine a process may not run for longer than the deadline of
    /// the files.
    pub patient: bool,
    /// A last change of the gateway's configuration.
    pub edit: fn(String) -> String,
}

impl<'s> Setup<'s> {
    /// One node and an application of its own, with the deadlines of the files.
    pub fn new(node: &'s Node, fail_mode: FailMode) -> Self {
        Self { nodes: vec![node], application: application(), fail_mode, patient: false, edit: |text| text }
    }

    /// Nodes and an application of its own, with long deadlines. The gateway fails closed.
    pub fn patient(nodes: Vec<&'s Node>) -> Self {
        Self { nodes, application: application(), fail_mode: FailMode::Closed, patient: true, edit: |text| text }
    }

    /// A file of `deploy/gateways`, with the address of the application.
    pub fn file(&self, name: &str) -> String {
        let text = deployed(name).replace("127.0.0.1:8000", &self.application);
        if !self.patient {
            return text;
        }
        let longer = [
            ("250ms", "10s"),
            ("500ms", "20s"),
            ("0.25s", "10s"),
            ("timeout: 0.5s", "timeout: 20s"),
            ("timeout: 250", "timeout: 10000"),
        ];
        longer.into_iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// A line for each node.
    fn lines(&self, line: impl Fn(&str) -> String) -> String {
        self.nodes.iter().map(|node| line(&node.http) + "\n").collect()
    }
}

/// Starts a gateway with the files of `deploy/gateways`.
pub type Start = fn(&Setup<'_>) -> Gateway;

/// Every gateway that uses forward-auth.
pub const FORWARD_AUTH: [(&str, Start); 4] = [
    ("nginx", Gateway::deployed_nginx),
    ("caddy", Gateway::deployed_caddy),
    ("haproxy", Gateway::deployed_haproxy),
    ("kong", Gateway::stubbed_kong),
];

/// Every gateway.
pub fn all() -> Vec<(&'static str, Start)> {
    let envoy: (_, Start) = ("envoy", Gateway::deployed_envoy);
    FORWARD_AUTH.into_iter().chain([envoy]).collect()
}

/// Returns a file of `deploy/gateways`.
pub fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/gateways").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replaces `from`, which must be there once.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts an application that answers every request with 200 and five bytes, and returns its address.
pub fn application() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    #[expect(clippy::disallowed_methods, reason = "it serves as long as the process of the tests lives")]
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut head = BufReader::new(&stream).split(b'\n').map_while(Result::ok);
            while head.next().is_some_and(|line| line != b"\r") {}
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        }
    });
    address
}

/// The port of an address.
pub fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address with a port")
}
