//! The forms that a real nginx gives paths and hosts, and the clients that it finds: those of Tidegate must equal them.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tidegate::api::http::forward_auth::client_ip::{Client as Found, client};
use tidegate::api::http::forward_auth::trust::Trust;
use tidegate::api::http::forward_auth::{host, path};
use tonic::codegen::http::{HeaderMap, HeaderValue};

use crate::client::Client;
use crate::gateway::Gateway;

/// An nginx as a gateway before another nginx as an application, which answers with its `$uri` or its `$host`.
fn before_echo(variable: &str) -> Gateway {
    Gateway::nginx(|gateway, application| {
        format!(
            "server {{ listen 127.0.0.1:{gateway}; location / {{\n\
             proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $http_host;\n\
             proxy_pass http://127.0.0.1:{application}; }} }}\n\
             server {{ listen 127.0.0.1:{application}; location / {{ return 200 {variable}; }} }}"
        )
    })
}

/// The part of a target that is its path.
fn path_of(target: &[u8]) -> &[u8] {
    &target[..target.iter().position(|byte| b"?#".contains(byte)).unwrap_or(target.len())]
}

/// Replaces every `from` in `text`.
fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(from) {
            Some(after) => {
                out.extend(to);
                rest = after;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Every list of at most `most` parts.
fn lists<'p>(parts: &[&'p [u8]], most: usize) -> Vec<Vec<&'p [u8]>> {
    let mut all = vec![Vec::new()];
    let mut begin = 0;
    for _ in 0..most {
        let end = all.len();
        for at in begin..end {
            all.extend(parts.iter().map(|part| [&all[at][..], &[*part]].concat()).collect::<Vec<_>>());
        }
        begin = end;
    }
    all
}

/// The parts of paths that have a meaning, in several spellings, and a few without.
const PARTS: [&[u8]; 25] = [
    b"/",
    b".",
    b"..",
    b"%2e",
    b"%2E",
    b"a",
    b"%61",
    b"%41",
    b"B",
    b"%25",
    b"%252e",
    b"%",
    b"%zz",
    b"\xc3\xa9",
    b"%c3%A9",
    b"%FF",
    b"\xff",
    b"%20",
    b"+",
    b";x",
    b":",
    b"%3a",
    b"%3F",
    b"%23",
    b"?/../",
];

#[test]
fn every_path_has_the_form_that_nginx_gives_it() {
    let nginx = before_echo("$uri");
    let mut client = Client::new(&nginx);
    let (mut compared, mut rejected) = (0, 0);
    let mut compare = |parts: Vec<&[u8]>| {
        let target = [b"/", &parts.concat()[..]].concat();
        let answer = client.get(&target, b"x");
        if answer.status == 400 {
            rejected += 1;
            return;
        }
        // A percent sign that is data stays encoded.
        let own = replaced(&path::normalized(path_of(&target)), b"%25", b"%");
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        assert_eq!(shown(&own), shown(&answer.body), "{}", shown(&target));
        compared += 1;
    };
    lists(&PARTS, 3).into_iter().for_each(&mut compare);
    let longer = prop::collection::vec(prop::sample::select(PARTS.to_vec()), 4..12);
    let mut runner = TestRunner::deterministic();
    (0..5000).for_each(|_| compare(longer.new_tree(&mut runner).unwrap().current()));
    assert!(compared > 10_000 && rejected > 100, "{compared} compared, {rejected} rejected by nginx");
}

#[test]
fn the_deliberate_differences_to_nginx_are_these() {
    let nginx = before_echo("$uri");
    let mut client = Client::new(&nginx);
    // A target, Tidegate's path, and nginx's status and `$uri`.
    type Case<'c> = (&'c [u8], &'c [u8], (u16, &'c [u8]));
    let cases: [Case<'_>; 6] = [
        (b"/a%2fb", b"/a%2Fb", (200, b"/a/b")),
        (b"/a%2F..%2Fb", b"/a%2F..%2Fb", (200, b"/b")),
        (b"/100%25", b"/100%25", (200, b"/100%")),
        (b"/../a", b"/a", (400, b"")),
        (b"/a%zz", b"/a%25zz", (400, b"")),
        (b"/a%00", b"/a\0", (400, b"")),
    ];
    for (target, own, (status, uri)) in cases {
        let shown = target.escape_ascii().to_string();
        assert_eq!(path::normalized(target), own, "{shown}");
        let answer = client.get(target, b"x");
        assert_eq!(answer.status, status, "{shown}");
        assert!(status != 200 || answer.body == uri, "{shown}: {answer:?}");
    }
    // An encoded slash stays, and changes nothing else.
    let parts: [&[u8]; 7] = [b"/", b"%2f", b"%2F", b"..", b".", b"a", b"%61"];
    for parts in lists(&parts, 4) {
        let target = [b"/", &parts.concat()[..]].concat();
        let as_data = replaced(&replaced(&target, b"%2f", b"%2F"), b"%2F", b"%252F");
        let answer = client.get(&as_data, b"x");
        if answer.status == 200 {
            assert_eq!(path::normalized(&target), answer.body, "{}", target.escape_ascii());
        }
    }
}

