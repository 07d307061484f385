//! Where a region's counters are: parses `store.url`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// The port of a Redis server whose URL names none.
const REDIS_PORT: u16 = 6379;
/// The port of a Sentinel whose URL names none.
const SENTINEL_PORT: u16 = 26379;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A host name or an IP address.
    pub host: String,
    pub port: u16,
    /// The IP address that `host` was resolved to; `None` if it was not resolved.
    pub ip: Option<IpAddr>,
}

impl Address {
    /// Returns an address whose host is not resolved yet.
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

/// The place of a counter store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// The memory of this process.
    Memory,
    Redis(RedisLocation),
}

/// How to reach Redis, or a server that speaks its protocol.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisLocation {
    pub deployment: Deployment,
    pub tls: bool,
    /// The servers or Sentinels to contact first. At least one.
    pub seeds: Vec<Address>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// The user at the Sentinels, which have users of their own.
    pub sentinel_username: Option<String>,
    /// The password at the Sentinels.
    pub sentinel_password: Option<String>,
    /// The number of the database; always 0 in a cluster.
    pub database: u8,
}

impl fmt::Debug for RedisLocation {
    /// Omits the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deployment, tls, seeds, username, .. } = self;
        write!(f, "RedisLocation {{ {deployment:?}, tls: {tls}, seeds: {seeds:?}, username: {username:?} }}")
    }
}

/// How Redis is deployed, which decides how its primaries are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// One server, which is the primary.
    Single,
    /// Sentinels name the primary of this service.
    Sentinel { service: String },
    /// Every server of the cluster names all primaries.
    Cluster,
}

/// Why a URL is invalid. The URL may hold a secret, so no error repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error(
        "expected memory:, redis://, redis-sentinel:// or redis-cluster://, or rediss…:// for TLS, with a host and a port"
    )]
    Form,
    #[error(
        "expected no /, ? or # in a password, because it ends the host: write the password into a file and name it in store.password_file, or percent-encode it"
    )]
    RawPassword,
    #[error("expected further hosts as ?node=host:port")]
    Node,
    #[error("expected ?sentinelServiceName=, the name of the primary at the Sentinels")]
    Service,
    #[error("expected a database from 0 to 255 as the path; in a cluster 0 or no path")]
    Database,
    #[error(
        "expected only the parameter node, and with Sentinels sentinelServiceName, sentinelUsername, sentinelPassword"
    )]
    Parameter,
}

impl FromStr for StoreLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        // Without this, a part of the password could be taken for the host, and the URL for a valid one.
        if has_raw_password(text) {
            return Err(LocationError::RawPassword);
        }
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        let url = Url::parse(text).map_err(|_| LocationError::Form)?;
        let scheme = url.scheme();
        let (tls, suffix) = match scheme.strip_prefix("rediss").or_else(|| scheme.strip_prefix("valkeys")) {
            Some(suffix) => (true, suffix),
            None => (
                false,
                scheme.strip_prefix("redis").or_else(|| scheme.strip_prefix("valkey")).ok_or(LocationError::Form)?,
            ),
        };
        let (sentinel, cluster) = (suffix == "-sentinel", suffix == "-cluster");
        if !sentinel && !cluster && !suffix.is_empty() {
            return Err(LocationError::Form);
        }
        let default_port = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let mut seeds = vec![address(&url, default_port).ok_or(LocationError::Form)?];
        let (mut service, mut sentinel_username, mut sentinel_password) = (None, None, None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "node" if sentinel || cluster => {
                    let node = Url::parse(&format!("redis://{value}")).map_err(|_| LocationError::Node)?;
                    seeds.push(address(&node, default_port).ok_or(LocationError::Node)?);
                }
                "sentinelServiceName" if sentinel => service = Some(value.into_owned()),
                "sentinelUsername" if sentinel => sentinel_username = Some(value.into_owned()),
                "sentinelPassword" if sentinel => sentinel_password = Some(value.into_owned()),
                _ => return Err(LocationError::Parameter),
            }
        }
        let deployment = match service.filter(|name| !name.is_empty()) {
            Some(service) => Deployment::Sentinel { service },
            None if sentinel => return Err(LocationError::Service),
            None if cluster => Deployment::Cluster,
            None => Deployment::Single,
        };
        let database = match url.path().trim_matches('/') {
            "" => 0,
            path => path.parse().map_err(|_| LocationError::Database)?,
        };
        if cluster && database != 0 {
            return Err(LocationError::Database);
        }
        let (username, password) = (decode(url.username()), url.password().and_then(decode));
        Ok(Self::Redis(RedisLocation {
            deployment,
            tls,
            seeds,
            username,
            password,
            sentinel_username,
            sentinel_password,
            database,
        }))
    }
}

