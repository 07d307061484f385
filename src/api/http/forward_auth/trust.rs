//! Whose headers a node believes, and which of them.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderName;
use ipnet::IpNet;

/// The attributes that the node reads itself.
pub const BUILT_IN: [&str; 7] = ["method", "host", "path", "raw_path", "ip", "api_key", "user_agent"];

/// The prefix of headers in which a trusted proxy names attributes itself.
pub const ATTRIBUTE_PREFIX: &str = "x-tidegate-attr-";

/// The settings of forward-auth. By default no header of a proxy is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The proxies whose headers are believed. IPv4 networks are not in the form of IPv6.
    pub proxies: Vec<IpNet>,
    /// The attributes that these proxies may name themselves.
    pub attributes: Vec<AttributeHeader>,
    pub client_ip: ClientIp,
}

impl Trust {
    /// Believes every process of this machine.
    pub fn of_loopback() -> Self {
        let loopback = [(IpAddr::from([127, 0, 0, 0]), 8), (IpAddr::from(Ipv6Addr::LOCALHOST), 128)];
        let proxies = loopback.iter().filter_map(|(address, length)| IpNet::new(*address, *length).ok()).collect();
        Self { proxies, ..Self::default() }
    }

    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }
}

/// Where the address of the client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientIp {
    /// In `X-Forwarded-For`, `Forwarded` or `X-Real-IP`: the last address that is not a trusted proxy.
    #[default]
    LastUntrusted,
    /// In this header only.
    Header(HeaderName),
    /// In `X-Forwarded-For`, at this position from the right. The last address has position 1.
    Hops(usize),
}

/// An attribute that a trusted proxy may name, and its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeHeader {
    pub name: String,
    pub header: HeaderName,
}

impl AttributeHeader {
    /// # Errors
    /// What was expected of the name.
    pub fn new(name: &str) -> Result<Self, String> {
        if BUILT_IN.contains(&name) {
            return Err(format!("expected no built-in attribute: the node reads {name} from the request itself"));
        }
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        let header = HeaderName::try_from(format!("{ATTRIBUTE_PREFIX}{name}")).ok();
        match header {
            Some(header) if (1..=64).contains(&name.len()) && name.bytes().all(fits) => {
                Ok(Self { name: name.to_owned(), header })
            }
            _ => Err("expected the name of an attribute without X-Tidegate-Attr-, such as tier: 1 to 64 lower-case \
                      letters, digits, dots, dashes or underscores"
                .to_owned()),
        }
    }
}
