//! The plugin for Kong. No package registry has Kong: the plugin runs under nginx's Lua module, and
//! `tests/gateways/kong/pdk.lua` stands for Kong.

use std::path::Path;

use crate::client::Client;
use crate::gateway::Gateway;
use crate::setup::{FailMode, Setup, deployed, node, replaced};
use crate::support::node::Node;

impl Gateway {
    /// Starts the plugin with its part of `deploy/gateways/kong/kong.yml`, for clients without a key.
    pub fn stubbed_kong(setup: &Setup<'_>) -> Self {
        Self::kong_with(setup, "")
    }

    /// Starts the plugin after this code in Lua, which stands for the plugins before it.
    fn kong_with(setup: &Setup<'_>, before: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).display();
        let nodes: Vec<String> = setup.nodes.iter().map(|node| format!("\"http://{}\"", node.http)).collect();
        let text = replaced(&setup.file("kong/kong.yml"), "\"http://127.0.0.1:8080\"", &nodes.join(", "));
        let text = replaced(&text, "fail_mode: closed", &format!("fail_mode: {}", setup.fail_mode.word()));
        let config = lua_table(&text);
        let application = &setup.application;
        Self::nginx_with_lua(|port| {
            let text = format!(
                "lua_package_path '{root}/deploy/gateways/kong/?.lua;{root}/tests/gateways/kong/?.lua;;';\n\
                 init_by_lua_block {{ require 'pdk'\n plugin = require 'kong.plugins.tidegate.handler'\n\
                 config = configured {config} }}\n\
                 server {{ listen 127.0.0.1:{port}; location / {{\n\
                 access_by_lua_block {{ {before} plugin:access(config) }}\n\
                 header_filter_by_lua_block {{ plugin:header_filter() }}\n\
                 proxy_pass http://{application}; }} }}"
            );
            (setup.edit)(text)
        })
    }
}

/// The configuration of the plugin in this declarative file, as a table in Lua.
fn lua_table(text: &str) -> String {
    let (_, rest) = text.split_once("- name: tidegate\n    config:\n").expect("the plugin has a configuration");
    let fields = rest.lines().map_while(|line| line.strip_prefix("      ")?.split_once(": "));
    let fields = fields.map(|(name, value)| match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        Some(list) => format!("{name} = {{ {list} }}, "),
        None => format!("{name} = '{value}', "),
    });
    format!("{{ {} }}", fields.collect::<String>())
}

const RULES: &str = "
version: 1
domains:
  - domain: web
    limits:
      - { name: key, match: { api_key: { present: true } }, per: [api_key], limit: 2, window: 1h, consistency: exact }
";

#[test]
fn kong_counts_by_a_key_that_key_auth_has_hidden() {
    let node = node(RULES);
    assert!(deployed("kong/kong.yml").contains("hide_credentials: true"));
    let before = "key_auth { ['key-of-acme'] = 'acme', ['key-of-umbrella'] = 'umbrella' }";
    let kong = Gateway::kong_with(&Setup::patient(vec![&node]), before);
    let status = |key: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}");
        Client::new(&kong).send(head.as_bytes()).status
    };
    assert_eq!(["key-of-acme"; 3].map(status), [200, 200, 429]);
    assert_eq!(["key-of-umbrella"; 3].map(status), [200, 200, 429]);
    assert_eq!(status("unknown"), 401, "key-auth rejects it before the plugin");
}

#[test]
fn no_key_hides_behind_other_headers_in_kong() {
    let node = node(RULES);
    // Debian's nginx takes 1,000 headers by default. The nginx of Kong has no such bound.
    let edit = |text: String| replaced(&text, "server {", "server { max_headers 3000;");
    let kong = Gateway::stubbed_kong(&Setup { edit, ..Setup::patient(vec![&node]) });
    let head = format!("GET / HTTP/1.1\r\nHost: x{}\r\nX-API-Key: k", "\r\na:b".repeat(1000));
    let status = |_| Client::new(&kong).send(head.as_bytes()).status;
    assert_eq!([0; 3].map(status), [200, 200, 429]);
}

#[test]
fn kong_counts_by_consumer_if_the_node_takes_that_attribute() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let limit = "{ name: consumer, per: [consumer], limit: 2, window: 1h, consistency: exact }";
    std::fs::write(&rules, format!("version: 1\ndomains: [{{ domain: web, limits: [{limit}] }}]")).unwrap();
    let listen =
        [("TIDEGATE_LISTEN__TRUSTED_PROXIES", "127.0.0.1"), ("TIDEGATE_LISTEN__ATTRIBUTE_HEADERS", "consumer")];
    let node = Node::serve(&rules, "memory:", &listen);
    let edit = |text: String| replaced(&text, "domain = 'web',", "domain = 'web', consumer_attribute = 'consumer',");
    let setup = Setup { edit, ..Setup::patient(vec![&node]) };
    let kong = Gateway::kong_with(&setup, "key_auth { a1 = 'acme', a2 = 'acme', u1 = 'umbrella' }");
    let status = |key: &str| {
        // A client cannot choose its consumer.
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nX-Tidegate-Attr-consumer: other");
        Client::new(&kong).send(head.as_bytes()).status
    };
    assert_eq!(["a1", "a2", "a1", "a2", "u1"].map(status), [200, 200, 429, 429, 200]);
}

/// Makes the gateway ask itself, and answer the check with a denial that takes 800 ms, a byte of it each 100 ms.
fn asking_a_slow_node(text: String) -> String {
    let (_, rest) = text.split_once("listen 127.0.0.1:").unwrap();
    let (port, _) = rest.split_once(';').unwrap();
    let slow = "ngx.status = 429 ngx.header.content_length = 8 \
                for _ = 1, 8 do ngx.print('x') ngx.flush(true) ngx.sleep(0.1) end";
    let slow = format!("location = /v1/authorize {{ content_by_lua_block {{ {slow} }} }} location / {{");
    let (_, rest) = text.split_once("\"http://").unwrap();
    let (node, _) = rest.split_once('"').unwrap();
    let text = replaced(&text, &format!("\"http://{node}\""), &format!("\"http://127.0.0.1:{port}\""));
    replaced(&text, "location / {", &slow)
}

#[test]
fn a_node_that_answers_byte_by_byte_is_late_in_kong() {
    let node = node(RULES);
    for (mode, expected) in [(FailMode::Open, 200), (FailMode::Closed, 503)] {
        let kong = Gateway::stubbed_kong(&Setup { edit: asking_a_slow_node, ..Setup::new(&node, mode) });
        assert_eq!(Client::new(&kong).get(b"/", b"x").status, expected, "{}", mode.word());
    }
}
