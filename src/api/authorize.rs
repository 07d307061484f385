//! `/v1/authorize`: forward-auth. The attributes come from the request itself.
//!
//! What a client can write into its own request is believed only when a trusted proxy hands it on.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;

use super::desk::{Desk, MAX_ENTRIES, MAX_VALUE};
use super::http::{decided, parameters, take_id, unknown_parameter, with_id};
use super::request_id::RequestId;
use super::serve::Peer;
use super::status::{Rejection, fault};
use limiter::{Check, Decision, Descriptor};

/// Attributes that a trusted proxy sets itself.
const OWN_PREFIX: &str = "x-tidegate-attr-";

pub async fn authorize(
    State(desk): State<Arc<Desk>>,
    Extension(Peer(peer)): Extension<Peer>,
    method: Method,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let id = take_id(&desk, &headers);
    let outcome = match read(&desk, peer, &method, &uri, query.as_deref(), &headers) {
        Ok(request) => request.decide(&desk, &id).await.map(|decision| (decision, request.refusal)),
        Err(rejection) => Err(desk.reject(rejection, &id)),
    };
    let answer = match outcome {
        Ok((decision, refusal)) => decided(&decision, refusal, StatusCode::OK.into_response()),
        Err(rejection) => rejection.into_response(),
    };
    with_id(answer, &id)
}

struct Request {
    domain: String,
    refusal: StatusCode,
    attributes: Vec<(String, String)>,
}

impl Request {
    async fn decide(&self, desk: &Desk, id: &RequestId<'_>) -> Result<Decision, Rejection> {
        let entries: Vec<(&str, &str)> = self.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let descriptors = [Descriptor { entries: &entries, ordered: false, hits: 1, limit: None }];
        desk.decide(&Check { domain: &self.domain, descriptors: &descriptors }, None, id).await
    }
}

fn read(
    desk: &Desk,
    peer: IpAddr,
    method: &Method,
    uri: &Uri,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Request, Rejection> {
    let mut faults = Vec::new();
    let (mut domain, mut refusal) = (None, StatusCode::TOO_MANY_REQUESTS);
    let mut named = HashSet::new();
    for (key, value) in parameters(query) {
        if !named.insert(key.clone()) {
            faults.push(fault(format!("?{key}"), "expected it once"));
        }
        match key.as_str() {
            "domain" => domain = Some(value).filter(|d| (1..=MAX_VALUE).contains(&d.len())),
            "deny_status" => match value.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
                Some(status) if status.is_client_error() || status.is_server_error() => refusal = status,
                _ => faults.push(fault("?deny_status", "expected a status from 400 to 599")),
            },
            _ => faults.push(unknown_parameter(&key, "domain, deny_status")),
        }
    }
    if domain.is_none() {
        faults.push(fault("?domain", "expected a domain: it is required"));
    }
    let attributes = match attributes(&desk.trusted_proxies, peer, method, uri, headers) {
        Ok(attributes) => attributes,
        Err(name) => {
            let detail = "expected the headers that name it to agree: the proxy must remove those that clients send";
            faults.push(fault(name, detail));
            Vec::new()
        }
    };
    for (name, value) in &attributes {
        if value.len() > MAX_VALUE {
            faults.push(fault(name, "expected at most 4096 bytes"));
        }
    }
    if attributes.len() > MAX_ENTRIES {
        faults.push(fault("", format!("expected at most {MAX_ENTRIES} attributes")));
    }
    match domain {
        Some(domain) if faults.is_empty() => Ok(Request { domain, refusal, attributes }),
        _ => Err(Rejection::Invalid(faults)),
    }
}

/// What the request says of itself, each attribute once; or the attribute of which trusted headers say different things.
///
/// A proxy hands on the headers that it does not set itself. So where it sets one, and the client another that names the
/// same attribute, nobody can say which is whose.
fn attributes(
    trusted: &[IpNet],
    peer: IpAddr,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Vec<(String, String)>, &'static str> {
    let text = |name: &str| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let believed = trusted.iter().any(|net| net.contains(&peer));
    // Every value of them all, for one may come twice.
    let handed_on = |names: &[&str]| -> Vec<String> {
        let lines = names.iter().filter(|_| believed).flat_map(|name| headers.get_all(*name));
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
    };
    // A URL in full, as ingress-nginx has it, names the host too.
    let urls = handed_on(&["x-original-url", "x-original-uri", "x-forwarded-uri"]);
    let urls: Vec<(Option<&str>, &str)> = urls.iter().map(|url| host_and_path(url)).collect();
    let mut hosts = handed_on(&["x-original-host", "x-forwarded-host"]);
    hosts.extend(urls.iter().filter_map(|(host, _)| host.map(ToOwned::to_owned)));
    let path = one("path", urls.iter().map(|(_, path)| (*path).to_owned()))?.unwrap_or_else(|| uri.path().to_owned());
    let methods = handed_on(&["x-original-method", "x-forwarded-method"]);
    let method = one("method", methods.into_iter())?.unwrap_or_else(|| method.to_string());
    let host = one("host", hosts.into_iter())?
        .or_else(|| uri.host().map(ToOwned::to_owned))
        .or_else(|| text(header::HOST.as_str()));
    let ip = if believed { client(trusted, peer, headers) } else { peer };

    let mut all = vec![("method".to_owned(), method), ("path".to_owned(), path), ("ip".to_owned(), ip.to_string())];
    let rest = [("host", host), ("api_key", text("x-api-key")), ("user_agent", text("user-agent"))];
    all.extend(rest.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if believed {
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix(OWN_PREFIX).filter(|name| !name.is_empty()) else { continue };
            all.retain(|(known, _)| known != name);
            all.push((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Ok(all)
}

/// The one thing that all of them say.
fn one(name: &'static str, mut said: impl Iterator<Item = String>) -> Result<Option<String>, &'static str> {
    let Some(first) = said.next() else { return Ok(None) };
    if said.all(|other| other == first) { Ok(Some(first)) } else { Err(name) }
}

/// Host and path of a URL or of a request's target, whatever stands in them: what a parser would refuse must not hide a
/// path from its rules.
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

/// The last address of `X-Forwarded-For` that is no trusted proxy: what is before it the client may have written.
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
    fn an_odd_url_hides_no_path() {
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
    fn what_a_client_adds_beside_what_its_proxy_sets_is_refused() {
        let conflicts: [(&[(&'static str, &str)], &str); 4] = [
            (&[("x-forwarded-uri", "/pay"), ("x-original-url", "/free")], "path"),
            (&[("x-original-uri", "/pay"), ("x-original-uri", "/free")], "path"),
            (&[("x-forwarded-method", "POST"), ("x-original-method", "GET")], "method"),
            (&[("x-forwarded-host", "shop"), ("x-original-url", "https://free/")], "host"),
        ];
        for (lines, name) in conflicts {
            assert_eq!(value(&see(&["10.0.0.0/8"], "10.0.0.1", lines), "conflict"), Some(name), "{lines:?}");
            assert_eq!(value(&see(&["10.0.0.0/8"], "3.3.3.3", lines), "conflict"), None, "nobody believes it");
        }
        let agree = [("x-forwarded-uri", "/pay"), ("x-original-url", "https://shop/pay"), ("x-forwarded-host", "shop")];
        assert_eq!(value(&see(&["10.0.0.0/8"], "10.0.0.1", &agree), "path"), Some("/pay"));
    }

    #[test]
    fn a_trusted_proxy_hands_on_what_it_saw() {
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