/// True if a password has a character that ends the host. The `@` that ends the password is then in the path, the query
/// or the fragment.
fn has_raw_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let after_host = rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]);
    let (path, query) = after_host.split_once('?').unwrap_or((after_host, ""));
    // The values of parameters may have one.
    let mut names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    path.contains('@') || names.any(|name| name.contains('@'))
}

/// Returns the address that a URL names; `None` if it has no host.
fn address(url: &Url, default_port: u16) -> Option<Address> {
    let host = match url.host()? {
        Host::Domain("") => return None,
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Some(Address::new(host, url.port().unwrap_or(default_port)))
}

/// Removes the percent encoding from a part of a URL; returns `None` if the part is empty.
fn decode(part: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> RedisLocation {
        match text.parse() {
            Ok(StoreLocation::Redis(redis)) => redis,
            other => panic!("{other:?}"),
        }
    }

    fn seeds(redis: &RedisLocation) -> Vec<String> {
        redis.seeds.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_deployment_is_parsed() {
        assert_eq!("memory:".parse(), Ok(StoreLocation::Memory));
        let single = redis("rediss://app:p%40ss@redis.internal/3");
        assert!(single.tls && single.deployment == Deployment::Single && single.database == 3);
        assert_eq!((single.username.as_deref(), single.password.as_deref()), (Some("app"), Some("p@ss")));
        assert_eq!(seeds(&single), ["redis.internal:6379"]);
        let cluster = redis("redis-cluster://127.0.0.1:7001?node=127.0.0.1:7002&node=[::1]:7003");
        assert!(cluster.deployment == Deployment::Cluster && !cluster.tls);
        assert_eq!(seeds(&cluster), ["127.0.0.1:7001", "127.0.0.1:7002", "[::1]:7003"]);
        let sentinel = redis("redis-sentinel://a?node=b:5&sentinelServiceName=main");
        assert_eq!(sentinel.deployment, Deployment::Sentinel { service: "main".to_owned() });
        assert_eq!(seeds(&sentinel), ["a:26379", "b:5"]);
    }

    #[test]
    fn an_invalid_url_has_an_error_and_debug_output_omits_the_password() {
        let error = |text: &str| text.parse::<StoreLocation>().unwrap_err();
        for text in ["", "redis", "http://x", "redis://", "redis-ring://x", "redis-cluster://:7001", "memory:x"] {
            assert_eq!(error(text), LocationError::Form, "{text}");
        }
        assert_eq!(error("redis-cluster://a?node=b:x"), LocationError::Node);
        assert_eq!(error("redis-cluster://a/1"), LocationError::Database);
        assert_eq!(error("redis://a/x"), LocationError::Database);
        assert_eq!(error("redis-sentinel://a"), LocationError::Service);
        assert_eq!(error("redis://a?node=b:1"), LocationError::Parameter);
        for secret in ["pa/ss", "pa?ss", "pa#ss", "p@ss/1", "12/34", "12?3", "12#34", "/", "a=b?c"] {
            for scheme in ["redis", "rediss-cluster", "redis-sentinel"] {
                let text = format!("{scheme}://user:{secret}@host:6379");
                assert_eq!(error(&text), LocationError::RawPassword, "{text}");
            }
        }
        assert_eq!(redis("redis://u:p@ss:w@host/3").password.as_deref(), Some("p@ss:w"));
        let sentinel = redis("redis-sentinel://a?sentinelServiceName=main&sentinelPassword=a@b/c");
        assert_eq!(sentinel.sentinel_password.as_deref(), Some("a@b/c"));
        assert!(!format!("{:?}", redis("redis://u:secret@h")).contains("secret"));
    }
}
