//! The address of the client of a trusted proxy.
//!
//! A client may send forwarding headers itself, and a proxy adds its own entry on the right. So entries are read from
//! the right, each by itself, and only as far as trusted proxies wrote them. Whatever a client writes changes nothing
//! to the right of it.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue};

use super::address;
use super::ambiguity::Ambiguity;
use super::forwarded::hops_from_the_right;
use super::trust::{ClientIp, Trust};

/// A list of addresses to which each proxy adds one.
pub const FORWARDED_FOR: &str = "x-forwarded-for";
/// The standard's list (RFC 7239).
pub const FORWARDED: &str = "forwarded";
/// One address.
pub const REAL_IP: &str = "x-real-ip";

/// What the headers of a trusted proxy say about its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Address(IpAddr),
    /// There is an entry in the place where a trusted proxy writes, and it is no address.
    Unreadable,
    /// The headers name no address.
    Missing,
}

/// Finds the client in the headers of a trusted proxy.
///
/// # Errors
/// Two headers name different clients. A proxy passes on the headers that it does not write, so nobody can tell which
/// of them the client wrote.
pub fn client(trust: &Trust, headers: &HeaderMap) -> Result<Client, Ambiguity> {
    match &trust.client_ip {
        ClientIp::LastUntrusted => last_untrusted(trust, headers),
        ClientIp::Header(name) if name == FORWARDED_FOR => Ok(last(&chain(trust, forwarded_for(headers)))),
        ClientIp::Header(name) if name == FORWARDED => Ok(last(&chain(trust, forwarded(headers)))),
        ClientIp::Header(name) => single(headers, name.as_str()),
        // With fewer entries, the client went around the outer proxies, and the leftmost entry is what the first proxy
        // on its way saw.
        ClientIp::Hops(position) => Ok(read(forwarded_for(headers).take(*position).last())),
    }
}

/// The client by the headers that proxies usually write.
fn last_untrusted(trust: &Trust, headers: &HeaderMap) -> Result<Client, Ambiguity> {
    let (hops, standard) = (chain(trust, forwarded_for(headers)), chain(trust, forwarded(headers)));
    let real_ip = single(headers, REAL_IP)?;
    let contradiction = |one, other| Err(Ambiguity::contradiction("ip", &[one, other]));
    if !hops.is_empty() && !standard.is_empty() && last(&hops) != last(&standard) {
        return contradiction(FORWARDED_FOR, FORWARDED);
    }
    let (name, chain) = if hops.is_empty() { (FORWARDED, standard) } else { (FORWARDED_FOR, hops) };
    match (last(&chain), real_ip) {
        (Client::Missing, real_ip) => Ok(real_ip),
        // `X-Real-IP` names the client, or a trusted proxy between it and this node.
        (Client::Address(_), Client::Address(address)) if !chain.contains(&Some(address)) => {
            contradiction(name, REAL_IP)
        }
        (client, _) => Ok(client),
    }
}

/// The hops that trusted proxies wrote, the nearest first: up to the first that is no trusted proxy or not readable.
fn chain(trust: &Trust, hops: impl Iterator<Item = Option<IpAddr>>) -> Vec<Option<IpAddr>> {
    let mut chain = Vec::new();
    for hop in hops {
        chain.push(hop);
        if !hop.is_some_and(|address| trust.is_proxy(address)) {
            break;
        }
    }
    chain
}

/// The client at the end of a chain.
fn last(chain: &[Option<IpAddr>]) -> Client {
    read(chain.last().copied())
}

fn read(hop: Option<Option<IpAddr>>) -> Client {
    hop.map_or(Client::Missing, |hop| hop.map_or(Client::Unreadable, Client::Address))
}

/// The hops of `X-Forwarded-For` from the right. An empty entry is none (RFC 9110, section 5.6.1).
fn forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let entries = lines(headers, FORWARDED_FOR).flat_map(|line| line.rsplit(|byte| *byte == b','));
    entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).map(address::read)
}

/// The hops of `Forwarded` from the right.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    lines(headers, FORWARDED).flat_map(hops_from_the_right).map(|hop| hop.and_then(address::read))
}

