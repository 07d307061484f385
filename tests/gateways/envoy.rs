//! Tests with a real Envoy, which `scripts/envoy` installs. Envoy lets a request pass when its call is an error, as it
//! does by default.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::node::{Node, Response};
use crate::support::wait::{TIMEOUT, wait_for};

const RULES: &str = "
version: 1
domains:
  - domain: edge
    limits:
      - { name: per-user, match: { user: { present: true } }, per: [user], limit: 3, window: 1d, algorithm: fixed_window,
          response_headers: { x-plan: free } }
      - { name: per-tenant, match: { tenant: { present: true } }, per: [tenant], limit: 5, window: 30m }
      - { name: watched, match: { path: /watched }, per: [], limit: 1, window: 1d, mode: shadow }
      - { name: bytes, match: { downloader: { present: true } }, per: [downloader], limit: 1000, window: 1d,
          algorithm: fixed_window, overdraft: true }
";

/// Envoy in front of a node and of an application. The application is Envoy, too: a second listener that answers by
/// itself.
struct Gateway {
    child: Child,
    /// The address of the listener in front, and that of the administration.
    front: String,
    admin: String,
    node: Node,
    _folder: tempfile::TempDir,
}

/// The program, installed if it was missing.
pub fn envoy() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/envoy");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/envoy failed");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// A message of Envoy's configuration.
fn typed(name: &str, kind: &str, mut message: Value) -> Value {
    message["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({ "name": name, "typed_config": message })
}

/// A route with these rate limits, one descriptor each.
fn route(path: &str, rate_limits: Value) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute";
    json!({
        "match": { "prefix": path },
        "route": { "cluster": "application" },
        "typed_per_filter_config": { "envoy.filters.http.ratelimit": { "@type": kind, "rate_limits": rate_limits } },
    })
}

/// An action that makes an entry of a header.
fn header(name: &str, key: &str) -> Value {
    json!({ "request_headers": { "header_name": name, "descriptor_key": key } })
}

fn listener(name: &str, address: Value, routes: Value, filters: Value) -> Value {
    let kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let manager = json!({
        "stat_prefix": name,
        "route_config": { "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": routes }] },
        "http_filters": filters,
    });
    let manager = typed("envoy.filters.network.http_connection_manager", kind, manager);
    json!({ "name": name, "address": address, "filter_chains": [{ "filters": [manager] }] })
}

fn cluster(name: &str, address: Value, more: Value) -> Value {
    let endpoint = json!({ "endpoint": { "address": address } });
    let mut cluster = json!({
        "name": name,
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
    });
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster
}

fn socket(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn router() -> Value {
    typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

/// The application. Its answers have five bytes, or 400.
fn application_listener(address: &Value) -> Value {
    let answer = |path: &str, size: usize| {
        let body = json!({ "inline_string": "x".repeat(size) });
        json!({ "match": { "prefix": path }, "direct_response": { "status": 200, "body": body } })
    };
    listener("application", address.clone(), json!([answer("/400", 400), answer("/", 5)]), json!([router()]))
}

/// The configuration of an Envoy that asks the node at `grpc` on `routes`.
fn configuration(folder: &Path, grpc: &str, routes: Value) -> Value {
    let (host, port) = grpc.rsplit_once(':').unwrap();
    let application = json!({ "pipe": { "path": folder.join("application") } });
    let rate_limit = json!({
        "domain": "edge",
        "timeout": "10s",
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": { "envoy_grpc": { "cluster_name": "tidegate" } },
        },
    });
    let kind = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";
    let rate_limit = typed("envoy.filters.http.ratelimit", kind, rate_limit);
    let http2 = json!({ "explicit_http_config": { "http2_protocol_options": {} } });
    let mut options = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 });
    options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["@type"] =
        json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
    // As load balancers ask the reference service.
    let health_check = json!({
        "timeout": "5s",
        "interval": "1s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "grpc_health_check": { "service_name": "ratelimit" },
    });
    let tidegate = json!({ "typed_extension_protocol_options": options, "health_checks": [health_check] });
    json!({
        "admin": { "address": socket("127.0.0.1", 0) },
        "static_resources": {
            "listeners": [
                listener("front", socket("127.0.0.1", 0), routes, json!([rate_limit, router()])),
                application_listener(&application),
            ],
            "clusters": [
                cluster("tidegate", socket(host, port.parse().unwrap()), tidegate),
                cluster("application", application, json!({})),
            ],
        },
    })
}

