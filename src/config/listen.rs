//! The section `listen` of the settings.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::defaults::DEFAULTS;
use super::values::{section, size, within};
use crate::api::http::forward_auth::trust::{AttributeHeader, ClientIp, Trust};
use crate::yaml::decode::{Errors, Fields, list, string};
use crate::yaml::tree::Node;
use limiter::rules::Path;

/// The most attributes that proxies may name: a check has a bound of its own.
const MAX_ATTRIBUTE_HEADERS: usize = 64;
/// The most origins of web pages: a node compares each.
const MAX_ORIGINS: usize = 64;
/// The most proxies before a node.
const MAX_HOPS: u64 = 100;

/// `listen:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// For the messages between nodes. A node without `cluster` does not listen there.
    pub cluster: SocketAddr,
    /// For the admin API. A node listens there if it has a cluster or `admin.token_file`.
    pub admin: SocketAddr,
    /// `trusted_proxies`, `attribute_headers` and `client_ip`
    pub trust: Trust,
    /// The origins whose web pages may ask for checks.
    pub cors_origins: Vec<HeaderValue>,
}

pub(super) fn listen(node: Option<&Node>, path: &Path, errors: &mut Errors) -> Listen {
    section(node, path, errors, |fields, path, errors| {
        let mut seen: Vec<SocketAddr> = Vec::new();
        let listeners = [
            ("http", DEFAULTS.http),
            ("grpc", DEFAULTS.grpc),
            ("cluster", DEFAULTS.cluster),
            ("admin", DEFAULTS.admin),
        ];
        let [http, grpc, cluster, admin] = listeners.map(|(listener, default)| {
            let path = path.field(listener);
            let given = fields.get(listener).and_then(|n| string(n, &path, errors));
            let Ok(address) = given.as_deref().unwrap_or(default).parse() else {
                errors.add(&path, "expected an address and a port, such as 0.0.0.0:8080 or [::]:8080");
                return SocketAddr::from(([0, 0, 0, 0], 0));
            };
            if seen.contains(&address) && address.port() != 0 {
                errors.add(&path, "expected an address that no other listener has");
            }
            seen.push(address);
            address
        });
        let trust = trust(fields, path, errors);
        let cors_origins =
            fields.get("cors_origins").map(|node| list(node, &path.field("cors_origins"), errors, origin));
        let cors_origins = cors_origins.unwrap_or_default();
        if cors_origins.len() > MAX_ORIGINS {
            errors.add(&path.field("cors_origins"), format!("expected at most {MAX_ORIGINS} origins"));
        }
        Listen { http, grpc, cluster, admin, trust, cors_origins }
    })
}

fn trust(fields: &mut Fields<'_>, path: &Path, errors: &mut Errors) -> Trust {
    let mut get = |field| Some((fields.get(field)?, path.field(field)));
    let proxies = get("trusted_proxies").map(|(node, path)| list(node, &path, errors, network));
    let attributes = get("attribute_headers").map(|(node, path)| attribute_headers(node, &path, errors));
    let client_ip = get("client_ip").and_then(|(node, path)| client_ip(node, &path, errors));
    Trust {
        proxies: proxies.unwrap_or_default(),
        attributes: attributes.unwrap_or_default(),
        client_ip: client_ip.unwrap_or_default(),
    }
}

/// Reads an origin (RFC 6454), as browsers write it.
fn origin(node: &Node, path: &Path, errors: &mut Errors) -> Option<HeaderValue> {
    let text = string(node, path, errors)?;
    let origin = url::Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let is_whole = origin.is_some_and(|url| url.origin().ascii_serialization() == text);
    let value = HeaderValue::try_from(text).ok().filter(|_| is_whole);
    if value.is_none() {
        errors.add(path, "expected an origin as browsers write it, such as https://app.example.com, without a path");
    }
    value
}

fn network(node: &Node, path: &Path, errors: &mut Errors) -> Option<IpNet> {
    let text = string(node, path, errors)?;
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let network = text.parse().ok().or_else(address);
    if network.is_none() {
        errors.add(path, "expected a network or an address, such as 10.0.0.0/8");
    }
    network.map(canonical)
}

/// An IPv4 network that is written as an IPv6 network, as an IPv4 network: the addresses of peers are in that form.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let (address, length) = (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(96));
    let ipv4 = address.zip(length).and_then(|(address, length)| IpNet::new(address.into(), length).ok());
    ipv4.unwrap_or(network)
}

fn attribute_headers(node: &Node, path: &Path, errors: &mut Errors) -> Vec<AttributeHeader> {
    let mut all: Vec<AttributeHeader> = Vec::new();
    list(node, path, errors, |node, path, errors| {
        match AttributeHeader::new(&string(node, path, errors)?) {
            Ok(attribute) if all.contains(&attribute) => errors.add(path, "expected each name once"),
            Ok(attribute) => all.push(attribute),
            Err(expected) => errors.add(path, expected),
        }
        Some(())
    });
    if all.len() > MAX_ATTRIBUTE_HEADERS {
        errors.add(path, format!("expected at most {MAX_ATTRIBUTE_HEADERS} names"));
    }
    all
}

