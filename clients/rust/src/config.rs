//! Which nodes a client asks, and what it does when they do not answer.

use std::time::Duration;

use http::{HeaderValue, Uri};

use crate::nodes::Urls;

/// The longest deadline. A clock cannot add every duration.
const MAX_DEADLINE: Duration = Duration::from_secs(3600);

/// The answer to a check that no node answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailMode {
    /// The request is allowed. [`Decision::source`](crate::Decision::source) says so.
    #[default]
    Allow,
    /// The request is denied, with the status 503.
    Deny,
}

/// Which nodes a client asks, and what it does when they do not answer.
#[derive(Clone, Debug)]
pub struct Config {
    /// The base URLs of the nodes, such as `http://10.0.0.1:8080`, in the order of preference. At least one.
    pub nodes: Vec<String>,
    /// Bounds a check with both of its tries. At most an hour, 250 ms by default.
    pub deadline: Duration,
    pub fail_mode: FailMode,
    /// Sent as `Authorization: Bearer`, if the nodes have `auth.tokens_file`.
    pub token: Option<String>,
    /// How many denials are remembered until they end. 10,000 by default; 0 turns this off.
    pub denial_cache_size: usize,
    /// The longest time for which a denial is remembered, so that a raised limit is noticed. One minute by default.
    pub denial_cache_longest: Duration,
    /// How many calls are in flight at most. Others wait for one of these to end, and their wait counts against the
    /// deadline. At most 100 times as many wait; the fail mode decides about every other check at once. 64 by default.
    pub max_in_flight: usize,
}

/// Why a client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {expected}")]
pub struct ConfigError {
    /// The field of [`Config`] that is wrong.
    pub field: String,
    pub expected: String,
}

impl Config {
    /// Returns a configuration with these nodes. Everything else has its default.
    pub fn new<N: Into<String>>(nodes: impl IntoIterator<Item = N>) -> Self {
        Self {
            nodes: nodes.into_iter().map(Into::into).collect(),
            deadline: Duration::from_millis(250),
            fail_mode: FailMode::default(),
            token: None,
            denial_cache_size: 10_000,
            denial_cache_longest: Duration::from_secs(60),
            max_in_flight: 64,
        }
    }

    /// The time that a node needs to answer. A call that waited is not sent if it has less, and a node that fails in
    /// less is not paused.
    pub(crate) fn least_time(&self) -> Duration {
        self.deadline / 4
    }

    /// Returns the URLs of each node, and the value of `Authorization`.
    pub(crate) fn read(&self) -> Result<(Vec<Urls>, Option<HeaderValue>), ConfigError> {
        let wrong =
            |field: &str, expected: &str| ConfigError { field: field.to_owned(), expected: expected.to_owned() };
        if self.nodes.is_empty() {
            return Err(wrong("nodes", "expected at least one base URL"));
        }
        let urls = self.nodes.iter().enumerate().map(|(at, base)| {
            let url = |path| {
                let url: Option<Uri> = format!("{}{path}", base.trim_end_matches('/')).parse().ok();
                // The library drops what follows a `#`.
                url.filter(|url| is_base_url(url) && !base.contains('#'))
                    .ok_or_else(|| wrong(&format!("nodes[{at}]"), "expected a base URL such as http://10.0.0.1:8080"))
            };
            Ok(Urls { one: url("/v1/check")?, many: url("/v1/checks")? })
        });
        let urls: Vec<Urls> = urls.collect::<Result<_, _>>()?;
        if self.deadline.is_zero() || self.deadline > MAX_DEADLINE {
            return Err(wrong("deadline", "expected more than 0 and at most an hour"));
        }
        if self.max_in_flight == 0 {
            return Err(wrong("max_in_flight", "expected more than 0"));
        }
        let bearer = |token: &String| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
            value.set_sensitive(true);
            Some(value).filter(|_| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        };
        let token = self.token.as_ref().map(|token| {
            bearer(token).ok_or_else(|| wrong("token", "expected visible ASCII characters without spaces"))
        });
        Ok((urls, token.transpose()?))
    }
}

/// True for the URL of a node, without a user and a query.
fn is_base_url(url: &Uri) -> bool {
    let has_host = url.authority().is_some_and(|authority| {
        // A port that is no number is none for the library, which would ask at the usual one.
        let has_good_port = authority.as_str() == authority.host() || authority.port_u16().is_some();
        !authority.host().is_empty() && has_good_port && !authority.as_str().contains('@')
    });
    has_host && matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_field() {
        let field = |change: &dyn Fn(&mut Config)| {
            let mut config = Config::new(["http://a:1"]);
            change(&mut config);
            config.read().map_err(|error| error.field).err()
        };
        assert_eq!(field(&|_| ()), None);
        assert_eq!(field(&|config| config.nodes.clear()).as_deref(), Some("nodes"));
        for node in [
            "a:1",
            "ftp://a",
            "http://a/?x=1",
            "http://user:password@a",
            "",
            "http://:80",
            "http://a:99999",
            "http://a#",
            "http://a/x#",
        ] {
            assert_eq!(field(&|config| config.nodes.push(node.to_owned())).as_deref(), Some("nodes[1]"), "{node}");
        }
        assert_eq!(field(&|config| config.deadline = Duration::ZERO).as_deref(), Some("deadline"));
        assert_eq!(field(&|config| config.deadline = Duration::MAX).as_deref(), Some("deadline"));
        assert_eq!(field(&|config| config.max_in_flight = 0).as_deref(), Some("max_in_flight"));
        assert_eq!(field(&|config| config.token = Some("a b".to_owned())).as_deref(), Some("token"));
    }
}
