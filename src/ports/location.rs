//! Where a region's counters are: what `store.url` says.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// The port where none is named.
const REDIS_PORT: u16 = 6379;
/// The same for Sentinels.
const SENTINEL_PORT: u16 = 26379;

/// A host, or its address, and a port; and where the host was found, if it was looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub ip: Option<IpAddr>,
}

impl Address {
    /// A server that is not looked up yet.
    pub const fn new(host: String, port: u16) -> Self {
        Self { host, port, ip: None }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A counter store's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this process.
    Memory,
    Redis(Redis),
}

/// Redis, or what speaks its protocol.
#[derive(Clone, PartialEq, Eq)]
pub struct Redis {
    pub kind: Kind,
    pub tls: bool,
    /// Where to begin: servers, or Sentinels. At least one.
    pub seeds: Vec<Address>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Of the Sentinels themselves.
    pub sentinel_username: Option<String>,
    pub sentinel_password: Option<String>,
    /// Always 0 in a cluster.
    pub database: u8,
}

impl fmt::Debug for Redis {
    /// Secrets are never printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, tls, seeds, username, .. } = self;
        write!(f, "Redis {{ {kind:?}, tls: {tls}, seeds: {seeds:?}, username: {username:?} }}")
    }
}

/// How primaries are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one server.
    Single,
    /// Sentinels name the primary of this service.
    Sentinel { service: String },
    /// Every server of a cluster names them.
    Cluster,
}

/// What is wrong with a URL. The URL itself may hold a secret, and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error(
        "expected memory:, redis://, redis-sentinel:// or redis-cluster://, or rediss…:// for TLS, with a host and a port"
    )]
    Form,
    #[error("expected further hosts as ?node=host:port")]
    Node,
    #[error("expected ?sentinelServiceName=, the name that the Sentinels know the primary by")]
    Service,
    #[error("expected a database from 0 to 255 as the path, and 0 or none in a cluster")]
    Database,
    #[error(
        "expected of parameters only node, and sentinelServiceName, sentinelUsername, sentinelPassword with Sentinels"
    )]
    Parameter,
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        let url = Url::parse(text).map_err(|_| LocationError::Form)?;
        let scheme = url.scheme();
        let (tls, rest) = match scheme.strip_prefix("rediss").or_else(|| scheme.strip_prefix("valkeys")) {
            Some(rest) => (true, rest),
            None => (
                false,
                scheme.strip_prefix("redis").or_else(|| scheme.strip_prefix("valkey")).ok_or(LocationError::Form)?,
            ),
        };
        let (sentinel, cluster) = (rest == "-sentinel", rest == "-cluster");
        if !sentinel && !cluster && !rest.is_empty() {
            return Err(LocationError::Form);
        }
        let default = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let mut seeds = vec![seed(&url, default).ok_or(LocationError::Form)?];
        let (mut service, mut sentinel_username, mut sentinel_password) = (None, None, None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "node" if sentinel || cluster => {
                    let node = Url::parse(&format!("redis://{value}")).map_err(|_| LocationError::Node)?;
                    seeds.push(seed(&node, default).ok_or(LocationError::Node)?);
                }
                "sentinelServiceName" if sentinel => service = Some(value.into_owned()),
                "sentinelUsername" if sentinel => sentinel_username = Some(value.into_owned()),
                "sentinelPassword" if sentinel => sentinel_password = Some(value.into_owned()),
                _ => return Err(LocationError::Parameter),
            }
        }
        let kind = match service.filter(|name| !name.is_empty()) {
            Some(service) => Kind::Sentinel { service },
            None if sentinel => return Err(LocationError::Service),
            None if cluster => Kind::Cluster,
            None => Kind::Single,
        };
        let database = match url.path().trim_matches('/') {
            "" => 0,
            path => path.parse().map_err(|_| LocationError::Database)?,
        };
        if cluster && database != 0 {
            return Err(LocationError::Database);
        }
        let (username, password) = (decoded(url.username()), url.password().and_then(decoded));
        Ok(Self::Redis(Redis { kind, tls, seeds, username, password, sentinel_username, sentinel_password, database }))
    }
}

fn seed(url: &Url, default: u16) -> Option<Address> {
    let host = match url.host()? {
        Host::Domain("") => return None,
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Some(Address::new(host, url.port().unwrap_or(default)))
}

/// A part of a URL without its percent encoding; `None` when it is empty.
fn decoded(part: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> Redis {
        match text.parse() {
            Ok(Location::Redis(redis)) => redis,
            other => panic!("{other:?}"),
        }
    }

    fn seeds(redis: &Redis) -> Vec<String> {
        redis.seeds.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_is_read() {
        assert_eq!("memory:".parse(), Ok(Location::Memory));
        let single = redis("rediss://app:p%40ss@redis.internal/3");
        assert!(single.tls && single.kind == Kind::Single && single.database == 3);
        assert_eq!((single.username.as_deref(), single.password.as_deref()), (Some("app"), Some("p@ss")));
        assert_eq!(seeds(&single), ["redis.internal:6379"]);
        let cluster = redis("redis-cluster://127.0.0.1:7001?node=127.0.0.1:7002&node=[::1]:7003");
        assert!(cluster.kind == Kind::Cluster && !cluster.tls);
        assert_eq!(seeds(&cluster), ["127.0.0.1:7001", "127.0.0.1:7002", "[::1]:7003"]);
        let sentinel = redis("redis-sentinel://a?node=b:5&sentinelServiceName=main");
        assert_eq!(sentinel.kind, Kind::Sentinel { service: "main".to_owned() });
        assert_eq!(seeds(&sentinel), ["a:26379", "b:5"]);
    }

    #[test]
    fn what_is_wrong_is_said_and_no_secret_is_printed() {
        let error = |text: &str| text.parse::<Location>().unwrap_err();
        for text in ["", "redis", "http://x", "redis://", "redis-ring://x", "redis-cluster://:7001", "memory:x"] {
            assert_eq!(error(text), LocationError::Form, "{text}");
        }
        assert_eq!(error("redis-cluster://a?node=b:x"), LocationError::Node);
        assert_eq!(error("redis-cluster://a/1"), LocationError::Database);
        assert_eq!(error("redis://a/x"), LocationError::Database);
        assert_eq!(error("redis-sentinel://a"), LocationError::Service);
        assert_eq!(error("redis://a?node=b:1"), LocationError::Parameter);
        assert!(!format!("{:?}", redis("redis://u:secret@h")).contains("secret"));
    }
}