impl Gateway {
    /// Starts a node with [`RULES`], and Envoy with these routes.
    fn start(routes: Value) -> Self {
        Self::with(RULES, |folder, grpc| configuration(folder, grpc, routes).to_string())
    }

    /// Starts a node with these rules, and Envoy with the configuration that `configuration` makes of a folder for
    /// sockets and the address of the node.
    fn with(rules: &str, configuration: impl FnOnce(&Path, &str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        std::fs::write(path("rules.yaml"), rules).unwrap();
        let node = Node::dev(&["--rules", &path("rules.yaml")]);
        std::fs::write(path("envoy.yaml"), configuration(&root, &node.grpc)).unwrap();
        let mut child = Command::new(envoy())
            .args(["--config-path", &path("envoy.yaml"), "--admin-address-path", &path("admin")])
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"])
            .spawn()
            .unwrap();
        let admin = wait_for("Envoy's administration", || {
            assert!(child.try_wait().unwrap().is_none(), "Envoy ended");
            let address = std::fs::read_to_string(path("admin")).ok()?;
            TcpStream::connect(&address).ok().map(|_| address)
        });
        let mut gateway = Self { child, front: String::new(), admin, node, _folder: folder };
        gateway.front = wait_for("Envoy's listener", || {
            let all = gateway.ask_admin("/listeners?format=json").json();
            let front = all["listener_statuses"].as_array()?.iter().find(|l| l["name"] == "front")?.clone();
            let port = front["local_address"]["socket_address"]["port_value"].as_u64()?;
            Some(format!("127.0.0.1:{port}"))
        });
        wait_for("Envoy to find the service `ratelimit` healthy", || {
            let hosts = gateway.ask_admin("/clusters").body;
            let health = hosts.lines().find(|line| line.starts_with("tidegate::") && line.contains("health_flags"))?;
            health.ends_with("::healthy").then_some(())
        });
        gateway
    }

    fn ask_admin(&self, path: &str) -> Response {
        send(&self.admin, path, &[])
    }

    fn get(&self, path: &str, headers: &[(&str, &[u8])]) -> Response {
        send(&self.front, path, headers)
    }

    /// The status of `count` requests, one after the other.
    fn statuses(&self, count: usize, path: &str, headers: &[(&str, &[u8])]) -> Vec<u16> {
        (0..count).map(|_| self.get(path, headers).status).collect()
    }

    /// The number of calls that Envoy counts as failed. It lets those requests pass.
    fn failed_calls(&self) -> u64 {
        let stats = self.ask_admin("/stats?filter=ratelimit.error").body;
        stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(address: &str, path: &str, headers: &[(&str, &[u8])]) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    // An Envoy that responds before it has read the whole head may reset the connection.
    let _ = stream.write_all(&request);
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    let response = String::from_utf8_lossy(&response);
    let status = response.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
    let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    Response { status, head: head.to_owned(), body }
}

/// The body of a response whose body came in chunks.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, chunk)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        body += &chunk[..size];
        rest = chunk[size..].trim_start_matches("\r\n");
    }
    body
}

#[test]
fn no_header_of_a_client_opens_the_gateway() {
    let two_descriptors = json!([{ "actions": [header("x-user", "user")] }, { "actions": [header("x-note", "note")] }]);
    let gateway = Gateway::start(json!([route("/", two_descriptors)]));
    let long = vec![b'x'; 4097];
    let other = [&long[..], b"y"].concat();
    let longest = vec![b'x'; 50 * 1024];
    let values: [&[u8]; 6] = [&long, &other, &longest, b"caf\xe9", b"caf\xea", b"caf\xc3\xa9"];
    for value in values {
        let name = String::from_utf8_lossy(&value[..value.len().min(8)]);
        let statuses = gateway.statuses(4, "/", &[("x-user", value)]);
        assert_eq!(statuses, [200, 200, 200, 429], "{} bytes that begin with {name:?}", value.len());
        let statuses = gateway.statuses(4, "/", &[("x-user", name.as_bytes()), ("x-note", value)]);
        assert!(statuses.contains(&429), "the note opens the gateway for the user {name:?}: {statuses:?}");
    }
    assert_eq!(gateway.failed_calls(), 0);
}

