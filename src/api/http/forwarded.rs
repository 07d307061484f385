//! The attributes of a request that a proxy asks about: method, path, host, address, API key and user agent.
//!
//! A client can write any header. Forwarding headers count only if a trusted proxy sends them.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, header};
use ipnet::IpNet;

/// The prefix of headers in which a trusted proxy names attributes itself.
const ATTRIBUTE_PREFIX: &str = "x-tidegate-attr-";

/// Returns the attributes of a request, each once.
///
/// # Errors
/// The attribute for which trusted headers disagree. A proxy passes on the headers that it does not set itself. If it
/// sets one header and the client another for the same attribute, nobody can tell which is whose.
pub fn attributes(
    trusted: &[IpNet],
    peer: IpAddr,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Vec<(String, String)>, &'static str> {
    let text = |name: &str| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let trusted_peer = trusted.iter().any(|net| net.contains(&peer));
    // Every value of every name: a header may come twice.
    let forwarded = |names: &[&str]| -> Vec<String> {
        let lines = names.iter().filter(|_| trusted_peer).flat_map(|name| headers.get_all(*name));
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
    };
    // A full URL, as ingress-nginx sends it, names the host as well.
    let urls = forwarded(&["x-original-url", "x-original-uri", "x-forwarded-uri"]);
    let urls: Vec<(Option<&str>, &str)> = urls.iter().map(|url| host_and_path(url)).collect();
    let mut hosts = forwarded(&["x-original-host", "x-forwarded-host"]);
    hosts.extend(urls.iter().filter_map(|(host, _)| host.map(ToOwned::to_owned)));
    let path = one("path", urls.iter().map(|(_, path)| (*path).to_owned()))?.unwrap_or_else(|| uri.path().to_owned());
    let methods = forwarded(&["x-original-method", "x-forwarded-method"]);
    let method = one("method", methods.into_iter())?.unwrap_or_else(|| method.to_string());
    let host = one("host", hosts.into_iter())?
        .or_else(|| uri.host().map(ToOwned::to_owned))
        .or_else(|| text(header::HOST.as_str()));
    let ip = if trusted_peer { client(trusted, peer, headers) } else { peer };

    let mut all = vec![("method".to_owned(), method), ("path".to_owned(), path), ("ip".to_owned(), ip.to_string())];
    let rest = [("host", host), ("api_key", text("x-api-key")), ("user_agent", text("user-agent"))];
    all.extend(rest.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if trusted_peer {
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix(ATTRIBUTE_PREFIX).filter(|name| !name.is_empty()) else {
                continue;
            };
            all.retain(|(known, _)| known != name);
            all.push((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Ok(all)
}

/// The one value that all headers have.
fn one(name: &'static str, mut values: impl Iterator<Item = String>) -> Result<Option<String>, &'static str> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.all(|other| other == first) { Ok(Some(first)) } else { Err(name) }
}

/// The host and the path of a URL or of a request target, whatever bytes they have: a URL that a parser would reject
/// must not hide a path from its rules.
fn host_and_path(url: &str) -> (Option<&str>, &str) {
    let (host, target) = match url.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?', '#'])) {
        Some((_, rest)) => {
            let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            let port = host.rfind(':').filter(|at| !host[*at..].contains(']'));
            (Some(&host[..port.unwrap_or(host.len())]), target)
        }
        None => (None, url),
    };
    let path = &target[..target.find(['?', '#']).unwrap_or(target.len())];
    (host, if path.is_empty() { "/" } else { path })
}

/// The last address of `X-Forwarded-For` that is not a trusted proxy. The client may have written the addresses before
/// it.
fn client(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    let mut nearest = peer;
    for hop in lines.iter().flat_map(|line| line.split(',')).rev() {
        let Ok(address) = hop.trim().trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else { break };
        nearest = address.to_canonical();
        if !trusted.iter().any(|net| net.contains(&nearest)) {
            break;
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(trusted: &[&str], peer: &str, lines: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let uri = "/v1/authorize?domain=d".parse().unwrap();
        attributes(&trusted, peer.parse().unwrap(), &Method::GET, &uri, &headers).unwrap_or_else(|name| {
            assert!(!name.is_empty());
            vec![("conflict".to_owned(), name.to_owned())]
        })
    }

    fn value<'a>(all: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut found = all.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        assert!(found.next().is_none(), "{name} is there twice");
        first
    }

    const LINES: [(&str, &str); 7] = [
        ("host", "auth.internal"),
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-for", "10.0.0.7"),
        ("x-forwarded-uri", "/orders?id=5"),
        ("x-forwarded-method", "POST"),
        ("x-tidegate-attr-ip", "9.9.9.9"),
        ("x-tidegate-attr-tier", "free"),
    ];

    #[test]
    fn a_client_cannot_name_its_own_address_or_tier() {
        let all = see(&["10.0.0.0/8"], "3.3.3.3", &LINES);
        assert_eq!(value(&all, "ip"), Some("3.3.3.3"));
        assert_eq!(value(&all, "path"), Some("/v1/authorize"));
        assert_eq!(value(&all, "method"), Some("GET"));
        assert_eq!(value(&all, "tier"), None);
        assert_eq!(value(&all, "host"), Some("auth.internal"));
    }

    #[test]
    fn an_invalid_url_hides_no_path() {
        let cases = [
            ("/expensive?<", None, "/expensive"),
            ("/a<b>`", None, "/a<b>`"),
            ("/a?next=https://b/c", None, "/a"),
            ("http://me@[::1]:80/x\"#y", Some("[::1]"), "/x\""),
            ("https://shop.example:8443?q", Some("shop.example"), "/"),
        ];
        for (url, host, path) in cases {
            assert_eq!(host_and_path(url), (host, path));
        }
        let long = format!("/expensive?{}", "a".repeat(70_000));
        assert_eq!(value(&see(&["10.0.0.0/8"], "10.0.0.1", &[("x-original-uri", &long)]), "path"), Some("/expensive"));
    }

    #[test]
    fn headers_that_disagree_name_the_attribute() {
        let conflicts: [(&[(&'static str, &str)], &str); 4] = [
            (&[("x-forwarded-uri", "/pay"), ("x-original-url", "/free")], "path"),
            (&[("x-original-uri", "/pay"), ("x-original-uri", "/free")], "path"),
            (&[("x-forwarded-method", "POST"), ("x-original-method", "GET")], "method"),
            (&[("x-forwarded-host", "shop"), ("x-original-url", "https://free/")], "host"),
        ];
        for (lines, name) in conflicts {
            assert_eq!(value(&see(&["10.0.0.0/8"], "10.0.0.1", lines), "conflict"), Some(name), "{lines:?}");
            assert_eq!(value(&see(&["10.0.0.0/8"], "3.3.3.3", lines), "conflict"), None, "the peer is not trusted");
        }
        let agree = [("x-forwarded-uri", "/pay"), ("x-original-url", "https://shop/pay"), ("x-forwarded-host", "shop")];
        assert_eq!(value(&see(&["10.0.0.0/8"], "10.0.0.1", &agree), "path"), Some("/pay"));
    }

    #[test]
    fn a_trusted_proxy_names_what_it_saw() {
        let all = see(&["10.0.0.0/8"], "10.0.0.1", &LINES[..5]);
        assert_eq!(value(&all, "ip"), Some("2.2.2.2"), "1.1.1.1 may be the client's own writing");
        assert_eq!(value(&all, "path"), Some("/orders"));
        assert_eq!(value(&all, "method"), Some("POST"));
        let all = see(&["10.0.0.0/8"], "10.0.0.1", &LINES);
        assert_eq!((value(&all, "ip"), value(&all, "tier")), (Some("9.9.9.9"), Some("free")));
        let all = see(&["10.0.0.0/8"], "10.0.0.1", &[("x-original-url", "https://shop.example/a/b?c=d")]);
        assert_eq!((value(&all, "host"), value(&all, "path")), (Some("shop.example"), Some("/a/b")));
    }
}