#[test]
fn every_host_has_the_form_that_nginx_gives_it() {
    let nginx = before_echo("$host");
    let mut client = Client::new(&nginx);
    let parts: [&[u8]; 10] = [b"a", b"B", b".", b":", b"80", b"-_", b"\xc3\x89", b"%41", b"[::1]", b"[2001:DB8::A]"];
    let mut compared = 0;
    for parts in lists(&parts, 4) {
        let name = parts.concat();
        let own = host::normalized(&name);
        let answer = client.get(b"/", &name);
        // Without a name, nginx shows the name of its server.
        if answer.status == 400 || own.is_empty() {
            continue;
        }
        // nginx keeps a final dot where the port has one.
        let seen = answer.body.strip_suffix(b".").unwrap_or(&answer.body);
        assert_eq!(own.escape_ascii().to_string(), seen.escape_ascii().to_string(), "{}", name.escape_ascii());
        compared += 1;
    }
    assert!(compared > 1000, "{compared}");
}

/// nginx finds the client in the same way if `real_ip_recursive` is on. (It stops at an empty entry. Tidegate reads on,
/// as the standard says.)
#[test]
fn the_client_of_every_list_is_the_one_that_nginx_finds() {
    let proxies = ["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"];
    let trusted: String = proxies.iter().map(|network| format!("set_real_ip_from {network}; ")).collect();
    let nginx = Gateway::nginx(|gateway, _| {
        format!(
            "server {{ listen 127.0.0.1:{gateway}; {trusted} real_ip_header X-Forwarded-For; real_ip_recursive on;\n\
             location / {{ return 200 $remote_addr; }} }}"
        )
    });
    let mut gateway = Client::new(&nginx);
    let trust = Trust { proxies: proxies.map(|network| network.parse().unwrap()).into(), ..Trust::default() };
    let entries: [&[u8]; 9] = [
        b"10.0.0.5",
        b"10.0.0.6:80",
        b"[2001:db8:ffff::1]:443",
        b"203.0.113.9",
        b" 203.0.113.9:1234 ",
        b"2001:DB8:0::7",
        b"[2001:db8::7]:443",
        b"unknown",
        b"\xff",
    ];
    let (mut compared, mut unreadable) = (0, 0);
    for entries in lists(&entries, 4).into_iter().filter(|entries| !entries.is_empty()) {
        // The last entry is a line of its own.
        let lines: Vec<Vec<u8>> = match entries.split_last() {
            Some((last, others)) if !others.is_empty() => vec![others.join(&b","[..]), last.to_vec()],
            _ => vec![entries.concat()],
        };
        let mut headers = HeaderMap::new();
        let mut head = b"GET / HTTP/1.1\r\nHost: x".to_vec();
        for line in &lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
            head.extend([b"\r\nX-Forwarded-For: ", &line[..]].concat());
        }
        let seen = String::from_utf8(gateway.send(&head).body).unwrap();
        let shown = head.escape_ascii().to_string();
        match client(&trust, &headers).unwrap() {
            Found::Address(address) => assert_eq!(address.to_string(), seen, "{shown}"),
            Found::Missing => panic!("{shown}"),
            // A deliberate difference: nginx takes the nearest proxy for the client.
            Found::Unreadable => {
                assert!(trust.is_proxy(seen.parse().unwrap()), "{shown}: {seen}");
                unreadable += 1;
            }
        }
        compared += 1;
    }
    assert!(compared > 5000 && unreadable > 1000, "{compared} compared, {unreadable} unreadable");
}