/// The client in a header that has one address.
fn single(headers: &HeaderMap, name: &str) -> Result<Client, Ambiguity> {
    let texts = lines(headers, name).map(<[u8]>::trim_ascii).filter(|text| !text.is_empty());
    let mut clients = texts.map(|text| read(Some(address::read(text))));
    let first = clients.next().unwrap_or(Client::Missing);
    if clients.all(|other| other == first) { Ok(first) } else { Err(Ambiguity::contradiction("ip", &[name])) }
}

/// The lines of a header, the last first.
fn lines<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().rev().map(HeaderValue::as_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Headers: their names and values.
    type Lines<'l> = &'l [(&'static str, &'l [u8])];

    fn trust(client_ip: ClientIp) -> Trust {
        let proxies = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(|network| network.parse().unwrap());
        Trust { proxies: proxies.into(), client_ip, ..Trust::default() }
    }

    fn headers(lines: Lines<'_>) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in lines {
            all.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        all
    }

    /// The address, `unreadable`, `missing`, or why the headers are ambiguous.
    fn found(client_ip: &ClientIp, lines: Lines<'_>) -> String {
        match client(&trust(client_ip.clone()), &headers(lines)) {
            Ok(Client::Address(address)) => address.to_string(),
            Ok(Client::Unreadable) => "unreadable".to_owned(),
            Ok(Client::Missing) => "missing".to_owned(),
            Err(ambiguity) => ambiguity.detail,
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let cases: [(&[u8], &str); 20] = [
            (b"203.0.113.9", "203.0.113.9"),
            (b"1.1.1.1, 203.0.113.9", "203.0.113.9"),
            (b"1.1.1.1, 203.0.113.9, 10.0.0.5,10.0.0.6", "203.0.113.9"),
            (b"\xff, 203.0.113.9", "203.0.113.9"),
            (b"unknown, 203.0.113.9:1234, 10.0.0.5", "203.0.113.9"),
            (b"203.0.113.9:1234", "203.0.113.9"),
            (b"203.0.113.9:1234, 10.0.0.5", "203.0.113.9"),
            (b"203.0.113.9, 10.0.0.5:80", "203.0.113.9"),
            (b"[2001:db8::7]:443", "2001:db8::7"),
            (b"fe80::1%eth0, 10.0.0.5", "fe80::1"),
            (b"203.0.113.9, [2001:db8:ffff::1]:443", "203.0.113.9"),
            (b"203.0.113.9, ::ffff:10.0.0.5", "203.0.113.9"),
            (b",, 203.0.113.9 , ,", "203.0.113.9"),
            (b"10.0.0.9, 10.0.0.5", "10.0.0.9"),
            (b"unknown", "unreadable"),
            (b"203.0.113.9, _hidden", "unreadable"),
            (b"203.0.113.9, \xff, 10.0.0.5", "unreadable"),
            (b"203.0.113.9 10.0.0.5", "unreadable"),
            (b"", "missing"),
            (b" , ,", "missing"),
        ];
        for (line, expected) in cases {
            let shown = String::from_utf8_lossy(line);
            let found = |client_ip| found(&client_ip, &[("x-forwarded-for", line)]);
            assert_eq!(found(ClientIp::LastUntrusted), expected, "{shown}");
            assert_eq!(found(ClientIp::Header(FORWARDED_FOR.parse().unwrap())), expected, "{shown}");
        }
    }

    #[test]
    fn every_header_that_proxies_write_is_read() {
        let cases: [(Lines<'_>, &str); 12] = [
            (&[("forwarded", b"for=1.1.1.1, For=\"203.0.113.9:80\";proto=https, for=10.0.0.5")], "203.0.113.9"),
            (&[("forwarded", b"for=\"[2001:db8::7]:_p\"")], "2001:db8::7"),
            (&[("forwarded", b"for=\"1.1.1.1"), ("forwarded", b"for=203.0.113.9")], "203.0.113.9"),
            (&[("forwarded", b"for=unknown")], "unreadable"),
            (&[("forwarded", b"proto=https")], "unreadable"),
            (&[("x-real-ip", b"203.0.113.9:80")], "203.0.113.9"),
            (&[("x-real-ip", b"unknown")], "unreadable"),
            (&[("x-forwarded-for", b"1.1.1.1"), ("x-forwarded-for", b"203.0.113.9, 10.0.0.5")], "203.0.113.9"),
            (&[("x-forwarded-for", b"1.1.1.1"), ("x-forwarded-for", b"")], "1.1.1.1"),
            // They agree.
            (&[("x-forwarded-for", b"203.0.113.9, 10.0.0.5"), ("x-real-ip", b"10.0.0.5")], "203.0.113.9"),
            (&[("x-forwarded-for", b"203.0.113.9, 10.0.0.5"), ("x-real-ip", b"203.0.113.9")], "203.0.113.9"),
            (&[("x-forwarded-for", b"::ffff:203.0.113.9"), ("forwarded", b"for=203.0.113.9")], "203.0.113.9"),
        ];
        for (lines, expected) in cases {
            assert_eq!(found(&ClientIp::LastUntrusted, lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn headers_that_name_different_clients_are_ambiguous() {
        let cases: [Lines<'_>; 4] = [
            &[("x-forwarded-for", b"203.0.113.9"), ("forwarded", b"for=1.1.1.1")],
            &[("x-forwarded-for", b"1.1.1.1"), ("x-real-ip", b"203.0.113.9")],
            // The client wrote its own address to the left, where nobody reads it.
            &[("x-forwarded-for", b"203.0.113.9, 1.1.1.1"), ("x-real-ip", b"203.0.113.9")],
            &[("x-real-ip", b"1.1.1.1"), ("x-real-ip", b"203.0.113.9")],
        ];
        for lines in cases {
            assert!(found(&ClientIp::LastUntrusted, lines).contains("different"), "{lines:?}");
        }
        // A header that the settings name is the only one that is read.
        let named = ClientIp::Header("cf-connecting-ip".parse().unwrap());
        let lines: Lines<'_> = &[("x-forwarded-for", b"1.1.1.1"), ("cf-connecting-ip", b"203.0.113.9")];
        assert_eq!(found(&named, lines), "203.0.113.9");
        assert_eq!(found(&named, &lines[..1]), "missing");
        assert_eq!(found(&named, &[("cf-connecting-ip", b"1.1.1.1, 203.0.113.9")]), "unreadable");
    }

    #[test]
    fn a_number_of_hops_needs_no_list_of_proxies() {
        let cases: [(usize, &[u8], &str); 7] = [
            (1, b"1.1.1.1, 203.0.113.9", "203.0.113.9"),
            (2, b"203.0.113.9, 198.51.100.1", "203.0.113.9"),
            (2, b"1.1.1.1, 203.0.113.9, 10.0.0.5", "203.0.113.9"),
            (3, b"203.0.113.9, 198.51.100.1", "203.0.113.9"),
            (2, b"unknown, 198.51.100.1", "unreadable"),
            (1, b"\xff, 203.0.113.9", "203.0.113.9"),
            (1, b"", "missing"),
        ];
        for (position, line, expected) in cases {
            let lines: Lines<'_> = &[("x-forwarded-for", line), ("x-real-ip", b"9.9.9.9")];
            assert_eq!(found(&ClientIp::Hops(position), lines), expected);
        }
    }

    proptest! {
        /// Whatever a client writes: the trusted proxy on its right has written its true address.
        #[test]
        fn a_client_cannot_change_its_address(
            garbage in prop::collection::vec(prop::sample::select(b"1.:,[]\"\\%;=_ forun\xff".to_vec()), 0..20),
            more_proxies in prop::sample::select(vec!["", ", 10.0.0.5", ", 10.0.0.5:80, [2001:db8:ffff::1]"]),
            own_line in any::<bool>(),
        ) {
            let proxies = format!("203.0.113.9{more_proxies}");
            let standard = format!("for=203.0.113.9{}", if more_proxies.is_empty() { "" } else { ", for=10.0.0.5" });
            for (name, written) in [("x-forwarded-for", proxies), ("forwarded", standard)] {
                let one_line = [&garbage[..], b", ", written.as_bytes()].concat();
                let lines: Lines<'_> =
                    if own_line { &[(name, &garbage), (name, written.as_bytes())] } else { &[(name, &one_line)] };
                prop_assert_eq!(found(&ClientIp::LastUntrusted, lines), "203.0.113.9");
            }
        }
    }
}
