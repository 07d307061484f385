//! The attributes of a request that a gateway asks about.
//!
//! A client can write any header. Forwarding headers count only if a trusted proxy sends them.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, header};

use super::ambiguity::Ambiguity;
use super::client_ip::{self, Client, client};
use super::notices::{Notices, Problem};
use super::target::{self, Target};
use super::trust::{ATTRIBUTE_PREFIX, BUILT_IN, ClientIp, Trust};
use super::{host, path};
use crate::api::client_text;

/// The value of `ip` if a proxy names a client and its address cannot be read. All such clients share it: nobody gets a
/// counter of their own by an address that cannot be read, and nobody is counted as the proxy.
pub const UNKNOWN_ADDRESS: &str = "unknown";

/// Headers in which a proxy says what it was asked.
const METHODS: [&str; 2] = ["x-original-method", "x-forwarded-method"];
const TARGETS: [&str; 3] = ["x-original-url", "x-original-uri", "x-forwarded-uri"];
const HOSTS: [&str; 2] = ["x-original-host", "x-forwarded-host"];
const ADDRESSES: [&str; 3] = [client_ip::FORWARDED_FOR, client_ip::FORWARDED, client_ip::REAL_IP];

/// A call of `/v1/authorize`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'c> {
    pub peer: IpAddr,
    pub method: &'c Method,
    pub uri: &'c Uri,
    pub headers: &'c HeaderMap,
}

/// Reads the attributes of a call, each once.
///
/// # Errors
/// Why the headers leave open what is asked.
pub fn attributes(trust: &Trust, notices: &Notices, call: Call<'_>) -> Result<Vec<(String, String)>, Ambiguity> {
    let mut all = Vec::with_capacity(BUILT_IN.len() + trust.attributes.len());
    let mut push = |name: &str, value: &[u8]| all.push((name.to_owned(), client_text::from_bytes(value).into_owned()));
    let asked = if trust.is_proxy(call.peer) {
        for attribute in &trust.attributes {
            if let Some(value) = one(&attribute.name, forwarded(call.headers, &[attribute.header.as_str()]))? {
                push(&attribute.name, value);
            }
        }
        report_unlisted(trust, notices, call);
        push("ip", client_address(trust, notices, call)?.as_bytes());
        asked_of_proxy(call.headers)?
    } else {
        if let Some(name) = forwarding_header(trust, call.headers) {
            notices.report(Problem::NotBelieved, call.peer, || name.to_owned());
        }
        push("ip", call.peer.to_string().as_bytes());
        Asked::default()
    };
    push("method", asked.method.unwrap_or(call.method.as_str().as_bytes()));
    let raw_path = asked.raw_path.unwrap_or(call.uri.path().as_bytes());
    push("path", &asked.path.unwrap_or_else(|| path::normalized(raw_path)));
    push("raw_path", raw_path);
    let host = match asked.host {
        Some(host) => Some(host),
        None => called_host(call)?,
    };
    if let Some(host) = host {
        push("host", &host);
    }
    for (name, header) in [("api_key", "x-api-key"), ("user_agent", header::USER_AGENT.as_str())] {
        if let Some(value) = at_most_once(call.headers, name, header)? {
            push(name, value);
        }
    }
    Ok(all)
}

/// What a trusted proxy says that it was asked.
#[derive(Default)]
struct Asked<'h> {
    method: Option<&'h [u8]>,
    raw_path: Option<&'h [u8]>,
    /// The normal forms.
    path: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

fn asked_of_proxy(headers: &HeaderMap) -> Result<Asked<'_>, Ambiguity> {
    let targets = || forwarded(headers, &TARGETS).map(|(name, text)| (name, target::split(text)));
    // A list has an entry of each proxy.
    let hosts = forwarded(headers, &HOSTS)
        .flat_map(|(name, text)| text.split(|byte| *byte == b',').map(move |host| (name, host)));
    let authorities = targets().filter_map(|(name, Target { authority, .. })| Some((name, authority?)));
    Ok(Asked {
        method: one("method", forwarded(headers, &METHODS))?,
        raw_path: targets().next().map(|(_, Target { path, .. })| path),
        path: one("path", targets().map(|(name, Target { path, .. })| (name, path::normalized(path))))?,
        host: one("host", hosts.chain(authorities).map(|(name, text)| (name, host::normalized(text))))?,
    })
}