#[test]
fn a_denial_says_when_to_ask_again_and_a_shadow_denial_is_named() {
    let path = json!({ "request_headers": { "header_name": ":path", "descriptor_key": "path" } });
    let gateway = Gateway::start(json!([
        route("/watched", json!([{ "actions": [path] }])),
        route("/", json!([{ "actions": [header("x-user", "user")] }])),
    ]));
    let user: &[(&str, &[u8])] = &[("x-user", b"u1")];
    let first = gateway.get("/", user);
    assert_eq!((first.status, first.header("x-ratelimit-remaining")), (200, Some("2")), "{first:?}");
    assert_eq!(first.header("x-ratelimit-limit"), Some("3, 3;w=86400;name=\"per-user\""));
    assert_eq!(gateway.statuses(2, "/", user), [200, 200]);
    let denied = gateway.get("/", user);
    assert_eq!((denied.status, denied.header("x-plan")), (429, Some("free")), "{denied:?}");
    assert!(denied.header("retry-after").is_some(), "{denied:?}");
    assert_eq!(denied.header("x-ratelimit-reset"), denied.header("retry-after"), "{denied:?}");

    assert_eq!(gateway.get("/watched", &[]).header("x-tidegate-shadow"), None);
    let shadow = gateway.get("/watched", &[]);
    assert_eq!((shadow.status, shadow.header("x-tidegate-shadow")), (200, Some("watched")), "{shadow:?}");
    assert_eq!(gateway.failed_calls(), 0);
}

#[test]
fn a_limit_of_the_gateway_stands_in_place_of_the_rules() {
    let limited = |requests: u32| {
        let limit = json!({ "rate_limit": { "requests_per_unit": requests, "unit": "DAY" } });
        json!([{ "actions": [header("x-user", "user")], "limit": limit }])
    };
    let gateway = Gateway::start(json!([route("/two", limited(2)), route("/", limited(10))]));
    let user: &[(&str, &[u8])] = &[("x-user", b"u1")];
    let first = gateway.get("/", user);
    let shown = first.header("x-ratelimit-limit").unwrap_or_default();
    assert_eq!(shown, "10, 10;w=86400;name=\"descriptor-limit/user\"", "{first:?}");
    assert_eq!(gateway.get("/two", user).status, 200);
    assert_eq!(gateway.get("/two", user).status, 429, "both limits have one counter");
    assert_eq!(gateway.get("/", user).header("x-ratelimit-remaining"), Some("7"));
    assert_eq!(gateway.failed_calls(), 0);
}

#[test]
fn the_window_of_a_limit_may_be_many_units() {
    let gateway = Gateway::start(json!([route("/", json!([{ "actions": [header("x-tenant", "tenant")] }]))]));
    let answer = gateway.get("/", &[("x-tenant", b"t1")]);
    let shown = answer.header("x-ratelimit-limit").unwrap_or_default();
    assert_eq!(shown, "5, 5;w=1800;name=\"per-tenant\"", "{answer:?}");
}

#[test]
fn usage_is_charged_when_a_response_has_ended() {
    let user = || header("x-user", "downloader");
    let peek_then_charge = json!([
        { "actions": [user()], "hits_addend": { "number": 0 } },
        { "actions": [user()], "hits_addend": { "format": "%BYTES_SENT%" }, "apply_on_stream_done": true },
    ]);
    let gateway = Gateway::start(json!([route("/", peek_then_charge)]));
    // The third response does not fit. It is charged, and there is no fourth.
    for (left, status) in [(1000, 200), (600, 200), (200, 200), (0, 429)] {
        wait_for("the charge of the response before", || {
            let peek = r#"{"domain":"edge","attributes":{"downloader":"u1"},"hits":0}"#;
            (gateway.node.check(peek).json()["limits"][0]["remaining"] == left).then_some(())
        });
        assert_eq!(gateway.get("/400", &[("x-user", b"u1")]).status, status, "{left} bytes are left");
    }
    assert_eq!(gateway.failed_calls(), 0);
}

#[test]
fn negative_hits_of_a_route_go_back() {
    let user = || header("x-user", "user");
    let refund = json!([{ "actions": [user()], "hits_addend": { "number": 1, "is_negative_hits": true } }]);
    let gateway = Gateway::start(json!([route("/cancel", refund), route("/", json!([{ "actions": [user()] }]))]));
    let headers: &[(&str, &[u8])] = &[("x-user", b"u1")];
    let left = |path: &str| gateway.get(path, headers).header("x-ratelimit-remaining").unwrap().to_owned();
    assert_eq!(["/", "/", "/cancel", "/", "/"].map(left), ["2", "1", "2", "1", "0"]);
    assert_eq!(gateway.statuses(2, "/", headers), [429, 429]);
    assert_eq!(gateway.statuses(2, "/cancel", headers), [200, 200]);
    assert_eq!(gateway.statuses(3, "/", headers), [200, 200, 429]);
    assert_eq!(gateway.failed_calls(), 0);
}