fn client_ip(node: &Node, path: &Path, errors: &mut Errors) -> Option<ClientIp> {
    section(Some(node), path, errors, |fields, path, errors| {
        let header = fields.get("header").map(|node| {
            let path = path.field("header");
            let name = string(node, &path, errors)?;
            let header = HeaderName::try_from(name).ok();
            if header.is_none() {
                errors.add(&path, "expected the name of a header, such as CF-Connecting-IP");
            }
            header.map(ClientIp::Header)
        });
        let hops = fields.get("hops").map(|node| {
            let hops = within(node, &path.field("hops"), 1..=MAX_HOPS, errors)?;
            Some(ClientIp::Hops(size(hops)))
        });
        match (header, hops) {
            (Some(one), None) | (None, Some(one)) => one,
            _ => {
                errors.add(
                    path,
                    "expected either header, such as { header: CF-Connecting-IP }, or hops, such as { hops: 1 }",
                );
                None
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overlay::Setting;
    use crate::config::settings::Settings;

    /// The trust of a section `listen`, or its errors.
    fn read(listen: &str) -> Result<Trust, Vec<String>> {
        let text = format!("region: r\nstore: {{ url: 'memory:' }}\nrules: {{ file: f }}\nlisten: {listen}\n");
        let settings = Settings::read(Some(("f", &text)), Vec::new(), "host");
        let errors = |invalid: crate::config::settings::InvalidSettings| {
            invalid.errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
        };
        settings.map(|settings| settings.listen.trust).map_err(errors)
    }

    #[test]
    fn a_trusted_proxy_is_known_in_every_form_of_its_address() {
        let cases = [
            ("'::ffff:127.0.0.1'", "127.0.0.1", "127.0.0.2"),
            ("'::ffff:10.0.0.0/104'", "10.1.2.3", "11.0.0.1"),
            ("10.1.2.3/8", "10.200.0.1", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("'2001:db8::/32'", "2001:db8:1::1", "2001:db9::1"),
            ("'::1'", "::1", "0.0.0.1"),
        ];
        for (network, inside, outside) in cases {
            let trust = read(&format!("{{ trusted_proxies: [{network}] }}")).unwrap();
            let is_proxy = |address: &str| trust.is_proxy(address.parse::<IpAddr>().unwrap().to_canonical());
            assert!(is_proxy(inside) && !is_proxy(outside), "{network}");
        }
        let nobody = read("{}").unwrap();
        assert!(!nobody.is_proxy([127, 0, 0, 1].into()));
    }

    #[test]
    fn a_client_address_has_one_place() {
        let client_ip = |text: &str| read(&format!("{{ client_ip: {text} }}")).map(|trust| trust.client_ip);
        assert_eq!(
            client_ip("{ header: CF-Connecting-IP }"),
            Ok(ClientIp::Header("cf-connecting-ip".parse().unwrap()))
        );
        assert_eq!(client_ip("{ hops: 2 }"), Ok(ClientIp::Hops(2)));
        assert_eq!(client_ip("~"), Ok(ClientIp::LastUntrusted));
        for (invalid, expected) in [
            ("{}", "listen.client_ip: expected either header"),
            ("{ header: A, hops: 1 }", "listen.client_ip: expected either header"),
            ("{ header: 'a b' }", "listen.client_ip.header: expected the name of a header"),
            ("{ hops: 0 }", "listen.client_ip.hops: expected 1 to 100"),
            ("{ hop: 1 }", "listen.client_ip.hop: expected one of header, hops"),
            ("X-Real-IP", "listen.client_ip: expected a map"),
        ] {
            let errors = client_ip(invalid).unwrap_err();
            assert!(errors.iter().any(|error| error.starts_with(expected)), "{invalid}: {errors:?}");
        }
        let variable = Setting::from_environment("TIDEGATE_LISTEN__CLIENT_IP__HOPS", "3");
        let needed = [("REGION", "r"), ("STORE__URL", "memory:"), ("RULES__FILE", "f")];
        let needed = needed.map(|(name, value)| Setting::from_environment(&format!("TIDEGATE_{name}"), value));
        let settings = needed.into_iter().chain([variable]).flatten().collect();
        assert_eq!(Settings::read(None, settings, "host").unwrap().listen.trust.client_ip, ClientIp::Hops(3));
    }

    #[test]
    fn a_proxy_may_not_name_a_built_in_attribute() {
        let read = |text: &str| read(&format!("{{ attribute_headers: {text} }}"));
        let names: Vec<String> = read("[tier, user.id]").unwrap().attributes.into_iter().map(|a| a.name).collect();
        assert_eq!(names, ["tier", "user.id"]);
        for built_in in ["method", "host", "path", "raw_path", "ip", "api_key", "user_agent"] {
            let errors = read(&format!("[tier, {built_in}]")).unwrap_err();
            assert_eq!(errors.len(), 1);
            assert!(errors[0].starts_with("listen.attribute_headers[1]: expected no built-in attribute"), "{errors:?}");
        }
        for invalid in ["[Tier]", "['a b']", "['']", "[tier, tier]", "[X-Tidegate-Attr-tier]", "['a:b']"] {
            assert!(read(invalid).is_err(), "{invalid}");
        }
    }
}