/// The host of the call itself.
fn called_host(call: Call<'_>) -> Result<Option<Vec<u8>>, Ambiguity> {
    let named = at_most_once(call.headers, "host", header::HOST.as_str())?;
    Ok(call.uri.host().map(str::as_bytes).or(named).map(host::normalized))
}

/// The address of a trusted proxy's client.
fn client_address(trust: &Trust, notices: &Notices, call: Call<'_>) -> Result<String, Ambiguity> {
    Ok(match client(trust, call.headers)? {
        Client::Address(address) => address.to_string(),
        Client::Unreadable => {
            notices.report(Problem::UnreadableAddress, call.peer, || addresses(trust, call.headers));
            UNKNOWN_ADDRESS.to_owned()
        }
        Client::Missing => {
            notices.report(Problem::NoAddress, call.peer, String::new);
            // Without any header the peer may be a client of this network. Where the settings name the place of the
            // address, it has no other.
            if trust.client_ip == ClientIp::LastUntrusted { call.peer.to_string() } else { UNKNOWN_ADDRESS.to_owned() }
        }
    })
}

/// Every value of every of these headers, with the name of its header.
fn forwarded<'h, 'n>(headers: &'h HeaderMap, names: &'n [&'n str]) -> impl Iterator<Item = (&'n str, &'h [u8])> {
    names.iter().flat_map(|name| headers.get_all(*name).iter().map(|value| (*name, value.as_bytes())))
}

/// The one value that all headers have.
fn one<'n, T: PartialEq>(
    attribute: &str,
    mut values: impl Iterator<Item = (&'n str, T)>,
) -> Result<Option<T>, Ambiguity> {
    let Some((first_name, first)) = values.next() else { return Ok(None) };
    match values.find(|(_, other)| *other != first) {
        Some((name, _)) if name == first_name => Err(Ambiguity::contradiction(attribute, &[name])),
        Some((name, _)) => Err(Ambiguity::contradiction(attribute, &[first_name, name])),
        None => Ok(Some(first)),
    }
}

/// The value of a header that a client writes. Applications differ in which of several they read.
fn at_most_once<'h>(headers: &'h HeaderMap, attribute: &str, name: &str) -> Result<Option<&'h [u8]>, Ambiguity> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Ambiguity::repetition(attribute, name));
    }
    Ok(first.map(|value| value.as_bytes()))
}

/// Reports attributes that a trusted proxy may not name.
fn report_unlisted(trust: &Trust, notices: &Notices, call: Call<'_>) {
    let named = call.headers.keys().filter(|name| name.as_str().starts_with(ATTRIBUTE_PREFIX));
    for name in named.filter(|name| trust.attributes.iter().all(|listed| listed.header != *name)) {
        notices.report(Problem::UnlistedAttribute, call.peer, || shown(name.as_str().as_bytes()));
    }
}

/// A header that would count if a trusted proxy sent it.
fn forwarding_header<'t>(trust: &'t Trust, headers: &HeaderMap) -> Option<&'t str> {
    let own = match &trust.client_ip {
        ClientIp::Header(name) => Some(name.as_str()),
        ClientIp::LastUntrusted | ClientIp::Hops(_) => None,
    };
    let fixed = METHODS.into_iter().chain(TARGETS).chain(HOSTS).chain(ADDRESSES);
    let attributes = trust.attributes.iter().map(|attribute| attribute.header.as_str());
    fixed.chain(own).chain(attributes).find(|name| headers.contains_key(*name))
}

/// The headers that name addresses, for the log.
fn addresses(trust: &Trust, headers: &HeaderMap) -> String {
    let named = match &trust.client_ip {
        ClientIp::Header(name) => vec![name.as_str()],
        ClientIp::Hops(_) => vec![client_ip::FORWARDED_FOR],
        ClientIp::LastUntrusted => ADDRESSES.to_vec(),
    };
    let texts = forwarded(headers, &named).map(|(name, value)| format!("{name}: {}", shown(value)));
    texts.collect::<Vec<_>>().join("; ")
}

