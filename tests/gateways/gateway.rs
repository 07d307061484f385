//! Real gateways with the files of `deploy/gateways`: nginx, Caddy and HAProxy. Each has free ports and a temporary
//! folder and ends with the test.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::setup::{FailMode, Setup, deployed, replaced};
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
        let text = replaced(&setup.file(name), "{\n\tservers {", "{\n\tadmin off\n\tauto_https off\n\tservers {");
        let nodes: Vec<&str> = setup.nodes.iter().map(|node| node.http.as_str()).collect();
        let text = replaced(&text, "127.0.0.1:8080", &nodes.join(" "));
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

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
