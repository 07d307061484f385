//! The address of a client, in the forms in which proxies write it.

use std::net::{IpAddr, Ipv6Addr};

/// Reads `203.0.113.9`, `203.0.113.9:1234`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:443` or `fe80::1%eth0`, also
/// in quotes. The port and the zone are dropped. An IPv4 address that is written as an IPv6 address is an IPv4 address.
pub fn read(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim_ascii();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let address = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
                return None;
            }
            address
        }
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => {
                return Some(address).filter(|_| is_port(port))?.parse().ok();
            }
            _ => text,
        },
    };
    match address.split_once('%') {
        Some((address, zone)) if !zone.is_empty() => address.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => address.parse().ok(),
    }
    .map(|address: IpAddr| address.to_canonical())
}

/// A number, or a name that a proxy gave a port (RFC 7239, section 6.3).
fn is_port(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match text.strip_prefix('_') {
        Some(name) => {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&text.len()) && digits(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_that_proxies_write() {
        let cases: [(&str, &[&str]); 4] = [
            (
                "203.0.113.9",
                &["203.0.113.9", " 203.0.113.9\t", "203.0.113.9:1234", "\"203.0.113.9:1\"", "[203.0.113.9]:1"],
            ),
            ("203.0.113.9", &["::ffff:203.0.113.9", "[::ffff:203.0.113.9]:80", "::FFFF:cb00:7109", "203.0.113.9:_p"]),
            (
                "2001:db8::7",
                &["2001:db8::7", "2001:DB8:0::7", "[2001:db8::7]", "[2001:db8::7]:443", "\"[2001:db8::7]:_x\""],
            ),
            ("fe80::1", &["fe80::1%eth0", "[fe80::1%25eth0]:80", "fe80::1%1"]),
        ];
        for (address, texts) in cases {
            for text in texts {
                assert_eq!(read(text.as_bytes()), address.parse().ok(), "{text}");
            }
        }
    }

    #[test]
    fn other_texts_are_no_addresses() {
        let texts = [
            "",
            "unknown",
            "_hidden",
            "-",
            "203.0.113",
            "203.0.113.9.",
            "203.0.113.256",
            "010.0.0.1",
            "203.0.113.9:",
            "203.0.113.9:x",
            "203.0.113.9:123456",
            "203.0.113.9%eth0",
            "203.0.113.9 10.0.0.1",
            "[2001:db8::7",
            "2001:db8::7]",
            "[2001:db8::7]443",
            "[2001:db8::7]:",
            "fe80::1%",
            "\"203.0.113.9",
            "::ffff:203.0.113.9:80",
            "host.example:80",
        ];
        for text in texts {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read(b"\xff203.0.113.9"), None);
    }
}