/// The end of a text that a client may have written, for the log: proxies write on the right.
fn shown(bytes: &[u8]) -> String {
    bytes[bytes.len().saturating_sub(100)..].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::api::http::forward_auth::trust::AttributeHeader;
    use crate::telemetry::registry::MetricsRegistry;

    /// Headers: their names and values.
    type Lines<'l> = &'l [(&'l str, &'l [u8])];

    /// A node that trusts 10.0.0.0/8, and the problems that it counted.
    struct Reader {
        trust: Trust,
        notices: Notices,
        registry: MetricsRegistry,
    }

    impl Reader {
        fn new() -> Self {
            let registry = MetricsRegistry::new("0", "test").unwrap();
            let attributes = ["tier", "user"].map(|name| AttributeHeader::new(name).unwrap());
            let trust = Trust {
                proxies: vec!["10.0.0.0/8".parse().unwrap()],
                attributes: attributes.into(),
                client_ip: ClientIp::default(),
            };
            Self { trust, notices: Notices::new(&registry).unwrap(), registry }
        }

        fn read(&self, peer: &str, lines: Lines<'_>) -> Result<Vec<(String, String)>, Ambiguity> {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
            }
            let uri = "/v1/authorize?domain=d".parse().unwrap();
            let call = Call { peer: peer.parse().unwrap(), method: &Method::GET, uri: &uri, headers: &headers };
            attributes(&self.trust, &self.notices, call)
        }

        /// The value of one attribute of a trusted proxy's client.
        fn value(&self, name: &str, lines: Lines<'_>) -> Option<String> {
            value(&self.read("10.0.0.1", lines).unwrap(), name).map(ToOwned::to_owned)
        }

        fn count(&self, reason: &str) -> u64 {
            let line = format!("tidegate_forward_auth_problems_total{{reason=\"{reason}\"}} ");
            let text = self.registry.render().unwrap();
            text.lines().find_map(|known| known.strip_prefix(&line)?.parse().ok()).unwrap()
        }
    }

    fn value<'a>(all: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut found = all.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        assert!(found.next().is_none(), "{name} is there twice");
        first
    }

    const LINES: [(&str, &[u8]); 10] = [
        ("host", b"auth.internal"),
        ("x-forwarded-for", b"1.1.1.1, 2.2.2.2"),
        ("x-forwarded-for", b"10.0.0.7"),
        ("x-forwarded-uri", b"/./orders?id=5"),
        ("x-forwarded-method", b"POST"),
        ("x-forwarded-host", b"SHOP.example:8443"),
        ("x-api-key", b"k1"),
        ("user-agent", b"ua"),
        ("x-tidegate-attr-ip", b"9.9.9.9"),
        ("x-tidegate-attr-tier", b"free"),
    ];

    #[test]
    fn headers_of_a_stranger_are_not_believed() {
        let reader = Reader::new();
        let all = reader.read("3.3.3.3", &LINES).unwrap();
        let expected = [
            ("ip", Some("3.3.3.3")),
            ("path", Some("/v1/authorize")),
            ("raw_path", Some("/v1/authorize")),
            ("method", Some("GET")),
            ("host", Some("auth.internal")),
            ("api_key", Some("k1")),
            ("user_agent", Some("ua")),
            ("tier", None),
        ];
        for (name, expected) in expected {
            assert_eq!(value(&all, name), expected, "{name}");
        }
        assert_eq!(reader.count("not_believed"), 1);
        reader.read("3.3.3.3", &[("host", b"h"), ("x-api-key", b"k")]).unwrap();
        assert_eq!(reader.count("not_believed"), 1, "these are the headers of a client");
    }

    #[test]
    fn a_trusted_proxy_names_what_it_saw_and_no_built_in_attribute() {
        let reader = Reader::new();
        let all = reader.read("10.0.0.1", &LINES).unwrap();
        let expected = [
            ("ip", Some("2.2.2.2")),
            ("path", Some("/orders")),
            ("raw_path", Some("/./orders")),
            ("method", Some("POST")),
            ("host", Some("shop.example")),
            ("tier", Some("free")),
            ("user", None),
        ];
        for (name, expected) in expected {
            assert_eq!(value(&all, name), expected, "{name}");
        }
        assert_eq!(reader.count("attribute_not_listed"), 1, "ip");
        assert_eq!(reader.count("not_believed"), 0);
        let url: Lines<'_> =
            &[("x-original-url", b"https://shop.example:8443/a/b?c=d"), ("x-forwarded-host", b"shop.example:8443")];
        assert_eq!(
            (reader.value("host", url).as_deref(), reader.value("path", url).as_deref()),
            (Some("shop.example"), Some("/a/b"))
        );
    }

    #[test]
    fn headers_that_contradict_each_other_are_ambiguous() {
        let reader = Reader::new();
        let conflicts: [(Lines<'_>, &str); 7] = [
            (&[("x-forwarded-uri", b"/pay"), ("x-original-url", b"/free")], "path"),
            (&[("x-original-uri", b"/pay"), ("x-original-uri", b"/free")], "path"),
            (&[("x-forwarded-method", b"POST"), ("x-original-method", b"GET")], "method"),
            (&[("x-forwarded-host", b"shop"), ("x-original-url", b"https://free/")], "host"),
            (&[("x-forwarded-host", b"shop, free")], "host"),
            (&[("x-forwarded-for", b"1.1.1.1"), ("x-real-ip", b"2.2.2.2")], "ip"),
            (&[("x-tidegate-attr-tier", b"free"), ("x-tidegate-attr-tier", b"pro")], "tier"),
        ];
        for (lines, attribute) in conflicts {
            let ambiguity = reader.read("10.0.0.1", lines).unwrap_err();
            assert!(ambiguity.detail.starts_with(&format!("{attribute}: ")), "{lines:?}: {ambiguity:?}");
            assert_eq!(ambiguity.problem, Problem::ContradictingHeaders);
            assert!(reader.read("3.3.3.3", lines).is_ok(), "the peer is not trusted");
        }
        let agree: [Lines<'_>; 4] = [
            &[
                ("x-forwarded-uri", b"/%70ay"),
                ("x-original-url", b"https://Shop:443//pay?x"),
                ("x-forwarded-host", b"shop."),
            ],
            &[("x-original-uri", b"/pay"), ("x-original-uri", b"/pay")],
            &[("x-forwarded-host", b"shop, SHOP:80")],
            &[("x-tidegate-attr-tier", b"free"), ("x-tidegate-attr-tier", b"free")],
        ];
        for lines in agree {
            assert!(reader.read("10.0.0.1", lines).is_ok(), "{lines:?}");
        }
    }

    #[test]
    fn a_header_of_the_client_that_comes_twice_is_ambiguous() {
        let reader = Reader::new();
        for (attribute, name) in [("api_key", "x-api-key"), ("user_agent", "user-agent"), ("host", "host")] {
            for peer in ["10.0.0.1", "3.3.3.3"] {
                let ambiguity = reader.read(peer, &[(name, b"a"), (name, b"b")]).unwrap_err();
                assert_eq!(ambiguity, Ambiguity::repetition(attribute, name));
            }
        }
    }

    #[test]
    fn different_values_stay_different_whatever_their_bytes() {
        let reader = Reader::new();
        let long = "x".repeat(70_000);
        for (attribute, name) in [
            ("api_key", "x-api-key"),
            ("user_agent", "user-agent"),
            ("path", "x-original-uri"),
            ("tier", "x-tidegate-attr-tier"),
        ] {
            let values: [&[u8]; 6] =
                [b"/\xff", b"/\xfe", "/\u{fffd}".as_bytes(), b"/\\xff", long.as_bytes(), &long.as_bytes()[1..]];
            let seen: std::collections::BTreeSet<_> =
                values.iter().map(|value| reader.value(attribute, &[(name, value)])).collect();
            assert_eq!(seen.len(), values.len(), "{attribute}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_read_is_no_proxys_address() {
        let mut reader = Reader::new();
        assert_eq!(reader.value("ip", &[("x-forwarded-for", b"\xff")]).as_deref(), Some("unknown"));
        assert_eq!(reader.value("ip", &[("x-forwarded-for", b"\xff, 203.0.113.9")]).as_deref(), Some("203.0.113.9"));
        assert_eq!((reader.count("unreadable_address"), reader.count("no_address")), (1, 0));
        assert_eq!(reader.value("ip", &[]).as_deref(), Some("10.0.0.1"), "the peer may be the client itself");
        reader.trust.client_ip = ClientIp::Hops(1);
        assert_eq!(reader.value("ip", &[]).as_deref(), Some("unknown"), "the settings name the place of the address");
        assert_eq!((reader.count("unreadable_address"), reader.count("no_address")), (1, 2));
    }
}
